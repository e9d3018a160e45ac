"""What a client is told when a request is not answered: one shape, OpenAI's, for every endpoint."""

from __future__ import annotations

import json

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


INTERNAL = "the server failed to answer; its log has more under this request's id"


class HTTPError(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        message: for a person: what was found, and what to do.
        code: for a program.
        param: the field that it is about.
        retry_after: seconds after which it is worth trying again.
        close: whether the connection ends with the reply.
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
        kind = _TYPES.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def headers(self) -> dict[str, str]:
        found = {"content-type": "application/json"}
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        if self.retry_after is not None:
            found["retry-after"] = str(self.retry_after)
        if self.close:
            found["connection"] = "close"
        return found
