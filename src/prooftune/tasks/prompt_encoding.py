"""From an example's inputs to token ids: the only place where prompts are rendered and truncated.

Training, evaluation, prediction and export all call `PromptEncoder.encode`. A `Rendering` is the
description that is saved with the adapter; a `PromptEncoder` binds it to a tokenizer.

A prompt consists of fixed segments (system text, instruction, few-shot examples, chat markup) and
of fields (the example's texts). Each segment is tokenized on its own, and the ids are concatenated.
So token boundaries between segments are the same in training and inference, all prompts share the
ids of the fixed prefix (whose KV cache is computed once), and a text that spells a control token is
tokenized as plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from prooftune.errors import UsageError
from prooftune.tasks.conversations import Turn, flatten, parse_history, without_oldest
from prooftune.tasks.prompt_segments import (
    check_template,
    conversation_segments,
    prompt_segments,
    with_space,
)
from prooftune.tasks.rendering import EncodedPrompt, Rendering, Shot
from prooftune.types import HISTORY, QUESTION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EncodedPrompt", "PromptEncoder", "Rendering", "Shot"]


class PromptEncoder:
    """A rendering bound to a tokenizer.

    Attributes:
        prefix: token ids with which every prompt of this rendering begins.
        label_ids: token ids of each label, in label order, without the stop token.
        stop_token_id: id of the token that ends an answer.
        max_prompt_tokens: most tokens of a prompt, prefix included.

    Raises:
        UsageError: the template names an unknown field, the prompt begins with two BOS tokens, a
            label has no tokens, or `max_length` is too small for the fixed text and the answer.
    """

    def __init__(
        self, rendering: Rendering, tokenizer: PreTrainedTokenizerBase, fields: Sequence[str]
    ) -> None:
        self.rendering = rendering
        self._tokenizer = tokenizer
        check_template(rendering.template, fields)
        segments, self.stop_token_id = prompt_segments(rendering, tokenizer)
        self.prefix, self._segments_after_prefix = self._tokenize_segments(segments)
        if HISTORY in fields and rendering.chat and len(self.prefix) > 1:
            # Earlier turns follow the start token, so that prompts share nothing else.
            self._segments_after_prefix.insert(0, self.prefix[1:])
            self.prefix = self.prefix[:1]
        self.label_ids = [self.encode_answer(label) for label in rendering.labels]
        self._fixed_tokens = len(self.prefix) + sum(
            len(p) for p in self._segments_after_prefix if isinstance(p, list)
        )
        # A label's tokens, and the stop token.
        longest = max([rendering.answer_tokens, *(len(target) + 1 for target in self.label_ids)])
        self._text_budget = rendering.max_length - self._fixed_tokens - longest
        if rendering.shots:
            # Few-shot examples do not count towards `max_length`: the text may be as long as it
            # may be without them.
            self._text_budget = PromptEncoder(
                replace(rendering, shots=()), tokenizer, fields
            )._text_budget
        self.max_prompt_tokens = self._fixed_tokens + self._text_budget
        self._check_context(self.max_prompt_tokens + longest)
        if self._text_budget < 8:
            raise UsageError(
                f"prompt.max_length is {rendering.max_length}, but the prompt's fixed text takes "
                f"{self._fixed_tokens} tokens and the answer {longest}: no room for the text. "
                "Raise prompt.max_length, or shorten the template."
            )

    def encode(self, inputs: Mapping[str, str]) -> EncodedPrompt:
        """Render and tokenize one prompt. It takes the inputs only, so no target can leak into it.

        If the fields do not fit, the longest one is truncated first, at its end. Fixed text is
        never truncated. Of a conversation that does not fit, the oldest turns are dropped first.
        """
        if inputs.get(HISTORY):
            return self._encode_conversation(inputs)
        return self._truncate_and_join(self._tokenize_fields(inputs))

    def sliding_windows(self, inputs: Mapping[str, str]) -> list[EncodedPrompt]:
        """The prompts of one example: one, or several overlapping windows if the windowed field is
        too long for one prompt. A conversation is not split."""
        if inputs.get(HISTORY):
            return [self._encode_conversation(inputs)]
        ids = self._tokenize_fields(inputs)
        name = self.rendering.windowed
        if name not in ids:
            return [self._truncate_and_join(ids)]
        context_ids = ids[name]
        size = self._text_budget - sum(len(part) for other, part in ids.items() if other != name)
        if len(context_ids) <= size or size < 2 * self.rendering.overlap + 8:
            # Everything fits, or the other fields are so long that they must be truncated.
            return [self._truncate_and_join(ids, name)]
        step = size - self.rendering.overlap
        # No window starts within the overlap at the end, since it would add no tokens.
        starts = range(0, max(1, len(context_ids) - self.rendering.overlap), step)
        return [
            self._truncate_and_join({**ids, name: context_ids[start : start + size]}, name)
            for start in starts
        ]

    def _encode_conversation(self, inputs: Mapping[str, str]) -> EncodedPrompt:
        """Encode a question with the turns before it.

        Raises:
            UsageError: the chat template refuses the conversation.
        """
        turns = parse_history(inputs[HISTORY])
        if not self.rendering.chat:
            question = flatten(turns, inputs[QUESTION])
            return self._truncate_and_join(self._tokenize_fields({**inputs, QUESTION: question}))
        fields = self._tokenize_fields(inputs)
        most = self._fixed_tokens + self._text_budget - len(self.prefix)
        whole = encoded = self._join_turns(turns, fields)
        while len(encoded.token_ids) > most and any(turn.role != "system" for turn in turns):
            turns = without_oldest(turns)
            encoded = self._join_turns(turns, fields)
        if len(encoded.token_ids) > most:  # the question alone is too long
            encoded = self._truncate_and_join(fields)
        dropped = len(whole.token_ids) - len(encoded.token_ids)
        return replace(encoded, truncated_tokens=dropped)

    def _join_turns(
        self, turns: Sequence[Turn], fields: Mapping[str, Sequence[int]]
    ) -> EncodedPrompt:
        """Token ids of a conversation, and where the assistant speaks in it."""
        first, *rest = conversation_segments(self.rendering, self._tokenizer, turns)
        ids = self._with_start_token(self._tokenize_fixed(first))
        answers = []
        for mark, fixed in zip(rest[::2], rest[1::2], strict=True):
            kind, _, name = mark.partition(":")
            start = len(ids)
            ids += self.tokenize_text(turns[int(name)].content) if kind == "h" else fields[name]
            after = self._tokenize_fixed(fixed)
            # An earlier turn is trained with its stop token, where the template puts that behind
            # it.
            if kind == "h" and turns[int(name)].role == "assistant":
                answers.append((start, len(ids) + (after[:1] == [self.stop_token_id])))
            ids += after
        shared = len(self.prefix)
        if ids[:shared] != self.prefix:
            raise UsageError(
                "this chat template renders the beginning of a conversation differently from a "
                "single message; set prompt.chat: false"
            )
        spans = [(start - shared, end - shared) for start, end in answers]
        return EncodedPrompt(ids[shared:], 0, earlier_answers=spans)

    def _tokenize_fields(self, inputs: Mapping[str, str]) -> dict[str, list[int]]:
        return {
            part: self.tokenize_text(inputs[part])
            for part in self._segments_after_prefix
            if isinstance(part, str)
        }

    def _truncate_and_join(
        self, ids: dict[str, list[int]], windowed: str | None = None
    ) -> EncodedPrompt:
        names = [p for p in self._segments_after_prefix if isinstance(p, str)]
        ids = dict(ids)
        excess = sum(len(ids[name]) for name in names) - self._text_budget
        num_truncated = max(0, excess)
        while excess > 0:
            # The longest field is cut to the second longest, then both alike: short ones are
            # spared.
            longest, second = _two_longest([len(ids[n]) for n in names])
            name = next(n for n in names if len(ids[n]) == longest)
            shorter = max(second, longest - excess) if longest > second else longest - 1
            excess -= longest - shorter
            ids[name] = ids[name][:shorter]
        row: list[int] = []
        for part in self._segments_after_prefix:
            row += ids[part] if isinstance(part, str) else part
        return EncodedPrompt(row, num_truncated, ids[windowed] if windowed else [])

    def prompt_parts(self) -> list[list[int] | str]:
        """The prompt in order: token ids of fixed segments, and names of fields."""
        return [self.prefix, *self._segments_after_prefix]

    def prompt_length(self, inputs: Mapping[str, str]) -> tuple[int, int]:
        """Tokens of the prompt before truncation, and how many of them would be truncated."""
        if inputs.get(HISTORY):
            encoded = self._encode_conversation(inputs)
            cut = encoded.truncated_tokens
            return len(self.prefix) + len(encoded.token_ids) + cut, cut
        texts = sum(
            len(self.tokenize_text(inputs[p]))
            for p in self._segments_after_prefix
            if isinstance(p, str)
        )
        return self._fixed_tokens + texts, 0 if self.rendering.windowed else max(
            0, texts - self._text_budget
        )

    def render(self, inputs: Mapping[str, str]) -> str:
        """The prompt as text, with special tokens and after truncation."""
        return str(
            self._tokenizer.decode(
                self.prefix + self.encode(inputs).token_ids, skip_special_tokens=False
            )
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def decode_answer(self, ids: Sequence[int]) -> str:
        """The text of generated token ids before the stop token."""
        answer = list(ids)
        if self.stop_token_id in answer:
            answer = answer[: answer.index(self.stop_token_id)]
        return str(self._tokenizer.decode(answer, skip_special_tokens=True))

    def _check_context(self, longest: int) -> None:
        limit = getattr(self._tokenizer, "model_max_length", None)
        if isinstance(limit, int) and longest > limit:
            raise UsageError(
                f"prompts would have up to {longest} tokens, more than the model's {limit}: lower "
                "prompt.max_length or show fewer examples"
            )

    def _tokenize_segments(self, segments: list[str]) -> tuple[list[int], list[list[int] | str]]:
        """Token ids before the example's first field, and the rest: field names and token ids in
        turn."""
        shots = self.rendering.shots
        prefix = self._with_start_token(self._tokenize_fixed(segments[0]))
        parts: list[list[int] | str] = []
        for mark, fixed in zip(segments[1::2], segments[2::2], strict=True):
            number, _, name = mark.partition(":")
            # Examples are the same in every prompt, so they belong to the shared prefix (KV cache).
            if int(number) < len(shots):
                prefix = (
                    prefix
                    + self.tokenize_text(shots[int(number)].inputs[name])
                    + self._tokenize_fixed(fixed)
                )
            else:
                parts += [name, self._tokenize_fixed(fixed)]
        if not parts[-1] and not any(isinstance(p, list) and p for p in parts):
            # The ids after the prefix must not be empty, even for an empty text.
            parts.insert(0, prefix[-1:])
            prefix = prefix[:-1]
        return prefix, parts

    def _with_start_token(self, prefix: list[int]) -> list[int]:
        """Token ids with the start token that the tokenizer adds, once."""
        bos = self._tokenizer.bos_token_id
        # Tried on an empty text, since not every tokenizer has an attribute for this.
        adds = self._tokenizer("").input_ids[:1] == [bos] if bos is not None else False
        # Chat templates often write the start token as text; others leave it to the tokenizer.
        if adds and prefix[:1] != [bos]:
            prefix = [bos, *prefix]
        if bos is not None and prefix[:2] == [bos, bos]:
            raise UsageError(
                "the prompt begins with two start-of-text tokens: remove the one in the template, "
                "or the one in the chat template"
            )
        return prefix

    def _tokenize_fixed(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def tokenize_text(self, text: str) -> list[int]:
        """Token ids of a field's text. Control tokens spelled in it become plain text."""
        return list(
            self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )

    def encode_answer(self, label: str) -> list[int]:
        """Token ids of an answer as generated after the prompt, without the stop token.

        Raises:
            UsageError: the text has no tokens.
        """
        if self.rendering.chat or self._tokenizer_adds_space():
            ids = self.tokenize_text(label)
        else:
            ids = self.tokenize_text(with_space(label))
        if not ids:
            raise UsageError(f"the answer '{label}' has no tokens under this model's tokenizer")
        return ids

    def _tokenizer_adds_space(self) -> bool:
        """Whether the tokenizer puts a space before the first word (SentencePiece)."""
        return str(self._tokenizer.convert_ids_to_tokens(self.tokenize_text("a"))[0]).startswith(
            "▁"
        )


def _two_longest(lengths: list[int]) -> tuple[int, int]:
    ordered = sorted(lengths, reverse=True)
    return ordered[0], ordered[1] if len(ordered) > 1 else 0
