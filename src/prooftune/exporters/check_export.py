"""Check a written export: run the golden set through it and compare with the bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.bundle.golden import GoldenRow, max_new_tokens
from prooftune.bundle.layout import tokenizer_folder
from prooftune.bundle.manifest import Manifest
from prooftune.errors import Failure
from prooftune.exporters import diagnosis, ollama
from prooftune.exporters.compare_outputs import run_row
from prooftune.exporters.formats import Format
from prooftune.exporters.gguf import FILE
from prooftune.exporters.parity import Parity, ParityLimits, summarize_parity, tokenization_mismatch
from prooftune.exporters.runtimes import LlamaCpp, Runtime, Transformers
from prooftune.models import loading
from prooftune.utils.profiling import measure_cost
from prooftune.utils.progress import spinner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRICS = {"classification": "accuracy", "multilabel": "example-based F1"}
"""Names of what `GoldenResult.quality` is, by task; of answers it is their F1."""


def check_export(
    bundle: Path,
    manifest: Manifest,
    folder: Path,
    format_: Format,
    to: str,
    rows: Sequence[GoldenRow],
    limits: ParityLimits,
) -> tuple[Parity, str | None]:
    """Run the golden set through the written artefact.

    Returns:
        The results, and the limits that they miss with the part that differs; None if they pass.

    Raises:
        Failure: the artefact gets other tokens than the bundle, so that nothing was compared.
    """
    tokenizer = loading.load_tokenizer(tokenizer_folder(bundle, manifest))
    text = _text_renderer(manifest, folder, to, tokenizer)
    with spinner(f"Running {len(rows)} golden rows through {to}"), measure_cost() as cost:
        started = time.perf_counter()
        runtime = _runtime(format_, manifest, folder, rows)
        # Loading does not count towards the rows per second.
        load_seconds = time.perf_counter() - started
        if mismatch := _stop_fault(runtime, manifest) or tokenization_mismatch(
            runtime, manifest, rows, text, tokenizer
        ):
            raise Failure(f"not exported: {to} gets other tokens than the bundle. {mismatch}")
        # Other programs tokenize the whole prompt at once, which may merge tokens across the
        # boundaries of fields.
        retokenized = [runtime.tokenize(text(row), special=True, start=True) for row in rows]
        # Ollama takes text and not token ids, so it is checked on its own tokenization.
        prompts = retokenized if to == "ollama" else [row.prompt for row in rows]
        results = [
            run_row(runtime, manifest, row, ids, written=to == "ollama")
            for row, ids in zip(rows, prompts, strict=True)
        ]
    parity = summarize_parity(
        runtime.name,
        results,
        [ids == row.prompt for ids, row in zip(retokenized, rows, strict=True)],
        cost,
        load_seconds,
        METRICS.get(manifest["task"], "F1"),
    )
    if misses := parity.misses(limits):
        diagnosis_text = (
            diagnosis.layers(bundle, manifest, runtime, rows, format_.tolerance)
            if isinstance(runtime, Transformers)
            else _explain_without_layers(rows, retokenized, to)
        )
        misses_list = "".join(f"  - {miss}\n" for miss in misses)
        return parity, (
            f"not exported: the outputs of {to} differ from the bundle's.\n"
            f"{misses_list}{diagnosis_text}"
        )
    return parity, None


def _runtime(
    format_: Format, manifest: Manifest, folder: Path, rows: Sequence[GoldenRow]
) -> Runtime:
    if format_.runtime == "transformers":
        return Transformers(folder, manifest["objective"] == "head")
    longest = max(len(row.prompt) for row in rows)
    answer_tokens = max(
        max_new_tokens(manifest),
        ollama.max_label_tokens(manifest),
        *(len(row.answer_ids) for row in rows),
    )
    return LlamaCpp(folder / FILE, longest + answer_tokens + 16)


def _text_renderer(
    manifest: Manifest, folder: Path, to: str, tokenizer: PreTrainedTokenizerBase
) -> Callable[[GoldenRow], str]:
    """A function from a golden row to its prompt as text.

    The BOS token is omitted if the artefact's tokenizer adds it.
    """
    before, middle_parts, after = ollama.split_prompt(manifest, tokenizer)

    def text(row: GoldenRow) -> str:
        user_text = ollama.user_prompt(manifest, middle_parts, row.inputs)
        full_text = before + user_text + after
        if (
            to == "ollama"
            and (rendered_text := ollama.render_template(folder / "Modelfile", user_text))
            != full_text
        ):
            raise Failure(
                f"not exported: template: the Modelfile and the bundle render row {row.id} "
                "differently; "
                f"{diagnosis.differing_text(rendered_text, full_text)}"
            )
        return full_text

    return text


def _stop_fault(runtime: Runtime, manifest: Manifest) -> str | None:
    if isinstance(runtime, LlamaCpp) and not runtime.ends_at(manifest["tokens"]["stop"]):
        return (
            "stop token: llama.cpp does not end an answer at the bundle's stop token (id "
            f"{manifest['tokens']['stop']})"
        )
    return None


def _explain_without_layers(
    rows: Sequence[GoldenRow], retokenized: Sequence[Sequence[int]], to: str
) -> str:
    """The diagnosis for a runtime without access to hidden states."""
    differing = sum(list(ids) != row.prompt for ids, row in zip(retokenized, rows, strict=True))
    if to == "ollama" and differing:
        return (
            f"tokenisation: as one text, {differing} of {len(rows)} prompts come to other tokens "
            "than "
            "part by part, as the bundle "
            "reads them (a space before a field in the template does this); if gguf-q8_0 passes, "
            "that is all."
        )
    return (
        "prompts and tokens agree, so the weights differ, by conversion or by quantisation; "
        "llama.cpp shows no layers. Export "
        "merged: if that passes, the conversion to GGUF is at fault."
    )
