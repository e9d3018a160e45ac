"""The interface of every bundle that classifies texts; `bundle.load` makes the loaded ones.

A new kind of classifier is a subclass of `Classifier` with a method `score`, a section of the
manifest, and a branch in `bundle.load.load`. Serving, batch prediction and evaluation use nothing
else of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from prooftune.bundle.inputs import progress_label, to_examples
from prooftune.bundle.manifest import CommonManifest, is_language_model, label_threshold
from prooftune.evaluation.calibration import apply_temperature
from prooftune.types import Example, Prediction
from prooftune.utils.error_costs import error_cost_matrix, least_cost
from prooftune.utils.label_sets import chosen_labels, parse_label_set
from prooftune.utils.progress import Subtask


@dataclass(frozen=True, slots=True)
class LabelPrediction:
    """The predicted label of one text, or its labels.

    Attributes:
        label: the most probable label, or the one of least expected cost where the bundle has costs
            of errors; an empty string if the generated text names no label. With
            several labels per text, their JSON list.
        probability: its probability after temperature scaling; None if labels are generated, or
            several.
        probabilities: label -> probability, summing to 1; with several labels per text each of its
            own; empty if labels are generated.
        truncated_tokens: tokens of the text beyond the prompt limit, which the model did not see.
        abstained: whether `probability` is below the bundle's threshold for its target accuracy;
            None without a threshold.
        prompt_tokens: number of prompt tokens.
        labels: with several labels per text, those whose probability is at least the bundle's
            threshold, sorted; may be empty. None with one label per text.
    """

    label: str
    probability: float | None
    probabilities: dict[str, float]
    truncated_tokens: int = 0
    abstained: bool | None = None
    prompt_tokens: int = 0
    labels: tuple[str, ...] | None = None


class Classifier(ABC):
    """A loaded bundle that classifies texts.

    Attributes:
        labels: label names.
        fields: names of the input texts; with a single field, `predict` also takes strings.
        manifest: content of ``bundle.json``.
    """

    manifest: CommonManifest

    def __init__(self, manifest: CommonManifest) -> None:
        self.manifest = manifest
        self.labels: list[str] = manifest["labels"]
        self.fields: list[str] = manifest["fields"]

    @property
    def facts(self) -> CommonManifest:
        """The manifest, under its name in version 0.1."""
        return self.manifest

    @property
    def several(self) -> bool:
        """Whether a text has any number of labels."""
        return self.manifest["task"] == "multilabel"

    @property
    def shared_model(self) -> object:
        """The object that computes. Bundles with the same one must not predict at the same time."""
        return self

    @abstractmethod
    def score(
        self, examples: Sequence[Example], *, tuned: bool, description: str | Subtask | None
    ) -> list[Prediction]:
        """Predictions with the log-probability of each label, before temperature scaling.

        Args:
            examples: one or more, with the bundle's fields.
            tuned: False for the untuned base model.
            description: text of the progress bar; or the bar of which this is a part; None: no bar.

        Raises:
            UsageError: the bundle has no untuned model.
        """

    def predict(
        self,
        texts: Sequence[str | Mapping[str, str]],
        *,
        progress: bool | Subtask = True,
        tuned: bool = True,
    ) -> list[LabelPrediction]:
        """Predict the label of every text.

        Args:
            texts: strings, or mappings from field name to text if the bundle has several fields.
            progress: whether to show a progress bar for 16 or more texts; or a running bar's
                subtask.
            tuned: False uses the untuned base model with the same prompt, without temperature
                scaling and threshold, which were fitted to the tuned model.

        Returns:
            One prediction per text, in order.

        Raises:
            UsageError: a text lacks a field or is not a string; or the bundle has no untuned model.
        """
        examples = self.examples(texts)
        if not examples:
            return []
        predictions = self.score(
            examples,
            tuned=tuned,
            description=progress_label(progress, "Predicting", len(examples)),
        )
        if self.several:
            return [self._label_set(prediction) for prediction in predictions]
        # Both were fitted to the tuned model's probabilities.
        temperature = float(self.manifest.get("temperature") or 1.0) if tuned else 1.0
        threshold = abstention_threshold(self.manifest) if tuned else None
        return [self._calibrate(prediction, temperature, threshold) for prediction in predictions]

    def examples(self, texts: Sequence[str | Mapping[str, str]]) -> list[Example]:
        """The texts as examples with the bundle's fields, in order."""
        return to_examples(texts, self.fields, "text")

    def _label_set(self, prediction: Prediction) -> LabelPrediction:
        """The labels whose own probability is at least the threshold of the study."""
        threshold = label_threshold(self.manifest)
        assert threshold is not None  # the task is multilabel
        output = chosen_labels(prediction.log_probs, self.labels, threshold)
        return LabelPrediction(
            output,
            None,
            dict(zip(self.labels, map(exp, prediction.log_probs), strict=True)),
            prediction.truncated_tokens,
            prompt_tokens=prediction.prompt_tokens,
            labels=parse_label_set(output),
        )

    def _calibrate(
        self, prediction: Prediction, temperature: float, threshold: float | None
    ) -> LabelPrediction:
        # A generated label has no probability to compare with a threshold.
        if not prediction.log_probs:
            return LabelPrediction(
                prediction.output,
                None,
                {},
                prediction.truncated_tokens,
                prompt_tokens=prediction.prompt_tokens,
            )
        # (1, labels): `apply_temperature` takes rows.
        log_probs = np.asarray([prediction.log_probs])
        probabilities = np.exp(apply_temperature(log_probs, temperature))[0]
        label, probability = prediction.output, float(probabilities.max())
        costs = self.manifest.get("costs")
        if costs is not None:
            matrix = error_cost_matrix(costs, self.labels)
            number = int(least_cost(probabilities[None], matrix)[0])
            label, probability = self.labels[number], float(probabilities[number])
        return LabelPrediction(
            label,
            probability,
            dict(zip(self.labels, probabilities.tolist(), strict=True)),
            prediction.truncated_tokens,
            None if threshold is None else probability < threshold,
            prediction.prompt_tokens,
        )


def abstention_threshold(manifest: CommonManifest) -> float | None:
    """Probability below which the bundle abstains (`evaluation.abstention.abstention`), if any."""
    abstention = manifest.get("abstention")
    threshold = abstention.get("threshold") if abstention else None
    return None if threshold is None or not has_probabilities(manifest) else float(threshold)


def has_probabilities(manifest: CommonManifest) -> bool:
    """Whether predictions have label probabilities, that is, are not generated."""
    if not is_language_model(manifest):
        return True
    return bool(manifest["objective"] == "head" or manifest["scoring"]["method"] != "generation")
