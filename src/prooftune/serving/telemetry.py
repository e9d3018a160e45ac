"""What the server says of itself: Prometheus metrics, and one JSON line per request, without
anybody's texts."""

from __future__ import annotations

import datetime
import json
import re
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from prooftune.serving.asgi import App, Message, Receive, Scope, Send, header, send_error
from prooftune.serving.errors import INTERNAL, HTTPError
from prooftune.serving.limits import ServerState

FACTS = "prooftune.facts"
"""Where a request's scope gathers what its log line says besides the usual."""

Log = Callable[..., None]
"""(event, **facts): writes a line."""

_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_PAGES = {
    "style-src": "'self'",
    "script-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "default-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in _PAGES.items()),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
}


class Metrics:
    """The figures that Prometheus asks for, in a registry of their own."""

    def __init__(self, activity: ServerState) -> None:
        self.registry = CollectorRegistry()
        names: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "prooftune_requests", "Requests by route and status.", ["route", "status"], **names
        )
        self.seconds = Histogram(
            "prooftune_request_seconds",
            "Seconds from request to reply.",
            ["route"],
            buckets=_SECONDS,
            **names,
        )
        self.rows = Counter("prooftune_rows", "Texts and questions computed.", ["model"], **names)
        self.max_batch_size = Histogram(
            "prooftune_batch_rows", "Rows computed together.", ["model"], buckets=_ROWS, **names
        )
        self.compute = Counter(
            "prooftune_compute_seconds", "Seconds spent computing.", ["model"], **names
        )
        Gauge("prooftune_requests_in_progress", "Requests being answered.", **names).set_function(
            lambda: activity.accepted - activity.finished
        )
        Gauge("prooftune_ready", "1 while requests are taken.", **names).set_function(
            lambda: float(activity.ready)
        )
        self._queue = Gauge(
            "prooftune_queue_rows",
            "Rows that wait for a model, by the first bundle over it.",
            ["model"],
            **names,
        )

    def watch(self, name: str, waiting: Callable[[], float]) -> None:
        """Show how many rows wait, asked whenever the metrics are."""
        self._queue.labels(name).set_function(waiting)

    def note(self, key: tuple[str, bool], rows: int, seconds: float) -> None:
        """A batch was computed; `key` is the bundle's name and whether it was asked as tuned."""
        name = key[0] if key[1] else f"{key[0]}:base"
        self.rows.labels(name).inc(rows)
        self.max_batch_size.labels(name).observe(rows)
        self.compute.labels(name).inc(seconds)


def logger(stream: TextIO | None = None) -> Log:
    """Writes one JSON object per line, to standard error unless a stream is given."""
    lock = threading.Lock()

    def log(event: str, **facts: Any) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **facts}, ensure_ascii=True, default=str)
        out = stream or sys.stderr
        with lock:
            out.write(line + "\n")
            out.flush()

    return log


def with_telemetry(app: App, metrics: Metrics, log: Log, paths: Collection[str]) -> App:
    """Gives every request an id, answers what went wrong inside with 500, and counts, times and
    logs it.

    Args:
        app: what answers.
        metrics: where requests are counted.
        log: where they are told of.
        paths: those that are known, by which a request is named that was refused before it found
            its route.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        given = header(scope, b"x-request-id").decode("latin-1")
        request = given if _ID.fullmatch(given) else secrets.token_hex(8)
        facts = scope[FACTS] = {}
        status, start = 0, time.monotonic()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = {"x-request-id": request, **_HEADERS}
                message["headers"] = [
                    *message.get("headers", []),
                    *((k.encode(), v.encode()) for k, v in extra.items()),
                ]
            await send(message)

        try:
            await app(scope, receive, answer)
        except Exception as error:
            log("error", request=request, error=type(error).__name__, at=_places(error))
            if not status:
                await send_error(answer, HTTPError(500, INTERNAL, "internal_error"))
        route, seconds = _route(scope, paths), time.monotonic() - start
        method = scope["method"] if scope["method"] in _METHODS else "other"
        metrics.requests.labels(route, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        log(
            "request",
            request=request,
            method=method,
            route=route,
            status=status,
            seconds=round(seconds, 4),
            **facts,
        )

    return call


def _route(scope: Scope, paths: Collection[str]) -> str:
    """The route's pattern, and not a path in which a client may have written anything."""
    if scope["path"] in paths:
        return str(scope["path"])
    return str(getattr(scope.get("route"), "path", "other"))


def _places(error: BaseException) -> list[str]:
    """Where an error came from. Its message may quote a text, so it is left out."""
    return [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ][-8:]
