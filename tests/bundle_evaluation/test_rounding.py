"""Answers that differ between single rows and batches, computed again in float32."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prooftune
from bundle.making import LABELS, changed, load_classifier, make_bundle
from conftest import WORDS
from prooftune.bundle import golden
from prooftune.bundle.classifier import LabelPrediction
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.bundle_evaluation.batching_table import batching_table
from prooftune.bundle_evaluation.measured_table import TableRequest
from prooftune.bundle_evaluation.rounding import (
    RoundingFacts,
    check_rounding,
    rounding_sentences,
)
from prooftune.utils.files import read_json

TEXTS = [{"text": text} for text in ("goal scored match", "planet orbit", "markets fell")]


@pytest.fixture(scope="module")
def bundle(wide_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("rounding"), wide_model_folder)


@pytest.mark.slow
def test_labels_are_attributed_to_the_single_row_or_the_batch(bundle: Path) -> None:
    predictions = load_classifier(bundle).predict(TEXTS)
    own = [p.label for p in predictions]
    other = [next(label for label in LABELS if label != mine) for mine in own]
    third = next(label for label in LABELS if label not in (own[2], other[2]))
    # The first row's batch was wrong, the second's single row; the third differs from both.
    report = check_rounding(bundle, TEXTS, [own[0], other[1], other[2]], [other[0], own[1], third])
    assert report is not None
    assert (report["n"], report["same"], report["sequential"], report["batched"]) == (3, 3, 1, 1)
    ratio = predictions[0].probabilities[own[0]] / predictions[0].probabilities[other[0]]
    assert report["gaps"][0] == pytest.approx(torch.tensor(ratio).log().item(), rel=1e-3)


@pytest.mark.slow
def test_the_gap_of_answers_is_that_of_their_first_different_tokens(
    wide_model_folder: Path, tmp_path: Path
) -> None:
    folder = make_bundle(
        tmp_path, wide_model_folder, task="free-text-qa", prompt={"max_length": 128}
    )
    loaded = prooftune.load(folder)
    assert isinstance(loaded, QuestionAnswerer)
    row = {"context": "goal scored match", "question": "planet"}
    first, second = "goal planet", "goal match"
    report = check_rounding(folder, [row], [first], [second])
    assert report is not None and report["n"] == 1 and report["batched"] == 0
    [prompt] = loaded.encoder.sliding_windows(row)
    ids = [loaded.encoder.encode_answer(text) for text in (first, second)]
    at = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    assert at > 0
    tokens = torch.tensor([[*loaded.encoder.prefix, *prompt.token_ids, *ids[0][:at]]])
    with torch.inference_mode():
        log_probs = loaded.model(input_ids=tokens).logits[0, -1].log_softmax(0)
    expected = abs(log_probs[ids[0][at]] - log_probs[ids[1][at]]).item()
    assert report["gaps"] == pytest.approx([expected], abs=1e-4)
    assert loaded.predict([row])[0].answer not in (first, second)


def no_loading(*args: object, **options: object) -> None:
    raise AssertionError("the bundle was loaded again")


@pytest.mark.slow
def test_quantized_weights_are_not_computed_in_float32(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = changed(bundle, tmp_path / "bundle", quantization={"load_in_8bit": True})
    # The manifest suffices; a large bundle takes minutes to load.
    monkeypatch.setattr(golden, "load", no_loading)
    assert check_rounding(copy, TEXTS, ["World"] * 3, ["Sports"] * 3) is None


def texts_file(path: Path) -> str:
    path.write_text("text,label\n" + "".join(f"{row['text']},World\n" for row in TEXTS), "utf-8")
    return str(path)


@pytest.mark.slow
def test_answers_of_a_float32_bundle_are_not_computed_again(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = TableRequest(bundle, texts_file(tmp_path / "new.csv"))
    assert batching_table(request).facts["rounding"] is None  # all answers agree

    loaded, calls = load_classifier(bundle), list[int]()
    usual = loaded.predict
    first = usual(TEXTS)[0]
    other = next(label for label in LABELS if label != first.label)

    def predict(rows: Sequence[dict[str, str]], **options: Any) -> list[LabelPrediction]:
        """A fault: in a batch, the first row has another label."""
        calls.append(len(rows))
        made = usual(rows, **options)
        return [replace(made[0], label=other), *made[1:]] if len(rows) > 1 else made

    monkeypatch.setattr(loaded, "predict", predict)
    monkeypatch.setattr("prooftune.bundle_evaluation.batching_table.load", lambda _: loaded)
    monkeypatch.setattr(golden, "load", no_loading)
    measured = batching_table(request)
    # One row to warm up, then single rows and the batch.
    assert calls == [1, 1, 1, 1, 3]
    assert measured.facts["dtype"] == "float32"
    probabilities = first.probabilities
    gap = abs(np.log(probabilities[first.label] / probabilities[other]))
    assert measured.facts["rounding"] == {
        "n": 1,
        "same": 0,
        "sequential": 0,
        "batched": 0,
        "gaps": [pytest.approx(gap, rel=1e-3)],
    }
    remarks = " ".join(measured.document.remarks)
    assert (
        "1 row has two answers even in float32" in remarks and "one answer both ways" not in remarks
    )


@pytest.mark.slow
def test_a_bundle_in_bfloat16_has_one_answer_in_float32(
    wide_model_folder: Path, tmp_path: Path
) -> None:
    """A random model writes on for twelve tokens, of which some are nearly equally likely."""
    made = make_bundle(tmp_path, wide_model_folder, task="free-text-qa", prompt={"max_length": 128})
    model = {**read_json(made / "bundle.json")["model"], "dtype": "bfloat16"}
    folder, draw = changed(made, tmp_path / "bfloat16", model=model), random.Random(0)
    rows = [
        {
            "context": " ".join(draw.choices(WORDS[:40], k=draw.randint(3, 30))),
            "question": " ".join(draw.choices(WORDS[:40], k=4)),
            "answers": "goal",
        }
        for _ in range(30)
    ]
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    measured = batching_table(TableRequest(folder, str(file)))
    facts, rounding = measured.facts, measured.facts["rounding"]
    assert facts["dtype"] == "bfloat16" and facts["same"] < 1
    differing = round(30 * (1 - facts["same"]))
    assert (rounding["n"], rounding["same"]) == (differing, differing)
    remarks = " ".join(measured.document.remarks)
    assert "which bfloat16 rounds differently" in remarks
    assert "have one answer both ways" in remarks and "even in float32" not in remarks


def test_what_the_figures_mean() -> None:
    facts: RoundingFacts = {"n": 12, "same": 12, "sequential": 2, "batched": 7, "gaps": [0.01, 0.1]}
    said = " ".join(rounding_sentences(facts, "bfloat16"))
    assert (
        "bfloat16" in said and "In float32, all 12 of these rows have one answer both ways" in said
    )
    assert "the single row's for 2, the batch's for 7, a third one for 3" in said
    assert "0.055 nats (median; at most 0.100)" in said and "report" not in said
    said = " ".join(rounding_sentences({**facts, "same": 11}, "bfloat16"))
    assert "In float32, 11 of these 12 rows" in said and "1 row has two answers" in said
    assert "was not checked" in rounding_sentences(None, "bfloat16")[1]
