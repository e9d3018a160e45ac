"""Labelling the rows of a file: what stands in it stays, and what will not do is said before any
work."""

from __future__ import annotations

import csv
import functools
import gzip
import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.progress import Progress

from prooftune.batch_predict import columns, local, predict, predict_file, writers
from prooftune.batch_predict.conversion import as_json_lines
from prooftune.bundle.classifier import LabelPrediction
from prooftune.bundle.load import load as bundle_load
from prooftune.bundle.qa import QAPrediction
from prooftune.data.readers.streaming import Block
from prooftune.errors import UsageError
from study.small import classifier

load = functools.cache(bundle_load)
SHARES = ["probability_World", "probability_Sports", "probability_Sci/Tech"]
ADDED = ["label", "probability", *SHARES, "empty_text", "truncated_tokens"]
TEXTS = [
    "goal scored",
    "NA",
    "",
    'a "quoted", cell',
    "two\nlines",
    "ünïcode 漢字 🎉",
    " 007 ",
    "planet orbit " * 40,
]


@pytest.fixture(autouse=True)
def load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "load", load)


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter=delimiter))


def write_csv(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str = ","
) -> Path:
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, delimiter=delimiter).writerows([header, *rows])
    return path


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8"
    )
    return path


def test_csv_keeps_every_cell_and_row_in_order(bundle: Path, tmp_path: Path) -> None:
    rows = [[f"{i:03d}", text, "NaN"] for i, text in enumerate(TEXTS)]
    file = write_csv(tmp_path / "in.csv", ["id", "text", "empty or not"], rows)
    assert predict_file(bundle, file, tmp_path / "out.csv").rows == len(TEXTS)
    out = read_csv(tmp_path / "out.csv")
    assert list(out[0]) == ["id", "text", "empty or not", *ADDED]
    assert [[r["id"], r["text"], r["empty or not"]] for r in out] == rows


def test_the_answers_are_those_of_the_loaded_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "BLOCK_ROWS", 3)
    file = write_lines(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])
    predict_file(bundle, file, tmp_path / "out.jsonl")
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    expected = classifier(bundle).predict(TEXTS)
    assert [r["label"] for r in out] == [a.label for a in expected]
    assert len({round(r["probability"], 3) for r in out}) > 4  # the texts are told apart
    for row, answer in zip(out, expected, strict=True):
        assert row["probability"] == pytest.approx(answer.probability, abs=1e-4)
        assert row["probability"] == max(row[name] for name in SHARES)
        assert sum(row[name] for name in SHARES) == pytest.approx(1)
    assert [r["truncated_tokens"] > 0 for r in out] == [False] * 7 + [True]
    assert [r["empty_text"] for r in out] == [not text for text in TEXTS]


def test_values_of_json_keep_their_types(bundle: Path, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"n": 1, "text": "goal", "tags": ["a"], "x": 1.0},
        {"n": "one", "text": "orbit", "new": None},
    ]
    predict_file(bundle, write_lines(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl")
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k not in ADDED} for row in out] == records


