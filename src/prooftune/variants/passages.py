"""Contexts of questions: the data's own, retrieved passages, or those of control variants."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.data import contexts
from prooftune.data.source_files import local_files
from prooftune.errors import UsageError
from prooftune.evaluation.means import mean_figures
from prooftune.evaluation.outcomes import groups_in_test
from prooftune.evaluation.resampling import groups_of
from prooftune.recipe import Recipe, Variant
from prooftune.types import CONTEXT, QUESTION, Example, Study
from prooftune.utils import package_files
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.progress import notify
from prooftune.variants.document_files import searches_contexts

if TYPE_CHECKING:
    from prooftune.retrieval.search import Index
    from prooftune.retrieval.types import Chunk

PASSAGES_FILE = "passages.json"
"""File in a variant's folder with the passages in the contexts of its test questions."""

RETRIEVAL_DEPTH = 10
"""Passages retrieved per question for the retrieval metrics; the prompt contains fewer."""


class PassageProvider:
    """Contexts for the variants of a study, from an index that is built on first use.

    Args:
        recipe: with a ``retrieval`` section.
        base: folder against which the documents' path is resolved.
        folder: the run folder, where the index is stored.
    """

    def __init__(self, recipe: Recipe, base: Path, folder: Path) -> None:
        self._recipe, self._base, self._folder = recipe, base, folder
        self._results: dict[str, list[list[Chunk]]] = {}
        self._warned_missing = False

    def study_for(self, study: Study, variant: Variant) -> tuple[Study, dict[str, Any]]:
        """The study with the variant's contexts, and the retrieval metrics.

        Returns:
            The examples with the variant's ``context``. For training, the targets cite the gold
            passage, or are the "no answer" text where it is not in the context. And recall, MRR and
            nDCG on the test questions whose gold passages the data names; empty for contexts that
            are not retrieved.
        """
        if variant.context in (None, "given"):
            return study, {}
        if variant.context == "none":
            return study.map_examples(
                lambda e: replace(e, inputs={k: v for k, v in e.inputs.items() if k != CONTEXT})
            ), {}
        is_trained = variant.kind == "tuned" and variant.adapter is None
        splits: dict[str, Sequence[Example]] = {}
        for name, examples in study.splits().items():
            passages = self._passages(name, examples, variant, mix=is_trained and name == "train")
            # Only training may use the gold passages: test contexts must not reveal them.
            gold = (
                [_ids(chunks) for chunks in self._gold(name, examples)]
                if is_trained and name != "test"
                else [None] * len(examples)
            )
            # On disk, since passages are many times as long as the questions.
            splits[name] = DiskBackedList(
                with_passages(e, chunks, ids)
                for e, chunks, ids in zip(examples, passages, gold, strict=True)
            )
        metrics = self._metrics(study) if variant.context == "retrieved" else {}
        return replace(study, **splits), metrics  # type: ignore[arg-type]

    def count_unnamed_gold(self, study: Study) -> int:
        """Count the test questions without a gold passage in the index, and print a warning.

        For these, the passage found with the reference answer counts as gold.
        """
        unnamed = sum(
            not any(key in self._by_key for key in example.gold) for example in study.test
        )
        if unnamed:
            notify(
                f"  of {unnamed:,} of {len(study.test):,} test questions the data names no "
                "passage with the answer (data.gold): the passage found with the reference "
                "answer is used instead",
                "yellow",
            )
        return unnamed

    def passage_table(self, study: Study) -> dict[str, Any]:
        """The passages in the test questions' contexts.

        Returns:
            Passage id -> ``key`` (by which ``data.gold`` names passages), ``document``, ``page``,
            ``section``, ``text``.
        """
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

        retrieval = self._recipe.retrieval
        if retrieval is None:  # refused by the recipe
            raise ValueError("the recipe has no retrieval section")
        source, folder = retrieval.documents, self._folder / "index"
        if searches_contexts(self._recipe):
            source = str((self._folder / "data" / contexts.CONTEXTS_FILE).resolve())
        elif package_files.is_reference(source):
            source = str(package_files.fetch(source))
        settings = IndexSettings(
            embedding=retrieval.embedding,
            chunk_words=retrieval.chunk_words,
            overlap_words=retrieval.overlap_words,
        )
        # A collection in the folder of the data must not hold the answers.
        exclude = local_files(self._recipe.data, self._base)
        summary = build_index(source, folder, settings, self._base, exclude)
        notify(f"index: {summary.chunks:,} passages of {summary.documents:,} documents")
        for sentence in [
            *(f"{item.id} was left out: {item.reason}" for item in summary.skipped),
            *summary.notes,
        ]:
            notify(f"  {sentence}", "yellow")
        return open_index(folder, retrieval.embedding)

    def _search(self, name: str, queries: Sequence[str]) -> list[list[Chunk]]:
        """The best passages of every query, best first; cached by `name`, because several variants
        run the same queries."""
        from prooftune.retrieval.rerank import load_cross_encoder

        settings = self._recipe.retrieval
        if name not in self._results and settings is not None:
            rerank = load_cross_encoder(settings.rerank) if settings.rerank else None
            hits = self.index.search(
                queries, max(RETRIEVAL_DEPTH, settings.passages), settings.search, rerank
            )
            self._results[name] = [[hit.chunk for hit in ranking] for ranking in hits]
        return self._results[name]

    def _passages(
        self, split: str, examples: Sequence[Example], variant: Variant, *, mix: bool
    ) -> list[list[Chunk]]:
        """The passages of every example's context.

        With `mix`, gold and distractor passages are mixed for training (RAFT, arXiv 2403.10131):
        a share ``gold_share`` of the contexts contains the gold passage, the others do not.
        """
        count = self._recipe.retrieval.passages if self._recipe.retrieval else 0
        # One generator per example: its passages do not depend on the other examples.
        generators = [random.Random(f"{self._recipe.seed}/{e.id}") for e in examples]
        if variant.context == "random":
            chunks = self.index.chunks
            return [g.sample(chunks, min(count, len(chunks))) for g in generators]
        if variant.context == "gold":
            return [gold[:count] for gold in self._gold(split, examples)]
        retrieved = self._search(split, [e.inputs[QUESTION] for e in examples])
        if not mix:
            return [passages[:count] for passages in retrieved]
        selected = []
        for generator, passages, gold in zip(
            generators, retrieved, self._gold(split, examples), strict=True
        ):
            # No gold passage is a distractor, whether or not it is included.
            gold_ids = _ids(gold)
            distractors = [chunk for chunk in passages if chunk.id not in gold_ids]
            included = gold[:1] if generator.random() < variant.gold_share else []
            mixed = [*included, *distractors[: count - len(included)]]
            # Otherwise the model would learn that the first passage has the answer.
            generator.shuffle(mixed)
            selected.append(mixed)
        return selected

    @cached_property
    def _by_key(self) -> dict[str, list[Chunk]]:
        """The chunks of every passage key that ``data.gold`` may name."""
        chunks: dict[str, list[Chunk]] = {}
        for chunk in self.index.chunks:
            chunks.setdefault(chunk.passage_key, []).append(chunk)
        return chunks

    def _gold(self, split: str, examples: Sequence[Example]) -> list[list[Chunk]]:
        """The gold passages of every example, most likely first: those that the data names, else
        the best one retrieved with the reference answer.

        A long text that the data names is split into several chunks, of which one or two contain
        the answer; searching with the answer ranks them.
        """
        self._check_gold(examples, self._by_key)
        named = [[chunk for key in e.gold for chunk in self._by_key.get(key, ())] for e in examples]
        # Nothing to rank, so nothing is searched.
        if all(len(own) == 1 for own in named):
            return named
        queries = [f"{e.inputs[QUESTION]} {' '.join(e.references or ())}" for e in examples]
        retrieved = self._search(f"{split} with answers", queries)
        return [
            [chunk for chunk in best if chunk in own]
            + [chunk for chunk in own if chunk not in best]
            if own
            else best[:1]
            for own, best in zip(named, retrieved, strict=True)
        ]

    def _check_gold(self, examples: Sequence[Example], known: Collection[str]) -> None:
        named = dict.fromkeys(key for e in examples for key in e.gold)
        missing = [key for key in named if key not in known]
        if missing and len(missing) == len(named):
            raise UsageError(
                f"none of the passages that data.gold names ({', '.join(map(repr, missing[:3]))} "
                "…) is in the documents, whose "
                f"passages are named {', '.join(map(repr, list(known)[:3]))} …"
            )
        if missing and not self._warned_missing:
            # Once, and not for every split and variant.
            self._warned_missing = True
            notify(
                f"  {len(missing):,} of {len(named):,} passages that data.gold names are not in "
                f"the documents (for example {missing[0]!r}); for questions without any, the "
                "passage found with the reference answer is used instead",
                "yellow",
            )

    def _metrics(self, study: Study) -> dict[str, Any]:
        """Recall, MRR and nDCG with intervals, on the test questions whose gold passages the data
        names."""
        from prooftune.retrieval import metrics

        rows = [i for i, e in enumerate(study.test) if e.gold]
        if not rows:
            return {}
        retrieved = self._search("test", [e.inputs[QUESTION] for e in study.test])
        shown = self._recipe.retrieval.passages if self._recipe.retrieval else RETRIEVAL_DEPTH
        # A gold text may be split into several chunks: any of them counts as a hit.
        keys = [list(dict.fromkeys(c.passage_key for c in retrieved[i])) for i in rows]
        shown_keys = [
            list(dict.fromkeys(c.passage_key for c in retrieved[i][:shown])) for i in rows
        ]
        gold = [study.test[i].gold for i in rows]
        values = {
            f"recall@{shown}": metrics.recall(shown_keys, gold, shown),
            f"recall@{RETRIEVAL_DEPTH}": metrics.recall(keys, gold, RETRIEVAL_DEPTH),
            f"MRR@{RETRIEVAL_DEPTH}": metrics.reciprocal_rank(keys, gold, RETRIEVAL_DEPTH),
            f"nDCG@{RETRIEVAL_DEPTH}": metrics.ndcg(keys, gold, RETRIEVAL_DEPTH),
        }
        settings = self._recipe.evaluation
        groups, _ = groups_in_test(study)
        return {
            "n": len(rows),
            "without_gold": len(study.test) - len(rows),
            **mean_figures(
                values,
                settings.resamples,
                settings.confidence,
                self._recipe.seed,
                groups_of(groups.index[rows].tolist()) if groups else None,
            ),
        }


def _ids(chunks: Sequence[Chunk]) -> set[str]:
    return {chunk.id for chunk in chunks}


def with_passages(example: Example, passages: Sequence[Chunk], gold: set[str] | None) -> Example:
    """The example with numbered passages as its context.

    Args:
        gold: ids of the gold passages, for training: the target then cites the first of them, or is
            empty if none is in the context. None leaves the target unchanged.
    """
    context = "\n\n".join(
        f"[{n}] {' '.join(chunk.text.split())}" for n, chunk in enumerate(passages, start=1)
    )
    target = example.target
    if gold is not None:
        # Citations count from 1, as in the prompt.
        number = next((n for n, chunk in enumerate(passages, start=1) if chunk.id in gold), None)
        target = f"{target} [{number}]" if number is not None and target else ""
    # A context of the data's own is replaced.
    own = {name: text for name, text in example.inputs.items() if name != CONTEXT}
    return replace(
        example,
        inputs={CONTEXT: context, **own},
        target=target,
        passages=tuple(chunk.id for chunk in passages),
    )
