"""The golden set: rows with what a bundle says to them, by which every export is checked.

Plain JSON lines. The texts are inside, which is why the recipe's ``bundle.golden`` sets how many,
or none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from prooftune import recipe
from prooftune.bundle.load import Classifier, base_model_folder, has_probabilities, load
from prooftune.bundle.manifest import read_manifest
from prooftune.engine.generation import generate
from prooftune.engine.precision import autocast
from prooftune.engine.sequences import Generated
from prooftune.errors import Failure, UsageError
from prooftune.models.loading import fits_in_float32
from prooftune.tasks import classification
from prooftune.types import Example

if TYPE_CHECKING:
    from prooftune.bundle.qa import QuestionAnswerer


@dataclass(frozen=True, slots=True)
class GoldenRow:
    """One row and what the bundle says to it.

    Attributes:
        id: the example's id in the study.
        inputs: field name -> text, retrieved passages included.
        prompt: token ids of the whole prompt.
        output: what `prooftune.load` answers: the label, or the answer after windows, thresholds
            and constraints.
        target: the label or answer that is known to be right; None where none is known.
        references: all accepted answers to a question; None in classification.
        log_probs: natural-log probability of every label, in the order of ``labels``, before
            calibration and temperature; empty where the bundle writes its answers.
        shift: what contextual calibration adds to `log_probs` before they are compared; empty for
            nothing.
        answer: the text that the model itself writes after the prompt, without threshold or
            constraint.
        answer_ids: its token ids, the stop token included where it was written.
        answer_log_prob: their natural-log probability together.
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


def drawn(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """At most `count` examples drawn with the seed, in the order in which they stand."""
    if len(examples) <= count:
        return list(examples)
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), count))]


def exact(folder: Path, trust_remote_code: bool = False) -> Classifier | QuestionAnswerer:
    """The bundle in float32: what its weights say, without the rounding of 16-bit arithmetic, in
    which rows that are all but undecided fall either way. Weights that were quantised in training,
    or that would fill the memory, stay as they are.

    Raises:
        UsageError, Failure: as `load` does.
    """
    manifest = read_manifest(folder)
    weights = base_model_folder(manifest) if manifest["part"] == "adapter" else folder / "model"
    wide = not manifest["quantization"] and fits_in_float32(weights)
    return load(folder, trust_remote_code=trust_remote_code, dtype="float32" if wide else None)


def make(bundle: Classifier | QuestionAnswerer, rows: Sequence[Example]) -> list[GoldenRow]:
    """Ask the bundle.

    Rows that do not fit into one prompt are left out: to shorten a text, or to read it in windows,
    is Prooftune's own doing, and an export shows nothing by it.

    Args:
        bundle: as `exact` returns it.
        rows: examples with the bundle's fields; their targets are kept, and not looked at.
    """
    examples = bundle.examples([row.inputs for row in rows])
    # For questions the one window that holds all; for labels the prompt.
    windows = [bundle.encoder.sliding_windows(example.inputs) for example in examples]
    fits = [
        i
        for i, several in enumerate(windows)
        if len(several) == 1 and not several[0].truncated_tokens
    ]
    if not fits:
        return []
    prefix, prompts = bundle.encoder.prefix, [windows[i][0].token_ids for i in fits]
    outputs = _outputs(bundle, [rows[i].inputs for i in fits])
    golden: list[dict[str, Any]] = [
        {
            "id": rows[i].id,
            "inputs": examples[i].inputs,
            "prompt": [*prefix, *prompt],
            "target": rows[i].target,
            "references": rows[i].references,
            "output": output,
        }
        for i, prompt, output in zip(fits, prompts, outputs, strict=True)
    ]
    if isinstance(bundle, Classifier) and has_probabilities(bundle.manifest):
        found = _log_probs(bundle, [examples[i] for i in fits], prompts)
    else:
        found = _written(bundle, prompts)
    return [GoldenRow(**row, **more) for row, more in zip(golden, found, strict=True)]


def _outputs(bundle: Classifier | QuestionAnswerer, inputs: Sequence[dict[str, str]]) -> list[str]:
    if isinstance(bundle, Classifier):
        return [answer.label for answer in bundle.predict(inputs, progress=False)]
    return [reply.answer for reply in bundle.predict(inputs, progress=False)]


def _log_probs(
    bundle: Classifier, examples: Sequence[Example], prompts: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    scoring, head = (
        recipe.Scoring(**bundle.manifest["scoring"]),
        bundle.manifest["objective"] == "head",
    )
    scores = classification.label_scores(
        bundle.model, bundle.encoder, prompts, scoring, head=head, description=None
    )
    plain = scores.log_softmax(1)
    rows: list[dict[str, Any]] = [
        {"log_probs": tuple(round(value, 6) for value in row)} for row in plain.tolist()
    ]
    if scoring.calibration and not head:
        # Calibration adds the same to every row; softmax makes it the same but for a constant.
        [first] = classification.predict(
            bundle.model, bundle.encoder, examples[:1], scoring, head=head, description=None
        )
        shift = tuple(
            round(after - before, 6)
            for after, before in zip(first.log_probs, plain[0].tolist(), strict=True)
        )
        rows = [{**row, "shift": shift} for row in rows]
    return rows


def _written(
    bundle: Classifier | QuestionAnswerer, prompts: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    encoder, done = bundle.encoder, [Generated() for _ in prompts]
    with autocast(bundle.model):
        for numbers, texts in generate(
            bundle.model,
            encoder.prefix,
            prompts,
            encoder.stop_token_id,
            max_new_tokens=limit(bundle.manifest),
        ):
            for number, text in zip(numbers, texts, strict=True):
                done[number] = text
    return [
        {
            "answer": encoder.decode_answer(one.ids).strip(),
            "answer_log_prob": round(one.log_prob, 6),
            "answer_ids": (*one.ids, *([encoder.stop_token_id] if one.stopped else [])),
        }
        for one in done
    ]


def limit(manifest: dict[str, Any]) -> int:
    """Tokens that the bundle may write."""
    return int(
        (manifest["scoring"] if manifest["labels"] else manifest["answering"])["max_new_tokens"]
    )


def write(path: Path, rows: Sequence[GoldenRow]) -> None:
    path.write_text(
        "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
    )


def read(path: Path) -> list[GoldenRow]:
    """The rows that `write` wrote.

    Raises:
        UsageError: the file is missing or damaged.
    """
    kind = TypeAdapter(GoldenRow)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(kind.validate_json(line, strict=True))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise UsageError(
                f"{path}: line {number} is no golden row: {place}: {first['msg']}"
            ) from None
    return rows


def of_run(
    bundle: Classifier | QuestionAnswerer, place: Path, count: int, seed: int
) -> list[GoldenRow]:
    """A golden set for a bundle without one, from the run that it came from.

    Raises:
        UsageError: the folder is no run.
        Failure: no validation row fits into one prompt.
    """
    from prooftune.run_folder import read_study

    if not (place / "data").is_dir():
        raise UsageError(
            f"{place} is neither a golden set (.jsonl) nor a run folder: no data folder in it"
        )
    rows = make(bundle, drawn(read_study(place / "data").validation, count, seed))
    if not rows:
        raise Failure(f"{place} has no validation row that fits into one prompt of the bundle")
    return rows
