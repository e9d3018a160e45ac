"""A loaded bundle that answers questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune import recipe
from prooftune.bundle.base_model import select_model
from prooftune.bundle.inputs import progress_label, to_examples
from prooftune.evaluation.answers.scores import final_outputs
from prooftune.models import adapters
from prooftune.tasks.prompts import PromptEncoder, Rendering
from prooftune.tasks.question_answering import predict
from prooftune.types import CONTEXT, QUESTION, Example
from prooftune.utils.progress import Subtask
from prooftune.variants.passages import with_passages

if TYPE_CHECKING:
    from prooftune.retrieval.search import Index
    from prooftune.retrieval.types import Chunk


@dataclass(frozen=True, slots=True)
class CitedPassage:
    """A passage that an answer cites.

    Attributes:
        document: the document's name.
        page, section: where in it, as far as known.
        text: the passage.
    """

    document: str
    page: int | None
    section: str | None
    text: str


@dataclass(frozen=True, slots=True)
class QAPrediction:
    """The answer to one question.

    Attributes:
        answer: empty where there is none.
        sources: the passages that the answer cites, among those that were retrieved; never another.
        retrieved: all passages that were shown to the model, best first.
        unknown_citations: citations of passages that were not shown, which are left out.
        truncated_tokens: tokens of the question or the passages that did not fit and were not read.
        prompt_tokens, generated_tokens: tokens that were read and written.
    """

    answer: str
    sources: tuple[CitedPassage, ...] = ()
    retrieved: tuple[CitedPassage, ...] = ()
    unknown_citations: int = 0
    truncated_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


class QuestionAnswerer:
    """A loaded bundle that answers questions.

    Attributes:
        fields: names of the inputs; where the bundle reads nothing but the question, it may be
            given as a string.
        facts: the content of ``bundle.json``.
        model: the model, for whoever wants to go on with it.
        encoder: renders the prompts.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        model: Any,
        tokenizer: Any,
        index: Path | None,
        adapter: str = adapters.DEFAULT_ADAPTER,
    ) -> None:
        self.manifest, self.model, self._index_folder, self._adapter = (
            manifest,
            model,
            index,
            adapter,
        )
        self.encoder = PromptEncoder(
            Rendering.from_json(manifest["rendering"]), tokenizer, manifest["fields"]
        )
        self.fields: list[str] = [f for f in manifest["fields"] if index is None or f != CONTEXT]
        self._settings = recipe.Answering(**manifest["answering"])
        self._index: Index | None = None

    def predict(
        self,
        questions: Sequence[str | Mapping[str, str]],
        *,
        progress: bool | Subtask = True,
        tuned: bool = True,
        retrieve: bool = True,
    ) -> list[QAPrediction]:
        """Answer every question.

        Args:
            questions: strings, or mappings with ``question`` and, where the bundle reads one,
                ``context``.
            progress: whether to show a bar, for 16 or more; or a part of a bar that is shown.
            tuned: False asks the untuned base model with the same prompt and passages; without the
                no-answer threshold, which is the tuned model's.
            retrieve: of a bundle with documents, whether passages are shown; it was tuned to see
                some.

        Raises:
            UsageError: a question lacks a field, or is no text; or there is no untuned model
                (`untuned.why_no_base_model`).
        """
        examples, shown = self._with_passages(questions, retrieve)
        if not examples:
            return []
        with select_model(self.manifest, self.model, self._adapter, tuned):
            found = predict(
                self.model,
                self.encoder,
                examples,
                self._settings,
                self.manifest["task"],
                description=progress_label(progress, "Answering", len(examples)),
            )
        outputs = final_outputs(found, self.manifest["threshold"] if tuned else None)
        replies = []
        for prediction, output, passages in zip(found, outputs, shown, strict=True):
            by_id = {chunk.id: _source(chunk) for chunk in passages}
            replies.append(
                QAPrediction(
                    output,
                    tuple(by_id[i] for i in prediction.cited) if output else (),
                    tuple(by_id.values()),
                    prediction.unknown_citations,
                    prediction.truncated_tokens,
                    prediction.prompt_tokens,
                    prediction.generated_tokens,
                )
            )
        return replies

    def examples(self, questions: Sequence[str | Mapping[str, str]]) -> list[Example]:
        """What is read of the questions, passages included, one example for each, in their order."""
        return self._with_passages(questions)[0]

    def _with_passages(
        self, questions: Sequence[str | Mapping[str, str]], retrieve: bool = True
    ) -> tuple[list[Example], list[list[Chunk]]]:
        examples = to_examples(questions, self.fields, "question")
        if self._index_folder is None or not examples:
            return examples, [[] for _ in examples]
        shown = (
            self._retrieve([e.inputs[QUESTION] for e in examples])
            if retrieve
            else [[] for _ in examples]
        )
        return [
            with_passages(e, passages, None) for e, passages in zip(examples, shown, strict=True)
        ], shown

    def _retrieve(self, questions: Sequence[str]) -> list[list[Chunk]]:
        from prooftune.retrieval.search import open_index

        settings = recipe.Retrieval(**self.manifest["retrieval"])
        if self._index is None and self._index_folder is not None:
            self._index = open_index(self._index_folder, settings.embedding)
        if self._index is None:
            raise RuntimeError("no index")
        rerank = None
        if settings.rerank:
            from prooftune.retrieval.rerank import load_cross_encoder

            rerank = load_cross_encoder(settings.rerank)
        hits = self._index.search(questions, settings.passages, settings.search, rerank)
        return [[hit.chunk for hit in found] for found in hits]


def _source(chunk: Chunk) -> CitedPassage:
    return CitedPassage(chunk.source, chunk.page, chunk.section, chunk.text)
