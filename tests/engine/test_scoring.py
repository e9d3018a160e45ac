"""Scoring against the slow way: every label after every prompt, one row at a time, the model's own
logits."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from prooftune import recipe
from prooftune.engine.batching import PADDING_BUDGET, UnpaddedLayout, batch_by_token_budget
from prooftune.engine.compatibility import check_output_head
from prooftune.engine.generation import generate
from prooftune.engine.model_parts import get_backbone, get_output_head
from prooftune.engine.scoring import label_tree, score_classes, score_labels
from prooftune.errors import Failure
from prooftune.models.loading import load_model

FLOAT32 = recipe.Model(name="tiny", dtype="float32")
PREFIX = [0, 5, 9, 17, 33, 2, 8]
ROWS = [[11, 12, 13], [40], list(range(20, 60)), [7, 7, 7, 7, 7], [100, 3]]
LABELS = [[21], [22, 23], [22, 24], [22, 24, 25, 26]]
STOP = 1


def slow_scores(
    model: Any,
    labels: list[list[int]],
    stop: int,
    prefix: list[int] = PREFIX,
    rows: list[list[int]] = ROWS,
) -> Tensor:
    """Sum of the labels' token log-probabilities from the model's own full logits, without cache or
    padding, by the library's attention."""
    ours = model.config._attn_implementation
    model.set_attn_implementation("eager")
    result = torch.zeros(len(rows), len(labels))
    for i, row in enumerate(rows):
        for j, label in enumerate(labels):
            ids = torch.tensor([[*prefix, *row, *label]])
            with torch.no_grad():
                log_probs = torch.log_softmax(model(ids, use_cache=False).logits[0].float(), -1)
            start = len(prefix) + len(row) - 1
            result[i, j] = sum(log_probs[start + k, token] for k, token in enumerate(label))
    model.set_attn_implementation(ours)
    return result


def gathered(
    batches: Iterable[tuple[list[int], Tensor]], rows: list[list[int]], columns: int
) -> Tensor:
    scores = torch.full((len(rows), columns), float("nan"))
    for numbers, values in batches:
        scores[numbers] = values.float()
    return scores


@pytest.mark.parametrize("prefix", [PREFIX, []], ids=["prefix", "no prefix"])
def test_label_scores_equal_the_slow_way(model_folder: Path, prefix: list[int]) -> None:
    model = load_model(model_folder, FLOAT32)
    labels = [[21], [22, 23], [24, 25, 26]]
    fast = gathered(score_labels(model, prefix, ROWS, labels, STOP), ROWS, 3)
    torch.testing.assert_close(fast, slow_scores(model, labels, STOP, prefix), atol=2e-4, rtol=1e-4)


def test_a_label_that_begins_another_is_scored_with_its_stop_token(model_folder: Path) -> None:
    model = load_model(model_folder, FLOAT32)
    fast = gathered(score_labels(model, PREFIX, ROWS, LABELS, STOP), ROWS, 4)
    torch.testing.assert_close(
        fast, slow_scores(model, [[*x, STOP] for x in LABELS], STOP), atol=2e-4, rtol=1e-4
    )


def test_length_normalisation_divides_by_the_label_tokens(model_folder: Path) -> None:
    model = load_model(model_folder, FLOAT32)
    labels = [[21], [22, 23]]
    plain = gathered(score_labels(model, PREFIX, ROWS, labels, STOP), ROWS, 2)
    divided = gathered(score_labels(model, PREFIX, ROWS, labels, STOP, normalize=True), ROWS, 2)
    torch.testing.assert_close(divided, plain / torch.tensor([1.0, 2.0]))


@pytest.mark.failure(14)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(budget=st.integers(1, 400))
def test_the_batch_size_never_changes_a_score(model_folder: Path, budget: int) -> None:
    model = load_model(model_folder, FLOAT32)
    alone = gathered(score_labels(model, PREFIX, ROWS, LABELS, STOP, batch_tokens=1), ROWS, 4)
    batched = gathered(
        score_labels(model, PREFIX, ROWS, LABELS, STOP, batch_tokens=budget), ROWS, 4
    )
    torch.testing.assert_close(batched, alone, atol=1e-4, rtol=1e-4)


