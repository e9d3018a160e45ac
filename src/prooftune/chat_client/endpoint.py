"""Requests to an OpenAI-compatible endpoint with time and size limits, and retries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from prooftune.chat_client.api_key import ApiKey, read_api_key
from prooftune.chat_client.budget import Budget, BudgetExceeded, Reservation
from prooftune.chat_client.failures import (
    CONNECTION_LOST,
    DEADLINE_REACHED,
    NO_CONNECTION,
    RESPONSE_TOO_LONG,
    TIMED_OUT,
    UNBILLED,
    RequestFailed,
)
from prooftune.chat_client.parameters import RequestParameters
from prooftune.chat_client.refusals import status_error, was_unsent
from prooftune.chat_client.responses import parse_completion, parse_logprobs, token_count
from prooftune.chat_client.types import ChatRequest, EndpointSettings, Reply
from prooftune.errors import UsageError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

FIRST_BACKOFF, MAX_BACKOFF = 0.5, 30.0
"""Seconds: the wait before retry i is uniform in 0 to ``FIRST_BACKOFF * 2**i``, at most
`MAX_BACKOFF`."""
MAX_RETRY_AFTER = 300.0
"""Seconds: a longer ``Retry-After`` ends the retries."""
MAX_OVERHEAD_BYTES = 65_536
"""Bytes that a response may have in addition to those of its tokens."""
BYTES_PER_TOKEN = 64
SETTLE_SECONDS = 0.02
"""Seconds between two looks at what requests on the way have left of a budget."""
LOGPROB_BYTES = 128
"""Bytes of one alternative's log-probability in a response."""
PROBE_SECONDS = 2.0
"""Seconds that requests wait for the first one, which shows what the endpoint refuses. Refusals
come before a reply is computed, so a slow model does not hold up the others for longer."""


