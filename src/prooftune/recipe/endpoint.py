"""The recipe section of a model behind an OpenAI-compatible server."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from prooftune.recipe.base import Section

QUEUE_SECONDS, SLOWEST_TOKENS_PER_SECOND = 60.0, 5.0
"""Default time-out of a request: time to wait for its turn and read the prompt, and the rate of an
8B model with 4-bit weights on a CPU."""


def check_url(value: str | None) -> str | None:
    """Check the URL of an endpoint, which must hold no secret: recipes are shared and printed.

    Raises:
        ValueError: it is no HTTP URL, or has a password or a query.
    """
    if value is None:
        return None
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("expected a URL such as http://localhost:11434/v1")
    # A query may hold a key, too: `?api_key=…`.
    if url.username or url.password or url.query:
        raise ValueError(
            "the URL must not contain a key or password; name an environment variable in "
            "api_key_env"
        )
    return value


def _check_variable(value: str) -> str:
    # The value is not shown: it may be the key.
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(
            "expected the name of an environment variable, such as OPENAI_API_KEY; the key itself "
            "must not be in a recipe"
        )
    return value


EnvironmentVariable = Annotated[str, AfterValidator(_check_variable)]
"""Name of an environment variable; its value is in no file."""


class Price(Section):
    input: float = Field(ge=0)
    """Price of a million input tokens."""
    output: float = Field(ge=0)
    """Price of a million output tokens."""
    currency: str = "USD"
    """Currency of the prices and of ``budget.money``."""


class SpendingLimit(Section):
    requests: int | None = Field(default=None, gt=0)
    """Maximum number of requests, retries included. Default: no limit."""
    tokens: int | None = Field(default=None, gt=0)
    """Maximum number of tokens, input and output. Default: no limit."""
    money: float | None = Field(default=None, gt=0)
    """Maximum cost, in the currency of ``price``. Default: no limit."""


class Endpoint(Section):
    """A model behind an OpenAI-compatible server, for ``kind: endpoint``."""

    model: str = Field(min_length=1)
    """Model name at the endpoint."""
    base_url: str
    """URL of the server: ``https://api.openai.com/v1``, ``http://localhost:11434/v1`` (Ollama), a
    vLLM or llama.cpp server."""
    api_key_env: EnvironmentVariable | None = None
    """Environment variable that holds the API key. Default: no key."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature. 0: greedy decoding."""
    max_tokens: int = Field(default=64, gt=0)
    """Maximum tokens per reply, reasoning included."""
    logprobs: Literal["auto", "never"] = "auto"
    """Label probabilities: ``auto`` takes them from the log-probabilities of the reply's tokens,
    where the server gives them; ``never`` parses the label from the text."""
    price: Price | None = None
    """Prices. Default: cost is not computed."""
    budget: SpendingLimit = SpendingLimit()
    """Limits of all runs of a run folder. A run stops before the request that would exceed one, and
    keeps the replies it has. Default: no limits."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds per request. Default: 60, and one second for every 5 tokens of `max_tokens`."""
    deadline: float = Field(default=86400.0, gt=0)
    """Seconds for all requests of one run."""
    retries: int = Field(default=5, ge=0)
    """Number of retries after a timeout, a lost connection, or status 408, 429 or 5xx."""
    concurrency: int = Field(default=8, gt=0, le=256)
    """Number of concurrent requests."""

    @property
    def request_seconds(self) -> float:
        """Seconds that one request may take."""
        if self.timeout is not None:
            return self.timeout
        return QUEUE_SECONDS + self.max_tokens / SLOWEST_TOKENS_PER_SECOND

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str | None:
        return check_url(value)

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        if self.budget.money is not None and self.price is None:
            raise ValueError(
                "budget.money needs the prices of the model: price: {input: …, output: …} per "
                "million tokens"
            )
        return self
