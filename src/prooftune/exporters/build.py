"""``prooftune export``: write an artefact, run the golden set through it, and give it its name only
if it answers right."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prooftune.bundle import golden
from prooftune.bundle.golden import GoldenRow, max_new_tokens
from prooftune.bundle.manifest import GOLDEN, Manifest, read_manifest
from prooftune.bundle.safety import check_files
from prooftune.errors import Failure, UsageError
from prooftune.exporters import diagnosis, ollama
from prooftune.exporters.card import render_card
from prooftune.exporters.compare_outputs import ask
from prooftune.exporters.formats import Format, get_format
from prooftune.exporters.gguf import FILE
from prooftune.exporters.parity import Parity, ParityLimits, summarize_parity, tokenization_mismatch
from prooftune.exporters.runtimes import LlamaCpp, Runtime, Transformers
from prooftune.models import loading
from prooftune.utils.files import atomic_path, read_json, write_json
from prooftune.utils.profiling import measure_cost
from prooftune.utils.progress import notify, spinner
from prooftune.version import __version__

ROWS = 64
"""Rows of a golden set that is made for a bundle without one."""

BUILD = "pip install 'llama-cpp-python>=0.3.16'"
"""How llama.cpp comes to this machine: its Python package is built from source."""


def export(
    bundle: Path,
    to: str,
    out: Path,
    *,
    rows_of: Path | None = None,
    agreement: float | None = None,
    difference: float | None = None,
    unchecked: bool = False,
) -> dict[str, Any]:
    """Export a bundle and check what came out.

    Args:
        bundle: a bundle folder.
        to: name of a format.
        out: folder of the artefact; replaced if it holds an earlier export, left alone if anything
            fails.
        rows_of: another golden set: a ``.jsonl`` like the bundle's, or the run folder whose
            validation rows are asked.
        agreement, difference: limits in place of the format's own.
        unchecked: write without a check, and say so wherever the artefact is described.

    Returns:
        The content of ``export.json``.

    Raises:
        UsageError: the format does not fit the bundle, or something that it needs is not installed.
        Failure: the artefact answers otherwise than the bundle does: it says where they part.
    """
    chosen, manifest = get_format(to), read_manifest(bundle)
    check_files(bundle)
    _check_request(chosen, to, manifest, out, unchecked)
    limits = ParityLimits(
        chosen.limits.agreement if agreement is None else agreement,
        chosen.limits.difference if difference is None else difference,
    )
    rows = [] if unchecked else _golden(bundle, manifest, rows_of)
    if fault := diagnosis.prompt(bundle, manifest, rows):
        raise Failure(f"not exported: {bundle} does not render as its golden set says. {fault}")
    with atomic_path(out) as temporary:
        temporary.mkdir()
        with spinner(f"Writing {to}"):
            chosen.write(bundle, manifest, temporary)
        parity = (
            None if unchecked else _checked(bundle, manifest, temporary, chosen, to, rows, limits)
        )
        record = _record(manifest, to, temporary, parity, limits)
        write_json(temporary / "bundle.json", manifest)
        write_json(temporary / "export.json", record)
        (temporary / "README.md").write_text(render_card(manifest, record), encoding="utf-8")
    if parity is None:
        notify(
            f"{out} was NOT CHECKED: nobody knows whether it answers as the bundle does",
            "bold yellow",
        )
    return record


def _check_request(chosen: Format, to: str, manifest: Manifest, out: Path, unchecked: bool) -> None:
    if out.exists() and not (out / "export.json").is_file():
        raise UsageError(f"{out} exists and is no earlier export; give --out another name")
    if manifest["objective"] == "head" and not chosen.heads:
        raise UsageError(
            f"--to {to}: GGUF has no place for a classification head; export merged, int8, int4 "
            "or vllm, or tune "
            "with objective: instruction"
        )
    if (
        chosen.runtime == "llama.cpp"
        and not unchecked
        and importlib.util.find_spec("llama_cpp") is None
    ):
        raise UsageError(
            f"--to {to}: an export is checked by running it, and llama.cpp is not here: pip "
            "install "
            f"'prooftune[llama-cpp]' builds it from source (as does {BUILD}; it takes a C++ "
            "compiler and 10 to 30 "
            "minutes). Or --unchecked, to have it without a check, which is written wherever it "
            "is described."
        )


def _golden(bundle: Path, manifest: Manifest, rows_of: Path | None) -> list[GoldenRow]:
    place = rows_of or bundle / GOLDEN
    if place.is_dir():
        seed = 0
        return golden.rows_from_run(golden.load_float32(bundle), place, ROWS, seed)
    if rows_of is None and not place.is_file():
        raise UsageError(
            f"{bundle} holds no golden set to check an export by (its recipe says bundle.golden: "
            "0, or it is older "
            "than golden sets). Give one: --golden RUN, the run folder that it came from, asks "
            "the run's validation "
            "rows; --golden FILE.jsonl reads rows like those of golden.jsonl."
        )
    rows = golden.read(place)
    missing = next((row.id for row in rows if set(manifest["fields"]) - set(row.inputs)), None)
    if not rows or missing is not None:
        fields = ", ".join(manifest["fields"])
        raise UsageError(
            f"{place} is empty"
            if not rows
            else f"{place}: row {missing} has not every field of {fields}"
        )
    return rows


def _checked(
    bundle: Path,
    manifest: Manifest,
    folder: Path,
    chosen: Format,
    to: str,
    rows: Sequence[GoldenRow],
    limits: ParityLimits,
) -> Parity:
    """Run the golden set through what was written.

    Raises:
        Failure: it is short of the limits.
    """
    tokenizer = loading.load_tokenizer(bundle / "tokenizer")
    text = _texts(manifest, folder, to, tokenizer)
    with spinner(f"Running {len(rows)} golden rows through {to}"), measure_cost() as cost:
        started = time.perf_counter()
        runtime = _runtime(chosen, manifest, folder, rows)
        loaded = time.perf_counter() - started
        if fault := _stop_fault(runtime, manifest) or tokenization_mismatch(
            runtime, manifest, rows, text, tokenizer
        ):
            raise Failure(f"not exported: {to} does not read what the bundle reads. {fault}")
        # What others send as one text is tokenised as one: it may come to other tokens where a
        # field begins or ends.
        whole = [runtime.tokenize(text(row), special=True, start=True) for row in rows]
        asked = whole if to == "ollama" else [row.prompt for row in rows]
        said = [
            ask(runtime, manifest, row, ids, written=to == "ollama")
            for row, ids in zip(rows, asked, strict=True)
        ]
    parity = summarize_parity(
        runtime,
        said,
        [ids == row.prompt for ids, row in zip(whole, rows, strict=True)],
        cost,
        loaded,
        not manifest["labels"],
    )
    if misses := parity.misses(limits):
        where = (
            diagnosis.layers(bundle, manifest, runtime, rows, chosen.tolerance)
            if isinstance(runtime, Transformers)
            else _elsewhere(rows, whole, to)
        )
        listed = "".join(f"  - {miss}\n" for miss in misses)
        raise Failure(
            f"not exported: {to} answers otherwise than the bundle does.\n{listed}{where}"
        )
    return parity


def _runtime(
    chosen: Format, manifest: Manifest, folder: Path, rows: Sequence[GoldenRow]
) -> Runtime:
    if chosen.runtime == "transformers":
        return Transformers(folder, manifest["objective"] == "head")
    longest = max(len(row.prompt) for row in rows)
    room = max(
        max_new_tokens(manifest),
        ollama.max_label_tokens(manifest),
        *(len(row.answer_ids) for row in rows),
    )
    return LlamaCpp(folder / FILE, longest + room + 16)


def _texts(manifest: Manifest, folder: Path, to: str, tokenizer: Any) -> Callable[[GoldenRow], str]:
    """How the prompt of a row is written as text: by Ollama's template, or by the bundle's own
    parts.

    The start token is left out where the artefact adds it by itself.
    """
    before, between, after = ollama.split_prompt(manifest, tokenizer)

    def text(row: GoldenRow) -> str:
        said = ollama.middle(manifest, between, row.inputs)
        whole = before + said + after
        if to == "ollama" and (found := ollama.rendered(folder / "Modelfile", said)) != whole:
            raise Failure(
                f"not exported: template: the Modelfile renders row {row.id} otherwise than the "
                "bundle does; "
                f"{diagnosis.differing_text(found, whole)}"
            )
        return whole

    return text


def _stop_fault(runtime: Runtime, manifest: Manifest) -> str | None:
    if isinstance(runtime, LlamaCpp) and not runtime.ends_at(manifest["tokens"]["stop"]):
        return (
            "stop token: llama.cpp does not end an answer at the bundle's stop token (id "
            f"{manifest['tokens']['stop']})"
        )
    return None


def _elsewhere(rows: Sequence[GoldenRow], whole: Sequence[Sequence[int]], to: str) -> str:
    """What can be said where the runtime shows no hidden states."""
    other = sum(list(ids) != row.prompt for ids, row in zip(whole, rows, strict=True))
    if to == "ollama" and other:
        return (
            f"tokenisation: as one text, {other} of {len(rows)} prompts come to other tokens than "
            "part by part, as the bundle "
            "reads them (a space before a field in the template does this); if gguf-q8_0 passes, "
            "that is all."
        )
    return (
        "prompts and tokens agree, so the weights differ, by conversion or by quantisation; "
        "llama.cpp shows no layers. Export "
        "merged: if that passes, the conversion to GGUF is at fault."
    )


def _record(
    manifest: Manifest, to: str, folder: Path, parity: Parity | None, limits: ParityLimits
) -> dict[str, Any]:
    sizes = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {
        "format": to,
        "prooftune_version": __version__,
        "checked": parity is not None,
        "model": manifest["model"]["name"],
        "variant": manifest["variant"],
        "task": manifest["task"],
        "limits": {"agreement": limits.agreement, "mean_difference": limits.difference},
        "parity": parity.to_json() if parity else None,
        "size_bytes": sum(sizes.values()),
        "files": sizes,
    }


def read_record(folder: Path) -> dict[str, Any]:
    """The record of an export.

    Raises:
        UsageError: the folder is none.
    """
    try:
        record: dict[str, Any] = read_json(folder / "export.json")
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is no export: {error}") from None
    return record
