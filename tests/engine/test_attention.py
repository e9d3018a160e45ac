"""Our attention is the library's: a shared prefix, rows in one line and sliding windows change
nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prooftune import recipe
from prooftune.engine.attention import block_layout, packed, shared_prefix
from prooftune.engine.attention.masks import AttentionContext, PrefixGroups
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
READ = [[len(row) - 1] for row in ROWS]


def loaded(folder: Path, dtype: str = "float32") -> Any:
    return load_model(
        folder,
        recipe.Model.model_validate(
            {"name": "tiny", "dtype": dtype, "attention": shared_prefix.NAME}
        ),
    )


def row_by_row(model: Any) -> Tensor:
    """Hidden states at each row's last token by the library's eager attention, each row alone after
    the whole prefix."""
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
def test_a_shared_prefix_changes_nothing(model_folder: Path, dtype: str, tolerance: float) -> None:
    model = loaded(model_folder, dtype)
    with torch.no_grad():
        wanted = row_by_row(model)
        prefix = compute_prefix_cache(get_backbone(model), PREFIX)
        got = hidden_states(get_backbone(model), collate(ROWS, READ, len(PREFIX)), prefix)
    torch.testing.assert_close(got, wanted, atol=tolerance * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-4), ("bfloat16", 0.12)])
def test_rows_in_one_line_change_nothing(model_folder: Path, dtype: str, tolerance: float) -> None:
    model = loaded(model_folder, dtype)
    with torch.no_grad():
        got, wanted = (
            packed_hidden_states(get_backbone(model), pack_sequences(PREFIX, ROWS, READ)),
            row_by_row(model),
        )
    torch.testing.assert_close(got, wanted, atol=tolerance * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize(("kept", "long"), [(True, False), (False, False), (False, True)])
def test_gradients_of_rows_in_one_line(
    model_folder: Path, kept: bool, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "MAX_SAVED_ATTENTION_WEIGHTS", 10**9 if kept else 0)
    monkeypatch.setattr(packed, "PER_SEQUENCE_MIN_TOKENS", {"cpu": 0} if long else {})
    model = loaded(model_folder)
    parameters = list(get_backbone(model).parameters())
    weights = torch.randn(len(ROWS), 32, generator=torch.Generator().manual_seed(0))
    wanted = torch.autograd.grad((row_by_row(model) * weights).sum(), parameters, allow_unused=True)
    got = torch.autograd.grad(
        (
            packed_hidden_states(get_backbone(model), pack_sequences(PREFIX, ROWS, READ)) * weights
        ).sum(),
        parameters,
        allow_unused=True,
    )
    for a, b in zip(got, wanted, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()), rtol=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    prefix=st.integers(0, 5),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    groups=st.sampled_from([1, 3]),
    cap=st.sampled_from([None, 2.0]),
    window=st.sampled_from([None, 3, 100]),
    keep=st.booleans(),
    long=st.booleans(),
    piece=st.sampled_from([1, 2, 128]),
    calls=st.sampled_from([0, 8000]),
)
def test_attention_of_a_line_is_that_of_each_row_behind_the_prefix(
    prefix: int,
    lengths: list[int],
    groups: int,
    cap: float | None,
    window: int | None,
    keep: bool,
    long: bool,
    piece: int,
    calls: int,
) -> None:
    generator = torch.Generator().manual_seed(prefix + sum(lengths))
    line = pack_sequences([1] * prefix, [[2] * n for n in lengths], [[0]] * len(lengths))
    heads, size, total = 2, 4, line.input_ids.shape[1]
    assert total % 32 == 0 and line.lengths.tolist()[:-1] == lengths[:-1]
    query, key, value = (
        torch.randn(1, n, total, size, generator=generator, dtype=torch.float64, requires_grad=True)
        for n in (heads * groups, heads, heads)
    )

    def slowly() -> Tensor:
        """Every token by itself, as the formula has it."""
        places = [
            *range(prefix),
            *(prefix + i for length in line.lengths.tolist() for i in range(length)),
        ]
        own = [0] * prefix + [
            n for n, length in enumerate(line.lengths.tolist(), 1) for _ in range(length)
        ]
        out = torch.zeros(total, heads * groups, size, dtype=torch.float64)
        for at in range(total):
            near = [
                t
                for t in range(at + 1)
                if own[t] in (0, own[at]) and (window is None or places[at] - places[t] < window)
            ]
            for head in range(heads * groups):
                scores = key[0, head // groups, near] @ query[0, head, at] * 0.5
                scores = scores if cap is None else torch.tanh(scores / cap) * cap
                out[at, head] = torch.softmax(scores, 0) @ value[0, head // groups, near]
        return out[None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "MAX_SAVED_ATTENTION_WEIGHTS", 10**9 if keep else 0)
        patch.setattr(packed, "PER_SEQUENCE_MIN_TOKENS", {"cpu": 0} if long else {})
        patch.setattr(block_layout, "QUERY_CHUNK", {"cpu": piece})
        patch.setattr(block_layout, "MAX_BUCKET_TOKENS", 4 * piece)
        patch.setattr(block_layout, "BUCKET_OVERHEAD", calls)
        got = packed.packed_attention(
            query, key, value, block_layout.PackedLayout.from_batch(line), 0.5, cap, window
        )
        wanted = slowly()
        torch.testing.assert_close(got, wanted)
        weights = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
        for a, b in zip(
            torch.autograd.grad((got * weights).sum(), [query, key, value]),
            torch.autograd.grad((wanted * weights).sum(), [query, key, value]),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


def test_what_many_pieces_add_up_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of keys and values in bfloat16 are as near to those in float64 with 64 pieces as
    with one."""
    generator = torch.Generator().manual_seed(0)
    line = pack_sequences([], [[1] * 256], [[0]])
    exact = [torch.randn(1, 2, 256, 16, generator=generator, dtype=torch.float64) for _ in range(3)]
    weights = torch.randn(1, 256, 2, 16, generator=generator, dtype=torch.float64)

    def gradients(piece: int, dtype: torch.dtype) -> list[Tensor]:
        monkeypatch.setattr(block_layout, "QUERY_CHUNK", {"cpu": piece})
        parts = [one.to(dtype).requires_grad_() for one in exact]
        query, key, value = parts
        out = packed.packed_attention(
            query, key, value, block_layout.PackedLayout.from_batch(line), 0.25, None, None
        )
        return [one.double() for one in torch.autograd.grad((out * weights.to(dtype)).sum(), parts)]

    wanted = gradients(256, torch.float64)
    whole, pieces = (gradients(piece, torch.bfloat16) for piece in (256, 4))
    for a, b, c in zip(wanted, whole, pieces, strict=True):
        assert (c - a).norm() <= 1.2 * (b - a).norm() < 0.03 * a.norm()


