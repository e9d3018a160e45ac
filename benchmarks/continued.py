"""Does training beyond tuning help? Three small synthetic studies of a tiny random model.

Texts of three topics, most of them clear (``clear``) or many without a word of their topic
(``ambiguous``), with costs of errors: tuned, then reward and preference from it. Questions whose
training answers are wrong in 60% of the rows (``noisy``): tuned, then preference on pairs of a
right and a wrong answer.

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


def answers(model: Path, folder: Path) -> dict[str, Any]:
    """A study of questions whose training answers are often wrong."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)

    def rows(count: int, start: int, wrong: float) -> list[dict[str, str]]:
        return [
            {
                "question": f"was it a {ANSWERS[i % 2]} {i}",
                "answer": WRONG if draw.random() < wrong else ANSWERS[i % 2],
            }
            for i in range(start, start + count)
        ]

    def write(name: str, items: list[dict[str, str]]) -> str:
        path = folder / name
        path.write_text("\n".join(map(json.dumps, items)), "utf-8")
        return str(path)

    pairs = [
        {"prompt": row["question"], "chosen": row["answer"], "rejected": WRONG}
        for row in rows(120, 4000, 0.0)
    ]
    file = write("pairs.jsonl", pairs)
    return {
        "name": "noisy",
        "task": "free-text-qa",
        "data": {
            "train": write("train.jsonl", rows(180, 0, 0.6)),
            "validation": write("validation.jsonl", rows(30, 1000, 0.6)),
            "test": write("test.jsonl", rows(150, 2000, 0.0)),
        },
        "audit": {"near_duplicates": None, "leak": "drop"},
        "model": {"name": str(model), "dtype": "float32"},
        "prompt": {"max_length": 80},
        "answering": {"max_new_tokens": 4},
        "training": {
            "num_train_epochs": 6,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 8,
        },
        "lora": {"r": 8, "lora_alpha": 32},
        "variants": {
            "tuned": None,
            "preference": {**FURTHER, "objective": "preference", "pairs": file},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=["clear", "ambiguous", "noisy"])
    parser.add_argument("--out", type=Path, default=Path("runs/continued"))
    options = parser.parse_args()
    model = options.out / "model"
    if not model.exists():
        make_model_folder(model, "llama3")
    folder = options.out / options.study
    values = (
        answers(model, folder / "data")
        if options.study == "noisy"
        else labels(model, folder / "data", {"clear": 6, "ambiguous": 2}[options.study])
    )
    result = prooftune.run(values, out=folder / "run")
    print(result.folder / "report.md")


if __name__ == "__main__":
    main()
