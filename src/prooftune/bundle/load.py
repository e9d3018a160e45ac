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
from prooftune.bundle.untuned import asked
from prooftune.errors import Failure, UsageError
from prooftune.evaluation.calibration import apply_temperature
from prooftune.files import fingerprint, read_json
from prooftune.models import adapters, loading
from prooftune.records import Prediction
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
        prompt_tokens: tokens that were read.
    """

    label: str
    probability: float | None
    probabilities: dict[str, float]
    truncated_tokens: int = 0
    abstained: bool | None = None
    prompt_tokens: int = 0


class Classifier:
    """A loaded bundle.

    Attributes:
        labels: the label names.
        fields: names of the input texts; one text may be given as a plain string.
        facts: the content of ``bundle.json``.
        model: the model, for whoever wants to go on with it.
    """

    def __init__(self, facts: dict[str, Any], model: Any, tokenizer: Any, adapter: str = adapters.FIRST) -> None:
        self.facts, self.model, self._adapter = facts, model, adapter
        self.labels: list[str] = facts["labels"]
        self.fields: list[str] = facts["fields"]
        self._encoder = Encoder(Rendering.from_json(facts["rendering"]), tokenizer, self.fields)
        self._scoring = recipe.Scoring(**facts["scoring"])

    def predict(
        self, texts: Sequence[str | Mapping[str, str]], *, progress: bool = True, tuned: bool = True
    ) -> list[Answer]:
        """Label every text.

        Args:
            texts: strings, or mappings from field name to text where the bundle reads several fields.
            progress: whether to show a bar.
            tuned: False asks the untuned base model with the same prompt; its probabilities are as they come, since the
                temperature is the tuned model's.

        Raises:
            UsageError: a text lacks a field, or is no text; or there is no untuned model (`untuned.no_base`).
        """
        examples = examples_of(texts, self.fields, "text")
        if not examples:
            return []
        head = self.facts["objective"] == "head"
        with asked(self.facts, self.model, self._adapter, tuned):
            predictions = predict(self.model, self._encoder, examples, self._scoring, head=head,
                                  description="Predicting" if progress else None)
        # Both were fitted to the tuned model.
        temperature = float(self.facts.get("temperature") or 1.0) if tuned else 1.0
        threshold = abstention_threshold(self.facts) if tuned else None
        return [self._answer(prediction, temperature, threshold) for prediction in predictions]

    def _answer(self, said: Prediction, temperature: float, threshold: float | None) -> Answer:
        if not said.log_probs:
            return Answer(said.output, None, {}, said.truncated_tokens, prompt_tokens=said.prompt_tokens)
        shares = np.exp(apply_temperature(np.asarray([said.log_probs]), temperature))[0]
        sure = float(shares.max())
        return Answer(said.output, sure, dict(zip(self.labels, shares.tolist(), strict=True)), said.truncated_tokens,
                      None if threshold is None else sure < threshold, said.prompt_tokens)


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


def load(folder: Path, shared: dict[str, Any] | None = None) -> Classifier | Answerer:
    """Load a bundle, and its base model by name where the bundle holds an adapter.

    Args:
        folder: the bundle.
        shared: base models that are loaded already; a bundle with the same base adds its adapter there instead of loading
            the base again, and a base that is loaded is added. Bundles that share must not predict at the same time.

    Returns:
        A `Classifier`, or an `Answerer` where the bundle answers questions; both have ``predict``.

    Raises:
        UsageError: the folder is no bundle, or one of a newer Prooftune.
        Failure: the base model that it resolves to has other weights than the one that was tuned.
    """
    facts = read_facts(folder)
    model, adapter = _model(folder, facts, shared if shared is not None else {})
    tokenizer = loading.load_tokenizer(folder / "tokenizer")
    if facts["task"] == "classification":
        return Classifier(facts, model, tokenizer, adapter)
    from prooftune.bundle.answerer import Answerer

    index = folder / "index"
    return Answerer(facts, model, tokenizer, index if index.is_dir() else None, adapter)


def _model(folder: Path, facts: dict[str, Any], shared: dict[str, Any]) -> tuple[Any, str]:
    """The bundle's model, and the name of its adapter in it."""
    options = recipe.Model(**{k: v for k, v in facts["model"].items() if k != "sha256"})
    labels, longest = facts["labels"] if facts["objective"] == "head" else None, facts["rendering"]["max_length"]
    trained = folder / facts["part"]
    if facts["part"] != "adapter":
        return adapters.load(trained, trained, options, quantization=facts["quantization"], labels=labels,
                             max_length=longest), adapters.FIRST
    base = loading.resolve(options.name, options.revision)
    if loading.weights_digest(base) != facts["model"]["sha256"]:
        raise Failure(f"{options.name} at {base} has other weights than the model this adapter was trained on "
                      f"(sha256 {facts['model']['sha256'][:16]}…); its answers would be another model's")
    # All that decides what is loaded: the same weights in the same arithmetic, under the same attention and head.
    key = fingerprint([facts["model"], facts["quantization"], labels, loading.attention(options.attention, base, longest)])
    if key in shared:
        return shared[key], adapters.add(shared[key], trained)
    shared[key] = adapters.load(base, trained, options, quantization=facts["quantization"], labels=labels, max_length=longest)
    return shared[key], adapters.FIRST
