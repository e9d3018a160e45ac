"""Training rows keep what they were given, and almost nothing of them is held."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prooftune.training.rows import TrainingRow, head_rows, instruction_rows

NUMBERS = st.lists(st.integers(0, 2**31 - 1), max_size=20)


@given(ids=NUMBERS, read=NUMBERS, targets=NUMBERS)
def test_a_row_keeps_its_numbers(ids: list[int], read: list[int], targets: list[int]) -> None:
    for row in (
        TrainingRow(ids, read, targets),
        pickle.loads(pickle.dumps(TrainingRow(ids, read, targets))),
    ):
        assert (row.ids, row.label_positions, row.targets, len(row)) == (
            ids,
            read,
            targets,
            len(ids),
        )


@pytest.mark.slow
def test_rows_are_not_held() -> None:
    """Prompts come one by one and go; their numbers lie in a file, of which a block at a time is in
    memory."""
    tokens, count = 100, 20_000

    def prompts() -> Iterator[list[int]]:
        return (list(range(1000 * n, 1000 * n + tokens)) for n in range(count))

    makes: list[Callable[[], Sequence[TrainingRow]]] = [
        lambda: instruction_rows(((ids, [1, 3]) for ids in prompts()), 2),
        lambda: head_rows((ids, 1) for ids in prompts()),
    ]
    for make in makes:
        tracemalloc.start()
        rows = make()
        held, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(rows) == count and len(rows[0]) in (tokens, tokens + 2)
        assert held / count < 20 and most < held + 5_000_000
