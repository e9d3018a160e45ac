"""Every command of the README and of the pages for beginners is run on a tiny model, in the page's
order, each page in a folder of its own."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from prooftune import cli, recipe
from prooftune.models import embeddings, loading
from retrieval.tiny import bert

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/index.md", "docs/data.md", "docs/questions.md")
RUN_ELSEWHERE = ("prooftune demo",)
"""By tests/test_real_model.py, with the real model, and by the smoke test."""
SET_UP = ("make ", "python3 -m venv", ".venv/bin/pip", ". .venv/bin/activate")


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of a page's code blocks."""
    text = (ROOT / page).read_text("utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def commands(page: str) -> list[str]:
    lines = [
        line.strip()
        for language, text in blocks(page)
        if language in ("", "sh")
        for line in text.splitlines()
    ]
    return [line for line in lines if line and not line.startswith("runs/")]


def test_make_knows_every_target_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^make ([\w-]+)|`make ([\w-]+)`", (ROOT / "README.md").read_text(), re.M)
    assert targets
    for target in map("".join, targets):
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_only_commands_that_are_run(page: str) -> None:
    for line in commands(page):
        assert line.startswith(("prooftune ", *SET_UP)), line


def test_files_that_the_readme_names_exist() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    paths = re.findall(r"\]\((docs/[^)]+|CHANGELOG\.md)\)|(?:src|srcset)=\"([^\"]+)\"", readme)
    assert len(paths) > 5
    for path in map("".join, paths):
        assert (ROOT / path).exists(), path


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 6000


@pytest.mark.parametrize(
    ("page", "text"),
    [(page, text) for page in PAGES for language, text in blocks(page) if language == "yaml"],
)
def test_a_complete_recipe_on_a_page_is_valid(tmp_path: Path, page: str, text: str) -> None:
    if not text.startswith("name:"):
        pytest.skip("a part of a recipe")
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    assert recipe.load(tmp_path / "recipe.yaml")[0].name


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_ends_well(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model_folders: dict[str, Path],
    page: str,
) -> None:
    prepare(tmp_path, monkeypatch, model_folders["llama3"])
    lines = [
        line
        for line in commands(page)
        if line.startswith("prooftune ") and line not in RUN_ELSEWHERE
    ]
    assert lines
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code in (0, None), (line, capsys.readouterr())
    output = capsys.readouterr().out
    if any("prooftune search" in line for line in lines):
        assert "privacy.md, Data" in output
    if any("prooftune run reviews.yaml" in line for line in lines):
        assert (tmp_path / "runs/reviews/report.html").is_file()
        assert len((tmp_path / "labelled.csv").read_text("utf-8").splitlines()) == 3
        for language, example in blocks(page):
            if language == "python" and "reviews" in example:
                exec(compile(example, page, "exec"), {})


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """Files and models under the names that the pages use; the embedded models' names mean tiny
    ones here, and are tested with the real ones elsewhere."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO("loved good film\n"))  # typed into chat
    shutil.copytree(model, folder / "meta-llama" / "Llama-3.2-1B")
    monkeypatch.setitem(loading.ALIASES, loading.DEFAULT_MODEL, str(model))
    monkeypatch.setitem(
        embeddings.ALIASES, embeddings.DEFAULT_EMBEDDING, str(bert(folder / "encoder"))
    )
    good = [f"loved good film {i} very good yes,good" for i in range(30)]
    bad = [f"hated bad film {i} no bad no,bad" for i in range(30)]
    rows = [row for pair in zip(good, bad, strict=True) for row in pair]
    (folder / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    (folder / "march.csv").write_text("text,label\n" + "\n".join(rows[::-1]) + "\n", "utf-8")
    (folder / "new.csv").write_text("text\nloved good film\nhated bad film\n", "utf-8")
    (folder / "policies").mkdir()
    (folder / "policies" / "privacy.md").write_text(
        "# Data\n\nPersonal data is kept for two years.\n", "utf-8"
    )
