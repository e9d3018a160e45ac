"""Doubtful labels of a study: found by confident learning, listed in ``label_errors.csv``."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prooftune import run_folder
from prooftune.data.normalization import label_spelling_variants
from prooftune.data.sampling import stratified_sample
from prooftune.evaluation.changes import excerpt
from prooftune.evaluation.label_errors import (
    difference_bounds,
    label_quality,
    likely_errors,
    pooled_probabilities,
)
from prooftune.evaluation.metrics import INVALID, Floats, Ints
from prooftune.evaluation.repeated_trainings import shipped_training
from prooftune.evaluation.score_types import (
    LabelErrorComparison,
    LabelErrorRow,
    LabelErrors,
    LabelErrorSplit,
    Scores,
)
from prooftune.recipe import Recipe
from prooftune.types import Example, Prediction, SplitName, Study, VariantResult
from prooftune.utils.files import fingerprint, write_text
from prooftune.variants.cross_validation import (
    can_cross_validate,
    embedding_features,
    embedding_probabilities,
    tfidf_probabilities,
)

FILE, STAGE = "label_errors.csv", "label_errors"
_COLUMNS = (
    "split",
    "source",
    "id",
    "label",
    "suggested",
    "probability",
    "suggested_probability",
    "text",
)
TRAINED_KINDS = ("tfidf", "embedding", "encoder", "tuned")
"""Kinds of variants that learned from labels, so that their probabilities mean something."""
MAX_LISTED = 200
"""Rows in ``scores.json`` and on the page; the CSV file has all."""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckedRows:
    """Rows of one split with pooled out-of-sample probabilities [n, labels].

    Attributes:
        split: the split.
        examples: the rows that were checked.
        targets: their labels, int [n].
        probabilities: of every label, [n, L].
        models: what the probabilities come from.
        labels: the label of each column.
    """

    split: SplitName
    examples: Sequence[Example]
    targets: Ints
    probabilities: Floats
    models: list[str]
    labels: list[str]

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Rows whose label is doubtful, bool [n]; another spelling of a label is no other label."""
        spelling, merged = self.merged_spellings()
        return likely_errors(spelling[self.targets], merged)

    @property
    def suggested(self) -> Ints:
        """The most probable label of every row, int [n]; of its spellings, the most probable."""
        spelling, merged = self.merged_spellings()
        best = merged.argmax(axis=1)
        own = np.where(spelling == best[:, None], self.probabilities, -1.0)
        return np.asarray(own.argmax(axis=1), dtype=np.int64)

    @property
    def accuracy(self) -> float:
        """Share of rows whose most probable label is their own in any spelling, 0 to 1."""
        spelling, merged = self.merged_spellings()
        return float((merged.argmax(axis=1) == spelling[self.targets]).mean())

    def merged_spellings(self) -> tuple[Ints, Floats]:
        """The number of every label without its spelling [L], and the probabilities of these."""
        first = {label: label for label in self.labels}
        for spellings in label_spelling_variants(self.labels):
            first |= dict.fromkeys(spellings, spellings[0])
        number = {label: i for i, label in enumerate(dict.fromkeys(first.values()))}
        spelling = np.array([number[first[label]] for label in self.labels], dtype=np.int64)
        merged = np.zeros((len(self.probabilities), len(number)))
        np.add.at(merged.T, spelling, self.probabilities.T)
        return spelling, merged


