"""Find where an artefact differs from its bundle: in the prompt, in a layer, or at the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune import recipe
from prooftune.bundle import golden
from prooftune.bundle.base_model import base_model_folder
from prooftune.bundle.golden import GoldenRow
from prooftune.bundle.layout import tokenizer_folder
from prooftune.bundle.manifest import Manifest
from prooftune.exporters.merged import merge
from prooftune.exporters.parity import first_difference
from prooftune.exporters.runtimes import Transformers
from prooftune.models import loading
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS = 4
"""Number of golden rows whose hidden states are compared."""


def prompt(bundle: Path, manifest: Manifest, rows: Sequence[GoldenRow]) -> str | None:
    """Explain how the bundle's rendering differs from its golden prompts; None if it agrees."""
    tokenizer = loading.load_tokenizer(tokenizer_folder(bundle, manifest))
    encoder = PromptEncoder(
        Rendering.from_json(manifest["rendering"]), tokenizer, manifest["fields"]
    )
    start = tokenizer.bos_token_id
    for row in rows:
        ids = [
            i
            for part in manifest["tokens"]["prompt"]
            for i in (
                part
                if isinstance(part, list)
                else tokenizer(
                    row.inputs[part], add_special_tokens=False, split_special_tokens=True
                ).input_ids
            )
        ]
        for exported_ids, source in (
            (encoder.prefix + encoder.encode(row.inputs).token_ids, "rendering"),
            (ids, "tokens.prompt"),
        ):
            if exported_ids == row.prompt:
                continue
            description = f"by {source} of bundle.json, the prompt of row {row.id}"
            if start is not None and exported_ids[:2] == [start, start]:
                return f"tokenisation: {description} begins with two start tokens"
            texts = str(tokenizer.decode(exported_ids)), str(tokenizer.decode(row.prompt))
            if texts[0] != texts[1]:
                return (
                    f"template: {description} is not the one of the golden set; "
                    f"{differing_text(*texts)}"
                )
            difference = first_difference(exported_ids, row.prompt, tokenizer)
            return f"tokenisation: {description} {difference}"
    return None


def differing_text(exported_text: str, golden_text: str) -> str:
    """Describe the first difference between the export's text and the bundle's."""
    position = next(
        (i for i, (a, b) in enumerate(zip(exported_text, golden_text, strict=False)) if a != b),
        min(len(exported_text), len(golden_text)),
    )
    cut = slice(max(0, position - 20), position + 20)
    return (
        f"they differ from character {position}: {exported_text[cut]!r} instead of "
        f"{golden_text[cut]!r}"
    )


def layers(
    bundle: Path,
    manifest: Manifest,
    exported: Transformers,
    rows: Sequence[GoldenRow],
    tolerance: float,
) -> str:
    """Describe the first layer whose hidden states differ from the bundle's.

    Args:
        bundle: the reference, loaded by transformers and peft and merged in memory.
        manifest: its manifest.
        exported: the artefact.
        rows: golden rows, of which the first few are used.
        tolerance: largest relative difference (Frobenius norm) due to rounding or quantization.
    """
    reference = merge(bundle, manifest)
    # In the dtype in which `Transformers` loaded the artefact.
    if str(exported.model.dtype) == "torch.float32":
        reference.float()
    reference_runtime = _InMemory(reference)
    largest_differences: list[float] = []
    for row in rows[:_ROWS]:
        pairs = list(
            zip(
                exported.hidden_states(row.prompt),
                reference_runtime.hidden_states(row.prompt),
                strict=True,
            )
        )
        # Relative, since hidden states grow from layer to layer.
        sizes = [float((a - b).norm() / b.norm().clamp_min(1e-9)) for a, b in pairs]
        largest_differences = [
            max(pair) for pair in zip(sizes, largest_differences or sizes, strict=True)
        ]
    # `not <=`, so that NaN counts as different.
    first = next((i for i, size in enumerate(largest_differences) if not size <= tolerance), None)
    if first is None:
        if _heads_differ(exported.model, reference):
            return (
                "first differing layer: the output layer (hidden states agree in all layers): the "
                "head's weights are others, "
                "or in another order"
            )
        return _explain_equal_layers(bundle, rows[:_ROWS])
    # transformers' last hidden state is that after the final norm, so the last layer and the norm
    # cannot be told apart.
    # The first hidden state is the embedding's.
    names = [
        "the embedding",
        *(f"layer {i}" for i in range(len(largest_differences) - 2)),
        f"layer {len(largest_differences) - 2} or the norm after it",
    ]
    message = (
        f"first differing layer: {names[first]} of {len(largest_differences) - 1} layers "
        "(hidden states "
        f"differ by {largest_differences[first]:.2%})"
    )
    return message + (
        _is_untuned(manifest, exported, rows) if manifest["part"] == "adapter" else ""
    )


def _explain_equal_layers(bundle: Path, rows: Sequence[GoldenRow]) -> str:
    """Explain different outputs without a differing layer, by running the bundle again."""
    # Golden sets are made in float32 if it fits into memory, otherwise in the bundle's dtype.
    drift, dtype = min(
        (_drift(loaded, rows), str(getattr(loaded.model, "dtype", "another")))
        for loaded in (golden.load_float32(bundle), golden.load_float32(bundle, dtype=None))
    )
    if drift > 0.05:
        return (
            "no layer differs from the bundle as it is now: the bundle itself has changed "
            "since its golden set was made"
        )
    return (
        "no layer differs from the bundle's weights, and the bundle still says what its golden "
        "set says: the difference is "
        f"that of arithmetic, the bundle's being {dtype}. Allow it (--max-difference), or give "
        "--golden RUN: the run's validation rows are then asked in float32, if the memory holds "
        "it."
    )


def _drift(loaded: Any, rows: Sequence[GoldenRow]) -> float:
    """Largest log-probability difference, in nats, between the bundle now and its golden rows."""
    current = golden.make_rows(loaded, [Example(row.id, row.inputs) for row in rows])
    pairs = (
        pair
        for new_row, golden_row in zip(current, rows, strict=False)
        for pair in zip(_figures(new_row), _figures(golden_row), strict=False)
    )
    return max((abs(a - b) for a, b in pairs), default=0.0)


def _figures(row: GoldenRow) -> list[float]:
    return list(row.log_probs) or [row.answer_log_prob or 0.0]


class _InMemory(Transformers):
    """A transformers runtime around a model in memory."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.name, self.model = "reference", model


def _heads_differ(exported: PreTrainedModel, reference: PreTrainedModel) -> bool:
    heads = [
        getattr(model, "score", None) or model.get_output_embeddings()
        for model in (exported, reference)
    ]
    exported_weight, reference_weight = (head.weight.detach().float().cpu() for head in heads)
    return bool(
        exported_weight.shape != reference_weight.shape
        or (exported_weight - reference_weight).norm() > 0.05 * reference_weight.norm()
    )


def _is_untuned(manifest: Manifest, exported: Transformers, rows: Sequence[GoldenRow]) -> str:
    """A remark if the export equals the untuned model, the most common export fault."""
    base = base_model_folder(manifest)
    options = recipe.Model(name=str(base), dtype="float32", attention="eager")
    untuned = _InMemory(loading.load_model(base, options))
    ids = rows[0].prompt
    exported_states, untuned_states = (
        exported.hidden_states(ids)[-1],
        untuned.hidden_states(ids)[-1],
    )
    is_untuned = float((exported_states - untuned_states).norm() / untuned_states.norm()) < 0.02
    return "; it is the untuned model's: the adapter is not in the export" if is_untuned else ""
