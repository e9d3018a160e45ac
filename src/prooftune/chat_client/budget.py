"""Limits in requests, tokens and money, which hold before a request is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prooftune.chat_client.types import ChatRequest, Reply
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
    """Requests sent, and tokens; ``uncounted`` of the requests are in them with their bounds."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    @property
    def tokens(self) -> int:
        """Input and output tokens."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request that is about to be sent, and its number in the ledger.

    Attributes:
        text_bytes: UTF-8 bytes of its messages.
        markup: upper bound of the tokens that a chat template adds to them.
        max_tokens: most tokens of its reply.
    """

    text_bytes: int
    markup: int
    max_tokens: int
    number: int = 0


class Budget:
    """What was spent, over all runs, and what requests on the way may spend at most.

    A request is refused if its upper bound, with those of the requests on the way, could exceed a
    limit: the tokens of a text are at most its UTF-8 bytes. A server may count more (its own
    prompt, reasoning beyond the limit), so the bound also follows its past counts. Only one
    event loop may use a budget.

    Attributes:
        spent: by all finished requests, and at most by those that were on the way in a killed run.
        ended: number of requests of this run that have been settled.
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
        self.ended = self._answered = 0
        self._least_prompt: int | None = None
        self._prompt_excess = self._completion_excess = 1.0
        entries = _last_entries(ledger)
        for entry in entries:
            self._add(*entry)
        self._next_number = len(entries)
        _end_last_line(ledger)

    @property
    def on_the_way(self) -> int:
        """Number of requests that were sent and have not been settled."""
        return len(self._reserved)

    @property
    def must_wait(self) -> bool:
        """Whether the next request waits until another one ends, since nobody knows its bound yet.

        Without a reply that shows how the server counts, many requests at once could all cost more
        than their bounds. Their number grows with every reply, so that a server that reports no
        usage does not slow a run.
        """
        limited = self.limits.tokens is not None or self.limits.money is not None
        return limited and self._least_prompt is None and len(self._reserved) > self._answered

    @property
    def money(self) -> float:
        """What the spent tokens cost."""
        return self.limits.price(self.spent.prompt_tokens, self.spent.completion_tokens)

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

    def possible_excess(
        self, requests: Iterable[ChatRequest], max_tokens: int
    ) -> list[tuple[str, str, str]]:
        """Name, total and limit of what requests exceed if all of them cost their bounds."""
        return list(self._exceeded([_reservation(request, max_tokens) for request in requests]))

    def _exceeded(self, reservations: Sequence[Reservation]) -> Iterator[tuple[str, str, str]]:
        """Name, total and limit of every limit that the spent and the reserved would exceed."""
        bounds = [self._bound(item) for item in reservations]
        prompt = self.spent.prompt_tokens + sum(bound[0] for bound in bounds)
        completion = self.spent.completion_tokens + sum(bound[1] for bound in bounds)
        limits = self.limits
        totals = {
            "requests": (self.spent.requests + len(bounds), limits.requests),
            "tokens": (prompt + completion, limits.tokens),
            "money": (limits.price(prompt, completion), limits.money),
        }
        for name, (total, limit) in totals.items():
            if limit is not None and total > limit:
                yield name, f"{total:,.10g}", f"{limit:,.10g}"

    def reserve(self, request: ChatRequest, max_tokens: int) -> Reservation:
        """Reserve the upper bound of a request that is about to be sent.

        Raises:
            BudgetExceeded: it could exceed the budget.
        """
        reservation = _reservation(request, max_tokens, self._next_number)
        # Requests on their way may all cost their bound: only then is the budget never exceeded.
        for name, total, limit in self._exceeded([*self._reserved, reservation]):
            raise BudgetExceeded(
                f"{name}: the next request could bring {total} in all, and the budget is {limit}"
            )
        # Before it is sent: a kill would else hide requests that the server answers and bills.
        self._write(reservation.number, *self._bound(reservation), counted=False)
        self._reserved.append(reservation)
        self._next_number += 1
        return reservation

    def settle(
        self, reservation: Reservation, prompt_tokens: int | None, completion_tokens: int | None
    ) -> None:
        """Replace a reservation by what the request used; None: unknown, so the upper bound."""
        self._answered += 1
        self._learn(reservation, prompt_tokens, completion_tokens)
        # A server that reports no usage is charged the bound.
        prompt, completion = self._bound(reservation)
        self._end(
            reservation,
            prompt if prompt_tokens is None else prompt_tokens,
            completion if completion_tokens is None else completion_tokens,
            counted=prompt_tokens is not None and completion_tokens is not None,
        )

    def settle_refused(self, reservation: Reservation) -> None:
        """Give back the reservation of a request for which no provider asks money."""
        self._end(reservation, 0, 0, counted=True)

    def _end(
        self, reservation: Reservation, prompt_tokens: int, completion_tokens: int, counted: bool
    ) -> None:
        self._reserved.remove(reservation)
        self.ended += 1
        self._add(prompt_tokens, completion_tokens, counted)
        self._write(reservation.number, prompt_tokens, completion_tokens, counted)

    def learn(self, request: ChatRequest, max_tokens: int, reply: Reply) -> None:
        """Learn from an earlier reply how the server counts."""
        reservation = _reservation(request, max_tokens)
        self._learn(reservation, reply.prompt_tokens, reply.completion_tokens)

    def _learn(
        self, reservation: Reservation, prompt_tokens: int | None, completion_tokens: int | None
    ) -> None:
        if prompt_tokens is not None:
            # Tokens that the server adds to every request are fewer than those of any whole one.
            least = self._least_prompt
            self._least_prompt = prompt_tokens if least is None else min(least, prompt_tokens)
            expected = reservation.text_bytes + max(reservation.markup, self._least_prompt)
            self._prompt_excess = max(self._prompt_excess, prompt_tokens / expected)
        if completion_tokens is not None:
            excess = completion_tokens / reservation.max_tokens
            self._completion_excess = max(self._completion_excess, excess)

    def _bound(self, reservation: Reservation) -> tuple[int, int]:
        """Upper bounds of prompt and completion tokens, by all that is known of the server."""
        prompt = reservation.text_bytes + max(reservation.markup, self._least_prompt or 0)
        return (
            math.ceil(prompt * self._prompt_excess),
            math.ceil(reservation.max_tokens * self._completion_excess),
        )

    def _write(
        self, number: int, prompt_tokens: int, completion_tokens: int, counted: bool
    ) -> None:
        """Append an entry to the ledger.

        Raises:
            Failure: the ledger cannot be written.
        """
        if self._ledger is None:
            return
        tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        line = json.dumps({"request": number, **tokens, "counted": counted})
        try:
            self._ledger.parent.mkdir(parents=True, exist_ok=True)
            with self._ledger.open("a", encoding="utf-8") as handle:
                handle.write(line + "\n")
        except OSError as error:
            raise Failure(f"{self._ledger} cannot be written: {error}") from error

    def _add(self, prompt_tokens: int, completion_tokens: int, counted: bool) -> None:
        self.spent.requests += 1
        self.spent.uncounted += not counted
        self.spent.prompt_tokens += prompt_tokens
        self.spent.completion_tokens += completion_tokens


def _reservation(request: ChatRequest, max_tokens: int, number: int = 0) -> Reservation:
    """Of a request. Bytes bound tokens from above for every tokenizer that works on bytes, so that
    no tokenizer of a stranger's model is needed."""
    texts = [message["content"].encode() for message in request["messages"]]
    return Reservation(sum(map(len, texts)), MESSAGE_TOKENS * len(texts), max_tokens, number)


def prompt_bound(request: ChatRequest) -> int:
    """Upper bound of a request's prompt tokens, before anything is known of the server."""
    reservation = _reservation(request, 0)
    return reservation.text_bytes + reservation.markup


def _end_last_line(ledger: Path | None) -> None:
    """End a line that a kill cut off: the next entry would be appended to it, and both lost."""
    if ledger is None or not ledger.is_file() or ledger.read_bytes()[-1:] in (b"", b"\n"):
        return
    with ledger.open("a", encoding="utf-8") as handle:
        handle.write("\n")


def _last_entries(ledger: Path | None) -> list[tuple[int, int, bool]]:
    """Prompt and completion tokens of every request in the ledger, by its last entry, and whether
    the server counted them.

    A line that a kill cut off is left out. Lines of version 0.2 have no number and are one request
    each; those and some later ones do not say who counted.
    """
    entries: dict[object, tuple[int, int, bool]] = {}
    lines = ledger.read_text("utf-8").splitlines() if ledger and ledger.is_file() else []
    for position, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        key = entry.get("request", ("line", position))
        tokens = int(entry["prompt_tokens"]), int(entry["completion_tokens"])
        entries[key] = *tokens, bool(entry.get("counted", True))
    return list(entries.values())
