"""The engine's attention matches transformers': shared prefix, packed batches, sliding windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prooftune import recipe
from prooftune.engine.attention import backends, packed, packed_layout, shared_prefix
from prooftune.engine.attention.padded_masks import AttentionContext, PrefixGroups
from prooftune.engine.batching import collate
from prooftune.engine.compatibility import check_output_head
from prooftune.engine.forward import (
    compute_prefix_cache,
    hidden_states,
    packed_hidden_states,
    supports_shared_prefix,
)
from prooftune.engine.kv_cache import KVCache
from prooftune.engine.model_parts import get_backbone
from prooftune.engine.packing import pack_sequences
from prooftune.engine.precision import disable_lora_input_upcast
from prooftune.models import adapters
from prooftune.models.loading import load_model

PREFIX = list(range(40, 62))  # longer than Gemma-2's window of 16 in these models
ROWS = [[5, 6, 7], [9], list(range(10, 33)), [70, 71, 72, 73, 74, 75]]
LOGIT_POSITIONS = [[len(row) - 1] for row in ROWS]


def loaded(folder: Path, dtype: str = "float32") -> Any:
    return load_model(
        folder,
        recipe.Model.model_validate(
            {"name": "tiny", "dtype": dtype, "attention": shared_prefix.NAME}
        ),
    )


def row_by_row(model: Any) -> Tensor:
    """Hidden states at each row's last token by eager attention, one row at a time."""
    model.set_attn_implementation("eager")
    states = [
        get_backbone(model)(
            input_ids=torch.tensor([[*PREFIX, *row]]), use_cache=False
        ).last_hidden_state[0, -1]
        for row in ROWS
    ]
    model.set_attn_implementation(shared_prefix.NAME)
    return torch.stack(states)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-4), ("bfloat16", 0.12)])
def test_shared_prefix_matches_full_pass(model_folder: Path, dtype: str, tolerance: float) -> None:
    model = loaded(model_folder, dtype)
    with torch.no_grad():
        expected = row_by_row(model)
        prefix = compute_prefix_cache(get_backbone(model), PREFIX)
        actual = hidden_states(
            get_backbone(model), collate(ROWS, LOGIT_POSITIONS, len(PREFIX)), prefix
        )
    torch.testing.assert_close(
        actual, expected, atol=tolerance * float(expected.abs().max()), rtol=0
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-4), ("bfloat16", 0.12)])
def test_packed_batch_matches_row_by_row(model_folder: Path, dtype: str, tolerance: float) -> None:
    model = loaded(model_folder, dtype)
    with torch.no_grad():
        actual, expected = (
            packed_hidden_states(
                get_backbone(model), pack_sequences(PREFIX, ROWS, LOGIT_POSITIONS)
            ),
            row_by_row(model),
        )
    torch.testing.assert_close(
        actual, expected, atol=tolerance * float(expected.abs().max()), rtol=0
    )


