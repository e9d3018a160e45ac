"""The model and data hub: asked once and briefly whether it answers, because its library retries
for half a minute."""

from __future__ import annotations

import contextlib
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

_SECONDS = 5


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Within the block, the hub's libraries take what they have in their cache if the hub does not
    answer."""
    # They log every attempt; what matters of it is in the error.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or is_reachable(constants.ENDPOINT):
        yield
        return
    with _offline():
        yield


def is_reachable(endpoint: str) -> bool:
    """Whether a hub answers at this address, with whatever."""
    try:
        urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=_SECONDS
        ).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # Certificates are the library's business, which may know of others.
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
