"""The call that compares whole lists."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from prooftune.errors import UsageError
from prooftune.evaluation.answers import bertscore as bertscores
from prooftune.evaluation.answers.bertscore import BertScores
from prooftune.evaluation.similarity import SimilarityEvaluator

CANDIDATES = ["the cat sat on the mat", "no", "ten years of documents are kept"]
REFERENCES: list[str | list[str]] = [
    "a cat sat on the mat",
    ["yes", "no"],
    ["documents are kept for ten years", "ten years"],
]


@pytest.fixture(autouse=True)
def _known_bertscore(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(
        predictions: list[str], references: list[list[str]], model: str | None, layer: int | None
    ) -> BertScores:
        n = np.arange(len(predictions), dtype=float)
        return BertScores(n, n + 1, n + 2, f"model:{model}|layer:{layer}", 4)

    monkeypatch.setattr(bertscores, "bertscore", known)


def test_means_and_items_of_whole_lists() -> None:
    got = SimilarityEvaluator(model="m", layer=2).evaluate_similarity(CANDIDATES, REFERENCES)
    assert got["bertscore"] == {"precision": 1, "recall": 2, "f1": 3}
    assert [item["bertscore"]["f1"] for item in got["items"]] == [2, 3, 4]
    # Of 6 words each, "cat sat on the mat" is in both; no; of 6 and 6 words "documents are kept",
    # of 6 and 2 "ten years".
    assert [item["rougeL"] for item in got["items"]] == pytest.approx([5 / 6, 1, 1 / 2])
    assert got["rougeL"] == pytest.approx((5 / 6 + 1 + 1 / 2) / 3)
    sentence = BLEU(effective_order=True)
    listed: list[list[str]] = [[r] if isinstance(r, str) else r for r in REFERENCES]
    singles = [sentence.sentence_score(c, r).score for c, r in zip(CANDIDATES, listed, strict=True)]
    assert [item["bleu"] for item in got["items"]] == pytest.approx(singles)
    assert got["bleu_mean"] == pytest.approx(np.mean(singles))
    second: list[Any] = [None, "no", "ten years"]
    whole = BLEU().corpus_score(CANDIDATES, [[r[0] for r in listed], second])
    assert got["bleu"] == pytest.approx(whole.score)
    assert (
        got["signatures"]["bertscore"] == "model:m|layer:2"
        and "nrefs:var" in got["signatures"]["bleu"]
    )
    assert got["shortened"] == 4


def test_three_means_of_one_scale_can_be_unpacked() -> None:
    scores = SimilarityEvaluator().evaluate_similarity(CANDIDATES, REFERENCES)
    bert, bleu, rouge = scores
    assert (bert, rouge) == (3, scores["rougeL"])
    assert 0 < bleu < 1 and bleu == pytest.approx(scores["bleu"] / 100)
    assert (scores.bert, scores.bleu, scores.rouge) == tuple(scores) == (bert, bleu, rouge)
    assert dict(scores) == scores.details and scores["items"]
    assert scores.get("none", 0) == 0 and scores[1] == bleu
    assert pickle.loads(pickle.dumps(scores)).details == scores.details


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ("text", ["text"], r"write \[text\], \[text\]"),
        (["text"], "text", r"write \[text\], \[text\]"),
        (["a", "b"], ["a"], "2 candidates and 1 references"),
        ([], [], "no candidates"),
        (["a", "b"], ["a", []], r"item 1 .* it has 'b' and \[\]"),
        (["a"], [[None]], r"item 0 .* \[None\]"),
        ([None], ["a"], "item 0 .* None"),
    ],
)
def test_bad_lists_are_said(candidates: Any, references: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SimilarityEvaluator().evaluate_similarity(candidates, references)


def test_folder_for_the_encoder_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"no config\.json"):
        SimilarityEvaluator(model=str(tmp_path)).evaluate_similarity(["a"], ["a"])
