"""The plain description of how an example becomes a prompt: what is saved with the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Shot:
    """An example shown in the prompt with its answer."""

    inputs: dict[str, str]
    label: str


@dataclass(frozen=True, slots=True)
class Rendering:
    """Everything that decides how an example becomes a prompt; kept in the bundle as JSON.

    Attributes:
        template: text with ``{field}`` for inputs and ``{labels}`` for the label list.
        labels: the label names, in the study's order.
        system: system message, None for the chat template's own default.
        chat: whether the tokenizer's chat template wraps the prompt.
        max_length: tokens of prompt and target together, shown examples not counted.
        shots: examples shown before the question.
        answer_tokens: tokens kept free for an answer that is written; 0 where labels are compared.
        windowed: the field that is read in several parts where it is too long for one prompt, each
            with all else of the prompt; None: it is shortened.
        overlap: tokens that two neighbouring parts share.
    """

    template: str
    labels: tuple[str, ...]
    system: str | None = None
    chat: bool = True
    max_length: int = 512
    shots: tuple[Shot, ...] = field(default=())
    answer_tokens: int = 0
    windowed: str | None = None
    overlap: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Rendering:
        shots = tuple(Shot(dict(s["inputs"]), s["label"]) for s in value["shots"])
        return Rendering(**{**value, "labels": tuple(value["labels"]), "shots": shots})


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Token ids of one prompt.

    Attributes:
        row: ids that follow the encoder's `prefix`; never empty.
        truncated: tokens of the inputs that were cut to fit `max_length`.
        window: ids of the windowed field that stand in the row; none where no field is windowed.
    """

    token_ids: list[int]
    truncated_tokens: int
    window_ids: list[int] = field(default_factory=list)
