"""Requests to an OpenAI-compatible endpoint with time and size limits, and retries."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import ssl
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from prooftune.errors import UsageError
from prooftune.judge.types import Message, Reply

if TYPE_CHECKING:
    from prooftune.recipe.judge import Judge

FIRST_BACKOFF, MAX_BACKOFF = 0.5, 30.0
"""Seconds: the wait before retry i is uniform in 0 to ``FIRST_BACKOFF * 2**i``, at most
`MAX_BACKOFF`."""
MAX_RETRY_AFTER = 300.0
"""Seconds: a longer ``Retry-After`` ends the retries."""
MAX_OVERHEAD_BYTES = 65_536
"""Bytes that a response may have in addition to those of its tokens."""
BYTES_PER_TOKEN = 64
_MIN_KEY_LENGTH = 8
"""Shorter keys, such as ``none`` and ``EMPTY``, are placeholders and not masked in texts."""

TIMED_OUT, DEADLINE_REACHED, NO_CONNECTION, RESPONSE_TOO_LONG = (
    "timed out",
    "deadline reached",
    "no connection",
    "response without end",
)
NOT_JSON, NO_CHOICES, WRONG_SHAPE = (
    "response is not JSON",
    "response without choices",
    "response of another shape",
)
RATE_LIMITED, SERVER_ERROR, CLIENT_ERROR = (
    "rate limit (429)",
    "server error (5xx)",
    "request refused (4xx)",
)


class RequestFailed(Exception):
    """A failed request.

    Attributes:
        reason: from a small fixed set.
        retry: whether a retry may help.
        wait: seconds that the endpoint asks to wait.
        detail: the endpoint's message.
    """

    def __init__(
        self, reason: str, retry: bool = False, wait: float = 0.0, detail: str = ""
    ) -> None:
        super().__init__(reason)
        self.reason, self.retry, self.wait, self.detail = reason, retry, wait, detail


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint with its API key, certificates and deadline; no text ever shows the key."""

    settings: Judge
    key: ApiKey
    certificates: ssl.SSLContext
    deadline: float
    stop: threading.Event

    def complete(self, messages: list[Message]) -> Reply:
        """The endpoint's reply, or the reason of the failure after all retries.

        Retries use exponential backoff with full jitter (M. Brooker, "Exponential backoff and
        jitter", 2015).

        Raises:
            UsageError: the endpoint does not know the address or model, or refuses the key.
        """
        failure = RequestFailed(DEADLINE_REACHED)
        for number in range(self.settings.retries + 1):
            remaining = self.deadline - time.monotonic()
            if remaining <= 0 or self.stop.is_set():
                break
            try:
                return asyncio.run(
                    self._send(messages, min(self.settings.request_seconds, remaining))
                )
            except RequestFailed as attempt:
                failure = attempt
            wait = max(failure.wait, random.uniform(0, min(MAX_BACKOFF, FIRST_BACKOFF * 2**number)))
            remaining = self.deadline - time.monotonic()
            if (
                not failure.retry
                or number == self.settings.retries
                or failure.wait > min(MAX_RETRY_AFTER, remaining)
            ):
                break
            # Waits on the event instead of sleeping, so that the end of the run ends the wait.
            self.stop.wait(min(wait, remaining))
        return Reply("", failure=failure.reason, detail=self.key.mask(failure.detail))

    async def _send(self, messages: list[Message], seconds: float) -> Reply:
        import httpx2
        import openai

        # asyncio.timeout limits the whole request; the client's own timeout only limits the gap
        # between two bytes, which a server that drips bytes never reaches.
        try:
            async with (
                asyncio.timeout(seconds),
                openai.AsyncOpenAI(
                    base_url=self.settings.base_url,
                    api_key=self.key.value,
                    # The client's own retries know nothing of our deadline.
                    max_retries=0,
                    timeout=seconds,
                    http_client=openai.DefaultAsyncHttpxClient(verify=self.certificates),
                ) as client,
            ):
                return await self._read_reply(client, messages)
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException):
            raise RequestFailed(TIMED_OUT, retry=True) from None
        except openai.APIStatusError as error:
            raise self._status_error(
                error.response.status_code, error.response.headers.get("retry-after"), error.body
            ) from None
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise RequestFailed(
                NO_CONNECTION, retry=True, detail=str(error.__cause__ or error)
            ) from None

    async def _read_reply(self, client: Any, messages: list[Message]) -> Reply:
        settings = self.settings
        request = client.chat.completions.with_streaming_response.create(
            model=settings.model,
            messages=messages,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
        )
        async with request as response:
            body = bytearray()
            async for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_OVERHEAD_BYTES + BYTES_PER_TOKEN * settings.max_tokens:
                    raise RequestFailed(RESPONSE_TOO_LONG)
        text, cut = parse_completion(bytes(body))
        return Reply(self.key.mask(text), cut)

    def _status_error(self, status: int, retry_after: str | None, body: object) -> RequestFailed:
        message = self.key.mask(_error_message(body))
        if status in (401, 403):
            key = (
                f"the key in ${self.settings.api_key_env}"
                if self.settings.api_key_env
                else "requests without an API key"
            )
            raise UsageError(
                f"judge: {self.settings.base_url} refuses {key} (status {status}: "
                f"{message or 'no reason given'}). "
                "Put a valid key into an environment variable and name it in judge.api_key_env"
            )
        if status in (404, 405):
            raise UsageError(
                f"judge: {self.settings.base_url} offers no chat completions of "
                f"'{self.settings.model}' (status {status}: {message or 'no reason given'}). Check "
                "judge.base_url, which usually ends in /v1, and judge.model"
            )
        reason = RATE_LIMITED if status == 429 else SERVER_ERROR if status >= 500 else CLIENT_ERROR
        return RequestFailed(
            reason,
            status in (408, 409, 429) or status >= 500,
            _retry_after_seconds(retry_after),
            f"status {status}: {message}",
        )


