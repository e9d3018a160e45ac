"""How similar texts are to their references: BERTScore, BLEU and ROUGE-L of whole lists in one
call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prooftune.errors import UsageError


@dataclass(frozen=True, slots=True)
class SimilarityEvaluator:
    """Compares candidate texts with references.

        SimilarityEvaluator().evaluate_similarity(["It may be refused."], ["Refusal is allowed."])

    Attributes:
        model: encoder of BERTScore: alias, package reference, folder or hub name; None:
            ``roberta-large`` where a hub delivers it, else the embedding model out of a package.
        layer: of the encoder; None: the one that its authors or ours name for it.
    """

    model: str | None = None
    layer: int | None = None

    def evaluate_similarity(
        self, candidates: Sequence[str], references: Sequence[str | Sequence[str]]
    ) -> dict[str, Any]:
        """Score every candidate against its reference, or the best of its several references.

        Returns:
            ``bertscore`` (``precision``, ``recall``, ``f1``) and ``rougeL`` (0 to 1) as means over
            the list, ``bleu`` of the list as one corpus and ``bleu_mean`` of its sentences (0 to
            100); ``items`` with one such dictionary for each candidate, in order; ``signatures``
            with what computed each; ``shortened``, the number of texts that are longer than the
            encoder reads.

        Raises:
            UsageError: the lists are empty or differ in length, an item has no reference, or a
                library is missing.
            Failure: the encoder could not be fetched or loaded.
        """
        from prooftune.evaluation.answers import bleu, overlap
        from prooftune.evaluation.answers.bertscore import bertscore

        accepted = _checked(candidates, references)
        counts, bleu_signature = bleu.counts(candidates, accepted)
        rouge, rouge_signature = overlap.rouge(candidates, accepted)
        meant = bertscore(candidates, accepted, self.model, self.layer)
        long, single = (
            rouge[:, overlap.ROUGE.index("rougeL")],
            bleu.score(counts, effective_order=True),
        )
        items = [
            {
                "bertscore": {"precision": float(p), "recall": float(r), "f1": float(f)},
                "bleu": float(b),
                "rougeL": float(o),
            }
            for p, r, f, b, o in zip(
                meant.precision, meant.recall, meant.f1, single, long, strict=True
            )
        ]
        return {
            "bertscore": {
                name: float(getattr(meant, name).mean()) for name in ("precision", "recall", "f1")
            },
            "bleu": float(bleu.score(counts.sum(axis=0))),
            "bleu_mean": float(single.mean()),
            "rougeL": float(long.mean()),
            "items": items,
            "shortened": meant.shortened,
            "signatures": {
                "bertscore": meant.signature,
                "bleu": bleu_signature,
                "rougeL": rouge_signature,
            },
        }


def _checked(
    candidates: Sequence[str], references: Sequence[str | Sequence[str]]
) -> list[list[str]]:
    if isinstance(candidates, str) or isinstance(references, str):
        raise UsageError(
            "evaluate_similarity takes lists of candidates and of references; for one pair write "
            "[text], [text]"
        )
    if len(candidates) != len(references):
        raise UsageError(
            f"there are {len(candidates)} candidates and {len(references)} references; each "
            "candidate needs its own"
        )
    if not candidates:
        raise UsageError("there are no candidates to compare")
    accepted = [[r] if isinstance(r, str) else list(r) for r in references]
    for i, (candidate, several) in enumerate(zip(candidates, accepted, strict=True)):
        if (
            not isinstance(candidate, str)
            or not several
            or not all(isinstance(r, str) for r in several)
        ):
            raise UsageError(
                f"item {i} needs a text as candidate and at least one text as reference; "
                f"it has {candidate!r:.80} and {references[i]!r:.80}"
            )
    return accepted
