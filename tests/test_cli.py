"""The command line: helpful, quick to start, and one message for whatever goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from prooftune import __version__
from prooftune.cli import main
from prooftune.cli.app import app
from prooftune.exporters.formats import FORMATS
from prooftune.recipe import shipped_names

COMMANDS = [
    "demo",
    "init",
    "recipes",
    "check",
    "run",
    "report",
    "compare",
    "power",
    "predict",
    "export",
    "publish",
    "convert",
    "chat",
    "index",
    "search",
    "serve",
    "data",
]


def prooftune(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["prooftune", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_these_are_the_commands() -> None:
    assert list(get_command(app).commands) == COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_each_command_and_option_is_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert prooftune(monkeypatch, command, "--help") == 0
    assert f"prooftune {command}" in capsys.readouterr().out
    described = get_command(app).commands[command]  # type: ignore[attr-defined]
    assert described.help
    assert [p.name for p in described.params if not getattr(p, "help", None)] == []


def test_the_help_of_export_names_the_formats_and_their_limits() -> None:
    limits = [one.limits for one in FORMATS.values()]
    said = {p.name: p.help for p in get_command(app).commands["export"].params}  # type: ignore[attr-defined]
    assert said["to"] == f"{', '.join(list(FORMATS)[:-1])} or {list(FORMATS)[-1]}."
    for option, name in (("min_agreement", "agreement"), ("max_difference", "difference")):
        values = [getattr(one, name) for one in limits]
        assert said[option].endswith(f"by format, {min(values)} to {max(values)}.")


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; from prooftune.cli import main; sys.argv = ['prooftune', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert "typer" in imported
    assert not imported & {
        "torch",
        "transformers",
        "pandas",
        "pyarrow",
        "sklearn",
        "scipy",
        "numpy",
        "pydantic",
        "yaml",
    }


def test_no_command_shows_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prooftune(monkeypatch) == 2
    assert "prooftune demo" in capsys.readouterr().out


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert prooftune(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"prooftune {__version__}\n"


def test_recipes_are_listed_with_what_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prooftune(monkeypatch, "recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == shipped_names()
    assert any(line.startswith("demo ") and "Film reviews" in line for line in lines)


def test_a_recipe_is_shown_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prooftune(monkeypatch, "recipes", "swahili-news") == 0
    shown = capsys.readouterr().out
    assert "git clone the repository" in shown and yaml.safe_load(shown)["name"] == "swahili-news"
    assert prooftune(monkeypatch, "recipes", "swahilinews") == 2
    assert "(did you mean 'swahili-news'?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["check", "financial-sentiment"],
            "'prooftune recipes financial-sentiment' says where the data comes from",
        ),
        (["run", "fin.yml"], "(did you mean 'fin.yaml'?)"),
    ],
)
def test_where_data_and_recipes_are_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fin.yaml").write_text("name: fin\n")
    assert prooftune(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_what_was_half_written_goes_when_the_command_is_ended(tmp_path: Path) -> None:
    code = f"""
import pathlib, time
import prooftune.recipe
from prooftune import cli
from prooftune.utils.files import atomic_path

def wait():
    with atomic_path(pathlib.Path({str(tmp_path / "out")!r})) as half:
        half.write_text("half")
        print("writing", flush=True)
        time.sleep(60)

prooftune.recipe.describe_shipped = wait
cli.main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, "recipes"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143 and said.startswith("prooftune: stopped.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "dmeo"],
            "recipe 'dmeo' not found: neither a file nor a shipped recipe "
            f"({', '.join(shipped_names())}) (did you mean 'demo'?)",
        ),
        (
            ["run", "demo", "--set", "seed"],
            "--set expects key=value, as in --set training.num_train_epochs=1; found 'seed'",
        ),
        (
            ["run", "demo", "--set", "prompt.max=1"],
            "demo: 1 problem found\n  - prompt.max: unknown key",
        ),
        (
            ["check", "demo", "--set", "sede=1"],
            "demo: 1 problem found\n  - sede: unknown key (did you mean 'seed'?)",
        ),
        (["report", "."], ". is no run folder: no recipe.yaml in it"),
        (["report", "nowhere"], "nowhere is no run folder: no such folder"),
        (["compare", "nowhere", "."], "nowhere is no run folder: no such folder"),
        (["predict", ".", "in.csv", "--out", "out.csv"], ". is no bundle: no bundle.json in it"),
        (["predict", "nowhere", "in.csv", "--out", "out.csv"], "nowhere: no such folder"),
        (["init", "nowhere.csv"], "nowhere.csv: no such file"),
    ],
)
def test_a_mistake_ends_in_one_message(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prooftune(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"prooftune: {message}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["rnu"], ["run"], ["run", "demo", "--outt", "x"], ["predict", "b", "in.csv"]]
)
def test_a_mistyped_command_or_option_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert prooftune(monkeypatch, *arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped. Run the same command again to go on where it was."),
        (MemoryError(), 1, "out of memory. Lower training.per_device_train_batch_size, "),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "out of memory. Lower "),
        (
            FileNotFoundError(2, "No such file or directory", "labels.csv"),
            1,
            "labels.csv: No such file or directory",
        ),
    ],
)
def test_what_stops_the_work_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr("prooftune.recipe.describe_shipped", stop)
    assert prooftune(monkeypatch, "recipes") == code
    assert capsys.readouterr().err.strip().startswith(f"prooftune: {message}")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("prooftune.recipe.describe_shipped", stop)
    monkeypatch.setattr(sys, "argv", ["prooftune", "recipes"])
    with pytest.raises(RuntimeError, match="shape mismatch"):
        main()


def test_debug_shows_the_traceback_of_a_mistake(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from prooftune.cli import main; main()",
        "--debug",
        "report",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr
    assert "UsageError" in done.stderr
