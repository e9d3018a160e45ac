"""Commands of a bundle: what is done with what was tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prooftune.cli.app import app


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder (RUN/bundle).")],
    file: Annotated[str, typer.Argument(metavar="IN.csv", help="A file with the input columns: CSV, TSV, JSONL or Parquet.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Where to write the answers: .csv, .tsv, .jsonl or .parquet.")],
    engine: Annotated[str, typer.Option(help="local: this machine, any file. ray: the machines of a Ray cluster, Parquet files in "
                                        "a folder or in object storage (s3://, gs://).")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="With --engine ray: processes, each of which holds the model.")] = 2,
) -> None:
    """Label the rows of a file, or answer its questions; what a bundle says is written beside the file's columns.

    Files may be of any size. The same command again continues after an interruption.
    """
    from prooftune.bundle.bulk import predict_file
    from prooftune.errors import UsageError, nearest

    if engine == "ray":
        from prooftune.bundle.bulk.on_ray import predict_on_ray

        print(f"{predict_on_ray(bundle, file, out, workers):,} rows done: {out}")
        return
    if engine != "local":
        raise UsageError(f"--engine: local or ray, found '{engine}'{nearest(engine, ['local', 'ray'])}")
    done = predict_file(bundle, Path(file), Path(out))
    print(f"{done.rows:,} row{'s' if done.rows != 1 else ''} done: {out}")
    for sentence in done.sentences():
        print(f"  {sentence}")
