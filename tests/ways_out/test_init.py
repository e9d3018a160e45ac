"""Messages of `init` that name a way out: with the flag or the file that they name it writes a
recipe, and what a note says to change in the recipe is read."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.tabled import file
from data.test_init_evidence import LABELS, ROWS, TEXTS, drafted, jsonl, rows_of
from data.test_ways_out import CSV, DISTINCT, QUESTIONS, SQUAD, lines, workbook
from prooftune import recipe as recipes
from prooftune.data.init.inferred_options import InitChoices
from prooftune.data.splits import load_splits
from prooftune.errors import UsageError
from prooftune.types import Study
from test_cli import prooftune
from ways_out import follows, names

Content = str | bytes
Way = tuple[str, str, Content, "InitChoices | None", str, "Content | None", "InitChoices | None"]
"""The message; file, content and flags that provoke it; file, content and flags that follow it.
Content None: the same file."""


def spans(rows: list[tuple[str, str]]) -> str:
    return lines([{"text": t, "label": [[0, 3, x]], "topic": x} for t, x in rows])


def tagged() -> str:
    rows = [(word, ("B-PER", "O", "O")[i % 3]) for i, word in enumerate(" ".join(TEXTS).split())]
    return "text,label,topic\n" + "".join(
        f"{w} {i} of the text,{t},{'ab'[i % 2]}\n" for i, (w, t) in enumerate(rows)
    )


def turns() -> str:
    return "text,label\n" + "".join(f"{t},{('user', 'assistant')[i % 2]}\n" for i, (t, _) in
                                    enumerate(ROWS))  # fmt: skip


CHATS = lines(
    [{"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": f"{t} {i}"}]}
     for i, t in enumerate(TEXTS)]
)  # fmt: skip
PASSAGES = [
    {"query": f"{t}?", "positive_passages": f"It is {t}.", "n": i} for i, t in enumerate(TEXTS)
]
PAIRS = [
    {"question": t, "response_a": f"a {i}", "response_b": f"b {i}", "winner": "ab"[i % 2]}
    for i, t in enumerate(TEXTS)
]
MARKDOWN = "| text | label |\n| --- | --- |\n" + "".join(f"| {t} | {x} |\n" for t, x in ROWS)
SINGLE = "text,label\n" + "".join(f"'{t}','{x}'\n" for t, x in ROWS)
ESCAPED = "text,label\n" + "".join(f'"say \\"{t}\\", please",{x}\n' for t, x in ROWS)
PROSE = "".join(f"It was {t}\nand nothing else of note {i}.\n" for i, t in enumerate(TEXTS))

WAYS: list[Way] = [
    (
        follows("of the texts (start, end, label), for which there is no task. Name a column with"),
        "a.jsonl", spans(ROWS), None,
        "a.jsonl", None, InitChoices(label="topic"),
    ),
    (
        follows("holds objects, such as {…}. Write the label as a separate column, and name it"),
        "a.jsonl", lines([{"text": t, "label": {"name": x}} for t, x in ROWS]),
        InitChoices(label="label"),
        "a.jsonl", lines([{"text": t, "own": x} for t, x in ROWS]), InitChoices(label="own"),
    ),
    (
        follows("with one turn in each row. Write one conversation in each line, as {\"messages\""),
        "a.csv", turns(), None,
        "b.jsonl", CHATS, None,
    ),
    (
        follows("as CoNLL files do, for which there is no task. Name a column with a label for"),
        "a.csv", tagged(), InitChoices(label="label"),
        "a.csv", None, InitChoices(label="topic"),
    ),
    (
        follows("Add a column 'answer'; if another column holds labels of the questions, name it"),
        "a.jsonl", lines(PASSAGES), None,
        "a.jsonl", lines([{**p, "answer": f"the {i}"} for i, p in enumerate(PASSAGES)]), None,
    ),
    (
        "if another column holds labels of the questions, name it with --label",
        "a.jsonl", lines([{**p, "kind": x} for p, x in zip(PASSAGES, LABELS, strict=True)]), None,
        "a.jsonl", None, InitChoices(label="kind"),
    ),
    (
        follows("To train on the better answers, keep them as column 'answer'"),
        "a.jsonl", lines(PAIRS), None,
        "a.jsonl", lines([{"question": p["question"], "answer": p[f"response_{p['winner']}"]}
                          for p in PAIRS]), None,
    ),
    (
        follows("Write it as CSV, or with tabs between the columns"),
        "a.csv", MARKDOWN, None,
        "a.csv", CSV, None,
    ),
    (
        "Write it as CSV, or with tabs between the columns",
        "a.csv", MARKDOWN, None,
        "a.tsv", CSV.replace(",", "\t"), None,
    ),
    (
        follows("fields are in single quotes, which CSV does not have. Write the file with double"),
        "a.csv", SINGLE, None,
        "a.csv", SINGLE.replace("'", '"'), None,
    ),
    (
        follows("and CSV doubles them (\"\"). Write the file with doubled quotes"),
        "a.csv", ESCAPED, None,
        "a.csv", ESCAPED.replace('\\"', '""'), None,
    ),
    (
        follows("Plain prose has no labels to learn; to answer questions about it, see 'prooftune"),
        "a.txt", PROSE, None,
        "a.txt", "".join(f"{t}@{x}\n" for t, x in ROWS), None,
    ),
    (
        "or fastText's __label__ lines",
        "a.txt", PROSE, None,
        "a.txt", "".join(f"__label__{x} {t}\n" for t, x in ROWS), None,
    ),
    (
        follows("Open it with a spreadsheet program and save it as .xlsx or .csv"),
        "a.xls", "<html><table><tr><td>text</td></tr></table></html>", None,
        "a.xlsx", workbook("one"), None,
    ),
    (
        "Open it with a spreadsheet program and save it as .xlsx or .csv",
        "a.xls", "<html><table><tr><td>text</td></tr></table></html>", None,
        "a.csv", CSV, None,
    ),
    (
        follows("--task: one of {…}, found '{…}'{…}"),
        "a.csv", CSV, InitChoices(task="clasification"),
        "a.csv", None, InitChoices(task="classification"),
    ),
    (
        follows("--format: one of {…}, found '{…}'{…}"),
        "a.csv", CSV, InitChoices(format="cvs"),
        "a.csv", None, InitChoices(format="csv"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_a_message_says_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    message, name, content, choices, after, changed, flags = way
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    file(tmp_path, name, content)
    with pytest.raises(UsageError) as error:
        drafted(Path(name), choices)
    assert names(message, str(error.value)), str(error.value)
    if changed is not None:
        file(tmp_path, after, changed)
    _, study, _ = drafted(Path(after), flags)
    assert rows_of(study).total() >= 48


Values = dict[str, Any]


def note(path: Path, message: str, choices: InitChoices | None = None) -> Values:
    """The recipe of a file with a note of these words."""
    values, _, notes = drafted(path, choices)
    assert any(names(message, n) for n in notes), notes
    return values


def edited(folder: Path, values: Values, **data: Any) -> Study:
    """The rows of the recipe with another `data` section."""
    task = data.pop("task", values["task"])
    values = {**values, "task": task, "data": {**values["data"], **data}}
    values["data"] = {k: v for k, v in values["data"].items() if v is not None}
    (folder / "edited.yaml").write_text(yaml.safe_dump(values), "utf-8")
    return load_splits(*recipes.load(folder / "edited.yaml"))


def labels(study: Study) -> set[str]:
    return {str(e.target) for split in study.splits().values() for e in split}


def test_bounds_and_names_of_ranges(tmp_path: Path) -> None:
    scores = "".join(f"{t},{i}\n" for i, t in enumerate(DISTINCT))
    path = file(tmp_path, "a.csv", f"text,score\n{scores}")
    values = note(path, follows("cut into {…} ranges at {…} (data.bins): {…}."),
                  InitChoices(label="score"))  # fmt: skip
    comment = follows("choose names and bounds; a value on a bound is in the first range")
    assert comment in (tmp_path / "drafted.yaml").read_text("utf-8")
    bins = {"bad": [None, 9], "good": [9, None]}
    study = edited(tmp_path, values, bins=bins, ordinal=True)
    assert labels(study) == {"bad", "good"}
    counts = [str(e.target) for split in study.splits().values() for e in split]
    assert counts.count("bad") == 10  # 0 to 9: the bound is in the first range


def test_columns_of_zeros_and_ones_as_several_labels(tmp_path: Path) -> None:
    flags = [{"toxic": i % 2, "insult": i % 3 % 2} for i in range(48)]
    records = [{"text": t, **f} for t, f in zip(DISTINCT, flags, strict=True)]
    path = jsonl(tmp_path / "a.jsonl", records)
    note(path, follows("run init again with --task multilabel (data.label_columns)"))
    values, study, _ = drafted(path, InitChoices(task="multilabel"))
    assert values["data"]["label_columns"] == ["toxic", "insult"]
    assert {x for text in labels(study) for x in json.loads(text)} == {"toxic", "insult"}
    message = follows("For one of them alone, name it with --label, as in --label {…}.")
    assert any(names(message, text) for text in drafted(path, InitChoices(task="multilabel"))[2])
    values, study, _ = drafted(path, InitChoices(label="toxic"))
    assert values["task"] == "classification" and len(labels(study)) == 2


def test_groups_and_splits_of_columns(tmp_path: Path) -> None:
    rows = "".join(
        f"{t},{x},author{i % 12},{('train', 'test')[i % 4 == 3]}\n"
        for i, (t, x) in enumerate(zip(DISTINCT, LABELS, strict=True))
    )
    path = file(tmp_path, "a.csv", f"text,label,author,split\n{rows}")
    message = follows("belong on one side of the split, set data.group and data.splitting.method:")
    values = note(path, message)
    study = edited(tmp_path, values, group="author", splitting={"method": "grouped"})
    assert not {e.group for e in study.train} & {e.group for e in study.test}
    values = note(path, follows("which are not used: write one file per split to keep them."))
    for split in ("train", "test"):
        kept = [r for r in rows.splitlines() if r.endswith(split)]
        file(tmp_path, f"{split}.csv", "text,label,author,split\n" + "\n".join(kept) + "\n")
    study = edited(tmp_path, values, train="train.csv", test="test.csv")
    assert len(study.test) == 12


def test_two_files_are_joined_by_the_command_of_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts, answers = Path("texts.txt"), Path("labels.txt")
    texts.write_text("".join(f"{t}\n" for t in DISTINCT))
    answers.write_text("".join(f"{x}\n" for x in LABELS))
    with pytest.raises(UsageError) as error:
        drafted(texts)
    message = follows(
        "one holds the texts and the other the labels, join them: prooftune data join"
    )
    assert names(message, str(error.value)), str(error.value)
    command = shlex.split(str(error.value).partition("join them: ")[2])
    assert prooftune(monkeypatch, *command[1:]) == 0
    _, study, _ = drafted(Path(command[-1]))
    assert rows_of(study).total() == 48


def test_missing_labels_are_emptied_and_left_out(tmp_path: Path) -> None:
    some = [(t, "n/a" if i % 6 == 0 else x) for i, (t, x) in enumerate(ROWS)]
    path = file(tmp_path, "a.csv", "text,label\n" + "".join(f"{t},{x}\n" for t, x in some))
    message = follows("If they are, empty these cells: data.unlabelled: drop leaves such rows out.")
    note(path, message)
    path.write_text(path.read_text().replace("n/a", ""))
    note(path, follows("{…} row{…} no label ({…}) and {…} left out (data.unlabelled: drop)."))
    _, study, _ = drafted(path)
    assert labels(study) == {"delivery", "payment"} and rows_of(study).total() == 40


@pytest.mark.parametrize("several", [False, True])
def test_spellings_are_merged_by_the_comment(tmp_path: Path, several: bool) -> None:
    spelt = ("Late", "late", "lost", "LOST", "damaged goods", "damaged-goods", "other")
    rows = [(t, spelt[i % 7] + ("|other" if several else "")) for i, t in enumerate(DISTINCT)]
    path = file(tmp_path, "a.csv", "text,label\n" + "".join(f"{t},{x}\n" for t, x in rows))
    values = note(path, follows("use the data.labels that the recipe has in a comment."))
    assert "labels" not in values["data"]
    recipe = tmp_path / "drafted.yaml"
    text = recipe.read_text("utf-8")
    uncommented = re.sub(r"(?m)^  # (labels:|  \")", r"  \1", text)
    recipe.write_text(uncommented, "utf-8")
    study = load_splits(*recipes.load(recipe))
    assert len(study.labels) == 4


def test_labels_with_end_tokens_get_one_name(tmp_path: Path) -> None:
    rows = "".join(f"{t},{('good', 'Good', 'bad')[i % 3]}</s>\n" for i, t in enumerate(DISTINCT))
    path = file(tmp_path, "a.csv", f"text,label\n{rows}")
    values = note(path, follows("give them one name in data.labels."))
    merged = {raw: name.lower() for raw, name in values["data"]["labels"].items()}
    assert labels(edited(tmp_path, values, labels=merged)) == {"good", "bad"}


def test_the_right_column_instead_of_one_with_one_value(tmp_path: Path) -> None:
    rows = "".join(f"{t},all,{x}\n" for t, x in ROWS)
    path = file(tmp_path, "a.csv", f"text,label,topic\n{rows}")
    message = follows("There is only one label: is it the right column?")
    note(path, message, InitChoices(label="label"))
    _, study, notes = drafted(path, InitChoices(label="topic"))
    assert labels(study) == {*LABELS} and not any(names(message, n) for n in notes)


def test_a_column_of_few_values_is_named_in_slices(tmp_path: Path) -> None:
    rows = "".join(
        f"{t},{'ab'[i % 2]},{('web form', 'chat')[i % 3 > 0]},{i},x\n"
        for i, t in enumerate(DISTINCT)
    )
    path = file(tmp_path, "a.csv", f"text,label,channel,number,shop\n{rows}")
    message = follows("To see results by the values of '{…}', name it in data.slices.")
    values = note(path, message, InitChoices(label="label"))
    [said] = [n for n in drafted(path, InitChoices(label="label"))[2] if names(message, n)]
    assert "by the values of 'channel'" in said
    study = edited(tmp_path, values, slices=["channel"])
    assert {dict(e.metadata)["channel"] for e in study.train} == {"web form", "chat"}


@pytest.mark.slow
def test_ratings_and_codes(tmp_path: Path) -> None:
    def rated(column: str) -> Path:
        rows = "".join(f"{t},{1 + i % 5}\n" for i, t in enumerate(DISTINCT))
        return file(tmp_path, "a.csv", f"text,{column}\n{rows}")

    values = note(rated("stars"), "The labels look like ratings")
    comment = follows("ratings; remove this if the numbers are codes")
    assert comment in (tmp_path / "drafted.yaml").read_text("utf-8")
    assert edited(tmp_path, values).scale == [1, 2, 3, 4, 5]
    assert edited(tmp_path, values, ordinal=None).scale == []
    values = note(rated("label"), follows("If the labels are ratings, add ordinal: true to data."))
    assert edited(tmp_path, values, ordinal=True).scale == [1, 2, 3, 4, 5]
    words = follows("a language model reads names: replace 'label {…}' … in data.labels by words.")
    values = note(rated("label"), words)
    five = ("awful", "bad", "fair", "good", "great")
    named = {str(i): name for i, name in enumerate(five, start=1)}
    assert labels(edited(tmp_path, values, labels=named)) == {*five}


def test_few_articles_are_split_by_context(tmp_path: Path) -> None:
    squad = json.loads(SQUAD)
    articles = [p for entry in squad["data"] for p in entry["paragraphs"]]
    squad["data"] = [{"title": f"t{i}", "paragraphs": articles[i::2]} for i in range(2)]
    path = file(tmp_path, "a.json", json.dumps(squad))
    values = note(path, "too few to hold some out: split by context (data.group).")
    assert values["data"]["group"] == "context"
    assert len(edited(tmp_path, values).test)


def test_only_wanted_answers_are_kept(tmp_path: Path) -> None:
    flagged = [{**q, "label": int(i % 3 > 0)} for i, q in enumerate(QUESTIONS)]
    message = follows("To train on the wanted answers, keep only their rows.")
    note(jsonl(tmp_path / "a.jsonl", flagged), message)
    path = jsonl(tmp_path / "b.jsonl", [r for r in flagged if r["label"]])
    values, study, _ = drafted(path)
    assert values["task"] in ("free-text-qa", "extractive-qa") and len(study.train)


def test_last_answers_of_conversations_as_labels(tmp_path: Path) -> None:
    records = [
        {
            "messages": [
                {"role": "user", "content": f"Parcel {text} is late."},
                {"role": "assistant", "content": f"Which city, {i}?"},
                {"role": "user", "content": f"Nairobi, number {i}."},
                {"role": "assistant", "content": label},
            ]
        }
        for i, (text, label) in enumerate(ROWS)
    ]
    path = jsonl(tmp_path / "a.jsonl", records)
    message = follows(
        "--task classification reads the last answers as labels of the last questions"
    )
    note(path, message)
    _, study, _ = drafted(path, InitChoices(task="classification"))
    assert labels(study) == {*LABELS}


def test_answers_from_the_context_or_free_ones(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", QUESTIONS)
    message = follows("(task: extractive-qa); for free answers set task: free-text-qa.")
    values = note(path, message)
    assert len(edited(tmp_path, values, task="free-text-qa").train)


def test_languages_that_are_left_out(tmp_path: Path) -> None:
    rows = "".join(f"{t},{x},{('swa', 'hau')[i % 3 % 2]}\n" for i, (t, x) in enumerate(ROWS))
    path = file(tmp_path, "a.csv", f"text,label,language\n{rows}")
    values, study, _ = drafted(path)
    comment = follows("the language of each row; leave it out if results by language are not want")
    assert comment in (tmp_path / "drafted.yaml").read_text("utf-8")
    assert {e.language for e in study.train} == {"swa", "hau"}
    assert {e.language for e in edited(tmp_path, values, language=None).train} == {None}


@pytest.mark.parametrize("flag", [True, False])
def test_an_encoding_that_is_not_certain(tmp_path: Path, flag: bool) -> None:
    texts = "".join(f"Zażółć {t[:64]},{'ab'[i % 2]}\n" for i, t in enumerate(DISTINCT))
    path = file(tmp_path, "a.csv", f"text,label\n{texts}".encode("cp1257"))
    values = note(path, follows("If the words look wrong, set data.encoding (or --encoding)."))
    assert values["data"]["encoding"] == "cp1250"
    if flag:
        _, study, _ = drafted(path, InitChoices(encoding="cp1257"))
    else:
        study = edited(tmp_path, values, encoding="cp1257")
    assert all(e.inputs["text"].startswith("Zażółć") for e in study.train)


def few_answers(kind: str) -> list[dict[str, str]]:
    """Questions whose six answers come five times each."""
    towns = ["Oslo", "Bergen", "Hamar", "Molde", "Bodø", "Alta"]
    records = []
    for i in range(30):
        town, day = towns[i % 6], DISTINCT[i]
        context = {
            "spans": f"The {day} ship left for {town} before noon.",
            "parts of words": f"The {day} ship left for {town}shire before noon.",
            "a list of labels": f"{day}: one of {', '.join(towns)}.",
            "elsewhere": f"The {day} ship left before noon.",
        }[kind]
        question = f"Where did the {day} ship go?"
        records.append({"question": question, "context": context, "answer": town})
    return records


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("spans", "extractive-qa"),
        ("parts of words", "classification"),
        ("a list of labels", "classification"),
        ("elsewhere", "classification"),
    ],
)
def test_few_answers_are_spans_or_labels(tmp_path: Path, kind: str, task: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", few_answers(kind))
    values, _, notes = drafted(path)
    assert values["task"] == task
    message = follows("If they are answers: prooftune init {…} --task {…}")
    said = [n for n in notes if names(message, n)]
    assert bool(said) == (task == "classification")
    for text in said:
        # What the note names reads them as answers.
        command = shlex.split(text.partition("prooftune init ")[2])
        values, study, notes = drafted(Path(command[0]), InitChoices(task=command[2]))
        assert values["task"] == command[2] and len(study.train)
        assert not any(names(message, n) for n in notes)


@pytest.mark.slow
def test_yes_and_no_in_questions_are_labels(tmp_path: Path) -> None:
    records = few_answers("spans")
    for i, record in enumerate(records):
        record["context"] += " There was no wind." if i % 3 == 0 else " Nothing was known."
        record["answer"] = ("yes", "no")[i % 2]
    values, _, notes = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["task"] == "classification"
    assert any("--task" in n for n in notes)
    # Named as labels, there is nothing to explain.
    _, _, notes = drafted(tmp_path / "a.jsonl", InitChoices(task="classification"))
    assert not any("If they are answers" in n for n in notes)
