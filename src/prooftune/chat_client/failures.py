"""Failed requests to an endpoint, and their reasons."""

from __future__ import annotations

TIMED_OUT, DEADLINE_REACHED, NO_CONNECTION, CONNECTION_LOST, RESPONSE_TOO_LONG = (
    "timed out",
    "deadline reached",
    "no connection",
    "connection lost",
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
UNBILLED = (RATE_LIMITED, SERVER_ERROR, CLIENT_ERROR, NO_CONNECTION)
"""Failures for which no provider asks money. A connection that is lost after the request was sent
is none: the server may have computed the reply."""


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
