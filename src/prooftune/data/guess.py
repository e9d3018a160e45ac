"""``prooftune init``: look at a data file, write a commented recipe for it, and say what was guessed."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prooftune.data.opening import decode, format_of, missing
from prooftune.data.tables import Table, read_table
from prooftune.errors import UsageError
from prooftune.recipe import Source

DELIMITERS = "\t,;|"
LABEL_NAMES = ("label", "labels", "category", "class", "sentiment", "target", "topic", "y", "intent", "rating", "stars", "polarity")
TEXT_NAMES = ("text", "sentence", "content", "review", "body", "message", "article", "description", "headline", "title", "document")
MOST_LABELS = 60
LOOKED_AT = 5000


@dataclass(slots=True)
class _Guess:
    """Options of the recipe's ``data`` section, and a sentence for each thing guessed."""

    options: dict[str, Any] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)

    def add(self, name: str, value: Any, sentence: str) -> None:
        self.options[name] = value
        self.sentences.append(sentence)


def guess(path: Path) -> tuple[str, list[str]]:
    """Look at a file or folder of labelled text.

    Returns:
        A commented recipe as YAML, and what was guessed, one sentence each.

    Raises:
        UsageError: it cannot be read, or holds no column that looks like a text or a label.
    """
    if not path.exists():
        raise missing(path)
    guessed = _Guess()
    table = _look(path, guessed)
    if guessed.options.get("format") not in ("text", "folders"):
        _columns(table, guessed)
    label = table.columns.index(guessed.options.get("label", "label"))
    counts = Counter((row[label] or "").strip() for row in table.rows)
    shown = ", ".join(f"{name} ({n:,})" for name, n in counts.most_common(8))
    guessed.sentences.append(f"{len(table.rows):,} rows, {len(counts)} labels: {shown}{' …' if len(counts) > 8 else ''}.")
    if len(counts) > MOST_LABELS:
        raise UsageError(f"{path.name}: column '{table.columns[label]}' has {len(counts):,} different values, too many for labels. "
                         "Write the recipe by hand (prooftune recipes shows examples) or name the columns in the file's header")
    if all(_is_number(name) for name in counts):
        names = {name: f"label {name}" for name in sorted(counts)}
        guessed.add("labels", names, "The labels are numbers. A language model reads names: replace 'label 0' … in data.labels by words.")
    return _write(path, guessed), guessed.sentences


def _look(path: Path, guessed: _Guess) -> Table:
    """Find the format, encoding, separator, quoting and header, and read the file by them."""
    if path.is_dir():
        guessed.add("format", "folders", "A folder: each folder in it is taken as one label.")
        return read_table(path, Source(path=str(path), format="folders"))
    encoding = _encoding(path, guessed)
    try:
        format_ = format_of(path)
    except UsageError:
        format_ = _format_by_content(decode(path, encoding))
        guessed.add("format", format_, f"The name does not tell the format; its content looks like {format_}.")
    if format_ == "csv":
        _csv_layout(path, decode(path, encoding), guessed)
    if format_ == "text":
        delimiter = _text_delimiter(decode(path, encoding))
        guessed.add("delimiter", delimiter, f"Each line is a text, {delimiter!r} and its label.")
    return read_table(path, Source(path=str(path), **guessed.options))


def _encoding(path: Path, guessed: _Guess) -> str:
    if path.suffix.lower() == ".parquet" or path.open("rb").read(4) == b"PAR1":
        return "utf-8"
    start = path.open("rb").read(2)
    if start in (b"\xff\xfe", b"\xfe\xff"):
        guessed.add("encoding", "utf-16", "The file is UTF-16 (it starts with a byte-order mark).")
        return "utf-16"
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        # cp1252 leaves a few bytes undefined; where they occur only latin-1 can be meant.
        for encoding in ("cp1252", "iso-8859-1"):
            try:
                content.decode(encoding)
            except UnicodeDecodeError:
                continue
            guessed.add("encoding", encoding, f"The file is not UTF-8; {encoding} fits.")
            return encoding
    return "utf-8"


def _format_by_content(text: str) -> str:
    first = text.lstrip()[:1]
    if first == "[":
        return "json"
    if first == "{":
        try:
            json.loads(text.lstrip().splitlines()[0])
        except json.JSONDecodeError:
            return "json"
        return "jsonl"
    lines = [line for line in text.splitlines()[:LOOKED_AT] if line.strip()]
    if any(len({_fields(line, d) for line in lines[:200]}) == 1 and _fields(lines[0], d) > 1 for d in DELIMITERS if lines):
        return "csv"
    return "text"


def _fields(line: str, delimiter: str) -> int:
    return len(next(csv.reader([line], delimiter=delimiter)))


def _csv_layout(path: Path, text: str, guessed: _Guess) -> None:
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    sample = "\n".join(text.split("\n")[:LOOKED_AT])
    scores = {d: _evenness(sample, d) for d in dict.fromkeys([usual, *DELIMITERS])}
    best = max(scores, key=lambda d: scores[d])
    if scores[best] <= 0:
        raise UsageError(f"{path.name}: no separator among tab, comma, semicolon and | gives more than one column in every row. For lines "
                         "of the form text<separator>label write data.format: text and data.delimiter in a recipe")
    if best != usual:
        guessed.add("delimiter", best, f"Columns are separated by {best!r}.")
    rows = list(csv.reader(io.StringIO(sample, newline=""), delimiter=best))[:200]
    if not _has_header(rows):
        guessed.add("header", False, "The first row looks like data, so there is no header; columns are numbered from 0.")


