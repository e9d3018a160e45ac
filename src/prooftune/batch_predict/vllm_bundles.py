"""Bundles that vLLM computes: labels by prompt, and free-text answers.

Our encoder renders and truncates the prompts, and our code turns scores and texts into predictions,
so that only the model's forward pass is vLLM's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from prooftune import recipe
from prooftune.batch_predict import vllm_requests
from prooftune.bundle.base_model import base_model_folder, model_options
from prooftune.bundle.classifier import Classifier
from prooftune.bundle.golden import max_new_tokens
from prooftune.bundle.layout import tokenizer_folder, weights_folder
from prooftune.bundle.manifest import Manifest
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.engine.scoring import label_tree
from prooftune.errors import UsageError
from prooftune.exporters import merged
from prooftune.models import loading
from prooftune.tasks.classification import predict_by_scores, predictions_from_texts
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.tasks.question_answering import predictions_from_answers
from prooftune.types import Example, Prediction
from prooftune.utils.files import cache_folder
from prooftune.utils.progress import Subtask, progress_bar, spinner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import LLM


class VllmClassifier(Classifier):
    """A bundle that classifies texts, computed by vLLM."""

    manifest: Manifest

    def __init__(self, manifest: Manifest, llm: LLM, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(manifest)
        self.llm = llm
        self.encoder = PromptEncoder(
            Rendering.from_json(manifest["rendering"]), tokenizer, self.fields
        )
        self._scoring = recipe.Scoring(**manifest["scoring"])

    def score(
        self, examples: Sequence[Example], *, tuned: bool, description: str | Subtask | None
    ) -> list[Prediction]:
        """Score or generate the labels with the bundle's prompt."""
        _check_tuned(tuned)
        encoder = self.encoder
        if self._scoring.method != "generation":
            return predict_by_scores(
                encoder,
                examples,
                self._score_rows,
                calibration=self._scoring.calibration,
                description=description,
            )
        encoded = [encoder.encode(example.inputs) for example in examples]
        with progress_bar(description, len(examples)) as progress:
            outputs = vllm_requests.generate(
                self.llm,
                [[*encoder.prefix, *e.token_ids] for e in encoded],
                encoder.stop_token_id,
                self._scoring.max_new_tokens,
            )
            progress.advance(0, len(examples))  # type: ignore[arg-type]
        return predictions_from_texts(encoder, examples, encoded, outputs)

    def score_prompts(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Scores [prompts, labels] of whole prompts, not normalised over the labels."""
        return vllm_requests.score_labels(
            self.llm,
            prompts,
            label_tree(self.encoder.label_ids, self.encoder.stop_token_id),
            normalize=self._scoring.normalize == "length",
        )

    def _score_rows(
        self, rows: Sequence[Sequence[int]], description: str | Subtask | None
    ) -> Tensor:
        with progress_bar(description, len(rows)) as progress:
            scores = self.score_prompts([[*self.encoder.prefix, *row] for row in rows])
            progress.advance(0, len(rows))  # type: ignore[arg-type]
        return scores


class VllmAnswerer(QuestionAnswerer):
    """A bundle that answers questions in free text, computed by vLLM."""

    def __init__(
        self,
        manifest: Manifest,
        llm: LLM,
        tokenizer: PreTrainedTokenizerBase,
        index: Path | None,
    ) -> None:
        super().__init__(manifest, llm, tokenizer, index)
        self.llm = llm

    def _answer(
        self, examples: Sequence[Example], tuned: bool, description: str | Subtask | None
    ) -> list[Prediction]:
        _check_tuned(tuned)
        encoder = self.encoder
        windows = [encoder.sliding_windows(example.inputs) for example in examples]
        rows = [window for example_windows in windows for window in example_windows]
        with progress_bar(description, len(rows)) as progress:
            generated = vllm_requests.generate(
                self.llm,
                [[*encoder.prefix, *row.token_ids] for row in rows],
                encoder.stop_token_id,
                self.settings.max_new_tokens,
            )
            progress.advance(0, len(rows))  # type: ignore[arg-type]
        return predictions_from_answers(
            encoder, examples, windows, generated, self.settings, self.manifest["task"]
        )


@contextmanager
def load(bundle: Path, manifest: Manifest) -> Iterator[VllmClassifier | VllmAnswerer]:
    """A bundle, computed by vLLM inside the context.

    Args:
        bundle: its folder.
        manifest: its manifest; `vllm_engine.unsupported_reason` has no objection to it.

    Raises:
        Failure: the base model is unavailable, or vLLM cannot load the model.
    """
    tokenizer = loading.load_tokenizer(tokenizer_folder(bundle, manifest))
    encoder = PromptEncoder(
        Rendering.from_json(manifest["rendering"]), tokenizer, manifest["fields"]
    )
    answer = max([max_new_tokens(manifest), *(len(ids) + 1 for ids in encoder.label_ids)])
    # One more, since vLLM generates a token behind the answers that it scores.
    most = min(encoder.max_prompt_tokens + answer + 1, tokenizer.model_max_length)
    dtype = loading.compute_dtype(model_options(manifest).dtype)
    with _model_folder(bundle, manifest) as folder:
        llm = vllm_requests.start(folder, dtype, most)
        if manifest["labels"]:
            yield VllmClassifier(manifest, llm, tokenizer)
        else:
            index = bundle / "index"
            yield VllmAnswerer(manifest, llm, tokenizer, index if index.is_dir() else None)


@contextmanager
def _model_folder(bundle: Path, manifest: Manifest) -> Iterator[Path]:
    """The bundle's model in the Hugging Face layout; adapters are merged, as exports are.

    vLLM could load the adapter itself (``LoRARequest``), but not one with DoRA, with trained
    embeddings or on quantized weights, and it computes faster without.
    """
    if manifest["part"] == "model":
        yield weights_folder(bundle, manifest)
    elif manifest["part"] == "base" and not manifest["quantization"]:
        yield base_model_folder(manifest)
    else:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="vllm-", dir=cache_folder()) as folder:
            with spinner("Merging the adapter for vLLM"):
                merged.write(bundle, manifest, Path(folder))
            yield Path(folder)


def _check_tuned(tuned: bool) -> None:
    if not tuned:
        raise UsageError("no prediction of the base model by vLLM: the adapter is merged")
