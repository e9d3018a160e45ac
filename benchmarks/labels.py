"""Label scoring against lm-evaluation-harness, zero-shot and with 8 examples in the prompt.

    pip install lm-eval
    python benchmarks/labels.py --data FOLDER [--shots 8] [--dtype float32] [--rows 64] [--repeats
    3]

FOLDER contains the public data sets (ag_news/alps_tsv/). Both score the four labels of AG News
after every prompt with the embedded model on the same token ids, and predict the most likely one
(summed log-probability, not normalised by length). The harness is called through its Hugging Face
backend with requests of token ids, as its tasks do. It runs every label of every row after the
whole prompt, except labels of one token, which it takes from one pass. Its batch size is the
fastest of 4, 8, 16 and 32 in a trial. The share of rows with the same prediction is reported too.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from pathlib import Path
from typing import Any

import contest
import torch

from prooftune import recipe
from prooftune.engine.precision import autocast
from prooftune.engine.scoring import score_labels
from prooftune.models import loading
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering, Shot
from prooftune.tasks.templates import default_template
from prooftune.utils.profiling import measure_cost

LABELS = ("World", "Sports", "Business", "Sci/Tech")
"""In the order of the table."""
TRIED = (4, 8, 16, 32)
WARM = 8
"""Rows of a first try, in which a process does much for the first time."""


def main() -> None:
    parser = contest.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    options = parser.parse_args()
    facts = {
        "model": loading.DEFAULT_MODEL,
        "rows": options.rows,
        "shots": options.shots,
        "dtype": options.dtype,
    }
    contest.contest(
        __file__,
        options,
        {"prooftune": ours, "lm-eval": harness},
        facts,
        name=f"labels-{options.shots}-shot-{options.dtype}",
    )


def ours(options: argparse.Namespace) -> dict[str, Any]:
    encoder, rows = _rows(options)
    chosen = recipe.Model.model_validate({"name": loading.DEFAULT_MODEL, "dtype": options.dtype})
    model = loading.load_model(loading.resolve(loading.DEFAULT_MODEL), chosen)

    def predict(some: list[list[int]]) -> list[int]:
        best: dict[int, int] = {}
        with autocast(model):
            for numbers, scores in score_labels(
                model, encoder.prefix, some, encoder.label_ids, encoder.stop_token_id
            ):
                best |= dict(zip(numbers, scores.argmax(dim=1).tolist(), strict=True))
        return [best[i] for i in range(len(some))]

    predict(rows[:WARM])  # warm-up, as the harness has several trial runs
    with measure_cost() as cost:
        labels = predict(rows)
    return contest.inference_figures(
        encoder, rows, labels, cost, contest.operations(lambda: predict(rows))
    )


def harness(options: argparse.Namespace) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM

    encoder, rows = _rows(options)
    folder = str(loading.resolve(loading.DEFAULT_MODEL))
    backend: Any = HFLM(
        pretrained=folder,
        dtype=options.dtype,
        device="cuda" if torch.cuda.is_available() else "cpu",
        max_length=2048,
    )
    requests = [
        (("", ""), [*encoder.prefix, *row], list(label))
        for row in rows
        for label in encoder.label_ids
    ]
    backend.batch_size_per_gpu = _fastest(backend, requests[: WARM * len(LABELS)])
    with measure_cost() as cost:
        replies = backend._loglikelihood_tokens(requests, disable_tqdm=True)
    scores = torch.tensor([reply[0] for reply in replies]).view(len(rows), len(LABELS))
    return {
        **contest.inference_figures(encoder, rows, scores.argmax(dim=1).tolist(), cost),
        "batch": backend.batch_size_per_gpu,
    }


def _fastest(backend: Any, requests: list[Any]) -> int:
    seconds = {}
    for size in (
        TRIED[0],
        *TRIED,
    ):  # the first size again: its first run includes warm-up
        backend.batch_size_per_gpu = size
        started = time.perf_counter()
        backend._loglikelihood_tokens(requests, disable_tqdm=True)
        seconds[size] = time.perf_counter() - started
    return min(seconds, key=lambda size: seconds[size])


def _rows(options: argparse.Namespace) -> tuple[PromptEncoder, list[list[int]]]:
    """The encoder with its few-shot examples, and the prompts after the shared prefix."""
    with (options.data / "ag_news" / "alps_tsv" / "test.tsv").open(
        encoding="utf-8", newline=""
    ) as file:
        lines = [
            line
            for line in csv.reader(file, delimiter="\t")
            if len(line) == 2 and line[1] in LABELS
        ]
    test_lines, rest = lines[: options.rows], lines[options.rows :]
    of_label = [
        [Shot({"text": text}, label) for text, label in rest if label == name and len(text) < 200]
        for name in LABELS
    ]
    shots = tuple(
        itertools.islice(
            (shot for turn in zip(*of_label, strict=False) for shot in turn), options.shots
        )
    )
    tokenizer = loading.load_tokenizer(loading.resolve(loading.DEFAULT_MODEL))
    template = default_template("classification", ["text"], "")
    encoder = PromptEncoder(
        Rendering(template, LABELS, chat=True, max_length=1600, shots=shots), tokenizer, ["text"]
    )
    return encoder, [encoder.encode({"text": text}).token_ids for text, _ in test_lines]


if __name__ == "__main__":
    main()
