"""How similar texts are to their references: BERTScore, BLEU and ROUGE-L of whole lists in one
call."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Sequence
from dataclasses import dataclass
from typing import Any

from prooftune.errors import UsageError


class SimilarityScores(tuple[float, ...]):
    """Three means to unpack, each 0 to 1, and all figures by key.

        bert, bleu, rouge = SimilarityEvaluator().evaluate_similarity(candidates, references)

    By key, BLEU is on sacreBLEU's scale: ``scores["bleu"]`` is 0 to 100, ``scores.bleu`` 0 to 1.

    Attributes:
        bert: mean F1 of BERTScore.
        bleu: BLEU of the list as one corpus, 0 to 1.
        rouge: mean F1 of ROUGE-L.
        details: all figures; what `SimilarityEvaluator.evaluate_similarity` lists.
    """

    details: dict[str, Any]

    def __new__(cls, details: dict[str, Any]) -> SimilarityScores:
        bert, rouge = details["bertscore"]["f1"], details["rougeL"]
        scores = super().__new__(cls, (bert, details["bleu"] / 100, rouge))
        scores.details = details
        return scores

    @property
    def bert(self) -> float:
        return float(self[0])

    @property
    def bleu(self) -> float:
        return float(self[1])

    @property
    def rouge(self) -> float:
        return float(self[2])

    def __getitem__(self, key: Any) -> Any:
        return self.details[key] if isinstance(key, str) else super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        return key in self.details if isinstance(key, str) else super().__contains__(key)

    def keys(self) -> KeysView[str]:
        return self.details.keys()

    def items(self) -> ItemsView[str, Any]:
        return self.details.items()

    def get(self, key: str, default: object = None) -> Any:
        return self.details.get(key, default)

    # Pickle would hand `__new__` the three means, from which the details cannot be rebuilt.
    def __reduce__(self) -> tuple[Any, ...]:
        return SimilarityScores, (self.details,)


@dataclass(frozen=True, slots=True)
class SimilarityEvaluator:
    """Compares candidate texts with references.

        bert, bleu, rouge = SimilarityEvaluator().evaluate_similarity(
            ["It may be refused."], ["Refusal is allowed."]
        )

    Attributes:
        model: encoder of BERTScore: alias, package reference, folder or hub name; None:
            ``roberta-large`` where a hub delivers it, else the embedding model out of a package.
        layer: of the encoder; None: the one that its authors or ours name for it.
    """

    model: str | None = None
    layer: int | None = None

    def evaluate_similarity(
        self, candidates: Sequence[str], references: Sequence[str | Sequence[str]]
    ) -> SimilarityScores:
        """Score every candidate against its reference, or the best of its several references.

        Returns:
            The means of BERTScore, BLEU and ROUGE-L (each 0 to 1) to unpack; by key: ``bertscore``
            (``precision``, ``recall``, ``f1``) and ``rougeL`` (0 to 1) as means over
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
            # A text of fewer than four words has no 4-gram; without effective order its BLEU would
            # be 0.
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
        details = {
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
        return SimilarityScores(details)


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
