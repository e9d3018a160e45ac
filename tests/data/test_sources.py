"""A source named in a recipe becomes examples: columns, labels, bins, ids and groups, and the
public layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.tabled import file
from prooftune.data.sources import read_source
from prooftune.errors import UsageError
from prooftune.recipe import Source

REVIEWS = "title,body,stars,who,nr\nFine,I liked it,5,ann,a1\nPoor, no ,1,bob,a2\nSo so,,3,ann,a3\n"


def read_file(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [
        {"id": e.id, "inputs": e.inputs, "target": e.target, "source": e.source, "group": e.group}
        for e in read_source(Source(path=path.name, **options), path.parent).examples
    ]


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        read_source(Source(path=path.name, **options), path.parent)
    return str(error.value)


def test_default_columns_are_text_and_label(
    tmp_path: Path,
) -> None:
    path = file(tmp_path, "a.csv", "label,text\n pos ,  Good. \n")
    assert read_file(path) == [
        {
            "id": "a.csv:2",
            "inputs": {"text": "  Good. "},
            "target": "pos",
            "source": "a.csv:2",
            "group": None,
        }
    ]


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        ("body", {"body": "I liked it"}),
        (["title", "body"], {"title": "Fine", "body": "I liked it"}),
        (["body", "title"], {"body": "I liked it", "title": "Fine"}),
        ({"review": "body", "headline": "title"}, {"review": "I liked it", "headline": "Fine"}),
    ],
)
def test_one_text_column_several_or_renamed_ones(
    tmp_path: Path, text: Any, inputs: dict[str, str]
) -> None:
    rows_read = read_file(file(tmp_path, "a.csv", REVIEWS), text=text, label="stars")
    assert list(rows_read[0]["inputs"].items()) == list(inputs.items())
    assert [e["target"] for e in rows_read] == ["5", "1", "3"]


def test_ids_and_groups_from_columns(tmp_path: Path) -> None:
    rows_read = read_file(
        file(tmp_path, "a.csv", REVIEWS), text="body", label="stars", id="nr", group="who"
    )
    assert [(e["id"], e["group"], e["source"]) for e in rows_read] == [
        ("a1", "ann", "a.csv:2"),
        ("a2", "bob", "a.csv:3"),
        ("a3", "ann", "a.csv:4"),
    ]


def test_a_missing_text_is_empty(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", '{"text": null, "label": "x"}\n{"label": "y"}\n')
    assert [e["inputs"] for e in read_file(path)] == [{"text": ""}, {"text": ""}]


def test_labels_are_mapped_to_names(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    labels = {0: "bad", "1": "good"}
    assert [e["target"] for e in read_file(path, labels=labels)] == ["good", "bad"]


def test_bins_include_both_bounds_and_other_rows_are_counted(tmp_path: Path) -> None:
    values = ["-4", "-0.5", "-0.49", "0", "0.5", "1e1", "nan"]
    path = file(tmp_path, "a.csv", "text,label\n" + "".join(f"t,{v}\n" for v in values))
    rows = read_source(
        Source(path=path.name, bins={"low": (None, -0.5), "high": (0.5, None)}), tmp_path
    )
    assert [(e.target, e.source) for e in rows.examples] == [
        ("low", "a.csv:2"),
        ("low", "a.csv:3"),
        ("high", "a.csv:6"),
        ("high", "a.csv:7"),
    ]
    assert rows.notes == [
        "a.csv: 3 of 7 rows dropped, because their value is in none of data.bins."
    ]
    touching = read_source(
        Source(path=path.name, bins={"low": (None, 0), "high": (0, None)}), tmp_path
    )
    assert Counter(e.target for e in touching.examples) == {"low": 4, "high": 2}


def test_paths_start_at_the_recipe_and_may_start_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(tmp_path, "data/a.csv", "text,label\na,b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for reference, base in (
        ("data/a.csv", tmp_path),
        ("~/data/a.csv", Path("elsewhere")),
        (str(path), Path("elsewhere")),
    ):
        assert len(read_source(Source(path=reference), base).examples) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"text": "bdoy", "label": "stars"},
            [
                "a.csv has no column 'bdoy' (data.text). Found 5: 'title', 'body', 'stars'",
                "did you mean 'body'?",
            ],
        ),
        (
            {"text": "body"},
            [
                "a.csv has no column 'label' (data.label)",
                "If the first row is data, set data.header: false and data.columns: a list",
            ],
        ),
        (
            {"text": "body", "label": "star"},
            ["no column 'star' (data.label)", "did you mean 'stars'?"],
        ),
        ({"text": "body", "label": "stars", "id": "nrs"}, ["no column 'nrs' (data.id)"]),
        (
            {"text": "body", "label": "stars", "group": "whom"},
            ["no column 'whom' (data.group)", "did you mean 'who'?"],
        ),
        (
            {"text": ["body", "stars"], "label": "stars"},
            ["data.text and data.label both name column 'stars'"],
        ),
        (
            {"text": "body", "label": "stars", "id": "who"},
            ["a.csv: data.id 'who' must be unique", "more than once: 'ann'"],
        ),
        (
            {"text": "title", "label": "stars", "id": "body"},
            ["1 row without a value in data.id 'body': a.csv:4"],
        ),
        (
            {"text": "title", "label": "body"},
            ["1 row without a label in column 'body': a.csv:4. Label the rows, remove them"],
        ),
        (
            {"text": "body", "label": "stars", "labels": {"1": "bad", "5": "good"}},
            [
                "a.csv:4: label '3' is not among data.labels ('1', '5')",
                'Add "3": "3" to data.labels, or remove the row.',
            ],
        ),
        (
            {"text": "body", "label": "who", "labels": {"anna": "x", "bob": "y"}},
            ["a.csv:2: label 'ann'", "did you mean 'anna'?"],
        ),
        (
            {
                "text": "2",
                "label": "4",
                "header": False,
                "labels": {"a1": "x", "a2": "y", "a3": "z"},
            },
            ["a.csv:1: label 'nr'", "The first row may be a header: set data.header: true"],
        ),
        (
            {"text": "body", "label": "who", "bins": {"low": (0, 1)}},
            ["a.csv:2: data.bins needs numbers in column 'who', found 'ann'"],
        ),
        (
            {"text": "body", "label": "stars", "bins": {"low": (7, 9)}},
            ["a.csv: no row falls into any of data.bins (low)"],
        ),
    ],
)
def test_options_that_do_not_fit_the_file_are_reported(
    tmp_path: Path, options: dict[str, Any], words: list[str]
) -> None:
    message = refused(file(tmp_path, "a.csv", REVIEWS), **options)
    assert [w for w in words if w not in message] == [], message


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        (
            "a.csv",
            "text;label\ngood;pos\n",
            "The only column contains ';': is it the data.delimiter?",
        ),
        ("a.csv", "text\tlabel\ngood\tpos\n", r"The only column contains '\t'"),
        ("a.tsv", "text,label\ngood,pos\n", "The only column contains ','"),
    ],
)
def test_a_wrong_delimiter_is_recognised(
    tmp_path: Path, name: str, content: str, hint: str
) -> None:
    assert hint in refused(file(tmp_path, name, content))


def test_rows_without_label_are_counted_and_some_are_listed(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", "text,label\n" + "t,x\n" + "t, \n" * 7)
    assert (
        "7 rows without a label in column 'label': a.csv:3, a.csv:4, a.csv:5, a.csv:6, a.csv:7 "
        "and 2 more" in refused(path)
    )


AG_LABELS = {"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"}
PUBLIC: list[tuple[str, dict[str, Any], int, set[str]]] = [
    (
        "ag_news/ag_news_csv/test.csv",
        {
            "header": False,
            "columns": ["label", "title", "description"],
            "labels": AG_LABELS,
            "text": ["title", "description"],
        },
        7600,
        set(AG_LABELS.values()),
    ),
    (
        "ag_news/alps_tsv/dev.tsv",
        {"header": False, "columns": ["text", "label"]},
        10_001,
        set(AG_LABELS.values()),
    ),
    (
        "ag_news/alps_tsv/test.tsv",
        {"header": False, "text": "0", "label": 1},
        7600,
        set(AG_LABELS.values()),
    ),
    (
        "sst2/glue_phrases/train.tsv",
        {"text": "sentence", "labels": {0: "bad", 1: "good"}},
        60_614,
        {"bad", "good"},
    ),
    ("sst2/glue_phrases/dev.tsv", {"text": "sentence"}, 6735, {"0", "1"}),
    ("sst2/glue_phrases/test.tsv", {"text": "sentence"}, 872, {"0", "1"}),
    *(
        (
            f"masakhanews_swa/{name}.tsv",
            {"text": ["headline", "text"], "label": "category"},
            rows,
            {"business", "entertainment", "health", "politics", "religion", "sports", "technology"},
        )
        for name, rows in (
            ("dev", 237),
            ("test", 476),
            ("few_shot_50/train", 350),
            ("derived/train_union", 985),
        )
    ),
    *(
        (
            f"financial_phrasebank/Sentences_{name}Agree.txt",
            {"format": "text", "delimiter": "@", "encoding": "iso-8859-1"},
            rows,
            {"negative", "neutral", "positive"},
        )
        for name, rows in (("All", 2264), ("75", 3453), ("66", 4217), ("50", 4846))
    ),
    (
        "policy_qa/EU_AI_Act_h2o/question_type_EU_AI_Act.csv",
        {"text": "question", "label": "question_type"},
        144,
        {"simple", "conditional", "compress", "multi-hop reasoning"},
    ),
]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "options", "rows", "labels"), PUBLIC, ids=[name for name, *_ in PUBLIC]
)
def test_public_layouts_load_by_options_alone(
    public_data: Callable[[str], Path],
    name: str,
    options: dict[str, Any],
    rows: int,
    labels: set[str],
) -> None:
    path = public_data(name)
    rows_read = read_source(Source(path=path.name, **options), path.parent).examples
    assert len(rows_read) == rows
    assert {e.target for e in rows_read} == labels
    assert len({e.id for e in rows_read}) == rows


@pytest.mark.data
def test_public_details(public_data: Callable[[str], Path]) -> None:
    swahili = public_data("masakhanews_swa/derived/train_union.tsv")
    rows_read = read_source(
        Source(path=swahili.name, text="text", label="category"), swahili.parent
    ).examples
    assert Counter(e.target for e in rows_read)["health"] == 176
    # Escaped quotes are undone: the file quotes as CSV does, though it is divided by tabs.
    assert sum('""' in e.inputs["text"] for e in rows_read) == 1
    assert sum("\u2028" in e.inputs["text"] for e in rows_read) == 1
    stocks = public_data("financial_phrasebank/Sentences_50Agree.txt")
    rows_read = read_source(
        Source(path=stocks.name, format="text", delimiter="@", encoding="iso-8859-1"), stocks.parent
    ).examples
    assert Counter(e.target for e in rows_read) == {
        "neutral": 2879,
        "positive": 1363,
        "negative": 604,
    }
