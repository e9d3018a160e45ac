"""Dynamic batching: one thread per loaded model batches the queued requests.

Requests queue while a batch is computed, so a single request starts at once and many requests form
large batches. After a large batch, a smaller one waits briefly: clients tend to send their next
request right after a response, and without the delay two groups of clients would alternate, each at
half the batch size.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

Compute = Callable[[Any, list[Any]], Sequence[Any]]
"""(key, rows) -> one result per row, in order."""

BatchObserver = Callable[[Any, int, float], None]
"""Called with (key, number of rows, seconds) after each batch."""


MAX_BATCH_DELAY, MAX_BATCH_DELAY_FRACTION = 0.05, 0.1
"""Maximum wait for more rows: in seconds, and as a fraction of the last batch's duration."""


class QueueFull(Exception):
    """The queue is full; `retry_after` estimates in seconds when rows are accepted again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"full for {retry_after} s")
        self.retry_after = retry_after


class DeadlineExceeded(Exception):
    """The request's deadline passed while it was queued; it was not computed."""


@dataclass(slots=True)
class Job:
    """The rows of one request.

    Attributes:
        key: only rows with equal keys share a batch.
        rows: inputs.
        deadline: in seconds of `time.monotonic`.
        future: resolves to the results, in the order of the rows.
    """

    key: Hashable
    rows: Sequence[Any]
    deadline: float
    future: Future[list[Any]] = field(default_factory=Future)


