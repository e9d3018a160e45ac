"""API keys: who may ask. They are never written anywhere."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from prooftune.errors import UsageError
from prooftune.serving.asgi import App, Receive, Scope, Send, header, send_error
from prooftune.serving.errors import HTTPError

VARIABLE = "PROOFTUNE_API_KEYS"
SHORTEST = 16

OPEN = ("/", "/docs", "/openapi.json", "/healthz", "/readyz")
"""What needs no key, besides the files of the pages under /assets/: it holds nothing of the
bundles' answers."""


def read_keys(file: Path | None) -> list[str]:
    """The keys of a file, one a line (blank lines and lines that begin with # aside), else those of
    the environment variable `PROOFTUNE_API_KEYS`, separated by commas; none: everybody may ask.

    Raises:
        UsageError: the file cannot be read or holds no key, or a key is too short.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the keys in {file} cannot be read: "
                f"{getattr(error, 'strerror', None) or 'it is no text'}"
            ) from None
        found, place = (
            [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")],
            str(file),
        )
        if not found:
            raise UsageError(
                f"{file} holds no key; write one a line, or leave --keys out to let everybody ask"
            )
    else:
        found, place = (
            [key.strip() for key in os.environ.get(VARIABLE, "").split(",") if key.strip()],
            VARIABLE,
        )
    short = [number for number, key in enumerate(found, start=1) if len(key) < SHORTEST]
    if short:
        raise UsageError(
            f"key {short[0]} in {place} is shorter than {SHORTEST} characters; for one that "
            "cannot be guessed: "
            "openssl rand -hex 24"
        )
    return found


def require_api_key(app: App, keys: Sequence[str], open_: Collection[str] = OPEN) -> App:
    """Answers only who brings one of the keys (``Authorization: Bearer KEY``), except on the open
    paths; without keys, all."""
    digests = [_digest(key.encode()) for key in keys]

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if not digests or scope["type"] != "http" or path in open_ or path.startswith("/assets/"):
            await app(scope, receive, send)
            return
        kind, _, given = header(scope, b"authorization").partition(b" ")
        # Digests have one length and all are compared, so the time tells nothing of a key.
        matches = [hmac.compare_digest(_digest(given.strip()), digest) for digest in digests]
        if kind.lower() == b"bearer" and any(matches):
            await app(scope, receive, send)
            return
        await send_error(
            send,
            HTTPError(
                401,
                "no valid API key: send the header 'Authorization: Bearer KEY'",
                "invalid_api_key",
            ),
        )

    return call


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