@settings(max_examples=60, deadline=None)
@given(
    prefixes=st.lists(st.integers(1, 9), max_size=3),
    rows=st.integers(1, 5),
    queries=st.integers(1, 5),
    repeats=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 3, 100]),
    seed=st.integers(0, 99),
    piece=st.sampled_from([1, 2, 256]),
)
def test_attention_in_pieces_is_that_at_once(
    prefixes: list[int],
    rows: int,
    queries: int,
    repeats: int,
    window: int | None,
    seed: int,
    piece: int,
) -> None:
    """Over no prefix, over one, and over those of several groups, with and without a sliding
    window, with tokens of their own row that some queries do not see, as in a tree of labels."""
    generator = torch.Generator().manual_seed(seed)
    heads, size = 2, 8

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    asked, key, value = (drawn(rows, heads, n, size) for n in (repeats * queries, queries, queries))
    shape = len(prefixes), heads, max(prefixes, default=0), size
    behind = (drawn(*shape), drawn(*shape)) if prefixes else None
    group = (
        torch.randint(len(prefixes), (rows,), generator=generator).sort().values
        if prefixes
        else torch.zeros(rows).long()
    )
    seen = torch.tensor(prefixes or [0])
    groups = PrefixGroups.from_ids(group, seen) if len(prefixes) > 1 else None
    positions = seen[group][:, None] + torch.arange(queries)
    allowed = (torch.rand(rows, queries, queries, generator=generator) > 0.3) | torch.eye(
        queries, dtype=torch.bool
    )
    allowed = allowed.tril()
    context = AttentionContext(allowed, positions, positions, [behind] if behind else None, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_prefix, "QUERY_CHUNK", piece)
        got = shared_prefix.chunked_attention(asked, key, value, behind, context, window, 0.3)
    wanted = shared_prefix.full_attention(
        asked, key, value, behind, context, context.masks(window, asked.dtype), 0.3, None, 0.0
    )
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    for row in range(rows):  # and each row by itself, as the formula has it
        n = int(seen[group[row]])
        keys = torch.cat([behind[0][group[row], :, :n], key[row]], dim=1) if behind else key[row]
        values = (
            torch.cat([behind[1][group[row], :, :n], value[row]], dim=1) if behind else value[row]
        )
        at, places = (n + torch.arange(queries)).repeat(repeats)[:, None], torch.arange(n + queries)
        hidden = (places > at) | (at - places >= (window or 10**6))
        hidden[:, n:] |= ~allowed[row].repeat(repeats, 1)
        scores = (asked[row] @ keys.transpose(1, 2) * 0.3).masked_fill(hidden, -torch.inf)
        torch.testing.assert_close(
            got[row], torch.softmax(scores, -1) @ values, atol=1e-5, rtol=1e-4
        )


