"""Generation matches greedy decoding, whatever the batch, the prefix and the scored alternative."""

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
from prooftune.engine.continuous_batching import ContinuousBatcher
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
    stop_token_id: int,
    prefix: list[int] = PREFIX,
    limit: int = 12,
    **options: Any,
) -> list[Generated]:
    output: dict[int, Generated] = {}
    for numbers, outputs in generate(
        model, prefix, rows, stop_token_id, max_new_tokens=limit, **options
    ):
        output |= dict(zip(numbers, outputs, strict=True))
    return [output[i] for i in range(len(rows))]


def reference(
    model: Any,
    row: list[int],
    stop_token_id: int,
    limit: int = 12,
    suppressed: tuple[int, ...] = (),
) -> tuple[list[int], float]:
    """Greedy decoding from full logits with eager attention and without a KV cache."""
    model.set_attn_implementation("eager")
    ids, outputs, total = [*PREFIX, *row], [], 0.0
    with torch.no_grad():
        for decode_step in range(limit):
            log_probs = torch.log_softmax(
                model(torch.tensor([ids]), use_cache=False).logits[0, -1], -1
            )
            allowed = log_probs.clone()
            if decode_step == 0 and suppressed:
                allowed[list(suppressed)] = -torch.inf
            token = int(allowed.argmax())
            total += float(log_probs[token])
            if token == stop_token_id:
                break
            ids.append(token)
            outputs.append(token)
    model.set_attn_implementation(shared_prefix.NAME)
    return outputs, total


def stop_of(model: Any) -> int:
    """A token generated early for the first row, so that rows finish at different steps."""
    return reference(model, ROWS[0], stop_token_id=-1)[0][3]


def test_matches_uncached_greedy_decoding(model_folder: Path) -> None:
    model = loaded(model_folder)
    stop_token_id = stop_of(model)
    outputs = run(model, ROWS, stop_token_id)
    assert any(output.stopped for output in outputs)
    for row, output in zip(ROWS, outputs, strict=True):
        ids, total = reference(model, row, stop_token_id)
        assert output.ids == ids
        assert output.stopped == (len(ids) < 12)
        assert output.log_prob == pytest.approx(total, abs=2e-3)


@pytest.mark.failure(14)
def test_batch_size_and_prefix_do_not_change_the_text(model_folder: Path) -> None:
    model = loaded(model_folder)
    stop_token_id = stop_of(model)
    batched = [output.ids for output in run(model, ROWS, stop_token_id)]
    assert [output.ids for output in run(model, ROWS, stop_token_id, batch_tokens=1)] == batched
    assert [
        output.ids
        for output in run(model, [[*PREFIX, *row] for row in ROWS], stop_token_id, prefix=[])
    ] == batched


