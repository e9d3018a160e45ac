"""Values of other tools and of older releases, and what to write instead."""

from __future__ import annotations

from typing import Any

OLD_VALUES: dict[tuple[str, str, Any], Any] = {
    ("training", "optim", "adamw_hf"): "adamw_torch",
    ("training", "optim", "adamw"): "adamw_torch",
    ("training", "optim", "paged_adamw"): "paged_adamw_32bit",
    ("training", "optim", "adamw_apex_fused"): "adamw_torch_fused",
    # Older versions of transformers reported to all trackers then; here it is what people mean.
    ("training", "report_to", None): "none",
    ("training", "report_to", ""): "none",
    ("lora", "target_modules", "all_linear"): "all-linear",
    **{
        (section, key, old): new
        for section, key in (("model", "dtype"), ("quantization", "bnb_4bit_compute_dtype"))
        for old, new in (
            ("bf16", "bfloat16"),
            ("fp16", "float16"),
            ("fp32", "float32"),
            ("half", "float16"),
            ("torch.bfloat16", "bfloat16"),
            ("torch.float16", "float16"),
            ("torch.float32", "float32"),
        )
    },
}
"""(section, key, old value) -> new value with the same meaning."""


HINTS: dict[tuple[str, str, Any], str] = {
    ("lora", "bias", "additive"): "lora_only trains the biases of the adapted layers, all those of "
    "every layer, none leaves them as they are",
    ("training", "fsdp", "full_shard auto_wrap"): "fsdp: true with fsdp_config: {version: 2}",
}
"""(section, key, value) -> what to write instead of a value without an exact equivalent."""
