"""The recipe: the typed description of a study.

`load` reads a YAML file (or the name of a shipped recipe), applies overrides, and reports every
problem it finds at once, each with the place in the recipe and the nearest known word.
"""

from prooftune.recipe.loading import describe_shipped, dump, load, parse, shipped
from prooftune.recipe.sections import (
    KINDS,
    Audit,
    Data,
    Evaluation,
    Limit,
    Model,
    Prompt,
    Reading,
    Recipe,
    Scoring,
    Section,
    Source,
    Split,
    Variant,
    VariantKind,
)

__all__ = [
    "KINDS", "Audit", "Data", "Evaluation", "Limit", "Model", "Prompt", "Reading", "Recipe", "Scoring", "Section",
    "Source", "Split", "Variant", "VariantKind", "describe_shipped", "dump", "load", "parse", "shipped",
]
