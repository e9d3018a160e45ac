"""Load a bundle and predict with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prooftune import recipe
from prooftune.bundle.inputs import examples_of
from prooftune.bundle.save import FORMAT
from prooftune.errors import Failure, UsageError
from prooftune.evaluation.calibration import apply_temperature
from prooftune.files import read_json
from prooftune.models import adapters, loading
from prooftune.tasks.classification import predict
from prooftune.tasks.prompts import Encoder, Rendering

if TYPE_CHECKING:
    from prooftune.bundle.answerer import Answerer


@dataclass(frozen=True, slots=True)
class Answer:
    """The label of one text.

    Attributes:
        label: the most probable label; an empty string where generation gave none.
        probability: its probability after temperature scaling; None where the bundle generates its answers.
        probabilities: label -> probability, summing to 1; empty where the bundle generates its answers.
        truncated_tokens: tokens of the text that did not fit and were not read.
        abstained: whether the probability is below the bundle's threshold, so that the label is no answer at the accuracy
            that the study aimed at; None where the bundle has no threshold.
    """

    label: str
    probability: float | None
    probabilities: dict[str, float]
    truncated_tokens: int = 0
    abstained: bool | None = None


class Classifier:
    """A loaded bundle.

    Attributes:
        labels: the label names.
        fields: names of the input texts; one text may be given as a plain string.
        facts: the content of ``bundle.json``.
        model: the model, for whoever wants to go on with it.
    """

    def __init__(self, facts: dict[str, Any], model: Any, tokenizer: Any) -> None:
        self.facts, self.model = facts, model
        self.labels: list[str] = facts["labels"]
        self.fields: list[str] = facts["fields"]
        self._encoder = Encoder(Rendering.from_json(facts["rendering"]), tokenizer, self.fields)
        self._scoring = recipe.Scoring(**facts["scoring"])

    def predict(self, texts: Sequence[str | Mapping[str, str]], *, progress: bool = True) -> list[Answer]:
        """Label every text.

        Args:
            texts: strings, or mappings from field name to text where the bundle reads several fields.
            progress: whether to show a bar.

        Raises:
            UsageError: a text lacks a field, or is no text.
        """
        examples = examples_of(texts, self.fields, "text")
        if not examples:
            return []
        head = self.facts["objective"] == "head"
        predictions = predict(self.model, self._encoder, examples, self._scoring, head=head,
                              description="Predicting" if progress else None)
        return [self._answer(p.output, p.log_probs, p.truncated_tokens) for p in predictions]

    def _answer(self, output: str, log_probs: tuple[float, ...], truncated: int) -> Answer:
        if not log_probs:
            return Answer(output, None, {}, truncated)
        shares = np.exp(apply_temperature(np.asarray([log_probs]), float(self.facts.get("temperature") or 1.0)))[0]
        sure, threshold = float(shares.max()), abstention_threshold(self.facts)
        return Answer(output, sure, dict(zip(self.labels, shares.tolist(), strict=True)), truncated,
                      None if threshold is None else sure < threshold)


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of a bundle's ``bundle.json``.

    Raises:
        UsageError: the folder is no bundle, or one of a newer Prooftune.
    """
    try:
        content = read_json(folder / "bundle.json")
    except FileNotFoundError:
        hint = f" (its bundle is {folder / 'bundle'})" if (folder / "bundle" / "bundle.json").is_file() else ""
        raise UsageError(f"{folder} is no bundle: no bundle.json in it{hint}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / 'bundle.json'} cannot be read: {error}") from None
    facts: dict[str, Any] = content if isinstance(content, dict) else {}
    if facts.get("format") != FORMAT:
        raise UsageError(f"{folder} is a bundle of format {facts.get('format')}; this Prooftune reads format {FORMAT}. Update it.")
    return facts


def abstention_threshold(facts: Mapping[str, Any]) -> float | None:
    """The confidence below which a label is no answer (`evaluation.calibration.abstention`); None where there is none."""
    threshold = (facts.get("abstention") or {}).get("threshold")
    return None if threshold is None or not gives_probabilities(facts) else float(threshold)


def gives_probabilities(facts: Mapping[str, Any]) -> bool:
    """Whether the bundle's answers have probabilities: generated ones have none."""
    return bool(facts["objective"] == "head" or facts["scoring"]["method"] != "generation")


def load(folder: Path) -> Classifier | Answerer:
    """Load a bundle, and its base model by name where the bundle holds an adapter.

    Returns:
        A `Classifier`, or an `Answerer` where the bundle answers questions; both have ``predict``.

    Raises:
        UsageError: the folder is no bundle, or one of a newer Prooftune.
        Failure: the base model that it resolves to has other weights than the one that was tuned.
    """
    facts = read_facts(folder)
    options = recipe.Model(**{k: v for k, v in facts["model"].items() if k != "sha256"})
    base = loading.resolve(options.name, options.revision) if facts["part"] == "adapter" else folder / "model"
    if facts["part"] == "adapter" and loading.weights_digest(base) != facts["model"]["sha256"]:
        raise Failure(f"{options.name} at {base} has other weights than the model this adapter was trained on "
                      f"(sha256 {facts['model']['sha256'][:16]}…); its answers would be another model's")
    model = adapters.load(
        base, folder / facts["part"], options, quantization=facts["quantization"],
        labels=facts["labels"] if facts["objective"] == "head" else None, max_length=facts["rendering"]["max_length"])
    tokenizer = loading.load_tokenizer(folder / "tokenizer")
    if facts["task"] == "classification":
        return Classifier(facts, model, tokenizer)
    from prooftune.bundle.answerer import Answerer

    index = folder / "index"
    return Answerer(facts, model, tokenizer, index if index.is_dir() else None)
