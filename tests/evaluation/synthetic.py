"""A realistic study made up from a seed: used by the tests of evaluation and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prooftune.types import Example, Prediction, Study, VariantResult

LABELS = ["World", "Sports", "Business", "Sci/Tech"]
TEXTS = [
    "Oil prices climb as storm closes in on refineries along the Gulf coast",
    "Striker signs a three-year deal after protracted negotiations with the club",
    "Talks resume in Geneva while both delegations blame each other for the delay",
    "New chip halves the energy that phones need to recognise speech, researchers say",
    "Retail chain cuts forecast; shares fall 8% before the market opens",
]
VARIANTS: dict[str, tuple[str, float]] = {
    "majority": ("majority", 0.0),
    "tfidf": ("tfidf", 2.1),
    "zero-shot": ("zero-shot", 0.9),
    "few-shot": ("few-shot", 1.5),
    "prompted": ("prompted", 1.3),
    "lora": ("tuned", 2.9),
}


def study(n: int = 500, labels: Sequence[str] = LABELS, seed: int = 0) -> Study:
    """`n` test examples, half as many for validation, with uneven classes."""
    rng = np.random.default_rng(seed)
    share = np.linspace(1.4, 0.6, len(labels)) / len(labels)

    def examples(split: str, count: int) -> list[Example]:
        targets = rng.choice(len(labels), size=count, p=share / share.sum())
        return [
            Example(
                f"{split}.csv:{i + 1}",
                {"text": f"{TEXTS[(i * 7 + t) % len(TEXTS)]} ({i})"},
                labels[t],
                source=f"{split}.csv:{i + 1}",
            )
            for i, t in enumerate(targets)
        ]

    return Study([], examples("validation", n // 2), examples("test", n), list(labels))


def predictions(
    examples: Sequence[Example],
    labels: Sequence[str],
    skill: float,
    seed: int,
    sharpness: float = 1.6,
    invalid: float = 0.0,
) -> list[Prediction]:
    """Predictions from noisy scores: `skill` raises the target's; the probabilities are right at a
    `sharpness` of 1 (where the log-odds of unit normal noise are skill times score) and
    overconfident above.
    """
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(len(examples), len(labels)))
    scores[np.arange(len(examples)), [labels.index(str(e.target)) for e in examples]] += skill
    scores *= sharpness * max(skill, 0.5)
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    bad = rng.random(len(examples)) < invalid
    return [
        Prediction(
            e.id,
            "" if b else labels[int(row.argmax())],
            valid=not b,
            raw="I think so" if b else "",
            log_probs=tuple(row.tolist()),
            prompt_tokens=60,
            truncated_tokens=12 * (i % 50 == 0),
        )
        for i, (e, row, b) in enumerate(zip(examples, log_probs, bad, strict=True))
    ]


def result(
    of: Study, name: str, kind: str, skill: float, seed: int = 1, **options: float
) -> VariantResult:
    """One variant's predictions on both splits; the majority class says the first label."""
    if kind == "majority":
        both = [[Prediction(e.id, of.labels[0]) for e in part] for part in (of.test, of.validation)]
    else:
        both = [
            predictions(part, of.labels, skill, seed + i, **options)
            for i, part in enumerate((of.test, of.validation))
        ]
    return VariantResult(name, kind, both[0], both[1], {}, Path("run") / name)


def results(of: Study, variants: Mapping[str, tuple[str, float]] = VARIANTS) -> list[VariantResult]:
    """Results of several variants, {name: (kind, skill)}."""
    return [
        result(of, name, kind, skill, seed=10 * i, **_options(kind))
        for i, (name, (kind, skill)) in enumerate(variants.items())
    ]


def _options(kind: str) -> dict[str, Any]:
    return {"invalid": 0.04} if kind == "prompted" else {}
