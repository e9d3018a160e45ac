"""Messages about the data of a recipe: what they say to change makes the data fit."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import yaml

from data.tabled import file, study_recipe
from data.test_init_evidence import LABELS, ROWS, TEXTS
from data.test_ways_out import CSV, DISTINCT, QUESTIONS, Way, follow, lines
from prooftune.data import hub_datasets
from prooftune.data.audit.audit import _truncation_finding
from prooftune.data.audit.fertility import fertility_findings, measure_fertility
from prooftune.data.audit.pretraining import audit_pretraining
from prooftune.data.contexts import use_contexts_as_documents
from prooftune.data.prepare import prepare_data
from prooftune.data.sources import read_source
from prooftune.data.unlabelled_texts import UnlabelledText, read_unlabelled_texts
from prooftune.errors import ProoftuneError
from prooftune.recipe import Data, Source
from prooftune.recipe.pretraining import Pretraining
from prooftune.types import Example, Study
from standins.random_words import random_words
from ways_out import follows, names, refused

CSV_OF_FEW = "".join(f"{t},{'ab'[i % 2]}\n" for i, t in enumerate(DISTINCT[:12]))

LEAKED_ROW = f"{DISTINCT[0]},delivery\n"
LEAKED = "text,label\n" + "".join(f"{t},{x}\n" for t, x in zip(DISTINCT, LABELS, strict=True))

WAYS: dict[str, tuple[str, Way]] = {
    "several labels": (
        "classification",
        (
            {"a.jsonl": lines([{"text": t, "label": [x, "ab"[i % 2]]} for i, (t, x) in
                               enumerate(zip(DISTINCT, LABELS, strict=True))])},
            {"train": "a.jsonl"},
            follows("For several labels per text, set task: multilabel"),
            {"task": "multilabel"},
        ),
    ),
    "numbers": (
        "classification",
        (
            {"a.csv": "text,label,stars\n" + "".join(f"{t},{x},{i % 5}\n" for i, (t, x) in
                                                     enumerate(ROWS))},
            {"train": "a.csv", "bins": {"low": [0, 2], "high": [3, 4]}},
            follows("data.bins needs numbers in column '{…}', found '{…}'"),
            {"data.label": "stars"},
        ),
    ),
    "texts": (
        "classification",
        (
            {"a.csv": "body,text,label\n" + "".join(f"{t},,{x}\n" for t, x in
                                                    zip(DISTINCT, LABELS, strict=True))},
            {"train": "a.csv"},
            follows("no row has a text. Is data.text the right column?"),
            {"data.text": "body"},
        ),
    ),
    "questions": (
        "free-text-qa",
        (
            {"a.jsonl": lines([*QUESTIONS, {**QUESTIONS[0], "question": " "}]),
             "removed.jsonl": lines(QUESTIONS)},
            {"train": "a.jsonl"},
            follows("Add the questions, or remove the rows"),
            {"data.train": "removed.jsonl"},
        ),
    ),
    "added questions": (
        "free-text-qa",
        (
            {"a.jsonl": lines([*QUESTIONS, {**QUESTIONS[0], "question": " "}]),
             "added.jsonl": lines([*QUESTIONS, {**QUESTIONS[0], "question": "Why so?"}])},
            {"train": "a.jsonl"},
            "Add the questions, or remove the rows",
            {"data.train": "added.jsonl"},
        ),
    ),
    "few texts": (
        "classification",
        (
            {"a.csv": "text,label\n" + "".join(f"the parcel came late on day {i},{'ab'[i % 2]}\n"
                                               for i in range(10, 30)) + CSV_OF_FEW},
            {"train": "a.csv", "audit.near_duplicates": 0.5},
            follows("in one part. If they are no copies, set audit.near_duplicates: null."),
            {"audit.near_duplicates": None},
        ),
    ),
    "indicators": (
        "multilabel",
        (
            {"a.csv": "text,a,b,c\n" + "".join(f"{t},{i % 2},{i % 3 % 2},{i}\n" for i, t in
                                               enumerate(DISTINCT))},
            {"train": "a.csv", "label_columns": ["a", "c"]},
            follows("of data.label_columns should hold 0 or 1 (or false and true), found '{…}'"),
            {"data.label_columns": ["a", "b"]},
        ),
    ),
    "scale": (
        "classification",
        (
            {"a.csv": CSV},
            {"train": "a.csv", "ordinal": ["delivery", "paid"]},
            follows("no place on the scale for the label '{…}'{…}; the scale is {…}"),
            {"data.ordinal": ["delivery", "payment"]},
        ),
    ),
    "ids": (
        "classification",
        (
            {"a.csv": "n,id,text,label\n" + "".join(f"{i // 2},{i},{t},{x}\n" for i, (t, x) in
                                                    enumerate(ROWS))},
            {"train": "a.csv", "id": "n"},
            follows("data.id '{…}' must be unique, but {…} value{…} more than once"),
            {"data.id": "id"},
        ),
    ),
    "answers": (
        "free-text-qa",
        (
            {"a.jsonl": lines([{**q, "answer": {"no": 1}} for q in QUESTIONS]),
             "c.jsonl": lines([{**q, "answer": [q["answer"]]} for q in QUESTIONS])},
            {"train": "a.jsonl"},
            follows("column '{…}' should hold an answer or a list of answers, found {…}"),
            {"data.train": "c.jsonl"},
        ),
    ),
    "labelled rows": (
        "classification",
        (
            {"a.csv": CSV + "no label,\n", "c.csv": CSV + "a label,payment\n"},
            {"train": "a.csv"},
            "Label the rows, remove them, or leave them out with data.unlabelled: drop",
            {"data.train": "c.csv"},
        ),
    ),
    "removed rows": (
        "classification",
        (
            {"a.csv": CSV + "no label,\n", "c.csv": CSV},
            {"train": "a.csv"},
            "Label the rows, remove them, or leave them out with data.unlabelled: drop",
            {"data.train": "c.csv"},
        ),
    ),
    "removed leaks": (
        "classification",
        (
            {"a.csv": LEAKED, "c.csv": LEAKED.replace(LEAKED_ROW, ""),
             "t.csv": "text,label\n" + LEAKED_ROW + f"{'y' * 40},payment\n"},
            {"train": "a.csv", "test": "t.csv"},
            "Remove them, or set audit.leak: drop to remove them from",
            {"data.train": "c.csv"},
        ),
    ),
    "allowed leaks": (
        "classification",
        (
            {"a.csv": LEAKED, "t.csv": "text,label\n" + LEAKED_ROW + f"{'y' * 40},payment\n"},
            {"train": "a.csv", "test": "t.csv"},
            "(audit.leak: allow keeps them; the scores are then inflated)",
            {"audit.leak": "allow"},
        ),
    ),
    "only one label": (
        "classification",
        (
            {"a.csv": "text,label,topic\n" + "".join(f"{t},all,{x}\n" for t, x in ROWS)},
            {"train": "a.csv"},
            follows("there is nothing to classify. Is data.label the right column?"),
            {"data.label": "topic"},
        ),
    ),
    "no label at all": (
        "multilabel",
        (
            {"a.jsonl": lines([{"text": t, "label": [], "topics": [x]} for t, x in
                               zip(DISTINCT, LABELS, strict=True)])},
            {"train": "a.jsonl"},
            follows("so there is nothing to learn. Check that {…} names where the labels are"),
            {"data.label": "topics"},
        ),
    ),
    "no label in any column": (
        "multilabel",
        (
            {"a.csv": "text,u,v,a,b\n" + "".join(f"{t},0,0,{n % 2},1\n" for n, t in
                                                 enumerate(DISTINCT))},
            {"train": "a.csv", "label_columns": ["u", "v"]},
            "to learn. Check that data.label_columns names where the labels are",
            {"data.label_columns": ["a", "b"]},
        ),
    ),
    **{f"a {split} file without labels": (
        "multilabel",
        (
            {f"{known}.jsonl": lines([{"text": t, "label": [x] * known, "topics": [x]} for t, x in
                                      zip(DISTINCT[known::2], LABELS[:24], strict=True)])
             for known in (0, 1)},
            {"train": "1.jsonl", split: "0.jsonl"},
            follows("variants apart. Check that {…} names where the labels of their file are"),
            {"data.label": "topics"},
        ),
    ) for split in ("test", "validation")},
}  # fmt: skip


@pytest.mark.parametrize(("task", "way"), WAYS.values(), ids=WAYS)
def test_what_a_message_says_to_change_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, way: Way
) -> None:
    follow(tmp_path, monkeypatch, task, way)


def warned(message: str, folder: Path, data: dict[str, Any], **sections: Any) -> bool:
    """Whether the audit of a recipe has a finding or a note with these words."""
    study, audit = prepare_data(study_recipe(data, **sections), folder, lambda _: None)
    found = [*(f.message for f in audit.findings), *study.notes]
    return any(names(message, text) for text in found)


def test_a_finding_is_gone_when_it_is_followed(tmp_path: Path) -> None:
    numbered = [(t, str(i % 2)) for i, t in enumerate(DISTINCT)]
    file(tmp_path, "a.csv", "text,label\n" + "".join(f"{t},{x}\n" for t, x in numbered))
    message = follows("whose meaning a language model cannot know. Name them: data.labels: {…}")
    model: dict[str, Any] = {"variants": ["zero-shot"]}
    assert warned(message, tmp_path, {"train": "a.csv"}, **model)
    labels = {"0": "bad", "1": "good"}
    assert not warned(message, tmp_path, {"train": "a.csv", "labels": labels}, **model)


def test_labels_that_a_separator_joins(tmp_path: Path) -> None:
    rows = "".join(f"{t},{('a', 'b', 'c', 'a|b', 'b|c')[i % 5]}\n" for i, t in enumerate(DISTINCT))
    file(tmp_path, "a.csv", f"text,label\n{rows}")
    message = follows("look like several. If they are, set data.label_separator: {…}")
    assert warned(message, tmp_path, {"train": "a.csv"}, task="multilabel")
    separated = {"train": "a.csv", "label_separator": "|"}
    assert not warned(message, tmp_path, separated, task="multilabel")


def test_spellings_and_ratings(tmp_path: Path) -> None:
    several = ("Good", "good", "bad", "not good", "Not-good", "so so")
    spelt = [(t, several[i % 6]) for i, t in enumerate(DISTINCT)]
    file(tmp_path, "a.csv", "text,label\n" + "".join(f"{t},{x}\n" for t, x in spelt))
    message = follows("differ only in case, spaces or hyphens. If they are the same label: {…}")
    recipe = study_recipe({"train": "a.csv"})
    _, audit = prepare_data(recipe, tmp_path, lambda _: None)
    [finding] = [f.message for f in audit.findings if names(message, f.message)]
    merged = yaml.safe_load(finding.partition("same label: ")[2])["data.labels"]
    assert len({*merged.values()}) == 4
    assert not warned(message, tmp_path, {"train": "a.csv", "labels": merged})
    # Names that a recipe gives are alike, too: the suggestion has the values of the file as keys.
    named = {"Good": "fine", "good": "Fine", "bad": "bad", "not good": "poor", "Not-good": "poor",
             "so so": "so"}  # fmt: skip
    recipe = study_recipe({"train": "a.csv", "labels": named})
    _, audit = prepare_data(recipe, tmp_path, lambda _: None)
    [finding] = [f.message for f in audit.findings if names(message, f.message)]
    merged = yaml.safe_load(finding.partition("same label: ")[2])["data.labels"]
    assert merged.keys() == named.keys() and merged["Good"] == merged["good"]
    assert not warned(message, tmp_path, {"train": "a.csv", "labels": merged})
    rated = [(t, str(1 + i % 4)) for i, t in enumerate(DISTINCT)]
    file(tmp_path, "b.csv", "text,label\n" + "".join(f"{t},{x}\n" for t, x in rated))
    ratings = follows("If they are ratings: data.ordinal: true, which adds quadratic weighted kap")
    assert warned(ratings, tmp_path, {"train": "b.csv"})
    assert not warned(ratings, tmp_path, {"train": "b.csv", "ordinal": True})


def test_class_weights_count_labels_alike(tmp_path: Path) -> None:
    rare = [(t, "b" if i % 16 else "a") for i, t in enumerate(DISTINCT * 3)]
    rows = "".join(f"{t} {i},{x}\n" for i, (t, x) in enumerate(rare))
    file(tmp_path, "a.csv", f"text,label\n{rows}")
    message = follows("Accuracy alone is misleading; see balanced accuracy and macro F1. class_w")
    assert warned(message, tmp_path, {"train": "a.csv"})
    weighted = {"class_weights": "balanced", "variants": ["tfidf"]}
    assert study_recipe({"train": "a.csv"}, **weighted).class_weights == "balanced"
    for metric in ("balanced_accuracy", "macro_f1"):
        assert study_recipe({"train": "a.csv"}, evaluation={"primary": metric})


def test_translations_are_put_into_one_split(tmp_path: Path) -> None:
    for language in ("swa", "hau"):
        rows = [f"{i},{language} {t},{'ab'[i % 2]}\n" for i, t in enumerate(DISTINCT)]
        for split, part in (("train", rows[:36]), ("test", rows[24:])):
            content = "group,text,label\n" + "".join(part)
            file(tmp_path, f"{language}-{split}.csv", content)
        file(tmp_path, f"{language}.csv", "group,text,label\n" + "".join(rows))
    languages = ("swa", "hau")
    files = {s: {x: f"{x}-{s}.csv" for x in languages} for s in ("train", "test")}
    message = follows("Put both into one split: data.splitting.method: grouped, with one file")
    shared = {"group": "group"}
    assert warned(message, tmp_path, {**files, **shared}, audit={"leak": "allow"})
    grouped = {"train": {x: f"{x}.csv" for x in languages}, "splitting": {"method": "grouped"}}
    assert not warned(message, tmp_path, {**grouped, **shared})


def test_near_duplicates_of_a_template_are_decided_by_the_recipe(tmp_path: Path) -> None:
    rows = "".join(f"the parcel came late on day {i},{'ab'[i % 2]}\n" for i in range(30))
    file(tmp_path, "a.csv", f"text,label\n{rows}")
    message = follows("Set audit.near_duplicates to decide this yourself.")
    assert warned(message, tmp_path, {"train": "a.csv"})
    assert not warned(message, tmp_path, {"train": "a.csv"}, audit={"near_duplicates": None})
    with refused("are too few to hold out {…} for {…}; give data.{…} its own file.{…}"):
        warned(message, tmp_path, {"train": "a.csv"}, audit={"near_duplicates": 0.3})
    alone = {"train": "a.csv", "validation": "b.csv", "test": "c.csv"}
    for name in ("b.csv", "c.csv"):
        file(tmp_path, name, CSV)
    assert not warned(message, tmp_path, alone, audit={"near_duplicates": 0.3, "leak": "allow"})


def test_an_uneven_split_of_near_copies_is_even_by_exact_ones(tmp_path: Path) -> None:
    rows = [f"{random_words(i, 20)},a\n" for i in range(30)]
    rows += [f"{random_words(100 + k, 20)} {i},b\n" for k in range(6) for i in range(12)]
    file(tmp_path, "a.csv", "text,label\n" + "".join(rows))
    message = follows("If these texts are alike but no copies, set audit.near_duplicates: null.")
    assert warned(message, tmp_path, {"train": "a.csv"})
    assert not warned(message, tmp_path, {"train": "a.csv"}, audit={"near_duplicates": None})


def test_names_that_come_twice_are_numbered(tmp_path: Path) -> None:
    rows = "".join(f"{t},{x},{i}\n" for i, (t, x) in enumerate(zip(DISTINCT, LABELS, strict=True)))
    file(tmp_path, "a.csv", f"text,label,note\n{rows}")
    file(tmp_path, "b.csv", "note," + f"text,label,note\n{rows}".replace("\n", "\nx,", 49)[:-2])
    message = follows("later columns of this name are numbered, as in '{…}_2'.")
    data = {"train": "b.csv"}
    assert warned(message, tmp_path, data)
    study, _ = prepare_data(study_recipe({**data, "id": "note_2"}), tmp_path, lambda _: None)
    assert {e.id for e in study.test} <= {str(i) for i in range(48)}


def test_the_length_of_prompts_or_what_may_be_cut_is_raised() -> None:
    def finding(length: int, share: float) -> str:
        sections = {"prompt": {"max_length": length}, "audit": {"max_truncated": share}}
        recipe = study_recipe({"train": "a.csv"}, **sections)
        longer = [row for row, tokens in tokens_of.items() if tokens > length]
        found = _truncation_finding(
            "train", longer, len(longer) / 4, {"median": 80, "max": 90}, recipe
        )
        return found.severity if longer else "none"

    tokens_of = {"a:1": 70, "a:2": 80, "a:3": 80, "a:4": 90}
    recipe = study_recipe({"train": "a.csv"}, prompt={"max_length": 64})
    error = _truncation_finding("train", [*tokens_of], 1.0, {"median": 80, "max": 90}, recipe)
    message = follows("Raise prompt.max_length, or accept the truncation by raising audit.max_tr")
    assert error.severity == "error" and names(message, error.message)
    assert finding(96, 0.1) == "none" and finding(64, 1.0) == "warning"


def test_a_tokenizer_for_the_language_costs_less() -> None:
    rows = [Example(str(i), {"text": t}, "a", language="amh") for i, t in enumerate(TEXTS)]
    study = Study(rows, [], [], ["a"])
    english = "The parcel came late, and nobody was at home."

    def costly(count: Any) -> bool:
        found = fertility_findings(measure_fertility(study, count, english, 256), 256)
        message = "A model with a tokenizer for this language costs less."
        return any(message in f.message for f in found)

    assert costly(lambda text: len(text.split()) * (1 if text == english else 4))
    assert not costly(lambda text: len(text.split()))


@pytest.mark.parametrize("rest", ["removed", "dropped", "allowed"])
def test_test_rows_in_pretraining_texts(rest: str) -> None:
    rows = [Example(f"t:{i}", {"text": t}, "a", f"t:{i}") for i, t in enumerate(TEXTS[:8])]
    study = Study([], [], rows, ["a"])
    texts = [UnlabelledText(t, f"p:{i}") for i, t in enumerate([*TEXTS[:2], *DISTINCT])]
    message = follows("{…}. Remove them, or set pretrain.leak: drop to leave them out")

    def errors(own: list[UnlabelledText], leak: Any) -> list[str]:
        audited = audit_pretraining(own, study, "tuned", leak, None)
        return [f.message for f in audited.findings if f.severity == "error"]

    [error] = errors(texts, "error")
    assert names(message, error)
    kept = texts[2:] if rest == "removed" else texts
    assert errors(kept, {"dropped": "drop", "allowed": "allow"}.get(rest, "error")) == []


def test_contexts_of_questions_are_named(tmp_path: Path) -> None:
    renamed = [{"question": q["question"], "answer": q["answer"], "passage": q["context"]}
               for q in QUESTIONS]  # fmt: skip
    file(tmp_path, "a.jsonl", lines(renamed))

    def documents(**data: Any) -> Study:
        recipe = study_recipe({"train": "a.jsonl", **data}, task="free-text-qa")
        study, _ = prepare_data(recipe, tmp_path, lambda _: None)
        return use_contexts_as_documents(study, tmp_path)

    with refused("Set their column: data.text: {question: COLUMN, context: COLUMN}"):
        documents()
    study = documents(text={"question": "question", "context": "passage"})
    assert all(e.gold for e in study.test)


def test_columns_of_unlabelled_texts(tmp_path: Path) -> None:
    file(tmp_path, "a.jsonl", lines([{"body": t, "by": "me"} for t in TEXTS]))

    def read(**options: Any) -> int:
        settings = Pretraining(file=[str(tmp_path / "a.jsonl")], **options)
        data = Data.model_validate({"train": "a.csv"})
        return len(read_unlabelled_texts(settings, data, tmp_path))

    with refused("{…} has no column {…}; name its text column in 'text'. {…}"):
        read()
    assert read(text="body") == len(TEXTS)


def test_a_file_where_a_folder_is_meant(tmp_path: Path) -> None:
    file(tmp_path, "a.csv", CSV)
    with refused("{…} is a file; data.format: folders needs a folder"):
        warned("", tmp_path, {"train": "a.csv", "format": "folders"})
    for i, (text, label) in enumerate(zip(DISTINCT, LABELS, strict=True)):
        file(tmp_path, f"sets/a/{label}/{i}.txt", text)
    assert not warned("x", tmp_path, {"train": "sets/a", "format": "folders"})
    # One folder too high.
    with refused("Is {…} the folder to name in the recipe? It must contain one folder per label"):
        warned("", tmp_path, {"train": "sets", "format": "folders"})


class Rows(list[dict[str, Any]]):
    """As much of a `datasets.Dataset` as reading it needs."""

    column_names = ("text", "label")
    features: ClassVar[dict[str, object]] = {}


class NotFound(Exception):
    """Stands for `datasets.exceptions.DatasetNotFoundError`."""


def load_dataset(name: str, config: str | None, split: str, revision: str | None) -> Rows:
    """Fails as the library does until what its message names is there."""
    if name == "o/private" and "HF_TOKEN" not in os.environ:
        raise NotFound(f"Dataset '{name}' doesn't exist on the Hub or cannot be accessed.")
    if name == "o/configured" and config is None:
        raise ValueError("Config name is missing.\nPlease pick one among: ['small', 'large']")
    if name == "o/splits" and split != "test":
        raise ValueError(f"Unknown split \"{split}\". Should be one of ['test'].")
    if name == "o/script" and revision != "refs/convert/parquet":
        raise RuntimeError("Dataset scripts are no longer supported, but found script.py")
    if name == "o/far" and "HF_ENDPOINT" not in os.environ:
        raise ConnectionError("Couldn't reach the Hub")
    return Rows({"text": t, "label": x} for t, x in ROWS)


@pytest.mark.parametrize(
    ("name", "message", "options", "environment"),
    [
        (
            "o/private",
            follows("cannot be found, or needs a login (hf auth login): {…}"),
            {},
            {"HF_TOKEN": "hf_x"},
        ),
        (
            "o/configured",
            follows("hub dataset '{…}': {…} (set data.config and data.split)"),
            {"config": "small"},
            {},
        ),
        ("o/splits", "(set data.config and data.split)", {"split": "test"}, {}),
        (
            "o/script",
            follows("Try data.revision: refs/convert/parquet, or download its files and use them"),
            {"revision": "refs/convert/parquet"},
            {},
        ),
        ("o/script", "or download its files and use them as local files", {"path": "a.csv"}, {}),
        (
            "o/far",
            follows("Check the network and HF_ENDPOINT, or use a local file"),
            {},
            {"HF_ENDPOINT": "http://127.0.0.1:1"},
        ),
        ("o/far", "or use a local file", {"path": "a.csv"}, {}),
    ],
)
def test_hub_datasets(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    message: str,
    options: dict[str, Any],
    environment: dict[str, str],
) -> None:
    library = SimpleNamespace(
        load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetNotFoundError=NotFound)
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(hub_datasets, "offline_if_unreachable", nullcontext)
    for variable in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    file(tmp_path, "a.csv", CSV)
    with pytest.raises(ProoftuneError) as error:
        read_source(Source(path=f"hub:{name}"), tmp_path)
    assert names(message, str(error.value)), str(error.value)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    source = Source(**{"path": f"hub:{name}", **options})
    assert len(read_source(source, tmp_path).examples) == len(ROWS)


def test_the_datasets_library_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused("needs the datasets library: pip install 'prooftune[hub]'"):
        read_source(Source(path="hub:o/plain"), tmp_path)
    library = SimpleNamespace(
        load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetNotFoundError=NotFound)
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(hub_datasets, "offline_if_unreachable", nullcontext)
    assert len(read_source(Source(path="hub:o/plain"), tmp_path).examples) == len(ROWS)
