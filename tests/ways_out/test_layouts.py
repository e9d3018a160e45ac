"""Messages about files that are no table, or no clear one: what they say to write is read."""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.tabled import file
from data.test_init_evidence import LABELS, ROWS, TEXTS, drafted, jsonl, rows_of
from data.test_ways_out import CSV
from prooftune import recipe as recipes
from prooftune.data.init.inferred_options import InitChoices
from prooftune.data.readers.foreign_formats import BINARY_FORMATS
from ways_out import follows, follows_table, refused

follows_table("data/readers/foreign_formats.py", "BINARY_FORMATS")
ASKED = [(f"What if {t}?", f"Wait {i} days.") for i, t in enumerate(TEXTS)]


def reads(path: Path, rows: list[tuple[str, str]] = ROWS) -> None:
    assert rows_of(drafted(path)[1]) == Counter(rows)


@pytest.mark.parametrize("start", BINARY_FORMATS)
def test_files_of_other_programs_as_csv(tmp_path: Path, start: bytes) -> None:
    with refused(BINARY_FORMATS[start]):
        drafted(file(tmp_path, "a.csv", start + b"\0" * 64))
    reads(file(tmp_path, "a.csv", CSV))


def test_files_that_pandas_reads(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=["text", "label"])
    frame.to_stata(tmp_path / "a.dta", write_index=False, version=118)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(frame, protocol=4))
    for name, read in (("a.dta", pandas.read_stata), ("a.pkl", pandas.read_pickle)):
        with (
            refused("a Stata file: save it as CSV")
            if name == "a.dta"
            else refused("it can run any code: write its table as CSV")
        ):
            drafted(tmp_path / name)
        read(tmp_path / name).to_csv(tmp_path / "a.csv")
        reads(tmp_path / "a.csv")
    sas = bytes(12) + bytes.fromhex("c2ea8160b31411cfbd92080009c7318c") + bytes(64)
    with refused("a SAS data set: save it as CSV"):
        drafted(file(tmp_path, "b.sas7bdat", sas))


@pytest.mark.slow
def test_dumps_and_printed_tables_of_databases(tmp_path: Path) -> None:
    values = ",\n".join(f"('{t}','{x}')" for t, x in ROWS)
    dump = f"CREATE TABLE r (text TEXT, label TEXT);\nINSERT INTO r VALUES\n{values};\n"
    with refused("Export the table from its database as CSV; a dump of SQLite is loaded with"):
        drafted(file(tmp_path, "a.sql", dump))
    with sqlite3.connect(tmp_path / "data.db") as database:
        database.executescript((tmp_path / "a.sql").read_text("utf-8"))
    database.close()
    reads(Path(f"{tmp_path}/data.db#r"))
    framed = "+---+---+\n| text | label |\n+---+---+\n" + "".join(
        f"| {t} | {x} |\n" for t, x in ROWS
    )
    with refused("Export it as CSV instead (psql --csv; mysql --batch writes tabs)"):
        drafted(file(tmp_path, "a.txt", framed + "+---+---+\n"))
    printed = " text | label\n------+------\n" + "".join(f" {t} | {x}\n" for t, x in ROWS)
    with refused("Export it as CSV: psql --csv"):
        drafted(file(tmp_path, "a.txt", printed))
    reads(file(tmp_path, "a.csv", CSV))
    reads(file(tmp_path, "a.tsv", CSV.replace(",", "\t")))


@pytest.mark.slow
def test_texts_of_other_programs(tmp_path: Path) -> None:
    arff = "@relation r\n@attribute text string\n@attribute label {a}\n@data\n"
    with refused(
        "Write its rows below @data as CSV, with the names of the attributes in the first"
    ):
        drafted(file(tmp_path, "a.arff", arff + CSV.partition("\n")[2]))
    reads(file(tmp_path, "a.csv", "text,label\n" + CSV.partition("\n")[2]))
    records = [{"text": t, "label": x} for t, x in ROWS]
    with refused("Write it as JSON (in Python: json.dump(yaml.safe_load(…), …))"):
        drafted(file(tmp_path, "a.yaml", yaml.safe_dump(records, sort_keys=False)))
    read = yaml.safe_load((tmp_path / "a.yaml").read_text("utf-8"))
    reads(file(tmp_path, "a.json", json.dumps(read)))
    wabbit = "".join(f"{1 + (x == 'payment')} |text {t}\n" for t, x in ROWS)
    with refused("Vowpal Wabbit. Write labels and texts as a table with the names of both in the"):
        drafted(file(tmp_path, "a.vw", wabbit))
    reads(file(tmp_path, "a.csv", CSV))
    mails = "".join(f"From a@b.org Mon Jan  1 10:00:00 2024\nSubject: x\n\n{t}\n\n" for t in TEXTS)
    with refused("Write its messages as a table with a label for each"):
        drafted(file(tmp_path, "a.mbox", mails))
    reads(jsonl(tmp_path / "a.jsonl", records))
    with refused("Write them as a table with the columns question and answer"):
        drafted(file(tmp_path, "a.txt", "".join(f"Q: {q}\nA: {a}\n\n" for q, a in ASKED)))
    reads(jsonl(tmp_path / "a.jsonl", [{"question": q, "answer": a} for q, a in ASKED]), ASKED)


