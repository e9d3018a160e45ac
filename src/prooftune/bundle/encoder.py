"""Bundles of encoders: a whole model with a classification head, and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from prooftune import recipe
from prooftune.bundle.base_model import why_no_base_model
from prooftune.bundle.classifier import Classifier
from prooftune.bundle.manifest import EncoderManifest
from prooftune.errors import Failure, UsageError
from prooftune.models import encoder, loading
from prooftune.models.encoder import EncoderTokenizer
from prooftune.types import Example, Prediction
from prooftune.utils.progress import Subtask


class EncoderClassifier(Classifier):
    """A loaded bundle that classifies texts with a fine-tuned encoder.

    Attributes:
        manifest: content of ``bundle.json``.
        model: the transformers model.
        tokenizer: tokenises the fields of a text.
    """

    manifest: EncoderManifest

    def __init__(
        self, manifest: EncoderManifest, model: nn.Module, tokenizer: EncoderTokenizer
    ) -> None:
        super().__init__(manifest)
        self.model, self.tokenizer = model, tokenizer

    @property
    def shared_model(self) -> object:
        """The model."""
        return self.model

    def score(
        self, examples: Sequence[Example], *, tuned: bool, description: str | Subtask | None
    ) -> list[Prediction]:
        """Log-probabilities of the labels."""
        if not tuned:
            raise UsageError(f"no prediction of the base model: {why_no_base_model(self.manifest)}")
        section = self.manifest["encoder"]
        return encoder.predict_labels(
            self.model,
            self.tokenizer,
            examples,
            self.labels,
            dtype=loading.compute_dtype(section["dtype"]),
            batch_tokens=section["batch_tokens"],
            description=description,
        )


def load_encoder_bundle(folder: Path, manifest: EncoderManifest) -> EncoderClassifier:
    """Load a bundle whose manifest and files were checked; see `bundle.load.load`.

    Raises:
        UsageError: the folder holds no weights, or an adapter's configuration beside a model.
        Failure: the files cannot be loaded, or are those of another set of labels.
    """
    # Without safetensors transformers would look for a pickle.
    if not list(folder.glob("*.safetensors")):
        raise UsageError(f"{folder} holds no weights: no .safetensors file in it")
    if (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder} is damaged: adapter_config.json beside a model")
    # The caller has asked whether the user trusts the code.
    trusted = manifest["encoder"].get("trust_remote_code", False)
    tokenizer = encoder.load_tokenizer(folder, manifest["encoder"]["max_length"], trusted)
    try:
        model = encoder.load_encoder(
            folder,
            manifest["labels"],
            recipe.Model(name=str(folder), trust_remote_code=trusted),
            several=manifest["task"] == "multilabel",
        )
    except RuntimeError as error:
        raise Failure(f"{folder} could not be loaded: {error}") from error
    # transformers fills in missing weights at random, and only logs it.
    if encoder.new_modules(model):
        missing = ", ".join(encoder.new_modules(model))
        raise Failure(f"{folder} is damaged: its weights lack {missing}")
    return EncoderClassifier(manifest, model, tokenizer)