@pytest.mark.parametrize(("saved", "per_sequence"), [(True, False), (False, False), (False, True)])
def test_packed_batch_gradients_match_row_by_row(
    model_folder: Path, saved: bool, per_sequence: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "MAX_SAVED_ATTENTION_WEIGHTS", 10**9 if saved else 0)
    monkeypatch.setattr(packed, "PER_SEQUENCE_MIN_TOKENS", {"cpu": 0} if per_sequence else {})
    model = loaded(model_folder)
    parameters = list(get_backbone(model).parameters())
    weights = torch.randn(len(ROWS), 32, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(
        (row_by_row(model) * weights).sum(), parameters, allow_unused=True
    )
    actual = torch.autograd.grad(
        (
            packed_hidden_states(get_backbone(model), pack_sequences(PREFIX, ROWS, LOGIT_POSITIONS))
            * weights
        ).sum(),
        parameters,
        allow_unused=True,
    )
    for a, b in zip(actual, expected, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()), rtol=1e-3)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    prefix=st.integers(0, 5),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    groups=st.sampled_from([1, 3]),
    softcap=st.sampled_from([None, 2.0]),
    window=st.sampled_from([None, 3, 100]),
    save_weights=st.booleans(),
    per_sequence=st.booleans(),
    chunk=st.sampled_from([1, 2, 128]),
    bucket_overhead=st.sampled_from([0, 8000]),
)
def test_packed_attention_matches_formula(
    prefix: int,
    lengths: list[int],
    groups: int,
    softcap: float | None,
    window: int | None,
    save_weights: bool,
    per_sequence: bool,
    chunk: int,
    bucket_overhead: int,
) -> None:
    generator = torch.Generator().manual_seed(prefix + sum(lengths))
    batch = pack_sequences([1] * prefix, [[2] * n for n in lengths], [[0]] * len(lengths))
    heads, size, total = 2, 4, batch.input_ids.shape[1]
    assert total % 32 == 0 and list(batch.lengths[:-1]) == lengths[:-1]
    query, key, value = (
        torch.randn(1, n, total, size, generator=generator, dtype=torch.float64, requires_grad=True)
        for n in (heads * groups, heads, heads)
    )

    def reference() -> Tensor:
        """Attention by its formula, one token at a time."""
        positions = [
            *range(prefix),
            *(prefix + i for length in batch.lengths for i in range(length)),
        ]
        own = [0] * prefix + [n for n, length in enumerate(batch.lengths, 1) for _ in range(length)]
        out = torch.zeros(total, heads * groups, size, dtype=torch.float64)
        for at in range(total):
            near = [
                t
                for t in range(at + 1)
                if own[t] in (0, own[at])
                and (window is None or positions[at] - positions[t] < window)
            ]
            for head in range(heads * groups):
                scores = key[0, head // groups, near] @ query[0, head, at] * 0.5
                scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
                out[at, head] = torch.softmax(scores, 0) @ value[0, head // groups, near]
        return out[None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "MAX_SAVED_ATTENTION_WEIGHTS", 10**9 if save_weights else 0)
        patch.setattr(packed, "PER_SEQUENCE_MIN_TOKENS", {"cpu": 0} if per_sequence else {})
        patch.setattr(packed_layout, "QUERY_CHUNK", {"cpu": chunk})
        patch.setattr(packed_layout, "MAX_BUCKET_TOKENS", 4 * chunk)
        patch.setattr(packed_layout, "BUCKET_OVERHEAD", bucket_overhead)
        actual = packed.packed_attention(
            query, key, value, packed_layout.PackedLayout.from_batch(batch), 0.5, softcap, window
        )
        expected = reference()
        torch.testing.assert_close(actual, expected)
        weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
        for a, b in zip(
            torch.autograd.grad((actual * weights).sum(), [query, key, value]),
            torch.autograd.grad((expected * weights).sum(), [query, key, value]),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


def test_gradients_summed_over_chunks_are_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, 64 chunks are as close to the float64 gradients as one chunk."""
    generator = torch.Generator().manual_seed(0)
    batch = pack_sequences([], [[1] * 256], [[0]])
    exact = [torch.randn(1, 2, 256, 16, generator=generator, dtype=torch.float64) for _ in range(3)]
    weights = torch.randn(1, 256, 2, 16, generator=generator, dtype=torch.float64)

    def gradients(chunk: int, dtype: torch.dtype) -> list[Tensor]:
        monkeypatch.setattr(packed_layout, "QUERY_CHUNK", {"cpu": chunk})
        parts = [first_cache.to(dtype).requires_grad_() for first_cache in exact]
        query, key, value = parts
        out = packed.packed_attention(
            query, key, value, packed_layout.PackedLayout.from_batch(batch), 0.25, None, None
        )
        return [
            first_cache.double()
            for first_cache in torch.autograd.grad((out * weights.to(dtype)).sum(), parts)
        ]

    expected = gradients(256, torch.float64)
    whole, pieces = (gradients(chunk, torch.bfloat16) for chunk in (256, 4))
    for a, b, c in zip(expected, whole, pieces, strict=True):
        assert (c - a).norm() <= 1.2 * (b - a).norm() < 0.03 * a.norm()


@settings(max_examples=60, deadline=None)
@given(
    prefixes=st.lists(st.integers(1, 9), max_size=3),
    rows=st.integers(1, 5),
    queries=st.integers(1, 5),
    repeats=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 3, 100]),
    seed=st.integers(0, 99),
    chunk=st.sampled_from([1, 2, 256]),
)
def test_chunked_attention_matches_full_attention(
    prefixes: list[int],
    rows: int,
    queries: int,
    repeats: int,
    window: int | None,
    seed: int,
    chunk: int,
) -> None:
    """No prefix, one, or groups; sliding windows; random own masks, as in label trees."""
    generator = torch.Generator().manual_seed(seed)
    heads, size = 2, 8

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    query, key, value = (randn(rows, heads, n, size) for n in (repeats * queries, queries, queries))
    shape = len(prefixes), heads, max(prefixes, default=0), size
    prefix_cache = (randn(*shape), randn(*shape)) if prefixes else None
    group_ids = (
        torch.randint(len(prefixes), (rows,), generator=generator).sort().values
        if prefixes
        else torch.zeros(rows).long()
    )
    prefix_lengths = torch.tensor(prefixes or [0])
    groups = PrefixGroups.from_ids(group_ids, prefix_lengths) if len(prefixes) > 1 else None
    positions = prefix_lengths[group_ids][:, None] + torch.arange(queries)
    allowed = (torch.rand(rows, queries, queries, generator=generator) > 0.3) | torch.eye(
        queries, dtype=torch.bool
    )
    allowed = allowed.tril()
    context = AttentionContext(
        allowed, positions, positions, [prefix_cache] if prefix_cache else None, groups
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_prefix, "QUERY_CHUNK", chunk)
        actual = shared_prefix.chunked_attention(
            query, key, value, prefix_cache, context, window, 0.3
        )
    expected = shared_prefix.full_attention(
        query, key, value, prefix_cache, context, context.masks(window, query.dtype), 0.3, None, 0.0
    )
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    for row in range(rows):  # and each row by the formula
        n = int(prefix_lengths[group_ids[row]])
        keys = (
            torch.cat([prefix_cache[0][group_ids[row], :, :n], key[row]], dim=1)
            if prefix_cache
            else key[row]
        )
        values = (
            torch.cat([prefix_cache[1][group_ids[row], :, :n], value[row]], dim=1)
            if prefix_cache
            else value[row]
        )
        at, positions = (
            (n + torch.arange(queries)).repeat(repeats)[:, None],
            torch.arange(n + queries),
        )
        hidden = (positions > at) | (at - positions >= (window or 10**6))
        hidden[:, n:] |= ~allowed[row].repeat(repeats, 1)
        scores = (query[row] @ keys.transpose(1, 2) * 0.3).masked_fill(hidden, -torch.inf)
        torch.testing.assert_close(
            actual[row], torch.softmax(scores, -1) @ values, atol=1e-5, rtol=1e-4
        )


def test_gradients_flow_through_the_shared_prefix(model_folder: Path) -> None:
    model = loaded(model_folder)
    parameters = list(get_backbone(model).parameters())
    # A sum of squares would have no gradient: the final norm keeps it constant.
    weights = torch.randn(len(ROWS), 32, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(
        (row_by_row(model) * weights).sum(), parameters, allow_unused=True
    )
    prefix = compute_prefix_cache(get_backbone(model), PREFIX)
    states = hidden_states(get_backbone(model), collate(ROWS, LOGIT_POSITIONS, len(PREFIX)), prefix)
    actual = torch.autograd.grad((states * weights).sum(), parameters, allow_unused=True)
    for a, b in zip(actual, expected, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()), rtol=1e-3)


def test_padding_masks_apply_outside_the_engine(model_folder: Path) -> None:
    model = loaded(model_folder)
    left = torch.tensor([[0, 0, 0, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        ours = model(input_ids=left, attention_mask=mask).logits[0, -1]
        model.set_attn_implementation("eager")
        torch.testing.assert_close(
            ours, model(input_ids=left, attention_mask=mask).logits[0, -1], atol=1e-4, rtol=1e-4
        )


def test_unsupported_architecture_falls_back_with_a_message(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(
        "prooftune.engine.compatibility.notify", lambda message, style: messages.append(message)
    )
    model = loaded(model_folders["llama"])
    original = shared_prefix.shared_prefix_attention
    # A layer that drops the attention context, as one without extra keyword arguments would.
    monkeypatch.setattr(
        shared_prefix,
        "shared_prefix_attention",
        lambda *args, attention_context=None, **options: original(*args, **options),
    )
    backends.register()
    try:
        check_output_head(model)
    finally:
        monkeypatch.undo()
        backends.register()
    assert not supports_shared_prefix(get_backbone(model))
    assert ["does not support a prefix shared between rows" in message for message in messages] == [
        True
    ]


def test_disabling_the_lora_input_upcast_keeps_gradients(model_folders: dict[str, Path]) -> None:
    def gradients(disabled: bool) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        model: Any = adapters.make_trainable(
            loaded(model_folders["llama"], "bfloat16"), recipe.Variant(kind="tuned"), {"r": 4}
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if disabled:
            disable_lora_input_upcast(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = packed_hidden_states(
                get_backbone(model), pack_sequences(PREFIX, ROWS, LOGIT_POSITIONS)
            )
        loss = states.float().square().mean(dim=0).mul(torch.linspace(-1, 1, 32)).sum()
        return loss.detach(), list(
            torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        )

    (loss, ours), (wanted_loss, expected) = gradients(True), gradients(False)
    assert torch.equal(loss, wanted_loss) and len(ours) == len(expected) > 0
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=0.02 * float(b.abs().max()), rtol=0)


def test_merged_kv_cache_writes_each_row_at_its_own_position() -> None:
    first_cache, second_cache = KVCache(), KVCache()
    keys, more = (
        torch.arange(24.0).reshape(3, 1, 4, 2),
        torch.arange(100.0, 112.0).reshape(1, 1, 6, 2),
    )
    first_cache.update(keys, -keys, 0)
    second_cache.update(more, -more, 0)
    saved = KVCache.merge([(first_cache, [2, 0]), (second_cache, [0])], capacity=7)
    saved.set_write_positions(
        torch.tensor([4, 2, 6]), 7
    )  # the second row has two tokens and padding
    new = torch.full((3, 1, 1, 2), 7.0)
    keys_out, values = saved.update(new, -new, 0)
    assert saved.get_seq_length() == keys_out.shape[2] == 7
    assert keys_out[0, 0].tolist() == [*keys[2, 0].tolist(), [7, 7], [0, 0], [0, 0]]
    assert keys_out[1, 0].tolist() == [
        *keys[0, 0, :2].tolist(),
        [7, 7],
        keys[0, 0, 3].tolist(),
        [0, 0],
        [0, 0],
        [0, 0],
    ]
    assert keys_out[2, 0].tolist() == [*more[0, 0].tolist(), [7, 7]]
    assert torch.equal(values, -keys_out)


def test_gradients_of_packed_attention_keep_tokens_first_in_memory() -> None:
    # As attention layers make them: [1, tokens, heads, size], transposed.
    query, key, value = (
        torch.randn(1, 24, heads, 32).transpose(1, 2).requires_grad_() for heads in (4, 2, 2)
    )
    layout = packed_layout.PackedLayout(4, [12, 8], query.device)
    out = packed.packed_attention(query, key, value, layout, 0.2, None, None)
    for grad in torch.autograd.grad(out.square().sum(), (query, key, value)):
        assert grad.transpose(1, 2).is_contiguous()
