"""A recipe written from a look at a file: it parses, loads the file, and what it says of the file
is true."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data.tabled import file
from prooftune import recipe
from prooftune.data import splits
from prooftune.data.init.bins import range_bounds
from prooftune.data.init.inferred_options import InitChoices
from prooftune.data.init.recipe_writer import draft_recipe
from prooftune.errors import UsageError
from prooftune.recipe import Recipe
from prooftune.types import Study

TEXTS = [
    f'{word} text, number {i}; of this "file" | here'
    for i, word in enumerate(["one", "two", "three", "four"] * 10)
]
LABELS = [["good", "bad"][i % 2] for i in range(len(TEXTS))]


def guessed(path: Path, to: Path | None = None) -> tuple[Recipe, Study, list[str]]:
    """The recipe that is guessed, the study that it loads, and the sentences."""
    target = to or path.parent / "recipe.yaml"
    text, sentences = draft_recipe(path, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    chosen, base = recipe.load(target)
    return chosen, splits.load_splits(chosen, base), sentences


def without_templates(sentences: list[str]) -> list[str]:
    """The sentences but that on texts from templates, which most texts of these tests are."""
    return [s for s in sentences if not s.startswith("Most texts differ in a few characters")]


def every(study: Study) -> Counter[str]:
    return Counter(str(e.target) for part in study.splits().values() for e in part)


def first_inputs(study: Study) -> list[str]:
    return list(study.train[0].inputs)


def quoted(*cells: str, by: str) -> str:
    return by.join('"' + cell.replace('"', '""') + '"' for cell in cells)


def written(name: str) -> bytes:
    """The same labelled texts in another layout."""
    rows = list(zip(TEXTS, LABELS, strict=True))
    if name.endswith("jsonl"):
        return "\n".join(
            json.dumps({"review": t, "sentiment": x, "n": i}) for i, (t, x) in enumerate(rows)
        ).encode()
    if name.endswith("json"):
        return json.dumps([{"text": t, "label": x} for t, x in rows]).encode()
    if name == "semicolons.csv":
        return (
            "text;label\r\n"
            + "\r\n".join(quoted(f"{t}\r\nsecond; line", x, by=";") for t, x in rows)
        ).encode()
    if name == "pandas.csv":
        return (
            ",text,label\n"
            + "\n".join(f"{i},{quoted(t, x, by=',')}" for i, (t, x) in enumerate(rows))
        ).encode()
    if name == "old.csv":
        return (
            "Text;Label\n" + "\n".join(quoted(f"Größe {t}", x, by=";") for t, x in rows)
        ).encode("cp1252")
    if name == "wide.tsv":
        return ("text\tlabel\n" + "\n".join(f"{t}\t{x}" for t, x in rows)).encode("utf-16")
    return "\n".join(f"{i}\t{t}\t{x}" for i, (t, x) in enumerate(rows)).encode()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jsonl", {"text": "review", "label": "sentiment"}),
        ("a.json", {"text": "text", "label": "label"}),
        ("semicolons.csv", {"text": "text", "label": "label", "delimiter": ";"}),
        ("pandas.csv", {"text": "text", "label": "label"}),
        ("old.csv", {"text": "Text", "label": "Label", "delimiter": ";", "encoding": "cp1252"}),
        ("wide.tsv", {"text": "text", "label": "label", "encoding": "utf-16"}),
        (
            "plain.tsv",
            {
                "header": False,
                "columns": ["column_1", "text", "label"],
                "text": "text",
                "label": "label",
            },
        ),
        (
            "plain.data",
            {
                "format": "csv",
                "delimiter": "\t",
                "header": False,
                "columns": ["column_1", "text", "label"],
                "text": "text",
                "label": "label",
            },
        ),
        ("lines.ndjson.txt", None),
    ],
)
def test_small_files_of_every_layout(
    tmp_path: Path, name: str, options: dict[str, Any] | None
) -> None:
    path = file(tmp_path, name, written("jsonl" if options is None else name))
    text, sentences = draft_recipe(path, tmp_path / "x.yaml")
    data = yaml.safe_load(text)["data"]
    if options is not None:
        assert {k: v for k, v in data.items() if k not in ("train", "limit")} == options
    _, study, _ = guessed(path)
    assert every(study) == {"good": 20, "bad": 20}
    assert "40 rows, 2 labels: good (20), bad (20)." in sentences
    assert all(any(t in value for t in TEXTS) for e in study.train for value in e.inputs.values())


def test_parquet_and_folders(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": TEXTS, "class": LABELS}), tmp_path / "a.parquet")
    chosen, study, _ = guessed(tmp_path / "a.parquet")
    assert (chosen.data.text, chosen.data.label) == ("body", "class")
    assert every(study) == {"good": 20, "bad": 20}
    for i, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        file(tmp_path / "reviews", f"{label}/{i}.txt", text)
    chosen, study, sentences = guessed(tmp_path / "reviews", tmp_path / "reviews.yaml")
    assert (chosen.data.format, chosen.name) == ("folders", "reviews")
    assert every(study) == {"good": 20, "bad": 20}
    assert sentences[0] == "Folder: each folder in it is one label."


def test_lines_of_text_and_label(tmp_path: Path) -> None:
    path = file(
        tmp_path,
        "a.txt",
        "".join(f"Film {i}, seen by me@home{i}@{x}\r\n" for i, x in enumerate(LABELS)),
    )
    chosen, study, sentences = guessed(path)
    assert (chosen.data.format, chosen.data.delimiter) == ("text", "@")
    assert every(study) == {"good": 20, "bad": 20}
    assert "Each line is a text, '@' and its label." in sentences


def test_without_header_columns_get_names_that_a_prompt_can_show(tmp_path: Path) -> None:
    rows = [
        f"{i % 3},A title of some words {i},A much longer description that goes on "
        f"{i},http://x.org/{i},{i}"
        for i in range(60)
    ]
    chosen, study, sentences = guessed(file(tmp_path, "a.csv", "\n".join(rows)))
    assert chosen.data.columns == ["label", "text_1", "text_2", "column_4", "column_5"]
    assert first_inputs(study) == ["text_1", "text_2"]
    assert "Text: columns 'text_1', 'text_2' (columns 2, 3 of the file)." in sentences
    assert "Label: column 'label' (column 1 of the file)." in sentences


def test_labels_that_are_numbers_are_given_names_to_replace(tmp_path: Path) -> None:
    rows = "".join(f"review of film number {i},{i % 11}\n" for i in range(220))
    chosen, study, sentences = guessed(file(tmp_path, "a.csv", "review,rating\n" + rows))
    assert list(chosen.data.labels or {}) == [str(i) for i in range(11)]
    assert study.labels[:3] == ["label 0", "label 1", "label 2"]
    assert "replace 'label 0' …" in without_templates(sentences)[-1]


@pytest.mark.parametrize(
    "labels",
    [
        ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"],
        ["very good", "so so", "no: bad", "#1"],
    ],
)
def test_labels_of_several_words(tmp_path: Path, labels: list[str]) -> None:
    rows = "".join(f"a review of film {i}\t{labels[i % len(labels)]}\n" for i in range(60))
    chosen, study, _ = guessed(file(tmp_path, "a.tsv", f"review\tstars\n{rows}"))
    assert (chosen.data.label, chosen.data.labels) == ("stars", None)
    assert sorted(study.labels) == sorted(labels)


def test_a_column_that_is_named_label_is_one_even_in_a_short_file(tmp_path: Path) -> None:
    rows = "".join(f"text {i},{'abcdef'[i % 6]},{'xy'[i % 2]}\n" for i in range(12))
    text, _ = draft_recipe(
        file(tmp_path, "a.csv", "text,label,source\n" + rows), tmp_path / "a.yaml"
    )
    assert yaml.safe_load(text)["data"]["label"] == "label"


def test_rows_without_label_are_reported(tmp_path: Path) -> None:
    rows = "".join(f"some text {i},{'ab'[i % 2]}\n" for i in range(20))
    text, sentences = draft_recipe(
        file(tmp_path, "a.csv", f"text,label\n{rows}more,\n"), tmp_path / "a.yaml"
    )
    assert without_templates(sentences)[-2:] == [
        "21 rows, 2 labels: a (10), b (10).",
        "1 row has no label (a.csv:22) and is left out (data.unlabelled: drop).",
    ]
    assert "labels:" not in text


def test_the_recipe_finds_the_file_from_where_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(
        tmp_path,
        "data/my {file} #1.csv",
        "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40)),
    )
    chosen, study, _ = guessed(path, tmp_path / "recipes" / "a b.yaml")
    assert chosen.data.train.path == "../data/my {file} #1.csv"
    assert chosen.name == "a-b"
    assert len(every(study)) == 2
    monkeypatch.chdir(tmp_path)
    text, _ = draft_recipe(Path("data") / path.name, Path("a b.yaml"))
    assert yaml.safe_load(text)["data"]["train"] == f"data/{path.name}"
    assert "#   prooftune run 'a b.yaml' " in text


def test_long_texts_are_allowed_and_reported(tmp_path: Path) -> None:
    path = file(
        tmp_path,
        "a.csv",
        "text,label\n" + "".join(f"{'word ' * 900}{i},{'ab'[i % 2]}\n" for i in range(40)),
    )
    chosen, _, sentences = guessed(path)
    assert (chosen.prompt.max_length, chosen.audit.max_truncated) == (640, 1.0)
    assert "The texts are long (median about 1,442 tokens)" in without_templates(sentences)[-1]


def test_unused_columns_are_reported(tmp_path: Path) -> None:
    rows = "".join(f"{i},some text {i},{'ab'[i % 2]},x\n" for i in range(20))
    _, sentences = draft_recipe(
        file(tmp_path, "a.csv", f"id,text,label,source\n{rows}21, ,a,x\n"), tmp_path / "a.yaml"
    )
    assert sentences[2:4] == [
        "Not used: columns 'id', 'source'.",
        "1 row has no text and will be dropped.",
    ]
    rows = "".join(f"when was {i}?,in {i},q{i}\n" for i in range(20))
    _, sentences = draft_recipe(
        file(tmp_path, "b.csv", f"question,answer,number\n{rows}"), tmp_path / "b.yaml"
    )
    assert "Not used: column 'number'." in sentences


def test_lists_and_objects_are_no_texts(tmp_path: Path) -> None:
    rows = [
        {"Question": f"What is {i}?", "Passages": [{"text": "long " * 50}], "label": "ab"[i % 2]}
        for i in range(20)
    ]
    chosen, _, sentences = guessed(file(tmp_path, "a.json", json.dumps(rows)))
    assert chosen.data.text == "Question" and "Not used: column 'Passages'." in sentences


@pytest.mark.parametrize(
    ("answer", "task"), [("in {}", "extractive-qa"), ("{} it was", "free-text-qa")]
)
def test_answers_are_taken_from_the_context_where_they_stand_in_it(
    tmp_path: Path, answer: str, task: str
) -> None:
    rows = "".join(f"when?,it was in {i},{answer.format(i)}\n" for i in range(20))
    text, _ = draft_recipe(
        file(tmp_path, "a.csv", f"question,context,answer\n{rows}"), tmp_path / "a.yaml"
    )
    assert yaml.safe_load(text)["task"] == task


def test_multiple_choice_and_folders_of_tables_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"which of {i}?,it was 1,\"['x', 'y']\",{i % 2}\n" for i in range(20))
    path = file(tmp_path, "a.csv", f"question,context,choices,answer\n{rows}")
    with pytest.raises(
        UsageError,
        match=r"the answers .column 'answer'. are numbers or letters of 'choices'",
    ):
        draft_recipe(path, tmp_path / "a.yaml")
    file(tmp_path, "b.csv", f"question,context,choices,answer\n{rows}")
    with pytest.raises(UsageError, match=r"holds several tables: a\.csv, b\.csv\. Name one"):
        draft_recipe(tmp_path, tmp_path / "a.yaml")


def test_unusable_labels_are_reported(tmp_path: Path) -> None:
    rows = "".join(f"some text {i},{'aA'[i % 2]}\n" for i in range(20))
    _, sentences = draft_recipe(
        file(tmp_path, "a.csv", f"text,label\n{rows}more,b\n"), tmp_path / "a.yaml"
    )
    assert without_templates(sentences)[-2:] == [
        "Labels 'a', 'A' differ only in case, spaces or hyphens. If they are the same label, use "
        "the data.labels that the recipe has in a comment.",
        "1 label has a single row ('b'): kept in training, not measured in the test set.",
    ]
    _, sentences = draft_recipe(
        file(tmp_path, "b.csv", "text,label\n" + "".join(f"text {i},a\n" for i in range(20))),
        tmp_path / "b.yaml",
    )
    assert without_templates(sentences)[-1] == "There is only one label: is it the right column?"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "a.csv is empty (0 bytes)"),
        (
            "a.csv",
            "message,category\n",
            "a.csv holds a single row, 'message', 'category': a header and no rows?",
        ),
        ("a.csv", "\n\n", "a.csv contains no rows"),
        (
            "a.csv",
            "just\nsome\nlines\n",
            "a.csv: no separator among tab, comma, semicolon and | gives more than one column",
        ),
        ("a.csv", "text,label\na,b,c\nd,e\n", "a.csv:2: 3 fields, but 2 expected"),
        (
            "a.csv",
            "x,n\n" + "".join(f"text {i},{i}\n" for i in range(30)),
            "a.csv: no column looks like a label (2 to 300",
        ),
        (
            "a.csv",
            "n,label\n" + "".join(f"{i},{i % 2}\n" for i in range(30)),
            "a.csv: no column looks like a text. Found 'n', 'l",
        ),
        (
            "a.csv",
            "text,value\n" + "".join(f"text {i},{i / 7}\n" for i in range(90)),
            "no column looks like a label",
        ),
        (
            "a.csv",
            "text,label\n" + "".join(f"text {i},l{i}\n" for i in range(90)),
            "has 90 different values, too many for labels. I",
        ),
        (
            "a.txt",
            "no label here\n",
            "no tab, @, |, ; or , divides every line into a text and one of a few labels",
        ),
        ("a.csv", b"PK\x03\x04", "a.csv is a damaged zip archive"),
        ("a.bin", b"\x89PNG\0\0", "a.bin is a binary file"),
    ],
)
def test_files_without_labelled_text_are_rejected(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    with pytest.raises(UsageError) as error:
        draft_recipe(file(tmp_path, name, content), tmp_path / "a.yaml")
    assert words in str(error.value)


def test_scores_are_cut_into_ranges(tmp_path: Path) -> None:
    content = "text,rating\n" + "".join(f"text {i},{i / 7}\n" for i in range(90))
    text, notes = draft_recipe(file(tmp_path, "a.csv", content), tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    study = splits.load_splits(*recipe.load(tmp_path / "a.yaml", ["audit.near_duplicates=null"]))
    counts = Counter(e.target for part in study.splits().values() for e in part)
    assert counts == {"low": 30, "medium": 30, "high": 30}
    assert (study.labels, study.scale) == (["low", "medium", "high"], [0, 1, 2])
    assert "90 rows, 3 labels: low (30), medium (30), high (30)." in notes


# Values, bounds and rows in each range.
UNEVEN_SCORES: dict[str, tuple[list[str], list[float], dict[str, int]]] = {
    "many zeros": (
        ["0"] * 800 + [str(i) for i in range(1, 351)],
        [0.0, 175.0],
        {"low": 800, "medium": 175, "high": 175},
    ),
    "many of the highest value": (
        [str(i) for i in range(350)] + ["1000"] * 800,
        [174.0, 349.0],
        {"low": 175, "medium": 175, "high": 800},
    ),
    "many in the middle": (
        [str(i) for i in range(200)] + ["200"] * 800 + [str(i) for i in range(201, 401)],
        [199.0, 200.0],
        {"low": 200, "medium": 800, "high": 200},
    ),
    # Powers of two: equal widths would put nearly all rows into one range.
    "heavy tail": (
        [str(2**i) for i in range(90)],
        [2.0**29, 2.0**59],
        {"low": 30, "medium": 30, "high": 30},
    ),
    # Six ways to write two numbers.
    "two values": (
        ["0", "0.0", "0.00", "0.000", "1", "1.0", "1.00", "1.000"],
        [0.0],
        {"low": 4, "high": 4},
    ),
}


@pytest.mark.parametrize("kind", UNEVEN_SCORES)
def test_no_range_of_uneven_scores_is_empty(tmp_path: Path, kind: str) -> None:
    values, bounds, expected = UNEVEN_SCORES[kind]
    content = "text,score\n" + "".join(f"text {i},{value}\n" for i, value in enumerate(values))
    options = InitChoices(text=["text"], label="score")
    text, notes = draft_recipe(file(tmp_path, "a.csv", content), tmp_path / "a.yaml", options)
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    ends = [None, *bounds, None]
    assert yaml.safe_load(text)["data"]["bins"] == {
        name: [ends[i], ends[i + 1]] for i, name in enumerate(expected)
    }
    shown = ", ".join(f"{name} ({count:,} rows)" for name, count in expected.items())
    [note] = [note for note in notes if "cut into" in note]
    assert note.endswith(f"(data.bins): {shown}.")
    # The recipe reads the same rows into every range.
    study = splits.load_splits(*recipe.load(tmp_path / "a.yaml", ["audit.near_duplicates=null"]))
    assert every(study) == expected


@given(st.lists(st.integers(0, 12), min_size=3, max_size=40).filter(lambda v: len({*v}) > 2))
def test_ranges_are_the_most_even_of_all_cuts(values: list[int]) -> None:
    rows = Counter(map(float, values))
    low, high = range_bounds(rows)

    def unevenness(first: float, second: float) -> int:
        sizes = Counter((v > first) + (v > second) for v in values)
        assert len(sizes) == 3
        return sum(size**2 for size in sizes.values())

    cuts = combinations(sorted(rows)[:-1], 2)
    assert unevenness(low, high) == min(unevenness(*cut) for cut in cuts)


PUBLIC: list[tuple[str, int, int, list[str]]] = [
    ("ag_news/ag_news_csv/test.csv", 7600, 4, ["text_1", "text_2"]),
    ("ag_news/alps_tsv/dev.tsv", 10_001, 4, ["text"]),
    ("sst2/glue_phrases/test.tsv", 872, 2, ["sentence"]),
    ("masakhanews_swa/dev.tsv", 237, 7, ["headline", "text"]),
    ("masakhanews_swa/derived/train_union.tsv", 985, 7, ["headline", "text"]),
    ("financial_phrasebank/Sentences_AllAgree.txt", 2264, 3, ["text"]),
    ("financial_phrasebank/Sentences_50Agree.txt", 4846, 3, ["text"]),
    ("policy_qa/EU_AI_Act_h2o/question_type_EU_AI_Act.csv", 144, 0, ["question"]),
]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows", "labels", "fields"), PUBLIC, ids=[name for name, *_ in PUBLIC]
)
def test_public_layouts(
    public_data: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    rows: int,
    labels: int,
    fields: list[str],
) -> None:
    path = public_data(name)
    text, sentences = draft_recipe(path, tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    chosen, base = recipe.load(tmp_path / "a.yaml", ["audit.near_duplicates=null"])
    study = splits.load_splits(chosen, base)
    assert sum(len(part) for part in study.splits().values()) == rows
    assert (len(study.labels), first_inputs(study)) == (labels, fields)
    if not labels:
        assert chosen.task == "free-text-qa"
        return
    [counted] = [s for s in sentences if " rows, " in s]
    assert counted.startswith(f"{rows:,} rows, {labels} labels: ")


def test_the_encoder_in_the_comment_is_a_valid_variant(tmp_path: Path) -> None:
    from prooftune import recipe as recipes
    from prooftune.data.init.templates import CLASSIFICATION_TEMPLATE

    [line] = [x for x in CLASSIFICATION_TEMPLATE.splitlines() if "# encoder:" in x]
    variants = line.replace("# ", "", 1).replace("{{", "{").replace("}}", "}")
    (tmp_path / "a.yaml").write_text(f"name: a\ndata: {{train: a.csv}}\nvariants:\n{variants}\n")
    assert recipes.load(tmp_path / "a.yaml")[0].variants["encoder"].kind == "encoder"
