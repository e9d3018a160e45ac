"""Messages of `predict` and `serve` that name a way out: what they name then works."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from batch_predict.test_predict_file import load_once, write_csv, write_lines
from prooftune.batch_predict import predict, predict_file, ray_cluster
from prooftune.batch_predict.columns import resolve_output_names
from prooftune.data.readers.streaming import scan_file
from prooftune.errors import Failure, UsageError
from prooftune.serving.keys import MIN_KEY_LENGTH, read_keys
from prooftune.serving.registry import parse_bundle_arguments
from ways_out import follows, names, refused

__all__ = ["load_once"]


def test_the_output_is_given_another_name(bundle: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "in.csv", ["text"], [["goal scored"]])
    with refused("is the input itself; give --out another name"):
        predict_file(bundle, file, file)
    taken = write_csv(tmp_path / "taken.csv", ["x"], [["y"]])
    with refused("is not an output of predict; give --out another name, or remove it"):
        predict_file(bundle, file, taken)
    assert predict_file(bundle, file, tmp_path / "out.csv").rows == 1
    taken.unlink()
    assert predict_file(bundle, file, taken).rows == 1


def test_a_column_of_one_name_is_left(bundle: Path, tmp_path: Path) -> None:
    rows = [["goal scored", "b", "planet orbit"]]
    with refused("which this bundle reads; rename or remove the others in the file"):
        file = write_csv(tmp_path / "in.csv", ["text", "x", "text"], rows)
        predict_file(bundle, file, tmp_path / "out.csv")
    file = write_csv(tmp_path / "renamed.csv", ["text", "x", "other"], rows)
    assert predict_file(bundle, file, tmp_path / "out.csv").rows == 1
    file = write_csv(tmp_path / "removed.csv", ["text", "x"], [rows[0][:2]])
    assert predict_file(bundle, file, tmp_path / "out2.csv").rows == 1


def test_a_column_that_is_missing(bundle: Path, tmp_path: Path) -> None:
    rows = [["1", "goal scored"], ["2", "planet orbit"]]
    with refused("Rename the file's columns, or add a header"):
        predict_file(bundle, write_csv(tmp_path / "in.csv", ["n", "x"], rows), tmp_path / "o.csv")
    file = write_csv(tmp_path / "renamed.csv", ["n", "text"], rows)
    assert predict_file(bundle, file, tmp_path / "out.csv").rows == 2
    with refused("Rename the file's columns, or add a header"):
        predict_file(bundle, write_csv(tmp_path / "in.csv", rows[0], rows[1:]), tmp_path / "o.csv")
    file = write_csv(tmp_path / "headed.csv", ["n", "text"], rows)
    assert predict_file(bundle, file, tmp_path / "out2.csv").rows == 2


def test_a_suffix_that_is_written(bundle: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "in.csv", ["text"], [["goal scored"]])
    with refused("{…}: {…} name must end in {…}{…}") as error:
        predict_file(bundle, file, tmp_path / "out.docx")
    for suffix in re.findall(r"\.(?:csv|tsv|jsonl|ndjson|parquet)\b", str(error.value)):
        assert predict_file(bundle, file, tmp_path / f"out{suffix}").rows == 1


def test_values_of_several_types_are_written_as_json_lines(bundle: Path, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"text": "goal scored", "x": 1},
        {"text": "planet orbit", "x": {"a": "b"}},
    ]
    file = write_lines(tmp_path / "in.jsonl", records)
    with refused("values of several types, which {…} cannot hold; write .jsonl instead"):
        predict_file(bundle, file, tmp_path / "out.parquet")
    predict_file(bundle, file, tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").open(encoding="utf-8")]
    assert [{k: r[k] for k in ("text", "x")} for r in written] == records


def test_names_of_served_bundles() -> None:
    for arguments, message in (
        (["a/bundle", "b/a/bundle"], follows("have the same name {…}; give names: NAME={…}")),
        (["some folder"], follows("dot, dash, underscore); give one: NAME={…}")),
    ):
        with pytest.raises(UsageError) as error:
            parse_bundle_arguments(arguments)
        assert names(message, str(error.value))
        named = re.search(r"NAME=(.+)$", str(error.value))
        assert named is not None
        others = [f"other={named[1]}" if a == named[1] else a for a in arguments]
        assert str(parse_bundle_arguments(others)["other"]) == named[1]


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROOFTUNE_API_KEYS", raising=False)
    file = tmp_path / "keys.txt"
    file.write_text("# none yet\n")
    with refused("holds no key; write one per line, or omit --keys to allow access without a key"):
        read_keys(file)
    assert read_keys(None) == []
    file.write_text("short\n")
    with refused("shorter than {…} characters; make a random one: openssl rand -hex 24"):
        read_keys(file)
    key = "0123456789abcdef" * 3  # as many digits as `openssl rand -hex 24` prints
    assert len(key) == 48 >= MIN_KEY_LENGTH
    file.write_text(f"{key}\n")
    assert read_keys(file) == [key]


def test_columns_that_are_renamed() -> None:
    columns = ["text", "label", "predicted_label"]
    with refused("already, where the answers would be written; rename them in the file"):
        resolve_output_names("in.csv", columns, ["label"])
    assert resolve_output_names("in.csv", ["text", "label", "old"], ["label"])


def test_a_file_that_no_longer_changes(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_csv(tmp_path / "in.csv", ["text"], [["goal scored"]] * 3)
    scan = scan_file

    def longer(*arguments: Any) -> Any:
        stream = scan(*arguments)
        return replace(stream, rows=stream.rows + 1)

    with monkeypatch.context() as patch:
        patch.setattr(predict, "scan_file", longer)
        with refused("rows, and {…} were found. Run the same command again", Failure):
            predict_file(bundle, file, tmp_path / "out.csv")
    assert predict_file(bundle, file, tmp_path / "out.csv").rows == 3


def test_options_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("--workers is an option of --engine ray; leave it out, or add --engine ray"):
        predict._check_engine("local", 2)
    predict._check_engine("local", None)
    with refused("no engine '{…}'{…}; there are {…}"):
        predict._check_engine("locl", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with refused("--engine ray needs Ray Data: pip install 'prooftune[ray]'"):
        predict._check_engine("ray", 2)
    ray, data = ModuleType("ray"), ModuleType("ray.data")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with refused("Run the command on a machine of the cluster with RAY_ADDRESS=auto, or as a job"):
        predict._check_engine("ray", 2)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    predict._check_engine("ray", 2)
    died = type("Died", (Exception,), {})
    errors = dict.fromkeys(("RayActorError", "WorkerCrashedError", "OutOfMemoryError"), died)
    ray.exceptions = SimpleNamespace(**errors)  # type: ignore[attr-defined]
    message = str(ray_cluster._explain_error(died("killed")))
    fewer = follows("try fewer --workers, or machines with more. The same command resumes after")
    assert names(fewer, message)
    predict._check_engine("ray", 1)
