"""Reading a judge's reply: tolerant of form, never guessing. What is not exactly one valid verdict
is a failure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from prooftune.judge.types import Reply

TRUNCATED = "reply cut off at max_tokens"
EMPTY_REPLY = "empty reply"
UNFINISHED_THINKING = "thinking never ended"
NO_SCORE, SEVERAL_SCORES, SCORE_OFF_SCALE = (
    "no score in the reply",
    "several scores in the reply",
    "score off the scale",
)
NO_PREFERENCE, SEVERAL_PREFERENCES = (
    "no preference in the reply",
    "several preferences in the reply",
)

_THINK_TAG = re.compile(r"(</?think(?:ing)?>)", re.IGNORECASE)
_NUMBER = r"[-+]?\d+(?:[.,]\d+)?"
_BEFORE = r"[\s*_`'\"(\[]*"
_SCORE = rf"{_BEFORE}(?P<value>{_NUMBER})(?:\s*(?:/|out\s+of)\s*(?P<best>{_NUMBER}))?"
# Where a number goes on (a range, a percentage, a fraction, a version), it is no score.
_VALUE = re.compile(
    rf"{_SCORE}(?![\d%]|[.,]\d|\s*(?:[-–/]|to\b|or\b|out\s+of\b)\s*\d)", re.IGNORECASE
)
_ALONE = re.compile(rf"{_SCORE}[\s*_`'\")\].]*", re.IGNORECASE)
_BEGUN = re.compile(rf"{_BEFORE}[-+]?\d")
_FENCE = re.compile(r"```(?:json)?", re.IGNORECASE)
_WINNERS = {
    "a": "A",
    "b": "B",
    "tie": "tie",
    "c": "tie",
    "answer a": "A",
    "answer b": "B",
    "answer_a": "A",
    "answer_b": "B",
}
_WINNER_KEYS = ("winner", "better", "preference", "verdict")
_BRACKETED = re.compile(r"\[\[\s*(a|b|c|tie)\s*\]\]", re.IGNORECASE)
_STATED = re.compile(
    r"\b(?:winner|verdict)\b[\s*_`'\"]*[:=][\s*_`'\"]*((?:answer[ "
    r"_])?[ab]|tie)\b(?!\s*(?:[/,|]|or\b|and\b))",
    re.IGNORECASE,
)
_MOST_OBJECTS = 200
"""Braces that are looked at: each may take as long as the text is, where a model writes nothing
else without end."""
_TRIM = " \t\r\n*_`'\"().[]"


def extract_answer(reply: Reply) -> tuple[str, str]:
    """The reply without its thinking, and the reason why it cannot be read, of which one is empty."""
    if reply.failure:
        return "", reply.failure
    text, thinking = _without_thoughts(reply.text)
    if thinking:
        return "", UNFINISHED_THINKING
    # The number that was being written may have had another digit.
    if reply.truncated:
        return "", TRUNCATED
    return (text.strip(), "") if text.strip() else ("", EMPTY_REPLY)


def _without_thoughts(text: str) -> tuple[str, bool]:
    """The text outside of ``<think>`` blocks, and whether the last one is still open."""
    kept: list[str] = []
    thinking = False
    for part in _THINK_TAG.split(text):
        if part.lower().startswith("</think"):
            # Chat templates of reasoning models open the block in the prompt, so that only its end
            # is in the reply.
            kept = kept if thinking else []
            thinking = False
        elif part.lower().startswith("<think"):
            thinking = True
        elif not thinking:
            kept.append(part)
    return "".join(kept), thinking


def parse_score(reply: Reply, criterion: str, scale: tuple[int, int]) -> tuple[int | None, str]:
    """The score in a reply, or None and the reason.

    A score is a whole number of the scale under ``score``, ``rating`` or the criterion's name in a
    JSON object, or after such a word and a colon that begin a line or sentence, or a number that is
    the whole reply; ``4/5`` and ``4 out of 5`` count where 5 is the best. The same score said twice
    is one score; different ones are none.
    """
    text, failure = extract_answer(reply)
    if failure:
        return None, failure
    keys = ("score", "rating", criterion.lower(), criterion.lower().replace("_", " "))
    values, rest = _json_values(text, keys)
    found = [_whole(_ALONE.fullmatch(str(value)), scale) for value in values]
    stated, owned = _stated_scores(rest, keys, scale)
    if not found and not owned:
        alone = _ALONE.fullmatch(_FENCE.sub("", text).strip())
        return _one([_whole(alone, scale)] if alone else [])
    return _one([*found, *stated])


def _stated_scores(
    text: str, keys: tuple[str, ...], scale: tuple[int, int]
) -> tuple[list[int | str | None], bool]:
    """Every number after ``score:`` and the like, and whether one of them begins a line or
    sentence.

    ``Maximum score: 5`` alone is no judgement; beside one it is a contradiction.
    """
    names = "|".join(re.escape(key) for key in keys)
    begins = re.compile(
        rf"(?:^|[\n.!?;,{{])[\s*_`'\"#>-]*(?:(?:the|my|final|overall|{names})\s+)*$", re.IGNORECASE
    )
    found: list[int | str | None] = []
    owned = False
    for match in re.finditer(rf"\b(?:{names})\b[*_`'\"]*\s*[:=]", text, re.IGNORECASE):
        value = _VALUE.match(text, match.end())
        if value or _BEGUN.match(text, match.end()):
            found.append(_whole(value, scale) if value else "unclear")
            owned |= begins.search(text[max(0, match.start() - 80) : match.start()]) is not None
    return found, owned


def parse_preference(reply: Reply) -> tuple[str | None, str]:
    """``A``, ``B`` or ``tie`` as a reply says, or None and the reason.

    A preference stands under ``winner`` (or ``better``, ``preference``, ``verdict``) in a JSON
    object, as ``[[A]]``, after ``winner:`` in plain text, or is the whole reply.
    """
    text, failure = extract_answer(reply)
    if failure:
        return None, failure
    values, rest = _json_values(text, _WINNER_KEYS)
    said = [str(value) for value in values] + _BRACKETED.findall(rest) + _STATED.findall(rest)
    said = said or [_FENCE.sub("", text)]
    winners = {_WINNERS.get(word.strip(_TRIM).lower()) for word in said}
    if winners == {None}:
        return None, NO_PREFERENCE
    return (None, SEVERAL_PREFERENCES) if len(winners) > 1 else (winners.pop(), "")


def _one(found: Iterable[int | str | None]) -> tuple[int | None, str]:
    distinct = set(found)
    if not distinct - {None}:
        return None, NO_SCORE
    if len(distinct) > 1:
        return None, SEVERAL_SCORES
    value = distinct.pop()
    return (value, "") if isinstance(value, int) else (None, SCORE_OFF_SCALE)


def _whole(match: re.Match[str] | None, scale: tuple[int, int]) -> int | str | None:
    """The score that a match says; its text where that is not on the scale; None where there is no
    number."""
    if match is None:
        return None
    value = float(match["value"].replace(",", "."))
    other_scale = match["best"] is not None and float(match["best"].replace(",", ".")) != scale[1]
    on_scale = value.is_integer() and scale[0] <= value <= scale[1] and not other_scale
    return int(value) if on_scale else match[0].strip()


def _json_values(text: str, keys: tuple[str, ...]) -> tuple[list[Any], str]:
    """All values of the keys, at any depth, in the JSON objects of a text; and the text outside of
    those objects."""
    seen: list[tuple[str, Any]] = []

    # Pairs, because of a key that stands twice a dictionary would keep the last one.
    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen.extend(pairs)
        return dict(pairs)

    decoder = json.JSONDecoder(object_pairs_hook=note)
    values, rest, at = [], [], 0
    for _ in range(_MOST_OBJECTS):
        start = text.find("{", at)
        if start < 0:
            break
        seen.clear()
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            rest.append(text[at : start + 1])
            at = start + 1
            continue
        rest.append(text[at:start])
        values += [
            value
            for key, value in seen
            if key.strip().lower() in keys and not isinstance(value, dict)
        ]
        at = end
    return values, " ".join([*rest, text[at:]])
