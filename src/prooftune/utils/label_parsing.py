"""The label in a generated text."""

from __future__ import annotations

import re
from collections.abc import Sequence

_AROUND = "\"'`*."
"""Signs around a label that change nothing."""


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """The label in a generated text, or None.

    The text must equal a label, or begin with one followed by a character that is no letter or
    digit; case, outer quotes and full stops are ignored. The longest matching label wins.
    """
    text = text.strip().strip(_AROUND).strip().casefold()
    for label in sorted(labels, key=len, reverse=True):
        if re.match(re.escape(label.casefold()) + r"(?![^\W_])", text):
            return label
    return None


def is_label_only(text: str, labels: Sequence[str]) -> bool:
    """Whether a generated text is a label and nothing else; case, outer quotes and full stops are
    ignored."""
    bare = text.strip().strip(_AROUND).strip().casefold()
    return bare in {label.casefold() for label in labels}
