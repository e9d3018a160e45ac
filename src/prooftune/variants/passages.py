"""What is shown beside a question: the data's own context, passages found for it, or those of the
controls."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.data import contexts
from prooftune.errors import UsageError
from prooftune.evaluation.statistics import percentile_interval, resampled
from prooftune.recipe import DATA_CONTEXT, Recipe, Variant
from prooftune.types import CONTEXT, QUESTION, Example, Study
from prooftune.utils import package_files
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.files import sha256
from prooftune.utils.progress import notify

if TYPE_CHECKING:
    from prooftune.retrieval.search import Index
    from prooftune.retrieval.types import Chunk

PASSAGES_FILE = "passages.json"
"""File in a variant's folder with the passages that its test questions were shown."""

RETRIEVAL_DEPTH = 10
"""Passages found per question, by which retrieval is measured; fewer are shown."""


def uses_passages(variant: Variant) -> bool:
    """Whether the variant's context comes from the document collection."""
    return variant.context in ("retrieved", "gold", "random")


def searches_contexts(recipe: Recipe) -> bool:
    """Whether the document collection consists of the data's own contexts."""
    return recipe.retrieval is not None and recipe.retrieval.documents == DATA_CONTEXT


def _elsewhere(recipe: Recipe) -> bool:
    """Whether the documents are no files of the user's, to be looked at before anything is
    computed."""
    return (
        recipe.retrieval is None
        or package_files.is_reference(recipe.retrieval.documents)
        or searches_contexts(recipe)
    )


def check_documents(recipe: Recipe, base: Path) -> None:
    """Look whether the recipe's documents are there, before anything is computed.

    Raises:
        UsageError: there are none, or what reads them is not installed.
    """
    if recipe.retrieval is None or _elsewhere(recipe):
        return
    from prooftune.retrieval.discovery import find_documents
    from prooftune.retrieval.documents import require_documents

    files, skipped = find_documents(recipe.retrieval.documents, base)
    require_documents(recipe.retrieval.documents, len(files), skipped)


def documents_digest(recipe: Recipe, base: Path) -> Any:
    """What identifies the content of the documents: their digests, or the name of a package that
    holds them."""
    if recipe.retrieval is None or _elsewhere(recipe):
        return None if recipe.retrieval is None else recipe.retrieval.documents
    from prooftune.retrieval.discovery import find_documents

    files, _ = find_documents(recipe.retrieval.documents, base)
    holders = {file.path.resolve() for file in files}  # an archive holds several
    return [sorted(file.id for file in files), sorted(sha256(path) for path in holders)]


