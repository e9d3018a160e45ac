"""Messages of `predict` and `serve` that name a way out: what they name then works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from batch_predict.test_predict_file import load_once, write_csv, write_lines
from prooftune.batch_predict import predict_file
from prooftune.errors import UsageError
from prooftune.serving.keys import MIN_KEY_LENGTH, read_keys
from prooftune.serving.registry import parse_bundle_arguments

__all__ = ["load_once"]


def test_the_output_is_given_another_name(bundle: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "in.csv", ["text"], [["goal scored"]])
    with pytest.raises(UsageError, match="is the input itself; give --out another name"):
        predict_file(bundle, file, file)
    taken = write_csv(tmp_path / "taken.csv", ["x"], [["y"]])
    with pytest.raises(UsageError, match="give --out another name, or remove it"):
        predict_file(bundle, file, taken)
    assert predict_file(bundle, file, tmp_path / "out.csv").rows == 1
    taken.unlink()
    assert predict_file(bundle, file, taken).rows == 1


def test_a_column_of_one_name_is_left(bundle: Path, tmp_path: Path) -> None:
    rows = [["goal scored", "b", "planet orbit"]]
    with pytest.raises(UsageError, match="rename or remove the others"):
        file = write_csv(tmp_path / "in.csv", ["text", "x", "text"], rows)
        predict_file(bundle, file, tmp_path / "out.csv")
    file = write_csv(tmp_path / "renamed.csv", ["text", "x", "other"], rows)
    assert predict_file(bundle, file, tmp_path / "out.csv").rows == 1
    file = write_csv(tmp_path / "removed.csv", ["text", "x"], [rows[0][:2]])
    assert predict_file(bundle, file, tmp_path / "out2.csv").rows == 1


def test_a_suffix_that_is_written(bundle: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "in.csv", ["text"], [["goal scored"]])
    with pytest.raises(UsageError, match="name must end in") as error:
        predict_file(bundle, file, tmp_path / "out.docx")
    for suffix in re.findall(r"\.(?:csv|tsv|jsonl|ndjson|parquet)\b", str(error.value)):
        assert predict_file(bundle, file, tmp_path / f"out{suffix}").rows == 1


def test_values_of_several_types_are_written_as_json_lines(bundle: Path, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"text": "goal scored", "x": 1},
        {"text": "planet orbit", "x": {"a": "b"}},
    ]
    file = write_lines(tmp_path / "in.jsonl", records)
    with pytest.raises(UsageError, match=r"write \.jsonl"):
        predict_file(bundle, file, tmp_path / "out.parquet")
    predict_file(bundle, file, tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").open(encoding="utf-8")]
    assert [{k: r[k] for k in ("text", "x")} for r in written] == records


def test_names_of_served_bundles() -> None:
    for arguments in (["a/bundle", "b/a/bundle"], ["some folder"]):
        with pytest.raises(UsageError, match="NAME=") as error:
            parse_bundle_arguments(arguments)
        named = re.search(r"NAME=(.+)$", str(error.value))
        assert named is not None
        others = [f"other={named[1]}" if a == named[1] else a for a in arguments]
        assert str(parse_bundle_arguments(others)["other"]) == named[1]


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROOFTUNE_API_KEYS", raising=False)
    file = tmp_path / "keys.txt"
    file.write_text("# none yet\n")
    with pytest.raises(UsageError, match="write one per line, or omit --keys"):
        read_keys(file)
    assert read_keys(None) == []
    file.write_text("short\n")
    with pytest.raises(UsageError, match="openssl rand -hex 24"):
        read_keys(file)
    key = "0123456789abcdef" * 3  # as many digits as `openssl rand -hex 24` prints
    assert len(key) == 48 >= MIN_KEY_LENGTH
    file.write_text(f"{key}\n")
    assert read_keys(file) == [key]
