"""Parity: agreement of an exported artefact and its bundle on the golden set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prooftune.bundle.golden import GoldenRow
from prooftune.bundle.manifest import Manifest
from prooftune.evaluation.intervals import paired_difference, wilson_interval
from prooftune.exporters.compare_outputs import GoldenResult, tokenize_by_part
from prooftune.exporters.runtimes import Runtime
from prooftune.utils.profiling import Cost

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SEED = 0


@dataclass(frozen=True, slots=True)
class ParityLimits:
    """Limits that an export must meet.

    Attributes:
        agreement: smallest share of golden rows with the bundle's label. For free text: smallest
            share of the answer's tokens that are the export's argmax under teacher forcing, since
            one near-tie can change the rest of a generated text.
        difference: largest mean log-probability difference, in nats.
    """

    agreement: float
    difference: float


@dataclass(frozen=True, slots=True)
class Metric:
    """The study's metric on golden rows with a target, for bundle and export.

    Attributes:
        name: accuracy, example-based F1 (label sets), or F1 (answers).
        bundle, export: means.
        low, high: paired bootstrap interval (95%) of `export` - `bundle`.
        n: number of rows.
    """

    name: str
    bundle: float
    export: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Parity:
    """Results of the check of one export.

    Attributes:
        runtime: library that ran it, with its version.
        rows: number of golden rows.
        agreement, agreement_low, agreement_high: share of rows with the bundle's output, and its
            Wilson interval (95%).
        max_difference, mean_difference: log-probability differences in nats, over rows and labels
            (answers: per token); None if no row has one.
        token_agreement: share of the tokens of the bundle's answers that are the export's argmax
            under teacher forcing; None if labels are compared.
        retokenization_match: share of rows whose prompt has the same token ids when it is tokenized
            as a single text; None if not measured.
        metric: the study's metric; None without targets.
        seconds, rows_per_second: run time, one row at a time.
        peak_memory_bytes: peak memory of this process (with a GPU: of the GPU), loading included.
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
        """Limits that are not met, one sentence each."""
        misses = []
        if self.token_agreement is not None:
            if self.token_agreement < limits.agreement:
                misses.append(
                    f"{self.token_agreement:.1%} of the tokens of the bundle's answers are the "
                    "export's too; "
                    f"{limits.agreement:.1%} must be"
                )
        elif self.agreement < limits.agreement:
            misses.append(
                f"{self.agreement:.1%} of {self.rows} golden rows get the bundle's answer; "
                f"{limits.agreement:.1%} must"
            )
        # Written with `not <=`, so that NaN misses the limit.
        if self.mean_difference is not None and not self.mean_difference <= limits.difference:
            misses.append(
                f"log-probabilities differ by {self.mean_difference:.4g} nats on average (at most "
                f"{self.max_difference:.4g}); {limits.difference:g} are allowed"
            )
        return misses


def summarize_parity(
    runtime: str,
    results: Sequence[GoldenResult],
    retokenization_match: Sequence[bool],
    cost: Cost,
    load_seconds: float,
    metric: str,
) -> Parity:
    """Aggregate the results of the golden rows.

    Args:
        runtime: library that ran the rows, with its version.
        results: one result per golden row.
        retokenization_match: per row, whether tokenizing its prompt as a single text gives the
            golden ids; empty if not measured.
        cost: time and memory of loading and running.
        load_seconds: seconds of `cost` spent on loading.
        metric: name of the results' quality.
    """
    agreeing, rows = sum(result.agrees for result in results), len(results)
    # Wilson's interval, since the share is close to 1.
    low, high = wilson_interval(agreeing, rows, 0.95)
    differences = [value for result in results for value in result.differences]
    tokens = [result.tokens for result in results if result.tokens is not None]
    token_agreement = sum(n for n, _ in tokens) / sum(n for _, n in tokens) if tokens else None
    # Speed is that of running alone; memory includes loading, whose peak may be the higher one.
    seconds = cost.seconds - load_seconds
    return Parity(
        runtime,
        rows,
        agreeing / rows,
        low,
        high,
        max(differences, default=None),
        float(np.mean(differences)) if differences else None,
        token_agreement,
        float(np.mean(retokenization_match)) if retokenization_match else None,
        _metric(results, metric),
        seconds,
        rows / seconds,
        cost.peak_memory_bytes,
    )


def _metric(results: Sequence[GoldenResult], name: str) -> Metric | None:
    pairs = [
        (result.quality, result.reference)
        for result in results
        if result.quality is not None and result.reference is not None
    ]
    if not pairs:
        return None
    export, bundle = np.array(pairs, dtype=np.float64).T
    # Paired, since both answered the same rows: their common difficulty cancels.
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
    reference: PreTrainedTokenizerBase,
) -> str | None:
    """Describe how the artefact's tokenizer differs from the bundle's; None if it does not.

    Args:
        runtime: the loaded artefact.
        manifest: the bundle's manifest.
        rows: the golden rows.
        text: row -> its whole prompt as text.
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
        misses = [
            (
                tokenize_by_part(runtime, manifest, row),
                row.prompt,
                "with its parts tokenised one by one",
            ),
            (ids, list(reference(whole).input_ids), "tokenised as one text"),
        ]
        for exported_ids, golden_ids, method in misses:
            if exported_ids != golden_ids:
                return (
                    f"tokenisation: the prompt of row {row.id}, {method}, "
                    f"{first_difference(exported_ids, golden_ids, reference)}"
                )
    return None


def first_difference(
    exported_ids: Sequence[int], golden_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> str:
    """Describe the first difference between the artefact's token ids and the bundle's."""
    position = next(
        (i for i, (a, b) in enumerate(zip(exported_ids, golden_ids, strict=False)) if a != b),
        min(len(exported_ids), len(golden_ids)),
    )

    def describe(ids: Sequence[int]) -> str:
        return (
            f"{tokenizer.decode([ids[position]])!r} (id {ids[position]})"
            if position < len(ids)
            else "nothing more"
        )

    context = str(tokenizer.decode(list(golden_ids[max(0, position - 8) : position])))
    return (
        f"differs first at token {position}, after {context!r}: {describe(exported_ids)} in the "
        "export, "
        f"{describe(golden_ids)} in the bundle "
        f"({len(exported_ids)} and {len(golden_ids)} tokens)"
    )
