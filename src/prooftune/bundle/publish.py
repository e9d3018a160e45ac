"""``prooftune publish``: checks a bundle or merged model and uploads it to the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.bundle.card_metadata import front_matter
from prooftune.bundle.layout import ADAPTER_CONFIG
from prooftune.bundle.manifest import GOLDEN, AnyManifest, is_language_model
from prooftune.bundle.manifest_reader import read_manifest
from prooftune.bundle.safety import may_be_pickle
from prooftune.errors import Failure, UsageError
from prooftune.models.text_classifier import VOCABULARY_FILE
from prooftune.utils.files import read_json
from prooftune.utils.hub import is_reachable
from prooftune.utils.progress import spinner
from prooftune.utils.secrets import find_secrets

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_PRIVATE = re.compile(
    r"\.env(\..*)?|\.netrc|\.git-credentials|id_(rsa|ed25519|ecdsa|dsa)"
    r"|.*\.(pem|key|p12|pfx)|credentials.*"
    r"|(.*[._-])?token(\.txt)?|\.npmrc|\.pypirc",
    re.I,
)
_NAME = re.compile(r"[\w-][\w.-]{0,95}(/[\w-][\w.-]{0,95})?")
_CARD = "README.md"


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """Contents of an upload.

    Attributes:
        folder: the bundle or model folder.
        name: name of the repository.
        files: path in the repository -> size in bytes.
        card: the published card.
        replaced: path in the repository -> content that replaces the file's.
        notes: notes to show before the upload, one sentence each.
    """

    folder: Path
    name: str
    files: dict[str, int]
    card: str
    notes: list[str]
    replaced: dict[str, bytes]


def plan_upload(folder: Path, name: str) -> UploadPlan:
    """List what would be published, and refuse what must not be.

    Args:
        folder: a bundle, or a merged model.
        name: ``OWNER/NAME``, or ``NAME`` for the user's own account.

    Raises:
        UsageError: the folder is neither; it contains a pickle, a link or a probable secret; or the
            name is invalid.
    """
    # The hub's own rules, checked before any file is read.
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(
            f"'{name}' is not a valid name on the hub; expected OWNER/NAME of letters, digits, "
            "'-', '_' and '.'"
        )
    merged = (folder / "config.json").is_file()
    if not merged and not (folder / "bundle.json").is_file():
        read_manifest(folder)  # raises the error that explains what is missing
    manifest = read_manifest(folder) if (folder / "bundle.json").is_file() else None
    files = {str(path.relative_to(folder).as_posix()): path for path in _list_files(folder)}
    if not _has_weights(files, manifest):
        raise UsageError(
            f"{folder} holds no *.safetensors; give a bundle, or what 'prooftune export --to "
            "merged' wrote"
        )
    card = _make_card(folder, manifest, name, merged=merged)
    _check_files(folder, files, card)
    replaced = {_CARD: card.encode(), **_publish_base_name(files, manifest)}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    sizes = {_CARD: 0, **sizes, **{name: len(content) for name, content in replaced.items()}}
    return UploadPlan(folder, name, sizes, card, list(_notes(manifest, files)), replaced)


def _has_weights(files: Mapping[str, Path], manifest: AnyManifest | None) -> bool:
    """Whether the weights are there; a bundle of an untuned model names them only."""
    if manifest is not None and is_language_model(manifest) and manifest["part"] == "base":
        return True
    return any(path.suffix == ".safetensors" for path in files.values())


def _publish_base_name(files: Mapping[str, Path], manifest: AnyManifest | None) -> dict[str, bytes]:
    """``adapter_config.json`` with the base model's name in place of a folder of this machine."""
    path = files.get(ADAPTER_CONFIG)
    if path is None or manifest is None or not is_language_model(manifest):
        return {}
    try:
        values = read_json(path)
        # The local file has an absolute path, which would be published.
        values["base_model_name_or_path"] = manifest["model"]["name"]
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged: {error}") from None
    return {ADAPTER_CONFIG: json.dumps(values, indent=2).encode()}


def _notes(manifest: AnyManifest | None, files: Mapping[str, Path]) -> Iterator[str]:
    """Names the files that contain texts of the data."""
    if GOLDEN in files:
        with files[GOLDEN].open("rb") as handle:
            count = sum(bool(line.strip()) for line in handle)
        yield (
            f"{GOLDEN} holds {count:,} row{'s' if count != 1 else ''} of the study's data with "
            "their texts, to check exports. To leave them out, delete the file, or set "
            "bundle.golden: 0 in the recipe."
        )
    if manifest is not None and is_language_model(manifest):
        shots = len(manifest["rendering"].get("shots") or ())
        if shots:
            yield (
                f"bundle.json holds the {shots} training row{'s' if shots != 1 else ''} that the "
                "prompt shows as examples, with their texts."
            )
    if VOCABULARY_FILE in files:
        yield f"{VOCABULARY_FILE} holds every word and word pair of the training texts."
    if any(path.startswith("index/") for path in files):
        yield "index/ holds the passages for retrieval."


