"""Tests of messages that name a way out: each provokes one, then does what it says.

`test_every_way_out` reads the calls of `follows`, `refused` and `follows_table` in all tests, and
fails for a message in the source that none of them names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prooftune.errors import ProoftuneError
from ways_out.messages import HOLE


def follows(fragment: str) -> str:
    """Register a part of a message, for tests that take it from a table. Returns it.

    Args:
        fragment: a literal, with ``{…}`` for every value that the source puts in. It holds the
            words that name the way out, and matches no other message.
    """
    return fragment


def follows_table(path: str, name: str) -> None:
    """Register all messages of a module's table, for tests that go through the table itself.

    Args:
        path: of the module, below ``src/prooftune``.
        name: of the constant.
    """


def names(fragment: str, text: str) -> bool:
    """Whether a text contains a fragment, with any values in the places of ``{…}``."""
    return re.search(".*?".join(map(re.escape, fragment.split(HOLE))), text, re.DOTALL) is not None


@contextmanager
def refused(
    fragment: str, error: type[BaseException] = ProoftuneError
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """The code raises an error whose message contains the fragment, which registers it."""
    with pytest.raises(error) as caught:
        yield caught
    assert names(fragment, str(caught.value)), str(caught.value)
