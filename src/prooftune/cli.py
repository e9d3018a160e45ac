"""The command line: parses, calls, prints."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from prooftune.errors import ProoftuneError

if TYPE_CHECKING:
    from prooftune.recipe import Recipe
    from prooftune.study import Result

app = typer.Typer(
    name="prooftune", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Fine-tune a Llama-family model on your labelled text, and prove that it helped.\n\n"
         "Start with [bold]prooftune demo[/bold], then [bold]prooftune init YOUR_FILE[/bold].")

_INTERRUPTED = 130
"""Exit code after Ctrl-C, by the shells' convention; typer turns the KeyboardInterrupt into it."""

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe, e.g. "
                                               "--set training.num_train_epochs=1. May be given several times.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The run folder. Default: runs/NAME of the recipe.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Another model: smollm2-135m-instruct, a folder, a hub name, or "
                                               "pypi:NAME==VERSION#FILE.")]
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe "
                                               "(prooftune recipes lists them).")]


@app.command()
def demo(out: Out = None) -> None:
    """Tune the small embedded model on film reviews and compare it with everything else. No hub, no GPU, about 5 minutes."""
    _run("demo", out, [])


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="Labelled text: CSV, TSV, JSON, JSONL, Parquet or delimiter-separated text.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write the recipe. Default: NAME.yaml here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
) -> None:
    """Look at a data file and write a commented recipe for it."""
    from prooftune.data.guess import guess
    from prooftune.errors import UsageError
    from prooftune.files import write_text

    target = out or Path(f"{file.stem}.yaml")
    if target.exists() and not force:
        raise UsageError(f"{target} exists; give another name with --out, or overwrite it with --force")
    text, guesses = guess(file, target)
    write_text(target, text)
    for sentence in guesses:
        print(f"  {sentence}")
    print(f"Wrote {target}. Look it over, then:\n  prooftune check {target}\n  prooftune run {target}")


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from prooftune.recipe import describe_shipped

    described = describe_shipped()
    width = max(map(len, described))
    for name, description in described.items():
        print(f"{name:<{width}}  {description}")


@app.command()
def check(recipe: RecipeArgument, set_: Set = None, model: ModelName = None) -> None:
    """Audit the data and estimate memory and time. Trains nothing."""
    from prooftune.check import check as check_recipe

    chosen, base = _load(recipe, set_, model)
    check_recipe(chosen, base)


@app.command()
def run(recipe: RecipeArgument, set_: Set = None, model: ModelName = None, out: Out = None) -> None:
    """Run a study: data and audit, every variant, comparison, report, bundle.

    The same command again continues after an interruption and skips what has not changed.
    """
    _run(recipe, out, set_ or [], model)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Write the report of a finished run again."""
    from prooftune import study

    _print_result(study.reread(folder))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN[:VARIANT]", help="A run folder, and a variant if not the bundled one.")],
    second: Annotated[str, typer.Argument(metavar="RUN[:VARIANT]", help="The run that it is compared with.")],
) -> None:
    """Compare two runs on the test examples that they share, with a paired test."""
    from prooftune.comparing import compare_runs

    print(compare_runs(first, second))


data_app = typer.Typer(no_args_is_help=True, help="The data of a recipe.")
app.add_typer(data_app, name="data")


@data_app.command()
def export(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for train.jsonl, validation.jsonl and test.jsonl.")],
    format_: Annotated[str, typer.Option("--format", help="alpaca (instruction, input, output), chat (messages) or completion "
                                         "(prompt, completion).")] = "alpaca",
    set_: Set = None,
) -> None:
    """Write the recipe's examples, split and audited, in a format that other fine-tuning tools read."""
    from prooftune.data.export import FORMATS, export
    from prooftune.data.prepare import prepare
    from prooftune.errors import UsageError, nearest

    if format_ not in FORMATS:
        raise UsageError(f"--format: one of {', '.join(FORMATS)}, found '{format_}'{nearest(format_, FORMATS)}")
    chosen, base = _load(recipe, set_, None)
    study, found = prepare(chosen, base, lambda _: None)
    found.refuse()
    for path in export(study, chosen, format_, out):
        print(path)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder (RUN/bundle).")],
    file: Annotated[Path, typer.Argument(metavar="IN.csv", help="A file with the input columns: CSV, TSV, JSONL or Parquet.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the answers: .csv, .tsv, .jsonl or .parquet.")],
) -> None:
    """Label the rows of a file, or answer its questions; what a bundle says is written beside the file's columns."""
    from prooftune.bundle.bulk import predict_file

    rows = predict_file(bundle, file, out)
    print(f"{rows:,} row{'s' if rows != 1 else ''} done: {out}")


