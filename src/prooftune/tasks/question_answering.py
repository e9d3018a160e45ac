"""Question answering: predict answers with a prompt encoder and a model.

A context that is too long for one prompt is split into overlapping windows; the answer comes from
the most confident window. Where a question may have no answer, the log-probability of "no answer"
is computed too, so that a threshold between the two can be chosen on validation rows (Rajpurkar et
al. 2018, arXiv 1806.03822).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from prooftune.engine.generation import generate
from prooftune.engine.precision import autocast
from prooftune.engine.sequences import Generated
from prooftune.engine.token_budget import token_budget
from prooftune.recipe import Answering, Task
from prooftune.recipe.model import CPU_ANSWERING_TOKENS
from prooftune.tasks.citations import parse_citations, resolve_citations
from prooftune.tasks.prompt_encoding import EncodedPrompt, PromptEncoder
from prooftune.tasks.rendering import TokenPair
from prooftune.types import CONTEXT, Example, Prediction
from prooftune.utils.progress import Subtask, progress_bar
from prooftune.utils.words import normalize_words

_CANDIDATES = 64
"""Number of most likely tokens that constrained decoding tries at each step."""


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
        examples: their references are not used.
        settings: limits, and the text for "no answer".
        task: ``extractive-qa`` or ``free-text-qa``.
        description: text of the progress bar, or the bar of which this is a part; None: no bar.
    """
    windows = [encoder.sliding_windows(example.inputs) for example in examples]
    # All windows of all questions form the rows of one generation.
    rows = [window for example_windows in windows for window in example_windows]
    is_extractive = task == "extractive-qa"
    no_answer_ids = (
        (*encoder.encode_answer(settings.no_answer), encoder.stop_token_id) if is_extractive else ()
    )
    select_token = _span_selector(encoder, rows) if is_extractive and settings.constrained else None
    generated: list[Generated] = [Generated() for _ in rows]
    with autocast(model), progress_bar(description, len(rows)) as progress:
        for indices, outputs in generate(
            model,
            encoder.prefix,
            [r.token_ids for r in rows],
            encoder.stop_token_id,
            max_new_tokens=settings.max_new_tokens,
            batch_tokens=token_budget(
                model,
                settings.batch_tokens,
                CPU_ANSWERING_TOKENS,
                prefix_length=len(encoder.prefix),
                # A row's prompt and its answer, one position at a time.
                logits_per_token=1 / settings.max_new_tokens,
                keeps_cache=True,
            ),
            alternative_ids=no_answer_ids,
            token_selector=select_token,
        ):
            for index, output in zip(indices, outputs, strict=True):
                generated[index] = output
            progress.advance(0, len(indices))  # type: ignore[arg-type]
    return predictions_from_answers(encoder, examples, windows, generated, settings, task)


def predictions_from_answers(
    encoder: PromptEncoder,
    examples: Sequence[Example],
    windows: Sequence[list[EncodedPrompt]],
    generated: Sequence[Generated],
    settings: Answering,
    task: Task,
) -> list[Prediction]:
    """Predictions from generated answers, whatever library generated them.

    Args:
        encoder: rendered the prompts.
        examples: the questions.
        windows: prompts of every question.
        generated: the answers to the prompts of all questions, in order.
        settings: see `predict`.
        task: see `predict`.
    """
    is_extractive = task == "extractive-qa"
    predictions, start = [], 0
    for example, example_windows in zip(examples, windows, strict=True):
        end = start + len(example_windows)
        predictions.append(
            _prediction(
                encoder, example, example_windows, generated[start:end], settings, is_extractive
            )
        )
        start = end
    return predictions


