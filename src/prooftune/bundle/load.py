"""Load a bundle of any kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.bundle.base_model import why_no_base_model
from prooftune.bundle.classifier import Classifier
from prooftune.bundle.manifest import ClassifierManifest, is_encoder, is_text_classifier
from prooftune.bundle.manifest_reader import read_manifest
from prooftune.bundle.safety import check_files
from prooftune.errors import UsageError
from prooftune.models.text_classifier import TextClassifier, load_classifier
from prooftune.types import Example, Prediction
from prooftune.utils.progress import Subtask

if TYPE_CHECKING:
    from prooftune.bundle.qa import QuestionAnswerer


class FeatureClassifier(Classifier):
    """A loaded bundle that classifies texts without a language model: class frequencies, TF-IDF or
    sentence embeddings.

    Attributes:
        manifest: content of ``bundle.json``.
        classifier: features and weights.
    """

    manifest: ClassifierManifest

    def __init__(self, manifest: ClassifierManifest, classifier: TextClassifier) -> None:
        super().__init__(manifest)
        self.classifier = classifier

    def score(
        self, examples: Sequence[Example], *, tuned: bool, description: str | Subtask | None
    ) -> list[Prediction]:
        """Log-probabilities of the labels."""
        if not tuned:
            raise UsageError(f"no prediction of the base model: {why_no_base_model(self.manifest)}")
        return self.classifier.predict(examples, self.labels, description)


def load(
    folder: Path,
    shared: dict[str, Any] | None = None,
    *,
    trust_remote_code: bool = False,
    dtype: str | None = None,
) -> Classifier | QuestionAnswerer:
    """Load a bundle of any kind; if its base or embedding model is not in it, also that by name.

    Args:
        folder: a bundle. It is treated as untrusted: pickles, links that leave the folder and
            invalid manifests are refused.
        shared: cache of loaded base models, which is updated. Bundles of the same base model add
            their adapters to one copy; they must not predict at the same time.
        trust_remote_code: whether the base model or the encoder may run its own Python code, if the
            bundle's recipe allowed that.
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
    if is_text_classifier(manifest):
        classifier = load_classifier(folder, manifest["classifier"])
        return FeatureClassifier(manifest, classifier)
    trusted = trust_remote_code or os.environ.get("PROOFTUNE_TRUST_REMOTE_CODE") == "1"
    section = manifest["encoder"] if is_encoder(manifest) else manifest["model"]
    if section.get("trust_remote_code") and not trusted:
        raise UsageError(
            f"{folder} says that its model {section['name']} may run custom code. "
            "If you trust both, set PROOFTUNE_TRUST_REMOTE_CODE=1."
        )
    if is_encoder(manifest):
        from prooftune.bundle.encoder import load_encoder_bundle

        return load_encoder_bundle(folder, manifest)
    if dtype:
        manifest = {**manifest, "model": {**manifest["model"], "dtype": dtype}}
    # Imported here, because a classifier without a language model must not wait for PyTorch.
    from prooftune.bundle.language_model import load_language_model

    return load_language_model(folder, manifest, shared if shared is not None else {})
