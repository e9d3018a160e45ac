"""The examples run: notebooks on the embedded model with few rows, scripts on a tiny one."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from retrieval.tiny import bert
from standins.random_words import random_words

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LIMITS = re.compile(r'"limit": \{"train": \d+, "validation": \d+, "test": \d+\}')
QUICK = ["training.num_train_epochs=1", "evaluation.resamples=100", "model.dtype=float32"]


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_name_no_machine(path: Path) -> None:
    cells = code_cells(path)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(cell["execution_count"] for cell in cells)
    assert {output["output_type"] for output in outputs} >= {"execute_result", "stream"}
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert "<table>" in json.dumps(outputs)  # the result displays itself
    assert not re.search(r"/(root|home|tmp|work|Users)/", json.dumps(outputs))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_full_setting_is_a_valid_recipe(path: Path, tmp_path: Path) -> None:
    from prooftune import recipe

    names: dict[str, Any] = {}
    for cell in code_cells(path):
        source = "".join(cell["source"]).replace("FULL = False", "FULL = True")
        if "prooftune.check(" in source:
            break
        exec(compile(source, path.name, "exec"), names)
    assert names["FULL"] is True and "Llama" in str(names["recipe"]["model"])
    assert recipe.parse(names["recipe"]).variants["tuned"].kind == "tuned"


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    notebook = nbformat.read(path, as_version=4)
    changed = 0
    for cell in notebook.cells:
        few = '"limit": {"train": 24, "validation": 12, "test": 12}'
        cell.source, found = LIMITS.subn(few, cell.source)
        changed += found
    assert changed == 1
    shutil.copy(EXAMPLES / "headlines.txt", tmp_path)
    options = {"timeout": 600, "kernel_name": "python3"}
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, resources=resources, **options).execute()
    [folder] = (tmp_path / "runs").iterdir()
    assert (folder / "report.html").is_file() and (folder / "bundle" / "bundle.json").is_file()


@pytest.mark.slow
def test_a_csv_is_labelled_and_served(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    testclient = pytest.importorskip("fastapi.testclient", reason="fastapi is not installed")
    monkeypatch.chdir(tmp_path)
    rows = [f"loved good film {n},good\nhated bad film {n},bad" for n in range(30)]
    Path("reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n", "utf-8")
    Path("new.csv").write_text("text\nloved good film\nhated bad film\n", "utf-8")
    options = [f"model.name={model_folders['llama']}", *QUICK]
    run_script(monkeypatch, "label_csv.py", "reviews.csv", "new.csv", "labelled.csv", *options)
    assert "tuned" in capsys.readouterr().out
    labels = [line.split(",")[1] for line in Path("labelled.csv").read_text("utf-8").splitlines()]
    assert labels[0] == "label" and set(labels[1:]) <= {"good", "bad"}

    monkeypatch.setenv("BUNDLE", "runs/labels/bundle")
    app = run_script(monkeypatch, "bundle_in_fastapi.py")["app"]
    reply = testclient.TestClient(app).post("/label", json=["loved good film", "hated bad film"])
    assert [row["label"] for row in reply.json()] == labels[1:]


@pytest.mark.slow
def test_questions_are_answered_from_documents(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policies").mkdir()
    Path("policies/privacy.md").write_text("# Data\n\nData is kept for two years.\n", "utf-8")
    rows = [f"How long is {random_words(n)} kept?,two years" for n in range(40)]
    Path("questions.csv").write_text("\n".join(["question,answer", *rows]) + "\n", "utf-8")
    options = [
        f"model.name={model_folders['llama']}",
        f"retrieval.embedding={bert(tmp_path / 'encoder')}",
        "answering.max_new_tokens=4",
        *QUICK,
    ]
    run_script(monkeypatch, "ask_documents.py", "policies", "questions.csv", *options)
    assert "tuned" in capsys.readouterr().out
