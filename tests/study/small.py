"""Small studies: labelled texts that a tiny model learns to tell apart in a second, and recipes
over them."""

from __future__ import annotations

import csv
import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import prooftune
from prooftune.bundle.language_model import LanguageModelClassifier
from prooftune.evaluation.score_types import Scores, defined
from prooftune.run_folder import read_predictions
from prooftune.utils.files import read_json

TOPICS = {
    "Sports": ["goal", "scored", "match", "won"],
    "Business": ["stocks", "fell", "markets", "rose"],
    "Sci/Tech": ["planet", "orbit", "science", "phone"],
}
COMMON = ["the", "cat", "sat", "on", "a", "mat", "it", "was", "very", "new"]
KINDS = ["majority", "tfidf", "zero-shot", "few-shot", "prompted", "tuned"]


def write_rows(path: Path, count: int, seed: int, learnable: bool = True, words: int = 6) -> Path:
    """Rows of a few words, two of every three on the label's topic, or labels drawn without looking
    at the text."""
    draw, blind, rows = random.Random(seed), random.Random(seed + 1), []
    for number in range(count):
        topic = list(TOPICS)[number % len(TOPICS)]
        text = [
            draw.choice(TOPICS[topic] if draw.random() < 0.67 else COMMON) for _ in range(words)
        ]
        label = topic if learnable else blind.choice(list(TOPICS))
        rows.append([" ".join([*text, str(seed * 1000 + number)]), label])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([["text", "label"], *rows])
    return path


def small_recipe(
    model: Path, folder: Path, *, learnable: bool = True, **options: Any
) -> dict[str, Any]:
    """A recipe over data written into `folder`; `options` are sections that replace its own."""
    sizes = {"train": 90, "validation": 18, "test": 60}
    files = {
        split: str(write_rows(folder / f"{split}.csv", size, seed, learnable))
        for seed, (split, size) in enumerate(sizes.items(), 1)
    }
    values: dict[str, Any] = {
        "name": "small",
        "data": {**files, "text": "text", "label": "label"},
        "audit": {"leak": "drop"},
        "model": {"name": str(model), "dtype": "float32"},
        "prompt": {"max_length": 80, "template": "{text}"},
        "lora": {"r": 8, "lora_alpha": 32},
        "training": {
            "learning_rate": 1e-2,
            "num_train_epochs": 8,
            "per_device_train_batch_size": 8,
        },
        "evaluation": {"resamples": 200},
        "variants": {"tuned": None},
    }
    return {**values, **options}


def accuracy(scores: Scores, variant: str) -> float:
    return defined(scores["variants"][variant]["metrics"]["accuracy"])["value"]


def predictions_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every variant's predictions."""
    matches = sorted((folder / "variants").glob("*/*.parquet"))
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in matches}


def outputs_of(folder: Path, variant: str) -> list[str]:
    return [
        p.output for p in read_predictions(folder / "variants" / variant / "predictions.parquet")
    ]


def details_of(folder: Path, variant: str) -> dict[str, Any]:
    details: dict[str, Any] = read_json(folder / "variants" / variant / "details.json")
    return details


def steps_kept(folder: Path, variant: str) -> list[int]:
    """Steps whose checkpoints a run could go on from now: their last file is there to its end."""
    steps = []
    for state in folder.glob(f"variants/{variant}/checkpoints/*/trainer_state.json"):
        with suppress(ValueError, OSError):  # it is just being written
            steps.append(int(json.loads(state.read_text("utf-8"))["global_step"]))
    return sorted(steps)


def classifier(bundle: Path | None) -> LanguageModelClassifier:
    """A bundle that was made by a study of labels."""
    assert bundle is not None
    loaded = prooftune.load(bundle)
    assert isinstance(loaded, LanguageModelClassifier)
    return loaded
