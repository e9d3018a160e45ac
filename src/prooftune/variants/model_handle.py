"""A model together with how to load it, so that every process of a run can predict with it."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from prooftune.engine.compatibility import check_output_head
from prooftune.recipe import Recipe
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.tasks.task import task_for
from prooftune.types import Example, Prediction
from prooftune.utils import distributed
from prooftune.variants.context import VariantContext

_loaded: dict[bytes, Any] = {}
"""On worker ranks: the model loaded last, by the pickle of its loader."""


class ModelHandle:
    """A model and its loader. Pickling keeps only the loader; unpickling loads the model."""

    def __init__(self, load: Callable[[], Any]) -> None:
        """Load the model.

        Args:
            load: returns the model; must be picklable (a module's function, or a
                `functools.partial` of one).
        """
        self._load, self.model = load, load()

    def release(self) -> None:
        """Free the model's memory; the handle cannot predict afterwards."""
        self.model = None
        # Modules refer to one another in cycles, which reference counts do not free.
        gc.collect()

    def __getstate__(self) -> Callable[[], Any]:
        return self._load

    def __setstate__(self, load: Callable[[], Any]) -> None:
        # The loader names files and options, so its pickle identifies the model.
        key = pickle.dumps(load)
        if key not in _loaded:
            release_cached_model()
            _loaded[key] = load()
        self._load, self.model = load, _loaded[key]

    def predict(
        self,
        recipe: Recipe,
        encoder: PromptEncoder,
        examples: Sequence[Example],
        head: bool,
        description: str,
    ) -> list[Prediction]:
        """Predict the examples, in their order. Each rank predicts its shard.

        Args:
            recipe: the task and its settings.
            encoder: renders the prompts.
            examples: their targets are not used.
            head: whether the model ends in a classification head.
            description: text of the progress bar.
        """
        return distributed.merge_shards(
            distributed.run_on_all_ranks(
                _predict_shard, self, recipe, encoder, list(examples), head, description
            )
        )


def base_model_handle(context: VariantContext) -> ModelHandle:
    """The study's untuned causal model, checked to have an output head that the engine supports."""
    return ModelHandle(partial(_load_checked, context.base_loader()))


def _load_checked(load: Callable[[], Any]) -> Any:
    model = load()
    check_output_head(model)
    return model


def release_cached_model() -> None:
    """Release the model that this worker rank caches, to free memory for training."""
    _loaded.clear()


def _predict_shard(
    handle: ModelHandle,
    recipe: Recipe,
    encoder: PromptEncoder,
    examples: list[Example],
    head: bool,
    description: str,
) -> list[Prediction]:
    return task_for(recipe).predict(
        handle.model, encoder, distributed.local_shard(examples), head, description
    )
