"""Search over the regulatory documents of ObliQA, whose questions have gold passages.

    python benchmarks/retrieval.py --data FOLDER [--index FOLDER] [--split test] [--tune]
    python benchmarks/retrieval.py --questions benchmarks/questions/zh.json

FOLDER contains policy_qa/ObliQA in its original layout. The 40 documents (13,000 passages) are
indexed once, which takes minutes on two cores. Then the 2,786 test questions are searched with
BM25, dense and fused search. Prints a Markdown table with the mean of each metric, its 95%
bootstrap interval, and paired differences. With --tune, fusion depths and weights are compared on
the development questions only.

With --questions, the contexts of a file in SQuAD's layout are the passages, and each question's own
context is its gold passage. benchmarks/questions has 48 Chinese and 48 Japanese questions on 24
contexts each, written for this test in XQuAD's shape.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.intervals import percentile_interval
from prooftune.evaluation.resampling import resample_counts
from prooftune.retrieval.index import IndexSettings, build_index
from prooftune.retrieval.metrics import ndcg, passage_keys, recall, reciprocal_rank
from prooftune.retrieval.ranking import RankedList, reciprocal_rank_fusion
from prooftune.retrieval.search import DENSE_WEIGHT, DEPTH, Index, Mode, open_index
from prooftune.utils.files import read_json

Floats = NDArray[np.float64]

K = 10
RESAMPLES, CHUNK = 2000, 200
MAX_DEPTH = 200
MODES: tuple[Mode, ...] = ("bm25", "dense", "fused")
Measure = Callable[[Sequence[Sequence[str]], Sequence[set[str]], int], Floats]
MEASURES: dict[str, tuple[Measure, int]] = {
    f"recall@{K}": (recall, K),
    f"MRR@{K}": (reciprocal_rank, K),
    f"nDCG@{K}": (ndcg, K),
}
CONTEXT_MEASURES: dict[str, tuple[Measure, int]] = {
    "recall@1": (recall, 1),
    "recall@3": (recall, 3),
    f"recall@{K}": (recall, K),
    f"MRR@{K}": (reciprocal_rank, K),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder of the public data sets")
    source.add_argument("--questions", type=Path, help="a file in SQuAD's layout")
    parser.add_argument(
        "--index", type=Path, default=Path("runs/obliqa-index"), help="where the index goes"
    )
    parser.add_argument("--split", choices=["dev", "test"], default="test")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="compare depths and weights of fusion on the dev questions",
    )
    options = parser.parse_args(arguments)
    if options.questions:
        search_contexts(options.questions)
        return
    root = options.data / "policy_qa" / "ObliQA"
    begun = time.perf_counter()
    summary = build_index(
        root / "StructuredRegulatoryDocuments.zip",
        options.index,
        IndexSettings(chunk_words=200, overlap_words=40),
    )
    print(
        f"{summary.documents} documents, {summary.chunks:,} chunks, {summary.embedded:,} embedded "
        "now "
        f"({summary.shortened:,} of them longer than the embedding model reads), "
        f"{time.perf_counter() - begun:.0f} s\n",
        flush=True,
    )
    index = open_index(options.index)
    questions, gold = read(root / f"ObliQA_{'dev' if options.tune else options.split}.json")
    if options.tune:
        tune(index, questions, gold)
    else:
        compare(index, questions, gold, options.split)


def read(path: Path) -> tuple[list[str], list[set[str]]]:
    """Questions, and the keys of their gold passages."""
    rows = read_json(path)
    return (
        [row["Question"] for row in rows],
        [
            {f"{passage['DocumentID']}/{passage['PassageID']}" for passage in row["Passages"]}
            for row in rows
        ],
    )


def search_contexts(file: Path) -> None:
    """Compare the kinds of search on questions whose contexts are the passages."""
    paragraphs = [p for article in read_json(file)["data"] for p in article["paragraphs"]]
    asked = [(qa["question"], str(i)) for i, p in enumerate(paragraphs) for qa in p["qas"]]
    with tempfile.TemporaryDirectory() as folder:
        passages = [{"id": str(i), "text": p["context"]} for i, p in enumerate(paragraphs)]
        documents = Path(folder) / "contexts.json"
        documents.write_text(json.dumps(passages), "utf-8")
        build_index(documents, Path(folder) / "index")
        index = open_index(Path(folder) / "index")
        questions, gold = [question for question, _ in asked], [{id_} for _, id_ in asked]
        compare(index, questions, gold, file.stem, CONTEXT_MEASURES)


def compare(
    index: Index,
    questions: Sequence[str],
    gold: Sequence[set[str]],
    split: str,
    measures: dict[str, tuple[Measure, int]] = MEASURES,
) -> None:
    values: dict[Mode, dict[str, Floats]] = {}
    for mode in MODES:
        begun = time.perf_counter()
        # Several chunks may belong to one passage, so more than K hits are requested.
        retrieved = [passage_keys(hits) for hits in index.search(questions, 2 * K, mode)]
        values[mode] = {
            name: measure(retrieved, gold, k) for name, (measure, k) in measures.items()
        }
        values[mode]["seconds"] = np.array([time.perf_counter() - begun])
    print(
        f"{len(questions):,} {split} questions; fusion of {DEPTH} hits each, weight of the dense "
        f"list {DENSE_WEIGHT}\n"
    )
    print(
        "| search | " + " | ".join(measures) + " | seconds |\n|---|" + "---|" * (len(measures) + 1)
    )
    for mode in MODES:
        cells = [interval(values[mode][name]) for name in measures]
        print(f"| {mode} | " + " | ".join(cells) + f" | {values[mode]['seconds'][0]:.0f} |")
    for other in ("bm25", "dense"):
        cells = [interval(values["fused"][name] - values[other][name], "+") for name in measures]
        print(f"| fused − {other} | " + " | ".join(cells) + " | |")


def interval(per_question: Floats, sign: str = "") -> str:
    """The mean of values [n] with its percentile bootstrap interval, in percent."""
    n = len(per_question)
    samples = np.concatenate(
        [
            resample_counts(n, CHUNK, 0, start) @ per_question / n
            for start in range(0, RESAMPLES, CHUNK)
        ]
    )
    low, high = percentile_interval(samples, 0.95)
    return (
        f"{100 * per_question.mean():{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"
    )


def tune(index: Index, questions: Sequence[str], gold: Sequence[set[str]]) -> None:
    number = {chunk.id: i for i, chunk in enumerate(index.chunks)}
    ranked_lists: list[list[RankedList]] = []
    for mode in ("bm25", "dense"):
        retrieved = index.search(questions, MAX_DEPTH, mode)
        ranked_lists.append(
            [[(number[hit.chunk.id], hit.score) for hit in hits] for hits in retrieved]
        )
    print(
        f"recall@{K} on {len(questions):,} dev questions\n\n| depth | weight of the dense list | "
        f"recall@{K} |\n|---|---|---|"
    )
    for depth in (20, 50, 100, MAX_DEPTH):
        for weight in (0.0, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 1.0):
            fused = [
                [
                    index.chunks[i].passage_key
                    for i, _ in reciprocal_rank_fusion(
                        [ranked[:depth] for ranked in pair], (1 - weight, weight), 2 * K
                    )
                ]
                for pair in zip(*ranked_lists, strict=True)
            ]
            print(f"| {depth} | {weight} | {100 * recall(fused, gold, K).mean():.2f} |", flush=True)


if __name__ == "__main__":
    main()
