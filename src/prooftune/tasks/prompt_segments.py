"""A rendering as text, split at its fields: template, system text, examples, chat markup."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prooftune.errors import UsageError, nearest
from prooftune.tasks.conversations import Turn
from prooftune.tasks.rendering import Rendering, completion_cue, label_list

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Private-use characters, which no chat template changes, mark a field until it has been applied.
_MARK = "\ue000{}\ue001"


def check_template(template: str, fields: Sequence[str]) -> None:
    """Refuse a template that names unknown fields, or none of the data's.

    Raises:
        UsageError: it does, or its braces do not match.
    """
    try:
        used = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UsageError(
            f"prompt template: {error} (write {{{{ and }}}} for literal braces)"
        ) from None
    for name in used:
        if name not in fields and name != "labels":
            # "data.text" is a key of the recipe, and the field has its last part for a name.
            near = nearest(name, fields) or nearest(name.rpartition(".")[2], fields)
            # Without a field that looks alike, a column goes by another name.
            hint = near or f". A column gets this name by data.text: {{{name}: COLUMN}}"
            raise UsageError(
                f"the prompt template uses {{{name}}}; the data has "
                f"{', '.join('{' + f + '}' for f in fields)} and "
                f"{{labels}}{hint}"
            )
    if not set(used) & set(fields):
        raise UsageError(
            "the prompt template uses none of the data's fields: "
            + ", ".join("{" + f + "}" for f in fields)
        )


def _user_message(rendering: Rendering, number: int) -> str:
    """The user message, with a mark in place of each field of example `number`."""
    parts = []
    for literal, name, _, _ in string.Formatter().parse(rendering.template):
        parts.append(literal)
        if name == "labels":
            parts.append(label_list(rendering, number))
        elif name is not None:
            parts.append(_MARK.format(f"{number}:{name}"))
    return "".join(parts)


def prompt_segments(
    rendering: Rendering, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], int]:
    """The prompt split at its fields (fixed text at even indices, field marks at odd ones), and
    the id of the stop token."""
    shots = rendering.shots
    if not rendering.chat:
        # The cue alone: the message is rendered with marks in place of its fields.
        cue = completion_cue(rendering.template)[len(rendering.template) :]
        system = f"{rendering.system}\n\n" if rendering.system else ""
        shot_texts = [
            _user_message(rendering, i) + cue + with_space(s.label) for i, s in enumerate(shots)
        ]
        text = system + "\n\n".join([*shot_texts, _user_message(rendering, len(shots)) + cue])
        stop = tokenizer.eos_token_id
        if stop is None:
            raise UsageError(
                "this tokenizer has no end-of-text token, so a tuned model could never learn "
                "to stop"
            )
        return _split_at_marks(text), int(stop)
    turns = (
        [{"role": "system", "content": rendering.system}] if rendering.system is not None else []
    )
    for number, shot in enumerate(shots):
        turns += [
            {"role": "user", "content": _user_message(rendering, number)},
            {"role": "assistant", "content": shot.label},
        ]
    # The marks pass through the template and show where each field's text belongs.
    turns.append({"role": "user", "content": _user_message(rendering, len(shots))})
    text = _apply_template(tokenizer, turns, add_generation_prompt=True)
    return _split_at_marks(text), _chat_stop_token(tokenizer, turns)


def conversation_segments(
    rendering: Rendering, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]
) -> list[str]:
    """A conversation split like `prompt_segments`: marks ``h:NUMBER`` stand for the earlier turns,
    ``0:FIELD`` for the fields of the last user message."""
    messages = [
        {"role": turn.role, "content": _MARK.format(f"h:{number}")}
        for number, turn in enumerate(turns)
    ]
    if rendering.system is not None and not (turns and turns[0].role == "system"):
        messages.insert(0, {"role": "system", "content": rendering.system})
    messages.append({"role": "user", "content": _user_message(rendering, 0)})
    try:
        text = _apply_template(tokenizer, messages, add_generation_prompt=True)
    except UsageError:
        if messages[0]["role"] != "system":
            raise
        # Gemma's template has no system role: its text begins the first user message.
        system, first, *rest = messages
        merged = {**first, "content": f"{system['content']}\n\n{first['content']}"}
        text = _apply_template(tokenizer, [merged, *rest], add_generation_prompt=True)
    return _split_at_marks(text)


def _chat_stop_token(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> int:
    """The first token that the chat template puts after the assistant's message."""
    answered = _apply_template(
        tokenizer, [*turns, {"role": "assistant", "content": _MARK.format("answer")}]
    )
    # Templates differ in their end-of-turn token, so render an answered turn and look behind
    # it.
    after = tokenizer(
        answered.rpartition(_MARK.format("answer"))[2], add_special_tokens=False
    ).input_ids
    if not after:
        raise UsageError(
            "this chat template puts nothing after an answer, so a tuned model could never "
            "learn to stop; set prompt.chat: false"
        )
    return int(after[0])


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **options: Any
) -> str:
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except Exception as error:  # a template may raise anything ("System role not supported")
        raise UsageError(
            f"the model's chat template refused the prompt: {error}. Set prompt.chat: false, "
            "or remove prompt.system."
        ) from error


def _split_at_marks(text: str) -> list[str]:
    pieces: list[str] = []
    # The first private character opens a mark, the second closes it.
    for piece in text.split(_MARK[0]):
        mark, separator, rest = piece.partition(_MARK[-1])
        pieces += [mark, rest] if separator else [piece]
    return pieces


def with_space(label: str) -> str:
    """A label as it follows a completion prompt."""
    return f" {label}"
