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
from prooftune.evaluation.intervals import wilson_interval
from prooftune.evaluation.means import Resampling
from prooftune.evaluation.resampling import Groups, resample_counts
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
from prooftune.judge.human import agreement
from prooftune.judge.study import _pair, align_human_scores
from prooftune.judge.types import Winner
from prooftune.recipe.judge import CRITERIA, Judge


def judged(scores: Sequence[int | None]) -> Judgements:
    each = [
        Judgement(str(i), "c", score, "" if score else "timed out")
        for i, score in enumerate(scores)
    ]
    return Judgements("m", ("c",), (1, 5), each, len(each), len(each), 0, 0)


_scores = st.lists(st.integers(1, 5), min_size=1, max_size=30)


@pytest.mark.slow
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


def test_interval_of_the_mean_contains_that_of_a_plain_bootstrap_loop() -> None:
    scores = [int(s) for s in np.random.default_rng(0).integers(1, 6, 40)]
    means = [
        np.mean(np.repeat(scores, counts.astype(int))) for counts in resample_counts(40, 500, 3)
    ]
    got = summarize(judged(list(scores)), resamples=500, seed=3)["criteria"]["c"]
    plain = np.quantile(means, [0.025, 0.975])
    assert got["low"] is not None and got["high"] is not None
    assert got["low"] <= plain[0] and plain[1] <= got["high"]
    assert got["high"] - got["low"] < 1.3 * (plain[1] - plain[0])


def test_equal_scores_leave_doubt() -> None:
    """Ten answers with the best score: a judge that gives it to 80% does so in a tenth of samples
    of ten."""
    got = summarize(judged([5] * 10), resamples=500)["criteria"]["c"]
    assert got["high"] == 5 and got["low"] is not None and 3.5 < got["low"] < 4.9


def test_answers_on_one_text_are_resampled_together() -> None:
    """Four texts of 20 questions each, on which all answers have the same score. One text more or
    less decides; single answers would hide that."""
    scores = [2] * 20 + [3] * 20 + [4] * 20 + [5] * 20
    human = {(str(i), "c"): min(5, score + i % 2) for i, score in enumerate(scores)}
    groups = {str(i): f"text {i // 20}" for i in range(80)}
    alone = summarize(judged([*scores]), human, resamples=500)
    grouped = summarize(judged([*scores]), human, resamples=500, groups=groups)
    assert (alone["groups"], grouped["groups"]) == (None, 4)
    for figures in ("mean", "kappa"):
        ends = [s["criteria"]["c"] for s in (alone, grouped)]
        found: list[Any] = [e if figures == "mean" else e["human"] for e in ends]
        assert found[0][figures] == pytest.approx(found[1][figures])
        assert _width(found[1]) > 2 * _width(found[0]), figures
    # The t interval of four means: 3.5 ± 3.18 * 1.29 / 2.
    low = grouped["criteria"]["c"]["low"]
    assert low is not None and low < 3.5 - 2.0


def _width(figures: Any) -> float:
    return float(figures["high"] - figures["low"])


def thirty_to_ten() -> Preferences:
    """The first variant is preferred in 30 of 40 pairs."""
    first: Winner = "first"
    second: Winner = "second"
    winners = [first if i < 30 else second for i in range(40)]
    each = [Preference(str(i), w, w, w) for i, w in enumerate(winners)]
    return Preferences("m", each, 40, 40, 0, 0)


