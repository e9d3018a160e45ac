"""The verdict says what happened: also that tuning lost, or that nobody can tell."""

from typing import Any

import pytest

from evaluation import synthetic
from prooftune.evaluation.scores import score
from prooftune.recipe import Evaluation


def judge(n: int = 400, **skills: float) -> Any:
    kinds = {
        "majority": "majority",
        "tfidf": "tfidf",
        "zero": "zero-shot",
        "few": "few-shot",
        "prompted": "prompted",
        "bert": "encoder",
        "lora": "tuned",
        "dora": "tuned",
    }
    study = synthetic.study(n)
    results = synthetic.results(
        study, {name: (kinds[name], skill) for name, skill in skills.items()}
    )
    verdict: Any = score(study, results, Evaluation(resamples=200), seed=0)["verdict"]
    return verdict


def test_wins_over_all() -> None:
    verdict = judge(majority=0, tfidf=1.5, zero=0.5, few=1.0, lora=3.5)
    assert verdict["outcome"] == "wins"
    assert verdict["headline"] == "Fine-tuning helped."
    assert verdict["beats"] == {"zero_shot": True, "prompt": True, "tfidf": True}
    assert verdict["winner"] == verdict["best_tuned"] == "lora"
    assert "beats zero (by " in verdict["sentence"] and "p < 0.001" in verdict["sentence"]
    assert "of 400 test examples" in verdict["sentence"]


def test_loses_to_tfidf_is_said_first() -> None:
    verdict = judge(tfidf=3.5, zero=0.3, lora=1.5)
    assert verdict["outcome"] == "loses"
    assert verdict["headline"] == "Fine-tuning did not pay: tfidf is better."
    assert verdict["beats"] == {"zero_shot": True, "prompt": None, "tfidf": False}
    assert verdict["winner"] == "tfidf"
    assert verdict["sentence"].index("loses to tfidf") < verdict["sentence"].index("beats zero")


def test_an_encoder_that_wins_is_fine_tuned_too() -> None:
    verdict = judge(tfidf=2.5, bert=3.5, lora=0.5)
    assert verdict["headline"] == (
        "Fine-tuning the language model did not pay: tfidf and bert are better."
    )
    both = judge(bert=3.5, lora=0.5, dora=0.4)
    assert both["headline"] == "Fine-tuning the language model did not pay: bert is better."


def test_a_sentence_of_three_outcomes_has_one_but() -> None:
    verdict = judge(tfidf=3.5, zero=0.3, few=1.5, lora=1.5)
    first, second = verdict["sentence"].split("; it cannot be told apart from few")
    assert "loses to tfidf" in first and ", but beats zero" in first
    assert ", but" not in second


def test_cannot_tell_names_the_smallest_difference_that_could_have_shown() -> None:
    verdict = judge(n=60, tfidf=1.5, zero=1.4, lora=1.5)
    assert verdict["outcome"] == "undecided"
    assert "made no difference that this test set can show" in verdict["headline"]
    assert "cannot be told apart from" in verdict["sentence"]
    smallest = max(a["minimum_detectable_difference"] for a in verdict["against"])
    found = f"a true difference of {100 * smallest:.1f} points from zero or tfidf would have been"
    assert f"{found} found with a probability of 80%" in verdict["sentence"]


def test_mixed_beats_one_and_not_another() -> None:
    verdict = judge(n=300, tfidf=2.9, zero=0.2, lora=3.0)
    assert verdict["outcome"] == "mixed"
    assert verdict["headline"] == "lora beats zero, but cannot be told apart from tfidf."
    assert verdict["beats"]["zero_shot"] is True and verdict["beats"]["tfidf"] is False


def test_nothing_tuned() -> None:
    verdict = judge(tfidf=2.5, zero=0.3, few=1.0)
    assert verdict["outcome"] == "not-tuned"
    assert verdict["best_tuned"] is None and verdict["beats"] is None
    assert verdict["winner"] == "tfidf"
    assert verdict["headline"] == "Nothing was fine-tuned; tfidf is the best so far."
    assert verdict["sentence"].startswith("Of the variants that were run, tfidf labels")
    assert "beats few" in verdict["sentence"]


def test_a_fine_tuned_encoder_is_not_called_untuned() -> None:
    best = judge(tfidf=0.5, bert=3.5)
    assert best["headline"] == "bert, a fine-tuned encoder, is the best so far."
    other = judge(tfidf=3.5, bert=0.5)
    assert other["headline"] == "No language model was fine-tuned; tfidf is the best so far."
    assert judge(bert=2)["headline"] == "bert, a fine-tuned encoder, is the only variant."


def test_a_single_variant_claims_nothing() -> None:
    assert judge(lora=2)["outcome"] == "alone"
    assert judge(zero=2)["headline"] == "Nothing was fine-tuned; zero is the only variant."


def test_worse_than_the_majority_class_is_news() -> None:
    """With nothing learned the majority class is no formality: it appears among the references."""
    verdict = judge(majority=0, zero=0.0, lora=0.05)
    assert "majority" in [a["variant"] for a in verdict["against"]]
    assert verdict["outcome"] != "wins"


def test_the_majority_class_is_named_where_the_untuned_model_is_worse() -> None:
    """To beat a model that is worse than saying one label always is nothing to be proud of."""
    verdict = judge(majority=0, zero=-2.0, prompted=-1.0, lora=3.5)
    assert [a["variant"] for a in verdict["against"]] == ["zero", "prompted", "majority"]
    assert "majority (by " in verdict["sentence"]
    assert [a["variant"] for a in judge(majority=0, tfidf=1.5, lora=3.5)["against"]] == ["tfidf"]


@pytest.mark.slow
def test_the_best_of_several_tuned_variants_and_prompts_is_judged() -> None:
    verdict = judge(zero=0.3, few=0.6, prompted=1.4, lora=2.0, dora=3.5)
    assert verdict["best_tuned"] == "dora"
    assert [a["variant"] for a in verdict["against"]] == ["zero", "prompted"]
    assert verdict["baseline"] == "zero"


def test_without_zero_shot_the_best_prompt_is_the_baseline() -> None:
    assert judge(few=0.6, prompted=1.4, lora=2.0)["baseline"] == "prompted"


@pytest.mark.parametrize("seed", range(3))
def test_no_verdict_between_equals(seed: int) -> None:
    """Two variants of the same skill: chance alone must not make a winner."""
    study = synthetic.study(200, seed=seed)
    results = [
        synthetic.result(study, "zero", "zero-shot", 1.5, seed=seed),
        synthetic.result(study, "lora", "tuned", 1.5, seed=seed + 50),
    ]
    assert (
        score(study, results, Evaluation(resamples=100), seed=0)["verdict"]["outcome"]
        == "undecided"
    )


def test_of_several_tuned_variants_the_best_on_validation_is_judged() -> None:
    """The better one on test must not be chosen by the test rows that judge it."""
    study = synthetic.study(300)
    good = synthetic.result(study, "good", "tuned", 3.0, seed=1)
    lucky = synthetic.result(study, "lucky", "tuned", 3.5, seed=2)
    unlucky = synthetic.result(study, "x", "tuned", 1.0, seed=3).validation
    lucky = type(lucky)("lucky", "tuned", lucky.test, unlucky, {}, lucky.folder)
    verdict = score(
        study,
        [good, lucky, synthetic.result(study, "zero", "zero-shot", 0.5, seed=9)],
        Evaluation(resamples=100),
        seed=0,
    )["verdict"]
    assert (verdict["best_tuned"], verdict["winner"]) == ("good", "lucky")
    assert "of 2 tuned variants the one that ships" in verdict["sentence"]
