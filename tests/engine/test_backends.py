"""Every attention backend gives the same losses, gradients and log-probabilities.

Packed, padded and one row at a time; Llama, Llama 3, Gemma 2 (soft-capped, alternating windows),
Qwen 2 (biases) and Mistral (windows), in float32 and bfloat16. Compiled attention takes part with
heads of 32; it computes neither smaller ones nor soft-capped scores.
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
)

from engine_helpers import LLAMA3_ROPE, record_calls
from prooftune import recipe
from prooftune.engine.attention import backends, flex, flex_layout, flex_trial, shared_prefix
from prooftune.engine.attention.flex_trial import FlexKernel, FlexUse, flex_works
from prooftune.engine.kernels import attention as compiled_attention
from prooftune.engine.packing import pack_sequences
from prooftune.engine.precision import autocast
from prooftune.engine.scoring import label_tree, score_classes, score_labels
from prooftune.models import adapters, loading
from prooftune.training.objective import TuningModule
from prooftune.training.rows import TrainingRow, make_collator

PREFIX = list(range(40, 62))  # longer than the windows of 16
LENGTHS = [3, 1, 30, 6, 150]
SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": None,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama3": LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
    "gemma2": Gemma2Config(
        **SIZES,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        final_logit_softcapping=2.0,
        attn_logit_softcapping=3.0,
    ),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=16),
}
WIDE = {
    "llama-32": LlamaConfig(**SIZES, head_dim=32),
    "llama3-32": LlamaConfig(
        **SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE, head_dim=32
    ),
    "qwen2-32": Qwen2Config(**SIZES, tie_word_embeddings=True, head_dim=32),
    "mistral-32": MistralConfig(**SIZES, sliding_window=16, head_dim=32),
}
"""Heads of 32, as compiled attention needs."""

BACKENDS = [*backends.NAMES, "eager", "sdpa"]
CASES = [
    *((family, attention) for attention in BACKENDS for family in CONFIGS
      if (family, attention) != ("gemma2", "sdpa")),  # SDPA has no soft-capping
    *((family, shared_prefix.NAME) for family in WIDE),
]  # fmt: skip


def rows() -> list[TrainingRow]:
    generator = torch.Generator().manual_seed(0)
    result = []
    for length in LENGTHS:
        ids = torch.randint(2, 200, (length + 1,), generator=generator).tolist()
        first = max(0, length - 3)
        result.append(TrainingRow(ids[:-1], range(first, length), ids[first + 1 :]))
    return result


def tuned(family: str, dtype: torch.dtype, attention: str) -> Any:
    backends.register()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        {**CONFIGS, **WIDE}[family], dtype=dtype, attn_implementation=attention
    )
    model = adapters.make_trainable(model, recipe.Variant(kind="tuned"), {"r": 4})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def one_by_one(model: Any) -> Tensor:
    """The summed loss by transformers' own forward pass, one row at a time."""
    total = torch.zeros(())
    for row in rows():
        logits = model(input_ids=torch.tensor([[*PREFIX, *row.ids]]), use_cache=False).logits[0]
        at = torch.tensor(row.label_positions) + len(PREFIX)
        total = total + torch.nn.functional.cross_entropy(
            logits[at].float(), torch.tensor(row.targets), reduction="sum"
        )
    return total


def batched(model: Any) -> Tensor:
    """The same by the trainer's module: packed by our backends, padded otherwise."""
    module = TuningModule(model)
    assert module.packed == backends.uses_own_attention(model)
    loss: Tensor = module(**make_collator(PREFIX, module.packed, module.pad_multiple)(rows()))[
        "loss_sum"
    ]
    return loss


