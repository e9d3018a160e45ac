"""API keys. They are never logged or stored."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from prooftune.errors import UsageError
from prooftune.serving.asgi import App, Receive, Scope, Send, header, send_error
from prooftune.serving.errors import HTTPError

KEYS_VARIABLE = "PROOFTUNE_API_KEYS"
# 16 random characters of base64 are 96 bits, which nobody guesses.
MIN_KEY_LENGTH = 16

PUBLIC_PATHS = ("/", "/docs", "/openapi.json", "/healthz", "/readyz")
"""Paths without authentication, besides /assets/: none returns predictions."""


def read_keys(file: Path | None) -> list[str]:
    """Read API keys from a file or from the environment.

    Args:
        file: one key per line; blank lines and lines that start with # are skipped. Default: the
            environment variable `PROOFTUNE_API_KEYS`, separated by commas.

    Returns:
        The keys; empty for access without a key.

    Raises:
        UsageError: the file cannot be read or has no key, or a key is too short.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the keys in {file} cannot be read: "
                f"{getattr(error, 'strerror', None) or 'it is no text'}"
            ) from None
        keys, origin = (
            [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")],
            str(file),
        )
        if not keys:
            raise UsageError(
                f"{file} holds no key; write one per line, or omit --keys to allow access without "
                "a key"
            )
    else:
        keys, origin = (
            [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()],
            KEYS_VARIABLE,
        )
    # Numbers and not keys: messages end up in logs.
    short = [number for number, key in enumerate(keys, start=1) if len(key) < MIN_KEY_LENGTH]
    if short:
        raise UsageError(
            f"key {short[0]} in {origin} is shorter than {MIN_KEY_LENGTH} characters; make a "
            "random one: openssl rand -hex 24"
        )
    return keys


def require_api_key(
    app: App, keys: Sequence[str], public_paths: Collection[str] = PUBLIC_PATHS
) -> App:
    """Require a key (``Authorization: Bearer KEY``), except on public paths.

    Args:
        app: the application.
        keys: accepted keys; empty to accept every request.
        public_paths: paths that need no key.
    """
    digests = [_digest(key.encode()) for key in keys]

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if (
            not digests
            or scope["type"] != "http"
            or path in public_paths
            # Style sheet and scripts of the public pages.
            or path.startswith("/assets/")
        ):
            await app(scope, receive, send)
            return
        scheme, _, token = header(scope, b"authorization").partition(b" ")
        # Digests have equal lengths and all are compared, so timing reveals nothing about the keys.
        matches = [hmac.compare_digest(_digest(token.strip()), digest) for digest in digests]
        if scheme.lower() == b"bearer" and any(matches):
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
