"""Limits in requests, tokens and money, which hold before a request is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from prooftune.chat_client.types import ChatRequest
from prooftune.errors import Failure

MESSAGE_TOKENS = 16
"""Upper bound of the tokens that a chat template adds to one message."""
_MILLION = 1_000_000


class BudgetExceeded(Exception):
    """The next request could exceed the budget."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The budget and the prices.

    Attributes:
        requests, tokens, money: limits; None: unlimited.
        input_price, output_price: money per million tokens.
    """

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None
    input_price: float = 0.0
    output_price: float = 0.0

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The money that tokens cost."""
        cost = prompt_tokens * self.input_price + completion_tokens * self.output_price
        return cost / _MILLION


@dataclass(slots=True)
class Spent:
    """Requests sent, tokens, and money."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Upper bounds of what a request may use, and its number in the ledger."""

    prompt_tokens: int
    completion_tokens: int
    number: int = 0


class Budget:
    """What was spent, over all runs, and what requests on the way may spend at most.

    A request is refused if its upper bound, with those of the requests on the way, could exceed a
    limit: the tokens of a text are at most its UTF-8 bytes. Only one event loop may use a budget.

    Attributes:
        spent: by all finished requests, and at most by those that were on the way in a killed run.
    """

    def __init__(self, limits: Limits, ledger: Path | None = None) -> None:
        """Read what earlier runs spent.

        Args:
            limits: the budget.
            ledger: JSON lines: the upper bound of a request before it is sent, and what it used
                once it has ended, both with its number. Of a killed run, the bounds count for the
                requests that were on the way. None: nothing is kept.
        """
        self.limits, self._ledger = limits, ledger
        self.spent = Spent()
        self._reserved: list[Reservation] = []
        entries = _last_entries(ledger)
        for prompt_tokens, completion_tokens in entries:
            self._add(prompt_tokens, completion_tokens)
        self._next_number = len(entries)
        _end_last_line(ledger)

    @property
    def on_the_way(self) -> int:
        """Number of requests that were sent and have not been settled."""
        return len(self._reserved)

    def check_requests(self, count: int) -> None:
        """Check that so many more requests are allowed, before the first is sent.

        Raises:
            BudgetExceeded: they are not.
        """
        limit = self.limits.requests
        if limit is not None and self.spent.requests + count > limit:
            raise BudgetExceeded(
                f"requests: {count:,} more requests are needed after {self.spent.requests:,}, and "
                f"the budget is {limit:,}"
            )

    def reserve(self, request: ChatRequest, max_tokens: int) -> Reservation:
        """Reserve the upper bound of a request that is about to be sent.

        Raises:
            BudgetExceeded: it could exceed the budget.
        """
        # Bytes bound tokens from above for every tokenizer that works on bytes, so that no
        # tokenizer of a stranger's model is needed.
        bound = Reservation(
            sum(len(m["content"].encode()) + MESSAGE_TOKENS for m in request["messages"]),
            max_tokens,
            self._next_number,
        )
        # Requests on their way may all cost their bound: only then is the budget never exceeded.
        pending = [*self._reserved, bound]
        prompt = sum(item.prompt_tokens for item in pending)
        completion = sum(item.completion_tokens for item in pending)
        spent, limits = self.spent, self.limits
        totals = {
            "requests": (spent.requests + len(pending), limits.requests),
            "tokens": (
                spent.prompt_tokens + spent.completion_tokens + prompt + completion,
                limits.tokens,
            ),
            "money": (spent.money + limits.price(prompt, completion), limits.money),
        }
        for name, (total, limit) in totals.items():
            if limit is not None and total > limit:
                raise BudgetExceeded(f"{name}: the next request could bring {total:,.10g} in all, "
                                     f"and the budget is {limit:,.10g}")  # fmt: skip
        # Before it is sent: a kill would else hide requests that the server answers and bills.
        self._write(bound.number, bound.prompt_tokens, bound.completion_tokens)
        self._reserved.append(bound)
        self._next_number += 1
        return bound

    def settle(
        self, bound: Reservation, prompt_tokens: int | None, completion_tokens: int | None
    ) -> None:
        """Replace a reservation by what the request used; None: unknown, so the upper bound."""
        self._reserved.remove(bound)
        # A server that reports no usage is charged the bound.
        prompt = bound.prompt_tokens if prompt_tokens is None else prompt_tokens
        completion = bound.completion_tokens if completion_tokens is None else completion_tokens
        self._add(prompt, completion)
        self._write(bound.number, prompt, completion)

    def _write(self, number: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Append an entry to the ledger.

        Raises:
            Failure: the ledger cannot be written.
        """
        if self._ledger is None:
            return
        tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        line = json.dumps({"request": number, **tokens})
        try:
            self._ledger.parent.mkdir(parents=True, exist_ok=True)
            with self._ledger.open("a", encoding="utf-8") as handle:
                handle.write(line + "\n")
        except OSError as error:
            raise Failure(f"{self._ledger} cannot be written: {error}") from error

    def _add(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.spent.requests += 1
        self.spent.prompt_tokens += prompt_tokens
        self.spent.completion_tokens += completion_tokens
        self.spent.money += self.limits.price(prompt_tokens, completion_tokens)


def _end_last_line(ledger: Path | None) -> None:
    """End a line that a kill cut off: the next entry would be appended to it, and both lost."""
    if ledger is None or not ledger.is_file() or ledger.read_bytes()[-1:] in (b"", b"\n"):
        return
    with ledger.open("a", encoding="utf-8") as handle:
        handle.write("\n")


def _last_entries(ledger: Path | None) -> list[tuple[int, int]]:
    """Prompt and completion tokens of every request in the ledger, by its last entry.

    A line that a kill cut off is left out. Lines of version 0.2 have no number and are one request
    each.
    """
    entries: dict[object, tuple[int, int]] = {}
    lines = ledger.read_text("utf-8").splitlines() if ledger and ledger.is_file() else []
    for position, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        key = entry.get("request", ("line", position))
        entries[key] = int(entry["prompt_tokens"]), int(entry["completion_tokens"])
    return list(entries.values())
