"""Which columns a bundle reads, and which it adds."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prooftune import recipe
from prooftune.bundle.load import abstention_threshold, has_probabilities
from prooftune.bundle.manifest import Manifest
from prooftune.errors import UsageError, nearest
from prooftune.types import CONTEXT

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
SUFFIXES = (*DELIMITERS, *JSON_LINES_SUFFIXES, ".parquet")
CONFLICT_PREFIX = "predicted_"
"""Before the name of a column of the answers, where the file has one of that name."""


def expected_columns(bundle: Path, manifest: Manifest) -> dict[str, list[str]]:
    """For each text that the bundle reads, the columns that may hold it, the recipe's own first."""
    # What the bundle finds by itself is no column of the file.
    own = {CONTEXT} if manifest.get("retrieval") else set()
    fields = [field for field in manifest["fields"] if field not in own]
    chosen, _ = recipe.load(bundle / "recipe.yaml")
    text = chosen.data.source("train").text
    named = text if isinstance(text, dict) else {}
    wanted = {field: [named.get(field, field), field] for field in fields}
    if len(fields) == 1:
        wanted[fields[0]].append("text")
    return {field: list(dict.fromkeys(columns)) for field, columns in wanted.items()}


def detect_source(file: Path, wanted: Mapping[str, Sequence[str]]) -> recipe.Source:
    """How to read the file: by its name, except that a header may show another delimiter than the
    usual one."""
    usual = DELIMITERS.get(file.suffix.lower())
    if usual is None or not file.is_file():
        return recipe.Source(path=str(file))
    with file.open(encoding="utf-8-sig", errors="replace") as handle:
        header = handle.readline(1_000_000).rstrip("\r\n")
    for delimiter in dict.fromkeys((usual, ",", ";", "\t", "|")):
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        if all(any(column in names for column in columns) for columns in wanted.values()):
            return recipe.Source(path=str(file), delimiter=delimiter)
    return recipe.Source(path=str(file), delimiter=usual)


def match_columns(
    name: str, columns: Sequence[str], wanted: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Field -> its column in the file.

    Raises:
        UsageError: a field has no column.
    """
    if len(wanted) == 1 and len(columns) == 1:
        return dict.fromkeys(wanted, columns[0])
    places = {}
    for field, names in wanted.items():
        found = next((one for one in names if one in columns), None)
        if found is None:
            what = " or ".join(f"'{one}'" for one in names)
            raise UsageError(
                f"{name} has no column {what}, which this bundle reads; found {len(columns)}: "
                f"{', '.join(repr(c[:60]) for c in columns[:12])}{nearest(names[0], columns)}"
            )
        places[field] = found
    return places


def output_columns(manifest: Manifest) -> list[str]:
    """Names of the columns that a bundle's answers are written to, where the file has none of them."""
    if manifest["task"] != "classification":
        return ["answer", "sources", "truncated_tokens"]
    shares = (
        [f"probability_{label}" for label in manifest["labels"]]
        if has_probabilities(manifest)
        else []
    )
    abstained = ["abstained"] if abstention_threshold(manifest) is not None else []
    return ["label", "probability", *shares, *abstained, "truncated_tokens"]


def check_output_path(out: Path, added: Sequence[str]) -> None:
    """Refuse to write over a file that holds no answers: those are made again, but a file of
    someone's own is not.

    Raises:
        UsageError: there is one.
    """
    if out.is_dir() or (out.exists() and added[-1] not in _top(out)):
        raise UsageError(
            f"{out} exists and holds no answers of a bundle; give --out another name, or remove it"
        )


def _top(file: Path) -> str:
    """What shows the columns of a file: its first line, or all of their names."""
    if file.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return " ".join(pq.read_schema(file).names)
        except pa.ArrowInvalid:
            return ""
    with file.open(encoding="utf-8", errors="replace") as handle:
        return handle.readline(1_000_000)


def resolve_output_names(name: str, columns: Sequence[str], added: Sequence[str]) -> dict[str, str]:
    """What each column of the answers is called in the output: ``predicted_…`` where the file has
    one of its name, such as the labels that people gave.

    Raises:
        UsageError: the file has that one too.
    """
    names = {one: f"{CONFLICT_PREFIX}{one}" if one in columns else one for one in added}
    taken = [one for one in names.values() if one in columns]
    if taken:
        raise UsageError(
            f"{name} has columns {', '.join(repr(one.removeprefix(CONFLICT_PREFIX)) for one in taken)} and "
            f"{', '.join(map(repr, taken))} already, where the answers would be written; rename "
            "them in the file"
        )
    return names


def prediction_columns(answers: Sequence[Any], manifest: Manifest) -> dict[str, list[Any]]:
    """The columns that are added, with their values.

    Args:
        answers: what `predict` of the bundle gave, one for each row.
        manifest: the content of ``bundle.json``.
    """
    if manifest["task"] != "classification":
        sources = [
            json.dumps([asdict(source) for source in a.sources], ensure_ascii=False)
            for a in answers
        ]
        values = [[a.answer for a in answers], sources, [a.truncated_tokens for a in answers]]
        return dict(zip(output_columns(manifest), values, strict=True))
    values = [[a.label for a in answers], [a.probability for a in answers]]
    if has_probabilities(manifest):
        values += [[a.probabilities[label] for a in answers] for label in manifest["labels"]]
    if abstention_threshold(manifest) is not None:
        values.append([a.abstained for a in answers])
    values.append([a.truncated_tokens for a in answers])
    return dict(zip(output_columns(manifest), values, strict=True))
