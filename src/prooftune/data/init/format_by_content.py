"""The format of a text whose name does not tell it."""

from __future__ import annotations

import json

from prooftune.data.init.csv_layout import has_row_names, separators
from prooftune.data.init.delimiters import delimiter_fit, sample_rows
from prooftune.data.readers.chat_text import is_rendered
from prooftune.data.readers.foreign_formats import refuse_foreign_text
from prooftune.data.readers.text_lines import are_trec_lines


def format_by_content(name: str, text: str) -> str:
    """Return json, jsonl, csv, chat, fasttext, trec or text.

    Args:
        name: of the file, for messages.
        text: its first lines.

    Raises:
        UsageError: it is a format that is no table of texts and labels.
    """
    start = text.lstrip()[:200]
    if start.startswith("["):
        return "json"
    if start.startswith("{"):
        try:
            # A first line that is a whole object makes JSON Lines; an object over several lines is
            # one JSON file.
            json.loads(text.lstrip().split("\n")[0])
        except json.JSONDecodeError:
            return "json"
        return "jsonl"
    if is_rendered(text):
        return "chat"
    refuse_foreign_text(name, text)
    if all("__label__" in line for line in text.splitlines()[:20] if line.strip()):
        return "fasttext"
    if are_trec_lines(text):
        return "trec"
    tables = [sample_rows(text, d) for d in separators(text)]
    # A comma in every line makes no table: columns have names, or one holds labels.
    fits = [delimiter_fit(rows) for rows in tables]
    is_table = any(even == 1 and (known or labels) for even, known, labels in fits)
    return "csv" if is_table or any(map(has_row_names, tables)) else "text"
