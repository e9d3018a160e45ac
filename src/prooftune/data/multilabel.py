"""Labels in lists: one per row is unwrapped, several per row are recognised; they are the targets
of ``task: multilabel`` and refused elsewhere."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence

from prooftune.errors import UsageError

_SEPARATORS = (",", ";", "|", "/", "\t", "#")
_NUMPY_LIST = re.compile(r"\[\s*-?\d+\.?\d*(\s+-?\d+\.?\d*)+\s*\]")
"""Numbers as NumPy prints them: ``[0 3]``."""
_TAGS = re.compile(r"(?:<[a-z0-9][a-z0-9.+#-]*>)+")
"""Tags as Stack Overflow writes them: ``<python><pandas>``."""
_SHOWN = 3


def list_of_labels(cell: str) -> list[str] | None:
    """The labels of a cell that holds a list, as JSON or as Python prints it; None for others."""
    text = cell.strip()
    if _TAGS.fullmatch(text):
        return text[1:-1].split("><")
    if not (text.startswith("[") and text.endswith("]")):
        return None
    if _NUMPY_LIST.fullmatch(text):
        return [word.rstrip(".") for word in text[1:-1].split()]
    # pandas writes a list to CSV as Python prints it, with single quotes.
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
            return [str(v) for v in value]
        # A label that is a path: [["animals", "birds"]].
        if isinstance(value, list) and all(
            isinstance(v, list) and v and all(isinstance(x, str) for x in v) for v in value
        ):
            return [" / ".join(v) for v in value]
    return None


def holds_spans(cell: str) -> bool:
    """Whether a cell holds labels of parts of a text: ``[[0, 4, "PER"]]`` of doccano, or objects
    with start and end."""
    if not cell.startswith(("[[", "[{")):
        return False
    try:
        spans = json.loads(cell)
    except (ValueError, RecursionError):
        return False
    return all(
        {"start", "end"} <= span.keys()
        if isinstance(span, dict)
        else isinstance(span, list) and len(span) == 3 and isinstance(span[0], int)
        for span in spans
    )


def separator_of_several(cells: Sequence[str]) -> str | None:
    """The separator of labels in a column with several per row, such as ``praise,urgent``.

    It is one if splitting explains the values: some cells hold it, no part is empty, and the parts
    are fewer than the combinations and at least half of them occur alone or in several of them.
    """
    counts = Counter(cells)
    for separator in _SEPARATORS:
        if separator == "," and are_decimals(list(counts)):
            continue
        joined = [cell for cell in counts if separator in cell]
        # A longer part is a clause of a sentence, and no label.
        if len(joined) < 2 or any(
            len(part) > 40 for cell in joined for part in cell.split(separator)
        ):
            continue
        parts = Counter(part.strip() for cell in counts for part in cell.split(separator))
        # More parts than values: splitting explains nothing.
        if "" in parts or len(parts) > len(counts):
            continue
        repeated = sum(count > 1 for count in parts.values())
        if 2 * repeated >= len(parts):
            return separator
    return None


def are_decimals(cells: Sequence[str]) -> bool:
    """Whether all values are numbers, some with a decimal comma: ``4,5``. Numbered labels, such as
    ``4,15``, are written in ascending order."""
    pairs = [re.fullmatch(r"[-+]?(\d+)(?:,(\d+))?", cell) for cell in cells]
    if not all(pairs):
        return False
    parts = [(match[1], match[2]) for match in pairs if match and match[2]]
    descending = any((len(b) > 1 and b[0] == "0") or int(a) >= int(b) for a, b in parts)
    return bool(parts) and (descending or {a for a, _ in parts} == {"0"})


def labels_of_cell(cell: str, separator: str | None) -> list[str]:
    """The labels of a cell in ``task: multilabel``, without empty ones; none if it is empty.

    Args:
        cell: a list, as JSON or as Python prints it; or with a separator, labels between it. Other
            cells are one label.
        separator: `data.label_separator`.
    """
    labels = list_of_labels(cell)
    if labels is None:
        labels = cell.split(separator) if separator is not None else [cell]
    return [label.strip() for label in labels if label.strip()]


def refuse_several(name: str, column: str, rows: Sequence[tuple[str, list[str]]]) -> None:
    """Refuse rows with several labels.

    Args:
        name: of the file.
        column: the label column.
        rows: location and labels of each such row.

    Raises:
        UsageError: there is any.
    """
    if not rows:
        return
    shown = "; ".join(f"{where}: {', '.join(labels)}" for where, labels in rows[:_SHOWN])
    raise UsageError(
        f"{name}: {len(rows):,} row{'s have' if len(rows) > 1 else ' has'} several labels in "
        "column "
        f"'{column}' ({shown}). task: classification gives each text one label. For several labels "
        "per text, set task: multilabel"
    )