def _list_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise UsageError(
                f"{path} is a link; its target may not be meant for publication. Replace it by a "
                "copy"
            )
        if path.is_file():
            yield path


def _make_card(folder: Path, manifest: AnyManifest | None, name: str, *, merged: bool) -> str:
    """The folder's card with new front matter and the download command."""
    path = folder / _CARD
    try:
        text = (
            path.read_text("utf-8")
            if path.is_file()
            else f"# {name}\n\nNo card came with this model.\n"
        )
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    # Front matter of an earlier publication is replaced.
    text = re.sub(r"\A---\n.*?\n---\n+", "", text, flags=re.S)
    if "THIS_FOLDER" in text:
        text = text.replace(
            "## Load it\n",
            f"## Load it\n\nTHIS_FOLDER is where `hf download {name} --local-dir THIS_FOLDER` puts "
            "it.\n",
            1,
        )
    return f"{front_matter(manifest, merged=merged)}\n{text}"


def _check_files(folder: Path, files: dict[str, Path], card: str) -> None:
    problems = [
        f"{name}: a pickle can run code when it is loaded"
        for name, path in files.items()
        if may_be_pickle(path)
    ]
    for name, path in files.items():
        private = next(
            (part for part in Path(name).parts if _PRIVATE.fullmatch(part) or part == ".git"), None
        )
        # JSON files are searched for secrets instead: a tokenizer has files like tokens.json.
        if private is not None and path.suffix != ".json":
            problems.append(f"{name}: its name ({private}) is that of a private file")
        elif name != _CARD and path.suffix != ".safetensors":
            with path.open("rb") as handle:
                # Latin-1 decodes any bytes, and secrets are plain ASCII in every encoding.
                lines = (line.decode("latin-1") for line in handle)
                problems += [f"{name}:{number}: {kind}" for number, kind in find_secrets(lines)]
    problems += [f"{_CARD}:{number}: {kind}" for number, kind in find_secrets(card.splitlines())]
    if problems:
        more = f"\n  … and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise UsageError(
            f"{folder} is not published:\n"
            + "\n".join(f"  - {problem}" for problem in problems[:12])
            + more
            + "\nRemove them (and change a key that was in a file), then try again"
        )


def publish(upload: UploadPlan, *, private: bool = True, update: bool = False) -> str:
    """Upload in one commit.

    Args:
        upload: files and card.
        private: whether a new repository is private.
        update: whether to write to an existing repository.

    Returns:
        URL of the repository.

    Raises:
        Failure: the hub is unreachable, or refuses (no login, no permission, name taken).
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
        raise Failure(
            f"the hub cannot be reached at {constants.ENDPOINT}; nothing was published. Check the "
            "network, HF_ENDPOINT "
            "and HF_HUB_OFFLINE"
        )
    # Whether the repository was made decides what to advise after a failure.
    hub, created = HfApi(), False
    try:
        with spinner(f"Publishing {upload.name}"):
            # Only with --update may it exist, so that a mistyped name overwrites nothing.
            repository = hub.create_repo(upload.name, private=private, exist_ok=update)
            created = True
            contents = {
                name: upload.replaced.get(name, upload.folder / name) for name in upload.files
            }
            hub.create_commit(
                repository.repo_id,
                [CommitOperationAdd(name, content) for name, content in contents.items()],
                commit_message="Published with Prooftune",
            )
    except LocalTokenNotFoundError:
        raise Failure(_NO_LOGIN) from None
    except HfHubHTTPError as error:
        raise Failure(_explain_hub_error(error, upload.name, created)) from None
    except (OSError, ValueError) as error:
        raise Failure(
            f"the upload to {upload.name} broke off: {_first_line(error)}. "
            "Run the same command with "
            "--update"
        ) from None
    # huggingface_hub lets httpx's exceptions through.
    except Exception as error:
        if not type(error).__module__.startswith("httpx"):
            raise
        raise Failure(
            f"the connection to {constants.ENDPOINT} broke off: {_first_line(error)}. Run the same "
            "command again"
            f"{' with --update' if created else ''}"
        ) from None
    return str(repository)


_NO_LOGIN = "the hub wants a login: run 'hf auth login', or set HF_TOKEN to a token that may write"


def _explain_hub_error(error: HfHubHTTPError, name: str, created: bool) -> str:
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
    return f"the hub refused {name}: {_first_line(error)}{done}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
