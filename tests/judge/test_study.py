"""The judge's stage of a study, with a real (tiny) model as the judge: what cannot be read is
counted, nothing is asked twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prooftune.chat_client.types import Message
from prooftune.evaluation.answers.scores import score_answers
from prooftune.evaluation.score_types import Scores
from prooftune.judge import local
from prooftune.judge.study import judge_study, warn_if_unreachable
from prooftune.recipe import Judge, parse
from prooftune.types import Example, Prediction, Study, VariantResult


def made_up() -> tuple[Any, Study, list[VariantResult], Scores]:
    chosen = parse(
        {
            "name": "q",
            "task": "free-text-qa",
            "data": {"train": "q.csv"},
            "evaluation": {"resamples": 200},
            "variants": {"majority": None, "zero-shot": None, "tuned": None},
        }
    )
    examples = [
        Example(f"q{i}", {"question": f"what is planet {i}"}, "orbit", references=("orbit",))
        for i in range(6)
    ]
    study = Study([], [], examples, [])
    results = [
        VariantResult(
            kind, kind, [Prediction(e.id, f"{kind} orbit") for e in examples], [], {}, Path()
        )
        for kind in chosen.variants
    ]
    return chosen, study, results, score_answers(study, results, chosen)


def test_local_judge_scores_every_model_variant(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, study, results, scores = made_up()
    settings = Judge(
        model=str(model_folders["llama3"]),
        criteria={"correctness": "Is it true?"},
        max_tokens=8,
        rows=4,
    )
    prompt = judge_study(chosen, settings, study, results, scores, tmp_path / "judge", tmp_path)
    assert list(prompt["variants"]) == ["zero-shot", "tuned"]  # the majority answer is nobody's
    for figures in prompt["variants"].values():
        [criterion] = figures["criteria"].values()
        assert criterion["n"] + criterion["failed"] == 4
        assert sum(criterion["reasons"].values()) == criterion["failed"]
    [pair] = prompt["pairs"]
    assert (pair["a"], pair["b"]) == ("tuned", "zero-shot")
    assert pair["n"] + pair["failed"] == 4 and pair["p_holm"] >= pair["p"]

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(local, "generate", never)
    assert (
        judge_study(chosen, settings, study, results, scores, tmp_path / "judge", tmp_path)
        == prompt
    )


def test_classification_labels_are_judged(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = parse(
        {
            "name": "c",
            "data": {"train": "c.csv"},
            "evaluation": {"resamples": 200},
            "judge": {
                "model": str(model_folders["llama3"]),
                "criteria": ["correctness"],
                "max_tokens": 4,
            },
            "variants": {"tfidf": None, "zero-shot": None, "tuned": None},
        }
    )
    assert chosen.judge is not None
    examples = [Example(f"t{i}", {"text": f"good film {i}"}, "good") for i in range(6)]
    study = Study([], [], examples, ["bad", "good"])
    labels = {"tfidf": "good", "zero-shot": "bad", "tuned": "good"}
    results = [
        VariantResult(
            kind,
            kind,
            [Prediction(e.id, label, log_probs=(-1.0, -0.5)) for e in examples],
            [],
            {},
            Path(),
        )
        for kind, label in labels.items()
    ]
    shown: list[str] = []

    def judge_of_good(prompts: list[list[Message]]) -> list[str]:
        question = [messages[1]["content"] for messages in prompts]
        shown.extend(question)
        return [
            json.dumps(
                {"winner": "tie"}
                if "answer_a" in text
                else {"score": 5 if ">\ngood\n</answer" in text else 1}
            )
            for text in question
        ]

    monkeypatch.setattr(local, "local_completion_fn", lambda *_: (judge_of_good, "0" * 64))
    scores: Any = {"variants": {kind: {} for kind in labels}, "verdict": {"baseline": "zero-shot"}}
    prompt = judge_study(chosen, chosen.judge, study, results, scores, tmp_path / "judge", tmp_path)
    assert {
        name: v["criteria"]["correctness"]["mean"] for name, v in prompt["variants"].items()
    } == {
        "zero-shot": 1,
        "tuned": 5,
    }
    assert all(
        "good film" in messages
        and "bad, good?" in messages
        and "<reference_answer>\ngood\n" in messages
        for messages in shown
    )


def test_unreachable_endpoint_is_reported_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(
        "prooftune.judge.study.notify", lambda sentence, *_: messages.append(sentence)
    )
    warn_if_unreachable(Judge(model="m", base_url="http://127.0.0.1:9/v1"))
    assert len(messages) == 1 and "no connection to http://127.0.0.1:9/v1" in messages[0]
