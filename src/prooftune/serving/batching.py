"""Dynamic batching: one thread per loaded model takes what waits and computes it together.

While one batch is computed the next one gathers, so a lone request is answered at once and a crowd
is answered in large batches. Only behind a large batch a small one waits for a moment: who was just
answered tends to ask again, and would be computed apart from those who waited meanwhile, in turn,
each half at half the speed.
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
"""(key, rows) -> one result per row."""

BatchObserver = Callable[[Any, int, float], None]
"""(key, rows, seconds) of a batch that was computed."""


MOMENT, SHARE = 0.05, 0.1
"""Most seconds that a batch waits for more rows, and the most as a share of what the last one took.
"""


class QueueFull(Exception):
    """As many rows wait as may; `retry_after` is in how many seconds there should be room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"full for {retry_after} s")
        self.retry_after = retry_after


class DeadlineExceeded(Exception):
    """A request's time was over before its turn came; it was not computed."""


@dataclass(slots=True)
class Job:
    """Rows of one request.

    Attributes:
        key: rows of equal keys are computed together.
        rows: what is computed.
        deadline: on the clock of `time.monotonic`.
        done: the results, in the order of the rows.
    """

    key: Hashable
    rows: Sequence[Any]
    deadline: float
    done: Future[list[Any]] = field(default_factory=Future)


class Batcher:
    """Requests for one model.

    Args:
        compute: is called by one thread only.
        queue_rows: rows that may wait; a request that finds none waiting is taken whatever its
            size.
        batch_rows: rows that are computed together; a longer request is computed alone.
        note: is told of every batch.
        begin: is called once by the thread that computes, before all else.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        max_queue_rows: int,
        max_batch_size: int,
        note: BatchObserver | None = None,
        name: str = "model",
        begin: Callable[[], None] | None = None,
    ) -> None:
        self._compute, self._queue_rows, self._batch_rows, self._note = (
            compute,
            max_queue_rows,
            max_batch_size,
            note,
        )
        self._jobs: deque[Job] = deque()
        self._waiting, self._closed, self._rate = 0, False, 0.0
        self._last_rows, self._wait_until = 0, 0.0
        self._begin = begin
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"batches of {name}", daemon=True)
        self._thread.start()

    def waiting(self) -> int:
        """Rows that wait."""
        return self._waiting

    def submit(self, key: Hashable, rows: Sequence[Any], deadline: float) -> Future[list[Any]]:
        """Queue the rows of one request.

        The path of a text from here:

        1. The batcher's thread takes the request from the queue (`_work`) and calls ``compute`` of
           ``serving/registry.py`` with the rows of several requests.
        2. ``bundle/load.py`` (labels) or ``bundle/qa.py`` (questions) predicts with the bundle.
        3. ``tasks/prompts.py`` renders and tokenizes the prompts.
        4. ``tasks/classification.py`` or ``tasks/question_answering.py`` calls the engine:
           ``engine/scoring.py`` scores labels, ``engine/generation.py`` decodes answers.
        5. The future is resolved; ``serving/handlers.py`` waits for it and builds the response.

        Args:
            key: rows of equal keys are computed together.
            rows: inputs of the request.
            deadline: on the clock of `time.monotonic`.

        Returns:
            A future of one result per row. Cancelling it before it runs removes the request.

        Raises:
            QueueFull: too many rows wait.
        """
        job = Job(key, rows, deadline)
        with self._changed:
            self._drop_cancelled()
            if self._closed or (self._waiting and self._waiting + len(rows) > self._queue_rows):
                raise QueueFull(self._seconds_until(len(rows)))
            self._jobs.append(job)
            self._waiting += len(rows)
            self._changed.notify()
        return job.done

    def close(self, timeout: float | None = None) -> None:
        """Compute what waits, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _seconds_until(self, rows: int) -> int:
        """In how many seconds so many rows should find room, at the speed so far; 1 to 60."""
        excess = max(1, self._waiting + rows - self._queue_rows)
        return max(1, min(60, math.ceil(excess / self._rate))) if self._rate else 1

    def _drop_cancelled(self) -> None:
        """Rows of clients that have gone take up no room."""
        if any(job.done.cancelled() for job in self._jobs):
            self._jobs = deque(job for job in self._jobs if not job.done.cancelled())
            self._waiting = sum(len(job.rows) for job in self._jobs)

    def _work(self) -> None:
        if self._begin is not None:
            self._begin()
        while True:
            with self._changed:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return
                self._gather()
                batch = self._take()
            if batch:
                self._run(batch)

    def _gather(self) -> None:
        """Wait a moment, right after a batch, until as many rows wait as there were in it."""
        while (
            self._waiting < self._last_rows
            and not self._closed
            and (left := self._wait_until - time.monotonic()) > 0
        ):
            self._changed.wait(left)

    def _take(self) -> list[Job]:
        """The first request that waits, and those of its key that fit beside it."""
        now, rows = time.monotonic(), 0
        batch: list[Job] = []
        kept: deque[Job] = deque()
        for job in self._jobs:
            fits = not batch or (
                job.key == batch[0].key and rows + len(job.rows) <= self._batch_rows
            )
            if not fits:
                kept.append(job)
            elif job.done.set_running_or_notify_cancel():
                if job.deadline <= now:
                    job.done.set_exception(DeadlineExceeded())
                else:
                    batch.append(job)
                    rows += len(job.rows)
        self._jobs = kept
        self._waiting = sum(len(job.rows) for job in kept)
        return batch

    def _run(self, batch: list[Job]) -> None:
        rows = [row for job in batch for row in job.rows]
        start = time.monotonic()
        try:
            results = list(self._compute(batch[0].key, rows))
        except Exception as error:
            # What one request's rows did must not fall on the others in its batch.
            for job in batch if len(batch) > 1 else []:
                self._run([job])
            if len(batch) == 1:
                batch[0].done.set_exception(error)
            return
        seconds = time.monotonic() - start
        self._last_rows, self._wait_until = (
            min(len(rows), self._batch_rows),
            start + seconds + min(MOMENT, SHARE * seconds),
        )
        speed = len(rows) / max(seconds, 1e-6)
        self._rate = 0.8 * self._rate + 0.2 * speed if self._rate else speed
        if self._note is not None:
            self._note(batch[0].key, len(rows), seconds)
        place = 0
        for job in batch:
            job.done.set_result(results[place : place + len(job.rows)])
            place += len(job.rows)