def _prediction(
    encoder: PromptEncoder,
    example: Example,
    windows: Sequence[EncodedPrompt],
    generated: Sequence[Generated],
    settings: Answering,
    is_extractive: bool,
) -> Prediction:
    # Of equally confident windows, the first.
    best = max(range(len(generated)), key=lambda i: (_confidence(generated[i]), -i))
    best_output = generated[best]
    text = encoder.decode_answer(best_output.ids).strip()
    if (
        is_extractive
        and settings.constrained
        and not _is_span(text, encoder.decode(windows[best].window_ids), whole=True)
    ):
        # The token limit, or no valid continuation, ended the answer within a word: drop that word.
        text = text.rpartition(" ")[0]
    prediction = answer_from_text(text, example, settings, is_extractive)
    if is_extractive:
        # The more likely of the two; a threshold chosen on validation rows may change this later.
        is_no_answer = (
            best_output.no_answer_log_prob is not None
            and best_output.no_answer_log_prob > best_output.log_prob
        )
        prediction = replace(prediction, output="" if is_no_answer else prediction.raw)
    return replace(
        prediction,
        prompt_tokens=sum(len(encoder.prefix) + len(w.token_ids) for w in windows),
        truncated_tokens=sum(w.truncated_tokens for w in windows),
        generated_tokens=len(best_output.ids) + best_output.stopped,
        answer_log_prob=best_output.log_prob,
        no_answer_log_prob=best_output.no_answer_log_prob,
        windows=len(windows) if CONTEXT in example.inputs else 0,
    )


def answer_from_text(
    text: str, example: Example, settings: Answering, is_extractive: bool
) -> Prediction:
    """The prediction that a generated text stands for, without its token counts.

    Args:
        text: as generated.
        example: the question, with its context and passages.
        settings: the text for "no answer".
        is_extractive: whether an answer must be a span of the context to be valid.
    """
    answer, ids = parse_citations(text.strip())
    words = normalize_words(answer)
    is_no_answer = words == normalize_words(settings.no_answer)
    context = normalize_words(example.inputs.get(CONTEXT, ""))
    cited, unknown = resolve_citations(ids, example.passages)
    # With spaces at both ends, so that only whole words match.
    is_span = f" {words} " in f" {context} "
    return Prediction(
        id=example.id,
        output="" if is_no_answer else answer,
        valid=not is_extractive or not answer or is_span,
        raw=answer,
        retrieved=example.passages,
        cited=tuple(cited),
        unknown_citations=len(unknown),
    )


def _confidence(output: Generated) -> float:
    """Confidence of a window's answer: its log-odds against "no answer"; where that is no option,
    the mean log-probability of its tokens."""
    if output.no_answer_log_prob is None:
        # One more for the stop token.
        return output.log_prob / (len(output.ids) + 1)
    return output.log_prob - output.no_answer_log_prob


def _span_selector(
    encoder: PromptEncoder, rows: Sequence[EncodedPrompt]
) -> Callable[[int, list[int], Tensor], int]:
    """A token selector that constrains each answer to a span of words of its window."""
    contexts = [encoder.decode(row.window_ids) for row in rows]

    def select_token(index: int, ids: list[int], log_probs: Tensor) -> int:
        answer = encoder.decode(ids).strip()
        for token in torch.topk(log_probs, min(_CANDIDATES, len(log_probs))).indices.tolist():
            if token == encoder.stop_token_id:
                if _is_span(answer, contexts[index], whole=True):
                    return int(token)
            elif _is_span(encoder.decode([*ids, token]).strip(), contexts[index], whole=False):
                return int(token)
        # No candidate continues a span of the context.
        return encoder.stop_token_id

    return select_token


def _is_span(text: str, context: str, *, whole: bool) -> bool:
    """Whether a text occurs in a context at the start of a word, and with `whole` up to the end of
    a word."""
    # Not \b, which would find no answer that begins or ends with a sign.
    pattern = r"(?<!\w)" + re.escape(text) + (r"(?!\w)" if whole else "")
    return bool(text) and re.search(pattern, context) is not None


def instruction_pairs(
    examples: Iterable[Example], encoder: PromptEncoder, settings: Answering, task: Task
) -> Iterator[TokenPair]:
    """Token ids of every training row's prompt and answer, and of a conversation where the
    assistant spoke before.

    Extractive questions give one row per window; a window without the answer is trained to say "no
    answer". Free-text questions give one row: the window that shares the most words with the
    answer.
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
            target_words = set(normalize_words(target).split())
            pairs = [
                (
                    max(
                        windows,
                        key=lambda w: len(
                            target_words
                            & set(normalize_words(encoder.decode(w.window_ids)).split())
                        ),
                    ),
                    target,
                )
            ]
        yield from (
            (window.token_ids, encoder.encode_answer(answer), window.earlier_answers)
            if window.earlier_answers
            else (window.token_ids, encoder.encode_answer(answer))
            for window, answer in pairs
        )