def gradients(model: Any, loss: Tensor) -> Tensor:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "attention"), CASES)
def test_losses_and_gradients_are_those_of_single_rows(
    monkeypatch: pytest.MonkeyPatch, family: str, attention: str
) -> None:
    reference = tuned(family, torch.float32, "eager")
    expected = one_by_one(reference)
    wanted = gradients(reference, expected)
    model = tuned(family, torch.float32, attention)
    calls = record_calls(monkeypatch)
    loss = batched(model)
    compiled = family in WIDE and compiled_attention.is_available(32, torch.float32)
    assert ("flash_attention" in calls) == compiled
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        gradients(model, loss), wanted, atol=2e-4 * float(wanted.abs().max()), rtol=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize(("family", "attention"), CASES)
def test_bfloat16_is_as_close_to_float32_as_transformers_own(family: str, attention: str) -> None:
    reference = tuned(family, torch.float32, "eager")
    exact = one_by_one(reference)
    wanted = gradients(reference, exact)
    errors = []
    for name, compute in (("eager", one_by_one), (attention, batched)):
        model = tuned(family, torch.bfloat16, name)
        with torch.autocast("cpu", torch.bfloat16):
            loss = compute(model)
        difference = gradients(model, loss) - wanted
        errors.append((float((loss - exact).abs() / exact), difference.norm() / wanted.norm()))
    (own_loss, own), (our_loss, ours) = errors
    assert ours <= 1.3 * own + 0.01
    assert our_loss <= 1.3 * own_loss + 0.01


SCORED_LABELS = [[21], [22, 23], [22, 24, 25], [26, 27]]


def scores_of_single_rows(model: Any, prefix: list[int]) -> Tensor:
    """Log-probabilities [rows, labels] by transformers' forward pass, one label at a time."""
    prompts = [row.ids for row in rows()]
    expected = torch.zeros(len(prompts), len(SCORED_LABELS))
    with torch.no_grad():
        for i, prompt in enumerate(prompts):
            for j, label in enumerate(SCORED_LABELS):
                ids = torch.tensor([[*prefix, *prompt, *label]])
                logits = model(input_ids=ids, use_cache=False).logits[0]
                scores = logits.float().log_softmax(-1)
                start = ids.shape[1] - len(label) - 1
                expected[i, j] = sum(scores[start + k, t] for k, t in enumerate(label))
    return expected


def batched_scores(model: Any, prefix: list[int]) -> Tensor:
    prompts = [row.ids for row in rows()]
    actual = torch.full((len(prompts), len(SCORED_LABELS)), torch.nan)
    with autocast(model):
        batches = score_labels(model, prefix, prompts, SCORED_LABELS, 1, batch_tokens=256)
        for row_ids, values in batches:
            actual[row_ids] = values
    return actual


@pytest.mark.slow
@pytest.mark.parametrize(("family", "attention"), CASES)
@pytest.mark.parametrize("prefix", [PREFIX, []], ids=["prefix", "no prefix"])
def test_label_scores_are_those_of_single_rows(
    family: str, attention: str, prefix: list[int]
) -> None:
    expected = scores_of_single_rows(tuned(family, torch.float32, "eager").eval(), prefix)
    actual = batched_scores(tuned(family, torch.float32, attention).eval(), prefix)
    torch.testing.assert_close(actual, expected, atol=3e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "attention"), CASES)
def test_label_scores_in_bfloat16_are_as_close_as_transformers_own(
    family: str, attention: str
) -> None:
    exact = scores_of_single_rows(tuned(family, torch.float32, "eager").eval(), PREFIX)
    with torch.autocast("cpu", torch.bfloat16):
        own = scores_of_single_rows(tuned(family, torch.bfloat16, "eager").eval(), PREFIX)
    ours = batched_scores(tuned(family, torch.bfloat16, attention).eval(), PREFIX)
    assert (ours - exact).norm() <= 1.3 * (own - exact).norm() + 0.01 * exact.norm()


def test_classes_are_scored_by_packed_rows() -> None:
    """A classification head at each row's last token."""
    from transformers import AutoModelForSequenceClassification

    backends.register()
    scores = []
    for attention in ("eager", *backends.NAMES):
        torch.manual_seed(0)
        config = LlamaConfig(**{**SIZES, "pad_token_id": 0}, num_labels=3)
        model = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=attention
        ).eval()
        prompts = [row.ids for row in rows()]
        values = torch.zeros(len(prompts), 3)
        for row_ids, batch in score_classes(model, PREFIX, prompts):
            values[row_ids] = batch
        scores.append(values)
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], atol=1e-4, rtol=1e-4)