def _evenness(sample: str, delimiter: str) -> float:
    """Share of the rows that have the commonest number of columns; 0 where that is one column."""
    try:
        counts = Counter(len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row)
    except csv.Error:
        return 0.0
    if not counts:
        return 0.0
    columns, rows = counts.most_common(1)[0]
    return rows / counts.total() if columns > 1 else 0.0


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names columns: short names, none of which is a number or occurs below it."""
    first, rest = rows[0], rows[1:]
    if not rest or any(not cell.strip() or _is_number(cell) or len(cell) > 40 for cell in first):
        return False
    return all(cell not in {row[i] for row in rest if i < len(row)} for i, cell in enumerate(first))


def _text_delimiter(text: str) -> str:
    lines = [line.rstrip("\r") for line in text.split("\n")[:LOOKED_AT] if line.strip()]
    best, fewest = "", MOST_LABELS + 1
    for delimiter in "\t@|;,":
        if all(delimiter in line for line in lines):
            labels = {line.rpartition(delimiter)[2].strip() for line in lines}
            if 1 < len(labels) < fewest:
                best, fewest = delimiter, len(labels)
    if not best:
        raise UsageError("no tab, @, |, ; or , divides every line into a text and one of a few labels. A table of texts is expected: "
                         "CSV, TSV, JSON, JSONL, Parquet, or lines of the form text@label")
    return best


def _columns(table: Table, guessed: _Guess) -> None:
    """Find the label's column and the text's."""
    cells = [[(row[i] or "") for row in table.rows[:LOOKED_AT]] for i in range(len(table.columns))]
    label = _label_column(table, cells)
    lengths = {i: sum(map(len, cells[i])) / len(cells[i]) for i in range(len(cells)) if i != label}
    links = {i for i in lengths if sum(c.startswith(("http://", "https://")) for c in cells[i]) > len(cells[i]) / 2}
    texts = {i: n for i, n in lengths.items() if i not in links and not all(_is_number(c) for c in cells[i])}
    if not texts:
        raise UsageError(f"{table.name}: no column looks like a text. Found {', '.join(map(repr, table.columns[:12]))}")
    named = [i for i in texts if table.columns[i].lower() in TEXT_NAMES]
    longest = max(texts, key=lambda i: texts[i])
    chosen = sorted({longest, *(i for i in named if texts[i] >= 10)}) if named else [longest]
    names = [table.columns[i] for i in chosen]
    guessed.add("text", names[0] if len(names) == 1 else names,
                f"Text: column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}.")
    guessed.add("label", table.columns[label], f"Label: column '{table.columns[label]}'.")


def _label_column(table: Table, cells: list[list[str]]) -> int:
    few = {}
    for i, column in enumerate(cells):
        distinct = set(column)
        most = max(2, min(MOST_LABELS, len(column) // 3))
        if 1 < len(distinct) <= most and max(map(len, distinct)) <= 60:
            few[i] = len(distinct)
    named = [i for i in few if table.columns[i].lower() in LABEL_NAMES]
    if named:
        return named[0]
    by_name = [i for i, c in enumerate(table.columns) if c.lower() in LABEL_NAMES]
    if by_name and not few:
        return by_name[0]
    if not few:
        raise UsageError(f"{table.name}: no column looks like a label (2 to {MOST_LABELS} different short values). Found "
                         f"{', '.join(map(repr, table.columns[:12]))}")
    return min(few, key=lambda i: few[i])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write(path: Path, guessed: _Guess) -> str:
    comments = {
        "format": "", "delimiter": "what separates columns", "encoding": "of the file's text", "header": "the first row is data",
        "text": "the input: a column, or a list of columns", "label": "the column to predict",
        "labels": "value in the file -> name the model reads"}
    lines = [f"  train: {_yaml(str(path.resolve()))}"]
    for name, value in guessed.options.items():
        note = f"  # {comments[name]}" if comments.get(name) else ""
        if isinstance(value, dict):
            lines += [f"  {name}:{note}", *(f"    {_yaml(k)}: {_yaml(v)}" for k, v in value.items())]
        else:
            lines.append(f"  {name}: {_yaml(value)}{note}")
    stem = "".join(c if c.isalnum() and c.isascii() or c in "._-" else "-" for c in path.stem).strip("-._") or "study"
    return _TEMPLATE.format(file=path.name, name=stem, data="\n".join(lines))


def _yaml(value: Any) -> str:
    # JSON strings are YAML strings, whatever they hold.
    return json.dumps(value, ensure_ascii=False)


_TEMPLATE = """\
# {file}: tuned and compared with simpler ways.
#
#   prooftune check {name}.yaml     audits the data and estimates time and memory
#   prooftune run {name}.yaml       runs everything; the report ends up in runs/{name}/report.html
name: {name}
task: classification
seed: 0

data:
{data}
  # test: "another file"         # without one, 20% of the rows are set aside, each label in its share
  # validation: "another file"   # without one, 10% of the rest
  limit: {{train: 2000, validation: 300, test: 1000}}   # raise or remove it when the first run looks right

audit:
  leak: error                    # a training text that is also a test text: error, drop or allow

model: smollm2-135m-instruct     # or a hub name such as meta-llama/Llama-3.2-1B, or a local folder

prompt:
  max_length: 256                # tokens; longer texts are shortened and counted

lora: {{r: 16, lora_alpha: 32, target_modules: all-linear}}
training:                        # transformers.TrainingArguments fields
  learning_rate: 1e-3            # for a small model; 2e-4 for 1B parameters and more
  num_train_epochs: 2
  per_device_train_batch_size: 16

variants:
  majority:
  tfidf:
  zero-shot:
  few-shot: {{shots: 4}}
  prompted:
  tuned:
"""
