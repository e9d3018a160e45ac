"""``prooftune predict``: label the rows of a file, and write the answers beside its columns.

What stood in the file is written as it was: text columns of a CSV as their text, JSON values and Parquet
types unchanged where the output can hold them, every row, in order.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune import recipe
from prooftune.bundle.facts import read_facts
from prooftune.bundle.load import Answer, Classifier, gives_probabilities, load
from prooftune.data.questions import CONTEXT
from prooftune.data.tables import Table, format_of, read_table
from prooftune.errors import UsageError, nearest
from prooftune.files import atomic_path
from prooftune.progress import bar

if TYPE_CHECKING:
    from prooftune.bundle.answerer import Answerer, Reply

BLOCK = 2048
"""Rows that are tokenised and scored at one time: enough to batch rows of like length, few enough to hold."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LINES = (".jsonl", ".ndjson")
_KNOWN = (*_DELIMITERS, *_LINES, ".parquet")


def predict_file(bundle: Path, file: Path, out: Path) -> int:
    """Label every row of a file.

    Args:
        bundle: a bundle folder.
        file: .csv, .tsv, .jsonl or .parquet with the columns that the bundle's recipe reads its texts from.
            Where the bundle reads one text, a column named ``text`` and a file of one column will do too.
        out: .csv, .tsv, .jsonl or .parquet. Holds the file's columns, then ``label``, ``probability``, one
            ``probability_LABEL`` per label (both empty or absent where answers are generated), and
            ``truncated_tokens``. Of questions: ``answer``, and ``sources``, the passages cited, as JSON.

    Returns:
        The number of rows labelled.

    Raises:
        UsageError: the bundle, the file or the output's name will not do; found before anything is computed.
        Failure: the bundle's base model is not there, or the output cannot be written.
    """
    facts = read_facts(bundle)
    _check_places(file, out)
    # What the bundle finds by itself is no column of the file.
    own = {CONTEXT} if facts.get("retrieval") else set()
    wanted = _wanted(bundle, [field for field in facts["fields"] if field not in own])
    table = read_table(file, _source(file, wanted))
    columns = _input_columns(table, wanted)
    _check_collisions(table, added_columns(facts))
    # Before the work, since not every file can be written in every format.
    original = _original(file, table, out)
    answers = _label(load(bundle), table, columns)
    _write(out, original, _as_columns(answers, facts))
    return len(answers)


def added_columns(facts: Mapping[str, Any]) -> list[str]:
    """Names of the columns that a bundle's answers are written to."""
    if facts["task"] != "classification":
        return ["answer", "sources", "truncated_tokens"]
    shares = [f"probability_{label}" for label in facts["labels"]] if gives_probabilities(facts) else []
    return ["label", "probability", *shares, "truncated_tokens"]


def _check_places(file: Path, out: Path) -> None:
    for path, what in ((file, "the input's"), (out, "the output's")):
        if path.suffix.lower() not in _KNOWN:
            raise UsageError(f"{path}: {what} name must end in {', '.join(_KNOWN)}{nearest(path.suffix, _KNOWN)}")
    if out.exists() and file.exists() and out.samefile(file):
        raise UsageError(f"{out} is the input itself; give --out another name")


def _wanted(bundle: Path, fields: Sequence[str]) -> dict[str, list[str]]:
    """For each text that the bundle reads, the columns that may hold it, the recipe's own first."""
    chosen, _ = recipe.load(bundle / "recipe.yaml")
    text = chosen.data.reading("train").text
    named = text if isinstance(text, dict) else {}
    wanted = {field: [named.get(field, field), field] for field in fields}
    if len(fields) == 1:
        wanted[fields[0]].append("text")
    return {field: list(dict.fromkeys(columns)) for field, columns in wanted.items()}


def _source(file: Path, wanted: Mapping[str, Sequence[str]]) -> recipe.Source:
    """How to read the file: by its name, except that a header may show another delimiter than the usual one."""
    usual = _DELIMITERS.get(file.suffix.lower())
    if usual is None or not file.is_file():
        return recipe.Source(path=str(file))
    with file.open(encoding="utf-8-sig", errors="replace") as handle:
        header = handle.readline().rstrip("\r\n")
    for delimiter in dict.fromkeys((usual, ",", ";", "\t", "|")):
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        if all(any(column in names for column in columns) for columns in wanted.values()):
            return recipe.Source(path=str(file), delimiter=delimiter)
    return recipe.Source(path=str(file), delimiter=usual)


