"""``prooftune publish``: a bundle, or a model merged from one, to the hub; what would be sent is
looked at first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prooftune.bundle.card_metadata import front_matter
from prooftune.bundle.manifest import GOLDEN, read_manifest
from prooftune.bundle.safety import may_be_pickle
from prooftune.errors import Failure, UsageError
from prooftune.utils.hub import is_reachable
from prooftune.utils.progress import spinner
from prooftune.utils.secrets import find_secrets

_PRIVATE = re.compile(
    r"\.env(\..*)?|\.netrc|\.git-credentials|id_(rsa|ed25519|ecdsa|dsa)|.*\.(pem|key|p12|pfx)|credentials.*"
    r"|(.*[._-])?token(\.txt)?|\.npmrc|\.pypirc",
    re.I,
)
_NAME = re.compile(r"[\w-][\w.-]{0,95}(/[\w-][\w.-]{0,95})?")
_CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be uploaded.

    Attributes:
        folder: the bundle or model.
        name: of the repository.
        files: path in the repository -> bytes.
        card: the card as it is published.
        remarks: what a person should know before it is sent, one sentence each.
    """

    folder: Path
    name: str
    files: dict[str, int]
    card: str
    remarks: list[str]


def plan(folder: Path, name: str) -> Plan:
    """Look at what would be published, and refuse what must not be.

    Args:
        folder: a bundle, or a folder with a merged model.
        name: ``OWNER/NAME``, or ``NAME`` for an own one.

    Raises:
        UsageError: the folder is neither, holds a pickle, a link or what looks like a secret, or
            the name is none.
    """
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(
            f"'{name}' is no name on the hub; OWNER/NAME of letters, digits, '-', '_' and '.' is "
            "expected"
        )
    merged = (folder / "config.json").is_file()
    if not merged and not (folder / "bundle.json").is_file():
        read_manifest(folder)  # says what is missing, and where the bundle of a run is
    manifest = read_manifest(folder) if (folder / "bundle.json").is_file() else {}
    files = {str(path.relative_to(folder).as_posix()): path for path in _files(folder)}
    if not any(path.suffix == ".safetensors" for path in files.values()):
        raise UsageError(
            f"{folder} holds no *.safetensors; give a bundle, or what 'prooftune export --to "
            "merged' wrote"
        )
    card = _card(folder, manifest, name, merged=merged)
    _refuse(folder, files, card)
    sizes = {path: place.stat().st_size for path, place in files.items() if path != _CARD}
    return Plan(
        folder, name, {_CARD: len(card.encode()), **sizes}, card, list(_remarks(folder, files))
    )


def _remarks(folder: Path, files: Mapping[str, Path]) -> Iterator[str]:
    """Which of the files hold texts of the data."""
    if GOLDEN in files:
        with files[GOLDEN].open("rb") as handle:
            count = sum(bool(line.strip()) for line in handle)
        yield (
            f"{GOLDEN} holds {count:,} row{'s' if count != 1 else ''} of the study's data, texts "
            "and all: by them an export is "
            "checked. To leave them out, delete the file, or say bundle.golden: 0 in the recipe."
        )
    if any(path.startswith("index/") for path in files):
        yield "index/ holds the passages that are searched."


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise UsageError(
                f"{path} is a link; what it points to may not be meant for others. Replace it by "
                "a copy"
            )
        if path.is_file():
            yield path


def _card(folder: Path, manifest: dict[str, Any], name: str, *, merged: bool) -> str:
    """The folder's card below new front matter, with how to fetch it."""
    path = folder / _CARD
    try:
        text = (
            path.read_text("utf-8")
            if path.is_file()
            else f"# {name}\n\nNo card came with this model.\n"
        )
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    text = re.sub(r"\A---\n.*?\n---\n+", "", text, flags=re.S)
    if "THIS_FOLDER" in text:
        text = text.replace(
            "## Load it\n",
            f"## Load it\n\nTHIS_FOLDER is where `hf download {name} --local-dir THIS_FOLDER` puts "
            "it.\n",
            1,
        )
    return f"{front_matter(manifest, merged=merged)}\n{text}"


def _refuse(folder: Path, files: dict[str, Path], card: str) -> None:
    problems = [
        f"{path}: a pickle can run code when it is loaded"
        for path, place in files.items()
        if may_be_pickle(place)
    ]
    for path, place in files.items():
        hidden = next(
            (part for part in Path(path).parts if _PRIVATE.fullmatch(part) or part == ".git"), None
        )
        if hidden is not None and Path(path).suffix != ".json":
            problems.append(f"{path}: by its name ({hidden}) it is not for others")
        elif path != _CARD and place.suffix != ".safetensors":
            with place.open("rb") as handle:
                # Bytes as characters: what is looked for is plain ASCII in any encoding.
                lines = (line.decode("latin-1") for line in handle)
                problems += [f"{path}:{number}: {kind}" for number, kind in find_secrets(lines)]
    problems += [f"{_CARD}:{number}: {kind}" for number, kind in find_secrets(card.splitlines())]
    if problems:
        more = f"\n  … and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise UsageError(
            f"{folder} is not published:\n"
            + "\n".join(f"  - {problem}" for problem in problems[:12])
            + more
            + "\nRemove them (and change a key that was in a file), then try again"
        )


def publish(planned: Plan, *, private: bool = True, update: bool = False) -> str:
    """Upload in one commit.

    Args:
        planned: what to upload.
        private: whether a new repository is seen by its owner only.
        update: whether a repository that exists is written to.

    Returns:
        Where it is.

    Raises:
        Failure: the hub cannot be reached, or refuses: no login, no right, a name that is taken.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
        raise Failure(
            f"the hub cannot be reached at {constants.ENDPOINT}; nothing was published. Check the "
            "network, HF_ENDPOINT "
            "and HF_HUB_OFFLINE"
        )
    hub, created = HfApi(), False
    try:
        with spinner(f"Publishing {planned.name}"):
            place = hub.create_repo(planned.name, private=private, exist_ok=update)
            created = True
            sent = {
                path: planned.card.encode() if path == _CARD else planned.folder / path
                for path in planned.files
            }
            hub.create_commit(
                place.repo_id,
                [CommitOperationAdd(path, what) for path, what in sent.items()],
                commit_message="Published with Prooftune",
            )
    except LocalTokenNotFoundError:
        raise Failure(_NO_LOGIN) from None
    except HfHubHTTPError as error:
        raise Failure(_refusal(error, planned.name, created)) from None
    except (OSError, ValueError) as error:
        raise Failure(
            f"the upload to {planned.name} broke off: {_first(error)}. Run the same command with "
            "--update"
        ) from None
    except Exception as error:
        if not type(error).__module__.startswith("httpx"):
            raise
        raise Failure(
            f"the connection to {constants.ENDPOINT} broke off: {_first(error)}. Run the same "
            "command again"
            f"{' with --update' if created else ''}"
        ) from None
    return str(place)


_NO_LOGIN = "the hub wants a login: run 'hf auth login', or set HF_TOKEN to a token that may write"


def _refusal(error: Any, name: str, created: bool) -> str:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return _NO_LOGIN
    if status == 403:
        return (
            f"the hub refuses {name}: this login may not write there. Use another owner, or a "
            "token that may write"
        )
    if status == 409 and not created:
        return (
            f"{name} exists already; give another name, or --update to write a new version into it"
        )
    done = f"; {name} was made and is not complete, so go on with --update" if created else ""
    return f"the hub refused {name}: {_first(error)}{done}"


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
