"""A loaded bundle that answers questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune import recipe
from prooftune.bundle.base_model import select_model
from prooftune.bundle.inputs import progress_label, to_examples
from prooftune.bundle.manifest import Manifest
from prooftune.evaluation.answers.no_answer import final_outputs
from prooftune.models import adapters
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.tasks.question_answering import predict
from prooftune.types import CONTEXT, QUESTION, Example, Prediction
from prooftune.utils.progress import Subtask
from prooftune.variants.passages import with_passages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prooftune.retrieval.search import Index
    from prooftune.retrieval.types import Chunk


@dataclass(frozen=True, slots=True)
class CitedPassage:
    """A retrieved passage.

    Attributes:
        document: name of the document.
        page, section: position in the document, if known.
        text: text of the passage.
    """

    document: str
    page: int | None
    section: str | None
    text: str


@dataclass(frozen=True, slots=True)
class QAPrediction:
    """The predicted answer to one question.

    Attributes:
        answer: the answer; an empty string for "no answer".
        sources: retrieved passages that the answer cites.
        retrieved: all passages in the prompt, best first.
        unknown_citations: number of citations of passages that were not retrieved; these are never
            listed as sources.
        truncated_tokens: tokens of question and passages beyond the prompt limit, which the model
            did not see.
        prompt_tokens: number of prompt tokens.
        generated_tokens: number of generated tokens.
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
        fields: names of the inputs; with the question alone, `predict` also takes strings.
        manifest: content of ``bundle.json``.
        model: the transformers or peft model.
        encoder: renders and tokenizes prompts.
        settings: the recipe's ``answering`` section.
    """

    def __init__(
        self,
        manifest: Manifest,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
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
        # With an index, the context is retrieved and not given.
        self.fields: list[str] = [f for f in manifest["fields"] if index is None or f != CONTEXT]
        self.settings = recipe.Answering(**manifest["answering"])
        self._index: Index | None = None

    @property
    def shared_model(self) -> object:
        """The model, which adapters of several bundles may share."""
        return self.model

    @property
    def facts(self) -> Manifest:
        """The manifest, under its name in version 0.1."""
        return self.manifest

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
            questions: strings, or mappings with ``question`` and, if the bundle has one,
                ``context``.
            progress: whether to show a progress bar for 16 or more questions; or a running bar's
                subtask.
            tuned: False uses the untuned base model with the same prompt and passages, without the
                no-answer threshold, which was fitted to the tuned model.
            retrieve: whether to retrieve passages, for a bundle with documents.

        Returns:
            One prediction per question, in order.

        Raises:
            UsageError: a question lacks a field or is not a string; or the bundle has no untuned
                model.
        """
        examples, passages_of = self._with_passages(questions, retrieve)
        if not examples:
            return []
        predictions = self._answer(
            examples, tuned, progress_label(progress, "Answering", len(examples))
        )
        outputs = final_outputs(predictions, self.manifest["threshold"] if tuned else None)
        results = []
        for prediction, output, passages in zip(predictions, outputs, passages_of, strict=True):
            by_id = {chunk.id: _to_cited_passage(chunk) for chunk in passages}
            results.append(
                QAPrediction(
                    output,
                    # A withheld answer cites nothing.
                    tuple(by_id[i] for i in prediction.cited) if output else (),
                    tuple(by_id.values()),
                    prediction.unknown_citations,
                    prediction.truncated_tokens,
                    prediction.prompt_tokens,
                    prediction.generated_tokens,
                )
            )
        return results

    def _answer(
        self, examples: Sequence[Example], tuned: bool, description: str | Subtask | None
    ) -> list[Prediction]:
        """Predictions before the no-answer threshold; overridden where another engine computes."""
        with select_model(self.manifest, self.model, self._adapter, tuned):
            return predict(
                self.model,
                self.encoder,
                examples,
                self.settings,
                self.manifest["task"],
                description=description,
            )

    def examples(self, questions: Sequence[str | Mapping[str, str]]) -> list[Example]:
        """The questions as examples, with retrieved passages as context, in order."""
        return self._with_passages(questions)[0]

    def _with_passages(
        self, questions: Sequence[str | Mapping[str, str]], retrieve: bool = True
    ) -> tuple[list[Example], list[list[Chunk]]]:
        examples = to_examples(questions, self.fields, "question")
        if self._index_folder is None or not examples:
            return examples, [[] for _ in examples]
        passages_of = (
            self._retrieve([e.inputs[QUESTION] for e in examples])
            if retrieve
            else [[] for _ in examples]
        )
        return [
            with_passages(e, passages, None)
            for e, passages in zip(examples, passages_of, strict=True)
        ], passages_of

    def _retrieve(self, questions: Sequence[str]) -> list[list[Chunk]]:
        from prooftune.retrieval.search import open_index

        settings = recipe.Retrieval(**(self.manifest["retrieval"] or {}))
        # On the first question: loading the embedding model takes seconds.
        if self._index is None and self._index_folder is not None:
            self._index = open_index(self._index_folder, settings.embedding)
        if self._index is None:
            raise RuntimeError("no index")
        rerank = None
        if settings.rerank:
            from prooftune.retrieval.rerank import load_cross_encoder

            rerank = load_cross_encoder(settings.rerank)
        hits = self._index.search(questions, settings.passages, settings.search, rerank)
        return [[hit.chunk for hit in ranking] for ranking in hits]


def _to_cited_passage(chunk: Chunk) -> CitedPassage:
    return CitedPassage(chunk.source, chunk.page, chunk.section, chunk.text)
