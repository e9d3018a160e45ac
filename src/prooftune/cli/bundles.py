"""Commands of a bundle: what is done with what was tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prooftune.cli.app import app


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder (RUN/bundle).")],
    file: Annotated[Path, typer.Argument(metavar="IN.csv", help="A file with the input columns: CSV, TSV, JSONL or Parquet.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the answers: .csv, .tsv, .jsonl or .parquet.")],
) -> None:
    """Label the rows of a file, or answer its questions; what a bundle says is written beside the file's columns.

    Files may be of any size. The same command again continues after an interruption.
    """
    from prooftune.bundle.bulk import predict_file

    done = predict_file(bundle, file, out)
    print(f"{done.rows:,} row{'s' if done.rows != 1 else ''} done: {out}")
    for sentence in done.sentences():
        print(f"  {sentence}")
