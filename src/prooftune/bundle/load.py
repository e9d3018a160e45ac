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
from prooftune.bundle.base_model import select_model
from prooftune.bundle.inputs import progress_label, to_examples
from prooftune.bundle.manifest import read_manifest
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
    from prooftune.bundle.qa import QuestionAnswerer


@dataclass(frozen=True, slots=True)
class LabelPrediction:
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
        manifest: dict[str, Any],
        model: Any,
        tokenizer: Any,
        adapter: str = adapters.DEFAULT_ADAPTER,
    ) -> None:
        self.manifest, self.model, self._adapter = manifest, model, adapter
        self.labels: list[str] = manifest["labels"]
        self.fields: list[str] = manifest["fields"]
        self.encoder = PromptEncoder(
            Rendering.from_json(manifest["rendering"]), tokenizer, self.fields
        )
        self._scoring = recipe.Scoring(**manifest["scoring"])

    def predict(
        self,
        texts: Sequence[str | Mapping[str, str]],
        *,
        progress: bool | Subtask = True,
        tuned: bool = True,
    ) -> list[LabelPrediction]:
        """Label every text.

        Args:
            texts: strings, or mappings from field name to text where the bundle reads several
                fields.
            progress: whether to show a bar, for 16 or more; or a part of a bar that is shown.
            tuned: False asks the untuned base model with the same prompt; its probabilities are as
                they come, since the temperature is the tuned model's.

        Raises:
            UsageError: a text lacks a field, or is no text; or there is no untuned model
                (`untuned.why_no_base_model`).
        """
        examples = self.examples(texts)
        if not examples:
            return []
        head = self.manifest["objective"] == "head"
        with select_model(self.manifest, self.model, self._adapter, tuned):
            predictions = predict(
                self.model,
                self.encoder,
                examples,
                self._scoring,
                head=head,
                description=progress_label(progress, "Predicting", len(examples)),
            )
        # Both were fitted to the tuned model.
        temperature = float(self.manifest.get("temperature") or 1.0) if tuned else 1.0
        threshold = abstention_threshold(self.manifest) if tuned else None
        return [self._answer(prediction, temperature, threshold) for prediction in predictions]

    def examples(self, texts: Sequence[str | Mapping[str, str]]) -> list[Example]:
        """What is read of the texts, one example for each, in their order."""
        return to_examples(texts, self.fields, "text")

    def _answer(
        self, said: Prediction, temperature: float, threshold: float | None
    ) -> LabelPrediction:
        if not said.log_probs:
            return LabelPrediction(
                said.output, None, {}, said.truncated_tokens, prompt_tokens=said.prompt_tokens
            )
        shares = np.exp(apply_temperature(np.asarray([said.log_probs]), temperature))[0]
        sure = float(shares.max())
        return LabelPrediction(
            said.output,
            sure,
            dict(zip(self.labels, shares.tolist(), strict=True)),
            said.truncated_tokens,
            None if threshold is None else sure < threshold,
            said.prompt_tokens,
        )


def abstention_threshold(manifest: Mapping[str, Any]) -> float | None:
    """The confidence below which a label is no answer (`evaluation.calibration.abstention`); None
    where there is none."""
    threshold = (manifest.get("abstention") or {}).get("threshold")
    return None if threshold is None or not has_probabilities(manifest) else float(threshold)


def has_probabilities(manifest: Mapping[str, Any]) -> bool:
    """Whether the bundle's answers have probabilities: generated ones have none."""
    return bool(manifest["objective"] == "head" or manifest["scoring"]["method"] != "generation")


def load(
    folder: Path,
    shared: dict[str, Any] | None = None,
    *,
    trust_remote_code: bool = False,
    dtype: str | None = None,
) -> Classifier | QuestionAnswerer:
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
        A `Classifier`, or an `QuestionAnswerer` where the bundle answers questions; both have ``predict``.

    Raises:
        UsageError: the folder is no bundle, or one of a newer Prooftune, or holds what a bundle may
            not hold.
        Failure: the base model that it resolves to has other weights than the one that was tuned.
    """
    manifest = read_manifest(folder)
    check_files(folder)
    trusted = trust_remote_code or os.environ.get("PROOFTUNE_TRUST_REMOTE_CODE") == "1"
    if manifest["model"]["trust_remote_code"] and not trusted:
        raise UsageError(
            f"{folder} says that its model {manifest['model']['name']} may run code of its own. If "
            "you trust both, set "
            "PROOFTUNE_TRUST_REMOTE_CODE=1."
        )
    if dtype:
        manifest = {**manifest, "model": {**manifest["model"], "dtype": dtype}}
    model, adapter = _model(folder, manifest, shared if shared is not None else {})
    tokenizer = _tokenizer(folder / "tokenizer")
    with _explained(folder / "bundle.json"):
        if manifest["task"] == "classification":
            return Classifier(manifest, model, tokenizer, adapter)
        from prooftune.bundle.qa import QuestionAnswerer

        index = folder / "index"
        return QuestionAnswerer(
            manifest, model, tokenizer, index if index.is_dir() else None, adapter
        )


def base_model_folder(manifest: Mapping[str, Any]) -> Path:
    """The folder of the model that a bundle's adapter was trained on.

    Raises:
        Failure: what the model's name leads to here has other weights.
    """
    model = manifest["model"]
    base = loading.resolve(model["name"], model["revision"])
    if loading.weights_digest(base) != model["sha256"]:
        raise Failure(
            f"{model['name']} at {base} has other weights than the model this adapter was trained "
            "on "
            f"(sha256 {model['sha256'][:16]}…); its answers would be another model's"
        )
    return base


def model_options(manifest: Mapping[str, Any]) -> recipe.Model:
    """The recipe's model section, as the bundle keeps it."""
    return recipe.Model(**{k: v for k, v in manifest["model"].items() if k != "sha256"})


def _model(folder: Path, manifest: Mapping[str, Any], shared: dict[str, Any]) -> tuple[Any, str]:
    """The bundle's model, and the name of its adapter in it."""
    options, trained = model_options(manifest), folder / manifest["part"]
    labels = manifest["labels"] if manifest["objective"] == "head" else None
    # Without this file the libraries would look for a pickle, and then for a model of that name on
    # the hub.
    if not list(trained.glob("*.safetensors")):
        raise UsageError(f"{trained} holds no weights: no .safetensors file in it")
    adapted = manifest["part"] == "adapter"
    base = base_model_folder(manifest) if adapted else trained
    # All that decides what is loaded: the same weights in the same arithmetic, under the same
    # attention and head.
    key = fingerprint(
        [
            manifest["model"],
            manifest["quantization"],
            labels,
            loading.attention_implementation(options.attention, base),
        ]
    )
    with _explained(trained):
        if adapted and key in shared:
            return shared[key], adapters.add_adapter(shared[key], trained)
        model = adapters.load_tuned(
            base, trained, options, quantization=manifest["quantization"], labels=labels
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
