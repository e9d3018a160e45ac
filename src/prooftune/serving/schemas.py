"""Request and response models of the HTTP API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("contains an unpaired surrogate, which UTF-8 cannot encode") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Row = Text | dict[Text, Text]
ModelName = Annotated[
    Text | None,
    Field(
        max_length=200,
        description="A model id from /v1/models; NAME:base is the untuned base model of NAME. "
        "Optional if only one bundle for this task is served.",
    ),
]


_LABEL_THRESHOLD = (
    "The probability from which a label is given; null for bundles of one label per text."
)


class StrictRequest(BaseModel):
    """Base of requests: unknown fields are errors, so that a misspelt option is not ignored."""

    model_config = ConfigDict(extra="forbid")


class ClassifyRequest(StrictRequest):
    """Texts to classify."""

    model: ModelName = None
    texts: Annotated[
        list[Row],
        Field(
            min_length=1,
            description="Strings if the bundle has one text field; otherwise objects with "
            "the bundle's fields.",
            examples=[["What a film!"]],
        ),
    ]
    explain: Annotated[
        bool, Field(description="For a single text: attribute the label to the words.")
    ] = False


class WordAttribution(BaseModel):
    """The attribution of a segment of the text: its effect on the label."""

    field: str
    text: Annotated[
        str,
        Field(description="The segment with its whitespace; joined segments are the field's text."),
    ]
    change: Annotated[
        float,
        Field(description="Decrease of the label's log-probability (nats) without this segment."),
    ]


class LabelResult(BaseModel):
    """The predicted label of a text."""

    label: Annotated[str, Field(description="Empty if the generated text names no label.")]
    probability: float | None
    probabilities: dict[str, float]
    abstained: Annotated[
        bool | None,
        Field(
            description="Whether the probability is below the threshold; null without a threshold."
        ),
    ]
    truncated_tokens: Annotated[
        int, Field(description="Tokens that were cut off because the text was too long.")
    ]


class LabelSetResult(LabelResult):
    """The predicted labels of a text that may have several; ``label`` is their JSON list."""

    labels: Annotated[
        list[str],
        Field(description="Labels whose own probability is at least the threshold; may be empty."),
    ]


class ClassifyResponse(BaseModel):
    model: str
    labels: list[str]
    threshold: Annotated[
        float | None, Field(description="The probability below which the bundle abstains.")
    ]
    label_threshold: Annotated[float | None, Field(description=_LABEL_THRESHOLD)] = None
    results: list[LabelSetResult | LabelResult]
    words: Annotated[
        list[WordAttribution] | None,
        Field(
            description="With explain: leave-one-out changes of the label's log-probability; "
            "null for bundles that give no probabilities. Bundles of several labels per text "
            "refuse it."
        ),
    ] = None


class AnswerRequest(StrictRequest):
    """Questions to answer."""

    model: ModelName = None
    questions: Annotated[
        list[Row],
        Field(
            min_length=1,
            description="Strings if the question is the bundle's only field; otherwise "
            "objects with the bundle's fields.",
            examples=[["How long is data kept?"]],
        ),
    ]


class Passage(BaseModel):
    """A retrieved passage, as given to the model."""

    number: Annotated[int, Field(description="Number in citations, from 1.")]
    document: str
    page: int | None
    section: str | None
    text: str
    cited: bool


class AnswerResult(BaseModel):
    """The answer to a question."""

    answer: Annotated[str, Field(description="Without its citations; empty if there is no answer.")]
    sources: Annotated[
        list[Passage],
        Field(description="The retrieved passages that the answer cites."),
    ]
    retrieved: Annotated[list[Passage], Field(description="All retrieved passages, best first.")]
    unknown_citations: Annotated[
        int, Field(description="Number of citations of passages that were not retrieved; omitted.")
    ]
    truncated_tokens: int


class AnswerResponse(BaseModel):
    model: str
    results: list[AnswerResult]


class ModelInfo(BaseModel):
    """Prooftune's metadata of a model."""

    task: str
    fields: list[str]
    labels: list[str]
    tuned: bool
    base: Annotated[str, Field(description="The base model's name.")]
    base_id: Annotated[
        str | None, Field(description="The id of the untuned base model on this server.")
    ]
    no_base: Annotated[str | None, Field(description="The reason why no base model is served.")]
    probabilities: bool
    threshold: float | None
    threshold_accuracy: Annotated[
        float | None,
        Field(description="Accuracy above the threshold on the study's test examples."),
    ] = None
    label_threshold: Annotated[float | None, Field(description=_LABEL_THRESHOLD)] = None
    retrieves: bool


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "prooftune"
    prooftune: ModelInfo


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """An error, in OpenAI's format."""

    error: ErrorDetail


class Part(BaseModel):
    """A part of a message; only text is supported."""

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """OpenAI's chat completion request.

    The bundle's own prompt is used and decoding is greedy, so sampling options have no effect.
    """

    model: Annotated[Text, Field(max_length=200)]
    messages: Annotated[
        list[ChatMessage],
        Field(
            min_length=1,
            description="The last user message is the input. Earlier messages are ignored, except "
            "by bundles that were trained on conversations.",
        ),
    ]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    tools: list[Any] | None = None
    logprobs: bool | None = False


class CompletionMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int = 0
    message: CompletionMessage
    finish_reason: Literal["stop"] = "stop"
    logprobs: None = None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    prooftune: Annotated[
        # The subclass first, or its labels would be dropped.
        LabelSetResult | LabelResult | AnswerResult,
        Field(description="The full result of /v1/classify or /v1/answer for the same text."),
    ]