def visible(
    layout: flex_layout.FlexLayout, tokens: int, window: int | None
) -> np.ndarray[Any, Any]:
    """The attention matrix [queries, keys] by its definition, one pair at a time."""
    row_of, node = [0] * layout.prefix_length, [-1] * layout.prefix_length
    position, parents = list(range(layout.prefix_length)), dict[int, set[int]]()
    for row, length in enumerate(layout.lengths, 1):
        text = length - len(layout.tree_parents)
        for index in range(length):
            row_of.append(row)
            number = index - text
            node.append(max(-1, number))
            depth, at = 0, number
            while at >= 0:
                depth, at = depth + 1, layout.tree_parents[at]
            position.append(layout.prefix_length + (index if number < 0 else text - 1 + depth))
    for number, parent in enumerate(layout.tree_parents):
        parents[number] = {number} | (parents[parent] if parent >= 0 else set())
    first = layout.prefix_length if layout.prefix is not None else 0
    total = first + tokens
    matrix = np.zeros((tokens, total), bool)
    for query in range(tokens):
        at = first + query
        for key in range(len(row_of)):
            if at >= len(row_of) or key > at or row_of[key] not in (0, row_of[at]):
                continue
            if window is not None and position[at] - position[key] >= window:
                continue
            if node[key] >= 0 and node[key] not in parents.get(node[at], set()):
                continue
            matrix[query, key] = True
    return matrix


