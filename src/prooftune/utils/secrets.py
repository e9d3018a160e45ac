"""Detect keys and passwords in texts, so that none is published, and remove them from reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "an API key (sk-…)": r"\bsk-[A-Za-z0-9_-]{20,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "an address with a password": r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s:@'\"]*:[^/\s@'\"]+@",
}
_ANY = re.compile("|".join(f"(?P<k{i}>{pattern})" for i, pattern in enumerate(_SECRETS.values())))
_KINDS = list(_SECRETS)


def find_secrets(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield line number (from 1) and kind of every likely secret, without the secret itself."""
    for number, line in enumerate(lines, start=1):
        for match in _ANY.finditer(line):
            # Groups are named k0, k1, …, by the position of their kind.
            yield number, _KINDS[int((match.lastgroup or "k0")[1:])]


def redact(text: str) -> str:
    """The text with every secret replaced by ``[removed]``."""
    return _ANY.sub("[removed]", text)