def test_fallback_to_transformers_generates_the_same(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(model_folder)
    stop_token_id = stop_of(model)
    ours = run(model, ROWS, stop_token_id, alternative_ids=[21, 22, stop_token_id])
    model.set_attn_implementation("eager")
    monkeypatch.setattr(
        "prooftune.engine.compatibility.prefix_matches_full_pass", lambda body, ids: False
    )
    theirs = run(model, ROWS, stop_token_id, alternative_ids=[21, 22, stop_token_id])
    for a, b in zip(ours, theirs, strict=True):
        assert a.ids == b.ids
        assert a.stopped == b.stopped
        assert a.log_prob == pytest.approx(b.log_prob, abs=2e-3)
        assert a.no_answer_log_prob == pytest.approx(b.no_answer_log_prob, abs=2e-3)


def test_alternative_is_scored_exactly_and_never_generated(model_folder: Path) -> None:
    model = loaded(model_folder)
    first = reference(model, ROWS[0], stop_token_id=-1)[0][0]
    stop_token_id = 2 if first != 2 else 3
    instead = [first, 22, stop_token_id]
    for row, output in zip(
        ROWS, run(model, ROWS, stop_token_id, alternative_ids=instead), strict=True
    ):
        ids, total = reference(model, row, stop_token_id, suppressed=(first, stop_token_id))
        assert (output.ids, output.ids[0] != first) == (ids, True)
        assert output.log_prob == pytest.approx(total, abs=2e-3)
        with torch.no_grad():
            whole = torch.tensor([[*PREFIX, *row, *instead]])
            log_probs = torch.log_softmax(model(whole, use_cache=False).logits[0], -1)
        start = len(PREFIX) + len(row) - 1
        assert output.no_answer_log_prob == pytest.approx(
            sum(float(log_probs[start + i, token]) for i, token in enumerate(instead)), abs=2e-3
        )


def test_token_selector_is_followed(model_folders: dict[str, Path]) -> None:
    model = loaded(model_folders["llama"])
    calls: list[tuple[int, list[int]]] = []

    def token_selector(number: int, ids: list[int], log_probs: torch.Tensor) -> int:
        calls.append((number, list(ids)))
        return 90 + number if len(ids) < 2 else 1

    outputs = run(model, ROWS, 1, token_selector=token_selector)
    assert [output.ids for output in outputs] == [[90 + i, 90 + i] for i in range(len(ROWS))]
    assert all(output.stopped for output in outputs)
    assert sorted(calls)[:3] == [(0, []), (0, [90]), (0, [90, 90])]


def selector_for_lengths(lengths: list[int]) -> Callable[[int, list[int], torch.Tensor], int]:
    """A selector with which row i generates lengths[i] tokens, the stop token 1 included."""

    def token_selector(number: int, ids: list[int], log_probs: torch.Tensor) -> int:
        return 1 if len(ids) == lengths[number] - 1 else int(log_probs[2:].argmax()) + 2

    return token_selector


@pytest.fixture
def admissions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, list[int]]]:
    """Log of admissions: decode steps before, active sequences, and row ids of the batch."""
    log: list[tuple[int, int, list[int]]] = []
    steps = 0
    decode_step, admit = ContinuousBatcher.decode_step, ContinuousBatcher.admit

    def counted(batcher: ContinuousBatcher) -> list[tuple[int, Generated]]:
        nonlocal steps
        steps += 1
        return decode_step(batcher)

    def recorded(batcher: ContinuousBatcher, batch: PrefillBatch) -> list[tuple[int, Generated]]:
        log.append((steps, batcher.num_active, batch.row_ids))
        return admit(batcher, batch)

    monkeypatch.setattr(ContinuousBatcher, "decode_step", counted)
    monkeypatch.setattr(ContinuousBatcher, "admit", recorded)
    return log


