"""Requests, replies and settings of a chat endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, Protocol, TypedDict


class Message(TypedDict):
    """One turn of a conversation in the chat completions protocol."""

    role: str
    content: str


class ChatRequest(TypedDict):
    """A request, without the settings of the endpoint.

    Attributes:
        messages: the conversation.
        top_logprobs: number of alternatives of each generated token whose log-probabilities are
            asked for.
    """

    messages: list[Message]
    top_logprobs: NotRequired[int]


class TokenAlternatives(TypedDict):
    """One generated token.

    Attributes:
        token: the generated text.
        alternatives: text -> log-probability in nats, the generated token included.
    """

    token: str
    alternatives: dict[str, float]


@dataclass(frozen=True, slots=True)
class Reply:
    """The endpoint's reply to one conversation.

    Attributes:
        text: the reply; empty on failure.
        truncated: whether the token limit stopped it.
        failure: reason of a failed request, from a small fixed set; empty on success.
        detail: the endpoint's message on a failure.
        cached: whether it comes from the cache.
        prompt_tokens, completion_tokens: as the endpoint counts them; None if it does not.
        logprobs: of the generated tokens; None if the endpoint gives none.
        seconds: time of the successful attempt.
    """

    text: str
    truncated: bool = False
    failure: str = ""
    detail: str = ""
    cached: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: Sequence[TokenAlternatives] | None = None
    seconds: float = 0.0


class EndpointSettings(Protocol):
    """Settings of an endpoint, a section of the recipe."""

    @property
    def model(self) -> str:
        """Name of the model at the endpoint."""

    @property
    def base_url(self) -> str | None:
        """URL, which usually ends in /v1."""

    @property
    def api_key_env(self) -> str | None:
        """Environment variable that holds the API key; None: no key."""

    @property
    def temperature(self) -> float:
        """Sampling temperature."""

    @property
    def max_tokens(self) -> int:
        """Maximum tokens of a reply."""

    @property
    def request_seconds(self) -> float:
        """Seconds that one attempt may take."""

    @property
    def deadline(self) -> float:
        """Seconds for all requests."""

    @property
    def retries(self) -> int:
        """Number of retries of a request."""

    @property
    def concurrency(self) -> int:
        """Number of concurrent requests."""
