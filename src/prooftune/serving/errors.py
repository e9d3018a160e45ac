"""Error responses in OpenAI's format, for every endpoint."""

from __future__ import annotations

import json

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


INTERNAL = "internal error; the server's log has details under this request's id"


class HTTPError(Exception):
    """An error response.

    Attributes:
        status: HTTP status.
        message: message for people: the problem, and what to do.
        code: identifier for programs.
        param: field of the request that caused the error.
        retry_after: seconds to wait before the next attempt.
        close: whether to close the connection after the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after, self.close = retry_after, close

    def body(self) -> bytes:
        """The JSON body."""
        kind = _TYPES.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def headers(self) -> dict[str, str]:
        """The response headers."""
        headers = {"content-type": "application/json"}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.close:
            headers["connection"] = "close"
        return headers
