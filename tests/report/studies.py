"""Facts of made-up studies, as `study.evaluate` hands them to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import synthetic
from prooftune.evaluation.costs import cost_scores
from prooftune.evaluation.scores import score
from prooftune.recipe import Evaluation
from prooftune.types import Example, Study, VariantResult

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LONG_LABELS = [
    "Account and billing questions",
    "Card payment not recognised",
    "Cash withdrawal charge disputed",
    "Declined transfer to another bank",
    "Exchange rate applied wrongly",
    "Identity could not be verified",
    "Lost or stolen telephone",
    "Pending top-up",
    "Request for a refund",
    "Terminate account",
    "Transaction charged twice",
    "Virtual card not working",
]
HOSTILE = (
    '<script>alert("x")</script> & <img src="http://example.org/a.png" onerror=alert(1)> '
    "</style></pre>"
)
RECIPE = """name: made-up
task: classification
seed: 0
data:
  train: news.csv
  text: text
  label: label
model: smollm2-135m-instruct
variants:
  majority:
  tfidf:
  zero-shot:
  lora: {kind: tuned}
"""


def facts(
    labels: Sequence[str] = synthetic.LABELS,
    n: int = 500,
    variants: Mapping[str, tuple[str, float]] = synthetic.VARIANTS,
    validation: bool = True,
    texts: str | None = None,
    name: str = "made-up",
) -> dict[str, Any]:
    """A whole study's facts.

    Args:
        labels, n, variants: see `synthetic`.
        validation: False leaves out the validation rows and all that needs them.
        texts: the text of every example, in place of the usual ones.
        name: of the study.
    """
    study = synthetic.study(n, labels)
    if texts is not None:
        before, test = (
            [Example(e.id, {"text": texts}, e.target) for e in part]
            for part in (study.validation, study.test)
        )
        study = Study([], before, test, study.labels)
    results = synthetic.results(study, variants)
    if not validation:
        study = Study([], [], study.test, study.labels)
        results = [VariantResult(r.name, r.kind, r.test, [], {}, r.folder) for r in results]
    scores = score(study, results, Evaluation(resamples=200), 0)
    recorded = {
        name: details(name, kind, texts or synthetic.TEXTS[0], validation)
        for name, (kind, _) in variants.items()
    }
    scores["costs"] = cost_scores(recorded, scores, 0.5, "USD")
    return {
        "name": name,
        "recipe": RECIPE,
        "scores": scores,
        "seed": 0,
        "prooftune_version": "0.1.0",
        "notes": ["3 rows without a label were dropped."],
        "created": "2026-08-02T09:30:00+00:00",
        "audit": audit(study, validation),
        "environment": ENVIRONMENT,
        "variants": recorded,
    }


ENVIRONMENT = {
    "python": "3.11.7",
    "platform": "Linux-6.1",
    "cpu": "A processor of 2 cores",
    "threads": 2,
    "torch": "2.9.0",
    "transformers": "5.20.0",
    "peft": "0.18.0",
    "scikit-learn": "1.7.2",
    "device": "cpu",
    "dtype": "float32",
    "attention": "sdpa",
    "model": "smollm2-135m-instruct",
    "model_sha256": "5b" * 32,
}


def audit(study: Study, validation: bool) -> dict[str, Any]:
    counts = {
        split: {label: sum(e.target == label for e in rows) for label in study.labels}
        for split, rows in (("validation", study.validation), ("test", study.test))
    }
    balance = {
        "train": {label: 4 * n for label, n in counts["test"].items()},
        **({"validation": counts["validation"]} if validation else {}),
        "test": counts["test"],
    }
    return {
        "findings": [
            {
                "code": "length",
                "severity": "info",
                "message": "Texts have 38 words in the median.",
                "rows": [],
            },
            {
                "code": "leak",
                "severity": "warning",
                "rows": [f"train.csv:{i}" for i in range(4, 40, 2)],
                "message": "18 training rows are near duplicates of test rows and were dropped.",
            },
        ],
        "balance": balance,
        "rows": {split: sum(c.values()) for split, c in balance.items()},
        "lengths": {split: {"median": 61, "p95": 124, "max": 311} for split in balance},
        "truncation": {split: {"rows": 12, "share": 0.012, "limit": 160} for split in balance},
    }


def details(name: str, kind: str, text: str, validation: bool) -> Any:
    """What a variant records of itself."""
    cost = {"train_seconds": 0.0, "score_seconds": 0.0}
    if kind in ("majority", "tfidf"):
        return {
            "kind": kind,
            "description": "always the most frequent label"
            if kind == "majority"
            else "TF-IDF of words and word pairs, logistic regression (C=10, 21,334 features)",
            "cost": cost
            if kind == "majority"
            else {"train_seconds": 1.32, "score_seconds": 0.084, "peak_memory_bytes": 312_000_000},
        }
    facts: dict[str, Any] = {
        "kind": kind,
        "description": {
            "zero-shot": "the instruction alone",
            "few-shot": "4 training examples shown",
            "prompted": "the best of 4 prompts on 100 validation rows",
            "tuned": "LoRA tuned with the instruction on 2,000 rows, 3.50% of the weights trained",
        }[kind],
        "prompt": "<|im_start|>user\nClassify the text below.\nAnswer with one of: World, "
        f"Sports.\n\n{text}"
        "<|im_end|>\n<|im_start|>assistant\n",
        "cost": {
            "train_seconds": 0.0,
            "score_seconds": 41.7,
            "score_tokens": 30_120,
            "peak_memory_bytes": 1_420_000_000,
        },
    }
    if kind == "prompted":
        facts["prompts_tried"] = [
            {
                "template": f"Question {i}: which of {{labels}} fits?\n{{text}}",
                "quality": a,
                "measure": "accuracy",
                "rows": 100,
                "tokens": 60.0 + 20 * i,
            }
            for i, a in enumerate((0.61, 0.7, 0.7, 0.48))
        ]
    if kind == "tuned":
        facts |= tuned_details(validation)
    return facts


def tuned_details(validation: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    history = [
        {
            "step": s,
            "loss": 0.25 + 1.1 * float(np.exp(-s / 60)) + float(rng.normal(0, 0.03)),
            "epoch": s / 125,
            "learning_rate": 1e-3,
        }
        for s in range(10, 251, 10)
    ]
    if validation:
        history += [
            {
                "step": s,
                "eval_loss": 0.33 + 0.8 * float(np.exp(-s / 50)),
                "eval_accuracy": 0.9 - 0.3 * float(np.exp(-s / 50)),
                "eval_macro_f1": 0.88 - 0.3 * float(np.exp(-s / 50)),
                "epoch": s / 125,
            }
            for s in range(50, 251, 50)
        ]
    layers = [
        {
            "name": f"layers.{i}.{'self_attn' if m[0] in 'qkvo' else 'mlp'}.{m}",
            "relative_change": float(0.01 + 0.03 * i / 30 * rng.random() + 0.01 * (m == "v_proj")),
            "effective_rank": float(4 + 8 * rng.random()),
            "rank": 16,
        }
        for i in range(30)
        for m in MATRICES
    ]
    return {
        "training": {
            "log_history": history,
            "trainable_parameters": 4_884_480,
            "total_parameters": 139_400_000,
            "rows": 2000,
            "epochs": 2.0,
        },
        "changes": {"layers": layers, "relative_change_total": 0.0213},
        "forgetting": {
            "perplexity_before": 18.42,
            "perplexity_after": 23.9,
            "tokens": 1804,
            "text": "general_english.txt",
        },
        "cost": {
            "train_seconds": 734.2,
            "score_seconds": 39.4,
            "train_tokens": 245_000,
            "score_tokens": 30_120,
            "peak_memory_bytes": 2_310_000_000,
        },
        "objective": "instruction",
        "method": "lora",
        "weights_sha256": {"adapter_model.safetensors": "c4" * 32},
    }
