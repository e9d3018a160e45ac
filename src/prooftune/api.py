"""The functions of ``import prooftune``. Each imports what it needs when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prooftune.batch_predict import Summary
    from prooftune.bundle.classifier import Classifier
    from prooftune.bundle.qa import QuestionAnswerer
    from prooftune.bundle_evaluation.evaluate import BundleEvaluation
    from prooftune.recipe import Recipe
    from prooftune.study.check import CheckReport
    from prooftune.study.compare import RunComparison
    from prooftune.study.pipeline import Result

RecipeSource = str | Path | Mapping[str, Any]
"""A recipe file, the name of a shipped recipe, or the recipe as a dictionary."""


@dataclass(frozen=True, slots=True)
class InitResult:
    """The recipe that `init` wrote.

    Attributes:
        recipe: path of the recipe file.
        guesses: one sentence for each option inferred from the data file.
        problems: what keeps the recipe from running here (a missing library, say), one sentence
            each.
    """

    recipe: Path
    guesses: list[str]
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An export written by `export`.

    Attributes:
        folder: the export's folder.
        format: its format (``merged``, ``gguf-q8_0``, ...).
        checked: whether its outputs were compared with the bundle's on the golden set.
        agreement: share of golden rows with the same output as the bundle, 0 to 1; None if
            unchecked.
        size_bytes: size of all files.
        record: the content of ``export.json``.
    """

    folder: Path
    format: str
    checked: bool
    agreement: float | None
    size_bytes: int
    record: Mapping[str, Any]


def run(
    recipe: RecipeSource,
    out: str | Path | None = None,
    overrides: Sequence[str] | None = None,
) -> Result:
    """Run a study: data and audit, every variant, comparison, report, bundle.

    Run again with the same arguments, it resumes after an interruption and skips finished stages.
    Under a distributed launcher (docs/scale.md) rank 0 returns the result; the other ranks exit
    inside this call.

    Args:
        recipe: a recipe file, the name of a shipped recipe, or the recipe as a dictionary. Paths
            in a file are relative to it, paths in a dictionary to the working directory.
        out: the run folder. Default: ``runs/NAME``.
        overrides: ``dotted.key=value`` strings, as for ``--set``.

    Returns:
        The scores, the verdict, and the paths of the report and the bundle.

    Raises:
        UsageError: the recipe or the data is wrong, or the audit found an error.
        Failure: training or evaluation failed (network, disk, memory, diverged loss).
    """
    from prooftune.study import pipeline
    from prooftune.utils import distributed

    with distributed.process_group() as is_leader:
        if not is_leader:
            raise SystemExit
        parsed, base = _recipe(recipe, overrides)
        return pipeline.run(parsed, base, Path(out) if out is not None else None)


def check(recipe: RecipeSource, overrides: Sequence[str] | None = None) -> CheckReport:
    """Audit the data of a recipe and estimate the cost of every variant. Trains nothing.

    Args:
        recipe, overrides: as for `run`.

    Returns:
        The examples, the audit's findings and the estimates. Where the audit found errors,
        ``report.ok`` is False and nothing is estimated.

    Raises:
        UsageError: the recipe is wrong or its data cannot be read.
        Failure: the model could not be loaded.
    """
    from prooftune.study.check import check as check_recipe

    return check_recipe(*_recipe(recipe, overrides))


