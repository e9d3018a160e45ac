"""Models by their names on the hub."""

from __future__ import annotations

from pathlib import Path

from prooftune.errors import Failure, UsageError
from prooftune.utils.hub import is_reachable, offline_if_unreachable

DEFAULT_MODEL = "smollm2-135m-instruct"
"""The model that needs no hub."""

# Without *.bin: PyTorch's pickles can run code when they are loaded.
_NEEDED = ["*.safetensors", "*.json", "*.model", "*.jinja", "*.txt"]


def check_access(name: str, revision: str | None) -> None:
    """Ask whether this account may read a model, unless it is in the cache or the hub cannot be
    reached.

    Raises:
        Failure: the model is gated.
        UsageError: the hub has no such model.
    """
    from huggingface_hub import auth_check, constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        snapshot_download(name, revision=revision, allow_patterns=_NEEDED, local_files_only=True)
        return
    except HFValidationError:
        return  # the path of a folder that is not there, which `check_model_name` reports
    except OSError:
        pass  # not in the cache
    if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
        return
    try:
        auth_check(name)
    except GatedRepoError:
        raise _gated(name) from None
    except RepositoryNotFoundError:
        raise _no_such_model(name) from None
    except OSError:
        return  # a hub that fails otherwise is reported by the download


def _gated(name: str) -> Failure:
    from huggingface_hub import constants

    return Failure(
        f"the model {name} is gated: accept its licence at {constants.ENDPOINT}/{name}, then log "
        f"in with 'hf auth login'. Until then, --model {DEFAULT_MODEL} needs no hub"
    )


def _no_such_model(name: str) -> UsageError:
    return UsageError(
        f"the hub has no model {name}, or it is private: check the name, or set HF_TOKEN to a "
        "token that may read it"
    )


def fetch(name: str, revision: str | None) -> Path:
    """The folder of a model in the hub's cache, downloaded if needed.

    Raises:
        UsageError: the hub has no such model.
        Failure: the model is gated, or downloading it failed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        # Without a network a snapshot in the cache is as good, and found without time-outs.
        with offline_if_unreachable():
            return Path(snapshot_download(name, revision=revision, allow_patterns=_NEEDED))
    # The order matters: GatedRepoError is a RepositoryNotFoundError.
    except GatedRepoError:
        raise _gated(name) from None
    except RepositoryNotFoundError:
        raise _no_such_model(name) from None
    except (LocalEntryNotFoundError, OSError) as error:
        reason = type(error).__name__
        if isinstance(error, LocalEntryNotFoundError):
            reason = "it cannot be reached, and the model is not in its cache"
        raise Failure(
            f"the hub could not deliver {name} ({reason}). Check the network and "
            "HF_ENDPOINT, give "
            f"a local folder, or use '{DEFAULT_MODEL}', which needs no hub."
        ) from error