def _input_columns(table: Table, wanted: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Field -> place of its column in the table.

    Raises:
        UsageError: a field has no column.
    """
    if len(wanted) == 1 and len(table.columns) == 1:
        return dict.fromkeys(wanted, 0)
    places = {}
    for field, columns in wanted.items():
        found = next((column for column in columns if column in table.columns), None)
        if found is None:
            what = " or ".join(f"'{column}'" for column in columns)
            raise UsageError(f"{table.name} has no column {what}, which this bundle reads; found {len(table.columns)}: "
                             f"{', '.join(repr(c[:60]) for c in table.columns[:12])}{nearest(columns[0], table.columns)}")
        places[field] = table.columns.index(found)
    return places


def _check_collisions(table: Table, added: Sequence[str]) -> None:
    taken = [name for name in added if name in table.columns]
    if taken:
        raise UsageError(f"{table.name} has a column {', '.join(map(repr, taken))} already, where the answer would be "
                         "written; rename it in the file")


def _label(bundle: Classifier | Answerer, table: Table, columns: Mapping[str, int]) -> list[Answer] | list[Reply]:
    """An answer for every row; a missing text is read as an empty one, as in training."""
    answers: list[Any] = []
    with bar("Predicting", len(table.rows)) as shown:
        for start in range(0, len(table.rows), BLOCK):
            rows = table.rows[start:start + BLOCK]
            answers += bundle.predict(
                [{field: row[place] or "" for field, place in columns.items()} for row in rows], progress=False)
            shown.advance(0, len(rows))  # type: ignore[arg-type]
    return answers


def _as_columns(answers: Sequence[Any], facts: Mapping[str, Any]) -> dict[str, list[Any]]:
    if facts["task"] != "classification":
        sources = [json.dumps([asdict(source) for source in a.sources], ensure_ascii=False) for a in answers]
        values = [[a.answer for a in answers], sources, [a.truncated_tokens for a in answers]]
        return dict(zip(added_columns(facts), values, strict=True))
    values = [[a.label for a in answers], [a.probability for a in answers]]
    if gives_probabilities(facts):
        values += [[a.probabilities[label] for a in answers] for label in facts["labels"]]
    values.append([a.truncated_tokens for a in answers])
    return dict(zip(added_columns(facts), values, strict=True))


def _original(file: Path, table: Table, out: Path) -> Any:
    """The file's own rows in the form that the output's format is written from.

    Raises:
        UsageError: they do not fit into it.
    """
    kind = out.suffix.lower()
    if kind in _DELIMITERS:
        return table
    if kind in _LINES:
        return _records(file, table)
    return _parquet(file) if format_of(file) == "parquet" else _arrow(_records(file, table), table, out)


def _records(file: Path, table: Table) -> list[dict[str, Any]]:
    """The file's rows with the values that stand in it, which `table` holds as text."""
    kind = format_of(file)
    if kind == "parquet":
        # Not-a-number is no JSON.
        return [{k: None if v != v else v for k, v in row.items()} for row in _parquet(file).to_pylist()]
    if kind == "jsonl":
        with file.open(encoding="utf-8-sig") as handle:
            return [json.loads(line) for line in handle if line.strip()]
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _parquet(file: Path) -> Any:
    import pyarrow.parquet as pq

    with file.open("rb") as handle:
        return pq.read_table(handle)


def _arrow(records: Sequence[Mapping[str, Any]], table: Table, out: Path) -> Any:
    import pyarrow as pa

    columns = {}
    for name in table.columns:
        try:
            columns[name] = pa.array([record.get(name) for record in records])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            raise UsageError(f"column '{name}' of {table.name} has values of several types, which {out.name} cannot hold; "
                             "write .jsonl instead") from None
    return pa.table(columns)


def _write(out: Path, original: Any, added: Mapping[str, list[Any]]) -> None:
    kind = out.suffix.lower()
    with atomic_path(out) as temporary:
        if kind in _DELIMITERS:
            _write_delimited(temporary, original, added, _DELIMITERS[kind])
        elif kind in _LINES:
            _write_lines(temporary, original, added)
        else:
            _write_parquet(temporary, original, added)


def _write_delimited(path: Path, table: Table, added: Mapping[str, list[Any]], delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter, lineterminator="\n")
        writer.writerow([*table.columns, *added])
        for row, *answer in zip(table.rows, *added.values(), strict=True):
            writer.writerow([*row, *answer])


def _write_lines(path: Path, records: Sequence[Mapping[str, Any]], added: Mapping[str, list[Any]]) -> None:
    with path.open("w", encoding="utf-8") as handle:
        for record, *answer in zip(records, *added.values(), strict=True):
            line = {**record, **dict(zip(added, answer, strict=True))}
            handle.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")


def _write_parquet(path: Path, whole: Any, added: Mapping[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"label": pa.string(), "answer": pa.string(), "sources": pa.string(), "truncated_tokens": pa.int64()}
    for name, values in added.items():
        whole = whole.append_column(name, pa.array(values, type=types.get(name, pa.float64())))
    pq.write_table(whole, path, compression="zstd")
