"""The command that puts bundles behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prooftune.cli.app import app


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
    queue: Annotated[
        int, typer.Option(min=1, help="Rows that may wait for a model; more are refused with 429.")
    ] = 2048,
    batch: Annotated[int, typer.Option(min=1, help="Rows that are computed together.")] = 128,
    rows: Annotated[int, typer.Option(min=1, help="Rows of one request.")] = 256,
    text: Annotated[int, typer.Option(min=1, help="Characters of one text.")] = 100_000,
    body: Annotated[int, typer.Option(min=1, help="Bytes of one request.")] = 2_000_000,
    log_texts: Annotated[
        bool, typer.Option("--log-texts", help="Write the texts that are asked into the log, too.")
    ] = False,
) -> None:
    """Answer over HTTP: /v1/classify, /v1/answer, OpenAI's /v1/chat/completions, and a page to try
    it."""
    from prooftune.serving.app import Options
    from prooftune.serving.keys import read_keys
    from prooftune.serving.limits import Limits
    from prooftune.serving.server import serve as run

    limits = Limits(
        body_bytes=body,
        rows=rows,
        text_characters=text,
        seconds=timeout,
        queue_rows=queue,
        batch_rows=batch,
    )
    run(bundles, host, port, Options(limits=limits, keys=read_keys(keys), log_texts=log_texts))
