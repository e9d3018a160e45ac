"""Input columns that a bundle reads, and output columns that it adds."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from prooftune import recipe
from prooftune.bundle.classifier import abstention_threshold, has_probabilities
from prooftune.bundle.manifest import CommonManifest
from prooftune.data.init.delimiters import has_header
from prooftune.data.readers.header_rows import KNOWN_NAMES, find_header
from prooftune.errors import UsageError, nearest
from prooftune.recipe.data import LABEL_TASKS
from prooftune.types import CONTEXT
from prooftune.utils.encoding_detection import decodes, detect_encoding
from prooftune.utils.progress import notify

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
SUFFIXES = (*DELIMITERS, *JSON_LINES_SUFFIXES, ".parquet")
_HEADER_LINES = 50
"""First lines of a file that are looked at for its header."""
_WORDS_OF_A_TEXT = 6
"""Words from which the first row of a file of one column is a text and no column's name, unless it
ends like the question of a survey."""
EMPTY_TEXT = "empty_text"
"""Added column that says whether an input text of the row is empty."""
CONFLICT_PREFIX = "predicted_"
"""Prefix of an added column if the file already has a column of that name."""


def expected_columns(bundle: Path, manifest: CommonManifest) -> dict[str, list[str]]:
    """Input field -> names of columns that may hold it, the recipe's own first."""
    # A bundle with documents retrieves its context.
    supplied = {CONTEXT} if manifest.get("retrieval") else set()
    fields = [field for field in manifest["fields"] if field not in supplied]
    recipe_of_bundle, _ = recipe.load(bundle / "recipe.yaml")
    text = recipe_of_bundle.data.source("train").text
    # `data.text` may map the prompt's fields to columns with other names.
    renamed = text if isinstance(text, dict) else {}
    expected = {field: [renamed.get(field, field), field] for field in fields}
    if len(fields) == 1:
        expected[fields[0]].append("text")
    return {field: list(dict.fromkeys(columns)) for field, columns in expected.items()}


def detect_source(file: Path, expected: Mapping[str, Sequence[str]], bundle: Path) -> recipe.Source:
    """How to read the file: format by suffix, delimiter by the header, encoding by the bytes. A
    file without a header has texts alone, or the columns of the bundle's training data, if that had
    none either.

    The encoding is UTF-8 where that reads the file, else that of the bundle's training data, else
    the one that `detect_encoding` finds; a note says which.
    """
    default = DELIMITERS.get(file.suffix.lower())
    if default is None or not file.is_file():
        return recipe.Source(path=str(file))
    encoding = _encoding(file, bundle)
    with file.open(encoding=encoding, errors="replace", newline="") as handle:
        # Limited, so that a file without line ends is not read whole.
        lines = list(islice(iter(lambda: handle.readline(1_000_000), ""), _HEADER_LINES))
    # The suffix's own delimiter first: the first that gives all columns counts.
    layout = find_header(lines, expected.values(), (default, ",", ";", "\t", "|"))
    if layout is None:
        without = _texts_alone(file, lines, default, expected) or _without_header(
            file, lines, default, bundle
        )
        if without:
            return without.model_copy(update={"encoding": encoding})
    delimiter, above = layout or (default, 0)
    if above:
        notify(f"{file.name}: the first {above} line(s) are above the header and left out")
    return recipe.Source(path=str(file), delimiter=delimiter, encoding=encoding, skip_lines=above)


def _texts_alone(
    file: Path, lines: Sequence[str], delimiter: str, expected: Mapping[str, Sequence[str]]
) -> recipe.Source | None:
    """How to read a file of one column without a header, whose first row is a text and no name;
    None for other files, and for bundles that read several columns."""
    if len(expected) != 1:
        return None
    rows = _parsed(lines, delimiter)
    if not rows or any(len(row) > 1 for row in rows):
        return None
    first = rows[0][0].strip()
    if len(first.split()) < _WORDS_OF_A_TEXT or first.endswith(("?", ":")):
        return None
    [(column, *_)] = expected.values()
    notify(
        f"{file.name} has no header: its first row is a text, read as '{column}' like the others"
    )
    return recipe.Source(path=str(file), delimiter=delimiter, header=False, columns=[column])


def _without_header(
    file: Path, lines: Sequence[str], default: str, bundle: Path
) -> recipe.Source | None:
    """How to read a file that has no header, as the bundle's training data had none, and a column
    for each of its columns, that of the label aside or not; None for other files."""
    trained_on = recipe.load(bundle / "recipe.yaml")[0].data.source("train")
    delimiter = trained_on.delimiter or default
    if trained_on.header or trained_on.columns is None or len(delimiter) > 1:
        return None
    rows = _parsed(lines, delimiter)
    labels = {trained_on.label or "label", *(trained_on.label_columns or ())}
    unlabelled = [column for column in trained_on.columns if column not in labels]
    for columns in (trained_on.columns, unlabelled):
        if rows and len(rows[0]) == len(columns) and not _names_columns(rows):
            notify(
                f"{file.name} has no header, like the bundle's training data: its columns are "
                f"read as {', '.join(columns)}"
            )
            return recipe.Source(
                path=str(file), delimiter=delimiter, header=False, columns=list(columns)
            )
    return None