def test_no_padding_is_computed(model_folder: Path) -> None:
    model = load_model(model_folder, FLOAT32)
    body: Any = get_backbone(model)
    seen: list[int] = []
    body.layers[0].mlp.gate_proj.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].numel() // inputs[0].shape[-1])
    )
    rows = [list(range(start, start + n)) for start, n in ((10, 40), (50, 33), (60, 12), (70, 1))]
    list(score_labels(model, PREFIX, rows, [[21], [22, 23]], STOP))
    assert seen == [
        len(PREFIX),
        86 + 4,
    ]  # after every row stands the first token of the longer label
    seen.clear()
    list(generate(model, PREFIX, rows, STOP, max_new_tokens=1))
    assert seen == [len(PREFIX), 86]


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=5))
def test_squeezed_rows_are_set_out_where_they_stood(stands: list[list[bool]]) -> None:
    there = torch.tensor(stands)
    squeezed = UnpaddedLayout.from_mask(there)
    if squeezed is None:
        assert 32 * int((~there).sum()) < there.numel()
        return
    numbers = torch.arange(there.numel()).view(there.shape)
    line = squeezed.unpad(numbers)
    assert line.tolist() == [numbers[there].tolist()]
    assert squeezed.packed_positions(numbers[there]).tolist() == list(range(line.shape[1]))
    if line.numel():
        heads = squeezed.pad_heads(
            torch.stack([line, -line], dim=1)[..., None]
        )  # [1, 2 heads, tokens, 1]
        assert torch.equal(heads[:, 0, :, 0][there], numbers[there]) and torch.equal(
            heads[:, 1, :, 0][there], -numbers[there]
        )


def test_sdpa_and_eager_agree(model_folders: dict[str, Path]) -> None:
    scores = [
        gathered(
            score_labels(
                load_model(
                    model_folders["llama"], recipe.Model(name="t", dtype="float32", attention=kind)
                ),
                PREFIX,
                ROWS,
                LABELS,
                STOP,
            ),
            ROWS,
            4,
        )
        for kind in ("eager", "sdpa")
    ]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)


@pytest.mark.failure(7)
def test_a_head_reads_the_last_real_token_however_rows_are_padded(model_folder: Path) -> None:
    model: Any = load_model(model_folder, FLOAT32, labels=["a", "b", "c"])
    batched = gathered(score_classes(model, PREFIX, ROWS), ROWS, 3)
    pad = model.config.pad_token_id
    for i, row in enumerate(ROWS):
        ids = [*PREFIX, *row]
        with torch.no_grad():
            unpadded = model(torch.tensor([ids])).logits
            right = model(
                torch.tensor([ids + [pad] * 4]),
                attention_mask=torch.tensor([[1] * len(ids) + [0] * 4]),
            ).logits
            mask = torch.tensor([[0] * 4 + [1] * len(ids)])
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            left = model(
                torch.tensor([[pad] * 4 + ids]), attention_mask=mask, position_ids=positions
            ).logits
        for own in (unpadded, right, left):
            torch.testing.assert_close(
                batched[i], torch.log_softmax(own.float(), -1)[0], atol=1e-4, rtol=1e-4
            )


@pytest.mark.failure(20)
def test_no_array_of_rows_times_length_times_vocabulary(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output layer sees one position per row and one per inner node of the label tree, nothing
    else."""
    model: Any = load_model(model_folders["llama"], FLOAT32)
    seen = []
    output = model.get_output_embeddings()
    output.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[0]))
    list(score_labels(model, PREFIX, ROWS, [[21], [22, 23]], STOP))
    assert sum(seen) == len(ROWS) * 2


def test_an_architecture_with_other_logits_is_refused(model_folders: dict[str, Path]) -> None:
    model = load_model(model_folders["llama"], FLOAT32)
    check_output_head(model)
    original = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        out = original(*args, **kwargs)
        out.logits = out.logits * 3 + 1
        return out

    model.forward = scaled
    with pytest.raises(Failure, match="not supported"):
        check_output_head(model)


def test_soft_capping_is_applied(model_folders: dict[str, Path]) -> None:
    model: Any = load_model(model_folders["gemma2"], FLOAT32)
    logits = get_output_head(model)(torch.randn(5, 32) * 100)
    assert logits.abs().max() <= model.config.final_logit_softcapping


@given(st.lists(st.integers(0, 500), max_size=200), st.integers(1, 2000))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = batch_by_token_budget(lengths, budget)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
        assert len(batch) * max(lengths[i] for i in batch) - sum(lengths[i] for i in batch) <= max(
            PADDING_BUDGET, 1
        )
    assert batches == batch_by_token_budget(lengths, budget)
    assert len(batch_by_token_budget(lengths, budget, inf)) <= len(batches)


@given(
    st.lists(
        st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple),
        min_size=1,
        max_size=8,
        unique=True,
    )
)
def test_label_tree_spells_every_label(labels: list[tuple[int, ...]]) -> None:
    tree = label_tree(labels, stop_token_id=99)
    overlap = any(a != b and b[: len(a)] == a for a in labels for b in labels)
    for label, reads in zip(labels, tree.label_terms, strict=True):
        assert tuple(token for _, token in reads) == ((*label, 99) if overlap else label)
        path, node = [], reads[-1][0]
        while node >= 0:
            path.append(tree.tokens[node])
            node = tree.parents[node]
        assert tuple(reversed(path)) == tuple(token for _, token in reads[:-1])
