"""The command line: helpful, quick to start, and one message for whatever goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from prooftune import __version__
from prooftune.cli import main
from prooftune.cli.app import app
from prooftune.cli.recipe_options import load_recipe
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
    "evaluate",
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


def test_commands_in_order() -> None:
    assert list(get_command(app).commands) == COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_each_command_and_option_with_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert prooftune(monkeypatch, command, "--help") == 0
    assert f"prooftune {command}" in capsys.readouterr().out
    described = get_command(app).commands[command]  # type: ignore[attr-defined]
    assert described.help and f"Example: prooftune {command} " in f"{described.help} "
    assert [p.name for p in described.params if not getattr(p, "help", None)] == []


def test_help_of_export_lists_formats_and_default_limits() -> None:
    limits = [format_.limits for format_ in FORMATS.values()]
    help_ = {p.name: p.help for p in get_command(app).commands["export"].params}  # type: ignore[attr-defined]
    assert help_["to"] == f"{', '.join(list(FORMATS)[:-1])} or {list(FORMATS)[-1]}."
    for option, name in (("min_agreement", "agreement"), ("max_difference", "difference")):
        values = [getattr(limit, name) for limit in limits]
        assert help_[option].endswith(f"by format, {min(values)} to {max(values)}.")


@pytest.mark.parametrize(
    "options",
    [
        [
            *["--max-queue-rows=11", "--max-batch-size=12", "--max-request-rows=13"],
            *["--max-text-chars=14", "--max-body-bytes=15"],
        ],
        ["--queue=11", "--batch=12", "--rows=13", "--text=14", "--body=15"],
    ],
)
def test_serve_accepts_old_and_new_names_of_limits(
    monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "prooftune.serving.server.serve", lambda *arguments: calls.append(arguments)
    )
    assert prooftune(monkeypatch, "serve", "runs/a/bundle", *options) == 0
    [(bundles, host, port, settings)] = calls
    assert (bundles, host, port) == (["runs/a/bundle"], "127.0.0.1", 8000)
    limits = settings.limits
    sizes = (limits.max_queue_rows, limits.max_batch_size, limits.max_request_rows)
    assert (*sizes, limits.max_text_chars, limits.max_body_bytes) == (11, 12, 13, 14, 15)


def test_help_does_not_import_heavy_libraries() -> None:
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


def test_without_a_command_the_help_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prooftune(monkeypatch) == 2
    assert "prooftune demo" in capsys.readouterr().out


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert prooftune(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"prooftune {__version__}\n"


def test_recipes_lists_names_with_descriptions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prooftune(monkeypatch, "recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == shipped_names()
    assert any(line.startswith("demo ") and "Film reviews" in line for line in lines)


def test_recipes_prints_a_recipe_with_its_comments(
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
            "'prooftune recipes financial-sentiment' explains where to get the data",
        ),
        (["run", "fin.yml"], "(did you mean 'fin.yaml'?)"),
    ],
)
def test_missing_data_or_recipe_gives_a_hint(
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


@pytest.mark.slow
def test_sigterm_removes_half_written_files(tmp_path: Path) -> None:
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
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143 and stderr.startswith("prooftune: stopped.")
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
        (["predict", ".", "in.csv", "--out", "out.csv"], ". is not a bundle: no bundle.json in it"),
        (["predict", "nowhere", "in.csv", "--out", "out.csv"], "nowhere: no such folder"),
        (["init", "nowhere.csv"], "nowhere.csv: no such file"),
    ],
)
def test_usage_errors_print_one_message(
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
def test_unknown_commands_and_options_are_usage_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert prooftune(monkeypatch, *arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped. Run the same command again to resume."),
        (MemoryError(), 1, "out of memory. Lower training.per_device_train_batch_size, "),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "out of memory. Lower "),
        (
            FileNotFoundError(2, "No such file or directory", "labels.csv"),
            1,
            "labels.csv: No such file or directory",
        ),
    ],
)
def test_failures_print_one_line(
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


def test_internal_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("prooftune.recipe.describe_shipped", stop)
    monkeypatch.setattr(sys, "argv", ["prooftune", "recipes"])
    with pytest.raises(RuntimeError, match="shape mismatch"):
        main()


@pytest.mark.slow
def test_debug_shows_the_traceback_of_usage_errors(tmp_path: Path) -> None:
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


def test_another_model_keeps_the_other_options_of_the_section(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    model = "{name: a/b, revision: v1, dtype: float32, trust_remote_code: true}"
    recipe.write_text(f"name: r\ndata: {{train: t.csv}}\nvariants: [tuned]\nmodel: {model}\n")
    chosen = load_recipe(str(recipe), ["model.attention=eager"], "c/d")[0].model
    assert (chosen.name, chosen.dtype, chosen.attention) == ("c/d", "float32", "eager")
    assert chosen.revision is None and not chosen.trust_remote_code
    chosen = load_recipe(str(recipe), ["model.dtype=bfloat16", "model.revision=v2"], "c/d")[0].model
    assert (chosen.dtype, chosen.revision) == ("bfloat16", "v2")
    recipe.write_text("name: r\ndata: {train: t.csv}\nvariants: [tuned]\nmodel: a/b\n")
    assert load_recipe(str(recipe), None, "c/d")[0].model.name == "c/d"
    assert load_recipe(str(recipe), ["model.dtype=float32"], None)[0].model.dtype == "float32"
