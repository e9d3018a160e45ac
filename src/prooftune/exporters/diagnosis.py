"""Where an artefact diverges from its bundle: in the prompt, in a layer, or at the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prooftune import recipe
from prooftune.bundle import golden
from prooftune.bundle.golden import GoldenRow
from prooftune.bundle.load import base_model_folder, load
from prooftune.bundle.manifest import Manifest
from prooftune.exporters.merged import merge
from prooftune.exporters.parity import first_difference
from prooftune.exporters.runtimes import Transformers
from prooftune.models import loading
from prooftune.tasks.prompts import PromptEncoder, Rendering
from prooftune.types import Example

_ROWS = 4
"""Golden rows whose hidden states are compared."""


def prompt(bundle: Path, manifest: Manifest, rows: Sequence[GoldenRow]) -> str | None:
    """Where the bundle's own rendering no longer gives the prompts of its golden set; None where it
    does."""
    tokenizer = loading.load_tokenizer(bundle / "tokenizer")
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
        for here, by in (
            (encoder.prefix + encoder.encode(row.inputs).token_ids, "rendering"),
            (ids, "tokens.prompt"),
        ):
            if here == row.prompt:
                continue
            what = f"by {by} of bundle.json, the prompt of row {row.id}"
            if start is not None and here[:2] == [start, start]:
                return f"tokenisation: {what} begins with two start tokens"
            texts = str(tokenizer.decode(here)), str(tokenizer.decode(row.prompt))
            if texts[0] != texts[1]:
                return (
                    f"template: {what} is another than when the golden set was made; "
                    f"{differing_text(*texts)}"
                )
            return f"tokenisation: {what} {first_difference(here, row.prompt, tokenizer)}"
    return None


def differing_text(here: str, there: str) -> str:
    """Where two texts part, in words: of the export, and of the bundle."""
    place = next(
        (i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b),
        min(len(here), len(there)),
    )
    cut = slice(max(0, place - 20), place + 20)
    return f"they part at character {place}: {here[cut]!r} in place of {there[cut]!r}"


def layers(
    bundle: Path,
    manifest: Manifest,
    exported: Transformers,
    rows: Sequence[GoldenRow],
    tolerance: float,
) -> str:
    """The first layer whose hidden states differ from the bundle's, in words.

    Args:
        bundle, manifest: the reference, loaded by plain transformers and peft and merged in memory.
        exported: the artefact.
        rows: golden rows, of which some are asked.
        tolerance: share of the hidden states' size that two equal layers may differ by: rounding,
            or quantisation.
    """
    reference = merge(bundle, manifest)
    if str(exported.model.dtype) == "torch.float32":
        reference.float()
    ours = _Held(reference)
    worst: list[float] = []
    for row in rows[:_ROWS]:
        pairs = list(
            zip(exported.hidden_states(row.prompt), ours.hidden_states(row.prompt), strict=True)
        )
        sizes = [float((a - b).norm() / b.norm().clamp_min(1e-9)) for a, b in pairs]
        worst = [max(pair) for pair in zip(sizes, worst or sizes, strict=True)]
    first = next((i for i, size in enumerate(worst) if not size <= tolerance), None)
    if first is None:
        if _heads_differ(exported.model, reference):
            return (
                "first differing layer: the output layer (hidden states agree in all layers): the "
                "head's weights are others, "
                "or in another order"
            )
        return _unlike_itself(bundle, rows[:_ROWS])
    names = [
        "the embedding",
        *(f"layer {i}" for i in range(len(worst) - 2)),
        f"layer {len(worst) - 2} or the norm after it",
    ]
    found = (
        f"first differing layer: {names[first]} of {len(worst) - 1} layers (hidden states "
        f"differ by {worst[first]:.2%})"
    )
    return found + (_is_untuned(manifest, exported, rows) if manifest["part"] == "adapter" else "")


def _unlike_itself(bundle: Path, rows: Sequence[GoldenRow]) -> str:
    """Why an export in which no layer differs answers otherwise: by what the bundle says now to the
    same rows."""
    # Golden sets are made in float32 where that fits, and in the bundle's own arithmetic otherwise.
    moved, dtype = min(
        (_moved(loaded, rows), str(getattr(loaded.model, "dtype", "another")))
        for loaded in (golden.load_float32(bundle), load(bundle))
    )
    if moved > 0.05:
        return (
            "no layer differs from the bundle as it is now: the bundle itself has changed "
            "since its golden set was made"
        )
    return (
        "no layer differs from the bundle's weights, and the bundle still says what its golden "
        "set says: the difference is "
        f"that of arithmetic, the bundle's being {dtype}. Allow it (--max-difference), or make "
        "the golden set in float32, for "
        "which there must be twice as much memory as it takes."
    )


def _moved(loaded: Any, rows: Sequence[GoldenRow]) -> float:
    """The largest difference, in nats, between what the bundle says now and what the golden rows
    say."""
    now = golden.make_rows(loaded, [Example(row.id, row.inputs) for row in rows])
    pairs = (
        pair
        for here, there in zip(now, rows, strict=False)
        for pair in zip(_figures(here), _figures(there), strict=False)
    )
    return max((abs(a - b) for a, b in pairs), default=0.0)


def _figures(row: GoldenRow) -> list[float]:
    return list(row.log_probs) or [row.answer_log_prob or 0.0]


class _Held(Transformers):
    """A model that is in memory already."""

    def __init__(self, model: Any) -> None:
        self.name, self.model = "reference", model


def _heads_differ(exported: Any, reference: Any) -> bool:
    heads = [
        getattr(model, "score", None) or model.get_output_embeddings()
        for model in (exported, reference)
    ]
    ours, theirs = (head.weight.detach().float().cpu() for head in heads)
    return bool(ours.shape != theirs.shape or (ours - theirs).norm() > 0.05 * theirs.norm())


def _is_untuned(manifest: Manifest, exported: Transformers, rows: Sequence[GoldenRow]) -> str:
    """Says so where the export answers as the untuned model: the commonest way to lose what was
    trained."""
    base = base_model_folder(manifest)
    options = recipe.Model(name=str(base), dtype="float32", attention="eager")
    untuned = _Held(loading.load_model(base, options))
    ids = rows[0].prompt
    here, there = exported.hidden_states(ids)[-1], untuned.hidden_states(ids)[-1]
    same = float((here - there).norm() / there.norm()) < 0.02
    return "; it is the untuned model's: the adapter is not in the export" if same else ""
