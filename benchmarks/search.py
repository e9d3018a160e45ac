"""What a hyperparameter search gains over the defaults, on public data.

    python benchmarks/search.py --data FOLDER [--sets ag-news sst2 swahili] [--minutes 12]
        [--trials 12] [--train 400] [--validation 200] [--test 1000] [--out FOLDER]

FOLDER contains the public data sets (ag_news/, sst2/, financial_phrasebank/, masakhanews_swa/). For
each set one study trains `tuned` with the default hyperparameters, and `searched` with those of the
best trial on validation rows. The time limit is that of the trials of one set; two trainings and
the test rows come on top. A study that is interrupted goes on where it was.

The tables have both variants on validation and test rows, with the paired test, and all trials.
Defaults come from `training/arguments.py` (learning rate by size and method; 2 epochs) and
`models/adapters.py` (rank 16, lora_alpha 32). A default is worth changing where the searched values
of several sets agree, lie on the same side of it, and gain on test rows; with one model the
evidence holds for its size only. The rank is searched at the default lora_alpha, so that a higher
rank also scales the adapter down.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import prooftune
from prooftune.evaluation.score_types import Scores, SearchTrial, VariantSearch
from prooftune.report.format import duration
from prooftune.report.step_effect import step_effect
from prooftune.utils.files import read_json

MASAKHA = "masakhanews_swa"
SETS: dict[str, dict[str, Any]] = {
    "ag-news": {
        "data": {
            "train": "ag_news/alps_tsv/dev.tsv",
            "test": "ag_news/alps_tsv/test.tsv",
            "header": False,
            "columns": ["text", "label"],
        },
        "prompt": {"max_length": 160},
    },
    "sst2": {
        "data": {
            "train": "sst2/glue_phrases/train.tsv",
            "test": "sst2/glue_phrases/test.tsv",
            "text": "sentence",
            "label": "label",
            "labels": {0: "negative", 1: "positive"},
        },
        "prompt": {"max_length": 160},
    },
    "phrasebank": {
        "data": {
            "train": "financial_phrasebank/Sentences_50Agree.txt",
            "format": "text",
            "delimiter": "@",
            "encoding": "iso-8859-1",
        },
        "prompt": {"max_length": 160},
    },
    "swahili": {
        "data": {
            "train": f"{MASAKHA}/derived/train_union.tsv",
            "validation": f"{MASAKHA}/dev.tsv",
            "test": f"{MASAKHA}/test.tsv",
            "text": ["headline", "text"],
            "label": "category",
        },
        "prompt": {"max_length": 128, "template": "{headline}\n{text}", "chat": False},
        "objective": "head",
    },
}
"""Data section, prompt and objective; paths are below the folder of the data sets."""

SPACE = {
    "training.learning_rate": [1e-4, 4e-3],
    "lora.r": [4, 64],
    "training.num_train_epochs": [0.5, 3.0],
}
"""The hyperparameters whose defaults depend on the size of the model, or might."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["ag-news", "sst2", "swahili"])
    parser.add_argument("--minutes", type=float, default=12.0, help="limit of a set's trials")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--train", type=int, default=400, help="training rows")
    parser.add_argument("--validation", type=int, default=200)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=float, help="epochs of `tuned`. Default: Prooftune's")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    options = parser.parse_args(arguments)
    for name in options.sets:
        folder = options.out / name
        prooftune.run(study(name, options), out=folder)
        print("\n".join(tables(name, read_json(folder / "scores.json"))), flush=True)


def study(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The recipe of one set: the defaults and the searched variant."""
    variant = {"kind": "tuned", "objective": SETS[name].get("objective", "instruction")}
    return {
        "name": f"search-{name}",
        **data_section(name, options),
        "model": options.model,
        "training": {} if options.epochs is None else {"num_train_epochs": options.epochs},
        "search": {
            "trials": options.trials,
            "hours": options.minutes / 60,
            "space": SPACE,
            "variants": ["searched"],
        },
        "variants": {"majority": None, "tfidf": None, "tuned": variant, "searched": variant},
    }


def data_section(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The sections ``data``, ``audit`` and ``prompt`` of a set's recipe.

    Args:
        name: key of `SETS`.
        options: ``data`` is the folder of the public data sets; ``train``, ``validation`` and
            ``test`` are the largest numbers of rows.
    """
    data = dict(SETS[name]["data"])
    for split in ("train", "validation", "test"):
        if split in data:
            data[split] = str(options.data.resolve() / data[split])
    data["limit"] = {s: getattr(options, s) for s in ("train", "validation", "test")}
    return {
        "data": data,
        # Articles of thousands of tokens are shortened, and texts of test rows left out. Near
        # duplicates would take minutes to find among 67,000 phrases, for two equal variants.
        "audit": {
            "leak": "drop",
            "max_truncated": 1.0,
            "label_errors": 0,
            "near_duplicates": None,
        },
        "prompt": SETS[name]["prompt"],
    }


def tables(name: str, scores: Scores) -> list[str]:
    """What was gained, and every trial, as Markdown."""
    search = scores["search"]["searched"]
    own = next(trial for trial in search["trials"] if trial["from_recipe"])
    chosen = search["trials"][search["chosen"]]
    _, difference = step_effect(scores, "searched", "tuned")
    seconds = sum(trial["seconds"] for trial in search["trials"])
    metric = search["metric"]
    lines = [
        f"\n## {name}: {len(search['trials'])} trials, {duration(seconds)}",
        "",
        f"| | validation {metric} ({search['rows']} rows) | test {metric} ({scores['n']} rows) |",
        "|---|---:|---:|",
    ]
    for title, variant, trial in (("defaults", "tuned", own), ("searched", "searched", chosen)):
        figure = scores["variants"][variant]["metrics"][metric]
        lines.append(
            f"| {title} | {_points(trial['value'])} | {_points(figure['value'])} "
            f"({_points(figure['low'])} to {_points(figure['high'])}) |"
        )
    return [
        *lines,
        "",
        f"searched − defaults: {difference or 'not compared'}",
        "",
        *_trials(search),
    ]


def _trials(search: VariantSearch) -> list[str]:
    keys = list(search["trials"][0]["values"])
    heading = " | ".join(key.partition(".")[2] for key in keys)
    lines = [
        f"| trial | {heading} | {search['metric']} | loss | time |",
        "|---" * (len(keys) + 4) + "|",
    ]
    for trial in search["trials"]:
        values = " | ".join(_value(trial, key) for key in keys)
        loss = "" if trial["loss"] is None else f"{trial['loss']:.3f}"
        lines.append(
            f"| {trial['number'] + 1}{' (defaults)' if trial['from_recipe'] else ''}"
            f"{' (chosen)' if trial['number'] == search['chosen'] else ''} | {values} "
            f"| {_points(trial['value'])}{' (stopped)' if trial['state'] == 'stopped' else ''} "
            f"| {loss} | {duration(trial['seconds'])} |"
        )
    return lines


def _value(trial: SearchTrial, key: str) -> str:
    value = trial["values"][key]
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _points(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    main()
