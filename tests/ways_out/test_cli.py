"""Messages of the command line that name a way out: the command that follows them succeeds."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.main import get_command

import prooftune as prooftune_package
from data.test_init_evidence import ROWS
from prooftune import recipe as recipes
from prooftune.cli.app import app
from prooftune.cli.suggestions import OTHER_NAMES
from prooftune.data.export import FORMATS
from test_cli import prooftune
from ways_out import follows, names, refused
from ways_out.messages import all_messages

CSV = "text,label\n" + "".join(f"{t},{x}\n" for t, x in ROWS)


class Commands:
    """Runs commands in a folder with the file and the recipe of a small study."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capture = patch, capture
        Path("a.csv").write_text(CSV)
        recipe: dict[str, Any] = {"name": "a", "data": {"train": "a.csv"}, "variants": ["tuned"]}
        Path("a.yaml").write_text(yaml.safe_dump(recipe))

    def refused(self, message: str, *arguments: str) -> str:
        assert prooftune(self.patch, *arguments) in (1, 2)
        error = self.capture.readouterr().err
        assert names(message, error), error
        return error

    def works(self, *arguments: str) -> str:
        code = prooftune(self.patch, *arguments)
        output, error = self.capture.readouterr()
        assert code == 0, error
        return output


@pytest.fixture
def commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    return Commands(monkeypatch, capsys)


@pytest.mark.slow
def test_init_writes_another_file_or_over_the_old_one(commands: Commands) -> None:
    message = follows("{…} exists; choose another name (--out, out=), or overwrite it (--force,")
    commands.refused(message, "init", "a.csv")
    commands.works("init", "a.csv", "--out", "b.yaml")
    commands.works("init", "a.csv", "--force")
    assert recipes.load("b.yaml")[0].data == recipes.load("a.yaml")[0].data


@pytest.mark.slow
def test_init_of_a_file_or_of_a_config(commands: Commands) -> None:
    message = follows("init: give either a data file, or --from with another tool's config")
    config = {"base_model": "a/b", "datasets": [{"path": "a/b", "type": "alpaca"}]}
    Path("lora.yaml").write_text(yaml.safe_dump(config))
    commands.refused(message, "init")
    commands.refused(message, "init", "a.csv", "--from", "lora.yaml")
    flags = follows("init: {…} cannot be combined with --from; leave out one or the other")
    commands.refused(flags, "init", "--from", "lora.yaml", "--label", "label")
    commands.works("init", "--from", "lora.yaml")
    commands.works("init", "a.csv", "--label", "label", "--out", "c.yaml")


