"""Quantisation options: what becomes of every `BitsAndBytesConfig` field."""

from __future__ import annotations

from collections.abc import Iterator

from prooftune.errors import UsageError, nearest
from prooftune.models.loading import quantization_config
from prooftune.preflight.findings import Finding, error, note
from prooftune.recipe import Recipe

SHARED = frozenset({"load_in_4bit", "load_in_8bit", "llm_int8_skip_modules"})
OF_8_BITS = frozenset({"llm_int8_threshold", "llm_int8_has_fp16_weight"})
OF_4_BITS = frozenset(
    {
        "bnb_4bit_compute_dtype",
        "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
        "bnb_4bit_quant_storage",
    }
)
REFUSED = {
    "llm_int8_enable_fp32_cpu_offload": "not supported: a model stands on one device; remove it"
}
"""Field -> why it is refused, and what to do."""

_TYPES = ("nf4", "fp4")


def check_quantization(recipe: Recipe, name: str) -> Iterator[Finding]:
    """Findings about the ``quantization`` section of one variant's base model.

    Args:
        recipe: of the variant, see `Recipe.for_variant`.
        name: the variant.
    """
    values = recipe.quantization
    section = (
        f"variants.{name}.quantization" if recipe.variants[name].quantization else "quantization"
    )
    if not values:
        return
    for key, hint in REFUSED.items():
        if values.get(key):
            yield error(f"{section}.{key}", hint)
    four, eight = bool(values.get("load_in_4bit")), bool(values.get("load_in_8bit"))
    # Nobody reads the fields of the other width, and nobody says so.
    for key in values.keys() & (OF_8_BITS if four and not eight else OF_4_BITS if eight else set()):
        yield note(f"{section}.{key}", f"no effect with load_in_{4 if four else 8}bit: true")
    kind = values.get("bnb_4bit_quant_type", "nf4")
    if kind not in _TYPES:
        yield error(
            f"{section}.bnb_4bit_quant_type",
            f"'{kind}' is not one of {', '.join(_TYPES)}{nearest(str(kind), _TYPES)}",
        )
    for other, variant in recipe.variants.items():
        # The recipe's section applies to all variants without one of their own.
        own = recipe.variants[name].quantization is not None
        if variant.method == "full" and (other == name if own else variant.quantization is None):
            yield error(
                f"variants.{other}.method",
                "quantised weights cannot be trained; use method: lora, or quantization: null",
            )
    try:
        quantization_config(values)
    except (UsageError, AttributeError) as refusal:
        yield error(section, str(refusal).removeprefix("quantization: "))
