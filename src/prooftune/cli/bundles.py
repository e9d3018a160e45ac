"""Commands for bundles: predict, evaluate and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from prooftune.cli.app import app

Table = Literal["quantization", "batching"]


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder (RUN/bundle).")],
    file: Annotated[
        str,
        typer.Argument(
            metavar="IN.csv",
            help="File with the input columns (CSV, TSV, JSONL or Parquet; also spreadsheets, "
            "JSON, Arrow and SQLite), or its URL (s3://, gs://).",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="Output file (.csv, .tsv, .jsonl or .parquet), or its URL (s3://, gs://).",
        ),
    ],
    engine: Annotated[
        str,
        typer.Option(
            help="local: this process. ray: workers of the Ray cluster in RAY_ADDRESS, or of a "
            "cluster started on this machine. vllm: vLLM (pip install 'vllm>=0.33'), if it agrees "
            "with the bundle on its golden set; for labels by prompt and free-text answers."
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of Ray workers. Default: one per GPU, or without GPUs one per four CPU "
            "cores.",
        ),
    ] = None,
) -> None:
    """Predict labels or answers for every row of a file, of any size.

    Writes the columns of the file and the prediction columns. Run the same command again to resume
    after an interruption.

    Example: prooftune predict runs/reviews/bundle new.csv --out predictions.csv
    """
    from prooftune.batch_predict import predict_file
    from prooftune.batch_predict.storage import display_name

    summary = predict_file(bundle, file, out, engine, workers)
    print(f"{summary.rows:,} row{'s' if summary.rows != 1 else ''} written to {display_name(out)}")
    for sentence in summary.sentences():
        print(f"  {sentence}")


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder (RUN/bundle).")],
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="New labelled data, in any format that a study reads."),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="COLUMN",
            help="Input column; once for each of the bundle's fields, in their order. Default: as "
            "in the bundle's study.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            metavar="COLUMN",
            help="Column of the labels or answers. Default: as in the bundle's study.",
        ),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            metavar="COLUMN",
            help="Also give the results by the values of this column; several times for several "
            "columns.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=2, help="Evaluate a random sample of this many rows. Default: all rows."),
    ] = None,
    table: Annotated[
        Table | None,
        typer.Option(
            help="Instead of the evaluation, measure on these rows: quantization (full precision, "
            "8 and 4 bits: quality, memory, rows/s) or batching (one row at a time against "
            "batches)."
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Another bundle, for a paired comparison on the same rows."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the report: HTML, JSON and Markdown."),
    ] = None,
) -> None:
    """Evaluate a bundle on new labelled data, and compare with its study.

    Prints metrics with intervals, and whether the bundle does worse on these rows than on the test
    rows of its study.

    Example: prooftune evaluate runs/reviews/bundle march.csv --out march
    """
    # A measured table is another report, with options of its own.
    if table is not None:
        _measure_table(table, bundle, file, text, label, limit, out, [*(slices or ()), against])
        return
    from prooftune.bundle_evaluation.evaluate import evaluate_bundle
    from prooftune.bundle_evaluation.render import print_evaluation

    found = evaluate_bundle(
        bundle,
        file,
        text=text,
        label=label,
        slices=slices or (),
        limit=limit,
        against=against,
        out=out,
    )
    print_evaluation(found.facts)
    if out is not None:
        print(f"Report: {out / 'report.html'}")


def _measure_table(
    table: Table,
    bundle: Path,
    file: str,
    text: list[str] | None,
    label: str | None,
    limit: int | None,
    out: Path | None,
    unused: list[object],
) -> None:
    """Measure, print and write one table."""
    from prooftune.bundle_evaluation.measured_table import TableRequest
    from prooftune.errors import UsageError
    from prooftune.report.document import print_document

    if any(unused):
        raise UsageError(
            f"--table {table}: --slice and --against do not apply to it; leave them out"
        )
    request = TableRequest(bundle, file, text, label, limit)
    if table == "batching":
        from prooftune.bundle_evaluation.batching_table import batching_table

        measured = batching_table(request)
    else:
        from prooftune.bundle_evaluation.quantization_table import quantization_table

        measured = quantization_table(request)
    print_document(measured.document)
    if out is not None:
        measured.write(out)
        print(f"Report: {out / measured.name}.html")


@app.command()
def export(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder (RUN/bundle).")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="merged, int8, int4, vllm, gguf-f16, gguf-q8_0, gguf-q4_k_m or ollama."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")],
    golden: Annotated[
        Path | None,
        typer.Option(
            help="Rows for the parity check: a run folder, or a file like golden.jsonl. Default: "
            "the golden set in the bundle."
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Minimum share of golden rows with the same label as the bundle (for free text, "
            "share of tokens). Default: by format, 0.9 to 0.98.",
        ),
    ] = None,
    max_difference: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Maximum mean difference of log-probabilities, in nats. Default: by format, 0.05 "
            "to 0.5.",
        ),
    ] = None,
    unchecked: Annotated[
        bool,
        typer.Option(
            "--unchecked", help="Skip the parity check. The card of the export then says so."
        ),
    ] = False,
) -> None:
    """Convert a bundle to another format and check that its outputs stay the same.

    Runs the golden set through the converted model. If its outputs differ from the bundle's, the
    command fails, keeps no model, writes the figures to OUT-failed.md, and reports whether the
    template, the tokenizer or a layer differs.

    Example: prooftune export runs/reviews/bundle --to gguf-q8_0 --out reviews-gguf
    """
    from prooftune.exporters.build import export as export_bundle
    from prooftune.exporters.card import summary

    record = export_bundle(
        bundle,
        to,
        out,
        golden_path=golden,
        agreement=min_agreement,
        difference=max_difference,
        unchecked=unchecked,
    )
    print("\n".join([*summary(record), f"Export: {out} (details in its README.md)"]))
