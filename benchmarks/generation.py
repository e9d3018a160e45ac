"""Question answering on SQuAD against transformers' ``generate``, batched and one by one.

    python benchmarks/generation.py --data FOLDER [--rows 64] [--apart] [--dtype bfloat16]
    [--repeats 3] [--only NAME ...]

FOLDER contains the public data sets (squad_v2/). All use the same token ids. Greedy decoding of at
most 24 tokens with the embedded model, until the stop token of its chat template. ``generate`` uses
its own KV cache and the fastest batch size of 4, 8, 16 and 32 in a trial, with rows sorted by
length, longest first. Prooftune does not score "unanswerable", as ``generate`` does not either. The
questions are all those of paragraphs far apart in the data set, which Prooftune prefills once per
paragraph; with ``--apart`` every question has its own paragraph.
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
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
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
        texts: dict[int, str] = {}
        with autocast(model):
            for numbers, written in generate(
                model, encoder.prefix, some, encoder.stop_token_id, max_new_tokens=NEW
            ):
                texts |= {
                    i: encoder.decode_answer(done.ids)
                    for i, done in zip(numbers, written, strict=True)
                }
        return [texts[i] for i in range(len(some))]

    answers(rows[: max(TRIED)])  # a first try, as `generate` has several
    with measure_cost() as cost:
        outputs = answers(rows)
    return contest.inference_figures(
        encoder, rows, outputs, cost, contest.operations(lambda: answers(rows))
    )


def padded(options: argparse.Namespace) -> dict[str, Any]:
    encoder, rows = _rows(options)
    model = _model(options, "sdpa")
    seconds = {}
    for size in (
        TRIED[0],
        *TRIED,
    ):  # the first size again: its first run includes warm-up
        started = time.perf_counter()
        _library(model, encoder, rows[: max(TRIED)], size)
        seconds[size] = time.perf_counter() - started
    size = min(seconds, key=lambda batch: seconds[batch])
    with measure_cost() as cost:
        answers = _library(model, encoder, rows, size)
    work = contest.operations(lambda: _library(model, encoder, rows, size))
    return {**contest.inference_figures(encoder, rows, answers, cost, work), "batch": size}


def one_by_one(options: argparse.Namespace) -> dict[str, Any]:
    encoder, rows = _rows(options)
    model = _model(options, "sdpa")
    _library(model, encoder, rows[:4], 1)
    with measure_cost() as cost:
        answers = _library(model, encoder, rows, 1)
    return contest.inference_figures(
        encoder, rows, answers, cost, contest.operations(lambda: _library(model, encoder, rows, 1))
    )


def _library(model: Any, encoder: PromptEncoder, rows: list[list[int]], size: int) -> list[str]:
    """Answers of ``generate`` in left-padded batches."""
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
    questions = [
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
        questions = list({question["context"]: question for question in questions}.values())
    contexts = list(dict.fromkeys(question["context"] for question in questions))
    each = round(len(questions) / len(contexts))
    wanted = set(contexts[:: max(1, len(contexts) * each // options.rows)])
    chosen = [question for question in questions if question["context"] in wanted][: options.rows]
    return encoder, [encoder.encode(question).token_ids for question in chosen]


def _model(options: argparse.Namespace, attention: str) -> Any:
    chosen = recipe.Model.model_validate(
        {"name": loading.DEFAULT_MODEL, "dtype": options.dtype, "attention": attention}
    )
    return loading.load_model(loading.resolve(loading.DEFAULT_MODEL), chosen)


if __name__ == "__main__":
    main()
