"""Does training beyond tuning help? Five small synthetic studies of a tiny random model.

Texts of three topics, most of them clear (``clear``) or many without a word of their topic
(``ambiguous``), with costs of errors: tuned, then reward and preference from it. Questions whose
training answers are wrong in 60% of the rows (``noisy``): tuned, then preference on pairs of a
right and a wrong answer. Questions whose references differ (``consensus``): 40% are one word,
which is the likeliest answer, and the others are two answers that share three of their four words,
either of which has more expected F1: tuned, then reward (GRPO). The same with one answer to each
question (``agreed``), where nothing is left to gain.

    python benchmarks/continued.py ambiguous --out runs/continued
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import prooftune

# The tiny model and the texts are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from conftest import make_model_folder
from study.small import small_recipe, write_rows

COSTS = {"Sports": {"Business": 5}}
FURTHER = {
    "kind": "tuned",
    "from": "tuned",
    "training": {"num_train_epochs": 2, "learning_rate": 1e-3},
}
ANSWERS, WRONG = ("goal", "planet"), "cat"

# Adapters leave the tiny model's output layer as it is: too flat to prefer one word to another.
TUNED = {"method": "full", "training": {"num_train_epochs": 8, "learning_rate": 3e-3}}


def labels(model: Path, folder: Path, words: int) -> dict[str, Any]:
    """A study of labels, for texts of this many words."""
    variants = {
        # By the likeliest label, as the variants that continue it.
        "tuned": {"training": {"num_train_epochs": 6}, "decision": "likeliest"},
        "reward": {**FURTHER, "objective": "reward"},
        "preference": {**FURTHER, "objective": "preference", "decision": "likeliest"},
    }
    values = small_recipe(model, folder, variants=variants, costs=COSTS)
    for seed, (split, size) in enumerate({"train": 180, "validation": 60, "test": 600}.items(), 1):
        write_rows(folder / f"{split}.csv", size, seed, words=words)
    return values


def differing_answers(model: Path, folder: Path, *, agreed: bool) -> dict[str, Any]:
    """A study of questions whose references differ between rows, unless they are agreed."""

    def rows(count: int, start: int) -> list[dict[str, str]]:
        made, draw = [], random.Random(start)
        numbers = draw.sample(range(count), count)
        for i, number in zip(range(start, start + count), numbers, strict=True):
            topic = ANSWERS[i % 2]
            # The first words differ, so that greedy decoding begins with the likeliest answer.
            first, second = (f"{word} scored {topic} science" for word in ("won", "match"))
            # 4 of 10 rows have the one word; which ones, the question does not say.
            choices = [first] * 10 if agreed else [WRONG] * 4 + [first] * 3 + [second] * 3
            made.append({"question": f"was it a {topic} {i}", "answer": choices[number % 10]})
        return made

    values = _questions(
        model,
        folder,
        {"train": rows(240, 0), "validation": rows(60, 1000), "test": rows(800, 2000)},
    )
    return {
        **values,
        "name": "agreed" if agreed else "consensus",
        "evaluation": {"primary": "f1"},
        "variants": {
            "tuned": TUNED,
            "reward": {
                **FURTHER,
                "objective": "reward",
                "training": {"num_train_epochs": 3, "learning_rate": 3e-4},
            },
        },
    }


def _questions(model: Path, folder: Path, parts: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    """A recipe of questions without its variants; the rows are written into the folder."""
    return {
        "task": "free-text-qa",
        "data": {name: _write(folder / f"{name}.jsonl", rows) for name, rows in parts.items()},
        "audit": {"near_duplicates": None, "leak": "drop"},
        "model": {"name": str(model), "dtype": "float32"},
        "prompt": {"max_length": 80},
        "answering": {"max_new_tokens": 8},
        "training": {"per_device_train_batch_size": 8},
    }


def _write(path: Path, items: list[dict[str, str]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, items)), "utf-8")
    return str(path)


def answers(model: Path, folder: Path) -> dict[str, Any]:
    """A study of questions whose training answers are often wrong."""
    draw = random.Random(0)

    def rows(count: int, start: int, wrong: float) -> list[dict[str, str]]:
        return [
            {
                "question": f"was it a {ANSWERS[i % 2]} {i}",
                "answer": WRONG if draw.random() < wrong else ANSWERS[i % 2],
            }
            for i in range(start, start + count)
        ]

    pairs = [
        {"prompt": row["question"], "chosen": row["answer"], "rejected": WRONG}
        for row in rows(120, 4000, 0.0)
    ]
    file = _write(folder / "pairs.jsonl", pairs)
    parts = {
        "train": rows(180, 0, 0.6),
        "validation": rows(30, 1000, 0.6),
        "test": rows(150, 2000, 0.0),
    }
    values = _questions(model, folder, parts)
    return {
        **values,
        "name": "noisy",
        "answering": {"max_new_tokens": 4},
        "variants": {
            "tuned": TUNED,
            "preference": {**FURTHER, "objective": "preference", "pairs": file},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=["clear", "ambiguous", "noisy", "consensus", "agreed"])
    parser.add_argument("--out", type=Path, default=Path("runs/continued"))
    options = parser.parse_args()
    model = options.out / "model"
    if not model.exists():
        make_model_folder(model, "llama3")
    folder = options.out / options.study
    data = folder / "data"
    if options.study == "noisy":
        values = answers(model, data)
    elif options.study in ("consensus", "agreed"):
        values = differing_answers(model, data, agreed=options.study == "agreed")
    else:
        values = labels(model, data, {"clear": 6, "ambiguous": 2}[options.study])
    result = prooftune.run(values, out=folder / "run")
    print(result.folder / "report.md")


if __name__ == "__main__":
    main()
