"""Data types that this machine does not compute, or computes slowly; attention that is not here."""

from __future__ import annotations

from collections.abc import Iterator

from prooftune.models.loading import cpu_multiplies_bfloat16, device
from prooftune.preflight.findings import Finding, error, merged_options, note
from prooftune.recipe import Recipe


def check_precision(recipe: Recipe) -> Iterator[Finding]:
    """Findings about ``model.dtype``, ``model.attention``, ``training.bf16``."""
    kind = device().type
    cuda = kind == "cuda"
    trained = [v for v in recipe.variants.values() if v.kind == "tuned" and not v.adapter]
    if kind == "mps" and recipe.model.dtype in ("bfloat16", "float16"):
        report = error if trained else note
        yield report("model.dtype", "16 bits are untested on Apple's GPUs; auto is float32")
    elif recipe.model.dtype == "float16" and not cuda:
        if trained:
            yield error(
                "model.dtype",
                "training in float16 needs a CUDA GPU and there is none here; use auto",
            )
        else:
            yield note("model.dtype", "CPUs compute float16 slowly; auto is faster")
    if kind == "cpu" and not cpu_multiplies_bfloat16():
        slow = (
            "this CPU has no bfloat16 arithmetic and emulates it, about a hundred times slower "
            "than float32; "
        )
        if recipe.model.dtype == "bfloat16":
            yield error("model.dtype", f"{slow}use auto")
        if any({**recipe.training, **v.training}.get("bf16") for v in trained):
            yield error("training.bf16", f"{slow}remove it")
    if cuda:
        yield from _autocast(recipe)
    if recipe.model.attention == "flash_attention_2":
        yield from _flash_attention(cuda)


def _autocast(recipe: Recipe) -> Iterator[Finding]:
    """Training in another 16-bit dtype than the weights', which scoring computes in."""
    from prooftune.models.loading import TRAINING_DTYPES, compute_dtype, with_training_dtype

    # `dtype: auto` is decided by the training's bf16 and fp16.
    recipe = with_training_dtype(recipe)
    for name, variant in recipe.variants.items():
        if variant.kind != "tuned" or variant.adapter:
            continue
        dtype = str(compute_dtype(recipe.for_variant(name).model.dtype)).removeprefix("torch.")
        options = merged_options("training", recipe.training, name, variant.training)
        for field, autocast in TRAINING_DTYPES.items():
            if options.values.get(field) is not True or autocast == dtype:
                continue
            message = f"training would compute in {autocast}, and scoring in {dtype}"
            if dtype == "float32" and field == "bf16":
                yield note(options.key_path(field), message)
            else:
                yield error(
                    options.key_path(field), f"{message}; set model.dtype: {autocast}, or remove it"
                )


def _flash_attention(cuda: bool) -> Iterator[Finding]:
    from transformers.utils import is_flash_attn_2_available

    if not (cuda and is_flash_attn_2_available()):
        missing = "flash-attn is not installed" if cuda else "it needs a CUDA GPU"
        yield error("model.attention", f"flash_attention_2 does not work here: {missing}; use auto")
