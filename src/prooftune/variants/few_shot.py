"""Few-shot examples: training rows that are shown in the prompt."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from prooftune.tasks.rendering import Shot

if TYPE_CHECKING:
    from prooftune.variants.context import VariantContext


def sample_few_shot(context: VariantContext, count: int) -> tuple[Shot, ...]:
    """Sample few-shot examples from the training rows, the strata (labels) in turn.

    Each stratum's examples are drawn from the shorter half of its training rows: long ones would
    leave too little of the prompt for the input.

    Args:
        context: its study has the rows, its recipe the seed.
        count: number of examples; fewer if there are not enough rows.
    """
    train, strata = context.study.train, context.study.strata()
    generator = random.Random(context.recipe.seed)
    pools: dict[str, list[tuple[int, str, int]]] = {label: [] for label in strata}
    for i, example in enumerate(train):
        if example.stratum in pools:
            length = sum(map(len, example.inputs.values()))
            # The id breaks ties, so that the order of the rows in the file does not matter.
            pools[example.stratum].append((length, example.id, i))
    for label, rows in pools.items():
        shorter_half = sorted(rows)[: (len(rows) + 1) // 2]
        pools[label] = generator.sample(shorter_half, len(shorter_half))
    order = generator.sample(strata, len(strata))
    shots: list[Shot] = []
    while len(shots) < count and any(pools.values()):
        for label in order:
            if pools[label] and len(shots) < count:
                example = train[pools[label].pop()[2]]
                shots.append(Shot(example.inputs, context.task_adapter.target_text(example)))
    return tuple(shots)
