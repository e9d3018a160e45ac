"""Every layout of data, with an example and the recipe that reads it: the page docs/layouts.md.

PYTHONPATH=tests:src python -m data.layouts > docs/layouts.md
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prooftune.data.init.recipe_writer import draft_recipe

TEXTS = [f"{('the parcel came late', 'my card was refused')[i % 2]} on day {i}" for i in range(24)]
LABELS = [("delivery", "payment")[i % 2] for i in range(24)]
ANSWERS = [f"wait {i} days" for i in range(24)]
QUESTIONS = [f"What about parcel {i}?" for i in range(24)]
_SHOWN_LINES = 6
_SHOWN_CHARACTERS = 110
_KEYS = ("task", "data")


@dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
        title: heading.
        name: file name.
        content: the file's text.
        expected: input and target of the first row, as a recipe reads it.
    """

    title: str
    name: str
    content: str
    expected: tuple[str, str] = (TEXTS[0], LABELS[0])


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]], delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


def _lines(records: Sequence[Any]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


def _array(records: Sequence[Any]) -> str:
    return "[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n]\n"


def _turns(*turns: tuple[str, str], names: tuple[str, str] = ("role", "content")) -> Any:
    return [{names[0]: role, names[1]: text} for role, text in turns]


_ROWS = list(zip(TEXTS, LABELS, strict=True))
_ASKED = list(zip(QUESTIONS, ANSWERS, strict=True))
_FIRST_ANSWER = (QUESTIONS[0], ANSWERS[0])
_CONTEXTS = [f"For parcel {i}, wait {i} days." for i in range(24)]

LAYOUTS = [
    Layout("CSV", "reviews.csv", _csv(["text", "label"], _ROWS)),
    Layout("CSV without a header", "bare.csv", _csv(_ROWS[0], _ROWS[1:])),
    Layout(
        "Excel's separator line",
        "excel.csv",
        "sep=;\n" + _csv(["text", "label"], _ROWS, ";"),
    ),
    Layout(
        "A title above the header",
        "title.csv",
        "Export of 1 May,,\n" + _csv(["id", "text", "label"], [(i, *r) for i, r in
                                                              enumerate(_ROWS)]),
    ),
    Layout(
        "A header of several rows (Qualtrics)",
        "survey.csv",
        _csv(
            ["Date", "Q1", "Q2"],
            [
                ("Start Date", "What happened?", "Kind"),
                ('{"ImportId":"date"}', '{"ImportId":"QID1"}', '{"ImportId":"QID2"}'),
                *((f"2024-05-{1 + i}", *row) for i, row in enumerate(_ROWS)),
            ],
        ),
    ),
    Layout(
        "Names of rows (R's `write.table`)",
        "table.txt",
        '"text" "label"\n' + "".join(f'"{i}" "{t}" "{x}"\n' for i, (t, x) in enumerate(_ROWS, 1)),
    ),
    Layout("Tab-separated", "reviews.tsv", _csv(["text", "label"], _ROWS, "\t")),
    Layout(
        "Pairs of texts",
        "pairs.tsv",
        _csv(
            ["premise", "hypothesis", "label"],
            [(t, f"case {i} is urgent", x) for i, (t, x) in enumerate(_ROWS)],
            "\t",
        ),
        (f"{TEXTS[0]} case 0 is urgent", LABELS[0]),
    ),
    Layout(
        "Numbers with their names",
        "setfit.csv",
        _csv(["text", "label", "label_text"], [(t, int(x == "payment"), x) for t, x in _ROWS]),
    ),
    Layout(
        "Columns of 0 and 1",
        "toxic.csv",
        _csv(
            ["comment_text", "delivery", "payment", "urgent"],
            [(t, int(x == "delivery"), int(x == "payment"), i % 5 // 4) for i, (t, x) in
             enumerate(_ROWS)],
        ),
        (TEXTS[0], '["delivery"]'),
    ),
    Layout(
        "Ratings",
        "ratings.csv",
        _csv(["review", "stars"], [(t, 1 + i % 5) for i, t in enumerate(TEXTS)]),
        (TEXTS[0], "label 1"),
    ),
    Layout(
        "Scores",
        "scores.csv",
        _csv(["text", "score"], [(t, round(i / 7, 2)) for i, t in enumerate(TEXTS)]),
        (TEXTS[0], "low"),
    ),
    Layout("JSON Lines", "reviews.jsonl", _lines([{"text": t, "label": x} for t, x in _ROWS])),
    Layout("JSON", "reviews.json", _array([{"text": t, "label": x} for t, x in _ROWS])),
    Layout(
        "JSON by column",
        "columns.json",
        json.dumps({"text": TEXTS, "label": LABELS}, indent=0),
    ),
    Layout(
        "JSON of pandas, `orient=\"split\"`",
        "pandas.json",
        json.dumps({"columns": ["text", "label"], "data": _ROWS}),
    ),
    Layout(
        "JSON with splits",
        "splits.json",
        "{"
        + ",\n".join(
            f'"{name}": ' + _array([{"text": t, "label": x} for t, x in rows])
            for name, rows in (("train", _ROWS[:18]), ("test", _ROWS[18:]))
        )
        + "}",
    ),
    Layout(
        "Labels in lists (doccano)",
        "doccano.jsonl",
        _lines([{"id": i, "text": t, "label": [x]} for i, (t, x) in enumerate(_ROWS)]),
    ),
    Layout(
        "Label Studio",
        "label-studio.json",
        _array(
            [
                {"data": {"text": t}, "annotations": [{"result": [{"value": {"choices": [x]}}]}]}
                for t, x in _ROWS
            ]
        ),
    ),
    Layout(
        "Argilla",
        "argilla.jsonl",
        _lines(
            [
                {
                    "id": str(i),
                    "fields": {"text": t},
                    "responses": {"label": [{"value": x, "status": "submitted"}]},
                }
                for i, (t, x) in enumerate(_ROWS)
            ]
        ),
    ),
    Layout(
        "Prodigy",
        "prodigy.jsonl",
        _lines(
            [
                {"text": t, "label": x, "answer": "accept", "_input_hash": i}
                for i, (t, x) in enumerate(_ROWS)
            ]
        ),
    ),
    Layout("fastText", "fasttext.txt", "".join(f"__label__{x} {t}\n" for t, x in _ROWS)),
    Layout(
        "TREC",
        "train.label",
        "".join(f"{x[:4].upper()}:{x} {t}\n" for t, x in _ROWS),
        (TEXTS[0], "DELI"),
    ),
    Layout("Text, separator, label", "phrases.txt", "".join(f"{t}@{x}\n" for t, x in _ROWS)),
    Layout(
        "Questions and answers",
        "questions.csv",
        _csv(["question", "answer"], _ASKED),
        _FIRST_ANSWER,
    ),
    Layout(
        "Questions with contexts",
        "contexts.jsonl",
        _lines(
            [
                {"question": q, "context": c, "answers": [a]}
                for (q, a), c in zip(_ASKED, _CONTEXTS, strict=True)
            ]
        ),
        (f"{QUESTIONS[0]} {_CONTEXTS[0]}", ANSWERS[0]),
    ),
    Layout(
        "SQuAD",
        "squad.json",
        json.dumps(
            {
                "data": [
                    {
                        "title": f"Parcel {i}",
                        "paragraphs": [
                            {
                                "context": c,
                                "qas": [
                                    {
                                        "id": str(i),
                                        "question": q,
                                        "answers": [{"text": a, "answer_start": c.index(a)}],
                                    }
                                ],
                            }
                        ],
                    }
                    for i, ((q, a), c) in enumerate(zip(_ASKED, _CONTEXTS, strict=True))
                ]
            },
            indent=1,
        ),
        (f"{QUESTIONS[0]} {_CONTEXTS[0]}", ANSWERS[0]),
    ),
    Layout(
        "Alpaca",
        "alpaca.json",
        _array([{"instruction": q, "input": "", "output": a} for q, a in _ASKED]),
        (f"{QUESTIONS[0]} ", ANSWERS[0]),
    ),
    Layout(
        "Alpaca with labels as answers",
        "alpaca-labels.json",
        _array([{"instruction": "Name the topic.", "input": t, "output": x} for t, x in _ROWS]),
    ),
    Layout(
        "Dolly",
        "dolly.jsonl",
        _lines([{"instruction": q, "context": "", "response": a} for q, a in _ASKED]),
        (f"{QUESTIONS[0]} ", ANSWERS[0]),
    ),
    Layout(
        "TRL: prompt and completion",
        "trl.jsonl",
        _lines([{"prompt": q, "completion": a} for q, a in _ASKED]),
        _FIRST_ANSWER,
    ),
    Layout(
        "ragas",
        "ragas.jsonl",
        _lines([{"user_input": q, "reference": a} for q, a in _ASKED]),
        _FIRST_ANSWER,
    ),
    Layout(
        "Chats (OpenAI)",
        "chats.jsonl",
        _lines([{"messages": _turns(("user", q), ("assistant", a))} for q, a in _ASKED]),
        _FIRST_ANSWER,
    ),
    Layout(
        "Chats (ShareGPT)",
        "sharegpt.json",
        _array(
            [
                {"conversations": _turns(("human", q), ("gpt", a), names=("from", "value"))}
                for q, a in _ASKED
            ]
        ),
        _FIRST_ANSWER,
    ),
    Layout(
        "Chats as text, between empty lines",
        "chats.txt",
        "\n".join(
            f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n"
            for q, a in _ASKED
        ),
        _FIRST_ANSWER,
    ),
    Layout(
        "Alpaca's prompt as text",
        "alpaca-text.jsonl",
        _lines(
            [{"text": f"### Instruction:\n{q}\n\n### Response:\n{a}"} for q, a in _ASKED]
        ),
        _FIRST_ANSWER,
    ),
    Layout(
        "Trees of messages (OpenAssistant)",
        "trees.jsonl",
        _lines(
            [
                {
                    "prompt": {
                        "text": q,
                        "role": "prompter",
                        "replies": [
                            {"text": "I do not know.", "role": "assistant", "rank": 1},
                            {"text": a, "role": "assistant", "rank": 0},
                        ],
                    }
                }
                for q, a in _ASKED
            ]
        ),
        _FIRST_ANSWER,
    ),
    Layout(
        "Chats in prompt and completion (TRL)",
        "trl-chats.jsonl",
        _lines(
            [
                {"prompt": _turns(("user", q)), "completion": _turns(("assistant", a))}
                for q, a in _ASKED
            ]
        ),
        _FIRST_ANSWER,
    ),
    Layout(
        "Wanted and unwanted answers (KTO)",
        "kto.jsonl",
        _lines(
            [
                {"prompt": q, "completion": a, "label": i % 3 > 0}
                for i, (q, a) in enumerate(_ASKED)
            ]
        ),
        (f"{QUESTIONS[0]} {ANSWERS[0]}", "false"),
    ),
]  # fmt: skip


def recipe_of(layout: Layout, folder: Path) -> str:
    """The recipe that `init` writes for a layout's file."""
    path = folder / layout.name
    path.write_text(layout.content, encoding="utf-8")
    return draft_recipe(path, path.with_suffix(".yaml"))[0]


def _data_section(recipe: str) -> str:
    """The lines of a recipe on task and data, without notes on what may be added."""
    kept, section = [], ""
    for line in recipe.splitlines():
        if line and not line.startswith((" ", "#")):
            section = line.split(":")[0]
        if section in _KEYS and line.strip() and not line.lstrip().startswith(("#", "limit:")):
            kept.append(line)
    return "\n".join(kept)


def render_page() -> str:
    """The page: a heading, six lines of the file and the recipe's data section for each layout."""
    parts = [
        "# Layouts",
        "Each layout with the first lines of a file and what `prooftune init FILE` writes to read "
        "it.\nThis page is generated from the tests by "
        "`PYTHONPATH=tests:src python -m data.layouts`. Formats,\nencodings and compression are "
        "described in [Data formats](formats.md).",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for layout in LAYOUTS:
            lines = layout.content.splitlines()[:_SHOWN_LINES]
            cut = [
                x if len(x) <= _SHOWN_CHARACTERS else f"{x[:_SHOWN_CHARACTERS]} …" for x in lines
            ]
            recipe = _data_section(recipe_of(layout, Path(folder)))
            parts += [
                f"## {layout.title}",
                f"`{layout.name}`:",
                "```text\n" + "\n".join(cut) + "\n```",
                f"```yaml\n{recipe}\n```",
            ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(render_page(), end="")
