"""`init` on layouts that come from other tools, languages and habits than the usual ones: every row
is read as its author meant it, or the file is refused with the reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.tabled import file
from data.test_init_evidence import LABELS, ROWS, TEXTS, drafted, jsonl, rows_of
from prooftune.data.questions import parse_answers
from prooftune.data.readers.dispatch import read_table
from prooftune.errors import UsageError
from prooftune.recipe.data import Source
from prooftune.utils.encoding_detection import detect_encoding

QUESTIONS = [f"What happens if {text}?" for text in TEXTS]
ANSWERS = [f"Wait for {i} days, then write to us." for i in range(48)]
ASKED = list(zip(QUESTIONS, ANSWERS, strict=True))
SECOND = [f"case {i} is urgent" for i in range(48)]

Chat = Callable[[str, str], object]
CHATS: dict[str, Chat] = {
    "dialog": lambda q, a: {"dialog": [turn("user", q), turn("assistant", a)]},
    "conversation": lambda q, a: {"conversation": [turn("user", q), turn("assistant", a)]},
    "a list of turns": lambda q, a: [turn("user", q), turn("assistant", a)],
    "Gemini": lambda q, a: {
        "contents": [
            {"role": "user", "parts": [{"text": q}]},
            {"role": "model", "parts": [{"text": a}]},
        ]
    },
    "XTuner": lambda q, a: {"conversation": [{"input": q, "output": a}]},
    "MOSS": lambda q, a: {"conversation": [{"human": q, "assistant": a}]},
    "ChatML": lambda q, a: {
        "text": f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n"
    },
    "Llama 2": lambda q, a: {"text": f"<s>[INST] {q} [/INST] {a} </s>"},
    "Llama 3": lambda q, a: {
        "prompt": f"<|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{a}<|eot_id|>"
    },
    "Gemma": lambda q, a: {
        "text": f"<start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n{a}<end_of_turn>"
    },
    "Zephyr": lambda q, a: {"text": f"<|user|>\n{q}</s>\n<|assistant|>\n{a}</s>"},
    "source and target": lambda q, a: {"source": q, "target": a},
    "German": lambda q, a: {"Frage": q, "Antwort": a},
    "Chinese": lambda q, a: {"问题": q, "答案": a},
    "summaries": lambda q, a: {"article": q, "highlights": a},
}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize("kind", CHATS)
def test_chats_and_answers(tmp_path: Path, kind: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [CHATS[kind](q, a) for q, a in ASKED])
    values, study, _ = drafted(path)
    assert values["task"] == "free-text-qa"
    examples = [e for split in study.splits().values() for e in split]
    assert Counter((e.inputs["question"], e.references) for e in examples) == Counter(
        (q, (a,)) for q, a in ASKED
    )


def test_few_labels_under_other_names_are_labels(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"source": t, "target": x} for t, x in ROWS])
    values, study, _ = drafted(path)
    assert values["task"] == "classification"
    assert rows_of(study) == Counter(ROWS)


def one_hot(label: str) -> dict[str, float]:
    return {name: float(name == label) for name in ("delivery", "payment")}


OBJECTS: dict[str, object] = {
    "spaCy": [{"text": t, "cats": one_hot(x)} for t, x in ROWS],
    "spaCy's training pairs": [[t, {"cats": one_hot(x)}] for t, x in ROWS],
    "pairs": [[t, x] for t, x in ROWS],
    "splits of pairs": {"train": [[t, x] for t, x in ROWS[:36]], "test": [*map(list, ROWS[36:])]},
    "texts by label": {
        "delivery": [t for t, x in ROWS if x == "delivery"],
        "payment": [t for t, x in ROWS if x == "payment"][:-1],
    },
    "Rasa": {
        "rasa_nlu_data": {"common_examples": [{"text": t, "intent": x} for t, x in ROWS]}
    },
    "Label Studio before 1.0": [
        {"data": {"text": t}, "completions": [{"result": [{"value": {"choices": [x]}}]}]}
        for t, x in ROWS
    ],
    "Label Studio, short": [{"text": t, "topic": {"choices": [x]}} for t, x in ROWS],
}  # fmt: skip


@pytest.mark.parametrize("kind", OBJECTS)
def test_labels_in_objects(tmp_path: Path, kind: str) -> None:
    _, study, _ = drafted(file(tmp_path, "a.json", json.dumps(OBJECTS[kind])))
    # Lists of one length would be columns.
    rows = ROWS[:-1] if kind == "texts by label" else ROWS
    assert rows_of(study) == Counter(rows)


@pytest.mark.parametrize("separator", ["#", "|", ","])
def test_several_labels_between_separators(tmp_path: Path, separator: str) -> None:
    cells = [f"{x}{separator}urgent" if i % 3 else x for i, x in enumerate(LABELS)]
    records = [{"text": t, "label": cell} for t, cell in zip(TEXTS, cells, strict=True)]
    values, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["task"] == "multilabel"
    assert [*study.labels] == ["delivery", "payment", "urgent"]


def test_lists_as_numpy_prints_them(tmp_path: Path) -> None:
    cells = ["[0]" if i % 3 else "[0 2]" for i in range(48)]
    cells[1] = "[1 2]"
    records = [{"text": t, "labels": cell} for t, cell in zip(TEXTS, cells, strict=True)]
    values, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["task"] == "multilabel"
    assert {label[-1] for label in study.labels} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Sentence 1", "Sentence 2"),
        ("textA", "textB"),
        ("s1", "s2"),
        ("#1 String", "#2 String"),
        ("left_text", "right_text"),
        ("anchor", "positive"),
        ("PREMISE", "HYPOTHESIS"),
    ],
)
def test_pairs_by_their_names(tmp_path: Path, first: str, second: str) -> None:
    records = [
        {first: t, second: s, "gold": x} for t, s, x in zip(TEXTS, SECOND, LABELS, strict=True)
    ]
    values, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["text"] == [first, second]
    assert rows_of(study) == Counter(
        (f"{t} {s}", x) for t, s, x in zip(TEXTS, SECOND, LABELS, strict=True)
    )


def test_three_of_a_kind_are_no_pair(tmp_path: Path) -> None:
    records = [
        {"part1": t, "part2": s, "part3": s, "label": x}
        for (t, x), s in zip(ROWS, SECOND, strict=True)
    ]
    values, _, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["text"] == "part1"


@pytest.mark.parametrize(
    ("choices", "answers"),
    [
        ({"option_a": "x", "option_b": "y", "option_c": "z"}, "abc"),
        ({"Option1": "x", "Option2": "y", "Option3": "z"}, "123"),
        ({"ending0": "x", "ending1": "y", "ending2": "z"}, "012"),
        ({"endings": ["x", "y", "z"]}, "012"),
        ({"choices": {"label": ["A", "B"], "text": ["x", "y"]}}, "AB"),
    ],
)
@pytest.mark.parametrize("name", ["label", "answer"])
def test_multiple_choice_is_refused(
    tmp_path: Path, choices: dict[str, Any], answers: str, name: str
) -> None:
    records = [
        {"question": q, **choices, name: answers[i % len(answers)]} for i, q in enumerate(QUESTIONS)
    ]
    with pytest.raises(UsageError, match="multiple choice"):
        drafted(jsonl(tmp_path / "a.jsonl", records))


def test_columns_of_numbers_are_no_choices(tmp_path: Path) -> None:
    records = [
        {"text": t, "q1": i, "q2": i, "q3": i, "label": 1 + i % 2} for i, t in enumerate(TEXTS)
    ]
    values, _, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["label"] == "label"


@pytest.mark.parametrize(
    "named", [("a", "b"), ("model_a", "model_b"), ("response_a", "response_b")]
)
def test_the_better_of_two_answers_is_a_preference(tmp_path: Path, named: tuple[str, str]) -> None:
    records = [
        {"prompt": q, "response_a": a, "response_b": a[::-1], "winner": named[i % 2]}
        for i, (q, a) in enumerate(ASKED)
    ]
    with pytest.raises(UsageError, match=r"preferences \(column 'winner'"):
        drafted(jsonl(tmp_path / "a.jsonl", records))


def test_labels_of_parts_of_texts_are_refused(tmp_path: Path) -> None:
    records = [{"text": t, "label": [[0, 3, "WHO"], [4, 9, "WHAT"][:3]]} for t in TEXTS]
    with pytest.raises(UsageError, match="labels parts of the texts"):
        drafted(jsonl(tmp_path / "a.jsonl", records))


def test_dates_are_no_labels(tmp_path: Path) -> None:
    records = [{"text": t, "date": f"2024-0{1 + i % 2}-01"} for i, t in enumerate(TEXTS)]
    with pytest.raises(UsageError, match="no column looks like a label"):
        drafted(jsonl(tmp_path / "a.jsonl", records))


@pytest.mark.parametrize(
    ("text", "other", "label"),
    [
        ("Текст", "Пол", "Категория"),
        ("内容", "性别", "情感标签"),
        ("Nachricht", "Geschlecht", "Kategorie"),
        ("comentario", "edad", "categoría"),
    ],
)
def test_names_in_other_languages(tmp_path: Path, text: str, other: str, label: str) -> None:
    # Both are predicted equally well, so that the names decide.
    records = [{other: "mw"[x == "payment"], text: t, label: x} for t, x in ROWS]
    values, _, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert (values["data"]["text"], values["data"]["label"]) == (text, label)


def test_chinese_texts_tell_their_label_from_other_columns(tmp_path: Path) -> None:
    said = {"a": ("包裹又迟到了", "快递没有送到"), "b": ("银行卡被拒绝", "多扣了一次钱")}
    records = [
        {"x": f"{said['ab'[i % 2]][i // 2 % 2]}{i}", "u": "pq"[i // 3 % 2], "v": "ab"[i % 2]}
        for i in range(60)
    ]
    values, _, notes = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["label"] == "v", notes


# Files.


@pytest.mark.parametrize("separator", ["^", "~", "\x01"])
def test_rare_separators(tmp_path: Path, separator: str) -> None:
    content = f"text{separator}label\n" + "".join(f"{t}{separator}{x}\n" for t, x in ROWS)
    _, study, _ = drafted(file(tmp_path, "a.csv", content))
    assert rows_of(study) == Counter(ROWS)


@pytest.mark.parametrize(
    "above",
    ["Report;;\r\n;;\r\n;;\r\n", "Report\r\n\r\nof May\r\n", ";;\r\n", "Report;;\r\n\r\n;;\r\n"],
)
def test_titles_and_blank_rows_above_the_header(tmp_path: Path, above: str) -> None:
    rows = "".join(f"{i};{t};{x}\r\n" for i, (t, x) in enumerate(ROWS))
    _, study, _ = drafted(file(tmp_path, "a.csv", f"{above}Nr;Text;Typ\r\n{rows}"))
    assert rows_of(study) == Counter(ROWS)


def test_huge_cells(tmp_path: Path) -> None:
    rows = [(t + " word" * 40_000 * (i % 20 == 0), x) for i, (t, x) in enumerate(ROWS)]
    content = "text,label\n" + "".join(f"{t},{x}\n" for t, x in rows)
    _, study, _ = drafted(file(tmp_path, "a.csv", content))
    assert rows_of(study) == Counter(rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n" + "".join(f"'{t}, yes','{x}'\n" for t, x in ROWS), "in single quotes"),
        ("text,label\n" + "".join(f"'{t}','{x}'\n" for t, x in ROWS), "in single quotes"),
        (
            "text,label\n" + "".join(f'"{t} \\"so\\", yes",{x}\n' for t, x in ROWS),
            "come after a backslash",
        ),
    ],
)
def test_foreign_quotes_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        drafted(file(tmp_path, "a.csv", content))
    # What the message says to do.
    mended = content.replace('\\"', '""').replace("'", '"')
    _, study, _ = drafted(file(tmp_path, "b.csv", mended))
    assert {label for _, label in rows_of(study)} == {*LABELS}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("texts", [TEXTS, [f"包裹又迟到了{i}" for i in range(48)]])
def test_utf_16_without_a_mark(tmp_path: Path, encoding: str, texts: list[str]) -> None:
    rows = list(zip(texts, LABELS, strict=True))
    content = ("text,label\r\n" + "".join(f"{t},{x}\r\n" for t, x in rows)).encode(encoding)
    values, study, _ = drafted(file(tmp_path, "a.csv", content))
    assert values["data"]["encoding"] == encoding
    assert rows_of(study) == Counter(rows)


def test_binary_files_are_no_utf_16() -> None:
    assert detect_encoding(bytes(range(256)) * 20).encoding != "utf-16-le"
    assert not detect_encoding(
        b"\x7fELF\x02\x01\0\0" + b"\0\0\x03\0>\0\x01\0" * 99
    ).encoding.startswith("utf-16")


@pytest.mark.parametrize(
    ("encoding", "texts"),
    [
        ("iso8859-2", ("paczka przyszła spóźniona", "płatność była niemożliwa, proszę źle")),
        ("cp1250", ("paczka przyszła spóźniona", "płatność była niemożliwa, proszę źle")),
        ("cp852", ("balík přišel pozdě, děkuji", "kurýr včera nezavolal, prosím")),
    ],
)
def test_central_european_encodings(encoding: str, texts: tuple[str, str]) -> None:
    content = "".join(f"{texts[i % 2]} {i}\n" for i in range(40))
    guess = detect_encoding(content.encode(encoding))
    assert content.encode(encoding).decode(guess.encoding) == content


def test_a_recipe_with_control_characters_can_be_read(tmp_path: Path) -> None:
    labels = ["caf\x8f", "the\x85 \ufeffnext"]
    records = [{"text": t, "label": labels[i % 2]} for i, t in enumerate(TEXTS)]
    path = jsonl(tmp_path / "a\x8f\u2028.jsonl", records)
    _, study, _ = drafted(path)
    assert len(rows_of(study)) == 48


@pytest.mark.parametrize(
    "cell",
    [
        "{'text': ['late'], 'answer_start': [3]}",
        "{'text': array(['late'], dtype=object), 'answer_start': array([3])}",
        '{"text": ["late"]}',
        "['late']",
        "late",
    ],
)
def test_answers_as_python_prints_them(cell: str) -> None:
    assert parse_answers(cell, "a.csv:1", "answers") == ["late"]


def test_answers_in_braces_are_answers() -> None:
    assert parse_answers("{1, 2}", "a.csv:1", "answers") == ["{1, 2}"]


def test_utf_8_with_a_damaged_byte_is_named_by_its_line(tmp_path: Path) -> None:
    content = "text,label\n" + "".join(f"the café {t},{x}\n" for t, x in ROWS)
    damaged = content.encode().replace(b"caf\xc3\xa9", b"caf\xe9", 1)
    with pytest.raises(UsageError, match=r"a\.csv:2: byte 0xe9 is not valid utf-8"):
        drafted(file(tmp_path, "a.csv", damaged))


def test_a_constant_column_gives_way_to_scores(tmp_path: Path) -> None:
    records = [
        {"sentence": t, "target": "ACME", "sentiment_score": (i * 37 % 200 - 100) / 100}
        for i, t in enumerate(TEXTS)
    ]
    values, _, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["label"] == "sentiment_score"
    assert [*values["data"]["bins"]] == ["low", "medium", "high"]


def test_markers_of_missing_values_are_named(tmp_path: Path) -> None:
    records = [{"text": t, "label": x if i % 6 else "N/A"} for i, (t, x) in enumerate(ROWS)]
    _, _, notes = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert any("Labels 'N/A' look like missing values" in note for note in notes)
    emptied = [{**r, "label": "" if r["label"] == "N/A" else r["label"]} for r in records]
    values, study, _ = drafted(jsonl(tmp_path / "b.jsonl", emptied))
    assert values["data"]["unlabelled"] == "drop"
    assert rows_of(study).total() == 40


def test_one_turn_in_each_row_is_refused(tmp_path: Path) -> None:
    records = [
        {"id": i // 2, "role": ("user", "assistant")[i % 2], "content": ASKED[i // 2][i % 2]}
        for i in range(96)
    ]
    with pytest.raises(UsageError, match="says who speaks"):
        drafted(jsonl(tmp_path / "a.jsonl", records))


@pytest.mark.parametrize("kind", ["GitHub", "Elasticsearch", "rows of the hub"])
def test_records_of_web_programs(tmp_path: Path, kind: str) -> None:
    made: dict[str, Callable[[int, str, str], object]] = {
        "GitHub": lambda i, t, x: {"number": i, "body": t, "labels": [{"id": 1, "name": x}]},
        "Elasticsearch": lambda i, t, x: {
            "_index": "a",
            "_id": i,
            "_source": {"text": t, "label": x},
        },
        "rows of the hub": lambda i, t, x: {"row_idx": i, "row": {"text": t, "label": x}},
    }
    records = [made[kind](i, t, x) for i, (t, x) in enumerate(ROWS)]
    _, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert rows_of(study) == Counter(ROWS)


def test_bytes_that_damage_a_utf8_file_are_no_other_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    content = "text,label\ncafé naïve,pos\nüber,neg\nbroken ".encode() + b"\xc3 byte,neg\n"
    path.write_bytes(content)
    source = Source(path=str(path), encoding="utf-8")
    with pytest.raises(UsageError, match=r"a\.csv:4: .*the line is damaged\..* iconv -c") as error:
        [*read_table(path, source).rows]
    assert "iso-8859-1" not in str(error.value)
    # What `iconv -c` does: bytes that are none of UTF-8 are left out.
    path.write_bytes(content.decode(errors="ignore").encode())
    rows = read_table(path, source).rows
    assert [row[0] for row in rows] == ["café naïve", "über", "broken  byte"]
    path.write_bytes("text,label\ncafé naïve,pos\nüber,neg\n".encode("iso-8859-1"))
    with pytest.raises(UsageError, match=r"set data\.encoding: iso-8859-1"):
        [*read_table(path, source).rows]
