"""Parses judge replies: tolerant of form, never guessing.

A reply without exactly one valid score or preference is a failure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from prooftune.chat_client.types import Reply

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
# What models write around a number: **4**, `4`, "4", (4), [4].
_OPENING = r"[\s*_`'\"(\[]*"
_SCORE = rf"{_OPENING}(?P<value>{_NUMBER})(?:\s*(?:/|out\s+of)\s*(?P<best>{_NUMBER}))?"
# A number that continues (range, percentage, fraction, version) is not a score.
# None of: 3-4, 80%, 3 or 4, 1.2.3, 1/2/3.
_VALUE = re.compile(
    rf"{_SCORE}(?![\d%]|[.,]\d|\s*(?:[-–/]|to\b|or\b|out\s+of\b)\s*\d)", re.IGNORECASE
)
_WHOLE_REPLY = re.compile(rf"{_SCORE}[\s*_`'\")\].]*", re.IGNORECASE)
# Something numeric that is no score makes the reply unclear, not empty.
_STARTS_NUMBER = re.compile(rf"{_OPENING}[-+]?\d")
_FENCE = re.compile(r"```(?:json)?", re.IGNORECASE)
# `[[C]]` is MT-Bench's tie.
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
_BRACKETED_WINNER = re.compile(r"\[\[\s*(a|b|c|tie)\s*\]\]", re.IGNORECASE)
# Not "winner: A/B" or "winner: A or B", which repeat the choices.
_STATED_WINNER = re.compile(
    r"\b(?:winner|verdict)\b[\s*_`'\"]*[:=][\s*_`'\"]*((?:answer[ "
    r"_])?[ab]|tie)\b(?!\s*(?:[/,|]|or\b|and\b))",
    re.IGNORECASE,
)
_MAX_OBJECTS = 200
"""Opening braces to try, each at a cost linear in the text: a bound for replies of braces only."""
_TRIM = " \t\r\n*_`'\"().[]"


def extract_answer(reply: Reply) -> tuple[str, str]:
    """The reply without its reasoning, and the reason of a failure; one of the two is empty."""
    if reply.failure:
        return "", reply.failure
    text, thinking = _without_reasoning(reply.text)
    if thinking:
        return "", UNFINISHED_THINKING
    # The number at the cut may be missing a digit.
    if reply.truncated:
        return "", TRUNCATED
    return (text.strip(), "") if text.strip() else ("", EMPTY_REPLY)


def _without_reasoning(text: str) -> tuple[str, bool]:
    """The text outside ``<think>`` blocks, and whether the last block is unfinished."""
    outside: list[str] = []
    thinking = False
    for part in _THINK_TAG.split(text):
        if part.lower().startswith("</think"):
            # Chat templates of reasoning models open the block in the prompt, so the reply may have
            # only its end.
            outside = outside if thinking else []
            thinking = False
        elif part.lower().startswith("<think"):
            thinking = True
        elif not thinking:
            outside.append(part)
    return "".join(outside), thinking


def parse_score(reply: Reply, criterion: str, scale: tuple[int, int]) -> tuple[int | None, str]:
    """The score in a reply, or None and the reason of the failure.

    A score is an integer on the scale: the value of ``score``, ``rating`` or the criterion's name
    in a JSON object; a number after such a word and a colon at the start of a line or sentence; or
    a number that is the whole reply. ``4/5`` and ``4 out of 5`` count if 5 is the best score. A
    repeated score counts once; different scores are a failure.
    """
    text, failure = extract_answer(reply)
    if failure:
        return None, failure
    # Models write "instruction following" for `instruction_following`.
    keys = ("score", "rating", criterion.lower(), criterion.lower().replace("_", " "))
    values, rest = _json_values(text, keys)
    scores = [_to_score(_WHOLE_REPLY.fullmatch(str(value)), scale) for value in values]
    stated, at_start = _stated_scores(rest, keys, scale)
    if not scores and not at_start:
        alone = _WHOLE_REPLY.fullmatch(_FENCE.sub("", text).strip())
        return _single_score([_to_score(alone, scale)] if alone else [])
    return _single_score([*scores, *stated])


def _stated_scores(
    text: str, keys: tuple[str, ...], scale: tuple[int, int]
) -> tuple[list[int | str | None], bool]:
    """All numbers after ``score:`` and the like, and whether one starts a line or sentence.

    ``Maximum score: 5`` alone is not a judgement; next to one it is a contradiction.
    """
    names = "|".join(re.escape(key) for key in keys)
    sentence_start = re.compile(
        rf"(?:^|[\n.!?;,{{])[\s*_`'\"#>-]*(?:(?:the|my|final|overall|{names})\s+)*$", re.IGNORECASE
    )
    scores: list[int | str | None] = []
    at_start = False
    # All of them: a reply that says "score: 4" and later "score: 2" is no score.
    for match in re.finditer(rf"\b(?:{names})\b[*_`'\"]*\s*[:=]", text, re.IGNORECASE):
        value = _VALUE.match(text, match.end())
        if value or _STARTS_NUMBER.match(text, match.end()):
            scores.append(_to_score(value, scale) if value else "unclear")
            at_start |= (
                # 80 characters hold the words before a score, and bound the cost of long replies.
                sentence_start.search(text[max(0, match.start() - 80) : match.start()]) is not None
            )
    return scores, at_start


def parse_preference(reply: Reply) -> tuple[str | None, str]:
    """The preference in a reply (``A``, ``B`` or ``tie``), or None and the reason of the failure.

    A preference is the value of ``winner`` (or ``better``, ``preference``, ``verdict``) in a JSON
    object, ``[[A]]``, text after ``winner:``, or the whole reply.
    """
    text, failure = extract_answer(reply)
    if failure:
        return None, failure
    values, rest = _json_values(text, _WINNER_KEYS)
    preferences = (
        [str(value) for value in values]
        # All statements together, so that contradictions are seen.
        + _BRACKETED_WINNER.findall(rest)
        + _STATED_WINNER.findall(rest)
    )
    preferences = preferences or [_FENCE.sub("", text)]
    winners = {_WINNERS.get(word.strip(_TRIM).lower()) for word in preferences}
    if winners == {None}:
        return None, NO_PREFERENCE
    return (None, SEVERAL_PREFERENCES) if len(winners) > 1 else (winners.pop(), "")


def _single_score(scores: Iterable[int | str | None]) -> tuple[int | None, str]:
    distinct = set(scores)
    if not distinct - {None}:
        return None, NO_SCORE
    if len(distinct) > 1:
        return None, SEVERAL_SCORES
    value = distinct.pop()
    return (value, "") if isinstance(value, int) else (None, SCORE_OFF_SCALE)


def _to_score(match: re.Match[str] | None, scale: tuple[int, int]) -> int | str | None:
    """The score of a match; its text if it is off the scale; None without a match."""
    if match is None:
        return None
    value = float(match["value"].replace(",", "."))
    other_scale = match["best"] is not None and float(match["best"].replace(",", ".")) != scale[1]
    on_scale = value.is_integer() and scale[0] <= value <= scale[1] and not other_scale
    return int(value) if on_scale else match[0].strip()


def _json_values(text: str, keys: tuple[str, ...]) -> tuple[list[Any], str]:
    """Values of the keys at any depth of a text's JSON objects, and the text outside these."""
    pairs_seen: list[tuple[str, Any]] = []

    # Pairs, because a dictionary would drop the first value of a repeated key.
    def record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs_seen.extend(pairs)
        return dict(pairs)

    decoder = json.JSONDecoder(object_pairs_hook=record)
    values, rest, position = [], [], 0
    for _ in range(_MAX_OBJECTS):
        start = text.find("{", position)
        if start < 0:
            break
        pairs_seen.clear()
        try:
            # From the brace on: text may follow the object.
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            # Not JSON from this brace on; the next one may begin an object.
            rest.append(text[position : start + 1])
            position = start + 1
            continue
        rest.append(text[position:start])
        values += [
            value
            for key, value in pairs_seen
            # Of `{"score": {"score": 4}}` the inner pair is recorded by itself.
            if key.strip().lower() in keys and not isinstance(value, dict)
        ]
        position = end
    return values, " ".join([*rest, text[position:]])
