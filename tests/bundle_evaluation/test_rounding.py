"""Answers that differ between single rows and batches, computed again in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import prooftune
from bundle.making import LABELS, load_classifier, make_bundle
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.bundle_evaluation.batching_table import batching_table
from prooftune.bundle_evaluation.measured_table import TableRequest
from prooftune.bundle_evaluation.rounding import (
    RoundingFacts,
    check_rounding,
    rounding_sentences,
)
from prooftune.utils.files import read_json, write_json

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
    found = check_rounding(bundle, TEXTS, [own[0], other[1], other[2]], [other[0], own[1], third])
    assert found is not None
    assert (found["n"], found["same"], found["sequential"], found["batched"]) == (3, 3, 1, 1)
    ratio = predictions[0].probabilities[own[0]] / predictions[0].probabilities[other[0]]
    assert found["gaps"][0] == pytest.approx(torch.tensor(ratio).log().item(), rel=1e-3)


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
    found = check_rounding(folder, [row], [first], [second])
    assert found is not None and found["n"] == 1 and found["batched"] == 0
    [prompt] = loaded.encoder.sliding_windows(row)
    ids = [loaded.encoder.encode_answer(text) for text in (first, second)]
    at = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    assert at > 0
    tokens = torch.tensor([[*loaded.encoder.prefix, *prompt.token_ids, *ids[0][:at]]])
    with torch.inference_mode():
        log_probs = loaded.model(input_ids=tokens).logits[0, -1].log_softmax(0)
    expected = abs(log_probs[ids[0][at]] - log_probs[ids[1][at]]).item()
    assert found["gaps"] == pytest.approx([expected], abs=1e-4)
    assert loaded.predict([row])[0].answer not in (first, second)


@pytest.mark.slow
def test_quantized_weights_are_not_computed_in_float32(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    facts = read_json(copy / "bundle.json")
    write_json(copy / "bundle.json", {**facts, "quantization": {"load_in_8bit": True}})
    assert check_rounding(copy, TEXTS, ["World"] * 3, ["Sports"] * 3) is None


@pytest.mark.slow
def test_a_bundle_in_bfloat16_names_rounding_where_answers_differ(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new.csv"
    file.write_text(
        "text,label\n" + "".join(f"{row['text']},World\n" for row in TEXTS), encoding="utf-8"
    )
    request = TableRequest(bundle, str(file))
    assert batching_table(request).facts["rounding"] is None  # all answers agree
    from prooftune.bundle_evaluation import batching_table as module

    numbered = iter(range(100))
    monkeypatch.setattr(module, "output_of", lambda prediction: f"{next(numbered)}")
    measured = batching_table(request)
    rounding = measured.facts["rounding"]
    assert measured.facts["dtype"] == "float32"
    # Float32's own two labels agree, and neither is one of the numbers.
    assert (rounding["n"], rounding["same"], rounding["sequential"]) == (3, 3, 0)
    assert "all 3 of these rows have one answer" in " ".join(measured.document.remarks)


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
