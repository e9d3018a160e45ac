"""How an example becomes a prompt: the description that is saved with the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Shot:
    """A few-shot example: inputs and answer."""

    inputs: dict[str, str]
    label: str


@dataclass(frozen=True, slots=True)
class Rendering:
    """Everything that determines the prompt of an example. Stored in the bundle as JSON.

    Attributes:
        template: text with ``{field}`` for inputs and ``{labels}`` for the label list.
        labels: the label names, in the study's order.
        system: system message; None: the chat template's default.
        chat: apply the tokenizer's chat template.
        max_length: tokens of prompt and target together, without few-shot examples.
        shots: few-shot examples.
        answer_tokens: tokens reserved for a generated answer; 0 where labels are scored.
        windowed: field that is split into overlapping windows if it is too long for one prompt;
            None: long fields are truncated.
        overlap: tokens that two consecutive windows share.
        labels_once: list the labels in the first message only; the others say "the labels above".
            With many labels, few-shot examples would otherwise repeat a long list.
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
    labels_once: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Rendering:
        shots = tuple(Shot(dict(s["inputs"]), s["label"]) for s in value["shots"])
        return Rendering(**{**value, "labels": tuple(value["labels"]), "shots": shots})


def label_list(rendering: Rendering, number: int) -> str:
    """The labels as message `number` (0: the first) names them."""
    if rendering.labels_once and number:
        return "the labels above"
    return ", ".join(rendering.labels)


def completion_cue(template: str) -> str:
    """The template with the cue for the answer, as prompts without chat markup have it.

    A template that ends in its own cue ("### Response:") needs no "Answer:".
    """
    return template if template.rstrip().endswith(":") else f"{template}\nAnswer:"


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Token ids of one prompt.

    Attributes:
        token_ids: ids after the encoder's `prefix`; never empty.
        truncated_tokens: tokens of the inputs that were truncated to fit `max_length`.
        window_ids: ids of the windowed field in this prompt; empty if no field is windowed.
        earlier_answers: (start, end) in `token_ids` of the assistant's earlier turns with their
            stop tokens, which are trained like the answer itself.
    """

    token_ids: list[int]
    truncated_tokens: int
    window_ids: list[int] = field(default_factory=list)
    earlier_answers: list[tuple[int, int]] = field(default_factory=list)


TokenPair = (
    tuple[Sequence[int], Sequence[int]]
    | tuple[Sequence[int], Sequence[int], Sequence[tuple[int, int]]]
)
"""Token ids of a prompt and its target, and spans of earlier answers in the prompt."""