def search_label_errors(
    recipe: Recipe, study: Study, results: Sequence[VariantResult], scores: Scores, folder: Path
) -> LabelErrors | None:
    """Search all splits and write `FILE`; None where there is nothing to search.

    Training rows are checked by cross-validation, validation and test rows by the predictions of
    the variants that were trained, which have not seen them.

    Args:
        recipe: the recipe.
        study: the data.
        results: predictions of every variant.
        scores: of the study, for its comparisons.
        folder: the run folder.
    """
    if recipe.task != "classification" or not recipe.audit.label_errors:
        return None
    # Of several trainings, the one whose predictions the report shows.
    shipped = [shipped_training(r, scores["variants"][r.name]) for r in results]
    # Variants without a language are wrong about its rows, whatever the labels.
    whole = [r for r in shipped if not scores["variants"][r.name].get("missing_languages")]
    parts = [_train_rows(recipe, study, folder), *_held_out_rows(study, whole)]
    checked = [rows for rows in parts if rows is not None]
    if not checked:
        return None
    # Sorted over all splits, so that whoever reads from the top sees the most doubtful rows first.
    rows = sorted((row for part in checked for row in flagged_rows(part, study)), key=_order)
    _write_csv(folder / FILE, rows)
    test = next((part for part in checked if part.split == "test"), None)
    return {
        "splits": {part.split: _summary(part) for part in checked},
        "rows": [row for row, _ in rows[:MAX_LISTED]],
        "comparisons": _comparisons(test, shipped, scores, study) if test else [],
        "file": FILE,
    }


def check_training_rows(recipe: Recipe, study: Study, embed: bool = True) -> CheckedRows | None:
    """Training rows with out-of-fold probabilities of the cheap classifiers.

    Args:
        recipe: the recipe.
        study: the data.
        embed: use the recipe's embedding variant, too, which takes most of the time.

    Returns:
        None where there are too few rows of a label, or the recipe wants no search.
    """
    limit = recipe.audit.label_errors
    if recipe.task != "classification" or not limit or not study.train:
        return None
    # A sample bounds the time; stratified, so that rare labels are searched as well.
    examples = stratified_sample(study.train, limit, recipe.seed)
    if not can_cross_validate(examples):
        return None
    # Always used: it takes seconds and shares no errors with the models that the study compares.
    models = {"tfidf": tfidf_probabilities(examples, study.labels, recipe.seed)}
    embedding = next(((n, v) for n, v in recipe.variants.items() if v.kind == "embedding"), None)
    if embed and embedding is not None:
        name, variant = embedding
        vectors = embedding_features(examples, variant, "label errors: training rows")
        models[name] = embedding_probabilities(vectors, examples, study.labels, recipe.seed)
    pooled = pooled_probabilities(list(models.values()))
    return CheckedRows(
        "train", examples, _targets(examples, study), pooled, list(models), study.labels
    )


def _train_rows(recipe: Recipe, study: Study, folder: Path) -> CheckedRows | None:
    """`check_training_rows`, or its result of an earlier run with the same inputs."""
    stage = folder / STAGE
    # Another embedding model gives other probabilities, so its options are part of the stage.
    embedding = [v.model_dump() for v in recipe.variants.values() if v.kind == "embedding"][:1]
    inputs = fingerprint(
        [
            run_folder.stage_fingerprint(folder / "data"),
            recipe.audit.label_errors,
            recipe.seed,
            embedding,
        ]
    )
    path = stage / "predictions.parquet"
    if not run_folder.is_stage_done(stage, inputs):
        run_folder.begin_stage(stage, inputs)
        rows = check_training_rows(recipe, study)
        predictions = [] if rows is None else _predictions(rows, study)
        run_folder.write_predictions(path, predictions)
        run_folder.finish_stage(stage, inputs)
        return rows
    stored = run_folder.read_predictions(path)
    if not stored:
        return None
    # The sample is not drawn again: the stored ids tell which rows it held.
    ids = {p.id for p in stored}
    examples = [e for e in study.train if e.id in ids]
    names = ["tfidf", *[n for n, v in recipe.variants.items() if v.kind == "embedding"][:1]]
    probabilities = np.exp([p.log_probs for p in stored])
    return CheckedRows(
        "train", examples, _targets(examples, study), probabilities, names, study.labels
    )


def _predictions(rows: CheckedRows, study: Study) -> list[Prediction]:
    # A probability of 0 would be stored as -inf, which comparisons cannot handle.
    logs = np.log(np.maximum(rows.probabilities, 1e-12))
    return [
        Prediction(e.id, study.labels[int(row.argmax())], log_probs=tuple(row.tolist()))
        for e, row in zip(rows.examples, logs, strict=True)
    ]