@app.command()
def index(
    documents: Annotated[list[str], typer.Argument(help="Files, folders, zips or patterns: PDF, HTML, Markdown, text, JSON.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder of the index, or a URL of object storage (s3://, gs://, az://).")],
    embedding: Annotated[str, typer.Option(help="Embedding model: all-minilm-l6-v2 (from a package), a folder, or a hub name.")]
    = "all-minilm-l6-v2",
    words: Annotated[int, typer.Option(help="Words of a passage, about.")] = 120,
    overlap: Annotated[int, typer.Option(help="Words that neighbouring passages share.")] = 20,
) -> None:
    """Index documents for search. Run again after changes: only new and changed documents are read."""
    from prooftune.retrieval.index import Settings, build

    summary = build(documents, out, Settings(embedding=embedding, words=words, overlap=overlap))
    print(f"{summary.chunks:,} passages of {summary.documents:,} documents in {out}: {len(summary.added):,} added, "
          f"{len(summary.changed):,} changed, {len(summary.removed):,} removed, {summary.unchanged:,} unchanged")
    long = f"{summary.shortened:,} passages are longer than the embedding model reads; their ends are found by words only"
    for line in [*(f"left out: {one.id}: {one.reason}" for one in summary.skipped), *summary.notes,
                 *([long] if summary.shortened else [])]:
        print(f"  {line}")


@app.command()
def search(
    folder: Annotated[str, typer.Argument(metavar="INDEX", help="Folder or URL of the index.")],
    question: Annotated[str, typer.Argument(help="A question, or words to search for.")],
    k: Annotated[int, typer.Option("-k", help="Passages to show.")] = 5,
    mode: Annotated[str, typer.Option(help="bm25 (words), dense (meaning) or fused (both).")] = "fused",
    rerank: Annotated[str | None, typer.Option(help="A cross-encoder that puts what was found in a new order.")] = None,
) -> None:
    """Show the passages of an index that fit a question, with document, page and section."""
    from prooftune.retrieval.search import search_lines

    lines, notices = search_lines(folder, question, k, mode, rerank)  # type: ignore[arg-type]
    for line in lines:
        place = ", ".join([line["source"], *([f"page {line['page']}"] if line["page"] else []), *filter(None, [line["section"]])])
        print(f"{line['rank']}. {place}  ({rerank or mode} score {line['score']:.3f})\n   {' '.join(line['text'].split())}\n")
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)


def _load(name: str, overrides: list[str] | None, model: str | None) -> tuple[Recipe, Path]:
    from prooftune.recipe import load

    return load(name, [*(overrides or []), *([f"model={model}"] if model else [])])


def _run(name: str, out: Path | None, overrides: list[str], model: str | None = None) -> None:
    from prooftune import study

    chosen, base = _load(name, overrides, model)
    _print_result(study.run(chosen, base, out))


def _print_result(result: Result) -> None:
    from prooftune.report.terminal import table

    print()
    table(result.scores)
    print(f"\n{result.verdict}\n")
    print(f"Report: {result.report}")
    if result.bundle is not None:
        print(f"Bundle: {result.bundle}")


def _version(value: bool) -> None:
    if value:
        from prooftune import __version__

        print(f"prooftune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; results and errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if quiet:
        os.environ["PROOFTUNE_QUIET"] = "1"
    if debug:
        os.environ["PROOFTUNE_DEBUG"] = "1"


def main() -> NoReturn:
    """Run the command; a person's mistake ends in one message and exit code 2, a failure in 1."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Says on import that an optional GPU kernel is missing, which nobody here can act on.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        app()
    except ProoftuneError as error:
        _exit(str(error), error.exit_code, error)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _exit("stopped. Run the same command again to go on where it was.", _INTERRUPTED, None)
        raise
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _exit("out of memory. Lower training.per_device_train_batch_size, scoring.batch_tokens or prompt.max_length.", 1, error)
    except OSError as error:
        _exit(f"{error.filename or 'the system'}: {error.strerror or error}", 1, error)
    sys.exit(0)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of the machine or of the GPU: torch says so in a RuntimeError's words."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said


def _exit(message: str, code: int, error: BaseException | None) -> NoReturn:
    if os.environ.get("PROOFTUNE_DEBUG") and error is not None:
        raise error
    print(f"prooftune: {message}", file=sys.stderr)
    sys.exit(code)