@settings(max_examples=60, deadline=None)
@given(
    prefix=st.integers(0, 9),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    parents=st.sampled_from([(), (-1,), (-1, 0, 0, -1), (-1, 0, 1)]),
    window=st.sampled_from([None, 1, 3, 6]),
    cached=st.booleans(),
    padding=st.integers(0, 7),
)
def test_blocks_and_masks_are_those_of_the_definition(
    prefix: int,
    lengths: list[int],
    parents: tuple[int, ...],
    window: int | None,
    cached: bool,
    padding: int,
) -> None:
    """No block that holds a visible pair is left out; blocks without a mask are visible throughout;
    and the mask is exact."""
    lengths = [length + len(parents) for length in lengths]
    layout = flex_layout.FlexLayout(
        prefix, lengths, torch.device("cpu"), parents, [] if cached and prefix else None
    )
    tokens = sum(lengths) + padding + (0 if layout.prefix is not None else prefix)
    expected = visible(layout, tokens, window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex_layout, "BLOCK", 4)
        mask = layout.block_mask(window, tokens)
    queries, keys = expected.shape
    q, k = torch.arange(queries)[:, None], torch.arange(keys)[None]
    zero = torch.zeros((), dtype=torch.long)
    seen = mask.mask_mod(zero, zero, q, k).expand(queries, keys).numpy()
    real = tokens - padding
    assert (seen[:real] == expected[:real]).all()
    assert not seen[:real, keys - padding :].any() or not padding
    computed = np.zeros((-(-queries // 4), -(-keys // 4)), int)
    for counts, indices, kind in (
        (mask.kv_num_blocks, mask.kv_indices, 1),
        (mask.full_kv_num_blocks, mask.full_kv_indices, 2),
    ):
        assert counts is not None and indices is not None
        for block, count in enumerate(counts[0, 0].tolist()):
            for other in indices[0, 0, block, :count].tolist():
                assert computed[block, other] == 0
                computed[block, other] = kind
    for block in range(computed.shape[0]):
        for other in range(computed.shape[1]):
            part = seen[4 * block : 4 * block + 4, 4 * other : 4 * other + 4]
            if computed[block, other] == 0:
                assert not part.any()
            if computed[block, other] == 2:
                assert part.all()


def test_whole_blocks_of_a_long_row_and_prefix_need_no_mask() -> None:
    """A prefix of 2 blocks and a row of 4: half of the 36 pairs of blocks, 6 on the diagonal."""
    layout = flex_layout.FlexLayout(
        2 * flex_layout.BLOCK, [4 * flex_layout.BLOCK], torch.device("cpu")
    )
    mask = layout.block_mask(None, 6 * flex_layout.BLOCK)
    assert mask.kv_num_blocks.tolist() == [[[1] * 6]]
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_num_blocks.tolist() == [[[0, 1, 2, 3, 4, 5]]]
    # Two rows of 2 blocks: the second does not see the first.
    layout = flex_layout.FlexLayout(0, [2 * flex_layout.BLOCK] * 2, torch.device("cpu"))
    mask = layout.block_mask(None, 4 * flex_layout.BLOCK)
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_num_blocks.tolist() == [[[0, 1, 0, 1]]]


@pytest.mark.parametrize(
    ("device", "capability", "head_size", "expected"),
    [
        ("cpu", (0, 0), 64, shared_prefix.NAME),
        ("mps", (0, 0), 64, shared_prefix.NAME),
        ("cuda", (7, 5), 64, shared_prefix.NAME),
        ("cuda", (8, 0), 64, flex.NAME),
        ("cuda", (9, 0), 128, flex.NAME),
        ("cuda", (9, 0), 8, shared_prefix.NAME),
    ],
)
def test_the_backend_follows_the_device(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    capability: tuple[int, int],
    head_size: int,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)

    def compile_kernel() -> None:
        raise AssertionError("nothing is compiled before it is needed")

    monkeypatch.setattr(flex, "_compiled", compile_kernel)
    assert backends.default_backend(torch.device(device), head_size) == expected


KERNELS = [
    FlexKernel(),
    FlexKernel(256, grouped=False, dtype=torch.float16),
    FlexKernel(softcap=5.0, windows=True),
]
USES: list[FlexUse] = ["training", "rows", "label tree"]


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_flex_attention_is_tried_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch, use: FlexUse
) -> None:
    for kernel in KERNELS:
        with torch.set_grad_enabled(use != "training"):
            assert flex_works.__wrapped__("cpu", kernel, use)
    messages: list[str] = []
    monkeypatch.setattr(flex_trial, "notify", lambda message, style: messages.append(message))
    monkeypatch.setattr(flex_trial, "failed_trials", set())

    def broken(*_: Any) -> Tensor:
        raise RuntimeError("no Triton compiler")

    monkeypatch.setattr(flex, "flex_packed_attention", broken)
    assert not flex_works.__wrapped__("cpu", FlexKernel(), use)
    assert "no Triton compiler" in messages[0]
    assert flex_trial.failed_trials == {("cpu", FlexKernel(), use)}


@pytest.mark.slow
def test_a_kernel_that_is_wrong_for_label_trees_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As PyTorch 2.13's kernel for CPUs once was: a window of 16 acted as one of 128."""
    right: Any = flex.flex_packed_attention

    def wrong(module: Any, *inputs: Any) -> Tensor:
        layout, window = inputs[3], inputs[-1]
        if layout.tree_parents and window is not None:
            window = 128
        result: Tensor = right(module, *inputs[:-1], window)
        return result

    monkeypatch.setattr(flex, "flex_packed_attention", wrong)
    messages: list[str] = []
    monkeypatch.setattr(flex_trial, "notify", lambda message, style: messages.append(message))
    monkeypatch.setattr(flex_trial, "failed_trials", set())
    kernel = FlexKernel(windows=True)
    assert flex_works.__wrapped__("cpu", kernel, "training")
    assert not flex_works.__wrapped__("cpu", kernel, "label tree")
    assert "differ" in messages[0]


def test_only_the_kernel_that_a_batch_needs_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """And matmuls compute it where the trial fails: the same losses and label scores."""
    tried: list[tuple[FlexKernel, FlexUse]] = []

    def trial(device: str, kernel: FlexKernel, use: FlexUse) -> bool:
        tried.append((kernel, use))
        return False

    monkeypatch.setattr(backends, "flex_works", trial)
    # As if the model were on a GPU; on CPUs nothing is tried.
    monkeypatch.setattr(backends, "NEEDS_NO_TRIAL", ())
    labels = [[21], [22, 23]]
    prompts = [row.ids for row in rows()]
    results = []
    for attention in backends.NAMES:
        model = tuned("gemma2", torch.float32, attention)
        loss = batched(model)
        with autocast(model.eval()):
            scores = [v for _, v in score_labels(model, PREFIX, prompts, labels, 1)]
        results.append([loss, *scores])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    kernel = FlexKernel(8, True, 3.0, True, torch.float32)
    assert tried == [(kernel, "training"), (kernel, "label tree")]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_one_compiled_kernel_is_right_for_many_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """By PyTorch's compiler for CPUs, with dynamic shapes as on GPUs.

    Its template renames the size of a block by text replacement, and may rename a captured size of
    the same name, ks16, too: results were wrong, or the kernel did not compile. Here the block's
    size has a name of its own.
    """
    from torch._inductor.codegen.common import KernelArgs

    original = KernelArgs.size

    def size(self: Any, name: Any) -> str:
        if name.name.startswith("u"):
            self.sizevars.setdefault(name, f"block_size_{name.name}_")
        return original(self, name)

    monkeypatch.setattr(KernelArgs, "size", size)
    device, tree = torch.device("cpu"), (-1, 0, 0, -1)
    layouts: list[tuple[int, list[int], tuple[int, ...], int | None]] = [
        (40, [200, 144], tree, 16),
        (40, [200, 400], tree, 16),
        (40, [200, 144], tree, None),
        (128, [17, 300, 60], tree, 90),
        (0, [20, 145], tree, 7),
        (256, [128, 128, 128], tree, 200),
    ]
    for prefix, lengths, parents, window in layouts:
        layout = flex_layout.FlexLayout(prefix, lengths, device, parents)
        tokens = prefix + sum(lengths)
        mask, cap = layout.block_mask(window, tokens), flex._score_mod(3.0, device)
        generator = torch.Generator().manual_seed(0)
        query, key, value = (
            torch.randn(1, heads, tokens, 16, generator=generator) for heads in (4, 2, 2)
        )
        with torch.no_grad():
            compiled: Any = flex._compiled()
            actual = compiled(
                query, key, value, score_mod=cap, block_mask=mask, scale=0.25, enable_gqa=True
            )
            expected = flex._attend(query, key, value, cap, mask, 0.25)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_recipes_name_the_backend(model_folders: Any) -> None:
    for name, expected in (
        ("flex", flex.NAME),
        ("shared-prefix", shared_prefix.NAME),
        ("auto", shared_prefix.NAME),
        ("sdpa", "sdpa"),
    ):
        if name == "auto" and torch.cuda.is_available():
            continue
        assert loading.attention_implementation(name, model_folders["llama"]) == expected
    options = recipe.Model.model_validate({"name": "tiny", "attention": "flex"})
    model = loading.load_model(model_folders["llama"], options)
    assert backends.uses_flex(model)
    batch = pack_sequences([1, 2], [[3, 4], [5]], [[1], [0]])
    assert isinstance(backends.packed_layout(model, batch), flex_layout.FlexLayout)


def test_depths_and_ancestors_of_a_label_tree() -> None:
    tree = label_tree([[1, 2, 3], [1, 2, 4], [1, 5, 6], [7, 8]], 0)
    assert flex_layout._depths(tree.parents).tolist() == [0, *tree.depths]
    matrix = flex_layout._ancestors(tree.parents)
    assert matrix[:, 0].all() and matrix[0].sum() == 1
    for node, parent in enumerate(tree.parents, 1):
        assert matrix[node, node] and matrix[node, parent + 1]
        assert matrix[node].sum() == tree.depths[node - 1] + 1
