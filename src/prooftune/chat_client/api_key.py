"""An API key from the environment, which no text shows."""

from __future__ import annotations

import os

from prooftune.chat_client.types import EndpointSettings
from prooftune.errors import UsageError

_MIN_KEY_LENGTH = 8
"""Shorter keys, such as ``none`` and ``EMPTY``, are placeholders and not masked in texts."""


class ApiKey:
    """An API key that no repr, log or message shows."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"

    def mask(self, text: str) -> str:
        """Mask the key in a text, which a server may echo."""
        return text.replace(self.value, "***") if len(self.value) >= _MIN_KEY_LENGTH else text


def read_api_key(settings: EndpointSettings, section: str) -> ApiKey:
    """Read the API key from the environment variable that the settings name.

    Raises:
        UsageError: the variable is missing or empty, or its value cannot go into an HTTP header.
    """
    if settings.api_key_env is None:
        return ApiKey("none")
    value = os.environ.get(settings.api_key_env, "").strip()
    if not value:
        raise UsageError(
            f"{section}.api_key_env: the environment variable {settings.api_key_env} is not set. "
            "Set it to the key of "
            f"{settings.base_url}, or remove {section}.api_key_env if it needs none"
        )
    if not (value.isascii() and value.isprintable()):
        raise UsageError(
            f"{section}.api_key_env: {settings.api_key_env} holds characters that no API key has"
        )
    return ApiKey(value)