def _parsed(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The rows that are not empty; none if they are no CSV."""
    try:
        return [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:  # such as a field of 131,072 characters
        return []


def _names_columns(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row is a header: usual names, or single words unlike the values below."""
    cells = [cell.strip().lower() for cell in rows[0]]
    usual = not {*KNOWN_NAMES}.isdisjoint(cells)
    return usual or (not any(" " in cell for cell in cells) and has_header(rows))


def _encoding(file: Path, bundle: Path) -> str:
    guess = detect_encoding(file)
    if guess.encoding == "utf-8":
        return "utf-8"
    trained_on = recipe.load(bundle / "recipe.yaml")[0].data.source("train").encoding
    # A byte-order mark outweighs the encoding of the training data.
    known = trained_on != "utf-8" and guess.encoding not in ("utf-16", "utf-32")
    if known and decodes(file, trained_on):
        notify(f"{file.name} is read as {trained_on}, like the bundle's training data")
        return trained_on
    doubt = "" if guess.certain else " (not certain)"
    notify(
        f"{file.name} is not UTF-8; read as {guess.encoding}{doubt}: '{guess.sample}'",
        "dim" if guess.certain else "yellow",
    )
    return guess.encoding


def match_columns(
    name: str,
    columns: Sequence[str],
    expected: Mapping[str, Sequence[str]],
    repeated: Sequence[str] = (),
) -> dict[str, str]:
    """Match input fields to columns of the file.

    Args:
        name: name of the file, for messages.
        columns: its columns.
        expected: see `expected_columns`.
        repeated: names that its header has more than once.

    Returns:
        Field -> column. A file with a single column matches a bundle with a single field.

    Raises:
        UsageError: a field has no column, or several.
    """
    if len(expected) == 1 and len(columns) == 1:
        return dict.fromkeys(expected, columns[0])
    matched = {}
    for field, names in expected.items():
        column = next((name for name in names if name in columns), None)
        if column is None:
            what = " or ".join(f"'{name}'" for name in names)
            raise UsageError(
                f"{name} has no column {what}, which this bundle reads; found {len(columns)}: "
                f"{', '.join(repr(c[:60]) for c in columns[:12])}{nearest(names[0], columns)}. "
                "Rename the file's columns, or add a header"
            )
        if column in repeated:
            raise UsageError(
                f"{name}: the header names '{column}' more than once, which this bundle reads; "
                "rename or remove the others in the file"
            )
        matched[field] = column
    return matched


def output_columns(manifest: CommonManifest) -> list[str]:
    """Names of the columns that a bundle adds, before conflicts with the file are resolved."""
    if manifest["task"] not in LABEL_TASKS:
        return ["answer", "sources", EMPTY_TEXT, "truncated_tokens"]
    probabilities = (
        [f"probability_{label}" for label in manifest["labels"]]
        if has_probabilities(manifest)
        else []
    )
    abstained = ["abstained"] if abstention_threshold(manifest) is not None else []
    if manifest["task"] == "multilabel":
        return ["labels", *probabilities, EMPTY_TEXT, "truncated_tokens"]
    return ["label", "probability", *probabilities, *abstained, EMPTY_TEXT, "truncated_tokens"]


def check_output_path(out: Path, added: Sequence[str]) -> None:
    """Refuse to overwrite a file that is not an earlier output of this command.

    Raises:
        UsageError: there is such a file.
    """
    # The last added column marks an earlier output of this command.
    if out.is_dir() or (out.exists() and added[-1] not in _first_line_of(out)):
        raise UsageError(
            f"{out} exists and is not an output of predict; give --out another name, or remove it"
        )


def _first_line_of(file: Path) -> str:
    """The first line of a text file, or the column names of a Parquet file."""
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
    """Output name of each added column: ``predicted_…`` if the file has a column of its name.

    Raises:
        UsageError: the file has both names.
    """
    names = {
        column: f"{CONFLICT_PREFIX}{column}" if column in columns else column for column in added
    }
    taken = [column for column in names.values() if column in columns]
    if taken:
        originals = [column.removeprefix(CONFLICT_PREFIX) for column in taken]
        raise UsageError(
            f"{name} has columns {', '.join(map(repr, originals))} and "
            f"{', '.join(map(repr, taken))} already, where the answers would be written; rename "
            "them in the file"
        )
    return names


def prediction_columns(
    predictions: Sequence[Any], manifest: CommonManifest, empty: Sequence[bool]
) -> dict[str, list[Any]]:
    """Added columns with their values.

    Args:
        predictions: results of the bundle's `predict`, one per row.
        manifest: the bundle's manifest.
        empty: whether an input text of each row is empty. A model labels such a text as well, which
            says nothing about it.
    """
    if manifest["task"] not in LABEL_TASKS:
        sources = [
            json.dumps([asdict(source) for source in a.sources], ensure_ascii=False)
            for a in predictions
        ]
        values = [
            [a.answer for a in predictions],
            sources,
            list(empty),
            [a.truncated_tokens for a in predictions],
        ]
        return dict(zip(output_columns(manifest), values, strict=True))
    # The label; with several, their JSON list, which has no single probability.
    values = [[a.label for a in predictions]]
    if manifest["task"] == "classification":
        values.append([a.probability for a in predictions])
    if has_probabilities(manifest):
        values += [[a.probabilities[label] for a in predictions] for label in manifest["labels"]]
    if abstention_threshold(manifest) is not None:
        values.append([a.abstained for a in predictions])
    values += [list(empty), [a.truncated_tokens for a in predictions]]
    return dict(zip(output_columns(manifest), values, strict=True))