def test_the_sign_test_flips_whole_groups() -> None:
    """In three of four texts the first variant is better in all 10 answers, in one it is worse: 10
    of the 16 patterns of signs are at least as far apart."""
    first = judged([5] * 30 + [2] * 10)
    second = judged([4] * 30 + [3] * 10)
    groups = {str(i): i // 10 for i in range(40)}
    alone = paired_difference(first, second, resamples=200)["c"]
    assert alone["low"] is not None and alone["low"] > 0
    grouped = paired_difference(first, second, resamples=200, groups=groups)["c"]
    # All differences are 1 or -1, of which the permutation test is the sign test.
    assert alone["p"] == pytest.approx(binomtest(10, 40).pvalue, abs=2e-3)
    assert grouped["p"] == pytest.approx(10 / 16)
    assert grouped["low"] is not None and grouped["low"] <= 0
    assert _width(grouped) > 2 * _width(alone)
    all_pairs = thirty_to_ten()
    net = summarize_preferences(all_pairs, resamples=200, groups=groups)
    assert net["p"] == pytest.approx(10 / 16) and net["groups"] == 4
    assert _width(net) > 2 * _width(summarize_preferences(all_pairs, resamples=200))
    # Groups of one answer each change nothing.
    ones = summarize_preferences(all_pairs, resamples=200, groups={str(i): i for i in range(40)})
    assert ones == summarize_preferences(all_pairs, resamples=200)


def test_intervals_of_several_pairs_are_wider() -> None:
    all_pairs = thirty_to_ten()
    one, five = (summarize_preferences(all_pairs, resamples=2000, pairs=k) for k in (1, 5))
    assert 1.15 < _width(five) / _width(one) < 1.5  # of a normal sample: 2.576 / 1.960


def test_the_interval_of_preferences_agrees_with_its_test() -> None:
    preferences = summarize_preferences(thirty_to_ten(), resamples=200)
    assert preferences["low"] is not None and preferences["low"] > 0
    significant, open_ = _pair("a", "b", preferences, 0.01), _pair("a", "b", preferences, 0.4)
    assert significant["low"] == preferences["low"] and significant["p_holm"] == 0.01
    assert open_["low"] == 0 and open_["high"] == preferences["high"]


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


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=20),
    st.integers(1, 6),
    st.integers(0, 3),
)
def test_exchanged_variants_have_the_interval_of_opposite_sign(
    pairs: list[tuple[int, int]], size: int, seed: int
) -> None:
    first, second = (judged([pair[side] for pair in pairs]) for side in (0, 1))
    groups = {str(i): i // size for i in range(len(pairs))}
    options: dict[str, Any] = {"resamples": 100, "seed": seed, "groups": groups}
    there = paired_difference(first, second, **options)["c"]
    back = paired_difference(second, first, **options)["c"]
    assert there["low"] is not None and there["high"] is not None
    assert [back["low"], back["high"]] == pytest.approx([-there["high"], -there["low"]])
    assert back["p"] == there["p"]


def test_shares_in_groups_are_no_surer_than_of_single_answers() -> None:
    """One failure in each of four texts of ten answers: groups that are alike by chance. All
    failures in one text: groups decide."""
    groups = {str(i): i // 10 for i in range(40)}
    alike = judged([None if i % 10 == 0 else 3 for i in range(40)])
    in_one = judged([None if i < 4 else 3 for i in range(40)])
    low, high = wilson_interval(4, 40, 0.95)
    for judgements in (alike, in_one):
        alone = summarize(judgements, resamples=300)["criteria"]["c"]
        assert (alone["failure_low"], alone["failure_high"]) == pytest.approx((low, high))
    found: Any = summarize(alike, resamples=300, groups=groups)["criteria"]["c"]
    assert found["failure_low"] <= low and found["failure_high"] >= high
    found = summarize(in_one, resamples=300, groups=groups)["criteria"]["c"]
    # Groups' t interval: 0.1 ± 3.18 * 0.2 / 2.
    assert found["failure_low"] == 0 and found["failure_high"] > 0.4


def test_a_constant_difference_has_a_narrow_interval() -> None:
    """Paired: both vary from row to row, their difference does not."""
    first, second = [2, 3, 4, 5] * 5, [1, 2, 3, 4] * 5
    got = paired_difference(judged([*first]), judged([*second]), resamples=500)["c"]
    shuffled = paired_difference(judged([*first]), judged([*second[::-1]]), resamples=500)["c"]
    assert got["difference"] == pytest.approx(1)
    assert 0 < _width(got) < 0.6 * _width(shuffled)


def test_the_test_of_a_difference_is_about_its_mean() -> None:
    """Many answers are a little worse, few much better: signs alone would say worse. Here the mean
    is 0, and the permutation test finds nothing."""
    first, second = judged([1] * 40 + [5] * 10), judged([2] * 40 + [1] * 10)
    got = paired_difference(first, second, resamples=500)["c"]
    assert (got["difference"], got["higher"], got["lower"]) == (0, 10, 40)
    assert binomtest(10, 50).pvalue < 0.001 and got["p"] > 0.9
    assert got["low"] is not None and got["high"] is not None and got["low"] < 0 < got["high"]


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


@pytest.mark.parametrize("scale", [(1, 5), (0, 10)])
def test_kappa_is_that_of_scikit_learn_and_its_interval_that_of_a_loop(
    scale: tuple[int, int],
) -> None:
    rng = np.random.default_rng(1)
    human = rng.integers(scale[0], scale[1] + 1, 60)
    judged_ = np.clip(human + rng.integers(-1, 2, 60), *scale)
    labels = list(range(scale[0], scale[1] + 1))

    def plain(rows: Any) -> float:
        return float(
            cohen_kappa_score(human[rows], judged_[rows], labels=labels, weights="quadratic")
        )

    estimate = agreement(human, judged_, Resampling(300, 0.95, 4))
    assert estimate.kappa == pytest.approx(plain(np.arange(60)))
    loop = [plain(np.repeat(np.arange(60), c.astype(int))) for c in resample_counts(60, 300, 4)]
    low, high = np.quantile(loop, [0.025, 0.975])
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low <= low and high <= estimate.high


def test_agreement_of_known_tables() -> None:
    same, resampling = np.array([1, 2, 3, 4, 5]), Resampling(200, 0.95, 0)
    perfect = agreement(same, same, resampling)
    assert perfect.kappa == 1 and perfect.low is not None and perfect.low < 0.9
    assert agreement(same, 6 - same, resampling).kappa == pytest.approx(-1)
    constant = agreement(np.full(4, 3), np.full(4, 3), resampling)
    assert (constant.kappa, constant.low, constant.exact, constant.n) == (None, None, 1.0, 4)
    # Disagreement of (0,1,1,0)/4 against a chance of (1/2, 1/2) each: 1 - (1/2)/(1/2).
    human, judged_ = np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2])
    assert agreement(human, judged_, resampling).kappa == pytest.approx(0)
    by_groups = agreement(np.tile(human, 9), np.tile(judged_, 9), resampling,
                          Groups(np.repeat(np.arange(9), 4), 9))  # fmt: skip
    assert by_groups.kappa == pytest.approx(0), "every group is alike"


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
    human_scores = read_human_scores(file, ["c"], (1, 5), ["good", "bad"])
    assert human_scores == {"good": {("0", "c"): 1, ("1", "c"): 2}, "bad": {("0", "c"): 5}}
    with pytest.raises(UsageError, match="line 2: unknown variant 'good'"):
        read_human_scores(file, ["c"], (1, 5), ["other"])


def test_scores_without_a_variant_count_for_the_judged_one(tmp_path: Path) -> None:
    (tmp_path / "human.csv").write_text("id,criterion,score\n0,c,1\n", "utf-8")
    settings = Judge.model_validate({"model": "m", "criteria": {"c": "?"}, "human": "human.csv"})
    scores: Any = {"verdict": {"best_tuned": "lora", "winner": "zero"}, "notes": []}
    aligned = align_human_scores(settings, tmp_path, ["zero", "lora"], scores)
    assert aligned == {"lora": {("0", "c"): 1}}
    assert "compared with the judge's scores of lora only" in scores["notes"][0]
