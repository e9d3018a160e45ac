"""The untuned base model of a bundle, prompted like the bundle to show the effect of tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune import recipe
from prooftune.bundle.manifest import CommonManifest, Manifest, is_encoder, is_language_model
from prooftune.errors import Failure, UsageError
from prooftune.models import loading

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def why_no_base_model(manifest: CommonManifest) -> str | None:
    """The reason why a bundle has no untuned model to compare with; None if it has one."""
    if is_encoder(manifest):
        return "an encoder without its trained head has no predictions"
    if not is_language_model(manifest):
        return f"this bundle ({manifest['method']}) contains no language model"
    if manifest["part"] == "base":
        return "this bundle is the untuned model itself"
    if manifest["objective"] == "head":
        return "this bundle ends in a classification head, and an untrained head has no predictions"
    if manifest["part"] != "adapter":
        return "all weights of this bundle were tuned, and it does not contain the original ones"
    return None


@contextmanager
def select_model(
    manifest: Manifest, model: PreTrainedModel, adapter: str, tuned: bool
) -> Iterator[None]:
    """Enable or disable a bundle's adapter inside the context.

    Args:
        manifest: the bundle's manifest.
        model: may hold adapters of other bundles, too, which are disabled.
        adapter: name of this bundle's adapter in the model.
        tuned: whether to enable the adapter.

    Raises:
        UsageError: `tuned` is False and the bundle has no untuned model.
    """
    reason = None if tuned else why_no_base_model(manifest)
    if reason is not None:
        raise UsageError(f"no prediction of the base model: {reason}")
    if manifest["part"] != "adapter":
        yield
        return
    from prooftune.models import adapters

    with adapters.use_adapter(model, adapter if tuned else None):
        yield


def base_model_folder(manifest: Manifest) -> Path:
    """The local folder of the base model, downloaded if needed.

    Raises:
        Failure: its weights differ from those that the adapter was trained on.
    """
    model = manifest["model"]
    base = loading.resolve(model["name"], model["revision"])
    # A repository or folder may have changed behind the same name.
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
