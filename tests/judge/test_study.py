"""The judge's stage of a study, with a real (tiny) model as the judge: what cannot be read is counted, nothing is asked twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prooftune.evaluation.answers.scores import score_answers
from prooftune.judge import local
from prooftune.judge.study import judge_study
from prooftune.recipe import Judge, parse
from prooftune.records import Example, Prediction, Study, VariantResult


def made_up() -> tuple[Any, Study, list[VariantResult], dict[str, Any]]:
    chosen = parse({"name": "q", "task": "free-text-qa", "data": {"train": "q.csv"}, "evaluation": {"resamples": 200},
                    "variants": {"majority": None, "zero-shot": None, "tuned": None}})
    examples = [Example(f"q{i}", {"question": f"what is planet {i}"}, "orbit", references=("orbit",)) for i in range(6)]
    study = Study([], [], examples, [])
    results = [VariantResult(kind, kind, [Prediction(e.id, f"{kind} orbit") for e in examples], [], {}, Path())
               for kind in chosen.variants]
    return chosen, study, results, score_answers(study, results, chosen)


def test_a_local_model_judges_every_variant_that_a_model_gave(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, study, results, scores = made_up()
    settings = Judge(model=str(model_folders["llama3"]), criteria={"correctness": "Is it true?"}, max_tokens=8, rows=4)
    told = judge_study(chosen, settings, study, results, scores, tmp_path / "judge", tmp_path)
    assert list(told["variants"]) == ["zero-shot", "tuned"]  # the majority answer is nobody's
    for figures in told["variants"].values():
        [criterion] = figures["criteria"].values()
        assert criterion["n"] + criterion["failed"] == 4
        assert sum(criterion["reasons"].values()) == criterion["failed"]
    [pair] = told["pairs"]
    assert (pair["a"], pair["b"]) == ("tuned", "zero-shot")
    assert pair["n"] + pair["failed"] == 4 and pair["p_holm"] >= pair["p"]

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(local, "generate", never)
    assert judge_study(chosen, settings, study, results, scores, tmp_path / "judge", tmp_path) == told
