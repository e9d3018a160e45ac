"""The demo measures the machine, says how long it takes, and fits its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prooftune import recipe as recipes
from prooftune.study import demo


def limits(overrides: list[str], name: str = "demo") -> dict[str, int | None]:
    limit = recipes.load(name, overrides)[0].data.limit
    return limit.model_dump()


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    shown: list[str] = []
    monkeypatch.setattr(demo, "notify", lambda message, *_: shown.append(message))
    return shown


def with_step(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(demo, "measure_step", lambda _: seconds)


@pytest.mark.parametrize("name", ["demo", "demo-qa"])
def test_a_fast_machine_takes_all_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, messages: list[str], name: str
) -> None:
    with_step(monkeypatch, 0.55)
    assert limits(demo.fit_rows(name, tmp_path), name) == limits([], name)
    assert "a training step takes 0.55 s here" in messages[0] and "of" not in messages[0]
    # 50 s and 165 steps are 2 min 21 s, 60 s and 225 steps 3 min 4 s.
    assert messages[0].endswith("about 2 min" if name == "demo" else "about 3 min")


@pytest.mark.parametrize("name", ["demo", "demo-qa"])
def test_a_slow_machine_takes_as_many_rows_as_fit_into_six_minutes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, messages: list[str], name: str
) -> None:
    """6.7 times slower, as an AVX2 machine on which the demo took 11 minutes on two cores."""
    step = 0.55 * 6.7
    with_step(monkeypatch, step)
    whole, fitted = limits([], name), limits(demo.fit_rows(name, tmp_path), name)
    work = demo.WORK[name]
    share = (360 - work.other_seconds) / (work.steps * step)
    assert 0.3 < share < 0.6
    for split, rows in whole.items():
        assert rows is not None and fitted[split] == round(share * rows)
    assert f"about 6 min with {fitted['train']} of {whole['train']} training rows" in messages[0]
    minutes = round((work.other_seconds + work.steps * step) / 60)
    assert messages[0].endswith(
        f"'prooftune run {name}' takes all of them, and about {minutes} min"
    )


def test_some_rows_remain_on_the_slowest_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, messages: list[str]
) -> None:
    with_step(monkeypatch, 30.0)
    assert limits(demo.fit_rows("demo", tmp_path)) == {"train": 240, "validation": 40, "test": 100}
    # What is said is what it takes: 50 s and a fifth of 165 steps of 30 s.
    assert "about 17 min with 240 of 1200" in messages[0]


def test_a_resumed_demo_keeps_its_rows_and_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, messages: list[str]
) -> None:
    with_step(monkeypatch, 4.0)
    first = demo.fit_rows("demo", tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipes.dump(recipes.load("demo", first)[0]), "utf-8")

    def measured(_: Any) -> float:
        raise AssertionError("another time would change the rows")

    monkeypatch.setattr(demo, "measure_step", measured)
    assert demo.fit_rows("demo", tmp_path) == first
    assert len(messages) == 1


def test_a_step_is_measured_by_the_trainer(model_folders: dict[str, Path]) -> None:
    parsed, _ = recipes.load("demo", [f"model={model_folders['llama']}"])
    assert 0 < demo.measure_step(parsed) < 60


@pytest.mark.parametrize(("which", "name"), [("reviews", "demo"), ("qa", "demo-qa")])
def test_the_command_runs_the_fitted_recipe(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    messages: list[str],
    which: str,
    name: str,
) -> None:
    from prooftune.cli import studies

    with_step(monkeypatch, 4.0)
    runs: list[Any] = []
    monkeypatch.setattr(studies, "_run_study", lambda *given: runs.append(given))
    studies.demo(which, tmp_path)
    ((recipe, out, overrides),) = runs
    assert (recipe, out) == (name, tmp_path)
    fitted, whole = limits(overrides, name), limits([], name)
    assert all(0 < (fitted[split] or 0) < (rows or 0) for split, rows in whole.items())
