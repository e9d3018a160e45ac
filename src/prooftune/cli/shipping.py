"""Commands that bring a model in or out: convert, publish; and chat, to try one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prooftune.cli.app import app


@app.command()
def publish(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle folder (RUN/bundle), or a model merged from one.")
    ],
    name: Annotated[str, typer.Argument(help="Name on the hub: OWNER/NAME, or NAME for your own.")],
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Upload. Without it, what would be uploaded is shown and nothing is sent."
        ),
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Let everyone see it. A new one is private otherwise.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Write a new version into one that exists.")
    ] = False,
) -> None:
    """Publish a bundle with its card on the Hugging Face Hub. Shows first what would be sent."""
    from prooftune.bundle.publish import plan, publish
    from prooftune.report.format import byte_size

    planned = plan(bundle, name)
    if yes:
        print(publish(planned, private=not public, update=update))
        return
    print(planned.card)
    for path, length in planned.files.items():
        print(f"{byte_size(length):>10}  {path}")
    print(
        f"\n{len(planned.files)} files, {byte_size(sum(planned.files.values()))}, would go to {name}, "
        f"{'for everyone to see' if public else 'private'}. Nothing was sent; --yes uploads them."
    )
    for remark in planned.remarks:
        print(remark)


@app.command()
def convert(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="META_DIR", help="Folder of consolidated.*.pth, params.json, tokenizer.model."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write.")],
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Whether it was tuned for conversations and gets Llama's "
            "chat template. Default: if the folder's name says instruct or chat.",
        ),
    ] = None,
) -> None:
    """Convert a Llama 2 or Llama 3 checkpoint of Meta's into a model folder that everything here,
    and transformers, loads."""
    from prooftune.convert.convert import convert, summary_lines

    for line in summary_lines(convert(folder, out, chat=chat), out):
        print(line)


@app.command()
def chat(bundle: Annotated[Path, typer.Argument(help="A bundle folder (RUN/bundle).")]) -> None:
    """Ask a bundle in the terminal: tuned or base, with retrieval or without. /help lists the
    commands."""
    from prooftune.bundle.chat import chat

    def read(prompt: str) -> str:
        return input(prompt if sys.stdin.isatty() else "")

    chat(bundle, read, lambda line: print(line, flush=True))
