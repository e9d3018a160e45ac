"""Files by URL: fetched once, stored whole, and no word of what is secret in the URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow.fs as fs
import pytest

from prooftune.batch_predict import predict_file, storage
from prooftune.errors import Failure, UsageError

CSV = "text\ngoal scored\nplanet orbit\n"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for a bucket: s3://bucket/… is what lies in it."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    monkeypatch.setattr(
        storage,
        "open_storage",
        lambda url: (
            fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()),
            url.split("?")[0].removeprefix("s3://"),
        ),
    )
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    return folder


def test_what_is_read_and_written_by_url_is_as_with_files(
    bundle: Path, tmp_path: Path, bucket: Path
) -> None:
    (bucket / "in.csv").write_text(CSV)
    (tmp_path / "in.csv").write_text(CSV)
    predict_file(bundle, tmp_path / "in.csv", tmp_path / "out.csv")
    assert predict_file(bundle, "s3://bucket/in.csv?region=x", "s3://bucket/out.csv").rows == 2
    assert (bucket / "out.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    assert list((tmp_path / "cache" / "predict").iterdir()) == []


def test_an_output_that_is_not_taken_costs_no_row(
    bundle: Path, tmp_path: Path, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bucket / "in.csv").write_text(CSV)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("access denied")

    with monkeypatch.context() as patched:
        patched.setattr(fs, "copy_files", refuse)
        with pytest.raises(Failure, match=r"^s3://bucket/out\.csv: access denied$"):
            predict_file(bundle, "s3://bucket/in.csv", "s3://bucket/out.csv?secret_key=abc")
    assert (
        predict_file(bundle, "s3://bucket/in.csv", "s3://bucket/out.csv?secret_key=abc").resumed
        == 2
    )


def test_a_file_is_fetched_again_only_where_it_has_changed(tmp_path: Path, bucket: Path) -> None:
    (bucket / "in.csv").write_text(CSV)
    copy = tmp_path / "copy.csv"
    storage.download("s3://bucket/in.csv", copy)
    assert copy.read_text() == CSV
    times = copy.stat().st_mtime_ns
    copy.write_text(CSV.replace("goal", "luna"))
    os.utime(copy, ns=(times, times))
    storage.download("s3://bucket/in.csv", copy)
    assert "luna" in copy.read_text()
    os.utime(bucket / "in.csv", ns=(0, 10**18))
    storage.download("s3://bucket/in.csv", copy)
    assert copy.read_text() == CSV


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://bucket/none.csv", "^s3://bucket/none.csv: no such file$"),
        (
            "s3://bucket/in.xlsx?access_key=abc",
            "^s3://bucket/in.xlsx: the input's name must end in",
        ),
    ],
)
def test_what_will_not_do(
    bundle: Path, tmp_path: Path, bucket: Path, place: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        predict_file(bundle, place, tmp_path / "out.csv")


def test_unknown_storage_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^nope://x/in\.csv: "):
        storage.download("nope://x/in.csv", tmp_path / "in.csv")


def test_files_by_url_are_files(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a b.csv").write_text(CSV)
    assert (
        predict_file(bundle, (tmp_path / "a b.csv").as_uri(), (tmp_path / "out.csv").as_uri()).rows
        == 2
    )
    assert (tmp_path / "out.csv").is_file()
    with pytest.raises(UsageError, match="is the input itself"):
        predict_file(bundle, (tmp_path / "a b.csv").as_uri(), tmp_path / "a b.csv")


def test_passwords_are_not_shown() -> None:
    assert "secret" not in storage.display_name("s3://key:secret@bucket/in.csv?token=secret")
    assert storage.display_name("s3://bucket/in.csv?x=1") == "s3://bucket/in.csv"
