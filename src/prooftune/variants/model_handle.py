"""A model that answers for a study, in every process of the run."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from prooftune.engine.forward import check_output_head
from prooftune.recipe import Recipe
from prooftune.tasks.prompts import PromptEncoder
from prooftune.tasks.task import task_for
from prooftune.types import Example, Prediction
from prooftune.utils import distributed
from prooftune.variants.context import VariantContext

_kept: dict[bytes, Any] = {}
"""In a helper: the last model that it was asked to load, by how it is loaded."""


class ModelHandle:
    """A model and how it is loaded. Sent to another process, only the latter goes, and the model is
    loaded there."""

    def __init__(self, load: Callable[[], Any]) -> None:
        """Args:
        load: gives the model; a function of a module, or a `functools.partial` of one.
        """
        self._load, self.model = load, load()

    def __getstate__(self) -> Callable[[], Any]:
        return self._load

    def __setstate__(self, load: Callable[[], Any]) -> None:
        key = pickle.dumps(load)
        if key not in _kept:
            release_cached_model()
            _kept[key] = load()
        self._load, self.model = load, _kept[key]

    def predict(
        self,
        recipe: Recipe,
        encoder: PromptEncoder,
        examples: Sequence[Example],
        head: bool,
        description: str,
    ) -> list[Prediction]:
        """Predict the examples, in their order; each process predicts its share.

        Args:
            recipe: the task and its settings.
            encoder: renders the prompts.
            examples: what is asked.
            head: whether the model ends in a classification head.
            description: what the progress bar says.
        """
        return distributed.merge_shards(
            distributed.run_on_all_ranks(
                _predicted, self, recipe, encoder, list(examples), head, description
            )
        )


def base_model_handle(context: VariantContext) -> ModelHandle:
    """The study's untuned causal model, checked to be one that the engine can ask."""
    return ModelHandle(partial(_checked, context.base_loader()))


def _checked(load: Callable[[], Any]) -> Any:
    model = load()
    check_output_head(model)
    return model


def release_cached_model() -> None:
    """Let go of the model that this process keeps as a helper, before training needs the memory."""
    _kept.clear()


def _predicted(
    held: ModelHandle,
    recipe: Recipe,
    encoder: PromptEncoder,
    examples: list[Example],
    head: bool,
    description: str,
) -> list[Prediction]:
    return task_for(recipe).predict(
        held.model, encoder, distributed.local_shard(examples), head, description
    )