def test_names_of_demos(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    error = commands.refused(follows("demo: expected one of {…}, found '{…}'{…}"), "demo", "review")
    studies: list[str] = []
    monkeypatch.setattr("prooftune.study.demo.fit_rows", lambda *_: [])
    monkeypatch.setattr("prooftune.cli.studies._run_study", lambda name, *_: studies.append(name))
    for name in ("reviews", "qa"):
        assert name in error
        commands.works("demo", name)
    assert studies == ["demo", "demo-qa"]


@pytest.mark.slow
def test_formats_and_tools_of_an_export(commands: Commands) -> None:
    export = ("data", "export", "a.yaml", "--out")
    formats = follows("--format: expected one of {…}, found '{…}'{…}")
    assert "(did you mean 'alpaca'?)" in commands.refused(
        formats, *export, "o", "--format", "alpac"
    )
    for name in FORMATS:
        assert (Path(name) / "train.jsonl").name in commands.works(*export, name, "--format", name)
    tools = follows("--to: expected one of {…}, found '{…}'{…}")
    assert "(did you mean 'axolotl'?)" in commands.refused(tools, *export, "o", "--to", "axolot")
    variant = follows("--variant needs --to")
    commands.refused(variant, *export, "o", "--variant", "tuned")
    for tool in ("axolotl", "llama-factory", "torchtune"):
        commands.works(*export, tool, "--variant", "tuned", "--to", tool, "--model", "Llama-3.2-1B")


def test_the_output_of_join(commands: Commands) -> None:
    Path("texts.csv").write_text("id,text\n1,good\n2,bad\n")
    Path("labels.csv").write_text("id,label\n1,p\n2,n\n")
    join = ("data", "join", "texts.csv", "labels.csv", "--out")
    commands.refused(follows("--out: expected a name that ends in .jsonl, found"), *join, "j.csv")
    commands.works(*join, "j.jsonl")
    commands.refused(follows("{…} exists already; --force overwrites it"), *join, "j.jsonl")
    commands.works(*join, "j.jsonl", "--force")


def test_columns_that_join_two_files(commands: Commands) -> None:
    Path("texts.csv").write_text("number,text\n1,good\n2,bad\n3,fine\n")
    Path("labels.csv").write_text("id,label\n1,p\n2,n\n")
    join = ("data", "join", "texts.csv", "labels.csv", "--out", "j.jsonl")
    message = follows("Add one, or give it the same name in both")
    commands.refused(message, *join)
    Path("labels.csv").write_text("number,label\n1,p\n2,n\n")
    commands.works(*join)
    other = follows("--on: '{…}' is no column with unique values in both files")
    assert "'number' would be" in commands.refused(other, *join, "--force", "--on", "label")
    commands.works(*join, "--force", "--on", "number")


def test_files_that_are_joined_line_by_line(commands: Commands) -> None:
    Path("texts.txt").write_text("".join(f"{t}\n" for t, _ in ROWS))
    Path("labels.txt").write_text("".join(f"{x}\n" for _, x in ROWS))
    join = ("data", "join", "texts.txt", "labels.txt", "--out", "j.jsonl")
    message = follows("and has no column '{…}'; leave out --on to join line by line")
    commands.refused(message, *join, "--on", "id")
    commands.works(*join)


def test_what_power_computes(commands: Commands) -> None:
    message = follows("power: give either --difference or --rows")
    power = ("power", "--accuracy", "0.9")
    commands.refused(message, *power)
    commands.refused(message, *power, "--rows", "99", "--difference", "9")
    commands.works(*power, "--rows", "99")
    commands.works(*power, "--difference", "5")
    share = follows("points are too few to be tested; for {…} points give --difference {…}")
    error = commands.refused(share, *power, "--difference", "0.02")
    assert "for 2 points give --difference 2" in error
    assert "3,3" in commands.works(*power, "--difference", "2")
    # Nothing is promised before the error.
    assert prooftune(commands.patch, *power, "--difference", "12") == 2
    assert "102" not in commands.capture.readouterr().out


def test_data_of_a_shipped_recipe(commands: Commands) -> None:
    message = follows("'prooftune recipes {…}' explains where to get the data; if it is in another")
    commands.refused(message, "data", "export", "swahili-news", "--out", "o")
    assert "git clone" in commands.works("recipes", "swahili-news")
    folder = Path("elsewhere")
    folder.mkdir()
    for split, path in (("train", "train.tsv"), ("validation", "dev.tsv"), ("test", "test.tsv")):
        header = "headline\ttext\tcategory\turl\n"
        rows = "".join(f"{split} {i}\t{split} {i}\t{'ab'[i % 2]}\tx\n" for i in range(9))
        (folder / path).write_text(header + rows)
    commands.works(
        *("data", "export", "swahili-news", "--out", "o"),
        *("--set", f"data.folder={folder.resolve()}", "--set", "audit.near_duplicates=null"),
    )


def test_options_of_other_tables(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(_: object) -> SimpleNamespace:
        return SimpleNamespace(document=None)

    monkeypatch.setattr("prooftune.bundle_evaluation.batching_table.batching_table", table)
    monkeypatch.setattr("prooftune.report.document.print_document", lambda _: None)
    measure = ("evaluate", "bundle", "a.csv", "--table", "batching")
    message = follows("--table {…}: --slice and --against do not apply to it; leave them out")
    for unused in (("--slice", "label"), ("--against", "other")):
        commands.refused(message, *measure, *unused)
    commands.works(*measure)


def test_options_that_need_less_memory(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise MemoryError

    monkeypatch.setattr("prooftune.recipe.describe_shipped", stop)
    message = follows(
        "out of memory. Lower training.per_device_train_batch_size, scoring.batch_tok"
    )
    error = commands.refused(message, "recipes")
    lower = {"training.per_device_train_batch_size": 1, "scoring.batch_tokens": 64}
    for key, value in {**lower, "prompt.max_length": 32}.items():
        assert key in error
        recipes.load("a.yaml", [f"{key}={value}"])


def test_a_command_that_was_stopped_is_run_again(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("prooftune.recipe.describe_shipped", stop)
        assert prooftune(patch, "recipes") == 130
    message = follows("stopped. Run the same command again to resume.")
    assert names(message, commands.capture.readouterr().err)
    commands.works("recipes")


def test_a_run_folder_in_use(tmp_path: Path) -> None:
    from prooftune.run_folder import locked

    with locked(tmp_path / "a"):
        with refused("is using {…}; wait for it, or give another --out"), locked(tmp_path / "a"):
            pass
        with locked(tmp_path / "b"):
            pass
    with locked(tmp_path / "a"):
        pass


OTHER_TOOLS = {"--batch", "--convert-to", "--csv", "--decrypt", "--headless", "--local-dir"}
"""Options of mysql, soffice, psql, qpdf and hf that messages name."""


@pytest.mark.slow
def test_commands_and_options_that_messages_name_exist() -> None:
    known: Any = get_command(app)
    commands = {**known.commands, **known.commands["data"].commands}
    every = [*known.commands.values(), *known.commands["data"].commands.values()]
    options = {o for c in every for p in c.params for o in (*p.opts, *p.secondary_opts)}
    seen = 0
    for message in all_messages(Path(prooftune_package.__file__).parent):
        for name in re.findall(r"(?:'|: )prooftune (?:data )?([a-z]+)\b", message.text):
            assert name in commands, message
            seen += 1
        named = {*re.findall(r"(?<![\w-])--[a-z][a-z-]*", message.text)}
        if "bridges/" not in message.path:
            assert named <= options | OTHER_TOOLS, message
        seen += len(named)
    assert seen > 80


@pytest.mark.slow
def test_an_option_that_is_a_recipe_key_is_set(commands: Commands) -> None:
    message = follows("It is a key of the recipe: use --set {…}={…}")
    for option, key, value in (
        (("--epochs", "1"), "training.num_train_epochs", 1),
        (("--learning-rate=1e-3",), "training.learning_rate", 1e-3),
        (("--seed", "3"), "seed", 3),
    ):
        # A terminal's box breaks lines.
        error = " ".join(commands.refused("{…}", "run", "a.yaml", *option).replace("│", "").split())
        assert names(message, error) and f"{option[0].partition('=')[0]}. It is" in error
        override = error.partition("--set ")[2].split()[0]
        assert override.startswith(f"{key}=")
        recipe = recipes.load("a.yaml", [override])[0].model_dump()
        section, _, leaf = key.rpartition(".")
        assert (recipe[section][leaf] if section else recipe[leaf]) == value
    assert "--set" not in commands.refused("No such option", "run", "a.yaml", "--nonsense")


def test_names_of_other_tools_for_a_command(commands: Commands) -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    message = follows("No such command '{…}'. Did you mean '{…}'?")
    for other, name in OTHER_NAMES.items():
        assert other not in known and name in known
        error = " ".join(commands.refused("{…}", other).replace("│", "").split())
        assert names(message, error) and f"'{name}'" in error
