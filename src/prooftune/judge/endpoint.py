"""One request to an OpenAI-compatible endpoint, with a hard limit on its time and size, repeated
where that can help."""

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
"""Seconds: the first pause before a repetition is drawn from 0 to `FIRST_WAIT`, each next one from
twice as many."""
MAX_RETRY_AFTER = 300.0
"""Seconds: who asks to be left alone for longer is not waited for."""
MAX_OVERHEAD_BYTES = 65_536
"""Bytes of a response besides those of the tokens in it."""
BYTES_PER_TOKEN = 64
_MIN_KEY_LENGTH = 8
"""Characters from which a key is looked for in texts: ``none`` and ``EMPTY`` are words and no
secrets."""

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
    """A request that brought no words: why, whether to try again, and how many seconds the endpoint
    wants to be left alone."""

    def __init__(
        self, reason: str, again: bool = False, wait: float = 0.0, detail: str = ""
    ) -> None:
        super().__init__(reason)
        self.reason, self.again, self.wait, self.detail = reason, again, wait, detail


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom to ask, with which key (kept out of every text and representation), trusting which
    certificates, until when."""

    settings: Judge
    key: _Key
    certificates: ssl.SSLContext
    deadline: float
    stop: threading.Event

    def complete(self, messages: list[Message]) -> Reply:
        """The endpoint's words, or the reason why there are none after all repetitions.

        Waits between repetitions grow exponentially with full jitter (M. Brooker, "Exponential
        backoff and jitter", 2015).

        Raises:
            UsageError: the endpoint knows no such address or model, or refuses the key.
        """
        failure = RequestFailed(DEADLINE_REACHED)
        for number in range(self.settings.retries + 1):
            left = self.deadline - time.monotonic()
            if left <= 0 or self.stop.is_set():
                break
            try:
                return asyncio.run(self._once(messages, min(self.settings.timeout, left)))
            except RequestFailed as attempt:
                failure = attempt
            wait = max(failure.wait, random.uniform(0, min(MAX_BACKOFF, FIRST_BACKOFF * 2**number)))
            left = self.deadline - time.monotonic()
            if (
                not failure.again
                or number == self.settings.retries
                or failure.wait > min(MAX_RETRY_AFTER, left)
            ):
                break
            self.stop.wait(min(wait, left))
        return Reply("", failure=failure.reason, detail=self.key.hidden_in(failure.detail))

    async def _once(self, messages: list[Message], seconds: float) -> Reply:
        import httpx2
        import openai

        # Cancelling covers all of it: a server that drips one byte a second never runs into a limit
        # between two bytes.
        try:
            async with (
                asyncio.timeout(seconds),
                openai.AsyncOpenAI(
                    base_url=self.settings.base_url,
                    api_key=self.key.value,
                    max_retries=0,
                    timeout=seconds,
                    http_client=openai.DefaultAsyncHttpxClient(verify=self.certificates),
                ) as client,
            ):
                return await self._words(client, messages)
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException):
            raise RequestFailed(TIMED_OUT, again=True) from None
        except openai.APIStatusError as error:
            raise self._refusal(
                error.response.status_code, error.response.headers.get("retry-after"), error.body
            ) from None
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise RequestFailed(
                NO_CONNECTION, again=True, detail=str(error.__cause__ or error)
            ) from None

    async def _words(self, client: Any, messages: list[Message]) -> Reply:
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
        return Reply(self.key.hidden_in(text), cut)

    def _refusal(self, status: int, retry_after: str | None, body: object) -> RequestFailed:
        said = self.key.hidden_in(_message(body))
        if status in (401, 403):
            key = (
                f"the key in ${self.settings.api_key_env}"
                if self.settings.api_key_env
                else "requests without a key"
            )
            raise UsageError(
                f"judge: {self.settings.base_url} refuses {key} (status {status}: "
                f"{said or 'no reason given'}). "
                "Put a valid key into an environment variable and name it in judge.api_key_env"
            )
        if status in (404, 405):
            raise UsageError(
                f"judge: {self.settings.base_url} offers no chat completions of "
                f"'{self.settings.model}' (status "
                f"{status}: {said or 'no reason given'}). Check judge.base_url, which mostly ends "
                "in /v1, and "
                "judge.model"
            )
        reason = RATE_LIMITED if status == 429 else SERVER_ERROR if status >= 500 else CLIENT_ERROR
        return RequestFailed(
            reason,
            status in (408, 409, 429) or status >= 500,
            _seconds(retry_after),
            f"status {status}: {said}",
        )


def open_endpoint(settings: Judge, stop: threading.Event) -> Endpoint:
    """The endpoint of the settings, whose deadline runs from now; it stops repeating itself once
    `stop` is set.

    Raises:
        UsageError: the openai client is not installed, or the key is missing.
    """
    if find_spec("openai") is None:
        raise UsageError("judge.base_url needs the openai client: pip install 'prooftune[judge]'")
    import httpx2

    # Reading the certificates takes longer than all else of a request, so they are shared.
    return Endpoint(
        settings,
        read_api_key(settings),
        httpx2.create_ssl_context(),
        time.monotonic() + settings.deadline,
        stop,
    )


class _Key:
    """An API key that no representation, log or message shows."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"

    def hidden_in(self, text: str) -> str:
        """The text without the key, which a server may repeat."""
        return text.replace(self.value, "***") if len(self.value) >= _MIN_KEY_LENGTH else text


def read_api_key(settings: Judge) -> _Key:
    """The key from the environment variable that the settings name.

    Raises:
        UsageError: the variable is not set, empty, or holds what no header can carry.
    """
    if settings.api_key_env is None:
        return _Key("none")
    value = os.environ.get(settings.api_key_env, "").strip()
    if not value:
        raise UsageError(
            f"judge.api_key_env: the environment variable {settings.api_key_env} is not set. Set "
            "it to the key of "
            f"{settings.base_url}, or leave api_key_env out if that wants none"
        )
    if not (value.isascii() and value.isprintable()):
        raise UsageError(
            f"judge.api_key_env: {settings.api_key_env} holds characters that no key has"
        )
    return _Key(value)


def parse_completion(body: bytes) -> tuple[str, bool]:
    """The text of the first choice of a chat completion, and whether the token limit cut it off.

    Raises:
        Attempt: the body is no such completion.
    """
    try:
        first = json.loads(body)["choices"][0]
        content = first["message"]["content"]
    except IndexError:
        raise RequestFailed(NO_CHOICES) from None
    except (KeyError, TypeError):
        raise RequestFailed(WRONG_SHAPE, detail=_start(body)) from None
    except (ValueError, RecursionError):
        raise RequestFailed(NOT_JSON, detail=_start(body)) from None
    # None at all: a reasoning model that spent all its tokens on thinking.
    if not isinstance(content, str | None):
        raise RequestFailed(WRONG_SHAPE, detail=_start(body))
    # Half a surrogate pair, which JSON can write, is nothing that a file can hold.
    return (content or "").encode("utf-8", "replace").decode(), first.get(
        "finish_reason"
    ) == "length"


def _start(body: bytes) -> str:
    return " ".join(body[:200].decode("utf-8", "replace").split())


def _message(body: object) -> str:
    """What an error response says, in a line."""
    inner = body.get("message", body) if isinstance(body, dict) else body
    return " ".join(str(inner or "").split())[:200]


def _seconds(retry_after: str | None) -> float:
    """The header as seconds (RFC 9110, 10.2.3: a number, or a date); 0 where it is missing or
    wrong."""
    if not retry_after:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        date = email.utils.parsedate_tz(retry_after)
        return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else 0.0
