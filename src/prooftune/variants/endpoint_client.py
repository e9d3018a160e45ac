"""Predicts rows with an endpoint: cached replies, a budget, retries of broken replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np

from prooftune.chat_client import cache
from prooftune.chat_client.budget import Budget, BudgetExceeded, Limits
from prooftune.chat_client.failures import (
    CLIENT_ERROR,
    CONNECTION_LOST,
    DEADLINE_REACHED,
    NO_CHOICES,
    NOT_JSON,
    TIMED_OUT,
    UNBILLED,
    WRONG_SHAPE,
)
from prooftune.chat_client.parameters import RequestParameters
from prooftune.chat_client.streaming import stream_replies
from prooftune.chat_client.types import ChatRequest, Reply
from prooftune.errors import Failure
from prooftune.recipe.endpoint import Endpoint, SpendingLimit
from prooftune.tasks.chat_messages import chat_messages, label_log_probs
from prooftune.tasks.rendering import Rendering
from prooftune.types import Example, Prediction
from prooftune.utils.label_parsing import parse_label
from prooftune.utils.progress import notify, progress_bar
from prooftune.variant_details import EndpointUsage
from prooftune.variants.context import VariantContext

TOP_LOGPROBS = 20
"""Alternatives per token that are asked for: the most that OpenAI gives."""


TRANSIENT = ({*UNBILLED} - {CLIENT_ERROR}) | {TIMED_OUT, DEADLINE_REACHED, CONNECTION_LOST}
"""Failures that say nothing about the model: a row that ends with one has no prediction yet."""


BROKEN_REPLY = (NOT_JSON, NO_CHOICES, WRONG_SHAPE)


ROUNDS = 3
"""Times that a row with a broken reply is asked; after these it counts as invalid."""


REPLIES_FOLDER = "replies"


class EndpointClient:
    """Predicts rows with an endpoint, within its budget.

    Attributes:
        replies: to the last rows that were predicted.
    """

    def __init__(self, settings: Endpoint, name: str, context: VariantContext) -> None:
        self.replies: list[Reply] = []
        self._settings, self._section = settings, f"variants.{name}.endpoint"
        # Learnt once for all splits and prompts.
        self._parameters = RequestParameters()
        self._recipe = context.recipe
        self._folder = context.variants_folder.parent / REPLIES_FOLDER
        budget, price = settings.budget, settings.price
        self._budget = Budget(
            Limits(
                budget.requests,
                budget.tokens,
                budget.money,
                price.input if price else 0.0,
                price.output if price else 0.0,
            ),
            self._folder / f"spent-{name}.jsonl",
        )

    def predict(
        self, rendering: Rendering, examples: Sequence[Example], description: str
    ) -> list[Prediction]:
        """Predict the examples, in their order. Their targets are not used.

        Raises:
            Failure: the budget would be exceeded, or rows have no reply.
        """
        self.replies = self._ask(self._requests(rendering, examples), description)
        asks_labels = self._recipe.task == "classification"
        predict = _label_prediction if asks_labels else self._answer_prediction
        return [
            predict(example, reply, rendering)
            for example, reply in zip(examples, self.replies, strict=True)
        ]

    def check_budget(self, *plans: Iterable[tuple[Rendering, Sequence[Example]]]) -> None:
        """Check, before the first is sent, that the budget has as many requests as a plan needs.

        Prints a note if the budget of tokens or money could end before the plan does.

        Args:
            plans: alternatives, each the rows that a variant asks for with their renderings.

        Raises:
            Failure: every plan needs more requests.
        """
        if self._settings.budget == SpendingLimit():
            return
        missing = min(map(self._missing, plans), key=len)
        try:
            self._budget.check_requests(len(missing))
        except BudgetExceeded as error:
            raise self._stopped(error) from None
        possible = self._budget.possible_excess(missing, self._settings.max_tokens)
        for name, total, limit in possible:
            notify(
                f"  {self._section}.budget: {name}: {len(missing):,} requests could bring up to "
                f"{total} in all, and the budget is {limit}. Once it is used up, the study "
                "stops and keeps the replies",
                "dim",
            )

    def _missing(self, plan: Iterable[tuple[Rendering, Sequence[Example]]]) -> list[ChatRequest]:
        """Different requests of a plan without a reply so far."""
        by_key = {
            cache.cache_key(request, self._settings): request
            for rendering, rows in plan
            for request in self._requests(rendering, rows)
        }
        return [request for key, request in by_key.items() if cache.load(self._folder, key) is None]

    def _requests(self, rendering: Rendering, examples: Sequence[Example]) -> list[ChatRequest]:
        requests: list[ChatRequest] = [
            {"messages": chat_messages(rendering, example.inputs)} for example in examples
        ]
        if self._recipe.task == "classification" and self._settings.logprobs == "auto":
            for request in requests:
                request["top_logprobs"] = TOP_LOGPROBS
        return requests

    def _ask(self, requests: Sequence[ChatRequest], description: str) -> list[Reply]:
        """A reply to every request. Equal requests are sent once."""
        keys = [cache.cache_key(request, self._settings) for request in requests]
        by_key = dict(zip(keys, requests, strict=True))
        replies = {key: reply for key in by_key if (reply := cache.load(self._folder, key))}
        for key, reply in replies.items():
            self._budget.learn(by_key[key], self._settings.max_tokens, reply)
        with progress_bar(description, len(by_key)) as progress:
            progress.advance(0, len(replies))  # type: ignore[arg-type]
            # Broken replies are not cached, and another attempt may give a whole one.
            for _ in range(ROUNDS):
                missing = {
                    key: request
                    for key, request in by_key.items()
                    if key not in replies or replies[key].failure in BROKEN_REPLY
                }
                if not missing:
                    break
                self._send(missing, replies, progress.advance)
        self._check_complete(replies)
        return [replies[key] for key in keys]

    def _send(
        self, missing: dict[str, ChatRequest], replies: dict[str, Reply], advance: object
    ) -> None:
        def store(key: str, reply: Reply) -> None:
            cache.store(self._folder, key, missing[key], self._settings, reply)

        try:
            stream = stream_replies(
                missing,
                self._settings,
                self._section,
                self._budget,
                store=store,
                parameters=self._parameters,
            )
            # Closing cancels the requests on the way where the loop ends early.
            with closing(stream):
                for key, reply in stream:
                    # A row that is asked again, after a broken reply, was counted before.
                    if key not in replies:
                        advance(0)  # type: ignore[operator]
                    replies[key] = reply
        except BudgetExceeded as error:
            raise self._stopped(error) from None

    def _stopped(self, error: BudgetExceeded) -> Failure:
        return Failure(
            f"{self._section}.budget: {error}. {self._spent()}. The replies so far are stored: "
            "raise the budget and run again"
        )

    def _spent(self) -> str:
        spent, price = self._budget.spent, self._settings.price
        money = f" and {self._budget.money:.4g} {price.currency}" if price else ""
        total = f"Spent so far: {spent.requests:,} requests, {spent.tokens:,} tokens{money}"
        if spent.uncounted:
            total += f" (without token counts, at their upper bounds: {spent.uncounted:,})"
        return total

    def _check_complete(self, replies: dict[str, Reply]) -> None:
        """Check that no row failed for a reason that says nothing about the model.

        Raises:
            Failure: rows did.
        """
        failed = Counter(r.failure for r in replies.values() if r.failure in TRANSIENT)
        if failed:
            detail = next(
                (r.detail for r in replies.values() if r.failure in TRANSIENT and r.detail), ""
            )
            reasons = ", ".join(f"{reason}: {count:,}" for reason, count in failed.most_common())
            raise Failure(
                f"{self._section}: {sum(failed.values()):,} of {len(replies):,} rows have no reply "
                f"from {self._settings.base_url} after all retries ({reasons}"
                f"{'; ' + detail if detail else ''}). The other replies are kept: run again to ask "
                "for the rest"
            )

    def _answer_prediction(
        self, example: Example, reply: Reply, rendering: Rendering
    ) -> Prediction:
        from prooftune.tasks.question_answering import answer_from_text

        extractive = self._recipe.task == "extractive-qa"
        answer = answer_from_text(reply.text, example, self._recipe.answering, extractive)
        return replace(
            answer,
            # An empty text means "no answer", which is valid, unless the request failed.
            valid=(answer.valid or not answer.output) and not reply.failure,
            prompt_tokens=reply.prompt_tokens or 0,
            generated_tokens=reply.completion_tokens or 0,
        )

    def usage(self, replies: Sequence[Reply]) -> EndpointUsage:
        """What these replies used, and what was spent in all."""
        price, spent = self._settings.price, self._budget.spent
        # Not every server reports its usage with every reply: the mean is that of those which do,
        # since the others would count as free.
        counted = [
            (r.prompt_tokens, r.completion_tokens)
            for r in replies
            if r.prompt_tokens is not None and r.completion_tokens is not None
        ]
        prompt, completion = sum(p for p, _ in counted), sum(c for _, c in counted)
        mean = None
        if price and counted:
            mean = self._budget.limits.price(prompt, completion) / len(counted)
        # A cached reply has the time of the request that it came from.
        seconds = [r.seconds for r in replies if r.seconds]
        p50, p99 = np.percentile(seconds, (50, 99)).tolist() if seconds else (None, None)
        return {
            "model": self._settings.model,
            "requests": len(replies),
            "cached": sum(r.cached for r in replies),
            "sent": spent.requests,
            "without_usage": len(replies) - len(counted),
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "cost": None if mean is None else mean * len(replies),
            "spent": self._budget.money if price else None,
            "cost_per_1000": None if mean is None else 1000 * mean,
            "currency": price.currency if price else None,
            "latency_p50": p50,
            "latency_p99": p99,
            "logprobs": False,
            "failed": dict(Counter(r.failure for r in replies if r.failure)),
        }


def _label_prediction(example: Example, reply: Reply, rendering: Rendering) -> Prediction:
    """The label with the largest probability, or the one in the text."""
    labels = rendering.labels
    label = parse_label(reply.text, labels)
    log_probs = None if reply.logprobs is None else label_log_probs(reply.logprobs, labels)
    if log_probs is not None:
        label = labels[int(np.argmax(log_probs))]
    elif reply.logprobs is not None and label is None:
        # Nothing like a label was written: no label is more probable than another.
        log_probs = tuple(-float(np.log(len(labels))) for _ in labels)
    return Prediction(
        example.id,
        label or "",
        label is not None,
        log_probs or (),
        reply.prompt_tokens or 0,
        0,
        reply.text,
        reply.completion_tokens or 0,
    )
