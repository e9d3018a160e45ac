"""Run the studies of docs/results.md and write its tables.

    python benchmarks/results.py --data FOLDER [--runs FOLDER] [NAME ...]

FOLDER contains the public data sets in their original layouts (ag_news/, sst2/,
financial_phrasebank/, masakhanews_swa/, squad_v2/, policy_qa/). Without names, every recipe in
benchmarks/results/ runs, which takes a few hours on two cores; finished studies are skipped. The
tables are written from the runs' report.json; those of studies without a run stay as they are.
`--rescore` first judges the stored predictions of finished runs with the statistics of this
version.
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import prooftune
from prooftune import recipe as recipes
from prooftune import run_folder
from prooftune.study.evaluation_stage import evaluate
from prooftune.types import UNANSWERABLE
from prooftune.utils.files import read_json, write_text

HERE = Path(__file__).parent
TARGET = HERE.parent / "docs" / "results.md"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="studies to run; default: all")
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/results"), help="folder of the runs"
    )
    parser.add_argument(
        "--only-write", action="store_true", help="only write the tables of finished runs"
    )
    parser.add_argument(
        "--rescore", action="store_true", help="score the stored predictions of finished runs again"
    )
    options = parser.parse_args(arguments)
    known = sorted(p.stem for p in (HERE / "results").glob("*.yaml"))
    for name in [] if options.only_write or options.rescore else options.names or known:
        prooftune.run(_recipe(name, options.data), out=options.runs / name)
    for name in options.names or known if options.rescore else []:
        rescore(options.runs / name)
    finished = {
        name: _facts(options.runs / name, name)
        for name in known
        if (options.runs / name / "report.json").is_file()
    }
    write_text(TARGET, page(known, finished, TARGET.read_text("utf-8")))


def _recipe(name: str, data: Path) -> dict[str, Any]:
    text = (
        (HERE / "results" / f"{name}.yaml")
        .read_text("utf-8")
        .replace("DATA/", f"{data.resolve()}/")
    )
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def rescore(folder: Path) -> None:
    """Score the predictions in a run folder again, and write its report."""
    recipe, base = recipes.load(folder / "recipe.yaml")
    results = [
        run_folder.read_result(folder / "variants" / name, variant.kind, adapter=variant.adapter)
        for name, variant in recipe.variants.items()
    ]
    evaluate(recipe, run_folder.read_study(folder / "data"), results, folder, base)


def _facts(folder: Path, name: str) -> dict[str, Any]:
    header = (HERE / "results" / f"{name}.yaml").read_text("utf-8").splitlines()[0].lstrip("# ")
    return {"name": name, "header": header, **read_json(folder / "report.json")}


def page(names: Sequence[str], finished: Mapping[str, dict[str, Any]], existing: str) -> str:
    """The whole document.

    Args:
        names: of all studies.
        finished: the reports that there are, by study; the first one states the machine.
        existing: the page so far, of which sections of other studies are kept.
    """
    parts = re.split(r"^## (.+)\n", existing, flags=re.M)[1:]
    kept = {name: f"## {name}\n{text}" for name, text in zip(parts[::2], parts[1::2], strict=True)}
    sections = [_section(finished[n]) if n in finished else kept.get(n, "") for n in names]
    machine = _machine(next(iter(finished.values()))) if finished else kept.get("Machine", "")
    return "".join([_HEAD.rstrip("\n") + "\n\n", *sections, machine])


def _section(study: dict[str, Any]) -> str:
    lines = [
        f"## {study['name']}",
        "",
        study["header"],
        "",
        *table(study),
        "",
        study["scores"]["verdict"]["sentence"],
        "",
        *[f"- {note}" for note in study.get("notes", [])],
        "",
    ]
    return "\n".join(lines) + "\n"


def _machine(study: dict[str, Any]) -> str:
    machine = study["environment"]
    versions = ", ".join(
        f"{k} {machine[k]}" for k in ("torch", "transformers", "peft", "scikit-learn")
    )
    return (
        f"## Machine\n\n{machine['cpu']}, {machine['threads']} cores; Python {machine['python']}, "
        f"{versions}; {machine['dtype']}, seed {study['seed']}; written {datetime.date.today()}.\n"
    )


COLUMNS = {
    "classification": {"accuracy": "accuracy", "macro_f1": "macro F1"},
    "extractive-qa": {
        "f1": "F1",
        "exact": "exact match",
        "has_answer_f1": "F1 with an answer",
        "no_answer_f1": "without one",
        "bleu": "BLEU",
        "meteor": "METEOR",
        "rougeL": "ROUGE-L",
    },
    "free-text-qa": {
        "rougeL": "ROUGE-L",
        "rouge1": "ROUGE-1",
        "bleu": "BLEU",
        "meteor": "METEOR",
        "bertscore_f1": "BERTScore",
        "f1": "F1",
        "answer_words": "words",
    },
}
"""Metric -> heading, for each task."""


def table(study: dict[str, Any]) -> list[str]:
    """One row per variant: metrics with intervals, time, peak memory."""
    scores = study["scores"]
    columns = COLUMNS[scores.get("task", "classification")]
    confidence = f"{scores['confidence']:.0%}"
    headings = [f"{title} ({confidence} interval)" for title in columns.values()]
    lines = [
        f"| variant | {' | '.join(headings)} | training | inference | peak memory |",
        "|---" * (1 + len(headings)) + "|---:|---:|---:|",
    ]
    for name, variant in scores["variants"].items():
        cost, metrics = study["variants"][name]["cost"], variant["metrics"]
        cells = [_interval(metrics[key]) if key in metrics else "–" for key in columns]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {_seconds(cost['train_seconds'])} | "
            f"{_seconds(cost['score_seconds'])} "
            f"| {_memory(cost.get('peak_memory_bytes'))} |"
        )
    return [
        *lines,
        "",
        f"{scores['n']:,} test examples.",
        *_thresholds(scores),
        *_differences(scores),
    ]


def _thresholds(scores: dict[str, Any]) -> list[str]:
    """Scores before the no-answer threshold, and how well no-answer scores separate questions."""
    thresholds = {
        name: v["no_answer"] for name, v in scores["variants"].items() if v.get("no_answer")
    }
    if not thresholds:
        return []
    lines = [
        "",
        "Before the no-answer threshold, which is chosen on validation questions (AUROC: how "
        "often a question without an answer has a higher no-answer score than one with an "
        "answer; 0.5 is chance):",
        "",
        "| variant | F1 | F1 with an answer | F1 with an answer, no abstention | best F1 of any "
        "threshold | AUROC |",
        "|---|---:|---:|---:|---:|---|",
    ]
    never = scores["support"][UNANSWERABLE] / scores["n"]
    end = [
        "",
        f"Abstaining on every question gives F1 {never:.3f}. A no-answer score can beat that only "
        "if it separates answerable from unanswerable questions; one near chance cannot, however "
        "good the answers are.",
    ]
    cells = [
        f"| {name} | {t['f1_without']:.3f} | {t['has_answer_f1_without']:.3f} | "
        f"{t['has_answer_f1_always']:.3f} "
        f"| {t['best_f1_on_test']:.3f} | {_interval(t['auroc'])} |"
        for name, t in thresholds.items()
    ]
    return [*lines, *cells, *end]


def _differences(scores: dict[str, Any]) -> list[str]:
    """Paired differences, for studies whose verdict does not name every pair."""
    if scores.get("task", "classification") == "classification":
        return []
    primary, title = scores["primary"], scores["primary_title"]
    lines = ["", f"| difference | {title}, points (interval) | p (Holm) |", "|---|---|---:|"]
    for row in scores["comparisons"]:
        value, low, high = (100 * row[primary][end] for end in ("value", "low", "high"))
        lines.append(
            f"| {row['a']} − {row['b']} | {value:+.1f} ({low:+.1f} to {high:+.1f}) | "
            f"{row['p_holm']:.4f} |"
        )
    return lines


def _interval(metric: dict[str, Any]) -> str:
    if metric["value"] is None:
        return "–"
    digits = 1 if metric["high"] > 1.5 else 3  # BLEU (0 to 100) and word counts
    return (
        f"{metric['value']:.{digits}f} ({metric['low']:.{digits}f} to {metric['high']:.{digits}f})"
    )


def _seconds(value: float) -> str:
    return f"{value / 60:.1f} min" if value >= 90 else f"{value:.1f} s"


def _memory(value: float | None) -> str:
    return f"{value / 1e9:.1f} GB" if value else "–"


_HEAD = """\
# Results on public data

