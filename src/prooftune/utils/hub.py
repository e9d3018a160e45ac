"""Reachability of the Hugging Face hub, checked here because its library retries for 30 s."""

from __future__ import annotations

import contextlib
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

_TIMEOUT_SECONDS = 5


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Within the block, the hub's libraries use their cache if the hub cannot be reached."""
    # They log every attempt; the error contains what matters.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or is_reachable(constants.ENDPOINT):
        yield
        return
    with _offline():
        yield


def is_reachable(endpoint: str) -> bool:
    """Whether a server responds at this address, with any status."""
    try:
        urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=_TIMEOUT_SECONDS
        ).close()
    # Any status is an answer: the server is there.
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # The library may trust other certificates than this check does.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    from huggingface_hub import constants

    settings: list[Any] = [constants]
    with contextlib.suppress(ModuleNotFoundError):
        from datasets import config

        settings.append(config)
    before = [setting.HF_HUB_OFFLINE for setting in settings]
    try:
        for setting in settings:
            setting.HF_HUB_OFFLINE = True
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.HF_HUB_OFFLINE = value
