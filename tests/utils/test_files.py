"""Files are old or new, never half; what stops a write is said with its place."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prooftune.errors import Failure
from prooftune.utils import files
from prooftune.utils.files import (
    atomic_path,
    explain_full_disk,
    fingerprint,
    read_json,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def make_folder(path: Path, **content: str) -> None:
    path.mkdir()
    for name, text in content.items():
        (path / name).write_text(text)


def test_an_exception_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        raise KeyError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_exception_keeps_the_old_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "model", a="old")
    with pytest.raises(KeyError), atomic_path(tmp_path / "model") as temporary:
        make_folder(temporary, b="half")
        raise KeyError
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["a"]


def test_folders_are_replaced_whole(tmp_path: Path) -> None:
    make_folder(tmp_path / "model", a="old", b="old")
    with atomic_path(tmp_path / "model") as temporary:
        make_folder(temporary, b="new")
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["b"]
    assert (tmp_path / "model" / "b").read_text() == "new"


def test_a_folder_and_a_file_replace_each_other(tmp_path: Path) -> None:
    make_folder(tmp_path / "x", a="old")
    write_text(tmp_path / "x", "file")
    assert (tmp_path / "x").read_text() == "file"
    assert names(tmp_path) == ["x"]


def test_parents_are_made_and_the_umask_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "ü")
    (tmp_path / "plain").write_text("")
    assert path.read_bytes() == "ü".encode()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_private_files_of_a_library_get_the_umasks_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "bundle") as temporary:
        (temporary / "adapter").mkdir(parents=True)
        for path in (temporary / "own.json", temporary / "adapter" / "weights"):
            path.write_text("")
            path.chmod(0o600)
        (temporary / "program").write_text("")
        (temporary / "program").chmod(0o700)
    usual = (tmp_path / "plain").stat().st_mode
    for name in ("own.json", "adapter/weights"):
        assert (tmp_path / "bundle" / name).stat().st_mode == usual
    assert (tmp_path / "bundle" / "program").stat().st_mode == usual | 0o100


def test_a_full_disk_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Failure, match=r"the disk is full: cannot write .*a\.txt \(\d+ MB free\)"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are POSIX")
def test_a_write_that_really_stops_half_way_keeps_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    code = (
        "import resource, sys, pathlib; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from prooftune import errors\nfrom prooftune.utils import files\n"
        "try: files.write_text(pathlib.Path(sys.argv[1]), 'x' * 100_000)\n"
        "except errors.Failure as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.txt")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"cannot write {tmp_path / 'a.txt'}: {os.strerror(errno.EFBIG)}"
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_without_space_is_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(Failure, match="the disk is full"),
        atomic_path(tmp_path / "a.txt"),
        Path("/dev/full").open("w") as handle,
    ):
        handle.write("x" * 100_000)


def test_a_library_that_hits_a_full_disk_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(Failure, match="the disk is full"),
        explain_full_disk(tmp_path, RuntimeError),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="shape"), explain_full_disk(tmp_path, RuntimeError):
        raise RuntimeError("shape mismatch")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 4096}))
    with (
        pytest.raises(Failure, match="the disk is full"),
        explain_full_disk(tmp_path, RuntimeError),
    ):
        raise RuntimeError("unexpected pos 576 vs 534")


def test_an_unwritable_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match=r"cannot write .*file/a\.txt: "):
        write_text(tmp_path / "file" / "a.txt", "x")
    with (
        pytest.raises(Failure, match=r"cannot write .*: "),
        atomic_path(tmp_path / "a") as temporary,
    ):
        (temporary / "in a folder that is not there").write_text("x")


def test_an_error_about_another_file_is_not_taken_for_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input"), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "input").read_text()


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": {"b": -float("inf")}}])
def test_json_rejects_nan_and_infinity(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, value)
    assert read_json(path) == 1
    assert names(tmp_path) == ["a.json"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def backwards(value: Any) -> Any:
    """The same value with every mapping's keys in reverse."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(list(value))}
    return [backwards(v) for v in value] if isinstance(value, list) else value


@given(json_values)
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    assert (
        fingerprint(value)
        == fingerprint(backwards(value))
        == fingerprint(json.loads(json.dumps(value)))
    )


@given(json_values, json_values)
def test_fingerprints_of_different_values_differ(a: Any, b: Any) -> None:
    assert (fingerprint(a) == fingerprint(b)) == (
        json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    )


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        files.sha256(tmp_path / "a")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.setenv("PROOFTUNE_CACHE", "")
    assert files.cache_folder() == Path.home() / ".cache" / "prooftune"