class Endpoint:
    """An endpoint with its connections, API key and deadline, for one event loop; no text ever
    shows the key.

    Attributes:
        stop: once set, nothing more is sent.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        section: str,
        key: ApiKey,
        certificates: ssl.SSLContext,
        budget: Budget | None = None,
        parameters: RequestParameters | None = None,
    ) -> None:
        self.settings, self.section, self.key = settings, section, key
        self.stop = asyncio.Event()
        self._certificates, self._budget = certificates, budget
        self._deadline = time.monotonic() + settings.deadline
        self._client: AsyncOpenAI | None = None
        self._parameters = parameters or RequestParameters()
        self._probing, self._probed = False, asyncio.Event()

    async def __aenter__(self) -> Self:
        import openai

        self._client = openai.AsyncOpenAI(
            base_url=self.settings.base_url,
            api_key=self.key.value,
            # The client's own retries know nothing of our deadline.
            max_retries=0,
            timeout=self.settings.request_seconds,
            http_client=openai.DefaultAsyncHttpxClient(verify=self._certificates),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def complete(
        self, request: ChatRequest, store: Callable[[Reply], None] | None = None
    ) -> Reply:
        """The endpoint's reply, or the reason of the failure after all retries.

        Retries use exponential backoff with full jitter (M. Brooker, "Exponential backoff and
        jitter", 2015). A parameter that the endpoint refuses by name is left out from then on.

        Args:
            request: to send.
            store: keeps a reply, in a thread, before its request is settled with the budget.

        Raises:
            UsageError: the endpoint does not know the address or model, or refuses the key.
            BudgetExceeded: the request could exceed the budget.
        """
        await self._wait_for_probe()
        try:
            return await self._with_retries(request, store)
        finally:
            self._probed.set()

    async def _wait_for_probe(self) -> None:
        """Let one request learn first what the endpoint refuses: it would refuse all of them."""
        if self._parameters.accepted:
            return
        if not self._probing:
            self._probing = True
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._probed.wait(), PROBE_SECONDS)

    async def _with_retries(
        self, request: ChatRequest, store: Callable[[Reply], None] | None
    ) -> Reply:
        failure = RequestFailed(DEADLINE_REACHED)
        number = 0
        while number <= self.settings.retries:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0 or self.stop.is_set():
                break
            left_out = set(self._parameters.refused)
            seconds = min(self.settings.request_seconds, remaining)
            try:
                return await self._attempt(request, seconds, store)
            except RequestFailed as attempt:
                failure = attempt
            if self._parameters.leave_out(failure, left_out):
                # No retry: the next attempt has other parameters. Each is refused once at most, so
                # this ends.
                continue
            wait = max(failure.wait, random.uniform(0, min(MAX_BACKOFF, FIRST_BACKOFF * 2**number)))
            remaining = self._deadline - time.monotonic()
            if (
                not failure.retry
                or number == self.settings.retries
                or failure.wait > min(MAX_RETRY_AFTER, remaining)
            ):
                break
            # Waits on the event instead of sleeping, so that the end of the run ends the wait.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), max(0.0, min(wait, remaining)))
            number += 1
        return Reply("", failure=failure.reason, detail=self.key.mask(failure.detail))

    async def _attempt(
        self, request: ChatRequest, seconds: float, store: Callable[[Reply], None] | None
    ) -> Reply:
        """Send a request once, store its reply, and settle it with the budget."""
        if self._budget is None:
            reply = await self._send(request, seconds)
            await self._keep(reply, store)
            return reply
        bound = await self._reserve(self._budget, request)
        # Unknown usage (a time-out, a broken reply, a cancelled request) counts as the bound.
        used: tuple[int | None, int | None] = None, None
        refused = False
        try:
            reply = await self._send(request, seconds)
            used = reply.prompt_tokens, reply.completion_tokens
            # Before it is settled: a kill in between costs the difference to the bound, no reply.
            await self._keep(reply, store)
            return reply
        except RequestFailed as failure:
            refused = failure.reason in UNBILLED
            raise
        except UsageError:
            refused = True
            raise
        finally:
            if refused:
                self._budget.settle_refused(bound)
            else:
                self._budget.settle(bound, *used)

    async def _keep(self, reply: Reply, store: Callable[[Reply], None] | None) -> None:
        self._parameters.accepted = True
        if store is not None:
            # In a thread: the disk may be slow, and the time limits of the other requests go on.
            await asyncio.to_thread(store, reply)

    async def _reserve(self, budget: Budget, request: ChatRequest) -> Reservation:
        """Reserve the request's upper bound; wait for requests on the way, which use less."""
        ended = -1
        while True:
            # Only the end of another request gives back a part of its reservation.
            if budget.ended != ended:
                ended = budget.ended
                try:
                    if not budget.must_wait:
                        return budget.reserve(request, self.settings.max_tokens)
                except BudgetExceeded:
                    if not budget.on_the_way:
                        raise
            await asyncio.sleep(SETTLE_SECONDS)

    async def _send(self, request: ChatRequest, seconds: float) -> Reply:
        import httpx2
        import openai

        # asyncio.timeout limits the whole request; the client's own timeout only limits the gap
        # between two bytes, which a server that drips bytes never reaches.
        try:
            async with asyncio.timeout(seconds):
                return await self._read_reply(request)
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException) as error:
            reason = NO_CONNECTION if was_unsent(error) else TIMED_OUT
            raise RequestFailed(reason, retry=True) from None
        except openai.APIStatusError as error:
            raise status_error(error, self.settings, self.section, self.key) from None
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            reason = NO_CONNECTION if was_unsent(error) else CONNECTION_LOST
            raise RequestFailed(reason, retry=True, detail=str(error.__cause__ or error)) from None

    async def _read_reply(self, request: ChatRequest) -> Reply:
        if self._client is None:
            raise RuntimeError("the endpoint is not open")
        client: Any = self._client
        started = time.perf_counter()
        limit = MAX_OVERHEAD_BYTES + self.settings.max_tokens * (
            BYTES_PER_TOKEN + LOGPROB_BYTES * request.get("top_logprobs", 0)
        )
        streamed = client.chat.completions.with_streaming_response.create(
            model=self.settings.model,
            messages=request["messages"],
            **self._parameters.values(request, self.settings),
        )
        async with streamed as response:
            body = bytearray()
            async for chunk in response.iter_bytes():
                body += chunk
                if len(body) > limit:
                    raise RequestFailed(RESPONSE_TOO_LONG)
        text, cut = parse_completion(bytes(body))
        content: dict[str, Any] = json.loads(body)
        usage = content.get("usage")
        # Not every server reports its usage.
        usage = usage if isinstance(usage, dict) else {}
        return Reply(
            self.key.mask(text),
            cut,
            prompt_tokens=token_count(usage.get("prompt_tokens")),
            completion_tokens=token_count(usage.get("completion_tokens")),
            logprobs=parse_logprobs(content["choices"][0]),
            seconds=time.perf_counter() - started,
        )


def open_endpoint(
    settings: EndpointSettings,
    section: str,
    budget: Budget | None = None,
    parameters: RequestParameters | None = None,
) -> Endpoint:
    """The endpoint of the settings, whose deadline runs from now.

    Args:
        settings: of the endpoint.
        section: the recipe's section with the settings, for messages.
        budget: limits of all requests.
        parameters: what is known of the endpoint's refusals.

    Raises:
        UsageError: the openai client is not installed, or the key is missing.
    """
    if find_spec("openai") is None:
        raise UsageError(
            f"{section}.base_url needs the openai client: pip install 'prooftune[judge]'"
        )
    import httpx2

    # Loading the certificates takes longer than the rest of a request, so they are shared.
    key = read_api_key(settings, section)
    return Endpoint(settings, section, key, httpx2.create_ssl_context(), budget, parameters)
