"""Load a bundle and predict with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prooftune import recipe
from prooftune.bundle.base_model import asked
from prooftune.bundle.inputs import bar_of, examples_of
from prooftune.bundle.manifest import read_facts
from prooftune.bundle.safety import check_files
from prooftune.errors import Failure, ProoftuneError, UsageError
from prooftune.evaluation.calibration import apply_temperature
from prooftune.models import adapters, loading
from prooftune.tasks.classification import predict
from prooftune.tasks.prompts import PromptEncoder, Rendering
from prooftune.types import Example, Prediction
from prooftune.utils.files import fingerprint
from prooftune.utils.progress import Subtask

if TYPE_CHECKING:
    from prooftune.bundle.qa import Answerer


@dataclass(frozen=True, slots=True)
class Answer:
    """The label of one text.

    Attributes:
        label: the most probable label; an empty string where generation gave none.
        probability: its probability after temperature scaling; None where the bundle generates its
            answers.
        probabilities: label -> probability, summing to 1; empty where the bundle generates its
            answers.
        truncated_tokens: tokens of the text that did not fit and were not read.
        abstained: whether the probability is below the bundle's threshold, so that the label is no
            answer at the accuracy that the study aimed at; None where the bundle has no threshold.
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
        encoder: renders the prompts.
    """

    def __init__(
        self,
        facts: dict[str, Any],
        model: Any,
        tokenizer: Any,
        adapter: str = adapters.DEFAULT_ADAPTER,
    ) -> None:
        self.facts, self.model, self._adapter = facts, model, adapter
        self.labels: list[str] = facts["labels"]
        self.fields: list[str] = facts["fields"]
        self.encoder = PromptEncoder(
            Rendering.from_json(facts["rendering"]), tokenizer, self.fields
        )
        self._scoring = recipe.Scoring(**facts["scoring"])

    def predict(
        self,
        texts: Sequence[str | Mapping[str, str]],
        *,
        progress: bool | Subtask = True,
        tuned: bool = True,
    ) -> list[Answer]:
        """Label every text.

        Args:
            texts: strings, or mappings from field name to text where the bundle reads several
                fields.
            progress: whether to show a bar, for 16 or more; or a part of a bar that is shown.
            tuned: False asks the untuned base model with the same prompt; its probabilities are as
                they come, since the temperature is the tuned model's.

        Raises:
            UsageError: a text lacks a field, or is no text; or there is no untuned model
                (`untuned.no_base`).
        """
        examples = self.examples(texts)
        if not examples:
            return []
        head = self.facts["objective"] == "head"
        with asked(self.facts, self.model, self._adapter, tuned):
            predictions = predict(
                self.model,
                self.encoder,
                examples,
                self._scoring,
                head=head,
                description=bar_of(progress, "Predicting", len(examples)),
            )
        # Both were fitted to the tuned model.
        temperature = float(self.facts.get("temperature") or 1.0) if tuned else 1.0
        threshold = abstention_threshold(self.facts) if tuned else None
        return [self._answer(prediction, temperature, threshold) for prediction in predictions]

    def examples(self, texts: Sequence[str | Mapping[str, str]]) -> list[Example]:
        """What is read of the texts, one example for each, in their order."""
        return examples_of(texts, self.fields, "text")

    def _answer(self, said: Prediction, temperature: float, threshold: float | None) -> Answer:
        if not said.log_probs:
            return Answer(
                said.output, None, {}, said.truncated_tokens, prompt_tokens=said.prompt_tokens
            )
        shares = np.exp(apply_temperature(np.asarray([said.log_probs]), temperature))[0]
        sure = float(shares.max())
        return Answer(
            said.output,
            sure,
            dict(zip(self.labels, shares.tolist(), strict=True)),
            said.truncated_tokens,
            None if threshold is None else sure < threshold,
            said.prompt_tokens,
        )


def abstention_threshold(facts: Mapping[str, Any]) -> float | None:
    """The confidence below which a label is no answer (`evaluation.calibration.abstention`); None
    where there is none."""
    threshold = (facts.get("abstention") or {}).get("threshold")
    return None if threshold is None or not gives_probabilities(facts) else float(threshold)


def gives_probabilities(facts: Mapping[str, Any]) -> bool:
    """Whether the bundle's answers have probabilities: generated ones have none."""
    return bool(facts["objective"] == "head" or facts["scoring"]["method"] != "generation")