def test_separators_of_several_characters(tmp_path: Path) -> None:
    for separator in ("::", ":::", "+++$+++"):
        content = "".join(f"{t}{separator}{x}\n" for t, x in ROWS)
        with refused("Replace it by a tab, as in sed 's/{…}/\\t/g' {…} > {…}.tsv"):
            drafted(file(tmp_path, "a.dat", content))
        reads(file(tmp_path, "a.dat.tsv", content.replace(separator, "\t")))


def test_training_data_of_rasa(tmp_path: Path) -> None:
    def examples(start: str, line: str) -> str:
        return "".join(
            start.format(label) + "".join(line.format(t) for t, x in ROWS if x == label)
            for label in dict.fromkeys(LABELS)
        )

    block = examples("- intent: {}\n  examples: |\n", "    - {}\n")
    with refused("Rasa's training data as YAML. Convert it with rasa data convert nlu -f json"):
        drafted(file(tmp_path, "a.yml", f"nlu:\n{block}"))
    with refused("Rasa's training data as Markdown. Convert it with rasa data convert nlu -f json"):
        drafted(file(tmp_path, "a.md", examples("## intent:{}\n", "- {}\n")))
    converted = [{"text": t, "intent": x} for t, x in ROWS]
    reads(file(tmp_path, "a.json", json.dumps({"rasa_nlu_data": {"common_examples": converted}})))


def test_json_with_what_json_does_not_have(tmp_path: Path) -> None:
    records = [json.dumps({"text": t, "label": x}) for t, x in ROWS]
    with refused(" JSON has no comments: remove them."):
        drafted(file(tmp_path, "a.json", "// reviews\n[" + ",\n".join(records) + "]"))
    reads(file(tmp_path, "a.json", "[" + ",\n".join(records) + "]"))
    with refused('Names must be in double quotes, as in {"text": …}.'):
        drafted(file(tmp_path, "a.json", "[{text: 1}]"))
    path = file(tmp_path, "a.jsonl", "".join(f"{record},\n" for record in records))
    with refused("Remove the comma at the end of each line, or put all of them between [ and ]"):
        drafted(path)
    reads(file(tmp_path, "a.jsonl", "\n".join(records)))
    array = file(tmp_path, "b.jsonl", "[" + ",\n".join(records) + "]")
    assert rows_of(drafted(array, InitChoices(format="json"))[1]) == Counter(ROWS)


def test_texts_of_two_encodings(tmp_path: Path) -> None:
    halves = ["".join(f"Café {t},{x}\n" for t, x in part) for part in (ROWS[:24], ROWS[24:])]
    second = halves[1].encode("cp1252")
    path = file(tmp_path, "a.csv", f"text,label\n{halves[0]}".encode() + second)
    with refused("Convert the part that is not UTF-8 before they are, for instance with iconv"):
        drafted(path)
    converted = second.decode("cp1252").encode()  # iconv -f cp1252 -t utf-8
    file(tmp_path, "a.csv", f"text,label\n{halves[0]}".encode() + converted)
    reads(path, [(f"Café {t}", x) for t, x in ROWS])


def test_a_first_row_that_may_be_data(tmp_path: Path) -> None:
    rows = [("A kettle that never came", "lost"), *ROWS]
    content = "".join(f"{t},{x}\n" for t, x in rows)
    message = follows("If it is data, add a line with the names of the columns above it.")
    _, study, notes = drafted(file(tmp_path, "a.csv", content))
    assert rows_of(study) == Counter(ROWS) and any(message in note for note in notes)
    reads(file(tmp_path, "a.csv", f"text,label\n{content}"), rows)


