"""Every message that names a way out is followed by a test, and no registration is stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from ways_out import names
from ways_out.exceptions import CANNOT_BE_FOLLOWED, NO_WAY_OUT
from ways_out.messages import all_messages, messages_of
from ways_out.registry import Registration, all_registrations, problems, registrations_of

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src" / "prooftune"

MODULE = '''
"""Use this module."""
HINTS = {"a": "set a instead", "b": "remove it"}

def read(path: str, known: bool) -> None:
    """Give a path."""
    if known:
        raise UsageError(f"{path} exists; give --out another name{'; or add --force' if x else ''}")
    if path == "":
        raise ValueError("use a path")
    note = typer.Option(help="Use a path.")
    raise Failure(f"{path} is not there")
'''


@pytest.mark.slow
def test_every_message_is_followed() -> None:
    excepted = [*CANNOT_BE_FOLLOWED, *(f for group in NO_WAY_OUT.values() for f in group)]
    found = problems(all_messages(SOURCE), all_registrations(TESTS), excepted)
    assert not found, "\n".join(["(CONTRIBUTING.md says how)", *found])


def test_messages_are_enumerated() -> None:
    found = [(m.table, m.text) for m in messages_of(MODULE, "a.py")]
    assert found == [
        ("HINTS", "set a instead"),
        ("HINTS", "remove it"),
        ("", "{…} exists; give --out another name{…}"),
        ("", "; or add --force"),
    ]
    validated = [m.text for m in messages_of(f"import pydantic\n{MODULE}", "a.py")]
    assert "use a path" in validated


def test_a_message_without_a_test_is_a_problem() -> None:
    messages = [*messages_of(MODULE, "a.py")]
    test = """
follows_table("a.py", "HINTS")
with refused("{…} exists; give --out"):
    pass
"""
    registered = [*registrations_of(test, "test_a.py")]
    assert problems(messages, registered, ["or add --force"]) == []
    assert problems(messages, registered, []) == ["no test follows a.py:8: '; or add --force'"]


@pytest.mark.parametrize(
    ("registration", "problem"),
    [
        (Registration("t", "give --in"), "t: no message contains 'give --in'"),
        (Registration("t", "", "a.py:TABLE"), "t: no message contains 'a.py:TABLE'"),
        (Registration("t", "exists"), "t: 'exists' leaves out what to do"),
        (Registration("t", "set"), "t: several messages contain 'set'"),
        (
            next(registrations_of("follows('or add --force')", "t")),
            "t:1: 'or add --force' is compared with no message",
        ),
    ],
)
def test_a_stale_or_vague_registration_is_a_problem(
    registration: Registration, problem: str
) -> None:
    module = MODULE.replace("remove it", "set b")
    assert problem in problems(messages_of(module, "a.py"), [registration], [])


def test_a_stale_exception_is_a_problem() -> None:
    messages = [*messages_of(MODULE, "a.py")]
    assert "exceptions: no message contains 'give up'" in problems(messages, [], ["give up"])
    followed = [Registration("t", "or add --force")]
    found = problems(messages, followed, ["or add --force"])
    assert "exceptions: a test follows a.py:8: '; or add --force'" in found


def test_values_of_messages() -> None:
    assert names("{…} exists; give --out", "a.csv exists; give --out another name")
    assert not names("give {…} name", "give --out another file")
