"""The functions of ``import prooftune`` about bundles. Each imports its libraries when called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prooftune.batch_predict import Summary
    from prooftune.bundle.classifier import Classifier
    from prooftune.bundle.qa import QuestionAnswerer
    from prooftune.bundle_evaluation.evaluate import BundleEvaluation


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
    from prooftune.bundle.manifest_reader import language_model_manifest

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
        engine: ``local``; ``ray`` for the workers of a Ray cluster; or ``vllm``, if its outputs on
            the bundle's golden set agree with the bundle's.
        workers: number of Ray workers. Default: one per GPU, or per four CPU cores.

    Returns:
        Numbers of rows: predicted, resumed, empty, truncated, abstained.

    Raises:
        UsageError: the bundle, the file, the output's name or the engine cannot be used.
        Failure: the base model is missing, the output cannot be written, Ray workers died, or vLLM
            disagrees with the bundle.
    """
    from prooftune.batch_predict import predict_file

    return predict_file(
        Path(bundle),
        # A `Path` would turn s3://a into s3:/a.
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
    slices: Sequence[str] = (),
    limit: int | None = None,
    against: str | Path | None = None,
    out: str | Path | None = None,
) -> BundleEvaluation:
    """Evaluate a bundle on new labelled data.

    Args:
        bundle: a bundle folder.
        file: labelled texts or questions with answers, in any format of a study's data.
        text: columns of the bundle's input fields, in their order. Default: those of its study.
        label: column of the labels or answers. Default: that of its study.
        slices: columns of the file; the results are also given for each of their values.
        limit: evaluate a random sample of this many rows. Default: all rows.
        against: another bundle of the same task and labels, to compare on the same rows.
        out: folder for ``report.html``, ``report.json`` and ``report.md``. Default: nothing is
            written.

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
        slices=slices,
        limit=limit,
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
        Failure: the export's outputs differ from the bundle's beyond the limits; no export is
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
