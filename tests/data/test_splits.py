"""Splits: each label in its share, no group and no copy on both sides, draws of exact size that
nest."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from data.tabled import examples, file, study_recipe
from prooftune.data import sampling, split_notes, splits
from prooftune.data.prepare import prepare_data
from prooftune.errors import UsageError
from prooftune.types import Example, Study
from standins.random_words import random_words

WORDS = ("alpha", "beta", "gamma", "delta", "omega", "sigma", "kappa", "lambda", "theta", "zeta")


def different(count: int, start: int = 0) -> list[str]:
    """Texts of which no two share three words in a row."""
    return [" ".join(f"{word}{i}" for word in WORDS) for i in range(start, start + count)]


def labelled(counts: dict[str, int]) -> list[Example]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return examples(list(zip(different(len(labels)), labels, strict=True)))


def csv(folder: Path, name: str, rows: list[tuple[str, str]]) -> str:
    return file(folder, name, "text,label\n" + "".join(f"{t},{x}\n" for t, x in rows)).name


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_stratified_shares_are_those_of_scikit_learn(share: float) -> None:
    rows = labelled({"a": 61, "b": 30, "c": 9})
    remaining, aside = splits.split_holdout(rows, share, "stratified", 3, "test")
    reference = train_test_split(
        [e.target for e in rows], test_size=share, random_state=3, stratify=[e.target for e in rows]
    )[1]
    assert Counter(e.target for e in aside) == Counter(reference)
    assert sorted(e.id for e in [*remaining, *aside]) == sorted(e.id for e in rows)
    places = {e.id: i for i, e in enumerate(rows)}
    for part in (remaining, aside):
        assert [places[e.id] for e in part] == sorted(places[e.id] for e in part)


def test_splits_depend_on_the_seed() -> None:
    rows = labelled({"a": 50, "b": 50})
    drawn = [
        [e.id for e in splits.split_holdout(rows, 0.2, "stratified", seed, "test")[1]]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@pytest.mark.slow
@given(
    groups=st.lists(st.integers(0, 7), min_size=30, max_size=60).filter(lambda g: len(set(g)) >= 4),
    seed=st.integers(0, 99),
)
def test_no_group_is_in_both_parts(groups: list[int], seed: int) -> None:
    rows = [
        Example(str(i), {"text": "x"}, "ab"[i % 2], group=f"g{g}") for i, g in enumerate(groups)
    ]
    remaining, aside = splits.split_holdout(rows, 0.3, "grouped", seed, "test")
    assert not {e.group for e in remaining} & {e.group for e in aside}
    assert remaining
    assert aside


@pytest.mark.parametrize("method", ["stratified", "random"])
def test_duplicates_and_near_duplicates_stay_in_one_part(method: Any) -> None:
    texts = different(40)
    copied = [t.upper() + "!" for t in texts[:20]]
    # 10 words more by one have 8 of 9 runs of three words in common.
    extended = [f"{t} more" for t in texts[20:]]
    rows = examples(
        [(t, "ab"[i % 2]) for i, t in enumerate(texts)]
        + [(t, "ab"[i % 2]) for i, t in enumerate(copied + extended)]
    )
    remaining, aside = splits.split_holdout(rows, 0.4, method, 0, "test", near_duplicates=0.8)
    families = [
        {e.inputs["text"].lower().removesuffix("!").removesuffix(" more") for e in part}
        for part in (remaining, aside)
    ]
    assert not families[0] & families[1]
    assert len(aside) == 32
    _, exact_only = splits.split_holdout(rows, 0.4, method, 0, "test", near_duplicates=None)
    assert {e.inputs["text"] for e in exact_only} != {e.inputs["text"] for e in aside}


@pytest.mark.parametrize(
    ("rows", "method", "words"),
    [
        (
            labelled({"a": 2, "b": 1}),
            "stratified",
            "3 distinct texts are too few to hold out 20% for test; give data.test its own",
        ),
        (examples([("same", "a")] * 50), "stratified", "1 distinct texts are too few"),
        (
            labelled({str(i): 1 for i in range(20)}),
            "stratified",
            "every label has a single text, so none can be in both train and test",
        ),
        (
            [Example(str(i), {"text": "x"}, "a", group="one") for i in range(9)],
            "grouped",
            "1 groups are too few",
        ),
    ],
)
def test_impossible_splits_are_reported(rows: list[Example], method: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        splits.split_holdout(rows, 0.2, method, 0, "test")
    assert words in str(error.value)


def test_one_file_is_split_in_three(tmp_path: Path) -> None:
    rows = [(t, "pos" if i % 4 else "neg") for i, t in enumerate(different(200))]
    data = {"train": csv(tmp_path, "a.csv", rows), "splitting": {"test": 0.25, "validation": 0.2}}
    # The texts differ in their numbers only.
    audit = {"near_duplicates": None}
    study = splits.load_splits(study_recipe(data, audit=audit), tmp_path)
    assert {name: len(part) for name, part in study.splits().items()} == {
        "train": 120,
        "validation": 30,
        "test": 50,
    }
    ids = [e.id for part in study.splits().values() for e in part]
    assert len(set(ids)) == 200
    assert study.labels == ["neg", "pos"]


def test_files_of_their_own_are_not_split(tmp_path: Path) -> None:
    texts = different(60)
    data = {
        "train": csv(tmp_path, "train.csv", [(t, "ab"[i % 2]) for i, t in enumerate(texts[:40])]),
        "test": csv(tmp_path, "test.csv", [(t, "ab"[i % 2]) for i, t in enumerate(texts[40:])]),
    }
    study = splits.load_splits(study_recipe(data), tmp_path)
    assert [e.inputs["text"] for e in study.test] == texts[40:]
    assert sorted(e.inputs["text"] for e in [*study.train, *study.validation]) == sorted(texts[:40])
    assert len(study.validation) == 4


def test_ambiguous_ids_are_prefixed_with_the_split(tmp_path: Path) -> None:
    rows = [(t, "ab"[i % 2]) for i, t in enumerate(different(20))]
    data = {
        name: csv(tmp_path / name, "data.csv", rows) and f"{name}/data.csv"
        for name in ("train", "validation", "test")
    }
    study = splits.load_splits(study_recipe(data), tmp_path)
    assert study.train[0].id == "train/data.csv:2"
    assert study.test[0].source == "test/data.csv:2"
    assert len({e.id for part in study.splits().values() for e in part}) == 60


def test_labels_have_the_order_of_the_recipe(tmp_path: Path) -> None:
    rows = [(t, "321"[i % 3]) for i, t in enumerate(different(30))]
    data = {
        "train": csv(tmp_path, "a.csv", rows),
        "labels": {3: "late", 1: "early", 2: "middle", 9: "never"},
    }
    assert splits.load_splits(study_recipe(data), tmp_path).labels == ["late", "early", "middle"]
    data = {"train": "a.csv", "bins": {"two": [2, 3], "one": [0, 1.5]}}
    assert splits.load_splits(study_recipe(data), tmp_path).labels == ["two", "one"]


def test_groups_come_from_the_group_column(tmp_path: Path) -> None:
    lines = [f"{t},{'ab'[i % 2]},author {i % 10}" for i, t in enumerate(different(100))]
    file(tmp_path, "a.csv", "text,label,author\n" + "\n".join(lines))
    data: dict[str, Any] = {"train": "a.csv", "splitting": {"method": "grouped"}}
    with pytest.raises(
        UsageError, match=r"grouped needs data\.group, a column with a value in every row"
    ):
        splits.load_splits(study_recipe(data), tmp_path)
    study = splits.load_splits(study_recipe({**data, "group": "author"}), tmp_path)
    groups = [{e.group for e in part} for part in study.splits().values()]
    assert [len(g) for g in groups] == [7, 1, 2]
    assert len(set.union(*groups)) == 10


@given(
    st.lists(st.sampled_from("aaaabbc"), min_size=1, max_size=80),
    st.integers(1, 80),
    st.integers(0, 9),
)
def test_stratified_samples_have_the_right_size_and_shares(
    labels: list[str], most: int, seed: int
) -> None:
    rows = examples([("x", label) for label in labels])
    drawn = sampling.stratified_sample(rows, most, seed)
    assert len(drawn) == min(most, len(rows))
    assert drawn == [e for e in rows if e in drawn]
    counts, whole = Counter(e.target for e in drawn), Counter(labels)
    for label, count in whole.items():
        assert abs(counts[label] - count * len(drawn) / len(rows)) < 1


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 9))
def test_smaller_samples_are_subsets_of_larger_ones(small: int, more: int, seed: int) -> None:
    # Two labels: with three and more, largest remainders may take a row away from one.
    rows = examples([("x", "aab"[i % 3]) for i in range(90)])
    assert {e.id for e in sampling.stratified_sample(rows, small, seed)} <= {
        e.id for e in sampling.stratified_sample(rows, small + more, seed)
    }


def test_limits_are_noted() -> None:
    study = Study(
        labelled({"a": 30, "b": 10}),
        labelled({"a": 5}),
        labelled({"a": 8, "b": 8}),
        ["a", "b"],
        ["before."],
    )
    limited = sampling.limit_splits(
        study, study_recipe({"train": "a.csv", "limit": {"train": 20, "validation": 5, "test": 4}})
    )
    assert [len(part) for part in limited.splits().values()] == [20, 5, 4]
    assert Counter(e.target for e in limited.train) == {"a": 15, "b": 5}
    assert limited.notes == [
        "before.",
        "train: 20 of 40 rows sampled (data.limit).",
        "test: 4 of 16 rows sampled (data.limit).",
    ]


def test_a_label_of_one_text_stays_in_training_and_is_noted() -> None:
    rows = labelled({"a": 20, "b": 20, "c": 1, "d": 1})
    train, test = splits.split_holdout(rows, 0.2, "stratified", 0, "test")
    assert {e.target for e in test} == {"a", "b"}
    assert {e.target for e in train} == {"a", "b", "c", "d"}
    [note] = split_notes.rare_label_note(train, test, "test")
    assert "2 labels have a single text ('c', 'd'): kept in training" in note


def test_a_part_that_large_clusters_make_uneven_is_noted() -> None:
    rows = labelled({"a": 60, "b": 40})
    even = ([*rows[:54], *rows[60:96]], [*rows[54:60], *rows[96:]])  # 10% of each label
    note = partial(split_notes.uneven_split_note, share=0.1, name="validation")
    assert note(*even, method="stratified", near_duplicates=0.7) == []
    # 12 of "b", where 4 are its share: 18 of 100 rows.
    uneven = ([*rows[:54], *rows[60:88]], [*rows[54:60], *rows[88:]])
    assert note(*uneven, method="stratified", near_duplicates=0.7) == [
        "validation has 18 of 100 rows instead of 10 and 12 of 'b' instead of 4, because "
        "near-copies stay in one part. If these texts are alike but no copies, set "
        "audit.near_duplicates: null."
    ]
    [exact] = note(*uneven, method="random", near_duplicates=None)
    assert exact == "validation has 18 of 100 rows instead of 10, because copies stay in one part."
    [grouped] = note(*uneven, method="grouped", near_duplicates=0.7)
    assert grouped.endswith("because groups stay in one part.")
    # The right number of rows, but none of "c".
    rows = labelled({"a": 60, "b": 60, "c": 80})
    without = (rows[40:], rows[:40])
    [labels] = note(*without, share=0.2, method="stratified", near_duplicates=None)
    assert labels == "validation has 40 of 'a' instead of 12, because copies stay in one part."
    assert note(*without, share=0.2, method="random", near_duplicates=None) == []


def test_every_label_of_a_small_set_is_held_out_once() -> None:
    """20% of 40 texts are fewer than their 20 labels."""
    rows = labelled({str(i): 2 for i in range(20)})
    train, test = splits.split_holdout(rows, 0.2, "stratified", 0, "test")
    assert len(test) == 20 and {e.target for e in test} == {e.target for e in train}


@pytest.mark.parametrize(("labels", "others"), [(2, 0), (30, 0), (2, 40)])
def test_texts_of_one_template_are_split_with_a_note(
    tmp_path: Path, labels: int, others: int
) -> None:
    texts = [random_words(i, 8) for i in range(others)]
    texts += [f"please do the thing number {i} now" for i in range(120 - others)]
    rows = [(text, f"l{i % labels}") for i, text in enumerate(texts)]
    recipe = study_recipe({"train": csv(tmp_path, "a.csv", rows)})
    study, report = prepare_data(recipe, tmp_path, lambda _: None)
    assert sum(map(len, study.splits().values())) == 120
    assert len(study.test) == max(24, labels)
    assert "as if made from a template" in study.notes[-1]
    assert not [f for f in report.findings if f.severity == "error"]
    # A threshold that the recipe states holds.
    stated = study_recipe({"train": csv(tmp_path, "a.csv", rows)}, audit={"near_duplicates": 0.7})
    with pytest.raises(UsageError, match=r"(too few|more than half).*audit.near_duplicates: null"):
        prepare_data(stated, tmp_path, lambda _: None)


def test_templates_in_validation_leave_the_check_against_a_test_file_on(tmp_path: Path) -> None:
    rows = [(f"please do the thing number {i} now", f"l{i % 2}") for i in range(60)]
    data = {
        "train": csv(tmp_path, "a.csv", rows),
        "test": csv(tmp_path, "t.csv", [("please do the thing number 777 now", "l0"),
                                        ("quite another text about parcels", "l1")]),
    }  # fmt: skip
    study, report = prepare_data(study_recipe(data), tmp_path, lambda _: None)
    assert study.templated == ("validation",) and "validation texts resemble" in study.notes[-1]
    assert [f.code for f in report.findings if f.severity == "error"] == [
        "near-leak",
        "near-leak",
    ]  # train and validation


BLANK = [("", "a"), (" \u00a0", "b"), ("", "a")]
"""Rows without text: several, so that a split would put some of them on each side."""


EXACT = {"near_duplicates": None}


def with_blanks(folder: Path, name: str) -> str:
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(different(60))]
    return csv(folder, name, [*BLANK, *rows])


@pytest.mark.parametrize("method", ["stratified", "random", "grouped"])
def test_rows_without_text_are_dropped_before_a_split(tmp_path: Path, method: str) -> None:
    rows = "".join(f"{t},{'ab'[i % 2]},g{i % 9}\n" for i, t in enumerate(different(60)))
    file(tmp_path, "a.csv", "text,label,group\n,a,\n ,b,\n,a,\n" + rows)
    data = {"train": "a.csv", "group": "group", "splitting": {"method": method}}
    study, report = prepare_data(study_recipe(data, audit=EXACT), tmp_path, lambda _: None)
    assert not any(e.is_empty for part in study.splits().values() for e in part)
    assert sum(map(len, study.splits().values())) == 60
    [finding] = [f for f in report.findings if f.code == "empty"]
    assert finding.rows == ["a.csv:2", "a.csv:3", "a.csv:4"]
    assert finding.message.endswith("They are dropped before the split.")
    assert study.notes.count("3 rows without text dropped before the split.") == 1


def test_rows_without_text_stay_in_a_given_test_file(tmp_path: Path) -> None:
    given = {"train": with_blanks(tmp_path, "a.csv")}
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(different(20, start=100))]
    given["test"] = csv(tmp_path, "t.csv", [("", "a"), *rows])
    study, report = prepare_data(study_recipe(given, audit=EXACT), tmp_path, lambda _: None)
    assert len(study.test) == 21 and study.test[0].is_empty
    assert len(study.train) + len(study.validation) == 60
    assert [f.message.partition(": ")[0] for f in report.findings if f.code == "empty"] == [
        "3 rows without text",
        "1 test row without text",
    ]
    # Where every split has a file, there is no split to drop them before.
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(different(20, start=200))]
    given["validation"] = csv(tmp_path, "v.csv", [("", "a"), *rows])
    study, report = prepare_data(study_recipe(given, audit=EXACT), tmp_path, lambda _: None)
    assert study.empty_rows == ()
    assert [len(part) for part in study.splits().values()] == [60, 20, 21]


def test_a_text_in_one_of_several_fields_is_no_row_without_text(tmp_path: Path) -> None:
    rows = [("", text, "ab"[i % 2]) for i, text in enumerate(different(40))]
    file(
        tmp_path, "a.csv", "title,body,label\n,,a\n" + "".join(f"{t},{b},{x}\n" for t, b, x in rows)
    )
    recipe = study_recipe({"train": "a.csv", "text": ["title", "body"]}, audit=EXACT)
    study, _ = prepare_data(recipe, tmp_path, lambda _: None)
    assert sum(map(len, study.splits().values())) == 40 and study.empty_rows == ("a.csv:2",)
