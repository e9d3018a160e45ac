"""The recipe sections for what is shipped: the bundle and its model card."""

from __future__ import annotations

from pydantic import Field

from prooftune.recipe.base import Section


class Card(Section):
    """Information for the model card that cannot be computed. It has no effect on the study."""

    model_licence: str | None = None
    """Licence of the base model, by its hub identifier if it has one: ``apache-2.0``, ``llama3.2``.
    """
    data_licence: str | None = None
    """Licence of the data."""
    intended_use: str | None = None
    """Intended use of the tuned model."""
    limits: str | None = None
    """Known limitations and uses that are out of scope."""
    base_model: str | None = None
    """Hub name of the base model, if `model.name` is a folder or a package."""


class Bundle(Section):
    golden: int = Field(default=64, ge=0)
    """Number of validation rows stored in the bundle with their text and the model's predictions
    (the golden set). Every export is checked against them. 0: none, for data that must not leave
    your premises; exports then need ``--golden``."""
    variant: str | None = None
    """Variant to ship, of any kind; a tuned one is also judged. ``best``: the best of all variants
    on validation rows by ``evaluation.primary``, and of equally good ones the cheapest kind.
    Default: the best tuned variant on validation rows; without a tuned variant, no bundle."""