SmolLM2-135M-Instruct on two CPU cores; every variant is scored on the same test examples. Written
by `python benchmarks/results.py --data FOLDER` from each run's report.json; the recipes are in
`benchmarks/results/`.

Each study was trained once, with one seed: the intervals cover the sampling of test examples, not
the variation between trainings. Before relying on a point or two, repeat with `--set seeds=3`
([statistics.md](statistics.md#several-trainings)).

The studies ran on 30 November 2026 at commit 69954fa, from one clone with an environment of
`requirements/run.txt`, two to four at a time with one thread each (`swahili-news`: two threads):
their times are two to three times those of an idle machine ([benchmarks.md](benchmarks.md) has
measurements).

Every study of labels has `embedding` and `encoder`, which cannot answer questions and so are absent
from `squad-v2` and `eu-ai-act`. The encoder is all-MiniLM (23 million parameters), the one that
comes in a package: weights of ModernBERT, XLM-R or AfroXLMR come in none, and there was no hub.

Each study of labels ran twice, on 29 and 30 November. In between, the rule for near-duplicates
changed, so other rows were dropped, sampled and split (except in `swahili-news`). Some verdicts
changed:

| tuned, and its closest rival | first | again |
|---|---|---|
| `ag-news` | 90.0%, not told apart from the encoder | 89.0%, not told apart from the encoder |
| `ag-news-600` | 86.7%, beats encoder, not embeddings | 87.5%, beats embeddings, not encoder |
| `phrasebank-50-agree` | 85.9%, beats the encoder | 85.6%, not told apart from the encoder |
| `phrasebank-all-agree` | 97.4%, beats the encoder | 96.5%, not told apart from the encoder |
| `sst2` | 90.8%, beats all | 91.1%, beats all |
| `swahili-news` | 67.9%, loses to TF-IDF | 67.4%, loses to TF-IDF |

One sample of training rows does not decide between a tuned model and the best of its rivals:
neither the intervals nor `seeds` cover which rows were sampled.

Nor does one training of an encoder: on the same 8,000 rows of `sst2` it had 83.6% with two threads
and 79.4% with one, which round sums differently. (On `ag-news-600` two threads gave the same 2,000
predictions twice, and one thread 32 others.) LoRA trainings give the same bits with both.

Against the page of 0.1, which had no `embedding` variant and resampled rows alone:

- `ag-news` and `ag-news-600`: the tuned model no longer wins against every rival. It cannot be told
  apart from the fine-tuned encoder.
- `squad-v2`: with questions resampled by article the interval is three times as wide, and with four
  articles no difference could have been shown.
- `swahili-news`: TF-IDF still wins. What was tried against its 82.4%, one training each, on the
  same 476 test rows: embeddings 66.8%, a fine-tuned English encoder 64.7% (15 epochs on 256
  tokens: 62.8%), a tuned head on 192 tokens 67.4%, on 256 tokens 67.6% and, with `Topic:` behind
  the text, 68.5%. The learning rate and epochs that a search chose (3.5e-3, 2.9) had 60.9% on 256
  tokens in one training and 74.6% in another, whose recipe was not kept: they cannot be relied on.
  Pretraining on the training articles is what helps
  ([variants.md](variants.md#pretraining-on-unlabelled-texts)): half an epoch before tuning gives
  76.7% (72.7 to 80.3), 8.2 points more than the same without (p < 0.001) and 5.7 behind TF-IDF
  (p = 0.0055); one epoch gives the same 76.7%. The model lacks the language: a Swahili word takes
  2.7 tokens, so that 256 tokens are 96 words, and its perplexity on Swahili texts is 258 per token,
  26 after half an epoch and 19 after one. Length is not the reason: TF-IDF on the
  first 467 characters alone, what the model reads in 192 tokens, has 80.7% (McNemar p = 0.35
  against whole articles). No multilingual model comes in a package.
- `phrasebank-50-agree` and `phrasebank-all-agree`: the tuned model cannot be told apart from the
  fine-tuned encoder.
- All other verdicts name the same winners and losers; differences of a few tenths of a point are
  new trainings with another engine.
"""

if __name__ == "__main__":
    main()
