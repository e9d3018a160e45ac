"""Facts of made-up studies of questions, scored by the real scorer, with a judge whose verdicts are
drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

from prooftune.evaluation.answers.scores import score_answers
from prooftune.evaluation.score_types import JudgeScores
from prooftune.judge.summary import paired_difference, summarize, summarize_preferences
from prooftune.judge.types import Judgement, Judgements, Preference, Preferences
from prooftune.recipe import Recipe, parse
from prooftune.types import Example, Prediction, Study, VariantResult
from prooftune.utils.files import write_json
from prooftune.variant_details import VariantDetails
from report.studies import ENVIRONMENT, tuned_details

TEXT = (
    "the board of the fund approves annual accounts before member states publish their report on "
    "high risk systems and "
    "providers keep technical documentation for ten years after market placement"
)
WORDS = TEXT.split()
EXTRACTIVE: dict[str, tuple[dict[str, Any], float]] = {
    "majority": ({"kind": "majority"}, 0),
    "zero-shot": ({"kind": "zero-shot"}, 0.2),
    "best-prompt": ({"kind": "prompted"}, 0.35),
    "tuned": ({"kind": "tuned"}, 0.75),
}
POLICY: dict[str, tuple[dict[str, Any], float]] = {
    "base": ({"kind": "zero-shot", "context": "none"}, 0.2),
    "prompted": ({"kind": "prompted", "context": "none"}, 0.25),
    "base-retrieval": ({"kind": "zero-shot", "context": "retrieved"}, 0.5),
    "tuned": ({"kind": "tuned", "context": "none"}, 0.45),
    "tuned-retrieval": ({"kind": "tuned", "context": "retrieved"}, 0.7),
    "oracle": ({"kind": "tuned", "adapter": "tuned", "context": "gold"}, 0.95),
    "random": ({"kind": "tuned", "adapter": "tuned", "context": "random"}, 0.15),
}
CRITERIA = ("coherence", "correctness")


def facts(
    task: str = "extractive-qa",
    variants: Mapping[str, tuple[dict[str, Any], float]] = EXTRACTIVE,
    n: int = 120,
    unanswerable: float = 0.3,
    validation: int = 60,
    judged: bool = False,
    texts: str = "",
    name: str = "made-up",
) -> dict[str, Any]:
    """A whole study's facts.

    Args:
        task, variants: of the recipe; variants as name -> (options, share answered well).
        n, validation: test and validation questions.
        unanswerable: share of them that has no answer.
        judged: adds a judge's figures.
        texts: put in front of every question and answer.
        name: of the study.
    """
    recipe = _recipe(task, {key: options for key, (options, _) in variants.items()})
    study = Study(
        [],
        _questions("dev", validation, unanswerable, texts),
        _questions("test", n, unanswerable, texts),
        [],
    )
    with TemporaryDirectory() as index:
        results = [
            _result(study, recipe, key, skill, number, Path(index), texts)
            for number, (key, (_, skill)) in enumerate(variants.items())
        ]
        scores = score_answers(study, results, recipe)
    if judged:
        scores["judge"] = judge(list(variants), n)
    return {
        "name": name,
        "recipe": f"name: {name}\n",
        "scores": scores,
        "seed": 0,
        "notes": [],
        "environment": ENVIRONMENT,
        "audit": _audit(study),
        "variants": {r.name: {"kind": r.kind, **r.details} for r in results},
    }


def _recipe(task: str, variants: dict[str, Any]) -> Recipe:
    searches = any(v.get("context") in ("retrieved", "gold", "random") for v in variants.values())
    return parse(
        {
            "name": "made-up",
            "task": task,
            "data": {"train": "questions.json"},
            "variants": variants,
            "evaluation": {"resamples": 200},
            **({"retrieval": {"documents": "documents"}} if searches else {}),
        }
    )


def _questions(split: str, n: int, unanswerable: float, texts: str) -> list[Example]:
    rng = np.random.default_rng(len(split))
    result = []
    for i in range(n):
        start, length = int(rng.integers(0, len(WORDS) - 5)), int(rng.integers(1, 5))
        answer = f"{texts} {' '.join(WORDS[start : start + length])}".strip()
        references = () if i < unanswerable * n else (answer, f"{answer} indeed")
        context = f"{TEXT} {answer}"
        result.append(
            Example(
                f"{split}.json:{i}",
                {"question": f"{texts} What is number {i}?".strip(), "context": context},
                references[0] if references else "",
                references=references,
                gold=(f"doc:{i}",),
            )
        )
    return result


def _result(
    study: Study, recipe: Recipe, name: str, skill: float, number: int, index: Path, texts: str
) -> VariantResult:
    variant = recipe.variants[name]
    rng = np.random.default_rng(number)
    folder = index / name
    passages = {
        f"c{i}": {
            "key": f"doc:{i}",
            "document": "rules.pdf",
            "page": i,
            "section": None,
            "text": f"{texts} {' '.join(WORDS[i % 10 :])}",
        }
        for i in range(len(study.test) + 3)
    }
    searches = variant.context in ("retrieved", "gold", "random")
    if searches:
        write_json(folder / "passages.json", passages)
    both = [
        [
            _prediction(e, i, variant.kind, skill, rng, recipe.task, searches)
            for i, e in enumerate(part)
        ]
        for part in (study.test, study.validation)
    ]
    details: VariantDetails = {
        "description": f"variant {name}",
        "cost": {
            "train_seconds": 0.0,
            "score_seconds": 40.0,
            "score_tokens": 9000,
            "generated_tokens": 1200,
        },
    }
    if variant.kind == "prompted":
        details["prompts_tried"] = [
            {
                "template": f"Q{i}: {{question}}",
                "quality": q,
                "measure": "F1",
                "rows": 60,
                "tokens": t,
            }
            for i, (q, t) in enumerate(((0.41, 200.0), (0.45, 150.0)))
        ]
    if variant.kind == "tuned" and variant.adapter is None:
        cost = details["cost"]
        details.update(cast(VariantDetails, tuned_details(bool(study.validation))))
        details["cost"] = cost
    if variant.context == "retrieved":
        details["retrieval"] = {
            "n": 100,
            "without_gold": 20,
            "recall@3": _figure(0.61),
            "recall@10": _figure(0.8),
            "MRR@10": _figure(0.5),
            "nDCG@10": _figure(0.57),
        }
    return VariantResult(name, variant.kind, both[0], both[1], details, folder)


def _figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.0625, "high": value + 0.0525}


def _prediction(
    example: Example,
    i: int,
    kind: str,
    skill: float,
    rng: np.random.Generator,
    task: str,
    shown: bool,
) -> Prediction:
    if kind == "majority":
        return Prediction(example.id, "")
    right = bool(rng.random() < skill)
    text = example.target if right and example.target else " ".join(rng.choice(WORDS, size=3))
    gap = float(rng.normal(2.0 if not example.references else -2.0, 3.0 * (1.2 - skill)))
    extracts = task == "extractive-qa"
    cites = shown and rng.random() < 0.7
    return Prediction(
        example.id,
        "" if extracts and gap > 0 else str(text),
        valid=not extracts or i % 17 != 0,
        prompt_tokens=75,
        raw=str(text),
        generated_tokens=4,
        answer_log_prob=-3.0,
        no_answer_log_prob=-3.0 + gap if extracts else None,
        windows=2 if i % 40 == 1 else 1,
        retrieved=(f"c{i}", f"c{i + 1}") if shown else (),
        cited=((f"c{i}",) if right else (f"c{i + 1}",)) if cites else (),
        unknown_citations=int(shown and i % 30 == 0),
    )


def judge(names: Sequence[str], n: int) -> JudgeScores:
    """Judgements of every variant, some failed, the last compared with the first; two variants
    scored by people as well."""
    rng = np.random.default_rng(5)
    judged = {name: _judgements(rng, n) for name in names}
    human = {
        (str(i), criterion): int(rng.integers(1, 6))
        for i in range(0, n, 3)
        for criterion in CRITERIA
    }
    first, last = names[0], names[-1]
    preferences = [
        Preference(str(i), None, failure="timed out")
        if i % 25 == 0
        else Preference(
            str(i), "first" if i % 3 else "tie", "first", "first" if i % 3 else "second"
        )
        for i in range(n)
    ]
    pair = summarize_preferences(Preferences("judge-8b", preferences, n, n, 0, n), resamples=200)
    return {
        "variants": {
            name: summarize(result, human if name in (first, last) else None, resamples=200)
            for name, result in judged.items()
        },
        "pairs": [{"a": last, "b": first, **pair, "p_holm": pair["p"]}],
        "differences": [
            {
                "a": last,
                "b": first,
                "criteria": paired_difference(judged[last], judged[first], resamples=200),
            }
        ],
    }


def _judgements(rng: np.random.Generator, n: int) -> Judgements:
    every = [
        Judgement(str(i), c, None, "no score in the reply")
        if rng.random() < 0.05
        else Judgement(str(i), c, int(rng.integers(2, 6)))
        for i in range(n)
        for c in CRITERIA
    ]
    return Judgements("judge-8b", CRITERIA, (1, 5), every, n, n, 0, 2 * n)


def _audit(study: Study) -> dict[str, Any]:
    balance = {
        split: {s: sum(e.stratum == s for e in examples) for s in study.strata()}
        for split, examples in (("validation", study.validation), ("test", study.test))
        if examples
    }
    return {
        "findings": [],
        "balance": balance,
        "rows": {split: sum(c.values()) for split, c in balance.items()},
        "lengths": {},
        "truncation": {},
    }
