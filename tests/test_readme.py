"""Every command of the README is run, in its order, in one folder, on a tiny model under the names
that it uses."""

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
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
SET_UP = ("make demo", "python3 -m venv", ".venv/bin/pip", ". .venv/bin/activate")


def commands() -> list[str]:
    lines = [line.strip() for kind, text in BLOCKS if kind == "" for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("runs/")]


def test_the_first_block_is_a_command_that_make_knows() -> None:
    assert commands()[0] == "make demo"
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"`?make (\w+)`?", README)) - {"make"}:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_nothing_is_shown_that_is_not_run() -> None:
    for line in commands():
        assert line.startswith(("prooftune ", *SET_UP)), line


def test_files_that_the_readme_names_exist() -> None:
    for path in re.findall(
        r"\]\((docs/[^)]+)\)|`(benchmarks/[^`]+)`|(requirements/\w+\.txt)", README
    ):
        assert (ROOT / "".join(path)).exists(), path


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "yaml"])
def test_recipes_in_the_readme_are_valid(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    assert recipe.load(tmp_path / "recipe.yaml")[0].name in ("reviews", "policies")


def test_every_command_ends_well(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model_folders: dict[str, Path],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("loved good film\n"))  # what chat is told
    shutil.copytree(model_folders["llama3"], tmp_path / "meta-llama" / "Llama-3.2-1B")
    # The embedded model's name means a tiny one here; that it means the real one is tested with the
    # real one.
    monkeypatch.setitem(loading.ALIASES, loading.DEFAULT_MODEL, str(model_folders["llama3"]))
    good = [f"loved good film {i} very good yes" for i in range(30)]
    bad = [f"hated bad film {i} no bad no" for i in range(30)]
    rows = [
        f"{text},{label}"
        for pair in zip(good, bad, strict=True)
        for text, label in zip(pair, ("good", "bad"), strict=True)
    ]
    (tmp_path / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    (tmp_path / "new.csv").write_text("text\nloved good film\nhated bad film\n", "utf-8")
    monkeypatch.setitem(
        embeddings.ALIASES, embeddings.DEFAULT_EMBEDDING, str(bert(tmp_path / "encoder"))
    )
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "privacy.md").write_text(
        "# Data\n\nPersonal data is kept for two years.\n", "utf-8"
    )
    for line in commands():
        if line.startswith("prooftune "):
            monkeypatch.setattr(sys, "argv", shlex.split(line))
            with pytest.raises(SystemExit) as end:
                cli.main()
            assert end.value.code in (0, None), (line, capsys.readouterr())
    assert "privacy.md, Data" in capsys.readouterr().out
    assert (tmp_path / "runs/reviews/report.html").is_file()
    assert len((tmp_path / "labelled.csv").read_text("utf-8").splitlines()) == 3
    [example] = [text for kind, text in BLOCKS if kind == "python"]
    exec(compile(example, "README.md", "exec"), {})
