"""Generation is the library's greedy decoding, whatever the batch, the prefix and what else is
scored on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prooftune import recipe
from prooftune.engine.attention import shared_prefix
from prooftune.engine.batching import batch_prefix_groups, group_by_common_prefix
from prooftune.engine.decoding import ContinuousBatcher
from prooftune.engine.generation import generate
from prooftune.engine.kv_cache import KVCache
from prooftune.engine.sequences import Generated, PrefillBatch
from prooftune.models.loading import load_model

PREFIX = list(range(40, 62))
ROWS = [[5, 6, 7], [9], list(range(10, 33)), [70, 71, 72, 73], [33, 34]]


def loaded(folder: Path) -> Any:
    return load_model(
        folder,
        recipe.Model.model_validate(
            {"name": "tiny", "dtype": "float32", "attention": shared_prefix.NAME}
        ),
    )


def run(
    model: Any,
    rows: list[list[int]],
    stop: int,
    prefix: list[int] = PREFIX,
    limit: int = 12,
    **options: Any,
) -> list[Generated]:
    done: dict[int, Generated] = {}
    for numbers, written in generate(model, prefix, rows, stop, max_new_tokens=limit, **options):
        done |= dict(zip(numbers, written, strict=True))
    return [done[i] for i in range(len(rows))]


def slow(
    model: Any, row: list[int], stop: int, limit: int = 12, refused: tuple[int, ...] = ()
) -> tuple[list[int], float]:
    """One token at a time from the model's full logits, by the library's attention, without a
    cache."""
    model.set_attn_implementation("eager")
    ids, written, total = [*PREFIX, *row], [], 0.0
    with torch.no_grad():
        for step in range(limit):
            log_probs = torch.log_softmax(
                model(torch.tensor([ids]), use_cache=False).logits[0, -1], -1
            )
            allowed = log_probs.clone()
            if step == 0 and refused:
                allowed[list(refused)] = -torch.inf
            token = int(allowed.argmax())
            total += float(log_probs[token])
            if token == stop:
                break
            ids.append(token)
            written.append(token)
    model.set_attn_implementation(shared_prefix.NAME)
    return written, total


def stop_of(model: Any) -> int:
    """A token that the model writes early after the first row, so that rows end at different times."""
    return slow(model, ROWS[0], stop=-1)[0][3]


def test_texts_and_probabilities_are_those_of_the_slow_way(model_folder: Path) -> None:
    model = loaded(model_folder)
    stop = stop_of(model)
    written = run(model, ROWS, stop)
    assert any(done.stopped for done in written)
    for row, done in zip(ROWS, written, strict=True):
        ids, total = slow(model, row, stop)
        assert done.ids == ids
        assert done.stopped == (len(ids) < 12)
        assert done.log_prob == pytest.approx(total, abs=2e-3)


@pytest.mark.failure(14)
def test_neither_batch_nor_prefix_changes_a_text(model_folder: Path) -> None:
    model = loaded(model_folder)
    stop = stop_of(model)
    together = [done.ids for done in run(model, ROWS, stop)]
    assert [done.ids for done in run(model, ROWS, stop, batch_tokens=1)] == together
    assert [
        done.ids for done in run(model, [[*PREFIX, *row] for row in ROWS], stop, prefix=[])
    ] == together


def test_the_library_writes_the_same_where_ours_does_not_fit(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(model_folder)
    stop = stop_of(model)
    ours = run(model, ROWS, stop, alternative_ids=[21, 22, stop])
    model.set_attn_implementation("eager")
    monkeypatch.setattr(
        "prooftune.engine.compatibility.prefix_matches_full_pass", lambda body, ids: False
    )
    theirs = run(model, ROWS, stop, alternative_ids=[21, 22, stop])
    for a, b in zip(ours, theirs, strict=True):
        assert a.ids == b.ids
        assert a.stopped == b.stopped
        assert a.log_prob == pytest.approx(b.log_prob, abs=2e-3)
        assert a.no_answer_log_prob == pytest.approx(b.no_answer_log_prob, abs=2e-3)


def test_what_is_scored_instead_is_scored_exactly_and_never_begun(model_folder: Path) -> None:
    model = loaded(model_folder)
    first = slow(model, ROWS[0], stop=-1)[0][0]
    stop = 2 if first != 2 else 3
    instead = [first, 22, stop]
    for row, done in zip(ROWS, run(model, ROWS, stop, alternative_ids=instead), strict=True):
        ids, total = slow(model, row, stop, refused=(first, stop))
        assert (done.ids, done.ids[0] != first) == (ids, True)
        assert done.log_prob == pytest.approx(total, abs=2e-3)
        with torch.no_grad():
            whole = torch.tensor([[*PREFIX, *row, *instead]])
            log_probs = torch.log_softmax(model(whole, use_cache=False).logits[0], -1)
        start = len(PREFIX) + len(row) - 1
        assert done.no_answer_log_prob == pytest.approx(
            sum(float(log_probs[start + i, token]) for i, token in enumerate(instead)), abs=2e-3
        )


def test_a_choice_of_tokens_is_followed(model_folders: dict[str, Path]) -> None:
    model = loaded(model_folders["llama"])
    asked: list[tuple[int, list[int]]] = []

    def choose(number: int, ids: list[int], log_probs: torch.Tensor) -> int:
        asked.append((number, list(ids)))
        return 90 + number if len(ids) < 2 else 1

    written = run(model, ROWS, 1, token_selector=choose)
    assert [done.ids for done in written] == [[90 + i, 90 + i] for i in range(len(ROWS))]
    assert all(done.stopped for done in written)
    assert sorted(asked)[:3] == [(0, []), (0, [90]), (0, [90, 90])]


def lengths_of(lengths: list[int]) -> Callable[[int, list[int], torch.Tensor], int]:
    """Chooses so that row i writes lengths[i] tokens, the stop token 1 included."""

    def choose(number: int, ids: list[int], log_probs: torch.Tensor) -> int:
        return 1 if len(ids) == lengths[number] - 1 else int(log_probs[2:].argmax()) + 2

    return choose


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, list[int]]]:
    """Steps before, rows that go on then, and numbers of the rows of every portion that joins; at
    the end, all steps."""
    found: list[tuple[int, int, list[int]]] = []
    steps = 0
    step, join = ContinuousBatcher.decode_step, ContinuousBatcher.admit

    def counted(writer: ContinuousBatcher) -> list[tuple[int, Generated]]:
        nonlocal steps
        steps += 1
        return step(writer)

    def noted(writer: ContinuousBatcher, portion: PrefillBatch) -> list[tuple[int, Generated]]:
        found.append((steps, writer.num_active, portion.row_ids))
        return join(writer, portion)

    monkeypatch.setattr(ContinuousBatcher, "decode_step", counted)
    monkeypatch.setattr(ContinuousBatcher, "admit", noted)
    return found


def test_rows_join_while_others_are_written(
    model_folder: Path, joined: list[tuple[int, int, list[int]]]
) -> None:
    """One long answer among short ones: the others do not wait for it, and what is written is what
    they write alone."""
    model = loaded(model_folder)
    rows = [[10 + i, 20 + i, 30 + i, 40 + i] for i in range(12)]
    lengths = [
        {9: 13, 0: 8, 1: 8, 2: 8}.get(i, 3) for i in range(12)
    ]  # stop tokens included; the limit is 12
    together = run(model, rows, 1, token_selector=lengths_of(lengths), batch_tokens=4 * 17)
    assert [len(done.ids) + done.stopped for done in together] == [min(12, n) for n in lengths]
    # Two at a time join, so that four are written at most; the long one is among them for 11 steps.
    assert sorted(number for _, _, numbers in joined for number in numbers) == list(range(12))
    assert (
        all(len(numbers) == 2 for _, _, numbers in joined)
        and max(going for _, going, _ in joined) == 2
    )
    assert sum(going > 0 for _, going, _ in joined) >= 4 and joined[-1][0] < 20
    for number, done in enumerate(together):
        alone = run(
            model,
            [rows[number]],
            1,
            token_selector=lambda _, ids, values, n=number: lengths_of(lengths)(n, ids, values),
        )[0]
        assert done.ids == alone.ids
        assert done.log_prob == pytest.approx(alone.log_prob, abs=2e-3)


@pytest.mark.parametrize("instead", [(), (70, 71)])
def test_groups_join_while_others_are_written(
    model_folder: Path, joined: list[tuple[int, int, list[int]]], instead: tuple[int, ...]
) -> None:
    """Rows that begin alike, by fours, with beginnings of different lengths; one of each group goes
    on for long."""
    model = loaded(model_folder)
    texts = [[100 + 7 * g + i % 50 for i in range(36 + 3 * g)] for g in range(4)]
    rows = [[*texts[i // 4], 20 + i, 60 + i % 4] for i in range(16)]
    lengths = [12 if i % 4 == 1 else 3 for i in range(16)]
    together = run(
        model,
        rows,
        1,
        token_selector=lengths_of(lengths),
        batch_tokens=300,
        alternative_ids=instead,
    )
    assert [len(done.ids) + done.stopped for done in together] == lengths
    assert [going > 0 for _, going, _ in joined] == [False, True, True, True]
    for number, done in enumerate(together):
        alone = run(
            model,
            [rows[number]],
            1,
            token_selector=lambda _, ids, values, n=number: lengths_of(lengths)(n, ids, values),
            alternative_ids=instead,
        )[0]
        assert done.ids == alone.ids
        assert done.log_prob == pytest.approx(alone.log_prob, abs=2e-3)
        assert done.no_answer_log_prob == (
            pytest.approx(alone.no_answer_log_prob, abs=2e-3) if instead else None
        )


def test_what_is_held_keeps_to_the_budget(
    model_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    joined: list[tuple[int, int, list[int]]],
) -> None:
    """Also where a long prompt goes on writing among many short ones."""
    model, held = loaded(model_folders["llama"]), []
    of = KVCache.merge

    def noted(parts: list[tuple[KVCache, list[int]]], room: int) -> KVCache:
        held.append(sum(len(rows) for _, rows in parts) * room)
        return of(parts, room)

    monkeypatch.setattr(KVCache, "merge", noted)
    rows = [list(range(10, 70)), list(range(10, 50)), *([10 + i, 30 + i] for i in range(40))]
    run(
        model,
        rows,
        1,
        token_selector=lengths_of([12, 12, *(2 + i % 5 for i in range(40))]),
        batch_tokens=240,
    )
    assert 120 < max(held) <= 240
    assert sum(going > 0 for _, going, _ in joined) >= 2


def test_no_rows_are_no_work(model_folders: dict[str, Path]) -> None:
    assert run(loaded(model_folders["llama"]), [], 1) == []


@pytest.mark.parametrize("limit", [1, 2])
def test_the_limit_counts_every_token(model_folders: dict[str, Path], limit: int) -> None:
    model = loaded(model_folders["llama"])
    assert {len(done.ids) for done in run(model, ROWS, -1, limit=limit)} == {limit}


def test_rows_that_begin_alike_are_written_as_one_by_one(model_folder: Path) -> None:
    """Questions on two texts, in any order, beside rows that share nothing; with and without a text
    scored instead."""
    model = loaded(model_folder)
    stop = stop_of(model)
    texts = [list(range(100, 140)), list(range(150, 200))]
    rows = (
        [[*texts[i % 2], 20 + i, *range(5, 5 + i % 3)] for i in range(7)]
        + ROWS
        + [texts[0], texts[1][:45]]
    )
    groups, rest = group_by_common_prefix(rows)
    assert [sorted(g.row_ids) for g in groups] == [
        [0, 2, 4, 6, 12],
        [1, 3, 5, 13],
    ] and rest == list(range(7, 12))
    assert [g.prefix_length for g in groups] == [
        39,
        44,
    ]  # at least one token of each row is its own
    for options in ({}, {"alternative_ids": (70, 71)}, {"batch_tokens": 150}):
        together = run(model, rows, stop, **options)
        alone = [run(model, [row], stop, **options)[0] for row in rows]
        for one, other in zip(together, alone, strict=True):
            assert one.ids == other.ids and one.stopped == other.stopped
            assert one.log_prob == pytest.approx(other.log_prob, abs=2e-3)
            assert one.no_answer_log_prob == (
                None
                if "alternative_ids" not in options
                else pytest.approx(other.no_answer_log_prob, abs=2e-3)
            )


@given(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=12),
    st.integers(1, 400),
)
def test_every_row_stands_in_one_group_or_by_itself(ends: list[list[int]], budget: int) -> None:
    rows = [
        [*range(10, 10 + 40 * (end[0] - 1)), *end] for end in ends
    ]  # none, 40 or 80 tokens alike, then any
    groups, rest = group_by_common_prefix(rows)
    assert sorted([i for group in groups for i in group.row_ids] + rest) == list(range(len(rows)))
    for group in groups:
        beginnings = {tuple(rows[i][: group.prefix_length]) for i in group.row_ids}
        assert len(group.row_ids) > 1 and len(beginnings) == 1
        assert all(32 <= group.prefix_length < len(rows[i]) for i in group.row_ids)
    batches = batch_prefix_groups(groups, [len(row) for row in rows], budget)
    assert sorted(i for batch in batches for g in batch for i in g.row_ids) == sorted(
        i for g in groups for i in g.row_ids
    )
    for batch in batches:
        numbers = [i for group in batch for i in group.row_ids]
        computed = sum(
            g.prefix_length + sum(len(rows[i]) - g.prefix_length for i in g.row_ids) for g in batch
        )
        assert len(numbers) == 1 or computed <= budget
