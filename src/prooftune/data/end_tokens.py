"""End tokens that other tools' training files spell out after every answer."""

from __future__ import annotations

import re

_END_TOKEN = re.compile(
    r"\s*(</s>|<eos>|<end_of_turn>|<\|(endoftext|end_of_text|eot_id|im_end|end)\|>)\s*$"
)


def without_end_token(answer: str) -> str:
    """The answer without an end token of a common tokenizer at its end.

    Completions of LLaMA-Factory and TRL bring it as text. The trainer here adds the model's own, so
    that the text would be learned, and scored, as a part of the answer.
    """
    return _END_TOKEN.sub("", answer)
