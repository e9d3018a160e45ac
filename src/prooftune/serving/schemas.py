"""Requests and replies of the API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no text") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Row = Text | dict[Text, Text]
ModelName = Annotated[
    Text | None,
    Field(
        max_length=200,
        description="A name from /v1/models; NAME:base is the untuned model under it. Not needed "
        "where one bundle "
        "is served that does this task.",
    ),
]


class StrictRequest(BaseModel):
    """A request: what it does not know, it refuses, so that no misspelt option is lost."""

    model_config = ConfigDict(extra="forbid")


class ClassifyRequest(StrictRequest):
    """Texts to label."""

    model: ModelName = None
    texts: Annotated[
        list[Row],
        Field(
            min_length=1,
            description="Strings where the bundle reads one text; else objects with "
            "the bundle's fields.",
            examples=[["What a film!"]],
        ),
    ]
    explain: Annotated[
        bool, Field(description="For a single text: what each word does to the label.")
    ] = False


class WordAttribution(BaseModel):
    """A piece of the text, and what it does to the label."""

    field: str
    text: Annotated[
        str,
        Field(
            description="With the spaces around it; the pieces of a field give it back when joined."
        ),
    ]
    change: Annotated[
        float,
        Field(
            description="How much lower the label's log-probability (nats) is without this piece."
        ),
    ]


class LabelResult(BaseModel):
    """The label of one text."""

    label: Annotated[str, Field(description="Empty where generation gave no label.")]
    probability: float | None
    probabilities: dict[str, float]
    abstained: Annotated[
        bool | None,
        Field(
            description="Whether the probability is below the bundle's threshold; null without one."
        ),
    ]
    truncated_tokens: Annotated[
        int, Field(description="Tokens of the text that did not fit and were not read.")
    ]


class ClassifyResponse(BaseModel):
    model: str
    labels: list[str]
    threshold: Annotated[
        float | None, Field(description="The probability below which the bundle abstains.")
    ]
    results: list[LabelResult]
    words: Annotated[
        list[WordAttribution] | None,
        Field(
            description="With explain: leave-one-out changes of the label's log-probability; "
            "null for bundles that give no probabilities."
        ),
    ] = None


class AnswerRequest(StrictRequest):
    """Questions to answer."""

    model: ModelName = None
    questions: Annotated[
        list[Row],
        Field(
            min_length=1,
            description="Strings where the bundle reads nothing but the question; else "
            "objects with the bundle's fields.",
            examples=[["How long is data kept?"]],
        ),
    ]


class Passage(BaseModel):
    """A passage that was shown to the model."""

    number: Annotated[int, Field(description="By which the answer cites it, from 1.")]
    document: str
    page: int | None
    section: str | None
    text: str
    cited: bool


class AnswerResult(BaseModel):
    """The answer to one question."""

    answer: Annotated[str, Field(description="Without its citations; empty where there is none.")]
    sources: Annotated[
        list[Passage],
        Field(description="The passages that the answer cites, among those that were shown."),
    ]
    retrieved: Annotated[
        list[Passage], Field(description="All passages that were shown, best first.")
    ]
    unknown_citations: Annotated[
        int, Field(description="Citations of passages that were not shown; left out.")
    ]
    truncated_tokens: int


class AnswerResponse(BaseModel):
    model: str
    results: list[AnswerResult]


class ModelInfo(BaseModel):
    """What Prooftune knows of a model."""

    task: str
    fields: list[str]
    labels: list[str]
    tuned: bool
    base: Annotated[str, Field(description="The base model's name.")]
    base_id: Annotated[str | None, Field(description="The untuned model's id here.")]
    no_base: Annotated[str | None, Field(description="Why there is none.")]
    probabilities: bool
    threshold: float | None
    threshold_accuracy: Annotated[
        float | None,
        Field(description="Accuracy above the threshold on the study's test examples."),
    ] = None
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
    """Every refusal, in OpenAI's shape."""

    error: ErrorDetail


class Part(BaseModel):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """OpenAI's request. The bundle's own prompt is used and decoding is greedy, so sampling options
    have no effect."""

    model: Annotated[Text, Field(max_length=200)]
    messages: Annotated[
        list[ChatMessage],
        Field(
            min_length=1,
            description="The last user message is what is asked; bundles keep no conversation.",
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
        LabelResult | AnswerResult,
        Field(description="The whole reply of /v1/classify or /v1/answer to the same text."),
    ]
