"""The command that serves bundles over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from prooftune.cli.app import app


def _renamed(old: str, new: str) -> OptionInfo:
    """Return a hidden option that keeps a name of version 0.1 working."""
    option: OptionInfo = typer.Option(old, min=1, hidden=True, help=f"Old name of {new}.")
    return option


@app.command()
def serve(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE...",
            help="Bundle folders (RUN/bundle), or NAME=FOLDER. Bundles of the same base model "
            "share its weights in memory.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all network interfaces.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free port.")
    ] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="File of API keys, one per line. Default: the environment variable "
            "PROOFTUNE_API_KEYS (separated by commas); without either, no key is required."
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Maximum duration of a request in seconds.")
    ] = 60.0,
    max_queue_rows: Annotated[
        int,
        typer.Option(
            min=1,
            help="Maximum number of rows waiting for a model; beyond it, requests get status 429.",
        ),
    ] = 2048,
    max_batch_size: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of rows per batch."),
    ] = 128,
    max_request_rows: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of rows per request."),
    ] = 256,
    max_text_chars: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of characters per text."),
    ] = 100_000,
    max_body_bytes: Annotated[
        int,
        typer.Option(min=1, help="Maximum request size in bytes."),
    ] = 2_000_000,
    log_texts: Annotated[
        bool,
        typer.Option("--log-texts", help="Include the input texts in the log. Off by default."),
    ] = False,
    queue: Annotated[int | None, _renamed("--queue", "--max-queue-rows")] = None,
    batch: Annotated[int | None, _renamed("--batch", "--max-batch-size")] = None,
    rows: Annotated[int | None, _renamed("--rows", "--max-request-rows")] = None,
    text: Annotated[int | None, _renamed("--text", "--max-text-chars")] = None,
    body: Annotated[int | None, _renamed("--body", "--max-body-bytes")] = None,
) -> None:
    """Serve bundles over HTTP, with dynamic batching and a web page to try them.

    Endpoints: /v1/classify, /v1/answer and the OpenAI-compatible /v1/chat/completions.

    Example: prooftune serve runs/reviews/bundle --port 8080
    """
    from prooftune.serving.app import Options
    from prooftune.serving.keys import read_keys
    from prooftune.serving.limits import Limits
    from prooftune.serving.server import serve as run

    limits = Limits(
        # The old name, where it is given: its minimum of 1 rules out a 0.
        max_body_bytes=body or max_body_bytes,
        max_request_rows=rows or max_request_rows,
        max_text_chars=text or max_text_chars,
        timeout_seconds=timeout,
        max_queue_rows=queue or max_queue_rows,
        max_batch_size=batch or max_batch_size,
    )
    run(bundles, host, port, Options(limits=limits, keys=read_keys(keys), log_texts=log_texts))
