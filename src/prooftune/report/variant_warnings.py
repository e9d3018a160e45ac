"""Caveats of single variants: inputs, outputs, degenerate predictions and training."""

from __future__ import annotations

from collections.abc import Mapping

from prooftune.evaluation.score_types import (
    NoAnswerThreshold,
    VariantMeasurements,
)
from prooftune.report.task_display import TaskDisplay
from prooftune.report.types import ReportedVariant
from prooftune.variant_details import TrainingSummary

FORGETTING_RATIO = 1.2
"""Perplexity after tuning over that before, from which forgetting is reported."""


ALWAYS_ABSTAINS = 0.95
"""Share of abstentions from which a variant is said to abstain almost always."""


NEARLY_ONE_LABEL, EXCESS = 0.95, 0.2
"""Share of predictions of one label from which the report warns of a variant, if that share exceeds
the label's share of the examples by at least `EXCESS`."""


FEW_STEPS, STILL_FALLING = 100, 0.95
"""The report warns of a training with fewer steps if its last validation loss is below this share
of the lowest one before. With linear decay a long training also ends with a small fall."""


# A little inside `calibration.TEMPERATURES`, whose ends the search approaches and does not reach.
TEMPERATURE_BOUNDS = (0.052, 19.0)
"""Fitted temperatures outside ran to the end of the search interval."""


HIGHER_LOG_LOSS = 0.01
"""Rise of the log-loss on test rows by the temperature, in nats, from which it is reported."""


def variant_warnings(variants: Mapping[str, VariantMeasurements], task: TaskDisplay) -> list[str]:
    """Warnings about variants; one that several variants share is given once, with their names."""
    names_by_warning: dict[str, list[str]] = {}
    for name, variant in variants.items():
        for sentence in [
            *_input_warnings(variant),
            *_output_warnings(variant, task),
            *_degenerate_warnings(variant),
        ]:
            names_by_warning.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in names_by_warning.items()]


def _input_warnings(variant: VariantMeasurements) -> list[str]:
    n, warnings = variant["n"], []
    if variant.get("truncated"):
        warnings.append(
            f"{variant['truncated']:,} of {n:,} inputs ({variant['truncated'] / n:.1%}) were "
            "truncated to the length limit."
        )
    if variant.get("windowed"):
        warnings.append(
            f"{variant['windowed']:,} of {n:,} contexts ({variant['windowed'] / n:.1%}) were too "
            "long for one prompt and were split into overlapping windows; the most confident "
            "answer of all windows counts."
        )
    return warnings


def _output_warnings(variant: VariantMeasurements, task: TaskDisplay) -> list[str]:
    n, warnings = variant["n"], []
    if variant.get("invalid"):
        warnings.append(
            f"{variant['invalid']:,} of {n:,} outputs ({variant['invalid'] / n:.1%}) "
            f"{task.invalid_phrase}."
        )
    if variant.get("unknown_citations"):
        count = variant["unknown_citations"]
        warnings.append(
            f"{count:,} {'citations name' if count > 1 else 'citation names'} a passage that was "
            "not retrieved: counted as errors, and never listed as sources."
        )
    temperature = variant.get("temperature")
    if temperature is not None and not TEMPERATURE_BOUNDS[0] < temperature < TEMPERATURE_BOUNDS[1]:
        warnings.append(
            "the validation rows do not determine a temperature (the fit stopped at the bound, "
            f"{temperature:.2g}); do not rely on its calibrated probabilities."
        )
    return warnings + _temperature_warnings(variant)


def _temperature_warnings(variant: VariantMeasurements) -> list[str]:
    """A warning where the temperature made the probabilities of test rows worse."""
    calibration = variant.get("calibration")
    if not calibration or "after" not in calibration["log_loss"]:
        return []
    losses = calibration["log_loss"]
    before, after = losses["before"]["value"], losses["after"]["value"]
    if before is None or after is None or after - before < HIGHER_LOG_LOSS:
        return []
    return [
        f"the temperature, fitted on validation rows, made the probabilities of test rows worse "
        f"(log-loss {before:.3f} before, {after:.3f} after); do not rely on its calibrated "
        "probabilities."
    ]


