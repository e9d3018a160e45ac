"""The untuned base model of a bundle, prompted like the bundle to show the effect of tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prooftune.bundle.manifest import Manifest
from prooftune.errors import UsageError
from prooftune.models import adapters

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def why_no_base_model(manifest: Manifest) -> str | None:
    """The reason why a bundle has no untuned model to compare with; None if it has one."""
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
    with adapters.use_adapter(model, adapter if tuned else None):
        yield
