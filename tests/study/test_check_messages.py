"""What `check` says besides its tables: small test sets, a busy machine, skipped estimates, tokens
of a word, and doubtful labels that are no other spellings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from data.tabled import examples, study_recipe
from data.test_ways_out import DISTINCT
from prooftune.data.audit.fertility import Fertility
from prooftune.preflight import checker
from prooftune.recipe import Recipe
from prooftune.study import check
from prooftune.study.label_errors import CheckedRows, flagged_rows
from prooftune.study.sample_size import FEW_ROWS, few_test_rows
from prooftune.types import Study
from test_cli import prooftune
from ways_out import follows, names

TWO: dict[str, Any] = {"variants": ["majority", "tfidf"]}


def with_test_rows(rows: int) -> Study:
    pairs = [(f"text {i}", "ab"[i % 2]) for i in range(rows)]
    return Study([], [], examples(pairs, "t"), ["a", "b"])


@pytest.mark.parametrize("rows", [30, 60, FEW_ROWS - 1])
def test_a_small_test_set_shows_large_differences_only(
    rows: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [finding] = few_test_rows(study_recipe({"train": "a.csv"}, **TWO), with_test_rows(rows))
    assert finding.message.startswith(f"{rows} test rows can")
    assert names(
        follows("prooftune power --accuracy {…} --rows {…} --comparisons {…}"), finding.message
    )
    # The command that it names computes the same, among other cases.
    command = finding.message.partition("Other cases: ")[2].split()
    assert prooftune(monkeypatch, *command[1:]) == 0
    assert (shared := re.search(r"([\d.]+) points \(65% of the better", capsys.readouterr().out))
    assert f"about {float(shared[1]):.0f} points" in finding.message


def test_a_tiny_test_set_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [finding] = few_test_rows(study_recipe({"train": "a.csv"}, **TWO), with_test_rows(22))
    assert "22 test rows are too few" in finding.message
    command = finding.message.partition("Other cases: ")[2].split()
    assert prooftune(monkeypatch, *command[1:]) == 0
    shared = capsys.readouterr().out.splitlines()[2]
    assert "none" in shared and "65%" in shared


def test_more_comparisons_show_larger_differences_only() -> None:
    """Against every rival the difference is tested at the level divided by their number."""
    rivals = {"variants": ["tfidf", "embedding", "encoder", "tuned"]}
    points_by_comparisons = {}
    for variants in (TWO, rivals):
        [finding] = few_test_rows(study_recipe({"train": "a.csv"}, **variants), with_test_rows(60))
        points = finding.message.partition("about ")[2].partition(" points")[0]
        points_by_comparisons[finding.message.rpartition(" ")[2]] = int(points)
    # The tuned variant is compared with each of three rivals, and these not with each other.
    assert (
        list(points_by_comparisons) == ["1", "3"]
        and points_by_comparisons["3"] > points_by_comparisons["1"]
    )


def test_when_there_is_nothing_to_warn_of() -> None:
    several = study_recipe({"train": "a.csv"}, **TWO)
    assert not few_test_rows(several, with_test_rows(FEW_ROWS))
    alone = study_recipe({"train": "a.csv"}, variants=["tfidf"])
    assert not few_test_rows(alone, with_test_rows(22))  # nothing is compared


@pytest.mark.parametrize(
    ("load", "cores", "said"),
    [(6.2, 2, "(load 6 on 2 cores)"), (3.0, 1, "(load 3 on 1 core)"), (2.5, 2, ""), (1.0, 8, ""),
     (None, 2, ""), (6.0, None, "")],
)  # fmt: skip
def test_a_busy_machine(load: float | None, cores: int | None, said: str) -> None:
    note = check.busy_note(load, cores)
    assert said in note and bool(note) == bool(said)


def checked(monkeypatch: pytest.MonkeyPatch, folder: Path, *, terminal: bool) -> str:
    """What `check` prints where the estimates are interrupted."""
    rows = "".join(f"{t},{'ab'[i % 2]}\n" for i, t in enumerate(DISTINCT))
    (folder / "a.csv").write_text(f"text,label\n{rows}")
    recipe: Recipe = study_recipe({"train": "a.csv"}, variants=["majority", "zero-shot"])
    written = []

    class Recorded(Console):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options, force_terminal=terminal, width=300)

        def print(self, *objects: Any, **_: Any) -> None:
            written.append(" ".join(map(str, objects)))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rich.console.Console", Recorded)
    monkeypatch.setattr(check, "estimate", interrupted)
    monkeypatch.setattr(checker, "check", lambda *_: None)
    monkeypatch.setattr(checker, "check_with_data", lambda *_: None)
    monkeypatch.setattr(check, "prompt_length_counter", lambda *_: None)
    try:
        report = check.check(recipe, folder, verbose=True)
    except KeyboardInterrupt:
        return "interrupted"
    assert report.ok and report.estimates == []
    return "\n".join(written)


@pytest.mark.slow
def test_ctrl_c_skips_the_estimates_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    printed = checked(monkeypatch, tmp_path, terminal=True)
    announced, skipped = printed.index("Ctrl-C skips them"), printed.index("Estimates skipped")
    assert printed.index("test rows are too few") < announced < skipped
    # A script has to notice that the command was interrupted.
    assert checked(monkeypatch, tmp_path, terminal=False) == "interrupted"


@pytest.mark.parametrize(("ratio", "shown"), [(1.14, False), (1.49, False), (1.6, True)])
def test_tokens_of_a_word_are_shown_where_they_are_many(
    ratio: float, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    figures: Fertility = {
        "texts": 9,
        "tokens_per_word": 1.3,
        "tokens_per_character": 0.3,
        "against_english": ratio,
        "words_in_prompt": 99,
    }
    check._print_tokens(Console(), figures)
    assert (f"{ratio:.2f} times as many" in capsys.readouterr().out) == shown


def test_another_spelling_is_no_doubtful_label() -> None:
    """Nine rows of `Late` and `late`, which no classifier tells apart, and one wrong label."""
    labels = ["Late", "late", "lost"]
    spelt = [("Late", "late")[i % 2] for i in range(9)] + ["lost"] * 9 + ["late"]
    rows = examples([(f"text {i}", label) for i, label in enumerate(spelt)], "t")
    targets = np.array([labels.index(label) for label in spelt])
    probabilities = np.array([[0.3, 0.5, 0.2]] * 9 + [[0.05, 0.05, 0.9]] * 10)
    part = CheckedRows("train", rows, targets, probabilities, ["tfidf"], labels)
    found = flagged_rows(part, Study(rows, [], [], labels))
    [(row, _)] = found
    assert (row["id"], row["label"], row["suggested"]) == ("t:19", "late", "lost")
    assert row["probability"] == pytest.approx(0.1)  # of both spellings together
    assert part.accuracy == pytest.approx(18 / 19)
    # By exact names, rows of `Late` would be doubtful, too, and suggested `late`.
    exact = CheckedRows("train", rows, targets, probabilities, ["tfidf"], ["x", "y", "z"])
    assert exact.flagged.sum() > 1 and exact.accuracy < part.accuracy
    wrong = CheckedRows("train", rows[-1:], targets[-1:], probabilities[:1], ["tfidf"], labels)
    assert wrong.suggested.tolist() == [1]  # the more probable spelling