class PassageProvider:
    """The document collection of a study, searched when the first variant needs it.

    Args:
        recipe: with a ``retrieval`` section.
        base: folder against which the documents' path is resolved.
        folder: the run folder, in which the index is kept.
    """

    def __init__(self, recipe: Recipe, base: Path, folder: Path) -> None:
        self._recipe, self._base, self._folder = recipe, base, folder
        self._found: dict[str, list[list[Chunk]]] = {}
        self._said_missing = False

    def study_for(self, study: Study, variant: Variant) -> tuple[Study, dict[str, Any]]:
        """The study as the variant sees it, and how well its passages were found.

        Returns:
            Examples whose ``context`` is what the variant shows; in training, targets that cite the
            passage with the answer and say so where it is missing. And ``retrieval``: recall, MRR
            and nDCG on the test questions where the data names the passages that hold the answers;
            empty for contexts that are not searched for.
        """
        if variant.context in (None, "given"):
            return study, {}
        if variant.context == "none":
            return study.map_examples(
                lambda e: replace(e, inputs={k: v for k, v in e.inputs.items() if k != CONTEXT})
            ), {}
        learns = variant.kind == "tuned" and variant.adapter is None
        splits: dict[str, Sequence[Example]] = {}
        for name, examples in study.splits().items():
            shown = self._shown(name, examples, variant, mixes=learns and name == "train")
            # Only what is learned from may know which passage holds the answer.
            gold = (
                [_ids(found) for found in self._gold(name, examples)]
                if learns and name != "test"
                else [None] * len(examples)
            )
            splits[name] = DiskBackedList(
                with_passages(e, passages, ids)
                for e, passages, ids in zip(examples, shown, gold, strict=True)
            )
        facts = self._measured(study) if variant.context == "retrieved" else {}
        return replace(study, **splits), facts  # type: ignore[arg-type]

    def count_unnamed_gold(self, study: Study) -> int:
        """Of how many test questions the data names no passage that is there, so that it is
        searched for; says so."""
        unnamed = sum(
            not any(key in self._by_key for key in example.gold) for example in study.test
        )
        if unnamed:
            notify(
                f"  of {unnamed:,} of {len(study.test):,} test questions the data names no "
                "passage with the answer (data.gold): "
                "the one found with the reference answer stands in",
                "yellow",
            )
        return unnamed

    def passage_table(self, study: Study) -> dict[str, Any]:
        """The passages that the test questions were shown: id -> ``key`` (by which gold passages
        are named), document, page, section, text."""
        ids = {id_ for example in study.test for id_ in example.passages}
        return {
            c.id: {
                "key": c.passage_key,
                "document": c.source,
                "page": c.page,
                "section": c.section,
                "text": c.text,
            }
            for c in self.index.chunks
            if c.id in ids
        }

    @cached_property
    def index(self) -> Index:
        from prooftune.retrieval.index import IndexSettings, build_index
        from prooftune.retrieval.search import open_index

        wanted = self._recipe.retrieval
        if wanted is None:
            raise UsageError("context: retrieved needs a retrieval section with documents")
        source, place = wanted.documents, self._folder / "index"
        if searches_contexts(self._recipe):
            source = str((self._folder / "data" / contexts.CONTEXTS_FILE).resolve())
        elif package_files.is_reference(source):
            source = str(package_files.fetch(source))
        settings = IndexSettings(
            embedding=wanted.embedding,
            chunk_words=wanted.chunk_words,
            overlap_words=wanted.overlap_words,
        )
        summary = build_index(source, place, settings, self._base)
        notify(f"index: {summary.chunks:,} passages of {summary.documents:,} documents")
        for sentence in [
            *(f"{one.id} was left out: {one.reason}" for one in summary.skipped),
            *summary.notes,
        ]:
            notify(f"  {sentence}", "yellow")
        return open_index(place, wanted.embedding)

    def _search(self, name: str, queries: Sequence[str]) -> list[list[Chunk]]:
        """The best passages for every query, kept under a name since several variants ask for the
        same."""
        from prooftune.retrieval.rerank import load_cross_encoder

        settings = self._recipe.retrieval
        if name not in self._found and settings is not None:
            rerank = load_cross_encoder(settings.rerank) if settings.rerank else None
            hits = self.index.search(
                queries, max(RETRIEVAL_DEPTH, settings.passages), settings.search, rerank
            )
            self._found[name] = [[hit.chunk for hit in found] for found in hits]
        return self._found[name]

    def _shown(
        self, split: str, examples: Sequence[Example], variant: Variant, *, mixes: bool
    ) -> list[list[Chunk]]:
        """The passages for every example; with `mixes` as in training with retrieval (RAFT, arXiv
        2403.10131)."""
        count = self._recipe.retrieval.passages if self._recipe.retrieval else 0
        generators = [random.Random(f"{self._recipe.seed}/{e.id}") for e in examples]
        if variant.context == "random":
            everything = self.index.chunks
            return [g.sample(everything, min(count, len(everything))) for g in generators]
        if variant.context == "gold":
            return [gold[:count] for gold in self._gold(split, examples)]
        found = self._search(split, [e.inputs[QUESTION] for e in examples])
        if not mixes:
            return [passages[:count] for passages in found]
        shown = []
        for generator, passages, gold in zip(
            generators, found, self._gold(split, examples), strict=True
        ):
            known = _ids(gold)
            others = [chunk for chunk in passages if chunk.id not in known]
            kept = gold[:1] if generator.random() < variant.gold_share else []
            mixed = [*kept, *others[: count - len(kept)]]
            generator.shuffle(mixed)
            shown.append(mixed)
        return shown

    @cached_property
    def _by_key(self) -> dict[str, list[Chunk]]:
        """The passages of each text that the data may name."""
        found: dict[str, list[Chunk]] = {}
        for chunk in self.index.chunks:
            found.setdefault(chunk.passage_key, []).append(chunk)
        return found

    def _gold(self, split: str, examples: Sequence[Example]) -> list[list[Chunk]]:
        """The passages that hold the answer, likeliest first: those the data names, else those
        found with the reference answer.

        A long text that the data names was cut into several passages, of which one or two hold the
        answer.
        """
        self._check_gold(examples, self._by_key)
        named = [[chunk for key in e.gold for chunk in self._by_key.get(key, ())] for e in examples]
        if all(len(own) == 1 for own in named):
            return named
        asked = [f"{e.inputs[QUESTION]} {' '.join(e.references or ())}" for e in examples]
        found = self._search(f"{split} with answers", asked)
        return [
            [chunk for chunk in best if chunk in own]
            + [chunk for chunk in own if chunk not in best]
            if own
            else best[:1]
            for own, best in zip(named, found, strict=True)
        ]

    def _check_gold(self, examples: Sequence[Example], known: Mapping[str, Any]) -> None:
        wanted = dict.fromkeys(key for e in examples for key in e.gold)
        missing = [key for key in wanted if key not in known]
        if missing and len(missing) == len(wanted):
            raise UsageError(
                f"none of the passages that data.gold names ({', '.join(map(repr, missing[:3]))} "
                "…) is in the documents, whose "
                f"passages are named {', '.join(map(repr, list(known)[:3]))} …"
            )
        if missing and not self._said_missing:
            self._said_missing = True
            notify(
                f"  {len(missing):,} of {len(wanted):,} passages that data.gold names are not in "
                f"the documents, {missing[0]!r} for "
                "one; for questions without any, the passage found with the reference answer "
                "stands in",
                "yellow",
            )

    def _measured(self, study: Study) -> dict[str, Any]:
        """Recall, MRR and nDCG with bootstrap intervals, on the test questions whose passages the
        data names."""
        from prooftune.retrieval import metrics

        rows = [i for i, e in enumerate(study.test) if e.gold]
        if not rows:
            return {}
        found = self._search("test", [e.inputs[QUESTION] for e in study.test])
        shown = self._recipe.retrieval.passages if self._recipe.retrieval else RETRIEVAL_DEPTH
        # Of a text that was cut into several passages, each finds it.
        keys = [list(dict.fromkeys(chunk.passage_key for chunk in found[i])) for i in rows]
        seen = [list(dict.fromkeys(chunk.passage_key for chunk in found[i][:shown])) for i in rows]
        gold = [study.test[i].gold for i in rows]
        values = {
            f"recall@{shown}": metrics.recall(seen, gold, shown),
            f"recall@{RETRIEVAL_DEPTH}": metrics.recall(keys, gold, RETRIEVAL_DEPTH),
            f"MRR@{RETRIEVAL_DEPTH}": metrics.reciprocal_rank(keys, gold, RETRIEVAL_DEPTH),
            f"nDCG@{RETRIEVAL_DEPTH}": metrics.ndcg(keys, gold, RETRIEVAL_DEPTH),
        }
        settings = self._recipe.evaluation
        tables = resampled(
            [v[:, None] for v in values.values()], settings.resamples, self._recipe.seed
        )
        facts: dict[str, Any] = {"n": len(rows), "without_gold": len(study.test) - len(rows)}
        for (name, per_question), sums in zip(values.items(), tables, strict=True):
            low, high = percentile_interval(sums[:, 0] / len(rows), settings.confidence)
            facts[name] = {"value": float(per_question.mean()), "low": low, "high": high}
        return facts


def _ids(chunks: Sequence[Chunk]) -> set[str]:
    return {chunk.id for chunk in chunks}


def with_passages(example: Example, passages: Sequence[Chunk], gold: set[str] | None) -> Example:
    """The example with numbered passages as its context; where `gold` is known, with what is to be
    learned from them."""
    context = "\n\n".join(
        f"[{n}] {' '.join(chunk.text.split())}" for n, chunk in enumerate(passages, start=1)
    )
    target = example.target
    if gold is not None:
        number = next((n for n, chunk in enumerate(passages, start=1) if chunk.id in gold), None)
        target = f"{target} [{number}]" if number is not None and target else ""
    own = {name: text for name, text in example.inputs.items() if name != CONTEXT}
    return replace(
        example,
        inputs={CONTEXT: context, **own},
        target=target,
        passages=tuple(chunk.id for chunk in passages),
    )
