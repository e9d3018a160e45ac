"""Means, intervals, tests and agreement: against scikit-learn, scipy and plain loops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from prooftune.errors import UsageError
from prooftune.evaluation.resampling import resample_counts
from prooftune.judge import (
    Judgement,
    Judgements,
    Preference,
    Preferences,
    paired_difference,
    read_human_scores,
    summarize,
    summarize_preferences,
)
from prooftune.judge.human import agreement, resampled_kappas
from prooftune.judge.study import align_human_scores
from prooftune.judge.types import Winner
from prooftune.recipe.judge import CRITERIA, Judge


def judged(scores: Sequence[int | None]) -> Judgements:
    each = [
        Judgement(str(i), "c", score, "" if score else "timed out")
        for i, score in enumerate(scores)
    ]
    return Judgements("m", ("c",), (1, 5), each, len(each), len(each), 0, 0)


_scores = st.lists(st.integers(1, 5), min_size=1, max_size=30)


@pytest.mark.failure(26)
@settings(deadline=None, max_examples=40)
@given(_scores, st.lists(st.integers(0, 30), max_size=10))
def test_failed_judgements_never_move_the_mean(scores: list[int], places: list[int]) -> None:
    mixed: list[int | None] = list(scores)
    for index in places:
        mixed.insert(min(index, len(mixed)), None)
    plain, with_failures = (
        dict[str, Any](summarize(judged(s), resamples=100)["criteria"]["c"])
        for s in ([*scores], mixed)
    )
    assert plain["mean"] == pytest.approx(np.mean(scores))
    for name in ("mean", "low", "high", "n", "scores"):
        assert with_failures[name] == plain[name], name
    assert with_failures["failed"] == len(places)
    assert with_failures["failure_rate"] == pytest.approx(len(places) / len(mixed))
    assert (
        with_failures["failure_low"]
        <= with_failures["failure_rate"]
        <= with_failures["failure_high"]
    )


def test_summary_without_judgements_has_no_mean_and_is_json() -> None:
    for none in (judged([None, None]), judged([])):
        text = json.dumps(summarize(none, resamples=100), allow_nan=False)
        figures = json.loads(text)["criteria"]["c"]
        assert (figures["mean"], figures["low"], figures["n"]) == (None, None, 0)


def test_interval_of_the_mean_equals_a_plain_bootstrap_loop() -> None:
    scores = [int(s) for s in np.random.default_rng(0).integers(1, 6, 40)]
    means = [
        np.mean(np.repeat(scores, counts.astype(int))) for counts in resample_counts(40, 500, 3)
    ]
    got = summarize(judged(list(scores)), resamples=500, seed=3)["criteria"]["c"]
    assert [got["low"], got["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]))


def test_difference_is_paired_over_answers_judged_in_both() -> None:
    first, second = judged([5, 4, None, 3, 2, 5]), judged([3, 4, 5, None, 1, 2])
    got = paired_difference(first, second, resamples=200)["c"]
    assert got["difference"] == pytest.approx(np.mean([2, 0, 1, 3]))
    assert (got["n"], got["left_out"], got["higher"], got["lower"]) == (4, 2, 3, 0)
    assert got["p"] == pytest.approx(binomtest(3, 3).pvalue)
    back = paired_difference(second, first, resamples=200)["c"]
    assert got["low"] is not None and got["high"] is not None
    assert [back["low"], back["high"]] == pytest.approx([-got["high"], -got["low"]])
    assert paired_difference(first, judged([None] * 6), resamples=200)["c"]["difference"] is None


def test_a_constant_difference_has_a_narrow_interval() -> None:
    """Paired: both vary from row to row, their difference does not."""
    got = paired_difference(judged([2, 3, 4, 5] * 5), judged([1, 2, 3, 4] * 5), resamples=200)["c"]
    assert (got["difference"], got["low"], got["high"]) == (1, 1, 1)


def test_comparing_different_rows_is_an_error() -> None:
    with pytest.raises(UsageError, match="same rows"):
        paired_difference(judged([1, 2]), judged([1]))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["first", "second", "tie", None]), min_size=1, max_size=40))
def test_preferences_are_counted_and_tested(winners: list[Winner | None]) -> None:
    each = [Preference(str(i), w, w, w, "" if w else "timed out") for i, w in enumerate(winners)]
    got = summarize_preferences(Preferences("m", each, len(each), len(each), 0, 0), resamples=100)
    wins, losses = winners.count("first"), winners.count("second")
    assert (got["wins"], got["losses"], got["ties"], got["failed"]) == (
        wins,
        losses,
        winners.count("tie"),
        winners.count(None),
    )
    assert got["n"] + got["failed"] == len(winners)
    if wins + losses:
        assert got["p"] == pytest.approx(binomtest(wins, wins + losses).pvalue)
    if got["n"]:
        assert got["net"] == pytest.approx((wins - losses) / got["n"])
        assert got["low"] is not None and got["net"] is not None and got["high"] is not None
        assert got["low"] <= got["net"] + 1e-12 and got["net"] - 1e-12 <= got["high"]
    json.dumps(got, allow_nan=False)


def test_resampled_kappas_equal_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    human = rng.integers(1, 6, 30)
    judged_ = np.clip(human + rng.integers(-1, 2, 30), 1, 5)
    fast = resampled_kappas(human, judged_, 50, 4)
    for kappa, counts in zip(fast, resample_counts(30, 50, 4), strict=True):
        rows = np.repeat(np.arange(30), counts.astype(int))
        expected = cohen_kappa_score(
            human[rows], judged_[rows], labels=[1, 2, 3, 4, 5], weights="quadratic"
        )
        assert kappa == pytest.approx(expected)


def test_agreement_of_known_tables() -> None:
    same = np.array([1, 2, 3, 4, 5])
    assert agreement(same, same, (1, 5), 200, 0.95, 0).kappa == 1
    assert agreement(same, 6 - same, (1, 5), 200, 0.95, 0).kappa == pytest.approx(-1)
    constant = agreement(np.full(4, 3), np.full(4, 3), (1, 5), 200, 0.95, 0)
    assert (constant.kappa, constant.low, constant.exact, constant.n) == (None, None, 1.0, 4)
    # Disagreement of (0,1,1,0)/4 against a chance of (1/2, 1/2) each: 1 - (1/2)/(1/2).
    assert agreement(
        np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2]), (1, 5), 200, 0.95, 0
    ).kappa == pytest.approx(0)


def test_agreement_covers_answers_scored_by_both(tmp_path: Path) -> None:
    file = tmp_path / "human.csv"
    file.write_text(
        "\ufeffid,criterion,score,who\n0,c,1,me\n1,c,2,me\n2,c,5,me\n9,c,5,me\n", encoding="utf-8"
    )
    human = read_human_scores(file, ["c"], (1, 5))[None]
    got = summarize(judged([1, 3, None, 4]), human, resamples=200)["criteria"]["c"]["human"]
    assert got is not None and got["n"] == 2
    assert got["exact"] == 0.5
    assert got["kappa"] == pytest.approx(
        cohen_kappa_score([1, 2], [1, 3], labels=[1, 2, 3, 4, 5], weights="quadratic")
    )
    assert (
        summarize(judged([None]), {("0", "c"): 3}, resamples=100)["criteria"]["c"]["human"] is None
    )
    with pytest.raises(UsageError, match="none of its ids"):
        summarize(judged([1]), {("x", "c"): 3})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,score\n1,2\n", "missing column criterion"),
        ("", "missing column"),
        ("id,criterion,score\n", "the file has no scores"),
        ("id,criterion,score\n1,d,2\n", "line 2: unknown criterion 'd'"),
        ("id,criterion,score\n1,c,6\n", "'6' is not an integer from 1 to 5"),
        ("id,criterion,score\n1,c,3\n2,c,x\n", "line 3: 'x'"),
        ("id,criterion,score\n1,c\n", "'' is not an integer"),
        ("id,criterion,score\n1,c,3\n1,c,3\n", "already has a score on c"),
    ],
)
def test_invalid_human_scores_are_errors_with_their_line(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "human.csv"
    file.write_text(content)
    with pytest.raises(UsageError) as error:
        read_human_scores(file, ["c"], (1, 5))
    assert message in str(error.value) and "human.csv" in str(error.value)


def test_missing_and_binary_score_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_human_scores(tmp_path / "nowhere.csv", ["c"], (1, 5))
    (tmp_path / "binary.csv").write_bytes(b"id,criterion,score\n\xff\xfe,c,1\n")
    with pytest.raises(UsageError, match="UTF-8"):
        read_human_scores(tmp_path / "binary.csv", ["c"], (1, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criteria": ["coherense"]}, "coherense"),
        ({"criteria": {}}, "at least one"),
        ({"scale": [5, 1]}, "is not a scale"),
        ({"base_url": "localhost:11434"}, "http://localhost"),
        ({"base_url": "http://me:pw@host/v1"}, "must not contain a key"),
        ({"rows": 0}, "rows"),
        ({"timeout": 0}, "timeout"),
        ({"colour": "red"}, "colour"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_invalid_settings_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        Judge.model_validate({"model": "m", **options})
    assert message in str(error.value)
    assert "pw" not in str(error.value).split("[type=")[0]


def test_built_in_criteria_by_name() -> None:
    assert Judge.model_validate({"model": "m", "criteria": ["correctness"]}).criteria == {
        "correctness": CRITERIA["correctness"]
    }
    assert Judge(model="m").criteria == CRITERIA
    assert Judge(model="m").temperature == 0


def test_human_scores_are_those_of_one_variants_answers(tmp_path: Path) -> None:
    file = tmp_path / "human.csv"
    file.write_text("id,criterion,score,variant\n0,c,1,good\n0,c,5,bad\n1,c,2,good\n", "utf-8")
    found = read_human_scores(file, ["c"], (1, 5), ["good", "bad"])
    assert found == {"good": {("0", "c"): 1, ("1", "c"): 2}, "bad": {("0", "c"): 5}}
    with pytest.raises(UsageError, match="line 2: unknown variant 'good'"):
        read_human_scores(file, ["c"], (1, 5), ["other"])


def test_scores_without_a_variant_count_for_the_judged_one(tmp_path: Path) -> None:
    (tmp_path / "human.csv").write_text("id,criterion,score\n0,c,1\n", "utf-8")
    settings = Judge.model_validate({"model": "m", "criteria": {"c": "?"}, "human": "human.csv"})
    scores: Any = {"verdict": {"best_tuned": "lora", "winner": "zero"}, "notes": []}
    found = align_human_scores(settings, tmp_path, ["zero", "lora"], scores)
    assert found == {"lora": {("0", "c"): 1}}
    assert "compared with the judge's scores of lora only" in scores["notes"][0]
