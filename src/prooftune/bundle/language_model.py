"""Load a bundle of a language model: its base model, its adapter or weights, and its tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune import recipe
from prooftune.bundle.base_model import base_model_folder, model_options, select_model
from prooftune.bundle.classifier import Classifier
from prooftune.bundle.layout import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    tokenizer_folder,
    weights_folder,
)
from prooftune.bundle.manifest import Manifest, base_quantization
from prooftune.errors import Failure, ProoftuneError, UsageError
from prooftune.models import adapters, loading
from prooftune.recipe.data import LABEL_TASKS
from prooftune.tasks.classification import predict
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.types import Example, Prediction
from prooftune.utils.files import fingerprint
from prooftune.utils.progress import Subtask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prooftune.bundle.qa import QuestionAnswerer


class LanguageModelClassifier(Classifier):
    """A loaded bundle that classifies texts with a language model.

    Attributes:
        manifest: content of ``bundle.json``.
        model: the transformers or peft model.
        encoder: renders and tokenizes prompts.
    """

    manifest: Manifest

    def __init__(
        self,
        manifest: Manifest,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapter: str = adapters.DEFAULT_ADAPTER,
    ) -> None:
        super().__init__(manifest)
        self.model, self._adapter = model, adapter
        self.encoder = PromptEncoder(
            Rendering.from_json(manifest["rendering"]), tokenizer, self.fields
        )
        self._scoring = recipe.Scoring(**manifest["scoring"])

    @property
    def shared_model(self) -> object:
        """The model, which adapters of several bundles may share."""
        return self.model

    def score(
        self, examples: Sequence[Example], *, tuned: bool, description: str | Subtask | None
    ) -> list[Prediction]:
        """Score the labels with the bundle's prompt."""
        head = self.manifest["objective"] == "head"
        with select_model(self.manifest, self.model, self._adapter, tuned):
            return predict(
                self.model,
                self.encoder,
                examples,
                self._scoring,
                head=head,
                several=self.several,
                description=description,
            )


def load_language_model(
    folder: Path, manifest: Manifest, shared: dict[str, Any]
) -> LanguageModelClassifier | QuestionAnswerer:
    """Load a bundle whose manifest and files were checked; see `bundle.load.load`."""
    model, adapter = _load_model(folder, manifest, shared)
    tokenizer = _load_tokenizer(tokenizer_folder(folder, manifest))
    with _explain_load_errors(folder / "bundle.json"):
        if manifest["task"] in LABEL_TASKS:
            return LanguageModelClassifier(manifest, model, tokenizer, adapter)
        from prooftune.bundle.qa import QuestionAnswerer

        index = folder / "index"
        return QuestionAnswerer(
            manifest, model, tokenizer, index if index.is_dir() else None, adapter
        )


def _load_model(folder: Path, manifest: Manifest, shared: dict[str, Any]) -> tuple[Any, str]:
    """The bundle's model, and the name of its adapter in the model."""
    options, trained = model_options(manifest), weights_folder(folder, manifest)
    labels = manifest["labels"] if manifest["objective"] == "head" else None
    part = manifest["part"]
    if part != "base":
        _check_weights(trained, part == "adapter")
    base = trained if part == "model" else base_model_folder(manifest)
    # Two bundles share a base only if weights, dtype, quantization, head and attention are equal.
    key = fingerprint(
        [
            manifest["model"],
            manifest["quantization"],
            labels,
            loading.attention_implementation(options.attention, base),
            *(["untuned"] if part == "base" else []),  # peft's layers are not in this one
        ]
    )
    quantization = base_quantization(manifest)
    with _explain_load_errors(trained):
        if part == "adapter" and key in shared:
            return shared[key], adapters.add_adapter(shared[key], trained)
        if part == "base" and key in shared:
            return shared[key], adapters.DEFAULT_ADAPTER
        if part == "base":
            model: Any = loading.load_model(base, options, quantization=quantization)
        else:
            model = adapters.load_tuned(
                base, trained, options, quantization=quantization, labels=labels
            )
    # A whole model is one bundle's own; base models are shared.
    if part != "model":
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
        # CUDA reports a lack of memory as a RuntimeError; then the file is not damaged.
        if "memory" in str(error).lower():
            raise
        raise Failure(
            f"{path} could not be loaded: {type(error).__name__}: {str(error)[:500]}"
        ) from error
