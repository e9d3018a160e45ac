"""The command that puts bundles behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prooftune.cli.app import app


def _old_name(old: str, new: str) -> Any:
    """An option's name in version 0.1: still accepted, and not shown."""
    return typer.Option(old, min=1, hidden=True, help=f"Old name of {new}.")


@app.command()
def serve(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE...",
            help="Bundle folders (RUN/bundle), or NAME=FOLDER. Bundles "
            "of one base model share its memory.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 for everybody who can reach this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="A file of API keys, one a line. Default: PROOFTUNE_API_KEYS, separated by "
            "commas; without either, everybody may ask."
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a request may take.")
    ] = 60.0,
    max_queue_rows: Annotated[
        int,
        typer.Option(min=1, help="Rows queued per model; further requests get status 429."),
    ] = 2048,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 128,
    max_request_rows: Annotated[int, typer.Option(min=1, help="Rows per request.")] = 256,
    max_text_chars: Annotated[int, typer.Option(min=1, help="Characters per text.")] = 100_000,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Bytes per request body.")] = 2_000_000,
    log_texts: Annotated[
        bool, typer.Option("--log-texts", help="Write the texts that are asked into the log, too.")
    ] = False,
    queue: Annotated[int | None, _old_name("--queue", "--max-queue-rows")] = None,
    batch: Annotated[int | None, _old_name("--batch", "--max-batch-size")] = None,
    rows: Annotated[int | None, _old_name("--rows", "--max-request-rows")] = None,
    text: Annotated[int | None, _old_name("--text", "--max-text-chars")] = None,
    body: Annotated[int | None, _old_name("--body", "--max-body-bytes")] = None,
) -> None:
    """Answer over HTTP: /v1/classify, /v1/answer, OpenAI's /v1/chat/completions, and a page to try
    it."""
    from prooftune.serving.app import Options
    from prooftune.serving.keys import read_keys
    from prooftune.serving.limits import Limits
    from prooftune.serving.server import serve as run

    limits = Limits(
        max_body_bytes=body or max_body_bytes,
        max_request_rows=rows or max_request_rows,
        max_text_chars=text or max_text_chars,
        timeout_seconds=timeout,
        max_queue_rows=queue or max_queue_rows,
        max_batch_size=batch or max_batch_size,
    )
    run(bundles, host, port, Options(limits=limits, keys=read_keys(keys), log_texts=log_texts))