def init(
    file: str | Path,
    out: str | Path | None = None,
    *,
    force: bool = False,
    text: list[str] | None = None,
    label: str | None = None,
    task: str | None = None,
    format: str | None = None,
    encoding: str | None = None,
    group: str | None = None,
    ask: Callable[[str, list[str]], int] | None = None,
) -> InitResult:
    """Write a commented recipe for a data file, with the options inferred from its content.

    Args:
        file: a table of labelled texts or questions (docs/data.md lists the formats), a folder of
            shards, or a glob pattern.
        out: the recipe file. Default: ``NAME.yaml`` in the working directory.
        force: overwrite an existing recipe.
        text, label, group: columns, named instead of detected.
        task, format, encoding: values of the recipe's keys, named instead of detected.
        ask: called with a question and its options where two columns are about equally likely the
            label; returns the index of the option. Default: the likelier one is taken.

    Raises:
        UsageError: the file cannot be read, no label or question column was found, or the recipe
            file exists.
    """
    from prooftune.data.init.recipe_writer import draft_recipe
    from prooftune.data.init.sniffing import InitChoices
    from prooftune.errors import UsageError
    from prooftune.preflight.checker import findings
    from prooftune.recipe import load as load_recipe
    from prooftune.utils.files import write_text

    file = Path(file)
    target = Path(out) if out is not None else Path(_recipe_name(file))
    if target.exists() and not force:
        raise UsageError(
            f"{target} exists; choose another name (--out, out=), or overwrite it "
            "(--force, force=True)"
        )
    choices = InitChoices(text, label, task, format, encoding, group)
    drafted, guesses = draft_recipe(file, target, choices, ask)
    write_text(target, drafted)
    problems = findings(*load_recipe(target))
    return InitResult(target, guesses, [str(finding) for finding in problems])


def _recipe_name(file: Path) -> str:
    """``reviews.csv.gz`` and ``reviews-*.csv`` -> ``reviews.yaml``."""
    stem = file.name.partition("#")[0].split(".")[0] or file.name
    return f"{stem.rstrip('*?[]-_ ') or 'study'}.yaml"


def compare(first: str | Path, second: str | Path) -> RunComparison:
    """Compare one variant each of two runs on the test examples that both have.

    Args:
        first: ``RUN`` or ``RUN:VARIANT``. Default variant: the one in the run's bundle.
        second: likewise.

    Returns:
        Means, their paired difference with its interval, and the p-value of a paired test;
        ``str(result)`` is the paragraph that ``prooftune compare`` prints.

    Raises:
        UsageError: a run or variant does not exist, or the runs share no test example.
    """
    from prooftune.study.compare import compare_runs

    return compare_runs(str(first), str(second))


def load(bundle: str | Path) -> Classifier | QuestionAnswerer:
    """Load a bundle for prediction.

    Args:
        bundle: a bundle folder (``RUN/bundle``).

    Returns:
        A model whose ``predict(texts)`` gives one label with probabilities per text, or one answer
        with its sources per question.

    Raises:
        UsageError: the folder is no bundle, or holds files that a bundle may not hold.
        Failure: the base model could not be loaded.
    """
    from prooftune.bundle.load import load as load_bundle

    return load_bundle(Path(bundle))


def base_model_folder(bundle: str | Path) -> Path:
    """The local folder of a bundle's base model, for plain transformers and peft.

    A model from a package or a GGUF file is converted to safetensors in the cache (once); a model
    on the hub is downloaded.

    Args:
        bundle: a bundle folder with an adapter.

    Raises:
        UsageError: the folder is no bundle, or its base model is nowhere.
        Failure: the base model's weights differ from those that the adapter was trained on, or
            cannot be downloaded.
    """
    from prooftune.bundle import base_model
    from prooftune.bundle.manifest import language_model_manifest

    return base_model.base_model_folder(language_model_manifest(Path(bundle)))