def open_endpoint(settings: Judge, stop: threading.Event) -> Endpoint:
    """The endpoint of the settings, whose deadline runs from now; setting `stop` ends the
    retries.

    Raises:
        UsageError: the openai client is not installed, or the key is missing.
    """
    if find_spec("openai") is None:
        raise UsageError("judge.base_url needs the openai client: pip install 'prooftune[judge]'")
    import httpx2

    # Loading the certificates takes longer than the rest of a request, so they are shared.
    return Endpoint(
        settings,
        read_api_key(settings),
        httpx2.create_ssl_context(),
        time.monotonic() + settings.deadline,
        stop,
    )


class ApiKey:
    """An API key that no repr, log or message shows."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"

    def mask(self, text: str) -> str:
        """Mask the key in a text, which a server may echo."""
        return text.replace(self.value, "***") if len(self.value) >= _MIN_KEY_LENGTH else text


def read_api_key(settings: Judge) -> ApiKey:
    """Read the API key from the environment variable that the settings name.

    Raises:
        UsageError: the variable is missing or empty, or its value cannot go into an HTTP header.
    """
    if settings.api_key_env is None:
        return ApiKey("none")
    value = os.environ.get(settings.api_key_env, "").strip()
    if not value:
        raise UsageError(
            f"judge.api_key_env: the environment variable {settings.api_key_env} is not set. Set "
            "it to the key of "
            f"{settings.base_url}, or remove judge.api_key_env if it needs none"
        )
    if not (value.isascii() and value.isprintable()):
        raise UsageError(
            f"judge.api_key_env: {settings.api_key_env} holds characters that no API key has"
        )
    return ApiKey(value)


def parse_completion(body: bytes) -> tuple[str, bool]:
    """The text of the first choice of a chat completion, and whether the token limit truncated it.

    Raises:
        RequestFailed: the body is not a chat completion.
    """
    try:
        first = json.loads(body)["choices"][0]
        content = first["message"]["content"]
    except IndexError:
        raise RequestFailed(NO_CHOICES) from None
    except (KeyError, TypeError):
        raise RequestFailed(WRONG_SHAPE, detail=_excerpt(body)) from None
    except (ValueError, RecursionError):
        raise RequestFailed(NOT_JSON, detail=_excerpt(body)) from None
    # Content is None where a reasoning model spent all its tokens on thinking.
    if not isinstance(content, str | None):
        raise RequestFailed(WRONG_SHAPE, detail=_excerpt(body))
    # JSON can hold lone surrogates, which UTF-8 files cannot.
    return (content or "").encode("utf-8", "replace").decode(), first.get(
        "finish_reason"
    ) == "length"


def _excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode("utf-8", "replace").split())


def _error_message(body: object) -> str:
    """The message of an error response, on one line."""
    inner = body.get("message", body) if isinstance(body, dict) else body
    return " ".join(str(inner or "").split())[:200]


def _retry_after_seconds(retry_after: str | None) -> float:
    """Seconds of a ``Retry-After`` header (RFC 9110, 10.2.3: number or date); 0 if invalid."""
    if not retry_after:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        date = email.utils.parsedate_tz(retry_after)
        return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else 0.0
