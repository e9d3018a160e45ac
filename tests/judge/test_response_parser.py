"""What can be read in a reply, and what must not be guessed."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune.chat_client.types import Reply
from prooftune.judge.response_parser import (
    EMPTY_REPLY,
    NO_PREFERENCE,
    NO_SCORE,
    SCORE_OFF_SCALE,
    SEVERAL_PREFERENCES,
    SEVERAL_SCORES,
    TRUNCATED,
    UNFINISHED_THINKING,
    parse_preference,
    parse_score,
)


def score(
    text: str, cut: bool = False, criterion: str = "instruction_following"
) -> tuple[int | None, str]:
    return parse_score(Reply(text, cut), criterion, (1, 5))


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 4}',
        '{"score":"4"}',
        '{"Score": 4.0}',
        '{"score": "4/5"}',
        '{"score": [4]}',
        '{"rating": 4}',
        '```json\n{"score": 4}\n```',
        'Sure! {"reason": "a score: low one is 1", "score": 4} Done.',
        '{"instruction_following": 4, "correctness": 2}',
        '{"instruction_following": {"score": 4}}',
        "{'score': 4}",
        "{score: 4}",
        '{"score": 4, "reason": "never closed',
        "4",
        " **4** ",
        "4.",
        "4/5",
        "4 out of 5",
        "`4`",
        "```\n4\n```",
        "Score: 4",
        "**Score:** 4",
        "Clear enough. Score: 4/5.",
        "The score: 4",
        "Instruction following score: 4",
        "Final score: **4** out of 5",
        'Score: 4\n{"score": 4}',
        "<think>5? No: Score: 2.</think>4",
        "so 2 or 3</think>\n4",
        "<think>a <think>b</think> c</think>4",
        '<THINK>5</THINK> {"score": 4}',
        '{"score": 4}<think>or 5</think>',
        "<thinking>score: 1</thinking>score: 4",
        "- Score: 4",
        "SCORE = 4",
    ],
)
def test_single_score_is_parsed_in_any_form(text: str) -> None:
    assert score(text) == (4, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", EMPTY_REPLY),
        (" \n", EMPTY_REPLY),
        ("<think>4</think>", EMPTY_REPLY),
        ("<think>hm, score: 4", UNFINISHED_THINKING),
        ("4 <think>or", UNFINISHED_THINKING),
        ("Good answer.", NO_SCORE),
        ('{"score": N}', NO_SCORE),
        ('{"score": null}', NO_SCORE),
        ('{"score": true}', NO_SCORE),
        ('{"score": "four"}', NO_SCORE),
        ("There are 4 errors.", NO_SCORE),
        ("Maximum score: 5", NO_SCORE),
        ("4 5", NO_SCORE),
        ("I like 4 out of 5 points", NO_SCORE),
        ('{"score": [3, 4]}', NO_SCORE),
        ("The score is based on form.", NO_SCORE),
        ('{"score": 3} {"score": 5}', SEVERAL_SCORES),
        ('{"score": 3, "score": 5}', SEVERAL_SCORES),
        ("Score: 3\nScore: 5", SEVERAL_SCORES),
        ('Score: 5 {"score": 3}', SEVERAL_SCORES),
        ('{"score": 3, "nested": [{"score": 5}]}', SEVERAL_SCORES),
        ("Max score: 5. Score: 4", SEVERAL_SCORES),
        ("Score: 4 or 5, score: 4", SEVERAL_SCORES),
        ('{"score": 9} {"score": 4}', SEVERAL_SCORES),
        ('{"score": 0}', SCORE_OFF_SCALE),
        ('{"score": 6}', SCORE_OFF_SCALE),
        ('{"score": -4}', SCORE_OFF_SCALE),
        ('{"score": 4.5}', SCORE_OFF_SCALE),
        ('{"score": "4/10"}', SCORE_OFF_SCALE),
        ("Score: 8/10", SCORE_OFF_SCALE),
        ("Score: 4/10", SCORE_OFF_SCALE),
        ("4/10", SCORE_OFF_SCALE),
        ("40", SCORE_OFF_SCALE),
        ("Score: 4-5", SCORE_OFF_SCALE),
        ("Score: 4 to 5", SCORE_OFF_SCALE),
        ("Score: 4%", SCORE_OFF_SCALE),
        ("Score: 45", SCORE_OFF_SCALE),
        ("4,5", SCORE_OFF_SCALE),
        ("Score: 4/10%", SCORE_OFF_SCALE),
        ('{"score": 1e400}', NO_SCORE),
        ('{"score": 4e20}', NO_SCORE),
        ('{"score": NaN}', NO_SCORE),
    ],
)
def test_other_replies_are_failures_with_a_reason(text: str, reason: str) -> None:
    assert score(text) == (None, reason)


def test_truncated_reply_is_not_a_score() -> None:
    assert score("Score: 1", cut=True) == (None, TRUNCATED), "it may have become 10"
    assert score("<think>Score: 1", cut=True) == (None, UNFINISHED_THINKING)


def test_scores_on_another_scale() -> None:
    assert parse_score(Reply('{"score": 10}'), "c", (0, 10)) == (10, "")
    assert parse_score(Reply("7/10"), "c", (0, 10)) == (7, "")
    assert parse_score(Reply("4/5"), "c", (0, 10)) == (None, SCORE_OFF_SCALE)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_parser_never_raises(text: str) -> None:
    value, reason = score(text)
    assert (value is None) != (reason == "")
    assert value is None or 1 <= value <= 5
    reply_text, reason = parse_preference(Reply(text))
    assert (reply_text is None) != (reason == "")


_prose = st.text(
    st.characters(exclude_characters="<{}`", exclude_categories=["Cs"]), max_size=60
).filter(lambda t: not any(word in t.lower() for word in ("score", "rating", "instruction")))


@settings(deadline=None)
@given(
    st.integers(1, 5),
    _prose,
    _prose,
    st.dictionaries(st.sampled_from(["reason", "x", "y"]), st.text(max_size=20)),
)
def test_json_is_found_within_prose(
    value: int, before: str, after: str, more: dict[str, str]
) -> None:
    assert score(f"{before}{json.dumps({**more, 'score': value})}{after}") == (value, "")


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_different_scores_are_a_failure(values: list[int]) -> None:
    text = "\n".join(f"Score: {value}" for value in values)
    assert score(text) == ((values[0], "") if len(set(values)) == 1 else (None, SEVERAL_SCORES))


@pytest.mark.parametrize(
    "text",
    [
        "{" * 50_000,
        '{"a":' * 20_000,
        "<think>" * 20_000,
        "<think></think>" * 9000,
        "score: " * 15_000,
        "4" * 100_000,
        " " * 100_000,
        "*" * 100_000 + "x",
    ],
    ids=["braces", "objects", "thoughts", "thought", "scores", "digits", "spaces", "stars"],
)
def test_long_repetitive_replies_parse_in_bounded_time(text: str) -> None:
    start = time.process_time()
    assert score(text)[0] is None
    assert parse_preference(Reply(text))[0] is None
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ('{"winner": "A"}', "A"),
        ('{"winner": "b"}', "B"),
        ('{"winner": "tie"}', "tie"),
        ('{"better": "Answer B"}', "B"),
        ("A", "A"),
        ("**B**", "B"),
        ("Tie.", "tie"),
        ("[[A]]", "A"),
        ("Both fine. [[C]]", "tie"),
        ("Winner: B", "B"),
        ("Answer A", "A"),
        ("<think>A? winner: A</think>[[B]]", "B"),
        ('```json\n{"winner": "A"}\n```', "A"),
        ("{winner: 'A'}", "A"),
    ],
)
def test_preferences_are_parsed(text: str, winner: str) -> None:
    assert parse_preference(Reply(text)) == (winner, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", EMPTY_REPLY),
        ("<think>A", UNFINISHED_THINKING),
        ("Both are good.", NO_PREFERENCE),
        ('{"winner": "C++"}', NO_PREFERENCE),
        ('{"winner": "W"}', NO_PREFERENCE),
        ("Winner: A or B", NO_PREFERENCE),
        ('{"winner": "A"} {"winner": "B"}', SEVERAL_PREFERENCES),
        ("[[A]] [[B]]", SEVERAL_PREFERENCES),
        ("Winner: A\nWinner: B", SEVERAL_PREFERENCES),
        ('{"winner": 1}', NO_PREFERENCE),
        ("A and B", NO_PREFERENCE),
        ("A good question", NO_PREFERENCE),
    ],
)
def test_ambiguous_preferences_are_failures(text: str, reason: str) -> None:
    assert parse_preference(Reply(text)) == (None, reason)