def test_columns_of_one_name(tmp_path: Path) -> None:
    pairs = list(zip(ROWS[:24], ROWS[24:], strict=True))
    rows = "".join(f"{t},{x},{u} again,{y}\n" for (t, x), (u, y) in pairs)
    path = file(tmp_path, "a.csv", f"text,label,text,label\n{rows}")
    with refused("Name one with {…}; if two tables are side by side, write them below each other"):
        drafted(path)
    choices = InitChoices(text=["text_2"], label="label_2")
    expected = Counter((f"{t} again", x) for t, x in ROWS[24:])
    assert rows_of(drafted(path, choices)[1]) == expected
    below = "".join(f"{t},{x}\n" for t, x in [*ROWS[:24], *ROWS[24:]])
    reads(file(tmp_path, "a.csv", f"text,label\n{below}"))


@pytest.mark.slow
def test_merged_cells_and_commas_in_numbers(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(sorted(ROWS, key=lambda row: row[1]), columns=["text", "label"])
    merged = table.copy()
    merged.loc[merged["label"].duplicated(), "label"] = None
    merged.to_csv(tmp_path / "a.csv", index=False)
    with refused("merged cells are exported. Write the label into every row"):
        drafted(tmp_path / "a.csv")
    merged["label"] = merged["label"].ffill()
    merged.to_csv(tmp_path / "a.csv", index=False)
    reads(tmp_path / "a.csv")

    def scores(mark: str) -> Path:
        rows = "".join(f'{t},"{i % 4}{mark}{i % 10}"\n' for i, t in enumerate(TEXTS))
        return file(tmp_path, "b.csv", f"text,score\n{rows}")

    with refused("Write them with a point ({…}), or without the comma if it separates thousands"):
        drafted(scores(","))
    for mark in (".", ""):
        assert drafted(scores(mark), InitChoices(label="score"))[0]["data"]["label"] == "score"
    values, _, _ = drafted(scores(","), InitChoices(task="multilabel"))
    assert values["task"] == "multilabel"


@pytest.mark.slow
def test_labels_that_init_does_not_take(tmp_path: Path) -> None:
    import random

    rng = random.Random(0)
    users: list[dict[str, Any]] = [{"text": t, "user": f"U{rng.randrange(3)}"} for t in TEXTS]
    path = jsonl(tmp_path / "a.jsonl", users)
    with refused("The most likely one is {…}; if it is, name it with --label"):
        drafted(path)
    assert drafted(path, InitChoices(label="user"))[0]["data"]["label"] == "user"
    nested = [{"key": f"A-{i}", "fields": {"body": t, "kind": x}} for i, (t, x) in enumerate(ROWS)]
    path = jsonl(tmp_path / "b.jsonl", nested)
    with refused("write what is the text or the label in them as columns of their own (in Python:"):
        drafted(path)
    pandas = pytest.importorskip("pandas")
    pandas.json_normalize(nested).to_csv(tmp_path / "b.csv", index=False)
    choices = InitChoices(text=["fields.body"], label="fields.kind")
    assert rows_of(drafted(tmp_path / "b.csv", choices)[1]) == Counter(ROWS)
    chosen = [f"option {i} {'abc'[i % 3]}" for i in range(48)]
    rows = "".join(
        f"{t}?,{','.join(f'option {i} {x}' for x in 'abc')},{'ABC'[i % 3]}\n"
        for i, t in enumerate(TEXTS)
    )
    with refused(
        "Write the chosen words into a column, with names for the columns in the first line"
    ):
        drafted(file(tmp_path, "c.csv", rows))
    answered = "".join(f"{t}?,{x}\n" for t, x in zip(TEXTS, chosen, strict=True))
    values, _, _ = drafted(file(tmp_path, "c.csv", f"question,answer\n{answered}"))
    assert values["task"] == "free-text-qa"


def test_label_columns_and_another_label() -> None:
    def parse(**data: Any) -> None:
        data = {"train": "a.csv", **data}
        recipes.parse({"name": "x", "task": "multilabel", "data": data, "variants": ["majority"]})

    with refused("'label_columns' is in the place of '{…}': keep one of them"):
        parse(label_columns=["a", "b"], label="c")
    parse(label_columns=["a", "b"])
    parse(label="c")
