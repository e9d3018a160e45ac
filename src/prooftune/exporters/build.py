"""``prooftune export``: writes an artefact, checks it on the golden set, or discards it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.bundle import golden
from prooftune.bundle.golden import GoldenRow
from prooftune.bundle.manifest import GOLDEN, Manifest, is_encoder, is_language_model
from prooftune.bundle.manifest_reader import read_manifest
from prooftune.bundle.safety import check_files
from prooftune.errors import Failure, UsageError
from prooftune.exporters import diagnosis, quantized
from prooftune.exporters.card import render_card, table
from prooftune.exporters.check_export import check_export
from prooftune.exporters.formats import Format, get_format
from prooftune.exporters.parity import Parity, ParityLimits
from prooftune.utils.files import atomic_path, read_json, write_json, write_text
from prooftune.utils.progress import notify, spinner
from prooftune.version import __version__

if TYPE_CHECKING:
    pass

MAX_ROWS = 64
"""Number of rows of a golden set that is made for a bundle without one."""

BUILD_COMMAND = "pip install 'llama-cpp-python>=0.3.16'"
"""Builds llama.cpp from source by its Python package."""


def export(
    bundle: Path,
    to: str,
    out: Path,
    *,
    golden_path: Path | None = None,
    agreement: float | None = None,
    difference: float | None = None,
    unchecked: bool = False,
) -> dict[str, Any]:
    """Export a bundle and compare the artefact's outputs with the golden set.

    Args:
        bundle: a bundle folder.
        to: name of the format.
        out: folder of the artefact. An earlier export is replaced on success and kept on failure.
        golden_path: another golden set: a ``.jsonl`` file, or a run folder whose validation rows
            are used.
        agreement: smallest agreement. Default: the format's own limit.
        difference: largest mean log-probability difference in nats. Default: the format's own
            limit.
        unchecked: skip the check; the artefact's record and card say so.

    Returns:
        The content of ``export.json``.

    Raises:
        UsageError: the format does not support the bundle, or a dependency is missing.
        Failure: the artefact's outputs differ from the bundle's; the message names the part
            (template, tokenizer, layer).
    """
    format_, manifest = get_format(to), _exportable(bundle, to)
    check_files(bundle)
    _check_request(format_, to, manifest, out, unchecked)
    if to in quantized.OPTIONS:
        quantized.check_library(to)
    if to == "int4":
        quantized.check_int4(bundle, manifest)
    limits = ParityLimits(
        format_.limits.agreement if agreement is None else agreement,
        format_.limits.difference if difference is None else difference,
    )
    rows = [] if unchecked else _golden(bundle, manifest, golden_path)
    # Before anything is written: after a wrong prompt every comparison would be of other inputs.
    if mismatch := diagnosis.prompt(bundle, manifest, rows):
        raise Failure(f"not exported: {bundle} does not render as its golden set says. {mismatch}")
    with atomic_path(out) as temporary:
        temporary.mkdir()
        with spinner(f"Writing {to}"):
            format_.write(bundle, manifest, temporary)
        parity, failure = (
            (None, None)
            if unchecked
            else check_export(bundle, manifest, temporary, format_, to, rows, limits)
        )
        record = _record(manifest, to, temporary, parity, limits)
        # Raised inside the block, so that the temporary folder is discarded; the figures go next to
        # it.
        if failure is not None:
            raise Failure(f"{failure}\nAll figures: {_write_failed(out, record)}")
        # Programs without Prooftune read prompt and labels from it, as token ids.
        write_json(temporary / "bundle.json", manifest)
        write_json(temporary / "export.json", record)
        (temporary / "README.md").write_text(render_card(manifest, record), encoding="utf-8")
    if parity is None:
        notify(
            f"{out} was NOT CHECKED: its outputs may differ from the bundle's",
            "bold yellow",
        )
    return record


def _exportable(bundle: Path, to: str) -> Manifest:
    """The manifest of a bundle with a language model, the only kind that can be converted."""
    manifest = read_manifest(bundle)
    if is_language_model(manifest):
        return manifest
    if is_encoder(manifest):
        raise UsageError(
            f"--to {to}: {bundle} is an encoder, whose folder is a plain, merged model already: "
            "AutoModelForSequenceClassification of transformers opens it. Copy it, or publish it"
        )
    raise UsageError(
        f"--to {to}: {bundle} ('{manifest['variant']}', {manifest['method']}) contains no language "
        "model, and every export format stores one. predict, serve, evaluate and publish work with "
        "the bundle as it is, and its README.md has code that loads it without Prooftune"
    )


def _check_request(
    format_: Format, to: str, manifest: Manifest, out: Path, unchecked: bool
) -> None:
    # `export.json` marks a folder that this command wrote, which it may replace.
    if out.exists() and not (out / "export.json").is_file():
        raise UsageError(f"{out} exists and is no earlier export; give --out another name")
    if manifest["objective"] == "head" and not format_.heads:
        # Several labels per text need the head, so instruction tuning is no way out for them.
        other = "" if manifest["task"] == "multilabel" else ", or tune with objective: instruction"
        raise UsageError(
            f"--to {to}: GGUF cannot store classification heads; export merged, int8, int4 or "
            f"vllm{other}"
        )
    if (
        format_.runtime == "llama.cpp"
        and not unchecked
        and importlib.util.find_spec("llama_cpp") is None
    ):
        raise UsageError(
            f"--to {to}: an export is checked by running it, and llama.cpp is not installed: pip "
            f"install 'prooftune[llama-cpp]' builds it from source (as does {BUILD_COMMAND}; it "
            "takes a C++ compiler and 10 to 30 minutes). Or skip the check with --unchecked, which "
            "the export's card will state."
        )


def _golden(bundle: Path, manifest: Manifest, golden_path: Path | None) -> list[GoldenRow]:
    path = golden_path or bundle / GOLDEN
    if path.is_dir():
        seed = 0
        return golden.rows_from_run(golden.load_float32(bundle), path, MAX_ROWS, seed)
    if golden_path is None and not (path.is_file() and path.stat().st_size):
        raise UsageError(
            f"{bundle} holds no golden set to check an export by (its recipe says bundle.golden: "
            "0, no validation row fitted into one prompt, or it is older than golden sets). Give "
            "one: --golden RUN, the run folder that it came from, asks the run's validation rows; "
            "--golden FILE.jsonl reads rows like those of golden.jsonl."
        )
    rows = golden.read(path)
    missing = next((row.id for row in rows if set(manifest["fields"]) - set(row.inputs)), None)
    if not rows or missing is not None:
        fields = ", ".join(manifest["fields"])
        raise UsageError(
            f"{path} is empty"
            if not rows
            else f"{path}: row {missing} has not every field of {fields}"
        )
    return rows


def _write_failed(out: Path, record: dict[str, Any]) -> Path:
    """Write the results of an export that misses its limits beside the folder it would have.

    Returns:
        The Markdown table; ``.json`` beside it is the record.
    """
    path = out.with_name(f"{out.name}-failed.md")
    write_json(path.with_suffix(".json"), record)
    write_text(
        path, f"# {record['variant']}, {record['format']}: not exported\n\n{table([record])}\n"
    )
    return path


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
    """Read ``export.json``.

    Raises:
        UsageError: the folder is not an export.
    """
    try:
        record: dict[str, Any] = read_json(folder / "export.json")
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is not an export: {error}") from None
    return record
