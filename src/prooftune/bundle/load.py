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
from prooftune.bundle.layout import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    tokenizer_folder,
    weights_folder,
)
from prooftune.bundle.manifest import Manifest, base_quantization, read_manifest
from prooftune.bundle.safety import check_files
from prooftune.errors import Failure, ProoftuneError, UsageError
from prooftune.evaluation.calibration import apply_temperature
from prooftune.models import adapters, loading
from prooftune.tasks.classification import predict
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.types import Example, Prediction
from prooftune.utils.files import fingerprint
from prooftune.utils.progress import Subtask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prooftune.bundle.qa import QuestionAnswerer


@dataclass(frozen=True, slots=True)
class LabelPrediction:
    """The predicted label of one text.

    Attributes:
        label: the most probable label; an empty string if the generated text names no label.
        probability: its probability after temperature scaling; None if labels are generated.
        probabilities: label -> probability, summing to 1; empty if labels are generated.
        truncated_tokens: tokens of the text beyond the prompt limit, which the model did not see.
        abstained: whether `probability` is below the bundle's threshold for its target accuracy;
            None without a threshold.
        prompt_tokens: number of prompt tokens.
    """

    label: str
    probability: float | None
    probabilities: dict[str, float]
    truncated_tokens: int = 0
    abstained: bool | None = None
    prompt_tokens: int = 0


class Classifier:
    """A loaded bundle that classifies texts.

    Attributes:
        labels: label names.
        fields: names of the input texts; with a single field, `predict` also takes strings.
        manifest: content of ``bundle.json``.
        model: the transformers or peft model.
        encoder: renders and tokenizes prompts.
    """

    def __init__(
        self,
        manifest: Manifest,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapter: str = adapters.DEFAULT_ADAPTER,
    ) -> None:
        self.manifest, self.model, self._adapter = manifest, model, adapter
        self.labels: list[str] = manifest["labels"]
        self.fields: list[str] = manifest["fields"]
        self.encoder = PromptEncoder(
            Rendering.from_json(manifest["rendering"]), tokenizer, self.fields
        )
        self._scoring = recipe.Scoring(**manifest["scoring"])

    @property
    def facts(self) -> Manifest:
        """The manifest, under its name in version 0.1."""
        return self.manifest

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
        # Both were fitted to the tuned model's probabilities.
        temperature = float(self.manifest.get("temperature") or 1.0) if tuned else 1.0
        threshold = abstention_threshold(self.manifest) if tuned else None
        return [self._calibrate(prediction, temperature, threshold) for prediction in predictions]

    def examples(self, texts: Sequence[str | Mapping[str, str]]) -> list[Example]:
        """The texts as examples with the bundle's fields, in order."""
        return to_examples(texts, self.fields, "text")

    def _calibrate(
        self, prediction: Prediction, temperature: float, threshold: float | None
    ) -> LabelPrediction:
        if not prediction.log_probs:
            return LabelPrediction(
                prediction.output,
                None,
                {},
                prediction.truncated_tokens,
                prompt_tokens=prediction.prompt_tokens,
            )
        log_probs = np.asarray([prediction.log_probs])
        probabilities = np.exp(apply_temperature(log_probs, temperature))[0]
        probability = float(probabilities.max())
        return LabelPrediction(
            prediction.output,
            probability,
            dict(zip(self.labels, probabilities.tolist(), strict=True)),
            prediction.truncated_tokens,
            None if threshold is None else probability < threshold,
            prediction.prompt_tokens,
        )


def abstention_threshold(manifest: Manifest) -> float | None:
    """Probability below which the bundle abstains (`evaluation.abstention.abstention`), if any."""
    abstention = manifest.get("abstention")
    threshold = abstention.get("threshold") if abstention else None
    return None if threshold is None or not has_probabilities(manifest) else float(threshold)


def has_probabilities(manifest: Manifest) -> bool:
    """Whether predictions have label probabilities, that is, are not generated."""
    return bool(manifest["objective"] == "head" or manifest["scoring"]["method"] != "generation")


