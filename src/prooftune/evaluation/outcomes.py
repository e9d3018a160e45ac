"""From records to arrays, refusing to compare what is not the same examples in the same order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prooftune.errors import Failure
from prooftune.evaluation.metrics import INVALID, Floats, Outcomes
from prooftune.evaluation.resampling import Groups, groups_of
from prooftune.types import Example, Prediction, Study, VariantResult

CONTEXT = "context"
"""The field of a question's inputs that several questions may share."""


def check_comparable(study: Study, results: Sequence[VariantResult]) -> None:
    """Refuse what cannot be compared.

    Raises:
        Failure: a variant's predictions are not for the study's examples in their order, two
            variants share a name, or there is nothing to score.
    """
    if not study.test:
        raise Failure("there are no test examples, so nothing can be measured")
    if not results:
        raise Failure("there are no variants to score")
    names = [result.name for result in results]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Failure(f"two variants are named '{twice}'; names in a study must differ")
    for result in results:
        for number, training in enumerate(result.trainings, start=1):
            where = _where(result, number)
            _same_examples(study.test, training.test, f"{where}, test")
            if training.validation:
                _same_examples(study.validation, training.validation, f"{where}, validation")


def _where(result: VariantResult, number: int) -> str:
    """A variant in a message, with the number of the training if there are several."""
    return f"variant '{result.name}'" + (f", training {number}" if result.repeats else "")


def groups_in_test(study: Study) -> tuple[Groups | None, str]:
    """The groups in which test examples come, and what makes them: the data's group column, or a
    context that several questions share. None where every example stands alone."""
    return groups_among(study.test)


def groups_among(examples: Sequence[Example]) -> tuple[Groups | None, str]:
    """The same of any examples."""
    if any(e.group for e in examples):
        # A row without a group is one of its own: a tuple equals no group's name, and an id might.
        return groups_of([e.group or ("", e.id) for e in examples]), "data.group"
    if any(e.references is not None and CONTEXT in e.inputs for e in examples):
        return groups_of([e.inputs.get(CONTEXT) or ("", e.id) for e in examples]), "context"
    return None, ""


def outcomes_of(
    study: Study, results: Sequence[VariantResult]
) -> dict[str, list[tuple[Outcomes, Outcomes]]]:
    """Arrays of every training of every variant, by name: on test examples and on validation
    examples (may be empty).

    Raises:
        Failure: a variant's predictions are not for the study's examples in their order, an output
            or a target is no label of the study, two variants share a name, or there is nothing to
            score.
    """
    check_comparable(study, results)
    arrays: dict[str, list[tuple[Outcomes, Outcomes]]] = {}
    for result in results:
        arrays[result.name] = []
        for number, training in enumerate(result.trainings, start=1):
            # A variant that gave no validation predictions cannot be calibrated, and that is all.
            validation = study.validation if training.validation else []
            where = _where(result, number)
            both = (
                _outcomes(study, study.test, training.test, f"{where}, test"),
                _outcomes(study, validation, training.validation, f"{where}, validation"),
            )
            arrays[result.name].append(both)
    return arrays


def _outcomes(
    study: Study, examples: Sequence[Example], predictions: list[Prediction], where: str
) -> Outcomes:
    labels = study.labels
    index = {label: i for i, label in enumerate(labels)}
    strange = next((e for e in examples if e.target not in index), None)
    if strange is not None:
        raise Failure(
            f"{where}: example {strange.id} has the target {strange.target!r}, which is not one of "
            f"the study's labels ({', '.join(labels)})"
        )
    odd = next((p for p in predictions if p.valid and p.output not in index), None)
    if odd is not None:
        raise Failure(
            f"{where}: example {odd.id} has the output {odd.output!r}, marked valid, which is not "
            f"one of the study's labels ({', '.join(labels)})"
        )
    return Outcomes(
        targets=np.array([index[str(e.target)] for e in examples], dtype=np.int64),
        predicted=np.array(
            [index[p.output] if p.valid else INVALID for p in predictions], dtype=np.int64
        ),
        log_probs=_log_probs(predictions, len(labels), where),
        classes=len(labels),
        scale=np.array(study.scale, dtype=np.float64) if study.scale else None,
        costs=np.array(study.costs, dtype=np.float64) if study.costs else None,
    )


def _same_examples(examples: Sequence[Example], predictions: list[Prediction], where: str) -> None:
    if len(examples) != len(predictions):
        raise Failure(
            f"{where}: {len(predictions)} predictions for {len(examples)} examples. Variants are "
            "only compared on the same examples; delete this variant's folder and run again."
        )
    for index, (example, prediction) in enumerate(zip(examples, predictions, strict=True)):
        if example.id != prediction.id:
            raise Failure(
                f"{where}: prediction {index} is for example {prediction.id}, where the study has "
                f"{example.id}. Variants are only compared on the same examples in the same order; "
                "delete this variant's folder and run again."
            )


def _log_probs(predictions: list[Prediction], classes: int, where: str) -> Floats | None:
    lengths = {len(p.log_probs) for p in predictions}
    # The empty set too: a variant without any validation predictions.
    if lengths <= {0}:
        return None
    if lengths != {classes}:
        raise Failure(
            f"{where}: probabilities for {' or '.join(map(str, sorted(lengths)))} labels in a "
            f"prediction, where the study has {classes} labels"
        )
    return np.array([p.log_probs for p in predictions], dtype=np.float64)
