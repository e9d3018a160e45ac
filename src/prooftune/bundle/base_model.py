"""The untuned model under a bundle: asked with the bundle's own prompt, so that what tuning changed
can be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prooftune.errors import UsageError
from prooftune.models import adapters


def why_no_base_model(manifest: Mapping[str, Any]) -> str | None:
    """Why a bundle cannot be asked as its untuned base model; None: it can."""
    if manifest["objective"] == "head":
        return (
            "this bundle ends in a classification head, and a head has no answers before it is "
            "tuned"
        )
    if manifest["part"] != "adapter":
        return "all weights of this bundle were tuned, and it holds none of the untuned model's"
    return None


@contextmanager
def select_model(
    manifest: Mapping[str, Any], model: Any, adapter: str, tuned: bool
) -> Iterator[None]:
    """The model as the bundle asks it, or without what was tuned.

    Args:
        manifest: the content of ``bundle.json``.
        model: may hold other bundles' adapters beside this one's.
        adapter: name of this bundle's adapter in it.
        tuned: whether the adapter is at work.

    Raises:
        UsageError: the untuned model is asked for, and there is none.
    """
    reason = None if tuned else why_no_base_model(manifest)
    if reason is not None:
        raise UsageError(f"no untuned answer: {reason}")
    if manifest["part"] != "adapter":
        yield
        return
    with adapters.use_adapter(model, adapter if tuned else None):
        yield
