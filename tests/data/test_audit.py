"""The audit: what it finds, where, how bad it is, and what it must not find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data.tabled import examples, study_recipe
from prooftune.data import prepare, splits
from prooftune.data.audit import audit
from prooftune.data.audit.audit import AuditReport
from prooftune.data.audit.findings import Finding
from prooftune.data.normalization import label_spelling_variants
from prooftune.errors import UsageError
from prooftune.types import Example, Study

Pairs = Sequence[tuple[str, str | None]]
LONG = " ".join(f"word{i}" for i in range(40))
FILLER: Pairs = [(f"filler {label} number {i} of many", label) for i in range(12) for label in "ab"]


def study(train: Pairs = (), test: Pairs = (), validation: Pairs = (), fill: bool = True) -> Study:
    """Examples of three files, each label with enough training rows and one test row where `fill`
    is set."""
    tested: Pairs = [("only in test, one", "a"), ("only in test, two", "b")] if fill else []
    parts = [
        examples([*pairs, *more], name)
        for name, pairs, more in (
            ("train", train, FILLER if fill else []),
            ("valid", validation, []),
            ("test", test, tested),
        )
    ]
    labels = sorted({e.target for part in parts for e in part if e.target is not None})
    return Study(parts[0], parts[1], parts[2], labels)


def report(given: Study, **options: Any) -> AuditReport:
    return audit.audit_study(given, study_recipe({"train": "a.csv"}, audit=options))


def findings(given: Study, **options: Any) -> list[Finding]:
    return report(given, **options).findings


def only(given: Study, **options: Any) -> Finding:
    [finding] = findings(given, **options)
    return finding


def test_clean_data_has_no_findings() -> None:
    assert findings(study()) == []


@pytest.mark.parametrize(
    ("text", "kind"), [(LONG.upper() + " !", "exact"), (LONG + " more", "near")]
)
@pytest.mark.parametrize(
    ("leak", "severity", "ending"),
    [
        (
            "error",
            "error",
            "Remove them, or set audit.leak: drop to remove them from train (audit.leak: allow "
            "keeps them; the scores are then inflated)",
        ),
        ("drop", "info", "Dropped from train."),
        ("allow", "warning", "train:1 = test:1."),
    ],
)
def test_train_test_contamination(
    text: str, kind: str, leak: str, severity: str, ending: str
) -> None:
    given = study([(text, "a")], [(LONG, "a")])
    result = only(given, leak=leak)
    duplicate = (
        "an exact duplicate"
        if kind == "exact"
        else "a near-duplicate (Jaccard similarity of at least 0.7)"
    )
    assert (result.code, result.severity, result.rows) == (
        f"{kind}-leak",
        severity,
        ["train:1 = test:1"],
    )
    assert result.message.startswith(
        f"1 train row is {duplicate} of 1 test row (train-test contamination): train:1 = test:1"
    )
    assert result.message.endswith(ending)
    cleaned = audit.drop_rows(
        given, report(given, leak=leak), study_recipe({"train": "a.csv"}, audit={"leak": leak})
    )
    assert (given.train[0] in cleaned.train) == (leak != "drop")
    assert len(cleaned.test) == len(given.test)


def test_near_duplicates_depend_on_the_threshold() -> None:
    given = study([(LONG + " more", "a")], [(LONG, "a")])
    assert only(given, near_duplicates=0.97).code == "near-leak"
    assert findings(given, near_duplicates=0.98) == []
    assert findings(given, near_duplicates=None) == []


def test_train_validation_contamination_is_a_warning() -> None:
    result = only(study([(LONG, "a")], validation=[(LONG, "a")]))
    assert (result.code, result.severity) == ("exact-leak", "warning")
    assert "1 train row is an exact duplicate of 1 validation row" in result.message


def test_leaked_rows_are_dropped_from_the_earlier_split() -> None:
    other = LONG.replace("word", "other")
    given = study(
        [(LONG, "a"), (other, "a")], [(LONG, "a")], [(LONG, "a"), (other, "a"), ("third", "a")]
    )
    chosen = study_recipe({"train": "a.csv"}, audit={"leak": "drop"})
    cleaned = audit.drop_rows(given, audit.audit_study(given, chosen), chosen)
    assert [e.id for e in cleaned.validation] == ["valid:2", "valid:3"]
    assert len(cleaned.train) == len(FILLER)
    assert cleaned.notes == [
        "train: 2 rows dropped (audit.leak: drop): duplicates or near-duplicates of validation or "
        "test rows.",
        "validation: 1 row dropped (audit.leak: drop): duplicates or near-duplicates of test rows.",
    ]


def test_dropping_everything_is_an_error() -> None:
    given = study(FILLER, FILLER, fill=False)
    chosen = study_recipe({"train": "a.csv"}, audit={"leak": "drop"})
    with pytest.raises(UsageError, match="no train rows remain after dropping"):
        audit.drop_rows(given, audit.audit_study(given, chosen), chosen)


def test_conflicting_labels_name_rows_and_labels() -> None:
    given = study([("So so.", "a"), ("so so", "b")])
    codes = {f.code: f for f in findings(given)}
    assert set(codes) == {"contradiction", "repeated"}
    assert (
        codes["contradiction"].message
        == "1 text has conflicting labels: train:1 (a) / train:2 (b)."
    )


def test_repeated_rows() -> None:
    result = only(
        study([("Again and again", "a"), ("again AND again!", "a"), ("Again and again", "a")])
    )
    assert (result.code, result.severity) == ("repeated", "info")
    assert (
        result.message
        == "2 train rows duplicate an earlier row: train:2 = train:1, train:3 = train:1."
    )


def test_empty_texts_are_dropped_from_training_but_not_from_test() -> None:
    given = study([("  \n", "a"), ("", "b")], [("", "a")], [("fine", "a"), ("", "a")])
    result = findings(given)
    assert {f.code for f in result} == {"empty"}
    assert [f.message for f in result] == [
        "2 train rows without text: train:1, train:2. They are dropped.",
        "1 validation row without text: valid:2. It is dropped.",
        "1 test row without text: test:1. It stays in the test set.",
    ]
    cleaned = audit.drop_rows(given, report(given), study_recipe({"train": "a.csv"}))
    assert [len(part) for part in cleaned.splits().values()] == [len(FILLER), 1, 3]
    assert cleaned.notes == [
        "train: 2 rows without text dropped.",
        "validation: 1 row without text dropped.",
    ]


def test_few_rows_and_imbalance() -> None:
    many: Pairs = [(f"text {i} of a large class", "a") for i in range(130)]
    result = {
        f.code: f.message
        for f in findings(study([*many, ("rare one", "c")], [("a rare test", "c")]))
    }
    assert result["few-rows"] == "few training rows for 'c' (1)."
    assert result["imbalance"] == (
        "imbalanced label distribution: 'a' has 142 training rows, 'c' 1. Accuracy alone is "
        "misleading; see balanced accuracy and macro F1. class_weights: balanced lets every label "
        "count alike in training."
    )


def test_labels_that_differ_only_in_case() -> None:
    given = study([(f"another {i} of these", "A ") for i in range(10)])
    alike = [finding for finding in findings(given) if finding.code == "alike-labels"]
    assert [finding.message for finding in alike] == [
        "labels 'a', 'A ' differ only in case, spaces or hyphens. If they are the same label: "
        "data.labels: "
        '{"a": "a", "A ": "a", "b": "b"}'
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["very good", "Very-Good", "very_good", "bad"], [["very good", "Very-Good", "very_good"]]),
        (["C", "C++", "C#", "+1", "-1", "1", "+", "-", "", "_"], []),
        (["straße", "STRASSE", " a", "a "], [["straße", "STRASSE"], [" a", "a "]]),
    ],
)
def test_label_spelling_variants(labels: list[str], expected: list[list[str]]) -> None:
    assert label_spelling_variants(labels) == expected


def test_labels_without_test_rows() -> None:
    result = {
        f.code: f.message
        for f in findings(study([(f"third class {i} text", "c") for i in range(10)]))
    }
    assert result == {
        "untested-label": "no test row has label 'c', so the test set cannot measure how well it "
        "is predicted."
    }


def test_labels_without_training_rows() -> None:
    result = only(study(test=[("what is this", "new")]))
    assert (result.severity, result.rows) == ("error", ["test:1"])
    assert (
        result.message
        == "label 'new' in test (test:1) but in no training row. Training labels: 'a', 'b'"
    )
    assert only(study(validation=[("what is this", "new")])).severity == "warning"


@pytest.mark.parametrize("test", [[("x y z", "a")], [("x y z", "a"), ("other text", "b")]])
def test_a_single_training_label_is_an_error(test: Pairs) -> None:
    given = study([(f"text {i}", "a") for i in range(20)], test, fill=False)
    errors = [f for f in findings(given) if f.code == "one-class"]
    assert [f.severity for f in errors] == ["error"]
    assert "only one label ('a') in all 20 training rows" in errors[0].message
    assert "Is data.label the right column?" in errors[0].message


def test_messages_shorten_row_lists_but_rows_are_complete() -> None:
    result = only(study([("same words here", "a")] * 9))
    assert len(result.rows) == 8
    assert result.message.endswith("train:6 = train:1 and 3 more.")


def test_damage_is_counted_by_kind() -> None:
    result = findings(
        study([("cafÃ© culture", "a"), ("naÃ¯ve &lt;b&gt;", "b"), ("lost � here", "a")])
    )
    assert [(f.code, f.severity) for f in result] == [("damage", "warning")] * 3
    assert (
        "2 rows with mojibake: UTF-8 decoded as Western European"
        in result[1].message + result[2].message
    )


def test_errors_come_first_and_raise_errors_lists_them_all() -> None:
    given = study([("again", "a"), ("again", "a"), (LONG, "a")], [(LONG, "a"), ("odd", "new")])
    result = report(given)
    assert [f.severity for f in result.findings] == ["error", "error", "info"]
    with pytest.raises(UsageError) as error:
        result.raise_errors()
    assert str(error.value).startswith(
        "the data audit found 2 errors:\n  - 1 train row is an exact duplicate of"
    )
    report(study()).raise_errors()


def test_rows_and_labels_are_counted_before_dropping() -> None:
    result = report(study([("", "a")]))
    assert result.rows == {"train": 25, "validation": 0, "test": 2}
    assert result.label_counts == {
        "train": {"a": 13, "b": 12},
        "validation": {"a": 0, "b": 0},
        "test": {"a": 1, "b": 1},
    }


def measured(given: Sequence[Example]) -> list[tuple[int, int]]:
    lengths = [len(e.inputs["text"].split()) for e in given]
    return [(n, max(0, n - 20)) for n in lengths]


class Measured:
    """Counts words as tokens."""

    english = "An English text."

    def __call__(self, examples: Sequence[Example]) -> list[tuple[int, int]]:
        return measured(examples)

    def count_text(self, text: str) -> int:
        return len(text.split())


@pytest.mark.parametrize(("most", "severity"), [(0.2, "error"), (0.5, "warning")])
def test_truncation_is_reported_and_above_the_maximum_an_error(most: float, severity: str) -> None:
    given = study(test=[(LONG, "a")])
    chosen = study_recipe(
        {"train": "a.csv"}, audit={"max_truncated": most}, prompt={"max_length": 20}
    )
    result = audit.add_token_lengths(audit.audit_study(given, chosen), given, chosen, measured)
    [finding] = result.findings
    assert (finding.code, finding.severity, finding.rows) == ("truncated", severity, ["test:1"])
    assert finding.message.startswith(
        "1 test row (33.3%) exceeds prompt.max_length 20 and would be truncated "
        "(median 4 tokens, maximum 40)"
    )
    assert ("more than audit.max_truncated allows (20%)" in finding.message) == (
        severity == "error"
    )
    assert result.lengths["test"] == {"median": 4, "p95": 36, "max": 40}
    assert result.truncation == {
        "train": {"rows": 0, "share": 0.0, "limit": 20},
        "test": {"rows": 1, "share": 1 / 3, "limit": 20},
    }


def exact_leaks(base: Path, data: dict[str, Any]) -> list[Finding]:
    chosen = study_recipe(data, audit={"leak": "allow", "near_duplicates": None})
    return [
        f
        for f in audit.audit_study(splits.load_splits(chosen, base), chosen).findings
        if f.code == "exact-leak"
    ]


@pytest.mark.slow
@pytest.mark.data
def test_contamination_of_ag_news_is_found(
    public_data: Callable[[str], Path],
) -> None:
    base = public_data("ag_news/alps_tsv")
    leaks = exact_leaks(
        base,
        {"train": "dev.tsv", "test": "test.tsv", "header": False, "columns": ["text", "label"]},
    )
    rows = sorted(
        row.partition(" = ")[0] for f in leaks for row in f.rows if "test row" in f.message
    )
    texts = {
        line.rpartition("\t")[0]
        for line in (base / "test.tsv").read_text("utf-8").split("\n")
        if line
    }
    lines = (base / "dev.tsv").read_text("utf-8").split("\n")
    assert rows == sorted(
        f"dev.tsv:{i}"
        for i, line in enumerate(lines, start=1)
        if line.rpartition("\t")[0] in texts and line
    )
    assert len(rows) == 10


@pytest.mark.slow
@pytest.mark.data
def test_contamination_of_sst2_phrases_is_found(
    public_data: Callable[[str], Path],
) -> None:
    base = public_data("sst2/glue_phrases")
    data = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv", "text": "sentence"}
    messages = [f.message for f in exact_leaks(base, data)]
    assert [
        m
        for m in messages
        if m.startswith(
            "1,670 train rows are exact duplicates of 1,553 validation rows (train-validation "
            "contamination): train.tsv:"
        )
    ]


def test_prepare_data_audits_then_drops_then_limits(tmp_path: Path) -> None:
    rows = "".join(f"text number {i} of file,{'ab'[i % 2]}\n" for i in range(100))
    (tmp_path / "a.csv").write_text(f"text,label\n,a\n{rows}")
    chosen = study_recipe(
        {"train": "a.csv", "limit": {"train": 20}}, audit={"near_duplicates": None}
    )
    given, result = prepare.prepare_data(
        chosen, tmp_path, lambda loaded: Measured() if len(loaded.train) == 20 else None
    )
    assert len(given.train) == 20
    assert result.rows["train"] > 60
    assert set(result.lengths) == {"train", "validation", "test"}
    assert [f.code for f in result.findings] == ["empty"]
