"""Which messages are followed, read from the syntax trees of the tests."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ways_out.messages import WAY_OUT, Message

REGISTERING = ("follows", "refused")


@dataclass(frozen=True, slots=True)
class Registration:
    """A call that says that a message is followed.

    Attributes:
        place: file and line.
        fragment: part of one message, or an empty string.
        table: path and name of a table of messages, or an empty string.
        compared: whether the test does anything with the fragment.
    """

    place: str
    fragment: str
    table: str = ""
    compared: bool = True

    def matching(self, messages: list[Message]) -> list[Message]:
        """The messages that it names."""
        if self.table:
            return [m for m in messages if self.table == f"{m.path}:{m.table}"]
        # A whole message may be a part of a longer one, and is then meant itself.
        whole = [m for m in messages if self.fragment == m.text]
        return whole or [m for m in messages if self.fragment in m.text]


def registrations_of(source: str, place: str) -> Iterator[Registration]:
    """The registrations in one test file."""
    tree = ast.parse(source)
    unused = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        literal = [a.value for a in node.args if isinstance(a, ast.Constant)]
        where = f"{place}:{node.lineno}"
        if node.func.id == "follows_table":
            yield Registration(where, "", ":".join(map(str, literal)))
        elif node.func.id in REGISTERING and isinstance(node.args[0], ast.Constant):
            yield Registration(where, str(literal[0]), compared=id(node) not in unused)


def all_registrations(root: Path) -> list[Registration]:
    """The registrations in a folder of tests."""
    found: list[Registration] = []
    for path in sorted(root.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "ways_out import" in source:
            found += registrations_of(source, path.relative_to(root).as_posix())
    return found


def problems(
    messages: Iterable[Message], registered: Iterable[Registration], excepted: Iterable[str]
) -> list[str]:
    """What is wrong with the registry, one sentence each.

    Args:
        messages: those that name a way out.
        registered: by tests.
        excepted: fragments of messages that no test follows.
    """
    messages = list(messages)
    followed: set[Message] = set()
    found = []
    for entry in registered:
        matching = entry.matching(messages)
        followed |= {*matching}
        if not matching:
            found.append(f"{entry.place}: no message contains {entry.fragment or entry.table!r}")
        elif not entry.compared:
            found.append(f"{entry.place}: {entry.fragment!r} is compared with no message")
        elif not entry.table and len({m.text for m in matching}) > 1:
            found.append(f"{entry.place}: several messages contain {entry.fragment!r}")
        elif not entry.table and not WAY_OUT.search(entry.fragment):
            found.append(f"{entry.place}: {entry.fragment!r} leaves out what to do")
    for fragment in excepted:
        matching = Registration("", fragment).matching(messages)
        if not matching:
            found.append(f"exceptions: no message contains {fragment!r}")
        for message in matching:
            if message in followed:
                found.append(f"exceptions: a test follows {message}")
        followed |= {*matching}
    found += [f"no test follows {m}" for m in messages if m not in followed]
    return found
