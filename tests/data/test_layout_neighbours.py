"""Layouts near the usual ones: headers that come twice, TREC's lines, rows without labels, answers
that are not wanted, and files that operating systems leave in folders."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.tabled import file, table
from data.test_init_evidence import ROWS, TEXTS, drafted, jsonl, rows_of
from prooftune.data.init.inferred_options import InitChoices
from prooftune.data.readers.streaming import iter_blocks, scan_file
from prooftune.data.readers.text_lines import are_trec_lines
from prooftune.data.sources import read_source
from prooftune.errors import UsageError
from prooftune.recipe import Source


def test_rows_that_repeat_the_header_are_left_out_and_counted(tmp_path: Path) -> None:
    part = "text,label\n" + "".join(f"{t},{x}\n" for t, x in ROWS[:24])
    rest = "text,label\n" + "".join(f"{t},{x}\n" for t, x in ROWS[24:])
    path = file(tmp_path, "a.csv", part + rest + "text , label\n")
    _, study, notes = drafted(path)
    assert rows_of(study) == Counter(ROWS)
    left_out = "a.csv: 2 rows left out that repeat the header."
    assert left_out in notes and left_out in study.notes
    # `predict` reads the same rows block by block.
    scanned = scan_file(path, Source(path=str(path)))
    blocks = list(iter_blocks(scanned, start=20, rows=10, characters=10**6))
    assert (scanned.rows, scanned.header_rows) == (48, 2)
    assert [row for block in blocks for row in block.fields or ()] == [list(r) for r in ROWS[20:]]


def test_a_text_like_the_name_of_its_only_column_is_a_row(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", "text\nhello\ntext\n")
    assert table(path).rows[:] == [["hello"], ["text"]]


def test_unused_columns_of_one_name_are_numbered(tmp_path: Path) -> None:
    content = "text,label,note,note\n" + "".join(f"{t},{x},a,b\n" for t, x in ROWS)
    path = file(tmp_path, "a.csv", content)
    values, study, notes = drafted(path)
    assert values["data"]["columns"] == ["text", "label", "note", "note_2"]
    assert rows_of(study) == Counter(ROWS)
    assert any("names 'note' more than once" in note for note in notes)
    # A recipe of its own needs no `columns`.
    assert len(read_source(Source(path="a.csv"), tmp_path).examples) == 48


def test_a_named_column_must_be_one(tmp_path: Path) -> None:
    file(tmp_path, "a.csv", "text,label,text\n" + "".join(f"{t},{x},z\n" for t, x in ROWS))
    with pytest.raises(UsageError) as error:
        read_source(Source(path="a.csv"), tmp_path)
    assert "names 'text' (data.text) more than once" in str(error.value)
    columns = str(error.value).partition("data.columns: [")[2].partition("]")[0].split(", ")
    assert columns == ["text", "label", "text_2"]
    read = read_source(Source(path="a.csv", columns=columns), tmp_path).examples
    assert [(e.inputs["text"], e.target) for e in read] == ROWS


def test_lines_of_trec(tmp_path: Path) -> None:
    fine = {"delivery": "DEL:late", "payment": "PAY:card"}
    lines = "".join(f"{fine[x]} {t} ?\n" for t, x in ROWS)
    values, study, notes = drafted(file(tmp_path, "train_1000.label", lines))
    assert values["data"]["format"] == "trec"
    short = {"delivery": "DEL", "payment": "PAY"}
    assert rows_of(study) == Counter((f"{t} ?", short[x]) for t, x in ROWS)
    assert any("'fine_label'" in note for note in notes)


def test_prose_with_colons_is_not_trec() -> None:
    assert are_trec_lines("a:b one\nc:d two\na:b three\nc:d four\n")
    assert not are_trec_lines("note:this is one\nnote: two\n")
    assert not are_trec_lines("a:one x\nb:two y\nc:three z\nd:four w\ne:five v\n")


def test_rows_without_a_label_are_left_out_as_the_recipe_says(tmp_path: Path) -> None:
    records = [
        {"text": t, "label": x, "answer": ("accept", "ignore", "reject")[i % 3], "_input_hash": i}
        for i, (t, x) in enumerate(ROWS)
    ]
    values, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["unlabelled"] == "drop"
    assert rows_of(study) == Counter(ROWS[::3])
    assert any("32 rows without a label in column 'label'" in note for note in study.notes)


def test_a_column_without_any_label_is_refused(tmp_path: Path) -> None:
    file(tmp_path, "a.csv", "text,label\none,\ntwo,\n")
    with pytest.raises(UsageError, match="no row has a label in column 'label'"):
        read_source(Source(path="a.csv", unlabelled="drop"), tmp_path)


ANSWERS = [f"answer number {i} of many" for i in range(48)]
FLAGGED: dict[str, tuple[str, str, list[Any]]] = {
    "KTO": ("prompt", "completion", [i % 3 > 0 for i in range(48)]),
    "KTO with questions": ("question", "answer", [i % 3 > 0 for i in range(48)]),
    "WikiQA": ("question", "answer", [str(int(i % 3 > 0)) for i in range(48)]),
    "names": (
        "instruction",
        "output",
        ["desirable" if i % 3 else "undesirable" for i in range(48)],
    ),
}


@pytest.mark.parametrize(("kind", "turns"), [*((kind, False) for kind in FLAGGED), ("KTO", True)])
def test_unwanted_answers_are_never_references(tmp_path: Path, kind: str, turns: bool) -> None:
    question, answer, flags = FLAGGED[kind]

    def cell(role: str, text: str) -> object:
        return [{"role": role, "content": text}] if turns else text

    records = [
        {question: cell("user", t), answer: cell("assistant", a), "label": flag}
        for t, a, flag in zip(TEXTS, ANSWERS, flags, strict=True)
    ]
    path = jsonl(tmp_path / "a.jsonl", records)
    values, study, notes = drafted(path)
    assert values["task"] == "classification"
    assert all(e.references is None for part in study.splits().values() for e in part)
    names = {f"label {f}" if str(f).isdigit() else str(f).lower() for f in flags}
    assert rows_of(study).total() == 48 and {*study.labels} == names
    assert any("keep only their rows" in note for note in notes)
    # The way out that the note names.
    wanted = [r for r, flag in zip(records, flags, strict=True) if flag in (True, "1", "desirable")]
    values, study, _ = drafted(jsonl(tmp_path / "b.jsonl", wanted))
    assert values["task"] == "free-text-qa"
    assert rows_of(study).total() == 32


@pytest.mark.parametrize(
    ("column", "wanted", "unwanted"),
    [
        ("label", True, False),
        ("label", "correct", "incorrect"),
        ("Label", "desirable", "undesirable"),
        ("LABEL", "Right", "Wrong"),
        ("Label", "", "false"),
    ],
)
def test_unwanted_answers_are_refused_as_references(
    tmp_path: Path, column: str, wanted: object, unwanted: object
) -> None:
    records = [
        {"question": t, "answer": a, column: wanted if i % 3 else unwanted}
        for i, (t, a) in enumerate(zip(TEXTS, ANSWERS, strict=True))
    ]
    jsonl(tmp_path / "a.jsonl", records)
    with pytest.raises(UsageError) as error:
        read_source(Source(path="a.jsonl"), tmp_path, "free-text-qa")
    flag = str(unwanted).lower()
    assert f"16 answers that the column '{column}' calls unwanted ({flag})" in str(error.value)
    assert f"data.label: {column}" in str(error.value)
    # Both ways out.
    source = Source(path="a.jsonl", text=["question", "answer"], label=column, unlabelled="drop")
    assert len(read_source(source, tmp_path, "classification").examples) == (48 if wanted else 16)
    jsonl(tmp_path / "b.jsonl", [r for r in records if r[column] != unwanted])
    assert len(read_source(Source(path="b.jsonl"), tmp_path, "free-text-qa").examples) == 32


@pytest.mark.parametrize(
    "values",
    [
        # Which one is unwanted is not known.
        ("0", "1"),
        ("yes", "no"),
        # Other labels of the questions.
        ("correct", "false"),
        ("true", "other"),
        ("travel", "wrong"),
    ],
)
def test_other_labels_beside_answers_are_not_refused(
    tmp_path: Path, values: tuple[str, str]
) -> None:
    records = [
        {"question": t, "answer": a, "label": values[i % 2]}
        for i, (t, a) in enumerate(zip(TEXTS, ANSWERS, strict=True))
    ]
    jsonl(tmp_path / "a.jsonl", records)
    assert len(read_source(Source(path="a.jsonl"), tmp_path, "free-text-qa").examples) == 48


def test_system_files_are_no_texts_and_unlabelled_folders_no_labels(tmp_path: Path) -> None:
    for number, (text, label) in enumerate(ROWS):
        file(tmp_path, f"reviews/{label}/{number}.txt", text)
        file(tmp_path, f"reviews/unsup/{number}.txt", f"{text} {number}")
    file(tmp_path, "reviews/payment/desktop.ini", "[.ShellClassInfo]\n")
    file(tmp_path, "reviews/delivery/Thumbs.db", b"\xd0\xcf\x11\xe0\0\0")
    file(tmp_path, "reviews/__MACOSX/delivery/1.txt", "x")
    _, study, notes = drafted(tmp_path / "reviews")
    assert rows_of(study) == Counter(ROWS)
    left_out = "reviews: left out, since its texts have no label: folder 'unsup'."
    assert left_out in notes and left_out in study.notes


def test_turns_in_prompt_and_completion(tmp_path: Path) -> None:
    records = [
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": t}],
            "completion": [{"role": "assistant", "content": a}],
        }
        for t, a in zip(TEXTS, ANSWERS, strict=True)
    ]
    values, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["task"] == "free-text-qa"
    assert rows_of(study) == Counter(
        (f"Be brief.\n\n{t}", a) for t, a in zip(TEXTS, ANSWERS, strict=True)
    )


def test_questions_of_few_articles_are_split_by_context(tmp_path: Path) -> None:
    articles = [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": f"{title} paragraph {i} says {word} {i}.",
                    "qas": [
                        {
                            "id": f"{title}{i}{q}",
                            "question": f"What does {word} {i} say to {q}?",
                            "answers": [{"text": word, "answer_start": 20}],
                        }
                        for q in "ab"
                    ],
                }
                for i, word in enumerate(["one", "two", "three", "four", "five", "six"])
            ],
        }
        for title in ("Kettles", "Letters")
    ]
    path = file(tmp_path, "a.json", json.dumps({"data": articles}))
    values, study, notes = drafted(path)
    assert (values["data"]["group"], values["data"]["splitting"]["method"]) == (
        "context",
        "grouped",
    )
    assert any("2 articles are too few" in note for note in notes)
    contexts = [{e.inputs["context"] for e in part} for part in study.splits().values()]
    assert all(contexts) and not contexts[0] & contexts[2]


def test_names_of_documents_are_no_contexts(tmp_path: Path) -> None:
    records = [
        {"question": t, "answer": a, "document": f"manual_{i % 3}.pdf"}
        for i, (t, a) in enumerate(zip(TEXTS, ANSWERS, strict=True))
    ]
    values, _, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["text"] == {"question": "question"}
    records = [
        {**r, "document": f"The manual of kettle number {i}."} for i, r in enumerate(records)
    ]
    values, _, _ = drafted(jsonl(tmp_path / "b.jsonl", records))
    assert values["data"]["text"] == {"question": "question", "context": "document"}


def test_questions_with_passages_and_without_answers_are_named(tmp_path: Path) -> None:
    records = [
        {"Question": t, "Passages": [{"id": str(i), "text": a}], "Kind": x}
        for i, ((t, x), a) in enumerate(zip(ROWS, ANSWERS, strict=True))
    ]
    path = jsonl(tmp_path / "a.jsonl", records)
    with pytest.raises(UsageError) as error:
        drafted(path)
    assert "passages (column 'Passages') and without answers" in str(error.value)
    assert "name it with --label" in str(error.value)
    _, study, _ = drafted(path, InitChoices(label="Kind"))
    assert rows_of(study) == Counter(ROWS)
    answered = [{**r, "answer": a} for r, a in zip(records, ANSWERS, strict=True)]
    values, _, _ = drafted(jsonl(tmp_path / "b.jsonl", answered))
    assert values["task"] == "free-text-qa"