def test_rows_are_admitted_while_others_decode(
    model_folder: Path, admissions: list[tuple[int, int, list[int]]]
) -> None:
    """One long answer among short ones: the others do not wait; texts match single rows."""
    model = loaded(model_folder)
    rows = [[10 + i, 20 + i, 30 + i, 40 + i] for i in range(12)]
    lengths = [
        {9: 13, 0: 8, 1: 8, 2: 8}.get(i, 3) for i in range(12)
    ]  # stop tokens included; the limit is 12
    batched = run(model, rows, 1, token_selector=selector_for_lengths(lengths), batch_tokens=4 * 17)
    assert [len(output.ids) + output.stopped for output in batched] == [min(12, n) for n in lengths]
    # Batches of two, so at most four sequences; the long one takes 11 steps.
    assert sorted(number for _, _, numbers in admissions for number in numbers) == list(range(12))
    assert (
        all(len(numbers) == 2 for _, _, numbers in admissions)
        and max(num_active for _, num_active, _ in admissions) == 2
    )
    assert sum(num_active > 0 for _, num_active, _ in admissions) >= 4 and admissions[-1][0] < 20
    for number, output in enumerate(batched):
        alone = run(
            model,
            [rows[number]],
            1,
            token_selector=lambda _, ids, values, n=number: selector_for_lengths(lengths)(
                n, ids, values
            ),
        )[0]
        assert output.ids == alone.ids
        assert output.log_prob == pytest.approx(alone.log_prob, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("instead", [(), (70, 71)])
def test_prefix_groups_are_admitted_while_others_decode(
    model_folder: Path, admissions: list[tuple[int, int, list[int]]], instead: tuple[int, ...]
) -> None:
    """Four groups of four rows, different prefix lengths, one long answer per group."""
    model = loaded(model_folder)
    texts = [[100 + 7 * g + i % 50 for i in range(36 + 3 * g)] for g in range(4)]
    rows = [[*texts[i // 4], 20 + i, 60 + i % 4] for i in range(16)]
    lengths = [12 if i % 4 == 1 else 3 for i in range(16)]
    batched = run(
        model,
        rows,
        1,
        token_selector=selector_for_lengths(lengths),
        batch_tokens=300,
        alternative_ids=instead,
    )
    assert [len(output.ids) + output.stopped for output in batched] == lengths
    assert [num_active > 0 for _, num_active, _ in admissions] == [False, True, True, True]
    for number, output in enumerate(batched):
        alone = run(
            model,
            [rows[number]],
            1,
            token_selector=lambda _, ids, values, n=number: selector_for_lengths(lengths)(
                n, ids, values
            ),
            alternative_ids=instead,
        )[0]
        assert output.ids == alone.ids
        assert output.log_prob == pytest.approx(alone.log_prob, abs=2e-3)
        assert output.no_answer_log_prob == (
            pytest.approx(alone.no_answer_log_prob, abs=2e-3) if instead else None
        )


def test_kv_cache_stays_within_the_token_budget(
    model_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    admissions: list[tuple[int, int, list[int]]],
) -> None:
    """Also while a long prompt decodes among many short ones."""
    model, cached_tokens = loaded(model_folders["llama"]), []
    merge = KVCache.merge

    def recorded(parts: list[tuple[KVCache, list[int]]], capacity: int) -> KVCache:
        cached_tokens.append(sum(len(rows) for _, rows in parts) * capacity)
        return merge(parts, capacity)

    monkeypatch.setattr(KVCache, "merge", recorded)
    rows = [list(range(10, 70)), list(range(10, 50)), *([10 + i, 30 + i] for i in range(40))]
    run(
        model,
        rows,
        1,
        token_selector=selector_for_lengths([12, 12, *(2 + i % 5 for i in range(40))]),
        batch_tokens=240,
    )
    assert 120 < max(cached_tokens) <= 240
    assert sum(num_active > 0 for _, num_active, _ in admissions) >= 2


def test_no_rows(model_folders: dict[str, Path]) -> None:
    assert run(loaded(model_folders["llama"]), [], 1) == []


@pytest.mark.parametrize("limit", [1, 2])
def test_max_new_tokens_counts_every_token(model_folders: dict[str, Path], limit: int) -> None:
    model = loaded(model_folders["llama"])
    assert {len(output.ids) for output in run(model, ROWS, -1, limit=limit)} == {limit}


@pytest.mark.slow
def test_rows_with_common_prefixes_match_single_rows(model_folder: Path) -> None:
    """Questions on two texts, interleaved, and unrelated rows; with and without an alternative."""
    model = loaded(model_folder)
    stop_token_id = stop_of(model)
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
        batched = run(model, rows, stop_token_id, **options)
        alone = [run(model, [row], stop_token_id, **options)[0] for row in rows]
        for batched_output, single_output in zip(batched, alone, strict=True):
            assert (
                batched_output.ids == single_output.ids
                and batched_output.stopped == single_output.stopped
            )
            assert batched_output.log_prob == pytest.approx(single_output.log_prob, abs=2e-3)
            assert batched_output.no_answer_log_prob == (
                None
                if "alternative_ids" not in options
                else pytest.approx(single_output.no_answer_log_prob, abs=2e-3)
            )


@pytest.mark.slow
@given(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=12),
    st.integers(1, 400),
)
def test_every_row_is_in_one_group_or_alone(suffixes: list[list[int]], budget: int) -> None:
    rows = [
        [*range(10, 10 + 40 * (suffix[0] - 1)), *suffix] for suffix in suffixes
    ]  # 0, 40 or 80 common tokens, then a random suffix
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