def predict(
    bundle: str | Path,
    file: str | Path,
    out: str | Path,
    *,
    engine: str = "local",
    workers: int | None = None,
) -> Summary:
    """Label every row of a file, or answer its questions, and write the file with the predictions.

    Files may have any size. Run again, it resumes after an interruption.

    Args:
        bundle: a bundle folder.
        file: CSV, TSV, JSONL or Parquet with the bundle's input columns; a string may be a URL
            (``s3://``, ``gs://``).
        out: the output file, or a URL. Its extension sets its format.
        engine: ``local``, or ``ray`` for the workers of a Ray cluster.
        workers: number of Ray workers. Default: one per GPU, or per four CPU cores.

    Returns:
        Numbers of rows: predicted, resumed, empty, truncated, abstained.

    Raises:
        UsageError: the bundle, the file, the output's name or the engine cannot be used.
        Failure: the base model is missing, the output cannot be written, or Ray workers died.
    """
    from prooftune.batch_predict import predict_file

    return predict_file(
        Path(bundle),
        str(file) if isinstance(file, str) else file,
        str(out) if isinstance(out, str) else out,
        engine,
        workers,
    )


def evaluate(
    bundle: str | Path,
    file: str | Path,
    *,
    text: Sequence[str] | None = None,
    label: str | None = None,
    against: str | Path | None = None,
    out: str | Path | None = None,
) -> BundleEvaluation:
    """Evaluate a bundle on new labelled data.

    Args:
        bundle: a bundle folder.
        file: labelled texts or questions with answers, in any format of a study's data.
        text: columns of the bundle's input fields, in their order. Default: those of its study.
        label: column of the labels or answers. Default: that of its study.
        against: another bundle of the same task and labels, to compare on the same rows.
        out: folder for ``report.json`` and ``report.md``. Default: nothing is written.

    Returns:
        Metrics with intervals, their change since the bundle's study, the comparison with the other
        bundle, and the verdict in plain English.

    Raises:
        UsageError: a bundle or the file cannot be used, or rows have labels that the bundle does
            not know.
        Failure: a base model could not be loaded, or the folder cannot be written.
    """
    from prooftune.bundle_evaluation.evaluate import evaluate_bundle

    return evaluate_bundle(
        Path(bundle),
        file,
        text=text,
        label=label,
        against=Path(against) if against is not None else None,
        out=Path(out) if out is not None else None,
    )


def export(
    bundle: str | Path,
    to: str,
    out: str | Path,
    *,
    golden: str | Path | None = None,
    min_agreement: float | None = None,
    max_difference: float | None = None,
    unchecked: bool = False,
) -> ExportResult:
    """Write a bundle in another format, and compare its outputs with the bundle's.

    Args:
        bundle: a bundle folder.
        to: ``merged``, ``int8``, ``int4``, ``vllm``, ``gguf-f16``, ``gguf-q8_0``, ``gguf-q4_k_m``
            or ``ollama``.
        out: folder of the export; an earlier export there is replaced.
        golden: rows to compare on: a file like the bundle's ``golden.jsonl``, or a run folder.
            Default: the bundle's golden set.
        min_agreement: smallest share of golden rows with the bundle's label, 0 to 1 (of free text:
            of its tokens). Default: by format.
        max_difference: largest mean difference of log-probabilities, in nats. Default: by format.
        unchecked: write the export without running it.

    Raises:
        UsageError: the format does not fit the bundle, or a package it needs is missing.
        Failure: the export's outputs differ from the bundle's beyond the limits; nothing is
            written.
    """
    from prooftune.exporters.build import export as export_bundle

    record = export_bundle(
        Path(bundle),
        to,
        Path(out),
        golden_path=Path(golden) if golden is not None else None,
        agreement=min_agreement,
        difference=max_difference,
        unchecked=unchecked,
    )
    parity = record["parity"]
    return ExportResult(
        folder=Path(out),
        format=record["format"],
        checked=record["checked"],
        agreement=parity["agreement"] if parity else None,
        size_bytes=record["size_bytes"],
        record=record,
    )


def _recipe(recipe: RecipeSource, overrides: Sequence[str] | None) -> tuple[Recipe, Path]:
    """The parsed recipe, and the folder against which its relative paths are resolved."""
    from prooftune import recipe as recipes

    if isinstance(recipe, Mapping):
        return recipes.parse(dict(recipe), overrides=list(overrides or [])), Path()
    return recipes.load(recipe, list(overrides or []))
