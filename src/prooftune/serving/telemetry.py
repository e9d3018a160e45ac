"""Prometheus metrics, and one JSON log line per request, without texts unless asked for."""

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

LOG_FIELDS = "prooftune.facts"
"""Scope key of additional fields for the request's log line."""

Log = Callable[..., None]
"""Called with (event, **fields): writes a line."""

_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
# Up to the default time limit of a request (`limits.Limits`).
_SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_CONTENT_SECURITY_POLICY = {
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
    "content-security-policy": "; ".join(
        f"{name} {value}" for name, value in _CONTENT_SECURITY_POLICY.items()
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
}


class Metrics:
    """Prometheus metrics, in their own registry."""

    def __init__(self, activity: ServerState) -> None:
        # Not the process-wide registry, so that one process may hold several servers.
        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "prooftune_requests", "Requests by route and status.", ["route", "status"], **common
        )
        self.seconds = Histogram(
            "prooftune_request_seconds",
            "Seconds from request to reply.",
            ["route"],
            buckets=_SECONDS_BUCKETS,
            **common,
        )
        self.rows = Counter("prooftune_rows", "Texts and questions computed.", ["model"], **common)
        self.batch_rows = Histogram(
            "prooftune_batch_rows",
            "Rows computed together.",
            ["model"],
            buckets=_ROW_BUCKETS,
            **common,
        )
        self.compute_seconds = Counter(
            "prooftune_compute_seconds", "Seconds spent computing.", ["model"], **common
        )
        Gauge("prooftune_requests_in_progress", "Requests being answered.", **common).set_function(
            lambda: activity.accepted - activity.finished
        )
        Gauge("prooftune_ready", "1 while requests are taken.", **common).set_function(
            lambda: float(activity.ready)
        )
        self._queue = Gauge(
            "prooftune_queue_rows",
            "Rows that wait for a model, by the first bundle over it.",
            ["model"],
            **common,
        )

    def track_queue(self, name: str, waiting: Callable[[], float]) -> None:
        """Export a model's queue length, read at every scrape."""
        self._queue.labels(name).set_function(waiting)

    def observe_batch(self, key: tuple[str, bool], rows: int, seconds: float) -> None:
        """Count a batch.

        Args:
            key: bundle name, and whether the tuned model was used.
            rows: number of rows.
            seconds: duration.
        """
        name = key[0] if key[1] else f"{key[0]}:base"
        self.rows.labels(name).inc(rows)
        self.batch_rows.labels(name).observe(rows)
        self.compute_seconds.labels(name).inc(seconds)


def logger(stream: TextIO | None = None) -> Log:
    """A logger that writes one JSON object per line. Default stream: standard error."""
    lock = threading.Lock()

    def log(event: str, **fields: Any) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        # ASCII only: some of Unicode's line separators would end the line for other programs.
        line = json.dumps({"time": now, "event": event, **fields}, ensure_ascii=True, default=str)
        out = stream or sys.stderr
        with lock:
            out.write(line + "\n")
            out.flush()

    return log


def with_telemetry(app: App, metrics: Metrics, log: Log, paths: Collection[str]) -> App:
    """Middleware that assigns request ids, turns exceptions into status 500, counts and logs.

    Args:
        app: the application.
        metrics: metrics to update.
        log: writes log lines.
        paths: known paths, to label requests that were refused before routing.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        header_id = header(scope, b"x-request-id").decode("latin-1")
        # A client's id is logged, so it must be short and without control characters.
        request_id = header_id if _ID.fullmatch(header_id) else secrets.token_hex(8)
        fields = scope[LOG_FIELDS] = {}
        status, start = 0, time.monotonic()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = {"x-request-id": request_id, **_HEADERS}
                message["headers"] = [
                    *message.get("headers", []),
                    *((k.encode(), v.encode()) for k, v in extra.items()),
                ]
            await send(message)

        try:
            await app(scope, receive, answer)
        except Exception as error:
            log(
                "error",
                request=request_id,
                error=type(error).__name__,
                at=_traceback_lines(error),
            )
            # Once a response has begun, its status cannot change any more.
            if not status:
                await send_error(answer, HTTPError(500, INTERNAL, "internal_error"))
        route, seconds = _route(scope, paths), time.monotonic() - start
        # Labels of metrics must not come from the client: each new value is a new time series.
        method = scope["method"] if scope["method"] in _METHODS else "other"
        metrics.requests.labels(route, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        log(
            "request",
            request=request_id,
            method=method,
            route=route,
            status=status,
            seconds=round(seconds, 4),
            **fields,
        )

    return call


def _route(scope: Scope, paths: Collection[str]) -> str:
    """The route's pattern rather than the path, which a client may fill with anything."""
    if scope["path"] in paths:
        return str(scope["path"])
    return str(getattr(scope.get("route"), "path", "other"))


def _traceback_lines(error: BaseException) -> list[str]:
    """The last lines of an exception's traceback, without its message, which may quote texts."""
    return [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ][-8:]
