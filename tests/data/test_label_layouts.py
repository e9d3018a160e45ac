"""Where labels are: in columns of 0 and 1, in Label Studio's controls, named in a file beside the
data, in numbers with commas, in splits of one JSON file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.tabled import file
from data.test_init_evidence import LABELS, ROWS, TEXTS, drafted, jsonl, rows_of
from prooftune import recipe as recipes
from prooftune.data.init.companions import names_beside
from prooftune.data.init.inferred_options import InitChoices
from prooftune.data.multilabel import are_decimals, separator_of_several
from prooftune.data.readers.label_studio import flat_task
from prooftune.data.sources import read_source
from prooftune.errors import UsageError
from prooftune.recipe import Source

FLAGS = ("toxic", "insult", "threat")


def flagged(i: int) -> dict[str, int]:
    return {"toxic": i % 2, "insult": int(i % 3 == 0), "threat": int(i % 7 == 0)}


@pytest.mark.parametrize("kind", ["numbers", "truth values", "floats"])
def test_columns_of_zeros_and_ones_are_labels(tmp_path: Path, kind: str) -> None:
    convert: Any = {"numbers": int, "truth values": bool, "floats": float}[kind]
    records = [
        {"id": f"r{i}", "text": t, **{k: convert(v) for k, v in flagged(i).items()}, "by": "me"}
        for i, t in enumerate(TEXTS)
    ]
    path = jsonl(tmp_path / "a.jsonl", records)
    values, study, notes = drafted(path)
    assert (values["task"], values["data"]["label_columns"]) == ("multilabel", [*FLAGS])
    expected = Counter((t, frozenset(k for k, v in flagged(i).items() if v))
                       for i, t in enumerate(TEXTS))  # fmt: skip
    examples = [e for part in study.splits().values() for e in part]
    assert Counter((e.inputs["text"], frozenset(e.targets)) for e in examples) == expected
    # The way to one of them alone.
    assert any("as in --label toxic" in note for note in notes)
    values, study, _ = drafted(path, InitChoices(label="toxic"))
    assert values["task"] == "classification" and "label_columns" not in values["data"]


def test_one_column_of_several_holds_in_every_row(tmp_path: Path) -> None:
    rows = "".join(f"{t},{int(x == 'delivery')},{int(x == 'payment')}\n" for t, x in ROWS)
    values, study, _ = drafted(file(tmp_path, "a.csv", f"text,delivery,payment\n{rows}"))
    assert values["task"] == "classification"
    assert rows_of(study) == Counter(ROWS)


def test_two_columns_of_zeros_and_ones_are_named(tmp_path: Path) -> None:
    rows = "".join(f"{t},{int(x == 'payment')},{i % 3 % 2}\n" for i, (t, x) in enumerate(ROWS))
    path = file(tmp_path, "a.csv", f"text,spam,rude\n{rows}")
    values, _, notes = drafted(path)
    assert (values["task"], values["data"]["label"]) == ("classification", "spam")
    assert any("'spam', 'rude' hold 0 and 1" in note for note in notes)
    values, study, _ = drafted(path, InitChoices(task="multilabel"))
    assert values["data"]["label_columns"] == ["spam", "rude"]
    assert study.labels == ["rude", "spam"]


@pytest.mark.parametrize("other", ["has_link", "verified", "country_us"])
def test_facts_of_a_text_are_no_labels(tmp_path: Path, other: str) -> None:
    rows = "".join(f"{t},{int(x == 'payment')},{i % 3 % 2},{i % 5 % 2}\n"
                   for i, (t, x) in enumerate(ROWS))  # fmt: skip
    values, _, _ = drafted(file(tmp_path, "a.csv", f"text,spam,{other},edited\n{rows}"))
    assert (values["task"], values["data"]["label"]) == ("classification", "spam")


def test_label_columns_of_a_recipe(tmp_path: Path) -> None:
    rows = "one,1,0,x\ntwo,,TRUE,x\nthree,0,0,y\n"
    path = file(tmp_path, "a.csv", f"text,A,b c,label\n{rows}")
    source = Source(path=str(path), label_columns=["A", "b c"], unlabelled="drop")
    read = read_source(source, Path(), "multilabel").examples
    assert [e.targets for e in read] == [("A",), ("b c",)]
    kept = source.model_copy(update={"unlabelled": "error"})
    assert [e.targets for e in read_source(kept, Path(), "multilabel").examples][2] == ()
    named = source.model_copy(update={"labels": {"A": "one", "b c": "two"}})
    assert [e.target for e in read_source(named, Path(), "classification").examples] == [
        "one",
        "two",
    ]
    file(tmp_path, "a.csv", f"text,A,b c,label\n{rows}four,-1,0,x\n")
    with pytest.raises(UsageError, match=r"a\.csv:5: column 'A' of data\.label_columns .* '-1'"):
        read_source(source, Path(), "multilabel")
    missing = source.model_copy(update={"label_columns": ["A", "b"]})
    with pytest.raises(UsageError, match=r"no column 'b' \(data\.label_columns\)"):
        read_source(missing, Path(), "multilabel")


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        ("multilabel", {"label": "a"}, "'label_columns' is in the place of 'label'"),
        ("multilabel", {"label_separator": ","}, "in the place of 'label_separator'"),
        ("free-text-qa", {}, "data.label_columns does not apply to task: free-text-qa"),
    ],
)
def test_label_columns_alone(task: str, data: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipes.parse(
            {
                "name": "x",
                "task": task,
                "data": {"train": "a.csv", "label_columns": ["a", "b"], **data},
                "variants": ["zero-shot" if task == "free-text-qa" else "majority"],
            }
        )


def label_studio(*given: tuple[str, str, list[Any]]) -> dict[str, Any]:
    """A task: (annotator, control, choices) for each answer."""
    people = dict.fromkeys(person for person, _, _ in given)
    return {
        "data": {"text": "hi"},
        "annotations": [
            {
                "result": [
                    {"from_name": control, "value": {"choices": choices}}
                    for who, control, choices in given
                    if who == person
                ]
            }
            for person in people
        ],
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("ann", "topic", ["a"])], {"label": "a"}),
        ([("ann", "topic", ["a", "b"])], {"label": ["a", "b"]}),
        ([("ann", "topic", ["a"]), ("ann", "tone", ["x"])], {"topic": "a", "tone": "x"}),
        ([("ann", "topic", ["a"]), ("bob", "topic", ["a"])], {"label": "a"}),
        ([("ann", "topic", ["a"]), ("bob", "topic", ["b"])], {"label": None}),
        (
            [("ann", "topic", ["a"]), ("bob", "topic", ["b"]), ("eve", "topic", ["b"])],
            {"label": "b"},
        ),
        (
            [("ann", "t", ["a", "b"]), ("bob", "t", ["b", "c"]), ("eve", "t", ["c", "b"])],
            {"label": ["b", "c"]},
        ),
        ([("ann", "topic", [["animals", "cat"]])], {"label": "animals / cat"}),
    ],
)
def test_answers_of_label_studio(given: list[Any], expected: dict[str, Any]) -> None:
    assert flat_task(label_studio(*given)) == {"text": "hi", **expected}


def test_files_of_label_studio(tmp_path: Path) -> None:
    def tasks(*people: Any) -> list[dict[str, Any]]:
        return [
            {**label_studio(*((p, c, v(i)) for p, c, v in people)), "id": i, "data": {"text": t}}
            for i, t in enumerate(TEXTS)
        ]

    two_controls = tasks(
        ("ann", "topic", lambda i: [LABELS[i]]), ("ann", "tone", lambda i: ["up"] if i % 3 else [])
    )
    _, study, _ = drafted(file(tmp_path, "a.json", json.dumps(two_controls)))
    assert rows_of(study) == Counter(ROWS)
    two_people = tasks(
        ("ann", "topic", lambda i: [LABELS[i]]),
        ("bob", "topic", lambda i: [LABELS[i] if i % 8 else "x"]),
    )
    _, study, notes = drafted(file(tmp_path, "b.json", json.dumps(two_people)))
    assert rows_of(study) == Counter(r for i, r in enumerate(ROWS) if i % 8)
    assert any("annotators of 6 tasks gave different labels" in note for note in notes)
    spans = [
        {"data": {"text": t}, "annotations": [{"result": [
            {"from_name": "ner", "value": {"start": 0, "end": 3, "labels": ["PER"]}}]}]}
        for t in TEXTS
    ]  # fmt: skip
    with pytest.raises(UsageError, match="labels parts of the texts"):
        drafted(file(tmp_path, "c.json", json.dumps(spans)))


@pytest.mark.parametrize(
    ("name", "content", "numbers", "expected"),
    [
        ("classes.txt", "a\nb\nc\n", "123", ["", "a", "b", "c"]),
        ("classes.txt", "a\nb\nc\n", "012", ["a", "b", "c"]),
        ("labels.json", '["a", "b", "c"]', "02", ["a", "b", "c"]),
        ("label_names.json", '{"0": "a", "1": "b"}', "01", ["a", "b"]),
        # Whether they begin at 0 or at 1 is not known.
        ("classes.txt", "a\nb\nc\nd\n", "12", []),
        ("classes.txt", "a\nb\n", "0123", []),
        ("notes.txt", "a\nb\nc\n", "123", []),
        ("classes.txt", "a\nb\nc\n", "xyz", []),
        ("classes.json", "no json", "123", []),
    ],
)
def test_names_in_a_file_beside_the_data(
    tmp_path: Path, name: str, content: str, numbers: str, expected: list[str]
) -> None:
    file(tmp_path, name, content)
    assert names_beside(tmp_path / "a.csv", [*numbers])[1] == expected


def test_names_beside_are_used(tmp_path: Path) -> None:
    file(tmp_path, "classes.txt", "delivery\npayment\n")
    rows = "".join(f"{1 + (x == 'payment')},{t}\n" for t, x in ROWS)
    values, study, notes = drafted(file(tmp_path, "train.csv", rows))
    assert values["data"]["labels"] == {"1": "delivery", "2": "payment"}
    assert rows_of(study) == Counter(ROWS)
    assert any("classes.txt gives their names" in note for note in notes)
    # Several numbers for each text.
    file(tmp_path, "b/emotions.txt", "joy\nfear\nrage\n")
    several = "".join(f"{t}\t{','.join('012'[: 1 + i % 3])}\te{i}\n" for i, t in enumerate(TEXTS))
    values, study, _ = drafted(file(tmp_path, "b/train.tsv", several))
    assert values["task"] == "multilabel" and study.labels == ["joy", "fear", "rage"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["4,5", "3,0", "5"], True),
        (["0,1", "0,25", "0,7"], True),
        (["1,05", "2,50"], True),
        (["0,5", "3,14", "2"], False),
        (["1,2", "1,3", "2,3"], False),
        (["1,2,3", "2"], False),
        (["1", "2"], False),
        (["a,b"], False),
    ],
)
def test_decimal_commas_and_numbered_labels(cells: list[str], expected: bool) -> None:
    assert are_decimals(cells) is expected


def test_numbers_with_commas_are_refused_and_mended(tmp_path: Path) -> None:
    def rows(mark: str) -> str:
        return "text;score\n" + "".join(
            f"{t};{i % 40 // 10}{mark}{i % 10}\n" for i, t in enumerate(TEXTS)
        )

    with pytest.raises(UsageError, match=r"numbers with commas \(0,0\). Write them .* \(0\.0\)"):
        drafted(file(tmp_path, "a.csv", rows(",")), InitChoices(label="score"))
    values, _, _ = drafted(file(tmp_path, "b.csv", rows(".")))
    assert values["data"]["label"] == "score"
    assert separator_of_several(["0,1", "0,2", "1,1", "1,2"]) is None


def test_invisible_characters_around_labels(tmp_path: Path) -> None:
    marks = ["\u200b", "\u200f", "\ufeff", "\xa0"]
    rows = "".join(f"{t},{marks[i % 4] * (i % 3)}{x}{marks[i % 4]}\n"
                   for i, (t, x) in enumerate(ROWS))  # fmt: skip
    _, study, _ = drafted(file(tmp_path, "a.csv", f"\u200btext,label\u200b\n{rows}"))
    assert rows_of(study) == Counter(ROWS)
    inside = "".join(f"{t},{x[:3]}{marks[0] * (i % 3 == 0)}{x[3:]}\n"
                     for i, (t, x) in enumerate(ROWS))  # fmt: skip
    _, _, notes = drafted(file(tmp_path, "b.csv", f"text,label\n{inside}"))
    [spellings] = [note for note in notes if "differ only in" in note]
    assert spellings.count(";") == 1  # two labels, each in two spellings


RECORDS = [{"text": t, "label": x} for t, x in ROWS]
BY_COLUMN = {"text": TEXTS, "label": LABELS}


def columns(start: int, end: int) -> dict[str, list[str]]:
    return {name: cells[start:end] for name, cells in BY_COLUMN.items()}


SPLITS: dict[str, Any] = {
    "records": {"train": RECORDS[:30], "test": RECORDS[30:]},
    "in an object": {"data": {"train": RECORDS[:30], "test": RECORDS[30:]}},
    "three": {"version": "1", "train": RECORDS[:30], "dev": RECORDS[30:40], "test": RECORDS[40:]},
    "columns": {"train": columns(0, 30), "test": columns(30, 48)},
    "three of columns": {
        "train": columns(0, 20), "validation": columns(20, 34), "test": columns(34, 48)
    },
    "of equal length": {"train": RECORDS[:24], "test": RECORDS[24:]},
    "pairs": {"train": [[*r] for r in ROWS[:30]], "test": [[*r] for r in ROWS[30:]]},
}  # fmt: skip


@pytest.mark.parametrize("kind", SPLITS)
def test_splits_in_one_json_file(tmp_path: Path, kind: str) -> None:
    _, study, _ = drafted(file(tmp_path, "a.json", json.dumps(SPLITS[kind])))
    assert rows_of(study) == Counter(ROWS)
    last = SPLITS[kind].get("test", SPLITS[kind].get("data", {}).get("test"))
    size = len(last["text"]) if isinstance(last, dict) else len(last)
    assert [e.inputs["text"] for e in study.test] == TEXTS[-size:]


def test_metadata_that_texts_do_not_predict_is_no_label(tmp_path: Path) -> None:
    import random

    rng = random.Random(0)
    records = [{"type": "message", "user": f"U{rng.randrange(3)}", "text": t} for t in TEXTS]
    path = jsonl(tmp_path / "a.jsonl", records)
    with pytest.raises(UsageError, match=r"most likely one is 'user'.*name it with --label"):
        drafted(path)
    values, _, _ = drafted(path, InitChoices(label="user"))
    assert values["data"]["label"] == "user"


def test_objects_in_columns_are_named(tmp_path: Path) -> None:
    records = [
        {"key": f"A-{i}", "fields": {"summary": t, "type": {"name": x}}}
        for i, (t, x) in enumerate(ROWS)
    ]
    with pytest.raises(UsageError, match=r"Column 'fields' holds objects.*json_normalize"):
        drafted(jsonl(tmp_path / "a.jsonl", records))


def test_questions_of_a_survey_are_no_pair(tmp_path: Path) -> None:
    content = "v1,v2\n" + "".join(f"{x},{t}\n" for t, x in ROWS)
    values, study, _ = drafted(file(tmp_path, "a.csv", content))
    assert rows_of(study) == Counter(ROWS)
    assert (values["data"]["text"], values["data"]["label"]) == ("v2", "v1")


def test_letters_of_choices_without_names_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"{t}?,one {i},two {i},three {i},{'ABC'[i % 3]}\n" for i, t in enumerate(TEXTS))
    with pytest.raises(UsageError, match=r"letters .A, B, C. after 4 columns of texts"):
        drafted(file(tmp_path, "a.csv", rows))
    # Grades of one text are labels.
    graded = "".join(f"{i},{t},{'ABC'[i % 3]}\n" for i, t in enumerate(TEXTS))
    _, study, _ = drafted(file(tmp_path, "b.csv", graded))
    assert rows_of(study) == Counter((t, "ABC"[i % 3]) for i, t in enumerate(TEXTS))


NESTED: dict[str, Any] = {
    "CKAN": {"success": True, "result": {"records": RECORDS, "total": 48}},
    "Elasticsearch": {"took": 3, "hits": {"total": 48, "hits": [
        {"_index": "a", "_id": str(i), "_source": r} for i, r in enumerate(RECORDS)]}},
    "GraphQL": {"data": {"reviews": {"edges": [{"node": r, "cursor": "x"} for r in RECORDS]}}},
    "Metabase": {"data": {"cols": [{"name": "text"}, {"name": "label"}],
                          "rows": [[*r] for r in ROWS]}},
    "fields": {"fields": [{"id": "text"}, {"id": "label"}], "records": [[*r] for r in ROWS]},
    "named rows": {k: {f"r{i}": v for i, v in enumerate(cells)} for k, cells in BY_COLUMN.items()},
    "names and rows": [["text", "label"], *([*r] for r in ROWS)],
    "reviews in products": [{"product": f"p{k}", "reviews": RECORDS[k::4]} for k in range(4)],
    "rows by id": {f"-M{i}": r for i, r in enumerate(RECORDS)},
}  # fmt: skip


@pytest.mark.parametrize("kind", NESTED)
def test_answers_of_web_programs(tmp_path: Path, kind: str) -> None:
    _, study, _ = drafted(file(tmp_path, "a.json", json.dumps(NESTED[kind])))
    assert rows_of(study) == Counter(ROWS)


def test_numbers_and_ids_of_mongodb(tmp_path: Path) -> None:
    records = [
        {"_id": {"$oid": f"{i:024x}"}, "text": t, "stars": {"$numberInt": str(i % 3)}}
        for i, t in enumerate(TEXTS)
    ]
    _, study, _ = drafted(jsonl(tmp_path / "a.json", records))
    assert rows_of(study) == Counter((t, f"label {i % 3}") for i, t in enumerate(TEXTS))


def test_tags_in_angle_brackets(tmp_path: Path) -> None:
    tags = ["<python>", "<python><c++>", "<sql>", "<node.js><sql>"]
    rows = "".join(f"{t},{tags[i % 4]}\n" for i, t in enumerate(TEXTS))
    values, study, _ = drafted(file(tmp_path, "a.csv", f"title,tags\n{rows}"))
    assert values["task"] == "multilabel" and study.labels == ["c++", "node.js", "python", "sql"]


@pytest.mark.parametrize(
    ("heading", "body"),
    [("review_headline", "review_body"), ("Post Title", "Post Text"), ("Subject", "Message")],
)
def test_headings_and_texts(tmp_path: Path, heading: str, body: str) -> None:
    records = [{"n": i, heading: f"on {i}", body: t, "label": x} for i, (t, x) in enumerate(ROWS)]
    values, _, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["text"] == [heading, body]


def test_ids_are_no_labels(tmp_path: Path) -> None:
    records = [
        {"text": t, "product_id": x, "verdict": f"v{i % 2}"} for i, (t, x) in enumerate(ROWS)
    ]
    values, _, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["label"] == "verdict"
    records = [{"text": t, "intent_id": x} for t, x in ROWS]
    values, _, _ = drafted(jsonl(tmp_path / "b.jsonl", records))
    assert values["data"]["label"] == "intent_id"


def test_a_summary_is_not_asked_of_its_document_twice(tmp_path: Path) -> None:
    records = [{"document": f"{t} and so on", "summary": t} for t in TEXTS]
    values, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["text"] == {"question": "document"}
    assert rows_of(study) == Counter((f"{t} and so on", t) for t in TEXTS)


@pytest.mark.parametrize(
    "names", [("choice1", "choice2"), ("sol1", "sol2"), ("option 1", "option 2")]
)
def test_two_choices_are_multiple_choice(tmp_path: Path, names: tuple[str, str]) -> None:
    records = [
        {"goal": t, names[0]: f"a {t}", names[1]: f"b {t}", "label": i % 2}
        for i, t in enumerate(TEXTS)
    ]
    with pytest.raises(UsageError, match="multiple choice"):
        drafted(jsonl(tmp_path / "a.jsonl", records))


def test_a_test_file_without_labels_is_left_out(tmp_path: Path) -> None:
    file(tmp_path, "k/train.csv", "id,text,target\n" + "".join(
        f"{i},{t},{x}\n" for i, (t, x) in enumerate(ROWS)))  # fmt: skip
    file(tmp_path, "k/test.csv", "id,text\n" + "".join(f"{i},{t}\n" for i, t in enumerate(TEXTS)))
    file(tmp_path, "k/sample_submission.csv", "id,target\n1,0\n")
    values, study, notes = drafted(tmp_path / "k")
    assert "test" not in values["data"] and rows_of(study) == Counter(ROWS)
    assert any("('test') have no column 'target' and are left out" in note for note in notes)


def test_data_sets_on_disk(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    for split, rows in (("train", RECORDS[:36]), ("test", RECORDS[36:])):
        folder = tmp_path / "ds" / split
        folder.mkdir(parents=True)
        written = pa.Table.from_pylist(rows)
        path = str(folder / "data-00000-of-00001.arrow")
        with pa.OSFile(path, "wb") as out, pa.ipc.new_stream(out, written.schema) as stream:
            stream.write_table(written)
        file(folder, "state.json", "{}")
    file(tmp_path, "ds/dataset_dict.json", '{"splits": ["train", "test"]}')
    _, study, _ = drafted(tmp_path / "ds")
    assert rows_of(study) == Counter(ROWS) and len(study.test) == 12


def test_questions_in_categories_and_tests(tmp_path: Path) -> None:
    asked = [(f"What if {t}?", f"Wait {i} days.") for i, t in enumerate(TEXTS)]
    nested: list[Any] = [
        {"categories": [
            {"name": k, "questions": [{"question": q, "answer": a} for q, a in asked[i::2]]}
            for i, k in enumerate("ab")]},
        {"tests": [{"key": "x", "documents": ["u"], "test_cases": [
            {"prompt": q, "constraints": ["x"], "expected_output": a} for q, a in asked]}]},
    ]  # fmt: skip
    for number, value in enumerate(nested):
        values, study, _ = drafted(file(tmp_path, f"{number}.json", json.dumps(value)))
        assert values["task"] == "free-text-qa" and rows_of(study) == Counter(asked)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_json_under_the_name_of_a_table(tmp_path: Path, name: str) -> None:
    lines = "".join(json.dumps(r) + "\n" for r in RECORDS)
    for content, form in ((lines, "jsonl"), (json.dumps(RECORDS), "json")):
        values, study, _ = drafted(file(tmp_path, name, content))
        assert values["data"]["format"] == form and rows_of(study) == Counter(ROWS)


def test_questions_of_a_survey_are_names(tmp_path: Path) -> None:
    header = [
        "How satisfied are you with what we sent you this year?",
        "What went wrong last time?",
    ]
    assert len(header[0]) > 40
    rows = [header, *([x, t] for t, x in ROWS)]
    content = "".join(",".join(row) + "\n" for row in rows)
    values, study, _ = drafted(file(tmp_path, "a.csv", content))
    assert values["data"]["label"] == header[0] and rows_of(study) == Counter(ROWS)
    # A long first row above texts alone is data.
    texts = "".join(f"{t} and a long text goes on and on,{t} here\n" for t in TEXTS)
    with pytest.raises(UsageError, match="no column looks like a label"):
        drafted(file(tmp_path, "b.csv", texts))


def test_labels_that_are_paths(tmp_path: Path) -> None:
    records = [{"text": t, "label": [[x]] if i % 3 else [["post", x]]} for i, (t, x) in
               enumerate(ROWS)]  # fmt: skip
    _, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert rows_of(study) == Counter(
        (t, x if i % 3 else f"post / {x}") for i, (t, x) in enumerate(ROWS)
    )