def test_gradients_flow_through_the_shared_prefix(model_folder: Path) -> None:
    model = loaded(model_folder)
    parameters = list(get_backbone(model).parameters())
    # Squares would do nothing: the last layer's norm keeps their sum the same.
    weights = torch.randn(len(ROWS), 32, generator=torch.Generator().manual_seed(0))
    wanted = torch.autograd.grad((row_by_row(model) * weights).sum(), parameters, allow_unused=True)
    prefix = compute_prefix_cache(get_backbone(model), PREFIX)
    states = hidden_states(get_backbone(model), collate(ROWS, READ, len(PREFIX)), prefix)
    got = torch.autograd.grad((states * weights).sum(), parameters, allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()), rtol=1e-3)


def test_padding_masks_are_obeyed_outside_the_engine(model_folder: Path) -> None:
    model = loaded(model_folder)
    left = torch.tensor([[0, 0, 0, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        ours = model(input_ids=left, attention_mask=mask).logits[0, -1]
        model.set_attn_implementation("eager")
        torch.testing.assert_close(
            ours, model(input_ids=left, attention_mask=mask).logits[0, -1], atol=1e-4, rtol=1e-4
        )


def test_an_architecture_that_it_does_not_fit_falls_back_and_says_so(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        "prooftune.engine.compatibility.notify", lambda message, style: said.append(message)
    )
    model = loaded(model_folders["llama"])
    plain = shared_prefix.shared_prefix_attention
    # A layer that loses what it is told about the prefix, as one would that takes no further
    # arguments.
    monkeypatch.setattr(
        shared_prefix,
        "shared_prefix_attention",
        lambda *args, attention_context=None, **options: plain(*args, **options),
    )
    shared_prefix.register()
    try:
        check_output_head(model)
    finally:
        monkeypatch.undo()
        shared_prefix.register()
    assert not supports_shared_prefix(get_backbone(model))
    assert ["does not support a prefix shared between rows" in message for message in said] == [
        True
    ]


def test_inputs_left_as_they_are_give_the_same_gradients(model_folders: dict[str, Path]) -> None:
    def gradients(leaves: bool) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        model: Any = adapters.make_trainable(
            loaded(model_folders["llama"], "bfloat16"), recipe.Variant(kind="tuned"), {"r": 4}
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if leaves:
            disable_lora_input_upcast(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = packed_hidden_states(get_backbone(model), pack_sequences(PREFIX, ROWS, READ))
        loss = states.float().square().mean(dim=0).mul(torch.linspace(-1, 1, 32)).sum()
        return loss.detach(), list(
            torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        )

    (loss, ours), (wanted_loss, wanted) = gradients(True), gradients(False)
    assert torch.equal(loss, wanted_loss) and len(ours) == len(wanted) > 0
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=0.02 * float(b.abs().max()), rtol=0)


def test_kept_rows_of_several_go_on_in_their_own_places() -> None:
    one, other = KVCache(), KVCache()
    keys, more = (
        torch.arange(24.0).reshape(3, 1, 4, 2),
        torch.arange(100.0, 112.0).reshape(1, 1, 6, 2),
    )
    one.update(keys, -keys, 0)
    other.update(more, -more, 0)
    kept = KVCache.merge([(one, [2, 0]), (other, [0])], capacity=7)
    kept.set_write_positions(
        torch.tensor([4, 2, 6]), 7
    )  # the second row has two tokens and padding
    added = torch.full((3, 1, 1, 2), 7.0)
    held, values = kept.update(added, -added, 0)
    assert kept.get_seq_length() == held.shape[2] == 7
    assert held[0, 0].tolist() == [*keys[2, 0].tolist(), [7, 7], [0, 0], [0, 0]]
    assert held[1, 0].tolist() == [
        *keys[0, 0, :2].tolist(),
        [7, 7],
        keys[0, 0, 3].tolist(),
        [0, 0],
        [0, 0],
        [0, 0],
    ]
    assert held[2, 0].tolist() == [*more[0, 0].tolist(), [7, 7]]
    assert torch.equal(values, -held)
