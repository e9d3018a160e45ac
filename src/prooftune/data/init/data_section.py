"""The data section of a recipe as YAML."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from prooftune.data.init.inferred_options import InferredOptions

_NOT_IN_YAML = re.compile("[\x7f-\x84\x86-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""Characters that a YAML file cannot hold or that end a line there."""
_COMMENTS = {
    "delimiter": "column separator",
    "encoding": "of the file's text",
    "skip_lines": "lines above the header",
    "header": "the first row that is read is data",
    "columns": "names for the columns of the file",
    "text": "the input: a column, or a list of columns",
    "label": "the column to predict",
    "language": "the language of each row; leave it out if results by language are not wanted",
    "labels": "value in the file -> name the model reads",
    "unlabelled": "rows without a label are left out and counted",
}


def data_section(path: Path, recipe: Path, inferred: InferredOptions) -> tuple[str, str]:
    """The study's name, and the lines of the data section."""
    reference = _yaml(_relative_path(path, recipe.parent))
    lines = [f"  train: {reference}"]
    if inferred.splits:
        lines = [
            f"  {split}: {{path: {reference}, split: {_yaml(name)}}}"
            for split, name in inferred.splits.items()
        ]
    if inferred.split_folders:
        lines = [
            f"  {split}: {_yaml(_relative_path(path / folder, recipe.parent))}"
            for split, folder in inferred.split_folders.items()
        ]
    for name, value in inferred.options.items():
        comment = inferred.comments.get(name) or _COMMENTS.get(name)
        note = f"  # {in_comment(comment)}" if comment else ""
        if isinstance(value, dict):
            lines += [
                f"  {name}:{note}",
                *(f"    {_yaml(k)}: {_yaml(v)}" for k, v in value.items()),
            ]
        else:
            lines.append(f"  {name}: {_yaml(value)}{note}")
    if inferred.merged_labels:
        lines += [
            "  # labels:                      # merges spellings of one label",
            *(f"  #   {_yaml(k)}: {_yaml(v)}" for k, v in inferred.merged_labels.items()),
        ]
    # The name becomes that of the run folder.
    allowed = "".join(
        c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in recipe.stem
    )
    return allowed.strip("-._") or "study", "\n".join(lines)


def _relative_path(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return str(path.resolve())


def in_comment(text: str) -> str:
    """A text as part of a comment in YAML."""
    # A line break in a file's name would end the comment.
    return " ".join(_NOT_IN_YAML.sub("?", text).split())


def _yaml(value: object) -> str:
    # JSON strings are YAML strings, but for characters that YAML has as escapes only.
    written = json.dumps(value, ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", written)
