"""Parity: whether an exported artefact says what the bundle says, measured on the golden set by
another runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prooftune.bundle.golden import GoldenRow
from prooftune.bundle.manifest import Manifest
from prooftune.evaluation.intervals import paired_difference, wilson_interval
from prooftune.exporters.compare_outputs import GoldenResult, tokenize_by_part
from prooftune.exporters.runtimes import Runtime
from prooftune.utils.profiling import Cost

_SEED = 0


@dataclass(frozen=True, slots=True)
class ParityLimits:
    """What an export must reach.

    Attributes:
        agreement: smallest share of golden rows with the bundle's label; of free texts, of their
            tokens that the export too finds the likeliest, since from one undecided token on a
            whole text may go another way.
        difference: largest mean difference of log-probabilities, in nats.
    """

    agreement: float
    difference: float


@dataclass(frozen=True, slots=True)
class Metric:
    """The study's metric on golden rows whose target is known: of the bundle, and how the export
    differs.

    Attributes:
        name: accuracy, or F1.
        bundle, export: means.
        low, high: ends of the paired bootstrap interval (95%) of `export` - `bundle`.
        n: rows.
    """

    name: str
    bundle: float
    export: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Parity:
    """What is recorded of one export.

    Attributes:
        runtime: what ran it, with its version.
        rows: golden rows asked.
        agreement, agreement_low, agreement_high: share of rows with the bundle's answer, and its
            Wilson interval (95%).
        max_difference, mean_difference: of log-probabilities in nats, over rows and labels (of
            answers, by token); None where no row has one.
        token_agreement: share of the tokens of the bundle's free texts that the export too finds
            the likeliest, each behind the bundle's own tokens before it; None where labels are
            compared.
        one_text: share of rows whose prompt comes to the same token ids when it is tokenised as one
            text.
        metric: None where no target is known.
        seconds, rows_per_second: one row at a time.
        peak_memory_bytes: of this process (of the GPU if there is one), loading and asking.
    """

    runtime: str
    rows: int
    agreement: float
    agreement_low: float
    agreement_high: float
    max_difference: float | None
    mean_difference: float | None
    token_agreement: float | None
    retokenization_match: float | None
    metric: Metric | None
    seconds: float
    rows_per_second: float
    peak_memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The record in ``export.json``; ``one_text`` is version 0.1's key."""
        names = {"retokenization_match": "one_text"}
        return {names.get(name, name): value for name, value in asdict(self).items()}

    def misses(self, limits: ParityLimits) -> list[str]:
        """What is short of the limits, one sentence each."""
        found = []
        if self.token_agreement is not None:
            if self.token_agreement < limits.agreement:
                found.append(
                    f"{self.token_agreement:.1%} of the tokens of the bundle's answers are the "
                    "export's too; "
                    f"{limits.agreement:.1%} must be"
                )
        elif self.agreement < limits.agreement:
            found.append(
                f"{self.agreement:.1%} of {self.rows} golden rows get the bundle's answer; "
                f"{limits.agreement:.1%} must"
            )
        if self.mean_difference is not None and not self.mean_difference <= limits.difference:
            found.append(
                f"log-probabilities differ by {self.mean_difference:.4g} nats on average (at most "
                f"{self.max_difference:.4g}); {limits.difference:g} are allowed"
            )
        return found


def summarize_parity(
    runtime: Runtime,
    said: Sequence[GoldenResult],
    retokenization_match: Sequence[bool],
    cost: Cost,
    loaded: float,
    questions: bool,
) -> Parity:
    """Sum up what an artefact said to the golden rows.

    Args:
        runtime: what ran it.
        said: for each row.
        retokenization_match: for each row, whether tokenising its prompt as one text gives the
            golden ids; empty where that was not asked.
        cost: of loading and asking.
        loaded: seconds of `cost` that loading took.
        questions: whether answers are compared, not labels.
    """
    agreeing, rows = sum(one.agrees for one in said), len(said)
    low, high = wilson_interval(agreeing, rows, 0.95)
    differences = [value for one in said for value in one.differences]
    tokens = [one.tokens for one in said if one.tokens is not None]
    same = sum(n for n, _ in tokens) / sum(n for _, n in tokens) if tokens else None
    seconds = cost.seconds - loaded
    return Parity(
        runtime.name,
        rows,
        agreeing / rows,
        low,
        high,
        max(differences, default=None),
        float(np.mean(differences)) if differences else None,
        same,
        float(np.mean(retokenization_match)) if retokenization_match else None,
        _metric(said, "F1" if questions else "accuracy"),
        seconds,
        rows / seconds,
        cost.peak_memory_bytes,
    )


def _metric(said: Sequence[GoldenResult], name: str) -> Metric | None:
    pairs = [
        (one.quality, one.before)
        for one in said
        if one.quality is not None and one.before is not None
    ]
    if not pairs:
        return None
    export, bundle = np.array(pairs, dtype=np.float64).T
    difference = paired_difference(export, bundle, _SEED)
    return Metric(
        name,
        float(bundle.mean()),
        float(export.mean()),
        difference.low,
        difference.high,
        len(pairs),
    )


def tokenization_mismatch(
    runtime: Runtime,
    manifest: Manifest,
    rows: Sequence[GoldenRow],
    text: Callable[[GoldenRow], str],
    reference: Any,
) -> str | None:
    """Where the artefact's tokenizer divides texts otherwise than the bundle's does; None where it
    does not.

    Args:
        runtime: the loaded artefact.
        manifest: the content of ``bundle.json``.
        rows: the golden rows.
        text: the whole prompt of a row as text, as the artefact's users send it.
        reference: the bundle's tokenizer.
    """
    start = reference.bos_token_id
    for row in rows:
        whole = text(row)
        ids = runtime.tokenize(whole, special=True, start=True)
        if start is not None and ids[:2] == [start, start]:
            return (
                f"tokenisation: the prompt of row {row.id} begins with two start tokens "
                f"({reference.decode([start])!r}): the "
                "text brings one, and the artefact adds another"
            )
        found = [
            (
                tokenize_by_part(runtime, manifest, row),
                row.prompt,
                "with its parts tokenised one by one",
            ),
            (ids, list(reference(whole).input_ids), "tokenised as one text"),
        ]
        for here, there, how in found:
            if here != there:
                return (
                    f"tokenisation: the prompt of row {row.id}, {how}, "
                    f"{first_difference(here, there, reference)}"
                )
    return None


def first_difference(here: Sequence[int], there: Sequence[int], tokenizer: Any) -> str:
    """Where two lists of token ids part, in words: of the artefact, and of the bundle."""
    place = next(
        (i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b),
        min(len(here), len(there)),
    )

    def shown(ids: Sequence[int]) -> str:
        return (
            f"{tokenizer.decode([ids[place]])!r} (id {ids[place]})"
            if place < len(ids)
            else "nothing more"
        )

    before = str(tokenizer.decode(list(there[max(0, place - 8) : place])))
    return (
        f"differs first at token {place}, after {before!r}: {shown(here)} in the export, "
        f"{shown(there)} in the bundle "
        f"({len(here)} and {len(there)} tokens)"
    )
