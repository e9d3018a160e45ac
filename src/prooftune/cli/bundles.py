"""Commands of a bundle: what is done with what was tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prooftune.cli.app import app


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder (RUN/bundle).")],
    file: Annotated[
        str,
        typer.Argument(
            metavar="IN.csv",
            help="A file with the input columns: CSV, TSV, JSONL or Parquet; or "
            "its URL (s3://, gs://).",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="Where to write the answers: .csv, .tsv, .jsonl or .parquet; or a URL "
            "(s3://, gs://).",
        ),
    ],
    engine: Annotated[
        str,
        typer.Option(
            help="local: this process. ray: workers of the Ray cluster that RAY_ADDRESS names, or "
            "of "
            "one started for it on this machine."
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of Ray: how many label at once. Default: one per GPU or, without "
            "GPUs, for every four cores.",
        ),
    ] = None,
) -> None:
    """Label the rows of a file, or answer its questions; what a bundle says is written beside the
    file's columns.

    Files may be of any size. The same command again continues after an interruption.
    """
    from prooftune.batch_predict import predict_file
    from prooftune.batch_predict.storage import shown

    done = predict_file(bundle, file, out, engine, workers)
    print(f"{done.rows:,} row{'s' if done.rows != 1 else ''} done: {shown(out)}")
    for sentence in done.sentences():
        print(f"  {sentence}")


@app.command()
def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder (RUN/bundle).")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="merged, int8, int4, vllm, gguf-f16, gguf-q8_0, gguf-q4_k_m or ollama."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the export.")],
    golden: Annotated[
        Path | None,
        typer.Option(
            help="Rows to check it by, in place of the bundle's own: a run folder, or a file "
            "like golden.jsonl."
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Smallest share of golden rows with the bundle's "
            "label; of free texts, of their tokens. Default: by format, 0.9 to "
            "0.98.",
        ),
    ] = None,
    max_difference: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest mean difference of log-probabilities, in nats. "
            "Default: by format, 0.05 to 0.5.",
        ),
    ] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Write it without running it; its card will say so.")
    ] = False,
) -> None:
    """Write a bundle for other programs, and run its golden set through what was written.

    What answers otherwise than the bundle is no export: nothing is left, and where the two part is
    said.
    """
    from prooftune.exporters.build import export as export_bundle
    from prooftune.exporters.card import summary

    record = export_bundle(
        bundle,
        to,
        out,
        rows_of=golden,
        agreement=min_agreement,
        difference=max_difference,
        unchecked=unchecked,
    )
    print("\n".join([*summary(record), f"Export: {out}, whose README.md has all figures"]))
