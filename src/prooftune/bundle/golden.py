"""The golden set: example rows with a bundle's outputs, against which every export is checked.

A file of JSON lines that contains the texts; the recipe's ``bundle.golden`` sets the number of rows
(0: none).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prooftune import recipe
from prooftune.bundle.base_model import base_model_folder
from prooftune.bundle.classifier import Classifier, has_probabilities
from prooftune.bundle.language_model import LanguageModelClassifier
from prooftune.bundle.layout import weights_folder
from prooftune.bundle.load import load
from prooftune.bundle.manifest import Manifest, is_language_model
from prooftune.bundle.manifest_reader import language_model_manifest, read_manifest
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.engine.generation import generate
from prooftune.engine.precision import autocast
from prooftune.engine.sequences import Generated
from prooftune.errors import Failure, UsageError
from prooftune.models.weight_sizes import fits_in_float32
from prooftune.tasks import classification
from prooftune.tasks.rendering import EncodedPrompt
from prooftune.types import HISTORY, Example

SHORTENING = 0.8
"""Share of its longest field that a text keeps each time that it does not fit into a prompt."""


@dataclass(frozen=True, slots=True)
class GoldenRow:
    """One example with the bundle's output.

    Attributes:
        id: the example's id in the study.
        inputs: field name -> text, retrieved passages included.
        prompt: token ids of the whole prompt; empty for a classifier without a language model.
        output: the prediction of `prooftune.load`: the label, or the answer after windowing,
            no-answer threshold and constrained decoding.
        target: reference label or answer; None if unknown.
        references: all accepted answers to a question; None in classification.
        log_probs: natural-log probability per label, in the order of ``labels``, before calibration
            and temperature scaling; empty if the bundle generates its answers.
        shift: per-label addend of contextual calibration to `log_probs`; empty without calibration.
        answer: the raw greedy continuation of the prompt, without threshold or constraint.
        answer_ids: its token ids, with the stop token if generation ended there.
        answer_log_prob: natural-log probability of `answer_ids`.
    """

    id: str
    inputs: dict[str, str]
    prompt: list[int]
    output: str
    target: str | None = None
    references: tuple[str, ...] | None = None
    log_probs: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    answer: str = ""
    answer_ids: tuple[int, ...] = ()
    answer_log_prob: float | None = None


def sample_rows(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """A random sample of at most `count` examples, in their original order."""
    if len(examples) <= count:
        return list(examples)
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), count))]


def shortened(bundle: Classifier | QuestionAnswerer, rows: Sequence[Example]) -> list[Example]:
    """Rows of a text classifier, cut at words so that each fits into one prompt.

    Without this, a study of texts that are all longer than ``prompt.max_length`` would leave no
    golden rows. Questions and conversations are not cut, nor are the rows of classifiers without a
    language model, which have no prompts.

    Args:
        bundle: loaded by `load_reference`.
        rows: examples with the bundle's fields.
    """
    if not isinstance(bundle, LanguageModelClassifier) or HISTORY in bundle.fields:
        return list(rows)
    examples = bundle.examples([row.inputs for row in rows])
    return [
        replace(row, inputs=_fitting_inputs(bundle, example.inputs))
        for row, example in zip(rows, examples, strict=True)
    ]


def _fitting_inputs(bundle: LanguageModelClassifier, inputs: dict[str, str]) -> dict[str, str]:
    shorter = inputs
    while not _fits(bundle.encoder.sliding_windows(shorter)):
        longest = max(shorter, key=lambda field: len(shorter[field]))
        text = shorter[longest]
        cut = text[: int(len(text) * SHORTENING)]
        # At a word: half a word has other tokens than the whole one.
        cut = (cut.rsplit(None, 1) or [""])[0]
        if not cut or cut == text:
            return inputs
        shorter = {**shorter, longest: cut}
    return shorter


def _fits(windows: Sequence[EncodedPrompt]) -> bool:
    """Whether an example is in one prompt as a whole: a question that fits has one window."""
    return len(windows) == 1 and not windows[0].truncated_tokens


def load_reference(folder: Path, trust_remote_code: bool = False) -> Classifier | QuestionAnswerer:
    """Load a bundle of any kind as precisely as this machine can, see `load_float32`."""
    if is_language_model(read_manifest(folder)):
        return load_float32(folder, trust_remote_code)
    return load(folder, trust_remote_code=trust_remote_code)


def loads_in_float32(folder: Path) -> bool:
    """Whether `load_float32` loads a bundle in float32, by its manifest and the size of its
    weights; nothing is loaded.

    Args:
        folder: a bundle of a language model.

    Raises:
        UsageError, Failure: see `load`.
    """
    manifest = language_model_manifest(folder)
    if manifest["quantization"]:
        return False
    weights = (
        weights_folder(folder, manifest)
        if manifest["part"] == "model"
        else base_model_folder(manifest)
    )
    return fits_in_float32(weights)


def load_float32(
    folder: Path, trust_remote_code: bool = False, dtype: str | None = "float32"
) -> LanguageModelClassifier | QuestionAnswerer:
    """Load a bundle in float32, so that rounding to 16 bits does not flip near-ties.

    Bundles tuned on quantized weights, or too large for memory in float32, keep their dtype.

    Args:
        folder: a bundle of a language model.
        trust_remote_code: see `load`.
        dtype: None to keep the bundle's dtype in any case.

    Raises:
        UsageError, Failure: see `load`.
    """
    widen = dtype is not None and loads_in_float32(folder)
    loaded = load(folder, trust_remote_code=trust_remote_code, dtype=dtype if widen else None)
    if not isinstance(loaded, LanguageModelClassifier | QuestionAnswerer):
        raise TypeError(f"{folder} is no language model")
    return loaded


def make_rows(bundle: Classifier | QuestionAnswerer, rows: Sequence[Example]) -> list[GoldenRow]:
    """Run the bundle on examples and record its outputs.

    Examples that do not fit into one prompt are skipped: truncation and windowing happen in
    Prooftune, outside the model, so they say nothing about an export.

    Args:
        bundle: loaded by `load_reference`.
        rows: examples with the bundle's fields; targets are copied and do not affect the outputs.
    """
    if not isinstance(bundle, LanguageModelClassifier | QuestionAnswerer):
        return _feature_rows(bundle, rows)
    examples = bundle.examples([row.inputs for row in rows])
    windows = [bundle.encoder.sliding_windows(example.inputs) for example in examples]
    fitting = [i for i, windows_of_row in enumerate(windows) if _fits(windows_of_row)]
    if not fitting:
        return []
    prefix, prompts = bundle.encoder.prefix, [windows[i][0].token_ids for i in fitting]
    outputs = _outputs(bundle, [rows[i].inputs for i in fitting])
    # Inputs as the bundle completed them, retrieved passages included.
    golden: list[dict[str, Any]] = [
        {
            "id": rows[i].id,
            "inputs": examples[i].inputs,
            "prompt": [*prefix, *prompt],
            "target": rows[i].target,
            "references": rows[i].references,
            "output": output,
        }
        for i, prompt, output in zip(fitting, prompts, outputs, strict=True)
    ]
    if isinstance(bundle, LanguageModelClassifier) and has_probabilities(bundle.manifest):
        results = _log_probs(bundle, [examples[i] for i in fitting], prompts)
    else:
        results = _written(bundle, prompts)
    return [GoldenRow(**row, **more) for row, more in zip(golden, results, strict=True)]


def _feature_rows(bundle: Classifier, rows: Sequence[Example]) -> list[GoldenRow]:
    """Rows of a classifier without prompts."""
    if not rows:
        return []
    examples = bundle.examples([row.inputs for row in rows])
    return [
        GoldenRow(
            row.id,
            example.inputs,
            [],
            prediction.output,
            row.target,
            row.references,
            prediction.log_probs,
        )
        for row, example, prediction in zip(
            rows, examples, bundle.score(examples, tuned=True, description=None), strict=True
        )
    ]


def _outputs(
    bundle: LanguageModelClassifier | QuestionAnswerer, inputs: Sequence[dict[str, str]]
) -> list[str]:
    if isinstance(bundle, Classifier):
        return [prediction.label for prediction in bundle.predict(inputs, progress=False)]
    return [prediction.answer for prediction in bundle.predict(inputs, progress=False)]


def _log_probs(
    bundle: LanguageModelClassifier, examples: Sequence[Example], prompts: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    scoring, head = (
        recipe.Scoring(**bundle.manifest["scoring"]),
        bundle.manifest["objective"] == "head",
    )
    scores = classification.label_scores(
        bundle.model,
        bundle.encoder,
        prompts,
        scoring,
        head=head,
        several=bundle.several,
        description=None,
    )
    log_probs = scores if bundle.several else scores.log_softmax(1)
    # Six decimals are far below the limits of any export (`exporters.formats`).
    rows: list[dict[str, Any]] = [
        {"log_probs": tuple(round(value, 6) for value in row)} for row in log_probs.tolist()
    ]
    if scoring.calibration and not head:
        # Contextual calibration adds the same vector to every row, up to a constant that softmax
        # removes; the first row is enough to recover it.
        [first] = classification.predict(
            bundle.model, bundle.encoder, examples[:1], scoring, head=head, description=None
        )
        shift = tuple(
            round(after - before, 6)
            for after, before in zip(first.log_probs, log_probs[0].tolist(), strict=True)
        )
        rows = [{**row, "shift": shift} for row in rows]
    return rows


def _written(
    bundle: LanguageModelClassifier | QuestionAnswerer, prompts: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    encoder, generated = bundle.encoder, [Generated() for _ in prompts]
    with autocast(bundle.model):
        for row_numbers, texts in generate(
            bundle.model,
            encoder.prefix,
            prompts,
            encoder.stop_token_id,
            max_new_tokens=max_new_tokens(bundle.manifest),
        ):
            for row_number, text in zip(row_numbers, texts, strict=True):
                generated[row_number] = text
    return [
        {
            "answer": encoder.decode_answer(result.ids).strip(),
            "answer_log_prob": round(result.log_prob, 6),
            "answer_ids": (*result.ids, *([encoder.stop_token_id] if result.stopped else [])),
        }
        for result in generated
    ]


def max_new_tokens(manifest: Manifest) -> int:
    """Largest number of tokens that the bundle generates."""
    section = manifest["scoring"] if manifest["labels"] else manifest["answering"]
    return int(section["max_new_tokens"])


def write(path: Path, rows: Sequence[GoldenRow]) -> None:
    """Write rows as JSON lines."""
    path.write_text(
        "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
    )


def read(path: Path) -> list[GoldenRow]:
    """Read a file written by `write`.

    Raises:
        UsageError: the file is missing, or a line is invalid.
    """
    adapter = TypeAdapter(GoldenRow)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    rows = []
    for row_number, line in enumerate(lines, start=1):
        try:
            rows.append(adapter.validate_json(line, strict=True))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise UsageError(
                f"{path}: line {row_number} is not a golden row: {field}: {first['msg']}"
            ) from None
    return rows


def rows_from_run(
    bundle: Classifier | QuestionAnswerer, path: Path, count: int, seed: int
) -> list[GoldenRow]:
    """Make a golden set from the validation rows of the run that wrote the bundle.

    Args:
        bundle: loaded by `load_float32`.
        path: the run folder.
        count: largest number of rows.
        seed: seed of the sample.

    Raises:
        UsageError: the folder is not a run.
        Failure: no validation row fits into one prompt.
    """
    from prooftune.run_folder import read_study

    if not (path / "data").is_dir():
        raise UsageError(
            f"{path} is neither a golden set (.jsonl) nor a run folder: no data folder in it"
        )
    sample = sample_rows(read_study(path / "data").validation, count, seed)
    rows = make_rows(bundle, shortened(bundle, sample))
    if not rows:
        raise Failure(f"{path} has no validation row that fits into one prompt of the bundle")
    return rows
