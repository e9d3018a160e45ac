"""Commands that move models: publish and convert; and chat, to try a bundle in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prooftune.cli.app import app


@app.command()
def publish(
    bundle: Annotated[
        Path,
        typer.Argument(help="Bundle folder (RUN/bundle), or a merged model exported from one."),
    ],
    name: Annotated[
        str, typer.Argument(help="Hub repository: OWNER/NAME, or NAME for your own account.")
    ],
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            help="Upload the files. Without it, the command only lists what it would upload.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Upload nothing, even with --yes. The default."),
    ] = False,
    public: Annotated[
        bool,
        typer.Option(
            "--public", help="Make a new repository public. Default: new repositories are private."
        ),
    ] = False,
    update: Annotated[
        bool,
        typer.Option("--update", help="Allow adding a new version to an existing repository."),
    ] = False,
) -> None:
    """Publish a bundle and its model card on the Hugging Face Hub.

    Without --yes this is a dry run: it shows the card and the files, and uploads nothing.

    Example: prooftune publish runs/reviews/bundle me/reviews --yes
    """
    from prooftune.bundle.publish import plan_upload, publish
    from prooftune.report.format import byte_size

    # Both ways make the plan: what is shown is what would be sent.
    upload = plan_upload(bundle, name)
    if yes and not dry_run:
        print(publish(upload, private=not public, update=update))
        return
    print(upload.card)
    for path, length in upload.files.items():
        print(f"{byte_size(length):>10}  {path}")
    print(
        f"\nDry run: {len(upload.files)} files, {byte_size(sum(upload.files.values()))}, would be "
        f"uploaded to {name} ({'public' if public else 'private'}). Nothing was sent; add --yes to "
        "upload."
    )
    for note in upload.notes:
        print(note)


@app.command()
def convert(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="META_DIR",
            help="Folder with consolidated.*.pth, params.json and tokenizer.model.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Model folder to write.")],
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Whether the model is instruction-tuned and gets Llama's chat template. Default: "
            "yes if the folder name contains instruct or chat.",
        ),
    ] = None,
) -> None:
    """Convert Meta's original Llama 2 or Llama 3 checkpoint to a transformers model folder.

    Example: prooftune convert Llama-2-7b-chat/ llama-2-7b-chat-hf
    """
    from prooftune.convert.convert import convert, summary_lines

    for line in summary_lines(convert(folder, out, chat=chat), out):
        print(line)


@app.command()
def chat(bundle: Annotated[Path, typer.Argument(help="Bundle folder (RUN/bundle).")]) -> None:
    """Try a bundle interactively in the terminal.

    Switches between the tuned and the base model, with or without retrieval; /help lists the
    commands.

    Example: prooftune chat runs/policy-qa/bundle
    """
    from prooftune.bundle.chat import chat

    def read_line(prompt: str) -> str:
        # Without a prompt in piped sessions, whose output is read by a program.
        return input(prompt if sys.stdin.isatty() else "")

    chat(bundle, read_line, lambda line: print(line, flush=True))