def test_parquet_keeps_its_types(bundle: Path, tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["goal", None, "orbit"],
            "n": pa.array([1, 2, None], pa.int16()),
            "x": [0.5, float("nan"), 2.0],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    predict_file(bundle, tmp_path / "in.parquet", tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column_names == ["text", "n", "x", *ADDED]
    assert out.schema.field("n").type == pa.int16()
    assert out.select(["text", "n"]).to_pylist() == table.select(["text", "n"]).to_pylist()
    assert out.column("empty_text").to_pylist() == [False, True, False]
    assert set(out.column("label").to_pylist()) <= {"World", "Sports", "Sci/Tech"}
    predict_file(bundle, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert "NaN" not in (tmp_path / "out.jsonl").read_text()


@pytest.mark.parametrize("source", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("target", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_into_every_other(
    bundle: Path, tmp_path: Path, source: str, target: str
) -> None:
    file, texts = tmp_path / f"in.{source}", ["goal", "", "tab\tand, comma"]
    if source in ("csv", "tsv"):
        write_csv(file, ["text"], [[t] for t in texts], "\t" if source == "tsv" else ",")
    elif source == "jsonl":
        write_lines(file, [{"text": t} for t in texts])
    else:
        pq.write_table(pa.table({"text": texts}), file)
    out = tmp_path / f"out.{target}"
    assert predict_file(bundle, file, out).rows == 3
    if target in ("csv", "tsv"):
        rows: list[dict[str, Any]] = list(read_csv(out, "\t" if target == "tsv" else ","))
    elif target == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = pq.read_table(out).to_pylist()
    assert [r["text"] for r in rows] == texts
    assert all(list(r) == ["text", *ADDED] for r in rows)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"])
@pytest.mark.parametrize("task", ["classification", "multilabel", "extractive-qa"])
def test_every_column_of_every_task_has_a_type(tmp_path: Path, task: str, suffix: str) -> None:
    manifest: Any = {
        "task": task,
        "method": "tfidf",
        "classifier": {},
        "labels": ["a", "b"],
        "abstention": {"threshold": 0.5} if task == "classification" else None,
    }
    shares = {"a": 0.75, "b": 0.5}
    predictions: dict[str, Any] = {
        "classification": LabelPrediction("a", 0.75, shares, 0, abstained=False),
        "multilabel": LabelPrediction('["a", "b"]', None, shares, 0, labels=("a", "b")),
        "extractive-qa": QAPrediction("word"),
    }
    added = columns.prediction_columns([predictions[task]], manifest, [False])
    names = {name: f"predicted_{name}" for name in added}
    schema = pa.schema([("text", pa.string())]) if suffix == ".parquet" else None
    form = writers.OutputFormat(suffix, ("in", "out"), ["text"], names, schema)
    out = tmp_path / f"out{suffix}"
    writers.write_part(tmp_path / "part", Block(["text"], fields=[["x"]]), added, form)
    writers.join([tmp_path / "part"], out, form)
    if suffix == ".parquet":
        [row] = pq.read_table(out).to_pylist()
    elif suffix in (".csv", ".tsv"):
        [row] = read_csv(out, "\t" if suffix == ".tsv" else ",")
    else:
        row = json.loads(out.read_text())
    assert list(row) == ["text", *names.values()]
    expected = {name: value for name, [value] in added.items()}
    for name, value in expected.items():
        assert row[names[name]] in (value, str(value)), name


@pytest.mark.parametrize("target", ["csv", "jsonl", "parquet"])
def test_labels_that_people_gave_stay_beside_the_answers(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(predict, "notify", lambda message, *_: messages.append(message))
    file = write_csv(
        tmp_path / "in.csv", ["label", "text", "truncated_tokens"], [["mine", "goal scored", "9"]]
    )
    out = tmp_path / f"out.{target}"
    for _ in range(2):  # its own answers may be made again
        predict_file(bundle, file, out)
    [row] = (
        read_csv(out)
        if target == "csv"
        else pq.read_table(out).to_pylist()
        if target == "parquet"
        else [json.loads(out.read_text("utf-8"))]
    )
    assert list(row) == [
        "label",
        "text",
        "truncated_tokens",
        "predicted_label",
        *ADDED[1:-1],
        "predicted_truncated_tokens",
    ]
    [expected] = classifier(bundle).predict(["goal scored"])
    assert (row["label"], row["predicted_label"]) == ("mine", expected.label)
    assert (row["truncated_tokens"], int(row["predicted_truncated_tokens"])) == ("9", 0)
    assert messages == 2 * [
        "in.csv keeps its own 'label', 'truncated_tokens'; the answers go to 'predicted_label', "
        "'predicted_truncated_tokens'"
    ]


def test_the_bar_moves_within_a_block(
    bundles: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundles(scoring={"batch_tokens": 128})
    seen: list[float] = []
    own = Progress.advance

    def advance(bar: Progress, *given: Any) -> None:
        own(bar, *given)
        seen.append(bar.tasks[0].completed)

    monkeypatch.setattr(Progress, "advance", advance)
    rows = [["goal " * (i + 1)] for i in range(40)]
    predict_file(bundle, write_csv(tmp_path / "in.csv", ["text"], rows), tmp_path / "out.csv")
    assert len(seen) > 2 and seen == sorted(seen) and seen[-1] == 40


@pytest.mark.parametrize("header", ["review", "text", "whatever it is called"])
def test_one_text_is_found_by_its_name_by_text_or_by_being_alone(
    bundles: Callable[..., Path], tmp_path: Path, header: str
) -> None:
    bundle = bundles({"review": "Review Text"})
    file = write_csv(tmp_path / "in.csv", [header], [["goal scored"]])
    assert predict_file(bundle, file, tmp_path / "out.csv").rows == 1


def test_columns_are_those_of_the_recipe_also_behind_another_delimiter(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = bundles({"head": "Headline", "body": "Body"})
    file = write_csv(
        tmp_path / "in.csv", ["Body", "n", "Headline"], [["goal; scored", "1", "match"]], ";"
    )
    predict_file(bundle, file, tmp_path / "out.csv")
    [row] = read_csv(tmp_path / "out.csv")
    [expected] = classifier(bundle).predict([{"head": "match", "body": "goal; scored"}])
    assert row["Body"] == "goal; scored"
    assert row["label"] == expected.label
    assert float(row["probability"]) == pytest.approx(expected.probability, abs=1e-4)


def test_generated_answers_have_no_probabilities(
    bundles: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = bundles(scoring={"method": "generation", "max_new_tokens": 2})
    predict_file(bundle, write_csv(tmp_path / "in.csv", ["text"], [["goal"]]), tmp_path / "out.csv")
    [row] = read_csv(tmp_path / "out.csv")
    assert list(row) == ["text", "label", "probability", "empty_text", "truncated_tokens"]
    assert row["probability"] == ""


@pytest.mark.parametrize(
    ("name", "content", "out", "message"),
    [
        ("inn.csv", None, "out.csv", "no such file (did you mean 'in.csv'?)"),
        ("in.csv", "", "out.csv", "is empty"),
        ("in.csv", "text\n", "out.csv", "no rows"),
        (
            "in.docx",
            "text\ngoal\n",
            "out.csv",
            "the input's name must end in .csv, .tsv, .jsonl, .ndjson, .parquet",
        ),
        ("in.csv", "text\ngoal\n", "out.xls", "the output's name must end in"),
        ("in.csv", "text\ngoal\n", "out.jsnl", "(did you mean '.jsonl'?)"),
        ("in.csv", "text\ngoal\n", "in.csv", "is the input itself"),
        (
            "in.csv",
            "a,texts\n1,goal\n",
            "out.csv",
            "in.csv has no column 'text', which this bundle reads; found 2: 'a', 'texts' (did you "
            "mean 'texts'?)",
        ),
        ("in.csv", "text,n\ngoal,1\norbit\n", "out.csv", "in.csv:3: 1 field, but 2 expected"),
        (
            "in.csv",
            "label,predicted_label,text\nWorld,World,goal\n",
            "out.csv",
            "has columns 'label' and 'predicted_label' already, where the answers would be written",
        ),
        (
            "in.jsonl",
            '{"text": "goal", "n": 1}\n{"text": "orbit", "n": "x"}\n',
            "out.parquet",
            "column 'n' of in.jsonl has values of several types",
        ),
        ("in.jsonl", '{"text": "goal"}\nnot json\n', "out.csv", "in.jsonl:2: not JSON"),
        ("in.parquet", "text", "out.csv", "is not a Parquet file"),
    ],
)
def test_what_will_not_do_is_said_before_any_work(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str | None,
    out: str,
    message: str,
) -> None:
    monkeypatch.setattr(local, "load", None)  # the model is not even loaded
    (tmp_path / "in.csv").touch()
    if content is not None:
        (tmp_path / name).write_text(content)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UsageError) as caught:
        predict_file(bundle, tmp_path / name, tmp_path / out)
    assert message in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_folder_that_is_no_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a bundle: no bundle\.json in it \(its bundle is"):
        predict_file(bundle.parent, tmp_path / "in.csv", tmp_path / "out.csv")


def test_a_single_text_is_no_list_of_texts(bundle: Path) -> None:
    with pytest.raises(UsageError, match="a list of texts"):
        load(bundle).predict("goal")
    assert load(bundle).predict([]) == []


Predicted = Callable[[Path, str], tuple[list[dict[str, str]], list[str]]]


@pytest.fixture
def predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predicted:
    """The output rows of a bundle for a CSV file, and what is said of its columns."""

    def predict(bundle: Path, content: str) -> tuple[list[dict[str, str]], list[str]]:
        notes: list[str] = []
        monkeypatch.setattr(columns, "notify", lambda note, *_: notes.append(note))
        (tmp_path / "in.csv").write_text(content, encoding="utf-8")
        predict_file(bundle, tmp_path / "in.csv", tmp_path / "out.csv")
        return read_csv(tmp_path / "out.csv"), notes

    return predict


@pytest.fixture
def headerless(bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose training data had no header: label, text."""
    folder = shutil.copytree(bundle, tmp_path / "headerless")
    values = yaml.safe_load((folder / "recipe.yaml").read_text("utf-8"))
    values["data"] |= {"header": False, "columns": ["label", "text"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("3,goal scored\n1,a vote\n", ["goal scored", "a vote"]),
        ("3,goal scored\n", ["goal scored"]),
        ("goal scored\na vote\n", ["goal scored", "a vote"]),
        ('"goal, scored"\n"two\nlines"\n', ["goal, scored", "two\nlines"]),
        ("text\ngoal scored\n", ["goal scored"]),
        ("id,text\n1,goal scored\n", ["goal scored"]),
    ],
)
def test_files_without_a_header_are_read_as_the_training_data(
    headerless: Path, predicted: Predicted, content: str, texts: list[str]
) -> None:
    rows, notes = predicted(headerless, content)
    assert [row["text"] for row in rows] == texts
    has_header = "text" in content.split("\n")[0]
    assert any("has no header" in note for note in notes) is not has_header


TEXT = "goal scored in extra time yesterday"


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (f"{TEXT}\na vote\n", [TEXT, "a vote"]),
        (f'"{TEXT}, late"\n\n"two\nlines"\n', [f"{TEXT}, late", "two\nlines"]),
        (f"{TEXT}\n", [TEXT]),
        (f"text\n{TEXT}\n", [TEXT]),
        # Names of columns, and questions of surveys.
        (f"the customer's own message\n{TEXT}\n", [TEXT]),
        (f"What was the reason for your complaint?\n{TEXT}\n", [TEXT]),
    ],
)
def test_a_file_of_texts_alone_needs_no_header(
    bundle: Path, predicted: Predicted, content: str, texts: list[str]
) -> None:
    (rows, notes), first = predicted(bundle, content), content.split("\n")[0]
    has_header = not first.strip('"').startswith(TEXT)
    assert [next(iter(row.values())) for row in rows] == texts
    assert next(iter(rows[0])) == (first if has_header else "text")
    assert any("has no header" in note for note in notes) is not has_header


@pytest.mark.parametrize("header", ["title,description", "id,note", "a,b,c"])
def test_other_headers_are_no_rows(headerless: Path, tmp_path: Path, header: str) -> None:
    row = ",".join(
        ["some words here", "goal scored in the second half", "x"][: header.count(",") + 1]
    )
    (tmp_path / "in.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"no column 'text'.*Rename the file's columns"):
        predict_file(headerless, tmp_path / "in.csv", tmp_path / "out.csv")


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251", "utf-16", "utf-8-sig"])
def test_files_in_other_encodings_are_read_as_they_were_written(
    bundle: Path, tmp_path: Path, encoding: str
) -> None:
    texts = {"cp1251": "очень быстрый чайник"}.get(encoding, "très bon café déjà goûté")
    (tmp_path / "in.csv").write_bytes(f"text\r\n{texts}\r\ngoal scored\r\n".encode(encoding))
    predict_file(bundle, tmp_path / "in.csv", tmp_path / "out.csv")
    assert [row["text"] for row in read_csv(tmp_path / "out.csv")] == [texts, "goal scored"]


@pytest.mark.parametrize("kind", ["a.xlsx", "a.json", "a.db#rows", "a.feather"])
def test_tables_that_are_read_as_a_whole(bundle: Path, tmp_path: Path, kind: str) -> None:
    rows = [{"n": str(i), "text": text} for i, text in enumerate(("goal scored", "a, b", "vote"))]
    path = tmp_path / kind.partition("#")[0]
    if kind == "a.json":
        path.write_text(json.dumps({"result": {"records": rows}}), encoding="utf-8")
    elif kind == "a.xlsx":
        workbook = pytest.importorskip("openpyxl").Workbook()
        for row in (["n", "text"], *([r["n"], r["text"]] for r in rows), ["Total", None]):
            workbook.active.append(row)
        workbook.save(path)
    elif kind == "a.feather":
        from pyarrow import feather

        feather.write_feather(pa.Table.from_pylist(rows), str(path))
    else:
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE rows (n, text)")
        database.execute("CREATE TABLE others (n)")
        database.executemany("INSERT INTO rows VALUES (:n, :text)", rows)
        database.commit()
        database.close()
    predict_file(bundle, tmp_path / kind, tmp_path / "out.csv")
    out = read_csv(tmp_path / "out.csv")
    assert [{"n": row["n"], "text": row["text"]} for row in out] == rows
    expected = classifier(bundle).predict([row["text"] for row in rows])
    assert [row["label"] for row in out] == [p.label for p in expected]


def test_a_converted_file_is_written_once_for_each_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"text": "one"}]', encoding="utf-8")
    first = as_json_lines(path, tmp_path / "in")
    assert as_json_lines(path, tmp_path / "in") == first
    assert first.read_text("utf-8") == '{"text": "one"}\n'
    path.write_text('[{"text": "another"}]', encoding="utf-8")
    assert as_json_lines(path, tmp_path / "in") != first


def test_lines_above_the_header_are_left_out_and_said(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(columns, "notify", lambda note, *_: notes.append(note))
    (tmp_path / "in.csv").write_text("# export\nBy,me\n\nid;text\n1;goal scored\n2;a, b\n")
    predict_file(bundle, tmp_path / "in.csv", tmp_path / "out.csv")
    assert [row["text"] for row in read_csv(tmp_path / "out.csv")] == ["goal scored", "a, b"]
    assert notes == ["in.csv: the first 3 line(s) are above the header and left out"]


def test_the_encoding_of_the_training_data_comes_before_a_guess(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One letter alone could be of many scripts."""
    notes: list[str] = []
    monkeypatch.setattr(columns, "notify", lambda note, *_: notes.append(note))
    own = tmp_path / "bundle"
    shutil.copytree(bundle, own)
    recipe = (own / "recipe.yaml").read_text()
    assert "encoding: utf-8" in recipe
    (own / "recipe.yaml").write_text(recipe.replace("encoding: utf-8", "encoding: cp1251"))
    (tmp_path / "in.csv").write_bytes("text\ngoal Д\n".encode("cp1251"))
    predict_file(own, tmp_path / "in.csv", tmp_path / "out.csv")
    assert [row["text"] for row in read_csv(tmp_path / "out.csv")] == ["goal Д"]
    assert notes == ["in.csv is read as cp1251, like the bundle's training data"]


def test_a_compressed_file_is_labelled_like_its_content(bundle: Path, tmp_path: Path) -> None:
    plain = write_csv(tmp_path / "in.csv", ["text"], [["goal scored"], ["planet orbit"]])
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    predict_file(bundle, plain, tmp_path / "a.csv")
    predict_file(bundle, tmp_path / "packed.csv.gz", tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_column_that_nobody_reads_may_have_the_name_of_another(
    bundle: Path, tmp_path: Path
) -> None:
    file = write_csv(
        tmp_path / "in.csv",
        ["note", "text", "note", "note_2", "note"],
        [["a", "goal scored", "b", "c", "d"]],
    )
    for suffix in (".csv", ".jsonl", ".parquet"):
        predict_file(bundle, file, tmp_path / f"out{suffix}")
    [row] = read_csv(tmp_path / "out.csv")
    kept = {"note": "a", "text": "goal scored", "note_3": "b", "note_2": "c", "note_4": "d"}
    assert {name: row[name] for name in list(row)[:5]} == kept
    assert json.loads((tmp_path / "out.jsonl").read_text("utf-8")).items() >= kept.items()
    assert pq.read_table(tmp_path / "out.parquet").to_pylist()[0].items() >= kept.items()


def test_the_column_of_the_texts_must_have_a_name_of_its_own(bundle: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "in.csv", ["text", "text"], [["goal", "planet"]])
    with pytest.raises(UsageError, match="names 'text' more than once, which this bundle reads"):
        predict_file(bundle, file, tmp_path / "out.csv")
