"""What is declared for installation: the version, extras, pinned requirements, the container."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
IN_RUN = ("answers", "convert", "files", "judge", "retrieval", "search", "serve", "tracking")
"""Extras that requirements/run.txt brings."""


def pins(name: str) -> dict[str, str]:
    """Package -> exact version of a requirements file."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").splitlines()
    return {
        canonicalize_name(line.partition("==")[0]): line.partition("==")[2]
        for line in lines
        if line and not line.startswith(("#", "-"))
    }


def closure(requirements: list[str], pinned: dict[str, str]) -> set[str]:
    """Packages that installing these brings, by the metadata of what is installed here."""
    packages: set[str] = set()
    seen, waiting = set(), [Requirement(line) for line in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        packages.add(name)
        if name in pinned:
            assert wanted.specifier.contains(pinned[name]), f"{wanted} is pinned to {pinned[name]}"
        try:
            needs = [Requirement(line) for line in distribution(name).requires or []]
        except PackageNotFoundError:
            continue  # it is reported by the caller, or is not pinned anywhere
        waiting += [
            need
            for need in needs
            if need.marker is None
            or any(need.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras))
        ]
    return packages


def test_run_txt_pins_all_that_the_core_and_its_extras_need() -> None:
    pinned = pins("run") | pins("torch")
    wanted = [*PROJECT["dependencies"], *(line for extra in IN_RUN for line in EXTRAS[extra])]
    # Of torch's packages only those that every build of it needs are pinned.
    gpu = re.compile(r"^(nvidia|cuda|triton|pytorch-triton)")
    missing = {name for name in closure(wanted, pinned) - set(pinned) if not gpu.match(name)}
    assert not missing


@pytest.mark.parametrize("name", ["test", "docs", "dist"])
def test_a_package_has_one_version_in_all_requirements(name: str) -> None:
    above = pins("run") | (pins("test") if name != "test" else {})
    both = {
        package: (version, above[package])
        for package, version in pins(name).items()
        if package in above
    }
    assert {package for package, (one, other) in both.items() if one != other} == set()
    assert name != "test" or not both  # what is needed to run is pinned once, in run.txt


def test_every_extra_that_an_error_names_exists() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py")]
    named = {extra for text in sources for extra in re.findall(r"prooftune\[([a-z-]+)\]", text)}
    assert len(named) >= 8
    assert named <= set(EXTRAS)


def test_the_version_has_one_source() -> None:
    from prooftune import __version__

    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    holders = [
        path.name
        for folder in ("", "src/prooftune", ".github/workflows")
        for path in (ROOT / folder).glob("*")
        if path.is_file() and path.name != "CHANGELOG.md" and __version__ in path.read_text("utf-8")
    ]
    assert holders == ["version.py"]


def test_the_dockerfile_copies_what_exists_and_is_not_ignored() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M)
        for name in line.split()[:-1]
    ]
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert copied and ignore[0] == "*"
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignore, name
    assert {"DEVICE=cpu"} == set(re.findall(r"^ARG (DEVICE.*)$", text, re.M))
    assert re.search(r"^USER (?!root|0)", text, re.M)


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_workflows_and_forms_are_valid_and_run_what_exists(path: Path) -> None:
    import yaml

    text = path.read_text("utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for script in re.findall(r"\.ci/\w+", text):
        assert (ROOT / script).stat().st_mode & 0o100, script


@pytest.mark.parametrize(
    ("configured", "arguments", "takes_index"),
    [
        ("", [], True),
        ("global.timeout='60'", [], True),
        ("global.index-url='https://mirror.example/simple'", [], False),
        (":env:.extra-index-url='https://mirror.example/cpu'", [], False),
        ("global.no-index='true'", [], False),
        ("", ["TORCH_INDEX="], False),
    ],
)
def test_make_install_takes_torch_for_cpus_unless_pip_is_configured(
    tmp_path: Path, configured: str, arguments: list[str], takes_index: bool
) -> None:
    """PyPI's torch for Linux includes CUDA; a configured index may have no other to offer."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    answer = f'*"config list"*) echo "{configured}" ;; *) echo "$*" >> log ;;'
    python.write_text(f'#!/bin/sh\ncase "$*" in {answer} esac\n')
    python.chmod(0o755)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["make", "install", *arguments], cwd=tmp_path, check=True, capture_output=True)
    torch, run, own = (tmp_path / "log").read_text().splitlines()
    index = "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert ("requirements/torch.txt" in torch) and (index in torch) == takes_index
    assert "requirements/run.txt" in run and "--editable ." in own
    assert index in (ROOT / "Dockerfile").read_text() and index in (
        ROOT / "docs/start.md"
    ).read_text("utf-8")


def test_the_citation_has_no_version_to_forget() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert "version" not in citation and citation["license"] == PROJECT["license"]


def test_the_smoke_test_runs_every_command() -> None:
    from typer.main import get_command

    from prooftune.cli.app import app

    script = (ROOT / "tests" / "smoke" / "commands.py").read_text("utf-8")
    run = set(re.findall(r'runner\.(?:run\(\s*|commands\.add\()"([\w-]+)"', script))
    assert set(get_command(app).commands) <= run  # type: ignore[attr-defined]
