"""Does `pretrain` help beyond tuning, where labels are few and texts are many?

    python benchmarks/pretraining.py ag-news --data FOLDER [--labels 100] [--test 2000]
        [--epochs 0.2] [--objective head] [--seed 0] [--out FOLDER]

FOLDER contains the public data sets (ag_news/, sst2/, financial_phrasebank/, masakhanews_swa/). One
study trains `tuned`, and `pretrained` with the same options after language modelling on all texts
of the set's training file but those that hold test rows. The last line has the paired test between
the two. An interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search import SETS

import prooftune
from prooftune.report.format import duration
from prooftune.report.step_effect import step_effect
from prooftune.utils.files import read_json

READER_OPTIONS = ("format", "delimiter", "encoding", "header", "columns")
VALIDATION = 40


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--labels", type=int, default=100, help="labelled training rows")
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=0.2, help="passes over the texts")
    parser.add_argument("--length", type=int, default=96, help="tokens of prompts and pieces")
    parser.add_argument("--tuning-epochs", type=float, default=6.0)
    parser.add_argument("--objective", choices=["head", "instruction"], default="head")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"))
    options = parser.parse_args(arguments)
    folder = options.out / f"{options.set}-{options.labels}-{options.objective}-{options.seed}"
    prooftune.run(study(options), out=folder)
    scores, report = read_json(folder / "scores.json"), read_json(folder / "report.json")
    primary = scores["primary"]
    for name, variant in scores["variants"].items():
        figure, seconds = variant["metrics"][primary], report["variants"][name]["cost"]
        print(
            f"{name}: {primary} {figure['value']:.1%} ({figure['low']:.1%} to "
            f"{figure['high']:.1%}), trained in {duration(seconds.get('train_seconds') or 0.0)}"
        )
    effect, figures = step_effect(scores, "pretrained", "tuned")
    print(f"pretrained − tuned, {scores['n']:,} test rows: {effect}: {figures}")


def study(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe: tuning with and without pretraining."""
    own = SETS[options.set]
    data = dict(own["data"])
    for split in ("train", "validation", "test"):
        if split in data:
            data[split] = str(options.data.resolve() / data[split])
    texts = {key: data[key] for key in READER_OPTIONS if key in data}
    field = data.get("text", "text")
    fields = field if isinstance(field, list) else [field]
    variant = {"kind": "tuned", "objective": options.objective}
    return {
        "name": f"pretraining-{options.set}",
        "seed": options.seed,
        "data": {
            **data,
            "limit": {"train": options.labels, "validation": VALIDATION, "test": options.test},
        },
        "audit": {"leak": "drop", "max_truncated": 1.0, "label_errors": 0},
        "model": options.model,
        "prompt": {
            "max_length": options.length,
            # A head reads the text as it was read in pretraining, and its state behind a word that
            # follows: behind a text's own last token pretraining has learned to end.
            **(
                {"template": "\n".join([*(f"{{{n}}}" for n in fields), "Topic:"]), "chat": False}
                if options.objective == "head"
                else {}
            ),
        },
        "lora": {"r": options.rank, "lora_alpha": 2 * options.rank},
        "training": {
            "num_train_epochs": options.tuning_epochs,
            "per_device_train_batch_size": 16,
            # Of so few labels the last weights are used: validation rows choose nothing.
            "eval_strategy": "no",
            "save_strategy": "no",
        },
        "variants": {
            "tfidf": None,
            "embedding": None,
            "tuned": variant,
            "pretrained": {
                **variant,
                "pretrain": {
                    "file": data["train"],
                    **texts,
                    "num_train_epochs": options.epochs,
                    "max_length": options.length,
                    "leak": "drop",
                },
            },
        },
    }


if __name__ == "__main__":
    main()
