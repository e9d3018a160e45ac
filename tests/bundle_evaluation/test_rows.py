"""Labelled rows are read as the bundle's study read its own, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prooftune import recipe
from prooftune.bundle.manifest import Manifest
from prooftune.bundle.manifest_reader import read_manifest
from prooftune.bundle_evaluation.rows import read_rows
from prooftune.errors import UsageError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0_1"


def manifest(**fields: Any) -> Manifest:
    return {**read_manifest(FIXTURE / "classification"), "labels": ["bad", "good"], **fields}  # type: ignore[typeddict-item]


def study(**data: Any) -> recipe.Recipe:
    values = {"train": "train.csv", "text": "text", "label": "label", **data}
    return recipe.parse({"name": "s", "data": values, "variants": {"majority": None}})


def write(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content.encode(encoding))
    return path


def test_columns_of_the_study_are_read_by_default(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "title,verdict\nx,good\ny,bad\n")
    rows = read_rows(file, manifest(), study(text={"text": "title"}, label="verdict"))
    assert [(e.inputs, e.target) for e in rows.examples] == [
        ({"text": "x"}, "good"),
        ({"text": "y"}, "bad"),
    ]
    assert rows.notes == []


def test_named_columns_replace_those_of_the_study(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "title,verdict\nx,good\n")
    with pytest.raises(UsageError, match=r"no column 'label'.*--label COLUMN"):
        read_rows(file, manifest(), study())
    rows = read_rows(file, manifest(), study(), ["title"], "verdict")
    assert rows.examples[0].inputs == {"text": "x"}
    with pytest.raises(UsageError, match="--text names 2 columns, but the bundle reads 1: text"):
        read_rows(file, manifest(), study(), ["title", "verdict"])


def test_labels_unknown_to_the_bundle_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "text,label\nx,good\ny,goood\nz,goood\nw,none\n")
    with pytest.raises(UsageError, match=r"3 of 4 rows .*'goood' \(2\), 'none' \(1\).*'good'"):
        read_rows(file, manifest(), study())


def test_codes_and_names_of_labels_are_both_read(tmp_path: Path) -> None:
    coded = study(labels={"0": "bad", "1": "good"})
    for cells in (("1", "0"), ("good", "bad")):
        file = write(tmp_path / "a.csv", f"text,label\nx,{cells[0]}\ny,{cells[1]}\n")
        assert [e.target for e in read_rows(file, manifest(), coded).examples] == ["good", "bad"]


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("text;label\nx;good\n", "columns are between ';'."),
        ("text\tlabel\nx\tgood\n", "columns are between '\\t'."),
        (
            "Report,May\nBy,me\n\ntext,label\nx,good\n",
            "columns are between ',', and the first 3 line(s) are above the header.",
        ),
    ],
)
def test_separators_and_lines_above_the_header_are_found(
    tmp_path: Path, content: str, note: str
) -> None:
    file = write(tmp_path / "a.csv", content)
    rows = read_rows(file, manifest(), study())
    assert [(e.inputs, e.target) for e in rows.examples] == [({"text": "x"}, "good")]
    assert rows.notes == [f"a.csv: {note}"]
    # The study's own options are obeyed.
    with pytest.raises(UsageError, match=r"has no column|fields, but"):
        read_rows(file, manifest(), study(delimiter="|"))


def test_a_header_that_the_studys_file_did_not_have(tmp_path: Path) -> None:
    layout = study(header=False, columns=["label", "text"])
    file = write(tmp_path / "a.csv", "text,extra,label\nx,1,good\n")
    rows = read_rows(file, manifest(), layout)
    assert [(e.inputs, e.target) for e in rows.examples] == [({"text": "x"}, "good")]
    assert rows.notes == ["a.csv: the first row is a header, unlike in the study's file."]
    file = write(tmp_path / "b.csv", "good,text\nbad,y\n")
    assert [e.inputs["text"] for e in read_rows(file, manifest(), layout).examples] == ["text", "y"]


def test_label_columns_are_read_as_in_the_study(tmp_path: Path) -> None:
    flags = study(label=None, label_columns=["good", "bad"])
    file = write(tmp_path / "a.csv", "text,good,bad,label\nx,1,0,bad\ny,0,1,bad\n")
    assert [e.target for e in read_rows(file, manifest(), flags).examples] == ["good", "bad"]
    named = read_rows(file, manifest(), flags, label="label").examples
    assert [e.target for e in named] == ["bad", "bad"]


def test_layout_options_apply_to_files_with_the_studys_extension_only(tmp_path: Path) -> None:
    layout = study(delimiter=";", header=False, columns=["label", "text"])
    same = write(tmp_path / "a.csv", "good;x\n")
    other = write(tmp_path / "a.jsonl", '{"label": "good", "text": "x"}\n')
    for file in (same, other):
        [example] = read_rows(file, manifest(), layout).examples
        assert (example.inputs, example.target) == ({"text": "x"}, "good")


@pytest.mark.parametrize("own", ["utf-8", "cp1252", "utf-16"])
@pytest.mark.parametrize("actual", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_text_is_right_in_the_studys_encoding_and_in_another(
    own: str, actual: str, tmp_path: Path
) -> None:
    text = "Ein schöner Film über große Gefühle für das ganze Jahr"
    file = write(tmp_path / "a.csv", f"text,label\n{text},good\n", actual)
    rows = read_rows(file, manifest(), study(encoding=own))
    assert rows.examples[0].inputs["text"] == text
    assert bool(rows.notes) is (actual.removesuffix("-sig") != own)


def test_a_group_column_is_optional_in_new_data(tmp_path: Path) -> None:
    grouped = study(group="author")
    with_group = write(tmp_path / "a.csv", "text,label,author\nx,good,Ann\n")
    without = write(tmp_path / "b.csv", "text,label\nx,good\n")
    assert read_rows(with_group, manifest(), grouped).examples[0].group == "Ann"
    rows = read_rows(without, manifest(), grouped)
    assert rows.examples[0].group is None and "no column 'author'" in rows.notes[0]
