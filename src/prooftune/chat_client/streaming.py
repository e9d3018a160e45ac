"""Replies to many requests as they arrive, over one connection pool."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial

from prooftune.chat_client.budget import Budget, BudgetExceeded
from prooftune.chat_client.endpoint import Endpoint, open_endpoint
from prooftune.chat_client.failures import CONNECTION_LOST, DEADLINE_REACHED, NO_CONNECTION
from prooftune.chat_client.parameters import RequestParameters
from prooftune.chat_client.types import ChatRequest, EndpointSettings, Reply

MAX_FAILED_CONNECTIONS = 8
"""Stop after this many requests that found no connection or lost it, retries included, if none ever
succeeded."""

Store = Callable[[str, Reply], None]
"""Keeps a reply by its key."""

_Item = tuple[str, Reply] | BaseException | None


def stream_replies(
    requests: Mapping[str, ChatRequest],
    settings: EndpointSettings,
    section: str,
    budget: Budget | None = None,
    *,
    store: Store | None = None,
    parameters: RequestParameters | None = None,
) -> Generator[tuple[str, Reply], None, None]:
    """Send requests concurrently and yield (key, reply) as they arrive.

    Closing the generator cancels the requests on the way.

    Args:
        requests: by key.
        settings: of the endpoint.
        section: the recipe's section with the settings, for messages.
        budget: limits; replies on the way when it is used up are still yielded.
        store: keeps a reply, in a thread, as soon as it arrives: a caller that takes the replies
            slowly, or is killed, loses none of them. Failed requests have none.
        parameters: what is known of the endpoint's refusals; learns more.

    Raises:
        UsageError: the client is not installed, the key is missing or refused, or the endpoint does
            not know the address or model.
        BudgetExceeded: after the last reply that the budget allowed.
    """
    endpoint = open_endpoint(settings, section, budget, parameters)
    runner = _Runner(endpoint, requests, settings.concurrency, store)
    runner.thread.start()
    try:
        # None ends the stream; an exception of the loop's thread is raised in the caller's.
        while (item := runner.results.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        runner.cancel()


class _Runner:
    """An event loop in a thread of its own: a notebook's thread already has one."""

    def __init__(
        self,
        endpoint: Endpoint,
        requests: Mapping[str, ChatRequest],
        concurrency: int,
        store: Store | None,
    ) -> None:
        self.results: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="chat-client", daemon=True)
        self._endpoint, self._requests, self._store = endpoint, requests, store
        self._concurrency = min(concurrency, len(requests))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._exceeded: BudgetExceeded | None = None
        # Requests without a whole connection so far; far below 0 once one succeeded.
        self._failed = 0
        self._last_failure = NO_CONNECTION

    def cancel(self) -> None:
        """Cancel everything and wait for the thread."""
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it has closed since
                loop.call_soon_threadsafe(task.cancel)
        self.thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:  # by `cancel`
            self.results.put(None)
        except BaseException as error:
            self.results.put(error)
        else:
            self.results.put(self._exceeded)

    async def _main(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        # One iterator for all workers: whichever is free takes the next request.
        pending = iter(self._requests.items())
        async with self._endpoint:
            workers = [asyncio.create_task(self._worker(pending)) for _ in range(self._concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                # After a failure or a cancellation, all must have ended before the loop closes.
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self, pending: Iterator[tuple[str, ChatRequest]]) -> None:
        for key, request in pending:
            if self._exceeded is not None:
                return
            store = None if self._store is None else partial(self._store, key)
            try:
                reply = await self._endpoint.complete(request, store)
            except BudgetExceeded as error:
                self._exceeded = self._exceeded or error
                return
            self.results.put((key, self._check_connection(reply)))

    def _check_connection(self, reply: Reply) -> Reply:
        """Stop sending once too many requests found or kept no connection and none ever did."""
        if reply.failure in (NO_CONNECTION, CONNECTION_LOST):
            self._failed += 1
            self._last_failure = reply.failure
        elif not self._endpoint.stop.is_set():
            # One success proves that the endpoint is there: the count cannot reach the limit.
            self._failed = -len(self._requests)
        if self._failed < MAX_FAILED_CONNECTIONS or reply.failure not in (
            NO_CONNECTION,
            CONNECTION_LOST,
            DEADLINE_REACHED,
        ):
            return reply
        self._endpoint.stop.set()
        reason = self._last_failure
        unsent = f"not sent: {MAX_FAILED_CONNECTIONS} other requests failed ({reason})"
        return Reply("", failure=reason, detail=reply.detail or unsent)