class Batcher:
    """Queue and batching thread of one model.

    Args:
        compute: computes a batch; called by one thread only.
        max_queue_rows: maximum number of queued rows. An empty queue accepts a request of any size.
        max_batch_size: maximum rows per batch; a longer request forms its own batch.
        on_batch: called after every batch.
        name: name of the thread.
        on_start: called once in the batching thread before the first batch.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        max_queue_rows: int,
        max_batch_size: int,
        on_batch: BatchObserver | None = None,
        name: str = "model",
        on_start: Callable[[], None] | None = None,
    ) -> None:
        self._compute, self._max_queue_rows, self._max_batch_size, self._on_batch = (
            compute,
            max_queue_rows,
            max_batch_size,
            on_batch,
        )
        self._jobs: deque[Job] = deque()
        self._queued_rows, self._closed, self._rows_per_second = 0, False, 0.0
        self._last_rows, self._wait_until = 0, 0.0
        self._on_start = on_start
        self._condition = threading.Condition()
        # One thread per model: the active adapter is part of the model's state.
        self._thread = threading.Thread(
            target=self._run_loop, name=f"batches of {name}", daemon=True
        )
        self._thread.start()

    def queued_rows(self) -> int:
        """Number of queued rows."""
        return self._queued_rows

    def submit(self, key: Hashable, rows: Sequence[Any], deadline: float) -> Future[list[Any]]:
        """Queue the rows of one request.

        The path of a text from here:

        1. The batcher's thread takes the request from the queue (`_run_loop`) and calls ``compute``
           of ``serving/registry.py`` with the rows of several requests.
        2. ``bundle/load.py`` (labels) or ``bundle/qa.py`` (questions) predicts with the bundle.
        3. ``tasks/prompt_encoding.py`` renders and tokenizes the prompts.
        4. ``tasks/classification.py`` or ``tasks/question_answering.py`` calls the engine:
           ``engine/scoring.py`` scores labels, ``engine/generation.py`` decodes answers.
        5. The future is resolved; ``serving/handlers.py`` waits for it and builds the response.

        Args:
            key: only rows with equal keys share a batch.
            rows: inputs of the request.
            deadline: in seconds of `time.monotonic`; queued rows past it are dropped.

        Returns:
            A future of one result per row. Cancelling it before it runs removes the request.

        Raises:
            QueueFull: too many rows are queued.
        """
        job = Job(key, rows, deadline)
        with self._condition:
            # Disconnected clients must not make the queue look full.
            self._drop_cancelled()
            # An empty queue takes a request of any size, or large requests could never be served.
            if self._closed or (
                self._queued_rows and self._queued_rows + len(rows) > self._max_queue_rows
            ):
                raise QueueFull(self._estimate_wait(len(rows)))
            self._jobs.append(job)
            self._queued_rows += len(rows)
            self._condition.notify()
        return job.future

    def close(self, timeout: float | None = None) -> None:
        """Compute the queued rows, then stop the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join(timeout)

    def _estimate_wait(self, rows: int) -> int:
        """Estimated seconds (1 to 60) until the queue has room, at the average throughput."""
        excess = max(1, self._queued_rows + rows - self._max_queue_rows)
        return (
            max(1, min(60, math.ceil(excess / self._rows_per_second)))
            if self._rows_per_second
            else 1
        )

    def _drop_cancelled(self) -> None:
        """Remove rows of disconnected clients."""
        if any(job.future.cancelled() for job in self._jobs):
            self._jobs = deque(job for job in self._jobs if not job.future.cancelled())
            self._queued_rows = sum(len(job.rows) for job in self._jobs)

    def _run_loop(self) -> None:
        if self._on_start is not None:
            self._on_start()
        while True:
            with self._condition:
                # In a loop, because `wait` may also return without a notification.
                while not self._jobs and not self._closed:
                    self._condition.wait()
                if not self._jobs:
                    return
                # Waiting releases the lock of the condition, so requests can still be queued.
                self._wait_for_more()
                # Empty if all requests expired or were cancelled in the queue.
                batch = self._next_batch()
            if batch:
                self._compute_batch(batch)

    def _wait_for_more(self) -> None:
        """Right after a batch, wait briefly until as many rows are queued as the batch had."""
        while (
            self._queued_rows < self._last_rows
            and not self._closed
            and (remaining_seconds := self._wait_until - time.monotonic()) > 0
        ):
            self._condition.wait(remaining_seconds)

    def _next_batch(self) -> list[Job]:
        """The first queued request, and those with its key that fit into the batch."""
        now, rows = time.monotonic(), 0
        batch: list[Job] = []
        remaining: deque[Job] = deque()
        for job in self._jobs:
            fits = not batch or (
                job.key == batch[0].key and rows + len(job.rows) <= self._max_batch_size
            )
            if not fits:
                remaining.append(job)
            # From here on the future cannot be cancelled, so set_result never fails.
            elif job.future.set_running_or_notify_cancel():
                if job.deadline <= now:
                    job.future.set_exception(DeadlineExceeded())
                else:
                    batch.append(job)
                    rows += len(job.rows)
        self._jobs = remaining
        self._queued_rows = sum(len(job.rows) for job in remaining)
        return batch

    def _compute_batch(self, batch: list[Job]) -> None:
        rows = [row for job in batch for row in job.rows]
        start = time.monotonic()
        try:
            results = list(self._compute(batch[0].key, rows))
        except Exception as error:
            # Compute the requests one by one, so that only the one that fails gets the error.
            for job in batch if len(batch) > 1 else []:
                self._compute_batch([job])
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            return
        seconds = time.monotonic() - start
        # Clients tend to send their next request within this time; see the module's docstring.
        self._last_rows, self._wait_until = (
            min(len(rows), self._max_batch_size),
            start + seconds + min(MAX_BATCH_DELAY, MAX_BATCH_DELAY_FRACTION * seconds),
        )
        speed = len(rows) / max(seconds, 1e-6)
        # Exponential moving average: a single slow batch changes the estimate little.
        self._rows_per_second = (
            0.8 * self._rows_per_second + 0.2 * speed if self._rows_per_second else speed
        )
        if self._on_batch is not None:
            self._on_batch(batch[0].key, len(rows), seconds)
        offset = 0
        for job in batch:
            job.future.set_result(results[offset : offset + len(job.rows)])
            offset += len(job.rows)
