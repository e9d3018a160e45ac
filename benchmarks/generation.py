"""Answering SQuAD's questions against transformers' ``generate``, in padded batches and one by one,
on the same token ids.

    python benchmarks/generation.py --data FOLDER [--rows 64] [--apart] [--dtype bfloat16]
    [--repeats 3] [--only NAME ...]

FOLDER holds the public data sets (squad_v2/). Greedy decoding of at most 24 tokens by the embedded
model, ended by the stop token of its chat template. ``generate`` has its own cache and is given the
batch size that was the fastest in a first try of 4, 8, 16 and 32, its rows sorted by length,
longest first. Prooftune is not asked to score "unanswerable" beside its answers, which ``generate``
does not either. The questions are all those of paragraphs that lie far apart, which Prooftune reads
once for all of their questions; with ``--apart`` each has a paragraph of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import contest
import torch

from prooftune import recipe
from prooftune.engine.generation import generate
from prooftune.engine.precision import autocast
from prooftune.models import loading
from prooftune.tasks.prompts import PromptEncoder, Rendering
from prooftune.tasks.templates import default_template
from prooftune.utils.profiling import measure_cost

NEW, LONGEST = 24, 512
TRIED = (4, 8, 16, 32)


def main() -> None:
    parser = contest.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--apart", action="store_true", help="one question of each paragraph")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    options = parser.parse_args()
    facts = {
        "model": loading.DEFAULT_MODEL,
        "rows": options.rows,
        "dtype": options.dtype,
        "new_tokens": NEW,
        "apart": options.apart,
    }
    runs = {"prooftune": ours, "generate-padded": padded, "generate-one-by-one": one_by_one}
    contest.contest(
        __file__,
        options,
        runs,
        facts,
        name=f"generation-{options.dtype}{'-apart' if options.apart else ''}",
    )


def ours(options: argparse.Namespace) -> dict[str, Any]:
    encoder, rows = _rows(options)
    model = _model(options, "auto")

    def answers(some: list[list[int]]) -> list[str]:
        found: dict[int, str] = {}
        with autocast(model):
            for numbers, written in generate(
                model, encoder.prefix, some, encoder.stop_token_id, max_new_tokens=NEW
            ):
                found |= {
                    i: encoder.decode_answer(done.ids)
                    for i, done in zip(numbers, written, strict=True)
                }
        return [found[i] for i in range(len(some))]

    answers(rows[: max(TRIED)])  # a first try, as `generate` has several
    with measure_cost() as cost:
        given = answers(rows)
    return contest.asked(encoder, rows, given, cost, contest.operations(lambda: answers(rows)))


def padded(options: argparse.Namespace) -> dict[str, Any]:
    encoder, rows = _rows(options)
    model = _model(options, "sdpa")
    seconds = {}
    for size in (
        TRIED[0],
        *TRIED,
    ):  # the first once more: it was the one that did everything for the first time
        started = time.perf_counter()
        _library(model, encoder, rows[: max(TRIED)], size)
        seconds[size] = time.perf_counter() - started
    size = min(seconds, key=lambda one: seconds[one])
    with measure_cost() as cost:
        answers = _library(model, encoder, rows, size)
    work = contest.operations(lambda: _library(model, encoder, rows, size))
    return {**contest.asked(encoder, rows, answers, cost, work), "batch": size}


def one_by_one(options: argparse.Namespace) -> dict[str, Any]:
    encoder, rows = _rows(options)
    model = _model(options, "sdpa")
    _library(model, encoder, rows[:4], 1)
    with measure_cost() as cost:
        answers = _library(model, encoder, rows, 1)
    return contest.asked(
        encoder, rows, answers, cost, contest.operations(lambda: _library(model, encoder, rows, 1))
    )


def _library(model: Any, encoder: PromptEncoder, rows: list[list[int]], size: int) -> list[str]:
    """Answers of ``generate`` in batches padded on the left."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    answers = [""] * len(rows)
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        prompts = [[*encoder.prefix, *rows[i]] for i in numbers]
        longest = max(map(len, prompts))
        ids = torch.tensor(
            [[encoder.stop_token_id] * (longest - len(prompt)) + prompt for prompt in prompts],
            device=model.device,
        )
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts],
            device=model.device,
        )
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=NEW,
                do_sample=False,
                eos_token_id=encoder.stop_token_id,
                pad_token_id=encoder.stop_token_id,
            )
        for i, written in zip(numbers, out[:, longest:].tolist(), strict=True):
            answers[i] = encoder.decode_answer(written)
    return answers


def _rows(options: argparse.Namespace) -> tuple[PromptEncoder, list[list[int]]]:
    articles = json.loads((options.data / "squad_v2" / "dev-v2.0.json").read_text("utf-8"))["data"]
    asked = [
        {"context": paragraph["context"], "question": question["question"]}
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    tokenizer = loading.load_tokenizer(loading.resolve(loading.DEFAULT_MODEL))
    template = default_template("extractive-qa", ["question", "context"], "unanswerable")
    rendering = Rendering(template, (), chat=True, max_length=LONGEST, answer_tokens=NEW)
    encoder = PromptEncoder(rendering, tokenizer, ["question", "context"])
    if options.apart:
        asked = list({one["context"]: one for one in asked}.values())
    contexts = list(dict.fromkeys(one["context"] for one in asked))
    each = round(len(asked) / len(contexts))
    wanted = set(contexts[:: max(1, len(contexts) * each // options.rows)])
    chosen = [one for one in asked if one["context"] in wanted][: options.rows]
    return encoder, [encoder.encode(one).token_ids for one in chosen]


def _model(options: argparse.Namespace, attention: str) -> Any:
    chosen = recipe.Model.model_validate(
        {"name": loading.DEFAULT_MODEL, "dtype": options.dtype, "attention": attention}
    )
    return loading.load_model(loading.resolve(loading.DEFAULT_MODEL), chosen)


if __name__ == "__main__":
    main()
