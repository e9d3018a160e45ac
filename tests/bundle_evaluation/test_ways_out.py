"""Messages of `evaluate` that name a way out: the named option or file is read."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

from bundle.making import make_bundle
from bundle_evaluation.test_rows import manifest, study, write
from prooftune.bundle_evaluation import quantization_table
from prooftune.bundle_evaluation.evaluate import _open, _other_rows
from prooftune.bundle_evaluation.measured_table import TableRequest
from prooftune.bundle_evaluation.rows import read_rows
from ways_out import refused


def test_columns_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "title,verdict\nx,good\n")
    with refused("{…}. Other columns: --text COLUMN, --label COLUMN"):
        read_rows(file, manifest(), study())
    assert read_rows(file, manifest(), study(), ["title"], "verdict").examples
    with refused("Give one --text for each, in this order"):
        read_rows(file, manifest(), study(), ["title", "verdict"], "verdict")
    both = manifest(fields=["head", "body"])
    two = write(tmp_path / "b.csv", "title,text,verdict\nx,y,good\n")
    read = read_rows(
        two, both, study(text={"head": "a", "body": "b"}), ["title", "text"], "verdict"
    )
    assert read.examples[0].inputs == {"head": "x", "body": "y"}


def test_labels_that_the_bundle_knows(tmp_path: Path) -> None:
    rows = "text,label,verdict\nx,good,good\ny,goood,bad\n"
    file = write(tmp_path / "a.csv", rows)
    with refused("Rename these labels, remove the rows, or name the right column with --label"):
        read_rows(file, manifest(), study())
    for content in (rows.replace("goood", "good"), rows.rpartition("y,")[0]):
        assert read_rows(write(tmp_path / "b.csv", content), manifest(), study()).examples
    assert len(read_rows(file, manifest(), study(), None, "verdict").examples) == 2


def test_the_column_of_a_slice(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "text,label,source\nx,good,web\n")
    with refused("--slice {…}: {…}") as error:
        read_rows(file, manifest(), study(), slices=["sorce"])
    assert "did you mean 'source'?" in str(error.value)
    assert read_rows(file, manifest(), study(), slices=["source"]).slices == {"source": ["web"]}


def test_another_bundle_with_its_recipe(model_folders: dict[str, Path], tmp_path: Path) -> None:
    first = make_bundle(tmp_path / "first", model_folders["llama"])
    second = Path(shutil.copytree(first, tmp_path / "second"))
    file = write(tmp_path / "a.csv", "text,label\ngoal,Sports\n")
    recipe = (second / "recipe.yaml").read_bytes()
    (second / "recipe.yaml").unlink()
    with refused("Copy the file from the run folder, or use the bundle as the study wrote it"):
        _open(second)
    (second / "recipe.yaml").write_bytes(recipe)
    known, read = _open(second)
    rows = read_rows(file, known, read, None, None)
    with refused("{…} is the bundle itself; --against takes another one"):
        _other_rows(first, first, known, rows, file, None, None)
    assert _other_rows(first, second, known, rows, file, None, None) is not None


def test_the_library_of_quantization(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NextStage(Exception):
        pass

    def run(*_: object) -> None:
        raise NextStage

    found = importlib.util.find_spec
    bundle = make_bundle(tmp_path / "first", model_folders["llama"])
    file = write(tmp_path / "a.csv", "text,label\ngoal,Sports\n")
    request = TableRequest(bundle, str(file), None, None, None)
    monkeypatch.setattr(quantization_table, "_run_quantized", run)

    def spec(available: bool) -> Any:
        return lambda name: (
            (object() if available else None) if name == "bitsandbytes" else found(name)
        )

    monkeypatch.setattr(importlib.util, "find_spec", spec(False))
    with refused("bitsandbytes is not installed: pip install 'prooftune[quantization]'"):
        quantization_table.quantization_table(request)
    monkeypatch.setattr(importlib.util, "find_spec", spec(True))
    with pytest.raises(NextStage):
        quantization_table.quantization_table(request)
