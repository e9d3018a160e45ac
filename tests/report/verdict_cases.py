"""Studies whose results are easily misread, with the report that a user gets.

PYTHONPATH=src:tests python -m report.verdict_cases          # prints all reports
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from evaluation import synthetic
from prooftune.evaluation.answers.scores import score_answers
from prooftune.evaluation.measurements import tidy
from prooftune.evaluation.score_types import Scores
from prooftune.evaluation.scores import score
from prooftune.recipe import Evaluation, parse
from prooftune.report.markdown import render_markdown
from prooftune.types import Example, Prediction, Study, VariantResult

FAST = Evaluation(resamples=300)
QA = """
name: case
task: {task}
data: {{train: a.jsonl}}
model: smollm2-135m
evaluation: {{resamples: 300}}
variants:
  zero:
    kind: zero-shot
  lora:
    kind: tuned
"""


def result(
    name: str, kind: str, examples: Sequence[Example], outputs: Sequence[str]
) -> VariantResult:
    found = [Prediction(e.id, o) for e, o in zip(examples, outputs, strict=True)]
    return VariantResult(name, kind, found, [], {}, Path(name))


def classified(
    targets: Sequence[str],
    outputs: Mapping[tuple[str, str], Sequence[str]],
    train: Sequence[str] = (),
    group_size: int | None = None,
    **settings: Any,
) -> Scores:
    """Scores of labels; outputs by (variant, kind)."""
    labels = sorted({*targets, *train})
    test = [
        Example(f"t{i}", {"text": str(i)}, t, group=f"g{i // group_size}" if group_size else None)
        for i, t in enumerate(targets)
    ]
    study = Study([Example(f"r{i}", {"text": str(i)}, t) for i, t in enumerate(train)], [], test,
                  labels)  # fmt: skip
    results = [result(name, kind, test, given) for (name, kind), given in outputs.items()]
    return score(study, results, FAST.model_copy(update=settings), 0)


def answered(
    task: str, references: Sequence[Sequence[str]], zero: Sequence[str], lora: Sequence[str]
) -> Scores:
    """Scores of answers of an untuned and a tuned variant."""
    test = [
        Example(f"q{i}", {"question": f"Question {i}", "context": f"Context {i}"}, references=r)
        for i, r in enumerate(map(tuple, references))
    ]
    results = [result("zero", "zero-shot", test, zero), result("lora", "tuned", test, lora)]
    return score_answers(
        Study([], [], test, []), results, parse(yaml.safe_load(QA.format(task=task)))
    )


def pair(n: int, only_zero: int, only_lora: int) -> tuple[list[str], dict[tuple[str, str], Any]]:
    """Balanced labels and two variants that are both right on the rest of n examples."""
    targets = ["a", "b"] * (n // 2)
    wrong = {"a": "b", "b": "a"}
    zero = [wrong[t] if i < only_lora else t for i, t in enumerate(targets)]
    lora = [
        wrong[t] if only_lora <= i < only_lora + only_zero else t for i, t in enumerate(targets)
    ]
    return targets, {("zero", "zero-shot"): zero, ("lora", "tuned"): lora}


def rare_labels_lost(**settings: Any) -> Scores:
    targets = ["a"] * 920 + ["b"] * 60 + ["c"] * 20
    zero = ["b" if i % 12 == 0 else "a" for i in range(920)] + ["b"] * 45 + ["a"] * 15
    zero += ["c"] * 15 + ["a"] * 5
    tuned = ["a"] * 920 + ["b"] * 20 + ["a"] * 40 + ["a"] * 20
    outputs = {("zero", "zero-shot"): zero, ("lora", "tuned"): tuned}
    return classified(targets, outputs, ["a"] * 92 + ["b"] * 6 + ["c"] * 2, **settings)


def same_labels(**settings: Any) -> Scores:
    """The tuned variant gives the labels of the untuned one."""
    targets = ["a", "b"] * 40
    outputs = ["b" if i % 10 == 0 else t for i, t in enumerate(targets)]
    both = {("zero", "zero-shot"): outputs, ("lora", "tuned"): outputs}
    return classified(targets, both, primary="macro_f1", **settings)


def same_answers() -> Scores:
    references = [[f"answer number {i}"] for i in range(50)]
    given = [f"answer {i}" for i in range(50)]
    return answered("free-text-qa", references, given, given)


def russian() -> Scores:
    words = ["проверка", "договор", "поставка", "оплата", "срок", "сторона", "отчет", "закон"]
    draw = np.random.default_rng(0)
    references = [" ".join(draw.choice(words, 5)) for _ in range(200)]
    zero = [" ".join(draw.choice(words, 5)) for _ in range(200)]
    return answered("free-text-qa", [[r] for r in references], zero, references)


def chinese() -> Scores:
    characters = list("北京上海昨天今日大雨交通非常拥堵市民出行受到影响经济增长")
    draw = np.random.default_rng(1)
    references = ["".join(draw.choice(characters, 8)) for _ in range(200)]
    zero = ["".join(draw.choice(characters, 8)) for _ in range(200)]
    return answered("free-text-qa", [[r] for r in references], zero,
                    [f"答案是{r}" for r in references])  # fmt: skip


def invented_answers() -> Scores:
    """The tuned variant answers all of 100 questions that have no answer."""
    references = [[f"answer number {i}"] if i < 100 else [] for i in range(200)]
    right = [f"answer number {i}" for i in range(100)]
    return answered("free-text-qa", references, right + [""] * 100,
                    right + [f"an invention {i}" for i in range(100)])  # fmt: skip


def few_groups(count: int) -> Scores:
    """Articles in which a silent reader is right or wrong as a whole."""
    targets, size = ["a", "b"] * (count * 25), 50
    wins = np.arange(count) < 0.75 * count
    wrong = {"a": "b", "b": "a"}
    draw = np.random.default_rng(count)

    def mostly(right: bool, target: str) -> str:
        return target if (draw.random() < 0.9) == right else wrong[target]

    zero = [mostly(not wins[i // size], t) for i, t in enumerate(targets)]
    lora = [mostly(bool(wins[i // size]), t) for i, t in enumerate(targets)]
    outputs = {("zero", "zero-shot"): zero, ("lora", "tuned"): lora}
    return classified(targets, outputs, group_size=size)


def perfect(n: int, zero_wrong: int) -> Scores:
    targets, outputs = pair(n, 0, zero_wrong)
    return classified(targets, outputs)


def calibrated() -> Scores:
    study = synthetic.study(200)
    return score(study, synthetic.results(study, {"zero": ("zero-shot", 1.0),
                 "lora": ("tuned", 2.0)}), FAST, 0)  # fmt: skip


def twenty_comparisons() -> Scores:
    study = synthetic.study(200)
    skills = {"zero": ("zero-shot", 1.0), "few": ("few-shot", 1.2), "prompted": ("prompted", 1.3)}
    tuned = {f"lora-{i}": ("tuned", 1.2 + 0.1 * i) for i in range(4)}
    return score(study, synthetic.results(study, skills | tuned), FAST, 0)


def not_chosen() -> Scores:
    """Another tuned variant than that chosen on validation is better on test."""
    study = synthetic.study(400)
    lucky = synthetic.result(study, "lucky", "tuned", 4.0, seed=2)
    worse = synthetic.result(study, "lucky", "tuned", 0.4, seed=3)
    results = [
        synthetic.result(study, "good", "tuned", 1.2, seed=4),
        replace(lucky, validation=worse.validation),
        synthetic.result(study, "zero", "zero-shot", 1.2, seed=9),
    ]
    return score(study, results, FAST, 0)


def majority_only() -> Scores:
    study = synthetic.study(300)
    results = synthetic.results(study, {"majority": ("majority", 0), "lora": ("tuned", 3.0)})
    return score(study, results, FAST, 0)


def tiny_gain(**settings: Any) -> Scores:
    targets, outputs = pair(40_000, 100, 160)
    return classified(targets, outputs, **{"resamples": 100, **settings})


CASES: dict[str, Callable[[], Scores]] = {
    "920/60/20 labels, rare ones lost": rare_labels_lost,
    "the same, judged by accuracy": lambda: rare_labels_lost(primary="accuracy"),
    "the same labels, judged by macro F1": same_labels,
    "the same labels in 8 groups": lambda: same_labels(group_size=10),
    "the same answers": same_answers,
    "Russian answers identical to the references": russian,
    "Chinese answers that hold the reference and 3 more characters": chinese,
    "answers invented to 100 of 100 questions without an answer": invented_answers,
    "4 groups": lambda: few_groups(4),
    "20 groups": lambda: few_groups(20),
    "5 of 5 against 0 of 5": lambda: perfect(5 + 1, 6),
    "20 of 20 against 19 of 20": lambda: perfect(20, 1),
    "accuracy 1.0 on 200": lambda: perfect(200, 20),
    "calibration on 200 rows": calibrated,
    "20 comparisons": twenty_comparisons,
    "best on validation undecided, another tuned variant better": not_chosen,
    "only the majority class compared": majority_only,
    "40,000 rows and +0.15 points": tiny_gain,
    "the same, 1 point worthwhile": lambda: tiny_gain(worthwhile=1),
}


def report(scores: Scores) -> str:
    """The report in Markdown."""
    return render_markdown(tidy({"name": "case", "scores": scores, "seed": 0, "notes": []}))


def main(names: Sequence[str]) -> None:
    for name, build in CASES.items():
        if not names or any(part in name for part in names):
            print(f"{'=' * 100}\n{name}\n{'=' * 100}\n{report(build())}")


if __name__ == "__main__":
    main(sys.argv[1:])
