"""Scores of a study of questions: what is chosen on validation and only applied to test, and who is
compared with whom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune.errors import Failure
from prooftune.evaluation.answers.no_answer import final_outputs
from prooftune.evaluation.answers.scores import score_answers
from prooftune.evaluation.resampling import resample_counts, resampled
from prooftune.evaluation.significance import permutation_p
from prooftune.recipe import Recipe, parse
from prooftune.types import Example, Prediction, Study, VariantResult


def questions(split: str, n: int) -> list[Example]:
    """Every second question has an answer: the word with its number."""
    return [
        Example(
            f"{split}{i}",
            {"question": f"which {i}", "context": f"word{i} here"},
            f"word{i}" if i % 2 else "",
            references=(f"word{i}",) if i % 2 else (),
        )
        for i in range(n)
    ]


def predictions(examples: Sequence[Example], gap: float, wrong: int = 0) -> list[Prediction]:
    """Right answers, surer by 2 nats where there is one, all shifted by `gap`; the first `wrong`
    answers are wrong."""
    found = []
    for i, e in enumerate(examples):
        raw = "nothing" if i < wrong else f"word{e.id.lstrip('abcdefghijklmnopqrstuvwxyz')}"
        no_answer = gap + (-1.0 if e.references else 1.0)
        found.append(
            Prediction(
                e.id,
                "" if no_answer > 0 else raw,
                raw != "nothing",
                raw=raw,
                answer_log_prob=0.0,
                no_answer_log_prob=no_answer,
            )
        )
    return found


def recipe(variants: dict[str, Any], task: str = "extractive-qa") -> Recipe:
    values = {
        "name": "q",
        "task": task,
        "data": {"train": "q.json"},
        "variants": variants,
        "evaluation": {"resamples": 200},
    }
    return parse(
        {**values, **({"retrieval": {"documents": "d"}} if "context" in str(variants) else {})}
    )


def scored(
    gaps: dict[str, tuple[float, float]], chosen: Recipe, validation: int = 20, wrong: int = 0
) -> Any:
    """Scores of variants whose no-answer scores are shifted by (on validation, on test)."""
    study = Study([], questions("v", validation), questions("t", 40), [])
    results = [
        VariantResult(
            name,
            chosen.variants[name].kind,
            predictions(study.test, on_test, wrong),
            predictions(study.validation, on_validation),
            {},
            Path(),
        )
        for name, (on_validation, on_test) in gaps.items()
    ]
    return score_answers(study, results, chosen)


def test_the_threshold_comes_from_validation_and_is_only_applied_to_test() -> None:
    chosen = recipe({"zero-shot": None, "tuned": None})
    scores = scored({"zero-shot": (5.0, 5.0), "tuned": (5.0, -5.0)}, chosen)
    told = scores["variants"]
    # Both say "no answer" too much on validation; where test is like it the threshold puts
    # everything right.
    assert told["zero-shot"]["metrics"]["f1"]["value"] == 1.0
    assert told["zero-shot"]["no_answer"]["f1_without"] == 0.5
    assert told["zero-shot"]["no_answer"]["has_answer_f1_without"] == 0.0
    assert told["zero-shot"]["no_answer"]["has_answer_f1_always"] == 1.0
    # A shift changes which side of the threshold they are on, not their order.
    assert told["zero-shot"]["no_answer"]["auroc"] == told["tuned"]["no_answer"]["auroc"]
    assert told["tuned"]["no_answer"]["auroc"]["value"] == 1.0
    # Where test is unlike it, the same threshold answers everything: nothing was chosen on test.
    assert told["tuned"]["metrics"]["has_answer_f1"]["value"] == 1.0
    assert told["tuned"]["metrics"]["no_answer_f1"]["value"] == 0.0
    assert told["tuned"]["no_answer"]["best_f1_on_test"] == 1.0
    assert told["tuned"]["no_answer"]["value"] == told["zero-shot"]["no_answer"]["value"]


def test_without_validation_answers_stay_as_the_model_gave_them() -> None:
    scores = scored({"zero-shot": (0.0, 5.0)}, recipe({"zero-shot": None}), validation=0)
    assert scores["variants"]["zero-shot"]["no_answer"]["value"] == 0
    assert scores["variants"]["zero-shot"]["abstained"] == 40
    assert scores["variants"]["zero-shot"]["validation_quality"] is None


def test_counts_are_of_final_answers() -> None:
    told = scored({"zero-shot": (-9.0, -9.0)}, recipe({"zero-shot": None}), wrong=8)["variants"][
        "zero-shot"
    ]
    # With the threshold, the wrong ones of the 20 with an answer are given, those of the others are
    # not.
    assert (told["invalid"], told["abstained"]) == (4, 20)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1), st.floats(-5, 5))
@settings(deadline=None)
def test_a_lower_threshold_never_answers_more(
    pairs: list[tuple[float, float]], threshold: float
) -> None:
    found = [
        Prediction(str(i), "", raw="a", answer_log_prob=a, no_answer_log_prob=b)
        for i, (a, b) in enumerate(pairs)
    ]
    lower, higher = (sum(map(bool, final_outputs(found, t))) for t in (threshold, threshold + 1))
    assert lower <= higher


def test_controls_are_compared_with_the_untuned_model_and_its_retrieval_only() -> None:
    chosen = recipe(
        {
            "base": {"kind": "zero-shot"},
            "base+retrieval": {"kind": "zero-shot", "context": "retrieved"},
            "tuned": None,
            "oracle": {"kind": "zero-shot", "context": "gold"},
            "random": {"kind": "zero-shot", "context": "random"},
        }
    )
    scores = scored(dict.fromkeys(chosen.variants, (0.0, 0.0)), chosen)
    assert {(c["a"], c["b"]) for c in scores["comparisons"]} == {
        ("tuned", "base"),
        ("tuned", "base+retrieval"),
        ("base+retrieval", "base"),
        ("oracle", "base"),
        ("oracle", "base+retrieval"),
        ("random", "base"),
        ("random", "base+retrieval"),
    }
    assert {a["variant"] for a in scores["verdict"]["against"]} == {"base", "base+retrieval"}


def test_predictions_of_other_questions_are_refused() -> None:
    study = Study([], [], questions("t", 4), [])
    result = VariantResult(
        "zero-shot", "zero-shot", predictions(study.test, 0)[::-1], [], {}, Path()
    )
    with pytest.raises(Failure, match="only compared on the same examples"):
        score_answers(study, [result], recipe({"zero-shot": None}))


def test_resamples_are_the_counts_times_the_columns() -> None:
    columns = np.random.default_rng(0).normal(size=(30, 3))
    [got] = resampled([columns], 20, seed=7)
    np.testing.assert_allclose(got, resample_counts(30, 20, 7) @ columns)


def test_the_permutation_test_agrees_with_scipys_and_never_says_never() -> None:
    from scipy.stats import permutation_test

    differences = np.random.default_rng(3).normal(0.25, 1, 60)
    wanted = permutation_test(
        (differences,),
        np.sum,
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).pvalue
    assert permutation_p(differences, seed=1, permutations=20_000) == pytest.approx(
        wanted, abs=0.01
    )
    assert permutation_p(np.zeros(5), 0) == 1.0
    assert permutation_p(np.ones(200), 0) == 1 / 10_001
