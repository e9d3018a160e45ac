"""Question answering: an encoder and a model turn questions into answers.

A context that is too long for one prompt is read in windows, and the answer of the window that is
surest of having one is taken. Where a question may have no answer, saying so is scored beside the
best answer, so that a threshold between the two can be chosen afterwards (Rajpurkar et al. 2018,
arXiv 1806.03822).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from prooftune.engine.generation import generate
from prooftune.engine.precision import autocast
from prooftune.engine.sequences import Generated
from prooftune.recipe import Answering, Task
from prooftune.tasks.citations import parse_citations, resolve_citations
from prooftune.tasks.prompts import EncodedPrompt, PromptEncoder
from prooftune.types import CONTEXT, Example, Prediction
from prooftune.utils.progress import Subtask, progress_bar
from prooftune.utils.text import normalize_words

_CANDIDATES = 64
"""Likeliest tokens among which decoding under the constraint looks for one that goes on in the
context."""


def predict(
    model: nn.Module,
    encoder: PromptEncoder,
    examples: Sequence[Example],
    settings: Answering,
    task: Task,
    *,
    description: str | Subtask | None = "Answering",
) -> list[Prediction]:
    """Answer every question, in their order.

    Args:
        model: a causal model.
        encoder: renders the prompts.
        examples: their references are not looked at.
        settings: limits, and how "no answer" is said.
        task: ``extractive-qa`` or ``free-text-qa``.
        description: what the progress bar says, or of which other bar it is a part; None for no
            bar.
    """
    windows = [encoder.sliding_windows(example.inputs) for example in examples]
    rows = [window for several in windows for window in several]
    extracts = task == "extractive-qa"
    instead = (
        (*encoder.encode_answer(settings.no_answer), encoder.stop_token_id) if extracts else ()
    )
    choose = _inside(encoder, rows) if extracts and settings.constrained else None
    written: list[Generated] = [Generated() for _ in rows]
    with autocast(model), progress_bar(description, len(rows)) as shown:
        for numbers, done in generate(
            model,
            encoder.prefix,
            [r.token_ids for r in rows],
            encoder.stop_token_id,
            max_new_tokens=settings.max_new_tokens,
            batch_tokens=settings.batch_tokens,
            alternative_ids=instead,
            token_selector=choose,
        ):
            for number, one in zip(numbers, done, strict=True):
                written[number] = one
            shown.advance(0, len(numbers))  # type: ignore[arg-type]
    predictions, start = [], 0
    for example, several in zip(examples, windows, strict=True):
        end = start + len(several)
        predictions.append(
            _prediction(encoder, example, several, written[start:end], settings, extracts)
        )
        start = end
    return predictions


def _prediction(
    encoder: PromptEncoder,
    example: Example,
    windows: list[EncodedPrompt],
    written: list[Generated],
    settings: Answering,
    extracts: bool,
) -> Prediction:
    best = max(range(len(written)), key=lambda i: (_sureness(written[i]), -i))
    done = written[best]
    text = encoder.decode_answer(done.ids).strip()
    if (
        extracts
        and settings.constrained
        and not _stands(text, encoder.decode(windows[best].window_ids), whole=True)
    ):
        text = text.rpartition(" ")[
            0
        ]  # the limit, or nothing fitting among the likeliest, cut a word in two
    answer, ids = parse_citations(text)
    if extracts:
        says_none = done.no_answer_log_prob is not None and done.no_answer_log_prob > done.log_prob
    else:
        says_none = normalize_words(answer) == normalize_words(settings.no_answer)
    context = normalize_words(example.inputs.get(CONTEXT, ""))
    output = "" if says_none else answer
    cited, unknown = resolve_citations(ids, example.passages)
    return Prediction(
        id=example.id,
        output=output,
        valid=not extracts or not answer or f" {normalize_words(answer)} " in f" {context} ",
        prompt_tokens=sum(len(encoder.prefix) + len(w.token_ids) for w in windows),
        truncated_tokens=sum(w.truncated_tokens for w in windows),
        raw=answer,
        generated_tokens=len(done.ids) + done.stopped,
        answer_log_prob=done.log_prob,
        no_answer_log_prob=done.no_answer_log_prob,
        windows=len(windows) if CONTEXT in example.inputs else 0,
        retrieved=example.passages,
        cited=tuple(cited),
        unknown_citations=len(unknown),
    )


def _sureness(done: Generated) -> float:
    """How sure a window is that it holds the answer; without "no answer" to compare with, of its
    words."""
    if done.no_answer_log_prob is None:
        return done.log_prob / (len(done.ids) + 1)
    return done.log_prob - done.no_answer_log_prob


def _inside(
    encoder: PromptEncoder, rows: Sequence[EncodedPrompt]
) -> Callable[[int, list[int], Tensor], int]:
    """A choice of tokens that keeps the answer a run of words of the row's window."""
    contexts = [encoder.decode(row.window_ids) for row in rows]

    def choose(number: int, ids: list[int], log_probs: Tensor) -> int:
        so_far = encoder.decode(ids).strip()
        for token in torch.topk(log_probs, min(_CANDIDATES, len(log_probs))).indices.tolist():
            if token == encoder.stop_token_id:
                if _stands(so_far, contexts[number], whole=True):
                    return int(token)
            elif _stands(encoder.decode([*ids, token]).strip(), contexts[number], whole=False):
                return int(token)
        return encoder.stop_token_id

    return choose


def _stands(text: str, context: str, *, whole: bool) -> bool:
    """Whether a text stands in a context from the beginning of a word on, and with `whole` to the
    end of one."""
    pattern = r"(?<!\w)" + re.escape(text) + (r"(?!\w)" if whole else "")
    return bool(text) and re.search(pattern, context) is not None


def instruction_pairs(
    examples: Iterable[Example], encoder: PromptEncoder, settings: Answering, task: Task
) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) of every training row: one for each window of an extractive
    question.

    A window without the answer is a question without one. Freely written answers are learned in the
    window that shares the most words with them.
    """
    for example in examples:
        windows = encoder.sliding_windows(example.inputs)
        target = example.target or settings.no_answer
        if len(windows) == 1:
            pairs = [(windows[0], target)]
        elif task == "extractive-qa":
            pairs = [
                (
                    w,
                    target
                    if example.target and example.target in encoder.decode(w.window_ids)
                    else settings.no_answer,
                )
                for w in windows
            ]
        else:
            wanted = set(normalize_words(target).split())
            pairs = [
                (
                    max(
                        windows,
                        key=lambda w: len(
                            wanted & set(normalize_words(encoder.decode(w.window_ids)).split())
                        ),
                    ),
                    target,
                )
            ]
        yield from ((window.token_ids, encoder.encode_answer(said)) for window, said in pairs)
