"""Every message in the source that names a way out, found by reading the syntax trees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HOLE = "{…}"
"""Stands for a value that is put into a message."""

VERBS = (
    "accept|add|allow|ask|build|call|change|check|choose|close|convert|copy|correct|cut|delete|"
    "divide|download|drop|empty|enable|end|export|fill|fix|free(?!-)|give|hide|increase|install|"
    "join|keep|learn|leave|limit|list\\ them|log\\ in|lower|make|merge|move|name|omit|open|"
    "overwrite|pass|pick|press|put|quote|raise|rebuild|reduce|remove|rename|repeat|replace|report|"
    "retry|run|save|say|score|see|send|set|shorten|skip|start|switch|take|train|try|turn|unpack|"
    "unset|update|upload|use|wait|write"
)
WAY_OUT = re.compile(
    rf"""
      (?:^|[;:.,?]\s+|[(}}]|\b(?:or|and|then|either|please|first)\s+)(?:{VERBS})\b(?!:)  # to do
    | \b(?:add|give|lower|raise|remove|set|use|write)\ [a-z_]+(?:\.[a-z_]|:\ \S)          # a key
    | (?<!\w)--[a-z]                                                                  # an option
    | 'prooftune\ [a-z]+ | \bpip\ install\b                                          # a command
    | \bdid\ you\ mean\b | \bis\ \S+\ the\b[^?]*\? | ,\ as\ in\b                  # another reading
    | \bIf\b[^.]*:\ (?:{{|[a-z]+\.[a-z])                                        # a condition
    | \bneeds\b | \bmust\b | \bexpected\b | \bshould\ (?:be|hold)\b | ;\ \S+\ does(?:\ not)?$
    | [;:]\ one\ of\b | \bone\ of\ {{ | [;:]\ (?:available|known|modes|supported)\b  # what there is
    | ;\ (?:there\ are|it\ (?:has|holds)|the\ [\w'\ ]+?\ (?:are|is))\b
    """,
    re.IGNORECASE | re.VERBOSE,
)

PROSE = (
    "bundle/answer_code.py",
    "bundle/card",
    "bundle/classifier_card.py",
    "data/init/templates.py",
    "exporters/card.py",
    "judge/prompts.py",
    "recipe/reference.py",
    "report/",
    "tasks/templates.py",
)
"""Modules of cards, reports, prompts and templates. What they write is no answer to an input."""

PROGRAMMING_ERRORS = {"AttributeError", "IndexError", "KeyError", "TypeError", "ValueError"}
"""For callers of functions, except where pydantic turns them into messages about a recipe."""


@dataclass(frozen=True, slots=True)
class Message:
    """A text that a person may read, with `HOLE` for values.

    Attributes:
        path: below ``src/prooftune``.
        line: where it begins.
        table: the module's constant that holds it, or an empty string.
        text: what it says.
    """

    path: str
    line: int
    table: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text!r}"


def texts(node: ast.AST, hidden: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """Line and text of all strings under a node but docstrings, help texts and keys.

    Args:
        hidden: names of exceptions whose messages are left out.
    """
    if isinstance(node, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.Constant) else HOLE for p in node.values]
        yield node.lineno, "".join(map(str, parts))
        # A string inside of a hole, as in `{'; set x' if y else ''}`, is a separate message.
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from texts(part.value, hidden)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.lineno, node.value
    elif not is_left_out(node, hidden):
        for child in ast.iter_child_nodes(node):
            yield from texts(child, hidden)


def is_left_out(node: ast.AST, hidden: frozenset[str]) -> bool:
    """Whether a node is a docstring, a help text, or raises one of the hidden exceptions."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.keyword):
        return node.arg in ("help", "description")
    return isinstance(node, ast.Raise) and raised(node) in hidden


def raised(node: ast.Raise) -> str:
    call = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return call.id if isinstance(call, ast.Name) else ""


def constant(node: ast.stmt) -> str:
    """The name that a statement of a module assigns to."""
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    target = node.target if isinstance(node, ast.AnnAssign) else target
    return target.id if isinstance(target, ast.Name) else ""


def messages_of(source: str, path: str) -> Iterator[Message]:
    """The messages of one module that name a way out."""
    validated = "pydantic" in source
    hidden = frozenset() if validated else frozenset(PROGRAMMING_ERRORS)
    for statement in ast.parse(source).body:
        table = constant(statement)
        for line, text in texts(statement, hidden):
            if len(text.split()) > 1 and WAY_OUT.search(text):
                yield Message(path, line, table, text)


@cache
def all_messages(root: Path) -> tuple[Message, ...]:
    """The messages of a package that name a way out, `PROSE` left out."""
    found: list[Message] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(PROSE):
            found += messages_of(path.read_text(encoding="utf-8"), name)
    return tuple(found)
