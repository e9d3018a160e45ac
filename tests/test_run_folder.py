"""The run folder: stages are skipped or redone, one process at a time, and records come back as
they went."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune import run_folder
from prooftune.errors import Failure, UsageError
from prooftune.types import Example, Prediction, Study
from prooftune.utils.files import write_json, write_text


def test_a_finished_stage_is_done_for_the_same_inputs_only(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    assert not run_folder.is_stage_done(stage, "one")
    run_folder.begin_stage(stage, "one")
    assert not run_folder.is_stage_done(stage, "one")
    run_folder.finish_stage(stage, "one")
    assert run_folder.is_stage_done(stage, "one")
    assert not run_folder.is_stage_done(stage, "two")


def test_an_interrupted_stage_keeps_its_files_unless_its_inputs_changed(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    run_folder.begin_stage(stage, "one")
    (stage / "checkpoint").write_text("half-way")
    run_folder.begin_stage(stage, "one")
    assert (stage / "checkpoint").exists()
    run_folder.begin_stage(stage, "two")
    assert [p.name for p in stage.iterdir()] == ["stage.json"]


@pytest.mark.parametrize("marker", ["", "{", "[]", "null"])
def test_a_stage_with_an_unreadable_marker_is_redone(tmp_path: Path, marker: str) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "stage.json").write_text(marker)
    (stage / "old").touch()
    assert not run_folder.is_stage_done(stage, "one")
    run_folder.begin_stage(stage, "one")
    assert not (stage / "old").exists()


@contextmanager
def another_process_in(folder: Path) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys, pathlib; from prooftune import run_folder as runs\n"
        "with runs.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        try:
            yield other
        finally:
            other.kill()


def test_a_folder_held_by_another_process_is_refused_until_that_ends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with another_process_in(run) as other:
        left = run / ".a.tmp"
        left.touch()
        with (
            pytest.raises(Failure, match="another prooftune process is using"),
            run_folder.locked(run),
        ):
            pass
        assert left.exists()  # it may be in use
        other.kill()
        other.wait()
        with run_folder.locked(run):
            assert not left.exists()


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".train.parquet.x1.tmp").touch()
    (tmp_path / ".bundle.x2.tmp" / ".inner.tmp").mkdir(parents=True)
    (tmp_path / "data" / "notes.tmp").touch()  # not ours
    with run_folder.locked(tmp_path):
        pass
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        ".lock",
        "data",
        "data/notes.tmp",
    ]


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"cannot write .*file"), run_folder.locked(tmp_path / "file"):
        pass


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
examples = st.lists(
    st.builds(
        Example,
        texts,
        st.dictionaries(texts, texts, max_size=3),
        st.none() | texts,
        texts,
        st.none() | texts,
    ),
    max_size=3,
)
numbers = st.integers(0, 2**40)
predictions = st.lists(
    st.builds(
        Prediction,
        texts,
        texts,
        st.booleans(),
        st.lists(st.floats(max_value=0, allow_nan=False)).map(tuple),
        numbers,
        numbers,
        texts,
    )
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(examples, examples, examples, st.lists(texts))
def test_a_study_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    train: list[Example],
    validation: list[Example],
    test: list[Example],
    words: list[str],
) -> None:
    folder = tmp_path_factory.mktemp("study")
    study = Study(train, validation, test, words, words[::-1])
    run_folder.write_study(folder, study)
    assert run_folder.read_study(folder) == study


def test_the_order_of_fields_is_kept(tmp_path: Path) -> None:
    study = Study([Example("1", {"z": "漢字", "a": "🎉\n"}, "l")], [], [], ["l"])
    run_folder.write_study(tmp_path, study)
    assert list(run_folder.read_study(tmp_path).train[0].inputs) == ["z", "a"]


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(predictions)
def test_predictions_come_back_as_they_were_and_the_bytes_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, said: list[Prediction]
) -> None:
    folder = tmp_path_factory.mktemp("predictions")
    run_folder.write_predictions(folder / "a.parquet", said)
    run_folder.write_predictions(folder / "seed=1" / "b.parquet", said)
    assert run_folder.read_predictions(folder / "seed=1" / "b.parquet") == said
    assert (folder / "a.parquet").read_bytes() == (folder / "seed=1" / "b.parquet").read_bytes()


def test_a_result_is_read_with_its_name_and_details(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    run_folder.write_predictions(folder / "predictions.parquet", [Prediction("1", "a")])
    run_folder.write_predictions(folder / "validation.parquet", [])
    write_json(folder / "details.json", {"description": "ü"})
    result = run_folder.read_result(folder, "tuned")
    assert (result.name, result.kind, result.details) == ("best", "tuned", {"description": "ü"})
    assert (result.test, result.validation) == ([Prediction("1", "a")], [])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no recipe\.yaml in it"):
        run_folder.open_run(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        run_folder.open_run(tmp_path / "x")
    write_text(tmp_path / "recipe.yaml", "")
    assert run_folder.open_run(tmp_path) == tmp_path
