"""The recipe: the typed description of a study.

`load` reads a YAML file or a shipped recipe, applies overrides, and validates the result. The error
message lists every problem, each with its path in the recipe and the nearest valid name.
"""

from prooftune.recipe.base import Section
from prooftune.recipe.bundle import Card
from prooftune.recipe.data import TASKS, Audit, Data, Limit, Source, SourceOptions, Split, Task
from prooftune.recipe.diff import differences
from prooftune.recipe.evaluation import Evaluation
from prooftune.recipe.judge import Judge
from prooftune.recipe.learning_curve import LearningCurve
from prooftune.recipe.loading import (
    describe_shipped,
    dump,
    load,
    parse,
    shipped_names,
    shipped_text,
)
from prooftune.recipe.model import DATA_CONTEXT, Answering, Model, Prompt, Retrieval, Scoring
from prooftune.recipe.pretraining import Pretraining
from prooftune.recipe.sections import Recipe
from prooftune.recipe.variants import VARIANT_KINDS, Variant, VariantKind

__all__ = [
    "DATA_CONTEXT",
    "TASKS",
    "VARIANT_KINDS",
    "Answering",
    "Audit",
    "Card",
    "Data",
    "Evaluation",
    "Judge",
    "LearningCurve",
    "Limit",
    "Model",
    "Pretraining",
    "Prompt",
    "Recipe",
    "Retrieval",
    "Scoring",
    "Section",
    "Source",
    "SourceOptions",
    "Split",
    "Task",
    "Variant",
    "VariantKind",
    "describe_shipped",
    "differences",
    "dump",
    "load",
    "parse",
    "shipped_names",
    "shipped_text",
]
