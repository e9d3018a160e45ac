"""Scoring matches the model's own logits, one label and one prompt at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from prooftune import recipe
from prooftune.engine.batching import (
    PADDING_BUDGET,
    UnpaddedLayout,
    batch_by_token_budget,
    collate,
)
from prooftune.engine.compatibility import check_output_head
from prooftune.engine.generation import generate
from prooftune.engine.model_parts import get_backbone, get_output_head
from prooftune.engine.scoring import label_tree, score_classes, score_labels, tree_batch
from prooftune.errors import Failure
from prooftune.models.loading import load_model
from standins import flash_attention

FLOAT32 = recipe.Model(name="tiny", dtype="float32")
PREFIX = [0, 5, 9, 17, 33, 2, 8]
ROWS = [[11, 12, 13], [40], list(range(20, 60)), [7, 7, 7, 7, 7], [100, 3]]
LABELS = [[21], [22, 23], [22, 24], [22, 24, 25, 26]]
STOP = 1


def reference_scores(
    model: Any,
    labels: list[list[int]],
    stop: int,
    prefix: list[int] = PREFIX,
    rows: list[list[int]] = ROWS,
) -> Tensor:
    """Sums of label token log-probabilities from full logits, without cache or padding (eager)."""
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


def gather(
    batches: Iterable[tuple[list[int], Tensor]], rows: list[list[int]], columns: int
) -> Tensor:
    scores = torch.full((len(rows), columns), float("nan"))
    for row_ids, values in batches:
        scores[row_ids] = values.float()
    return scores


@pytest.mark.parametrize("prefix", [PREFIX, []], ids=["prefix", "no prefix"])
def test_label_scores_match_full_logits(model_folder: Path, prefix: list[int]) -> None:
    model = load_model(model_folder, FLOAT32)
    labels = [[21], [22, 23], [24, 25, 26]]
    actual = gather(score_labels(model, prefix, ROWS, labels, STOP), ROWS, 3)
    torch.testing.assert_close(
        actual, reference_scores(model, labels, STOP, prefix), atol=2e-4, rtol=1e-4
    )


def test_a_label_that_is_a_prefix_of_another_is_scored_with_its_stop_token(
    model_folder: Path,
) -> None:
    model = load_model(model_folder, FLOAT32)
    actual = gather(score_labels(model, PREFIX, ROWS, LABELS, STOP), ROWS, 4)
    torch.testing.assert_close(
        actual, reference_scores(model, [[*x, STOP] for x in LABELS], STOP), atol=2e-4, rtol=1e-4
    )


def test_length_normalisation_divides_by_the_label_tokens(model_folder: Path) -> None:
    model = load_model(model_folder, FLOAT32)
    labels = [[21], [22, 23]]
    plain = gather(score_labels(model, PREFIX, ROWS, labels, STOP), ROWS, 2)
    divided = gather(score_labels(model, PREFIX, ROWS, labels, STOP, normalize=True), ROWS, 2)
    torch.testing.assert_close(divided, plain / torch.tensor([1.0, 2.0]))


@pytest.mark.slow
@pytest.mark.failure(14)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(budget=st.integers(1, 400))
def test_batch_size_does_not_change_scores(model_folder: Path, budget: int) -> None:
    model = load_model(model_folder, FLOAT32)
    alone = gather(score_labels(model, PREFIX, ROWS, LABELS, STOP, batch_tokens=1), ROWS, 4)
    batched = gather(score_labels(model, PREFIX, ROWS, LABELS, STOP, batch_tokens=budget), ROWS, 4)
    torch.testing.assert_close(batched, alone, atol=1e-4, rtol=1e-4)


def test_padding_is_not_computed(model_folder: Path) -> None:
    model = load_model(model_folder, FLOAT32)
    body: Any = get_backbone(model)
    row_counts: list[int] = []
    body.layers[0].mlp.gate_proj.register_forward_hook(
        lambda _, inputs, __: row_counts.append(inputs[0].numel() // inputs[0].shape[-1])
    )
    rows = [list(range(start, start + n)) for start, n in ((10, 40), (50, 33), (60, 12), (70, 1))]
    list(score_labels(model, PREFIX, rows, [[21], [22, 23]], STOP))
    assert row_counts == [
        len(PREFIX),
        86 + 4,
    ]  # the longer label's first token follows every row
    row_counts.clear()
    list(generate(model, PREFIX, rows, STOP, max_new_tokens=1))
    assert row_counts == [len(PREFIX), 86]


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=5))
def test_unpadded_rows_are_padded_back_to_their_positions(mask: list[list[bool]]) -> None:
    token_mask = torch.tensor(mask)
    rows, length = token_mask.shape
    unpadded = UnpaddedLayout.from_positions(rows, length, token_mask.flatten().nonzero().flatten())
    if unpadded is None:
        assert 32 * int((~token_mask).sum()) < token_mask.numel()
        return
    row_ids = torch.arange(token_mask.numel()).view(token_mask.shape)
    packed = unpadded.unpad(row_ids)
    assert packed.tolist() == [row_ids[token_mask].tolist()]
    assert unpadded.packed_positions(row_ids[token_mask]).tolist() == list(range(packed.shape[1]))
    if packed.numel():
        heads = unpadded.pad_heads(
            torch.stack([packed, -packed], dim=1)[..., None]
        )  # [1, 2 heads, tokens, 1]
        assert torch.equal(heads[:, 0, :, 0][token_mask], row_ids[token_mask]) and torch.equal(
            heads[:, 1, :, 0][token_mask], -row_ids[token_mask]
        )


@pytest.mark.parametrize("lengths", [[3, 1], [4, 4]])
def test_the_last_position_of_rows_with_a_label_tree(lengths: list[int]) -> None:
    """Siblings share a position, and padding counts for nothing."""
    tree = label_tree([[5], [6, 7], [6, 8], [9, 10, 11]], STOP)
    batch = tree_batch([list(range(n)) for n in lengths], tree, 3)
    assert batch.last_position == int(batch.position_ids[batch.token_mask].max())


@pytest.mark.parametrize("lengths", [[9, 4, 1], [8, 8, 8], [5]])
def test_the_layout_of_known_lengths_is_that_of_the_mask(lengths: list[int]) -> None:
    batch = collate([list(range(n)) for n in lengths], [[0]] * len(lengths), 3)
    assert batch.row_lengths == tuple(lengths) and batch.last_position == 3 + max(lengths) - 1
    known, read = UnpaddedLayout.of(batch), UnpaddedLayout.of(replace(batch, row_lengths=None))
    assert (known is None) == (read is None) == (len(set(lengths)) == 1)
    if known is not None and read is not None:
        assert torch.equal(known.to_packed, read.to_packed)
        assert torch.equal(known.to_padded, read.to_padded)


def test_sdpa_and_eager_agree(model_folders: dict[str, Path]) -> None:
    scores = [
        gather(
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
def test_classification_head_uses_the_last_real_token_with_any_padding(model_folder: Path) -> None:
    model: Any = load_model(model_folder, FLOAT32, labels=["a", "b", "c"])
    batched = gather(score_classes(model, PREFIX, ROWS), ROWS, 3)
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
    """The lm_head gets one position per row and one per inner node of the label tree."""
    model: Any = load_model(model_folders["llama"], FLOAT32)
    row_counts = []
    output = model.get_output_embeddings()
    output.register_forward_hook(lambda _m, args, _o: row_counts.append(args[0].shape[0]))
    list(score_labels(model, PREFIX, ROWS, [[21], [22, 23]], STOP))
    assert sum(row_counts) == len(ROWS) * 2


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


def test_final_soft_capping_is_applied(model_folders: dict[str, Path]) -> None:
    model: Any = load_model(model_folders["gemma2"], FLOAT32)
    logits = get_output_head(model)(torch.randn(5, 32) * 100)
    assert logits.abs().max() <= model.config.final_logit_softcapping


@given(st.lists(st.integers(0, 500), max_size=200), st.integers(1, 2000))
def test_batches_contain_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
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
    for label, terms in zip(labels, tree.label_terms, strict=True):
        assert tuple(token for _, token in terms) == ((*label, 99) if overlap else label)
        path, node = [], terms[-1][0]
        while node >= 0:
            path.append(tree.tokens[node])
            node = tree.parents[node]
        assert tuple(reversed(path)) == tuple(token for _, token in terms[:-1])


@pytest.mark.parametrize("family", ["llama", "llama3"])
def test_labels_of_several_tokens_under_an_attention_without_tree_masks(
    model_folders: dict[str, Path], family: str
) -> None:
    """FlashAttention unpads by a 2D mask; a label tree has a 4D one."""
    model: Any = load_model(model_folders[family], FLOAT32)
    flash_attention.register()
    model.set_attn_implementation(flash_attention.NAME)
    for labels, prefix in (([[21], [22, 23], [24, 25, 26]], PREFIX), ([[21], [23]], [])):
        actual = gather(score_labels(model, prefix, ROWS, labels, STOP), ROWS, len(labels))
        expected = reference_scores(model, labels, STOP, prefix)
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)
        assert model.config._attn_implementation == flash_attention.NAME


@pytest.mark.parametrize("attention", ["sdpa", "eager", "shared-prefix"])
def test_copies_of_the_prefix_count_towards_the_budget(
    model_folders: dict[str, Path], attention: str
) -> None:
    """transformers' attention holds the prefix once per row, ours once per batch."""
    options = recipe.Model.model_validate(
        {"name": "tiny", "dtype": "float32", "attention": attention}
    )
    model = load_model(model_folders["llama"], options)
    prefix, budget = list(range(2, 102)), 400
    labels = [[21], [22, 23]]
    rows = [[5, 6, 7]] * 24
    per_row = len(rows[0]) + 1 + (0 if attention == "shared-prefix" else len(prefix))
    for batches in (
        score_labels(model, prefix, rows, labels, STOP, batch_tokens=budget),
        score_labels(model, prefix, rows, [[21]], STOP, batch_tokens=budget),
    ):
        sizes = [len(row_ids) for row_ids, _ in batches]
        assert sum(sizes) == len(rows)
        assert max(sizes) * (per_row - 1) <= budget
        assert (max(sizes) == len(rows)) == (attention == "shared-prefix")


@pytest.mark.parametrize("attention", ["sdpa", "shared-prefix"])
def test_copies_of_the_prefix_count_with_a_classification_head(
    model_folders: dict[str, Path], attention: str
) -> None:
    options = recipe.Model.model_validate(
        {"name": "tiny", "dtype": "float32", "attention": attention}
    )
    model = load_model(model_folders["llama"], options, labels=["a", "b", "c"])
    prefix, rows, budget = list(range(2, 102)), [[5, 6, 7]] * 24, 400
    batches = score_classes(model, prefix, rows, batch_tokens=budget)
    sizes = [len(row_ids) for row_ids, _ in batches]
    # Three rows of 103 tokens, or all rows beside one prefix.
    assert sizes == ([24] if attention == "shared-prefix" else [3] * 8)
