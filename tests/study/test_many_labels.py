"""Seventy-seven and a hundred and fifty named intents: init, check and run with every default
variant."""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path

import pytest

import prooftune
from prooftune.utils.files import read_json, write_json

FIRST = ["good", "bad", "new", "cat", "stocks", "goal", "planet", "science", "phone", "film"]
SECOND = ["sat", "fell", "rose", "won", "orbit", "loved", "hated", "match", "markets", "chip"]
SECOND += ["scored", "mat", "World", "Sports", "Business"]
POLITE = ["please", "could", "you", "now", "help", "me", "today", "again"]


def write_intents(path: Path, labels: int, rows_per_label: int) -> None:
    """Rows with labels of two words that the tests' tokenizer knows."""
    draw = random.Random(0)
    names = [(first, second) for first in FIRST for second in SECOND][:labels]
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "intent"])
        for _ in range(rows_per_label):
            for first, second in names:
                polite = " ".join(draw.sample(POLITE, 4))
                writer.writerow([f"{polite} {first} the {second}", f"{first} {second}"])


@pytest.mark.slow
@pytest.mark.parametrize("labels", [77, 150])
def test_many_intents(
    labels: int,
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model"
    shutil.copytree(model_folders["llama"], model)
    config = read_json(model / "config.json")
    write_json(model / "config.json", {**config, "max_position_embeddings": 16384})
    write_intents(tmp_path / "intents.csv", labels, 6)
    recipe = prooftune.init(tmp_path / "intents.csv", tmp_path / "intents.yaml").recipe
    written = recipe.read_text("utf-8").splitlines(keepends=True)
    # The embedding variant would download its model.
    recipe.write_text("".join(line for line in written if "embedding:" not in line), "utf-8")
    # The tests' tokenizer makes three times the tokens of the default model's.
    overrides = [
        f"model.name={model}",
        "model.dtype=float32",
        "prompt.max_length=2048",
        "training.max_steps=2",
        "training.per_device_train_batch_size=4",
        "evaluation.resamples=100",
        "data.limit.test=40",
        "data.limit.validation=20",
        "data.limit.train=150",
        "variants.prompted.validation_rows=10",
    ]
    report = prooftune.check(recipe, overrides)
    assert report.ok and len(report.study.labels) == labels
    assert [e.name for e in report.estimates or []] == [
        "zero-shot",
        "few-shot",
        "prompted",
        "tuned",
    ]
    result = prooftune.run(recipe, tmp_path / "run", overrides)
    assert result.folder == tmp_path / "run"
    few_shot = read_json(tmp_path / "run/variants/few-shot/rendering.json")
    assert few_shot["labels_once"] and len(few_shot["shots"]) == 4
    scores = read_json(tmp_path / "run/report.json")
    assert set(scores["variants"]) >= {"majority", "tfidf", "zero-shot", "few-shot", "prompted"}