def _held_out_rows(study: Study, results: Sequence[VariantResult]) -> list[CheckedRows | None]:
    trained = [r for r in results if r.kind in TRAINED_KINDS]
    return [
        _from_predictions(study, "validation", {r.name: r.validation for r in trained}),
        _from_predictions(study, "test", {r.name: r.test for r in trained}),
    ]


def _from_predictions(
    study: Study, split: SplitName, predictions: dict[str, list[Prediction]]
) -> CheckedRows | None:
    # Variants without probabilities, such as generated answers, cannot say how sure they are.
    known = {n: rows for n, rows in predictions.items() if rows and all(p.log_probs for p in rows)}
    if not known:
        return None
    examples = study.splits()[split]
    pooled = pooled_probabilities([np.exp([p.log_probs for p in rows]) for rows in known.values()])
    return CheckedRows(
        split, examples, _targets(examples, study), pooled, list(known), study.labels
    )


def _targets(examples: Sequence[Example], study: Study) -> Ints:
    index = {label: i for i, label in enumerate(study.labels)}
    return np.array([index[str(e.target)] for e in examples], dtype=np.int64)


def _summary(part: CheckedRows) -> LabelErrorSplit:
    return {
        "rows": len(part.examples),
        "flagged": int(part.flagged.sum()),
        "accuracy": part.accuracy,
        "models": part.models,
    }


def flagged_rows(part: CheckedRows, study: Study) -> list[tuple[LabelErrorRow, Example]]:
    """The rows whose label is doubtful, the most doubtful first."""
    # Of a label in all its spellings, as the rows were flagged.
    spelling, merged = part.merged_spellings()
    quality, suggested = label_quality(spelling[part.targets], merged), part.suggested
    found = []
    for i in np.flatnonzero(part.flagged):
        example, best = part.examples[int(i)], int(suggested[i])
        row: LabelErrorRow = {
            "split": part.split,
            "id": example.id,
            "text": excerpt(example),
            "label": str(example.target),
            "suggested": study.labels[best],
            "probability": float(quality[i]),
            "suggested_probability": float(merged[i, spelling[best]]),
            "quality": float(quality[i]),
        }
        found.append((row, example))
    return sorted(found, key=_order)


def _order(entry: tuple[LabelErrorRow, Example]) -> float:
    return entry[0]["quality"]


def _write_csv(path: Path, rows: Sequence[tuple[LabelErrorRow, Example]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row, example in rows:
        values = {
            **row,
            "source": example.source,
            "probability": f"{row['probability']:.4f}",
            "suggested_probability": f"{row['suggested_probability']:.4f}",
            "text": "\n".join(example.inputs.values()),
        }
        writer.writerow({column: values[column] for column in _COLUMNS})
    write_text(path, buffer.getvalue())


def _comparisons(
    test: CheckedRows, results: Sequence[VariantResult], scores: Scores, study: Study
) -> list[LabelErrorComparison]:
    """Bounds of every difference of the verdict."""
    # The comparisons of the verdict, since those are what a wrong label could overturn.
    verdict = scores["verdict"]
    judged = verdict["best_tuned"] or verdict["winner"]
    index = {label: i for i, label in enumerate(study.labels)}
    predicted = {
        r.name: np.array([index[p.output] if p.valid else INVALID for p in r.test]) for r in results
    }
    found: list[LabelErrorComparison] = []
    for entry in verdict["against"]:
        bounds = difference_bounds(
            predicted[judged],
            predicted[entry["variant"]],
            test.targets,
            test.suggested,
            test.flagged,
        )
        alpha = 1 - scores["confidence"]
        # The verdict survives if, with every flagged row resolved against it, the difference keeps
        # its sign and stays significant.
        same_sign = bounds.low * bounds.high > 0
        found.append(
            {
                "a": judged,
                "b": entry["variant"],
                "value": bounds.value,
                "suggested": bounds.suggested,
                "low": bounds.low,
                "high": bounds.high,
                "disputed": bounds.disputed,
                "sign_certain": same_sign and max(bounds.p_low, bounds.p_high) < alpha,
            }
        )
    return found
