"""Parse the responses of an endpoint: completions, log-probabilities, errors."""

from __future__ import annotations

import email.utils
import json
import time

from prooftune.chat_client.failures import NO_CHOICES, NOT_JSON, WRONG_SHAPE, RequestFailed
from prooftune.chat_client.types import TokenAlternatives


def parse_logprobs(choice: object) -> list[TokenAlternatives] | None:
    """Log-probabilities of the generated tokens of a choice; None if it has none of that shape."""
    try:
        tokens = choice["logprobs"]["content"]  # type: ignore[index]
        generated: list[TokenAlternatives] = [
            {
                "token": str(token["token"]),
                "alternatives": {
                    str(token["token"]): float(token["logprob"]),
                    **{
                        str(other["token"]): float(other["logprob"])
                        for other in token.get("top_logprobs") or ()
                    },
                },
            }
            for token in tokens
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return generated or None


def token_count(value: object) -> int | None:
    """A number of tokens as a server reports it; None for anything else."""
    # A bool is an int, too.
    return value if type(value) is int and value >= 0 else None


def parse_completion(body: bytes) -> tuple[str, bool]:
    """The text of the first choice of a chat completion, and whether the token limit truncated it.

    Raises:
        RequestFailed: the body is not a chat completion.
    """
    try:
        first = json.loads(body)["choices"][0]
        content = first["message"]["content"]
    except IndexError:
        raise RequestFailed(NO_CHOICES) from None
    except (KeyError, TypeError):
        raise RequestFailed(WRONG_SHAPE, detail=_excerpt(body)) from None
    except (ValueError, RecursionError):
        raise RequestFailed(NOT_JSON, detail=_excerpt(body)) from None
    # Content is None where a reasoning model spent all its tokens on thinking.
    if not isinstance(content, str | None):
        raise RequestFailed(WRONG_SHAPE, detail=_excerpt(body))
    # JSON can hold lone surrogates, which UTF-8 files cannot.
    return (content or "").encode("utf-8", "replace").decode(), first.get(
        "finish_reason"
    ) == "length"


def _excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode("utf-8", "replace").split())


def error_message(body: object) -> str:
    """The message of an error response, on one line."""
    inner = body.get("message", body) if isinstance(body, dict) else body
    return " ".join(str(inner or "").split())[:200]


def retry_after_seconds(retry_after: str | None) -> float:
    """Seconds of a ``Retry-After`` header (RFC 9110, 10.2.3: number or date); 0 if invalid."""
    if not retry_after:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        date = email.utils.parsedate_tz(retry_after)
        return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else 0.0