def load(
    folder: Path,
    shared: dict[str, Any] | None = None,
    *,
    trust_remote_code: bool = False,
    dtype: str | None = None,
) -> Classifier | Answerer:
    """Load a bundle, and its base model by name where the bundle holds an adapter.

    Args:
        folder: a bundle, which is taken for a stranger's: pickles in it, links out of it and facts
            that cannot be are refused.
        shared: base models that are loaded already; a bundle with the same base adds its adapter
            there instead of loading the base again, and a base that is loaded is added. Bundles
            that share must not predict at the same time.
        trust_remote_code: whether a base model may run Python code of its own, where the bundle's
            recipe allowed it.
        dtype: arithmetic other than the recipe's, such as ``float32`` for what the weights say
            without 16-bit rounding.

    Returns:
        A `Classifier`, or an `Answerer` where the bundle answers questions; both have ``predict``.

    Raises:
        UsageError: the folder is no bundle, or one of a newer Prooftune, or holds what a bundle may
            not hold.
        Failure: the base model that it resolves to has other weights than the one that was tuned.
    """
    facts = read_facts(folder)
    check_files(folder)
    trusted = trust_remote_code or os.environ.get("PROOFTUNE_TRUST_REMOTE_CODE") == "1"
    if facts["model"]["trust_remote_code"] and not trusted:
        raise UsageError(
            f"{folder} says that its model {facts['model']['name']} may run code of its own. If "
            "you trust both, set "
            "PROOFTUNE_TRUST_REMOTE_CODE=1."
        )
    if dtype:
        facts = {**facts, "model": {**facts["model"], "dtype": dtype}}
    model, adapter = _model(folder, facts, shared if shared is not None else {})
    tokenizer = _tokenizer(folder / "tokenizer")
    with _explained(folder / "bundle.json"):
        if facts["task"] == "classification":
            return Classifier(facts, model, tokenizer, adapter)
        from prooftune.bundle.qa import Answerer

        index = folder / "index"
        return Answerer(facts, model, tokenizer, index if index.is_dir() else None, adapter)


def base_folder(facts: Mapping[str, Any]) -> Path:
    """The folder of the model that a bundle's adapter was trained on.

    Raises:
        Failure: what the model's name leads to here has other weights.
    """
    model = facts["model"]
    base = loading.resolve(model["name"], model["revision"])
    if loading.weights_digest(base) != model["sha256"]:
        raise Failure(
            f"{model['name']} at {base} has other weights than the model this adapter was trained "
            "on "
            f"(sha256 {model['sha256'][:16]}…); its answers would be another model's"
        )
    return base


def options_of(facts: Mapping[str, Any]) -> recipe.Model:
    """The recipe's model section, as the bundle keeps it."""
    return recipe.Model(**{k: v for k, v in facts["model"].items() if k != "sha256"})


def _model(folder: Path, facts: Mapping[str, Any], shared: dict[str, Any]) -> tuple[Any, str]:
    """The bundle's model, and the name of its adapter in it."""
    options, trained = options_of(facts), folder / facts["part"]
    labels = facts["labels"] if facts["objective"] == "head" else None
    # Without this file the libraries would look for a pickle, and then for a model of that name on
    # the hub.
    if not list(trained.glob("*.safetensors")):
        raise UsageError(f"{trained} holds no weights: no .safetensors file in it")
    adapted = facts["part"] == "adapter"
    base = base_folder(facts) if adapted else trained
    # All that decides what is loaded: the same weights in the same arithmetic, under the same
    # attention and head.
    key = fingerprint(
        [
            facts["model"],
            facts["quantization"],
            labels,
            loading.attention_implementation(options.attention, base),
        ]
    )
    with _explained(trained):
        if adapted and key in shared:
            return shared[key], adapters.add_adapter(shared[key], trained)
        model = adapters.load_tuned(
            base, trained, options, quantization=facts["quantization"], labels=labels
        )
    if adapted:
        shared[key] = model
    return model, adapters.DEFAULT_ADAPTER


def _tokenizer(folder: Path) -> Any:
    if not (folder / "tokenizer_config.json").is_file():
        raise UsageError(f"{folder} holds no tokenizer: no tokenizer_config.json in it")
    with _explained(folder):
        return loading.load_tokenizer(folder)


@contextlib.contextmanager
def _explained(place: Path) -> Iterator[None]:
    """Around libraries that read files of a bundle, which raise whatever a damaged one leads them
    into."""
    try:
        yield
    except (ProoftuneError, MemoryError):
        raise
    except Exception as error:
        if "memory" in str(error).lower():
            raise
        raise Failure(
            f"{place} could not be loaded: {type(error).__name__}: {str(error)[:500]}"
        ) from error
