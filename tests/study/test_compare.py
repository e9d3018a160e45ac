"""Comparing two run folders on the examples that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from prooftune import recipe, run_folder
from prooftune.errors import Failure, UsageError
from prooftune.study.compare import compare_runs
from prooftune.types import Example, Prediction, Study
from prooftune.utils.files import write_json, write_text

LABELS = ["bad", "good"]


def make_run(
    folder: Path,
    texts: list[str],
    right: dict[str, set[int]],
    *,
    prefix: str = "a.csv",
    bundled: str | None = None,
    groups: list[str] | None = None,
) -> Path:
    """A finished run; `right` names the variants and the numbers of the test texts that each
    answers rightly, `groups` the group of each."""
    chosen = recipe.parse(
        {
            "name": "study",
            "data": {"train": "a.csv", "text": "text", "label": "label"},
            "variants": {name: {"kind": "tuned" if name == "tuned" else "tfidf"} for name in right},
        }
    )
    write_text(folder / "recipe.yaml", recipe.dump(chosen))
    test = [
        Example(
            f"{prefix}:{i}",
            {"text": text},
            LABELS[len(text) % 2],
            group=groups[i] if groups else None,
        )
        for i, text in enumerate(texts)
    ]
    run_folder.write_study(folder / "data", Study([], [], test, LABELS))
    for name, numbers in right.items():
        wrong = {"bad": "good", "good": "bad"}
        output = [
            Prediction(e.id, str(e.target) if i in numbers else wrong[str(e.target)])
            for i, e in enumerate(test)
        ]
        run_folder.write_predictions(folder / "variants" / name / "predictions.parquet", output)
        run_folder.write_predictions(folder / "variants" / name / "validation.parquet", [])
        write_json(folder / "variants" / name / "details.json", {})
    if bundled:
        write_json(folder / "bundle" / "bundle.json", {"variant": bundled})
    return folder


TEXTS = [f"text {'x' * (i % 3)} {i}" for i in range(40)]


def test_the_comparison_reports_accuracies_difference_and_test(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", TEXTS, {"tfidf": set(range(30))})
    second = make_run(tmp_path / "b", TEXTS, {"tfidf": set(range(10, 20))})
    output = str(compare_runs(f"{first}:tfidf", f"{second}:tfidf"))
    assert f"{first}:tfidf: 75.0% of 40 shared test examples right" in output
    assert f"{second}:tfidf: 25.0%" in output
    assert "difference +50.0 points, 95% interval [+3" in output
    # 20 against 0: two-sided exact p is 2 * 0.5 ** 20.
    assert (
        "p < 0.001 (20 right only in the first, 0 only in the second): the two can be told "
        "apart." in output
    )
    assert "left out" not in output


def test_a_small_difference_is_not_significant(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", TEXTS, {"tfidf": set(range(20))})
    second = make_run(tmp_path / "b", TEXTS, {"tfidf": set(range(1, 20))})
    assert (
        "p = 1.00 (1 right only in the first, 0 only in the second): the two cannot be told apart."
        in str(compare_runs(f"{first}:tfidf", f"{second}:tfidf"))
    )


@pytest.mark.parametrize("grouped", [(True, True), (True, False), (False, True)])
def test_examples_of_a_group_are_resampled_and_swapped_together(
    tmp_path: Path, grouped: tuple[bool, bool]
) -> None:
    # Eight groups of five: the first variant is right in six of them, the second in the others.
    authors = [f"author {i // 5}" for i in range(40)]
    both = [
        make_run(tmp_path / name, TEXTS, {"tfidf": right}, groups=authors if has else None)
        for name, right, has in zip(
            "ab", (set(range(30)), set(range(30, 40))), grouped, strict=True
        )
    ]
    compared = compare_runs(*(f"{run}:tfidf" for run in both))
    assert (compared.groups, compared.grouped_by) == (8, "data.group")
    # Of the 256 swaps of whole groups, 2 x (28 + 8 + 1) give a difference as large as 6 - 2.
    assert compared.p_value == pytest.approx(74 / 256, abs=0.02)
    # The standard error of eight differences of +1 or -1, six of them +1: 0.87 / sqrt(8).
    assert compared.difference.low < 0.5 - 1.96 * 0.87 / 8**0.5 + 0.1
    assert compared.only_first is None
    text = str(compared)
    assert "8 groups (data.group)" in text and "permutation test p" in text

    alone = [
        make_run(tmp_path / f"{name}2", TEXTS, {"tfidf": right})
        for name, right in (("a", set(range(30))), ("b", set(range(30, 40))))
    ]
    plain = compare_runs(*(f"{run}:tfidf" for run in alone))
    assert plain.groups is None and plain.p_value < 0.01 and "groups" not in str(plain)


def test_examples_are_paired_by_content_whatever_their_ids_and_order(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", TEXTS, {"tfidf": {0, 1, 2}})
    # The same three texts are right, read in reverse from another file.
    second = make_run(tmp_path / "b", TEXTS[::-1], {"tfidf": {37, 38, 39}}, prefix="b.csv")
    output = str(compare_runs(f"{first}:tfidf", f"{second}:tfidf"))
    assert "0 right only in the first, 0 only in the second" in output


def test_only_shared_examples_count_and_the_others_are_mentioned(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", TEXTS[:30], {"tfidf": set(range(30))})
    second = make_run(tmp_path / "b", TEXTS[20:], {"tfidf": set()})
    output = str(compare_runs(f"{first}:tfidf", f"{second}:tfidf"))
    assert "100.0% of 10 shared test examples right" in output
    assert output.endswith("30 test examples are in only one of the runs, and not compared.")


def test_a_duplicated_example_is_counted_twice(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", ["same", "same", "other"], {"tfidf": {0, 1, 2}})
    second = make_run(tmp_path / "b", ["same", "other"], {"tfidf": {0}})
    output = str(compare_runs(f"{first}:tfidf", f"{second}:tfidf"))
    assert "of 2 shared" in output
    assert "1 test example is in only one" in output
    assert "of 3 shared" in str(compare_runs(f"{first}:tfidf", f"{first}:tfidf"))


def test_the_bundled_variant_is_compared_where_none_is_named(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", TEXTS, {"tfidf": set(), "tuned": {1}}, bundled="tuned")
    assert f"{first}:tuned" in str(compare_runs(str(first), f"{first}:tfidf"))


def test_a_folder_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a:b", TEXTS, {"tfidf": {1}}, bundled="tfidf")
    assert f"{first}:tfidf: 2.5%" in str(compare_runs(str(first), f"{first}:tfidf"))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{run}:tfdif", "has no variant 'tfdif'; it has tfidf (did you mean 'tfidf'?)"),
        ("{run}", "has no bundle; name a variant"),
        ("{run}x:tfidf", "no such folder"),
        ("{other}", "share no test example"),
    ],
)
def test_a_wrong_reference_is_explained(tmp_path: Path, reference: str, message: str) -> None:
    run = make_run(tmp_path / "a", TEXTS, {"tfidf": {1}})
    other = make_run(tmp_path / "b", ["quite different"], {"tfidf": {0}}, bundled="tfidf")
    with pytest.raises(UsageError) as caught:
        compare_runs(f"{run}:tfidf", reference.format(run=run, other=other))
    assert message in str(caught.value)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", TEXTS, {"tfidf": {1}})
    (run / "variants" / "tfidf" / "details.json").unlink()
    with pytest.raises(UsageError, match="not finished"):
        compare_runs(f"{run}:tfidf", f"{run}:tfidf")


def test_predictions_for_other_rows_than_the_runs_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", TEXTS, {"tfidf": {1}})
    path = run / "variants" / "tfidf" / "predictions.parquet"
    run_folder.write_predictions(path, run_folder.read_predictions(path)[::-1])
    with pytest.raises(Failure, match="same examples in the same order"):
        compare_runs(f"{run}:tfidf", f"{run}:tfidf")


RATINGS = ["1", "2", "3", "4", "5"]


def make_rated(
    folder: Path, distance: int, *, labels: list[str] = RATINGS, **evaluation: Any
) -> tuple[Path, list[str], list[str]]:
    """A finished run with ratings, its targets and its outputs: every fourth is wrong, by some
    steps of the scale."""
    values: dict[str, Any] = {
        "name": "study",
        "data": {"train": "a.csv", "text": "text", "label": "label", "ordinal": True},
        "evaluation": evaluation,
        "variants": ["tfidf"],
    }
    if evaluation:
        del values["data"]["ordinal"]
    write_text(folder / "recipe.yaml", recipe.dump(recipe.parse(values)))
    targets = [RATINGS[i % 5] for i in range(60)]
    outputs = [t if i % 4 else RATINGS[(int(t) - 1 + distance) % 5] for i, t in enumerate(targets)]
    test = [Example(f"a:{i}", {"text": f"text {i}"}, t) for i, t in enumerate(targets)]
    scale = [] if evaluation else [float(label) for label in labels]
    run_folder.write_study(folder / "data", Study([], [], test, labels, scale=scale))
    variant = folder / "variants" / "tfidf"
    predictions = [Prediction(e.id, o) for e, o in zip(test, outputs, strict=True)]
    run_folder.write_predictions(variant / "predictions.parquet", predictions)
    run_folder.write_predictions(variant / "validation.parquet", [])
    write_json(variant / "details.json", {})
    return folder, targets, outputs


def test_ratings_are_compared_by_kappa(tmp_path: Path) -> None:
    near, targets, outputs = make_rated(tmp_path / "near", 1)
    far, _, others = make_rated(tmp_path / "far", 2)
    compared = compare_runs(f"{near}:tfidf", f"{far}:tfidf")
    kappas = [
        cohen_kappa_score(targets, given, weights="quadratic", labels=RATINGS)
        for given in (outputs, others)
    ]
    assert [compared.first_mean, compared.second_mean] == pytest.approx(kappas)
    # Both have three of four right, so that accuracy sees nothing.
    assert compared.difference.value == pytest.approx(kappas[0] - kappas[1])
    assert compared.only_first is None and 0 < compared.p_value < 1
    text = str(compared)
    assert f"tfidf: {kappas[0]:.3f} quadratic weighted kappa on 60 shared test examples" in text
    assert f"difference +{kappas[0] - kappas[1]:.3f}, 95%" in text and "permutation test p" in text


def test_labels_are_compared_by_the_metric_that_the_recipe_names(tmp_path: Path) -> None:
    first, targets, outputs = make_rated(tmp_path / "a", 1, primary="macro_f1")
    # The other study numbers its labels in another order.
    second, _, others = make_rated(tmp_path / "b", 2, labels=RATINGS[::-1], primary="accuracy")
    compared = compare_runs(f"{first}:tfidf", f"{second}:tfidf")
    means = [f1_score(targets, given, average="macro") for given in (outputs, others)]
    assert [compared.first_mean, compared.second_mean] == pytest.approx(means)
    assert f"{means[0]:.1%} macro F1 on 60" in str(compared)
    # By the first study's metric, whose test is McNemar's here.
    assert "examples right" in str(compare_runs(f"{second}:tfidf", f"{first}:tfidf"))


def test_labels_outside_the_scale_cannot_be_compared(tmp_path: Path) -> None:
    first, *_ = make_rated(tmp_path / "a", 1)
    second, *_ = make_rated(tmp_path / "b", 1, labels=[*RATINGS, "6"])
    with pytest.raises(UsageError, match="judged by quadratic weighted kappa, and has no 6"):
        compare_runs(f"{first}:tfidf", f"{second}:tfidf")
    assert compare_runs(f"{second}:tfidf", f"{first}:tfidf").difference.value == 0
