"""The input and the output of a variant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.evaluation.multilabel.metrics import label_matrix
from prooftune.models import loading
from prooftune.recipe import Prompt, Recipe
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering, Shot
from prooftune.tasks.task import TaskAdapter, task_for
from prooftune.tasks.templates import MANY_LABELS, default_template
from prooftune.types import CONTEXT, Example, Prediction, Study
from prooftune.utils.label_sets import parse_label_set
from prooftune.variant_details import VariantDetails

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class PretrainingInputs:
    """What a variant is pretrained on.

    Attributes:
        texts: unlabelled texts.
        name: of their files, for the report.
        folder: of the pretrained weights of all variants.
    """

    texts: Sequence[str]
    name: str
    folder: Path


@dataclass
class VariantContext:
    """What a variant needs to train and predict.

    Attributes:
        recipe: the recipe.
        study: its data, with the contexts that this variant sees.
        folder: the variant's own folder in the run.
        windowed: split a context that is too long for one prompt into windows. False for retrieved
            passages: these are truncated, the last one first.
        training: number of the training of a tuned variant, from 0.
        selection_rows: validation rows by which the training is steered: of the languages that the
            variant is trained on, so that a language that is left out has no part in it. None: all
            validation rows.
        with_latency: whether to time predictions of single rows.
        pretraining: texts on which the variant is pretrained; None without ``pretrain``.
        base: folder against which the recipe's relative paths are resolved.
    """

    recipe: Recipe
    study: Study
    folder: Path
    windowed: bool = True
    training: int = 0
    selection_rows: Sequence[Example] | None = None
    with_latency: bool = True
    pretraining: PretrainingInputs | None = None
    base: Path = Path()

    @property
    def training_validation(self) -> Sequence[Example]:
        """Validation rows for choosing a checkpoint or a hyperparameter."""
        return self.study.validation if self.selection_rows is None else self.selection_rows

    @property
    def fields(self) -> list[str]:
        """Names of the input fields."""
        return list(self.study.train[0].inputs)

    @cached_property
    def label_sets(self) -> list[str]:
        """The label sets of training and validation rows as canonical texts, whose numbers are
        the targets of a head; empty where a text has one label."""
        if self.recipe.task != "multilabel":
            return []
        rows = chain(self.study.train, self.training_validation)
        return sorted({str(example.target) for example in rows})

    def label_set_matrix(self) -> Tensor | None:
        """1 where a label is in a set, [label sets, labels], as `TuningModule` and `EncoderModule`
        read it; None where a text has one label."""
        # Imported here, because the classical baselines must not wait for torch.
        import torch

        if not self.label_sets:
            return None
        sets = map(parse_label_set, self.label_sets)
        return torch.from_numpy(label_matrix(sets, self.study.labels)).float()

    @property
    def variants_folder(self) -> Path:
        """The folder ``variants`` of the run."""
        # Further trainings are in subfolders of the first one's folder
        # (`run_folder.training_folder`).
        return self.folder.parents[1 if self.training else 0]

    @cached_property
    def task_adapter(self) -> TaskAdapter:
        return task_for(self.recipe)

    @cached_property
    def model_folder(self) -> Path:
        return loading.resolve(self.recipe.model.name, self.recipe.model.revision)

    @cached_property
    def tokenizer(self) -> Any:
        return loading.load_tokenizer(self.model_folder)

    def rendering(
        self,
        prompt: Prompt | None = None,
        template: str | None = None,
        shots: tuple[Shot, ...] = (),
    ) -> Rendering:
        """The rendering of a variant.

        Args:
            prompt: the variant's prompt options, which override the recipe's.
            template: overrides the template of both.
            shots: few-shot examples.
        """
        merged = self.recipe.prompt
        if prompt is not None:
            # Only the fields that the variant sets: its defaults must not override the recipe.
            merged = merged.model_copy(
                update={name: getattr(prompt, name) for name in prompt.model_fields_set}
            )
        # A model without a chat template is prompted with plain text.
        chat = merged.chat if merged.chat is not None else bool(self.tokenizer.chat_template)
        answering = self.recipe.answering
        is_qa = not self.recipe.has_labels
        default = default_template(self.recipe.task, self.fields, answering.no_answer)
        return Rendering(
            template=template or merged.template or default,
            labels=tuple(self.study.labels),
            system=merged.system,
            chat=chat,
            max_length=merged.max_length,
            shots=shots,
            answer_tokens=answering.max_new_tokens if is_qa else 0,
            windowed=CONTEXT if is_qa and self.windowed and CONTEXT in self.fields else None,
            overlap=answering.window_overlap if is_qa else 0,
            labels_once=bool(shots) and len(self.study.labels) > MANY_LABELS,
        )

    def encoder(self, rendering: Rendering) -> PromptEncoder:
        return PromptEncoder(rendering, self.tokenizer, self.fields)

    def base_model(self) -> nn.Module:
        """Load the untuned causal model."""
        return self.base_loader()()

    def base_loader(self) -> Callable[[], nn.Module]:
        """A picklable function that loads the untuned model, in any process."""
        return partial(
            loading.load_model,
            self.model_folder,
            self.recipe.model,
            quantization=self.recipe.quantization,
        )


@dataclass
class VariantOutput:
    """Predictions of one variant, in the order of the splits, and its details."""

    test: list[Prediction]
    validation: list[Prediction]
    details: VariantDetails = field(default_factory=VariantDetails)


def training_title(name: str, training: int) -> str:
    """What progress bars and messages call a training: the variant's name, numbered from the second
    training on."""
    return f"{name}, training {training + 1}" if training else name
