"""From an example's inputs to token ids: the one place where prompts are rendered.

Training, evaluation, prediction and export all call `Encoder.encode`. A `Rendering` is the plain
description that is saved with the adapter; an `Encoder` is that description bound to a tokenizer.

A prompt is made of fixed parts (system text, instruction, few-shot examples, chat markup) and of
fields (the example's texts). Every part is tokenised by itself and the ids are concatenated, so the
border between two parts is the same in training and in use, the fixed beginning is the same ids for
every example and can be computed once, and a text that spells a control token is read as text.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from prooftune.errors import UsageError, nearest
from prooftune.tasks.rendering import EncodedPrompt, Rendering, Shot

__all__ = ["EncodedPrompt", "PromptEncoder", "Rendering", "Shot"]

# private-use characters stand for a field until the chat template has been applied
_MARK = "\ue000{}\ue001"


class PromptEncoder:
    """A rendering bound to a tokenizer.

    Attributes:
        prefix: ids that every prompt of this rendering begins with.
        targets: ids of each label, in label order, without the stop token.
        stop: id of the token that ends an answer.

    Raises:
        UsageError: the template names an unknown field, the prompt begins with two start tokens, a
            label has no tokens, or the fixed parts leave no room for the text within `max_length`.
    """

    def __init__(self, rendering: Rendering, tokenizer: Any, fields: Sequence[str]) -> None:
        self.rendering = rendering
        self._tokenizer = tokenizer
        self._check_template(fields)
        segments, self.stop_token_id = self._segments()
        self.prefix, self._parts = self._tokenise_segments(segments)
        self.label_ids = [self.encode_answer(label) for label in rendering.labels]
        self._fixed = len(self.prefix) + sum(len(p) for p in self._parts if isinstance(p, list))
        longest = max([rendering.answer_tokens, *(len(target) + 1 for target in self.label_ids)])
        self._room = rendering.max_length - self._fixed - longest
        if rendering.shots:
            # The limit is on what varies: shown examples come on top, and the text keeps the room
            # it has without them.
            self._room = PromptEncoder(replace(rendering, shots=()), tokenizer, fields)._room
        self._check_context(self._fixed + self._room + longest)
        if self._room < 8:
            raise UsageError(
                f"prompt.max_length is {rendering.max_length}, but the prompt's fixed text takes "
                f"{self._fixed} tokens "
                f"and the answer {longest}: no room for the text. Raise "
                "prompt.max_length, or shorten the template."
            )

    def encode(self, inputs: Mapping[str, str]) -> EncodedPrompt:
        """Token ids of one prompt. Takes the inputs alone, so a target cannot reach the prompt.

        Where the fields do not fit, the longest is cut at its end first; fixed text and target
        never are.
        """
        return self._encoded(self._field_ids(inputs))

    def sliding_windows(self, inputs: Mapping[str, str]) -> list[EncodedPrompt]:
        """The prompts by which one example is read: one, or several where the windowed field is too
        long for one."""
        ids = self._field_ids(inputs)
        name = self.rendering.windowed
        if name not in ids:
            return [self._encoded(ids)]
        whole = ids[name]
        size = self._room - sum(len(part) for other, part in ids.items() if other != name)
        if len(whole) <= size or size < 2 * self.rendering.overlap + 8:
            # All fits, or the other fields leave so little room that they must be cut.
            return [self._encoded(ids, name)]
        step = size - self.rendering.overlap
        starts = range(0, max(1, len(whole) - self.rendering.overlap), step)
        return [self._encoded({**ids, name: whole[start : start + size]}, name) for start in starts]

    def _field_ids(self, inputs: Mapping[str, str]) -> dict[str, list[int]]:
        return {part: self._ids(inputs[part]) for part in self._parts if isinstance(part, str)}

    def _encoded(self, ids: dict[str, list[int]], windowed: str | None = None) -> EncodedPrompt:
        names = [p for p in self._parts if isinstance(p, str)]
        ids = dict(ids)
        excess = sum(len(ids[name]) for name in names) - self._room
        cut = max(0, excess)
        while excess > 0:
            longest, second = _two_longest([len(ids[n]) for n in names])
            name = next(n for n in names if len(ids[n]) == longest)
            shorter = max(second, longest - excess) if longest > second else longest - 1
            excess -= longest - shorter
            ids[name] = ids[name][:shorter]
        row: list[int] = []
        for part in self._parts:
            row += ids[part] if isinstance(part, str) else part
        return EncodedPrompt(row, cut, ids[windowed] if windowed else [])

    def prompt_parts(self) -> list[list[int] | str]:
        """The prompt in order: ids of fixed parts, and names of the fields whose texts are
        tokenised by themselves."""
        return [self.prefix, *self._parts]

    def prompt_length(self, inputs: Mapping[str, str]) -> tuple[int, int]:
        """Tokens of the whole prompt before any cut, and how many of them would be cut."""
        texts = sum(len(self._ids(inputs[p])) for p in self._parts if isinstance(p, str))
        return self._fixed + texts, 0 if self.rendering.windowed else max(0, texts - self._room)

    def render(self, inputs: Mapping[str, str]) -> str:
        """The prompt as text, as the model reads it."""
        return str(
            self._tokenizer.decode(
                self.prefix + self.encode(inputs).token_ids, skip_special_tokens=False
            )
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that stand in a prompt."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def decode_answer(self, ids: Sequence[int]) -> str:
        """The text of generated ids up to, and without, the stop token."""
        kept = list(ids)
        if self.stop_token_id in kept:
            kept = kept[: kept.index(self.stop_token_id)]
        return str(self._tokenizer.decode(kept, skip_special_tokens=True))

    def _check_template(self, fields: Sequence[str]) -> None:
        try:
            used = [
                name
                for _, name, _, _ in string.Formatter().parse(self.rendering.template)
                if name is not None
            ]
        except ValueError as error:
            raise UsageError(
                f"prompt template: {error} (write {{{{ and }}}} for literal braces)"
            ) from None
        for name in used:
            if name not in fields and name != "labels":
                raise UsageError(
                    f"the prompt template uses {{{name}}}; the data has "
                    f"{', '.join('{' + f + '}' for f in fields)} and "
                    f"{{labels}}{nearest(name, fields)}"
                )
        if not set(used) & set(fields):
            raise UsageError(
                "the prompt template uses none of the data's fields: "
                + ", ".join("{" + f + "}" for f in fields)
            )

    def _check_context(self, longest: int) -> None:
        limit = getattr(self._tokenizer, "model_max_length", None)
        if isinstance(limit, int) and longest > limit:
            raise UsageError(
                f"prompts would have up to {longest} tokens, more than the model's {limit}: lower "
                "prompt.max_length or show fewer examples"
            )

    def _message(self, number: int) -> str:
        """The user's message with a mark where each field of example `number` goes."""
        parts = []
        for literal, name, _, _ in string.Formatter().parse(self.rendering.template):
            parts.append(literal)
            if name == "labels":
                parts.append(", ".join(self.rendering.labels))
            elif name is not None:
                parts.append(_MARK.format(f"{number}:{name}"))
        return "".join(parts)

    def _segments(self) -> tuple[list[str], int]:
        """The prompt cut at its fields: fixed texts at even places, field marks at odd ones; and
        the stop id."""
        shots = self.rendering.shots
        if not self.rendering.chat:
            # A template that ends in a cue of its own ("### Response:") needs no other.
            question = "{}" if self.rendering.template.rstrip().endswith(":") else "{}\nAnswer:"
            system = f"{self.rendering.system}\n\n" if self.rendering.system else ""
            asked = [
                question.format(self._message(i)) + self._spaced(s.label)
                for i, s in enumerate(shots)
            ]
            text = system + "\n\n".join([*asked, question.format(self._message(len(shots)))])
            stop = self._tokenizer.eos_token_id
            if stop is None:
                raise UsageError(
                    "this tokenizer has no end-of-text token, so a tuned model could never learn "
                    "to stop"
                )
            return self._cut(text), int(stop)
        turns = (
            [{"role": "system", "content": self.rendering.system}]
            if self.rendering.system is not None
            else []
        )
        for number, shot in enumerate(shots):
            turns += [
                {"role": "user", "content": self._message(number)},
                {"role": "assistant", "content": shot.label},
            ]
        turns.append({"role": "user", "content": self._message(len(shots))})
        template = self._apply_template
        text = template(turns, add_generation_prompt=True)
        return self._cut(text), self._chat_stop(turns)

    def _chat_stop(self, turns: list[dict[str, str]]) -> int:
        """The token with which the chat template ends the assistant's turn."""
        answered = self._apply_template(
            [*turns, {"role": "assistant", "content": _MARK.format("answer")}]
        )
        after = self._tokenizer(
            answered.rpartition(_MARK.format("answer"))[2], add_special_tokens=False
        ).input_ids
        if not after:
            raise UsageError(
                "this chat template puts nothing after an answer, so a tuned model could never "
                "learn to "
                "stop; set prompt.chat: false"
            )
        return int(after[0])

    def _apply_template(self, turns: list[dict[str, str]], **options: Any) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, **options))
        except (
            Exception
        ) as error:  # jinja templates raise what they like, e.g. "System role not supported"
            raise UsageError(
                f"the model's chat template refused the prompt: {error}. Set prompt.chat: false, "
                "or leave "
                "out prompt.system."
            ) from error

    def _cut(self, text: str) -> list[str]:
        pieces: list[str] = []
        for piece in text.split(_MARK[0]):
            mark, found, rest = piece.partition(_MARK[-1])
            pieces += [mark, rest] if found else [piece]
        return pieces

    def _tokenise_segments(self, segments: list[str]) -> tuple[list[int], list[list[int] | str]]:
        """Ids before the asked example's first field, and what follows: ids and field names in
        turn."""
        shots = self.rendering.shots
        prefix = self._fixed_ids(segments[0])
        bos = self._tokenizer.bos_token_id
        adds = self._tokenizer("").input_ids[:1] == [bos] if bos is not None else False
        if adds and prefix[:1] != [bos]:
            prefix = [bos, *prefix]
        if bos is not None and prefix[:2] == [bos, bos]:
            raise UsageError(
                "the prompt begins with two start-of-text tokens: leave the one in the template "
                "or the "
                "one in the chat template out"
            )
        parts: list[list[int] | str] = []
        for mark, fixed in zip(segments[1::2], segments[2::2], strict=True):
            number, _, name = mark.partition(":")
            if int(number) < len(shots):
                prefix = (
                    prefix + self._ids(shots[int(number)].inputs[name]) + self._fixed_ids(fixed)
                )
            else:
                parts += [name, self._fixed_ids(fixed)]
        if not parts[-1] and not any(isinstance(p, list) and p for p in parts):
            # A row is what follows the prefix and must not be empty, even for an empty text.
            parts.insert(0, prefix[-1:])
            prefix = prefix[:-1]
        return prefix, parts

    def _fixed_ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _ids(self, text: str) -> list[int]:
        return list(
            self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )

    def _spaced(self, label: str) -> str:
        return f" {label}"

    def encode_answer(self, label: str) -> list[int]:
        """Ids of a text as the model would write it after the prompt, without the stop token."""
        if self.rendering.chat or self._adds_space():
            ids = self._ids(label)
        else:
            ids = self._ids(self._spaced(label))
        if not ids:
            raise UsageError(f"the answer '{label}' has no tokens under this model's tokenizer")
        return ids

    def _adds_space(self) -> bool:
        """SentencePiece tokenizers put the space before a word by themselves."""
        return str(self._tokenizer.convert_ids_to_tokens(self._ids("a"))[0]).startswith("▁")


def _two_longest(lengths: list[int]) -> tuple[int, int]:
    ordered = sorted(lengths, reverse=True)
    return ordered[0], ordered[1] if len(ordered) > 1 else 0
