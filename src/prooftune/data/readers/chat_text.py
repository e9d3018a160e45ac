"""Conversations that a chat template has rendered as text -> their turns."""

from __future__ import annotations

import re

_ROLE = r"(?P<role>[A-Za-z_]+)"
_TURNS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        rf"<\|im_start\|>{_ROLE}\n(?P<text>.*?)(?:<\|im_end\|>|\Z)",  # ChatML
        # Llama 3
        rf"<\|start_header_id\|>{_ROLE}<\|end_header_id\|>(?P<text>.*?)(?:<\|eot_id\|>|\Z)",
        rf"<start_of_turn>{_ROLE}\n(?P<text>.*?)(?:<end_of_turn>|\Z)",  # Gemma
        # Zephyr and Phi: the end token differs, and the next turn ends a text, too.
        r"<\|(?P<role>system|user|assistant)\|>(?P<text>.*?)"
        r"(?=<\|(?:system|user|assistant|end|endoftext)\|>|</s>|\Z)",
    )
)
_LLAMA_2 = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=</s>|<s>|\[INST\]|\Z)", re.DOTALL)
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_MARKERS = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|user\|>|\[/INST\]"
    r"|^(USER|Human|### (Instruction|Human)): .*?(ASSISTANT|Assistant|### (Response|Assistant)):",
    re.DOTALL | re.MULTILINE,
)


def is_rendered(text: str) -> bool:
    """Whether a text holds the markers of a chat template."""
    return bool(_MARKERS.search(text[:20_000]))


def turns_of_text(text: str) -> list[dict[str, str]] | None:
    """The turns of a conversation in ChatML or the templates of Llama, Gemma, Zephyr and Phi, each
    with role and content; None for any other text."""
    for pattern in _TURNS:
        turns = [(match["role"], match["text"]) for match in pattern.finditer(text)]
        if turns:
            return [{"role": role, "content": said.strip()} for role, said in turns]
    rendered = []
    for asked, answered in _LLAMA_2.findall(text):
        system = _SYSTEM.match(asked)
        said = [("system", system[1])] if system else []
        said += [("user", asked[system.end() :] if system else asked), ("assistant", answered)]
        rendered += [{"role": role, "content": part.strip()} for role, part in said]
    return rendered or None
