"""What an error of the HTTP client says: refusals by status, and connections that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prooftune.chat_client.api_key import ApiKey
from prooftune.chat_client.failures import (
    CLIENT_ERROR,
    RATE_LIMITED,
    SERVER_ERROR,
    RequestFailed,
)
from prooftune.chat_client.responses import error_message, retry_after_seconds
from prooftune.chat_client.types import EndpointSettings
from prooftune.errors import UsageError

if TYPE_CHECKING:
    from openai import APIStatusError


def was_unsent(error: BaseException) -> bool:
    """Whether no connection was made, so that the server cannot have seen the request."""
    import httpx2

    # A connection that breaks later may have carried the request.
    never = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
    return isinstance(error, never) or isinstance(error.__cause__, never)


def status_error(
    error: APIStatusError, settings: EndpointSettings, section: str, key: ApiKey
) -> RequestFailed:
    """The failure of a request whose response has an error status.

    Args:
        error: of the client.
        settings: of the endpoint.
        section: the recipe's section with the settings, for messages.
        key: to mask in the server's message.

    Raises:
        UsageError: the endpoint does not know the address or model, or refuses the key.
    """
    status, message = error.response.status_code, key.mask(error_message(error.body))
    if status in (401, 403):
        sender = (
            f"the key in ${settings.api_key_env}"
            if settings.api_key_env
            else "requests without an API key"
        )
        raise UsageError(
            f"{section}: {settings.base_url} refuses {sender} (status {status}: "
            f"{message or 'no reason given'}). "
            f"Put a valid key into an environment variable and name it in {section}.api_key_env"
        )
    if status in (404, 405):
        raise UsageError(
            f"{section}: {settings.base_url} offers no chat completions of "
            f"'{settings.model}' (status {status}: {message or 'no reason given'}). Check "
            f"{section}.base_url, which usually ends in /v1, and {section}.model"
        )
    reason = RATE_LIMITED if status == 429 else SERVER_ERROR if status >= 500 else CLIENT_ERROR
    return RequestFailed(
        reason,
        # The same as in OpenAI's client: 409 is a lock time-out.
        status in (408, 409, 429) or status >= 500,
        retry_after_seconds(error.response.headers.get("retry-after")),
        f"status {status}: {message}",
    )