def _degenerate_warnings(variant: VariantMeasurements) -> list[str]:
    """Warnings about variants that give (almost) the same output for every example."""
    n, warnings = variant["n"], []
    if variant["kind"] == "majority":
        return []
    predicted = [row["label"] for row in variant.get("per_class") or [] if row["predicted"]]
    if len(predicted) == 1 and len(variant["per_class"]) > 1 and not variant.get("invalid"):
        warnings.append(
            f"predicts the same label, '{predicted[0]}', for all {n:,} examples: it does not "
            "discriminate, whatever its accuracy."
        )
    elif variant.get("per_class"):
        most = max(variant["per_class"], key=lambda row: row["predicted"])
        share = most["predicted"] / n
        if share >= NEARLY_ONE_LABEL and share - most["support"] / n >= EXCESS:
            warnings.append(
                f"predicts '{most['label']}' for {most['predicted']:,} of {n:,} examples, of which "
                f"{most['support']:,} have this label: it hardly discriminates."
            )
    abstained = variant.get("abstained")
    if ALWAYS_ABSTAINS * n <= (abstained or 0) < n:
        warnings.append(
            f"abstains on {abstained:,} of {n:,} questions, so its scores are close to the share "
            "of unanswerable questions." + _abstention_causes(variant.get("no_answer"))
        )
    words = variant["metrics"].get("answer_words")
    if words and words["value"] == 0:
        by_threshold = abstained is not None and abstained < n
        warnings.append(
            "answers no question"
            + (", because of its no-answer threshold" if by_threshold else "")
            + "; its scores are the share of unanswerable questions."
        )
    return warnings


def _abstention_causes(threshold: NoAnswerThreshold | None) -> str:
    """How well the no-answer score discriminates, and how good the answers were before it."""
    if threshold is None:
        return ""
    auroc, before = threshold["auroc"], threshold["has_answer_f1_without"]
    if not auroc or before is None:
        return ""
    return (
        " Its no-answer score separates answerable from unanswerable questions with AUROC "
        f"{auroc['value']:.1%} ({auroc['low']:.1%} to {auroc['high']:.1%}; chance is 50%). On "
        f"answerable questions its F1 was {before:.1%} before the threshold, and "
        f"{threshold['has_answer_f1_always']:.1%} without abstention."
    )


def short_training(name: str, training: TrainingSummary) -> list[str]:
    """A warning on a training of few steps whose validation loss was still falling at its end.

    Args:
        name: the variant.
        training: its training, with the losses on validation rows.
    """
    losses = [
        (entry["step"], entry["eval_loss"])
        for entry in training["log_history"]
        if entry.get("eval_loss") is not None
    ]
    if len(losses) < 2:
        return []
    (steps, last), before = losses[-1], min(loss for _, loss in losses[:-1])
    if steps >= FEW_STEPS or last >= STILL_FALLING * before:
        return []
    return [
        f"{name}: the training had only {steps:,} steps, and the validation loss was still falling "
        f"at its end ({before:.3g} before, {last:.3g} at the last evaluation); try twice as many: "
        f"--set variants.{name}.training.{_twice(training, steps)}"
    ]


def _twice(training: TrainingSummary, steps: int) -> str:
    """The option that makes a training about twice as long, with its value."""
    # A number of steps overrides that of epochs.
    if training.get("arguments", {}).get("max_steps", -1) > 0:
        return f"max_steps={2 * steps}"
    return f"num_train_epochs={max(2, round(2 * training['epochs']))}"


def training_warnings(name: str, details: ReportedVariant, n: int) -> list[str]:
    """Warnings about resumed training, assumed gold passages, and forgetting."""
    warnings = []
    training = details.get("training")
    if training and training.get("resumed"):
        warnings.append(
            f"{name}: training was resumed after an interruption. Its time excludes the work lost "
            "by that, and its peak memory is that of the last attempt."
        )
    if training:
        warnings += short_training(name, training)
    if details.get("guessed_gold"):
        warnings.append(
            f"{name}: for {details['guessed_gold']:,} of {n:,} questions the data names no gold "
            "passage; the best match of question and reference answer was used, which may not "
            "hold the answer."
        )
    forgetting = details.get("forgetting")
    if forgetting is None:
        return warnings
    before, after = forgetting["perplexity_before"], forgetting["perplexity_after"]
    if before and after and after / before >= FORGETTING_RATIO:
        warnings.append(
            f"{name}: perplexity on general text rose from {before:.1f} to {after:.1f}; the tuned "
            "model has lost some of its general ability."
        )
    return warnings
