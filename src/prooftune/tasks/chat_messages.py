"""Prompts and replies of a chat endpoint: messages without a tokenizer, labels from replies."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence

from prooftune.chat_client.types import Message, TokenAlternatives
from prooftune.tasks.rendering import Rendering, label_list

MIN_PROBABILITY = 1e-6
"""Probability of a label that no alternative of a reply spells."""
_EDGES = " \n\t\"'`*"


def chat_messages(rendering: Rendering, inputs: Mapping[str, str]) -> list[Message]:
    """The messages of one example: system message, few-shot turns, and the prompt.

    Texts are not truncated: only the server knows its tokenizer.
    """
    messages: list[Message] = []
    if rendering.system is not None:
        messages.append({"role": "system", "content": rendering.system})
    for number, shot in enumerate(rendering.shots):
        messages += [
            {"role": "user", "content": _fill(rendering, shot.inputs, number)},
            {"role": "assistant", "content": shot.label},
        ]
    return [*messages, {"role": "user", "content": _fill(rendering, inputs, len(rendering.shots))}]


def _fill(rendering: Rendering, inputs: Mapping[str, str], number: int) -> str:
    parts = []
    for literal, name, _, _ in string.Formatter().parse(rendering.template):
        parts.append(literal)
        if name == "labels":
            parts.append(label_list(rendering, number))
        elif name is not None:
            parts.append(inputs[name])
    return "".join(parts)


def label_log_probs(
    tokens: Sequence[TokenAlternatives], labels: Sequence[str]
) -> tuple[float, ...] | None:
    """Log-probabilities of the labels from those of a reply's tokens and their alternatives.

    The reply's tokens are followed as long as several labels begin with them. At each token, an
    alternative's probability goes to the labels that begin with it (shared equally where there are
    several, as the server does not say how it would go on), and what the reply itself spells gets
    the rest of the path. The sum over the labels is normalised to 1, with a floor of
    `MIN_PROBABILITY`.

    Returns:
        One for each label, in their order; None if neither the reply nor an alternative begins
        like a label.
    """
    mass = [0.0] * len(labels)
    written, path = "", 0.0
    for token in tokens:
        for alternative, log_prob in token["alternatives"].items():
            # The chosen token is not shared here: it goes on along the path.
            if alternative != token["token"]:
                _share(mass, labels, written + alternative, path + log_prob)
        written += token["token"]
        path += token["alternatives"][token["token"]]
        fitting = _fitting(written, labels)
        # Nothing but spaces and quotes so far.
        if fitting is None:
            continue
        if len(fitting) < 2:
            break
    fitting = _fitting(written, labels) or []
    # Where a label begins another ("no", "not sure"), a reply that ends here means the shorter one.
    exact = [i for i in fitting if labels[i].casefold() == written.strip(_EDGES + ".").casefold()]
    for i in exact or fitting:
        mass[i] += math.exp(path) / len(exact or fitting)
    total = sum(mass)
    if total <= 0:
        return None
    # Servers list the likeliest tokens only: a label that is missing is improbable, not impossible.
    floored = [max(value / total, MIN_PROBABILITY) for value in mass]
    return tuple(math.log(value / sum(floored)) for value in floored)


def _share(mass: list[float], labels: Sequence[str], text: str, log_prob: float) -> None:
    fitting = _fitting(text, labels) or []
    for i in fitting:
        mass[i] += math.exp(log_prob) / len(fitting)


def _fitting(text: str, labels: Sequence[str]) -> list[int] | None:
    """Labels that a beginning of a reply can become or has become; None if it is still blank."""
    start = text.lstrip(_EDGES).casefold()
    if not start:
        return None
    matching = []
    for i, label in enumerate(labels):
        name = label.casefold()
        rest = start[len(name) :]
        # A beginning of the label, or the label and then anything that does not continue its word.
        if name.startswith(start.rstrip(_EDGES + ".")) or (
            start.startswith(name) and not rest[:1].isalnum()
        ):
            matching.append(i)
    return matching