def load(
    folder: Path,
    shared: dict[str, Any] | None = None,
    *,
    trust_remote_code: bool = False,
    dtype: str | None = None,
) -> Classifier | QuestionAnswerer:
    """Load a bundle; if it holds an adapter, also its base model by name.

    Args:
        folder: a bundle. It is treated as untrusted: pickles, links that leave the folder and
            invalid manifests are refused.
        shared: cache of loaded base models, which is updated. Bundles of the same base model add
            their adapters to one copy; they must not predict at the same time.
        trust_remote_code: whether the base model may run its own Python code, if the bundle's
            recipe allowed that.
        dtype: overrides the recipe's dtype, for example ``float32``.

    Returns:
        A `Classifier`, or a `QuestionAnswerer` for question answering; both have ``predict``.

    Raises:
        UsageError: the folder is not a bundle, was written by a newer Prooftune, or contains a
            forbidden file.
        Failure: the base model's weights differ from those that were tuned.
    """
    manifest = read_manifest(folder)
    check_files(folder)
    trusted = trust_remote_code or os.environ.get("PROOFTUNE_TRUST_REMOTE_CODE") == "1"
    if manifest["model"]["trust_remote_code"] and not trusted:
        raise UsageError(
            f"{folder} says that its model {manifest['model']['name']} may run code of its own. "
            "If you trust both, set PROOFTUNE_TRUST_REMOTE_CODE=1."
        )
    if dtype:
        manifest = {**manifest, "model": {**manifest["model"], "dtype": dtype}}
    model, adapter = _load_model(folder, manifest, shared if shared is not None else {})
    tokenizer = _load_tokenizer(tokenizer_folder(folder, manifest))
    with _explain_load_errors(folder / "bundle.json"):
        if manifest["task"] == "classification":
            return Classifier(manifest, model, tokenizer, adapter)
        from prooftune.bundle.qa import QuestionAnswerer

        index = folder / "index"
        return QuestionAnswerer(
            manifest, model, tokenizer, index if index.is_dir() else None, adapter
        )


def base_model_folder(manifest: Manifest) -> Path:
    """The local folder of the base model, downloaded if needed.

    Raises:
        Failure: its weights differ from those that the adapter was trained on.
    """
    model = manifest["model"]
    base = loading.resolve(model["name"], model["revision"])
    if loading.weights_digest(base) != model["sha256"]:
        raise Failure(
            f"{model['name']} at {base} has other weights than the model this adapter was trained "
            f"on (sha256 {model['sha256'][:16]}…); the bundle would predict something else"
        )
    return base


def model_options(manifest: Manifest) -> recipe.Model:
    """The recipe's ``model`` section."""
    section: dict[str, Any] = {k: v for k, v in manifest["model"].items() if k != "sha256"}
    return recipe.Model(**section)


def _load_model(folder: Path, manifest: Manifest, shared: dict[str, Any]) -> tuple[Any, str]:
    """The bundle's model, and the name of its adapter in the model."""
    options, trained = model_options(manifest), weights_folder(folder, manifest)
    labels = manifest["labels"] if manifest["objective"] == "head" else None
    is_adapter = manifest["part"] == "adapter"
    _check_weights(trained, is_adapter)
    base = base_model_folder(manifest) if is_adapter else trained
    # Two bundles share a base only if weights, dtype, quantization, head and attention are equal.
    key = fingerprint(
        [
            manifest["model"],
            manifest["quantization"],
            labels,
            loading.attention_implementation(options.attention, base),
        ]
    )
    with _explain_load_errors(trained):
        if is_adapter and key in shared:
            return shared[key], adapters.add_adapter(shared[key], trained)
        model = adapters.load_tuned(
            base, trained, options, quantization=base_quantization(manifest), labels=labels
        )
    if is_adapter:
        shared[key] = model
    return model, adapters.DEFAULT_ADAPTER


def _check_weights(folder: Path, is_adapter: bool) -> None:
    """Check that the libraries find the weights in the folder itself.

    Without safetensors, transformers and peft would look for a pickle, and then for a model of that
    name on the hub. With an adapter's configuration, transformers would load another base model.

    Raises:
        UsageError: a file is missing, or a whole model comes with an adapter's configuration.
    """
    weights = ADAPTER_WEIGHTS if is_adapter else "*.safetensors"
    if not list(folder.glob(weights)):
        raise UsageError(f"{folder} holds no weights: no {weights.lstrip('*')} file in it")
    if is_adapter != (folder / ADAPTER_CONFIG).is_file():
        problem = f"no {ADAPTER_CONFIG} in it" if is_adapter else f"{ADAPTER_CONFIG} beside a model"
        raise UsageError(f"{folder} is damaged: {problem}")


def _load_tokenizer(folder: Path) -> Any:
    if not (folder / "tokenizer_config.json").is_file():
        raise UsageError(f"{folder} holds no tokenizer: no tokenizer_config.json in it")
    with _explain_load_errors(folder):
        return loading.load_tokenizer(folder)


@contextlib.contextmanager
def _explain_load_errors(path: Path) -> Iterator[None]:
    """Turn any exception that a library raises on a damaged file into a `Failure`."""
    try:
        yield
    except (ProoftuneError, MemoryError):
        raise
    except Exception as error:
        if "memory" in str(error).lower():
            raise
        raise Failure(
            f"{path} could not be loaded: {type(error).__name__}: {str(error)[:500]}"
        ) from error
