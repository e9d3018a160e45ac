"""Several languages in one study: read by file or column, split, audited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.tabled import study_recipe
from prooftune import recipe, run_folder
from prooftune.data import splits
from prooftune.data.audit import audit
from prooftune.data.audit.fertility import fertility_findings, measure_fertility
from prooftune.errors import UsageError
from prooftune.types import Example, Study


def write(path: Path, rows: int, word: str) -> str:
    lines = [f"{word} text {i} is number {i * 7},{'ab'[i % 2]}\n" for i in range(rows)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("text,label\n" + "".join(lines))
    return path.name


def test_files_by_language_may_share_their_names(tmp_path: Path) -> None:
    write(tmp_path / "swa" / "train.csv", 40, "habari")
    write(tmp_path / "hau" / "train.csv", 20, "labarai")
    chosen = study_recipe({"train": {"swa": "swa/train.csv", "hau": "hau/train.csv"}})
    study = splits.load_splits(chosen, tmp_path)
    assert study.languages() == ["hau", "swa"]
    rows = [e for examples in study.splits().values() for e in examples]
    assert len({e.id for e in rows}) == 60
    assert all(e.source.startswith(f"{e.language}/") for e in rows)
    # Each language has its share in every part: 20% of 40 and of 20.
    assert [sum(e.language == name for e in study.test) for name in ("swa", "hau")] == [8, 4]
    run_folder.write_study(tmp_path / "data", study)
    assert list(run_folder.read_study(tmp_path / "data").test) == list(study.test)


def test_a_column_names_languages(tmp_path: Path) -> None:
    lines = [f"text number {i},{'ab'[i % 2]},{['en', 'fr', ''][i % 3]}\n" for i in range(60)]
    (tmp_path / "all.csv").write_text("text,label,lang\n" + "".join(lines))
    chosen = study_recipe({"train": "all.csv", "language": "lang"}, audit={"near_duplicates": None})
    assert splits.load_splits(chosen, tmp_path).languages() == ["en", "fr", "unknown"]


def test_the_folder_applies_to_every_language() -> None:
    data = {"folder": "news", "train": {"swa": ["a.tsv", "hub:x/y"], "hau": "b.tsv"}}
    source = study_recipe(data).data.source("train")
    assert source.path == {"swa": ["news/a.tsv", "hub:x/y"], "hau": "news/b.tsv"}
    assert source.paths == ["news/a.tsv", "hub:x/y", "news/b.tsv"]


@pytest.mark.parametrize(
    ("train", "languages"),
    [
        ({"id": "a.csv", "ms": "b.csv"}, ["id", "ms"]),  # Indonesian, not the option `id`
        ({"zh-Hant": "a.csv"}, ["zh-Hant"]),
        ({"Swahili": "a.csv", "Hausa": "b.csv"}, ["Swahili", "Hausa"]),
        ({"path": "a.csv", "id": "key"}, []),
    ],
)
def test_languages_are_told_from_options(train: dict[str, Any], languages: list[str]) -> None:
    assert list(study_recipe({"train": train}).data.train.by_language()) == languages


def test_a_misspelt_option_is_no_language() -> None:
    with pytest.raises(UsageError, match=r"train\.pth: unknown key"):
        study_recipe({"train": {"pth": "a.csv", "format": "csv"}})


def variants(chosen: dict[str, Any], train: Any) -> recipe.Recipe:
    return recipe.parse({"name": "x", "data": {"train": train}, "variants": chosen})


def test_leaving_each_language_out_adds_variants() -> None:
    chosen = variants(
        {"tfidf": {"leave_one_language_out": True}, "tuned": None}, {"swa": "a.csv", "hau": "b.csv"}
    )
    assert list(chosen.variants) == ["tfidf", "tfidf-without-swa", "tfidf-without-hau", "tuned"]
    assert chosen.variants["tfidf-without-hau"].without == ["hau"]
    assert chosen.variant_with_all_languages("tfidf-without-hau") == "tfidf"
    assert not chosen.variants["tfidf-without-hau"].trains_on("hau")
    assert chosen.variants["tfidf"].trains_on("hau")


@pytest.mark.parametrize(
    ("chosen", "train", "reason"),
    [
        ({"tuned": {"leave_one_language_out": True}}, "a.csv", "give data.train as {language"),
        ({"tuned": {"without": ["swa"]}}, "a.csv", "'without' needs data.language"),
        ({"tuned": {"languages": ["yor"]}}, {"swa": "a", "hau": "b"}, "no language 'yor'"),
        ({"zero-shot": {"without": ["swa"]}}, {"swa": "a", "hau": "b"}, "does not apply"),
        (
            {"tuned": {"without": ["swa"], "languages": ["hau"]}},
            {"swa": "a", "hau": "b"},
            "contradicts",
        ),
    ],
)
def test_languages_that_cannot_be_left_out(chosen: dict[str, Any], train: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        variants(chosen, train)


def example(number: str, text: str, language: str, group: str | None = None) -> Example:
    return Example(number, {"text": text}, "a", number, group, language=language)


def codes(study: Study) -> dict[str, str]:
    chosen = study_recipe({"train": "a.csv"}, audit={"leak": "allow"})
    return {f.code: f.message for f in audit.audit_study(study, chosen).findings}


def test_a_text_in_two_languages_and_splits_is_named() -> None:
    study = Study(
        [example("1", "Breaking news: subscribe to our channel today", "swa")],
        [],
        [example("2", "Breaking news: subscribe to our channel today", "hau")],
        ["a"],
    )
    assert "1 of these pairs are rows of two languages" in codes(study)["exact-leak"]


def test_translations_are_found_by_their_group() -> None:
    study = Study(
        [example("1", "Rais amewasili leo mjini", "swa", "doc 7")],
        [],
        [example("2", "The president arrived in town", "eng", "doc 7")],
        ["a"],
    )
    assert "the group of a test row in another language" in codes(study)["translation-leak"]
    same = Study(study.train, [], [example("2", "Other", "swa", "doc 7")], ["a"])
    assert "translation-leak" not in codes(same)


def test_fertility_by_hand() -> None:
    # One token for each character but the spaces.
    study = Study(
        [example("1", "abc de", "eng"), example("2", "abcdef ghij", "swa"),
         example("3", "\u6f22\u5b57\u4eee\u540d", "jpn")],
        [], [], ["a"],
    )  # fmt: skip
    measured = measure_fertility(study, lambda t: len(t.replace(" ", "")), "not used", 100)
    assert measured["eng"]["tokens_per_word"] == 2.5 and measured["eng"]["against_english"] == 1
    assert measured["swa"]["tokens_per_word"] == 5 and measured["swa"]["against_english"] == 2
    assert measured["swa"]["words_in_prompt"] == 20
    # Without spaces there are no words: 4 tokens of 4 characters against 5 of 6.
    assert measured["jpn"]["tokens_per_word"] is None
    assert measured["jpn"]["against_english"] == pytest.approx(1 / (5 / 6))
    [finding] = fertility_findings(measured, 100)
    assert "'swa' takes 5.0 tokens of this model, 2.0 times" in finding.message


def test_fertility_without_english_rows_is_against_the_given_text() -> None:
    study = Study([Example("1", {"text": "aaaa bbbb"}, "a")], [], [], ["a"])
    measured = measure_fertility(study, lambda t: len(t.replace(" ", "")), "ab cd", 64)
    assert measured[""]["against_english"] == 2
