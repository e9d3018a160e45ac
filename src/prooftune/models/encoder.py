"""Encoders with a classification head: any `AutoModelForSequenceClassification`, such as BERT,
ModernBERT, XLM-R or DeBERTa.

Weights are float32 and matmuls run in the compute dtype (autocast), in training and in inference.
Nothing of the causal engine is involved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from prooftune import recipe as recipes
from prooftune.engine.batching import batch_by_token_budget
from prooftune.errors import Failure, UsageError
from prooftune.models import loading
from prooftune.models.gguf import configure_libraries
from prooftune.types import Example, Prediction
from prooftune.utils.label_sets import chosen_labels
from prooftune.utils.progress import Subtask, progress_bar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEVERAL_LABELS = "multi_label_classification"
"""transformers' name of the problem of several labels per text."""
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod")
"""Model types that count positions from behind the padding id."""


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One tokenised example.

    Attributes:
        ids: token ids, special tokens included.
        second_start: index of the second text's first token; `len(ids)` with one text.
        truncated_tokens: tokens that did not fit.
    """

    ids: list[int]
    second_start: int
    truncated_tokens: int


@dataclass(frozen=True, slots=True)
class EncoderTokenizer:
    """Tokenises the fields of examples for an encoder.

    Two fields are encoded as a pair, the way that encoders are pretrained; more are joined by
    newlines.

    Attributes:
        tokenizer: as transformers loads it.
        max_length: maximum tokens of one example.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def any_token(self) -> int:
        """Id of a token that is not padding."""
        # Any token will do, so RoBERTa's start token, whose id is 0, need not be recognised.
        return int(self.tokenizer.cls_token_id or self.tokenizer.eos_token_id or 1)

    @property
    def token_types(self) -> bool:
        """Whether the model tells the two texts of a pair apart by token types."""
        return "token_type_ids" in self.tokenizer.model_input_names

    def encode(self, rows: Sequence[Mapping[str, str]]) -> list[EncodedText]:
        """Tokenise examples, given as field -> text."""
        if not rows:
            return []
        # Two fields are a sentence pair, for which encoders have separators of their own.
        pairs = len(rows[0]) == 2
        texts = [list(row.values()) if pairs else ["\n".join(row.values())] for row in rows]
        columns = [list(column) for column in zip(*texts, strict=True)]
        options: dict[str, Any] = {"return_token_type_ids": self.token_types, "verbose": False}
        # Tokenised twice: the difference in length is the number of truncated tokens.
        full = self.tokenizer(*columns, truncation=False, **options)
        cut = self.tokenizer(*columns, truncation=True, max_length=self.max_length, **options)
        types = cut.get("token_type_ids")
        return [
            EncodedText(
                ids,
                # RoBERTa has no token types: nothing but the separators tells its two texts apart.
                types[i].index(1) if types is not None and 1 in types[i] else len(ids),
                len(full["input_ids"][i]) - len(ids),
            )
            for i, ids in enumerate(cut["input_ids"])
        ]

    def collate(self, rows: Sequence[tuple[Sequence[int], int]]) -> dict[str, Tensor]:
        """Right-padded model inputs [rows, longest] of (ids, start of the second text)."""
        longest = max(len(ids) for ids, _ in rows)
        # The model's own id: RoBERTa computes positions from the ids that are no padding.
        padding = self.tokenizer.pad_token_id or 0
        inputs = {
            "input_ids": torch.tensor(
                [[*ids, *[padding] * (longest - len(ids))] for ids, _ in rows]
            ),
            "attention_mask": torch.tensor(
                [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]
            ),
        }
        if self.token_types:
            inputs["token_type_ids"] = torch.tensor(
                [[int(second <= i < len(ids)) for i in range(longest)] for ids, second in rows]
            )
        return inputs


def load_tokenizer(
    folder: Path, max_length: int, trust_remote_code: bool = False
) -> EncoderTokenizer:
    """Load a folder's tokenizer; examples are truncated to `max_length` or the model's own limit.

    Args:
        folder: a model folder.
        max_length: maximum tokens of one example.
        trust_remote_code: whether the config's class may come from the folder.

    Raises:
        Failure: the folder has no tokenizer that can be loaded.
    """
    config = load_config(folder, trust_remote_code)
    tokenizer = loading.load_tokenizer(folder)
    limit = int(tokenizer.model_max_length)
    if config.model_type in OFFSET_POSITIONS:
        # Positions start at pad_token_id + 1: RoBERTa's 514 hold 512 tokens.
        limit = min(limit, config.max_position_embeddings - config.pad_token_id - 1)
    return EncoderTokenizer(tokenizer, min(limit, max_length))


def load_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """Load a folder's configuration; the code of the folder runs only if it is trusted.

    Raises:
        Failure: it cannot be loaded.
    """
    configure_libraries()
    from transformers import AutoConfig

    try:
        # Always given: otherwise transformers asks on the terminal whether to run the code.
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise Failure(f"{folder} could not be loaded as an encoder: {error}") from error


def load_encoder(
    folder: Path, labels: Sequence[str], options: recipes.Model, *, several: bool = False
) -> nn.Module:
    """Load an encoder with a classification head; its new layers are drawn from torch's seed.

    Args:
        folder: a model folder, pretrained or trained.
        labels: label names, in the order of the head's outputs.
        options: attention and trust of the recipe's ``model``.
        several: whether a text has any number of labels, each with its own probability.

    Returns:
        The model in float32. Its attribute ``new_modules`` has the names of the layers that the
        folder's files lack or have in another shape.

    Raises:
        UsageError: it is a causal model.
        Failure: the files cannot be loaded.
    """
    configure_libraries()
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    arguments: dict[str, Any] = {
        "dtype": torch.float32,
        "trust_remote_code": options.trust_remote_code,
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        # A checkpoint that was tuned for other labels has a head of another size.
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
    }
    # Prooftune's own attention is causal, and not for these models.
    if options.attention in ("eager", "sdpa", "flash_attention_2"):
        arguments["attn_implementation"] = options.attention
    check_is_encoder(load_config(folder, options.trust_remote_code), folder)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(folder, **arguments)
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        raise Failure(f"{folder} could not be loaded as an encoder: {error}") from error
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    # Modules that the checkpoint lacks have random values: they are trained in full, with LoRA,
    # too.
    new = {key.rpartition(".")[0] for key in {*info["missing_keys"], *mismatched}}
    model.new_modules = sorted(new)
    # transformers would otherwise guess it from the first labels that it is given.
    model.config.problem_type = SEVERAL_LABELS if several else "single_label_classification"
    loaded: nn.Module = model.to(loading.device()).eval()
    return loaded


def check_is_encoder(config: Any, folder: Path) -> None:
    """Refuse causal models, which ``kind: tuned`` with ``objective: head`` trains.

    Raises:
        UsageError: the config is a causal model's.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    # Some types are in both lists: BERT has a causal head, too.
    if config.model_type in CAUSAL and config.model_type not in MASKED:
        raise UsageError(
            f"{folder} has a causal model ({config.model_type}), and kind: encoder needs a "
            "bidirectional one such as BERT; use kind: tuned with objective: head"
        )


def new_modules(model: nn.Module) -> list[str]:
    """Names of the layers that the files of a loaded encoder lacked."""
    loaded: Any = model
    return list(loaded.new_modules)


@contextmanager
def mixed_precision(dtype: torch.dtype) -> Iterator[None]:
    """Run matmuls in a dtype, as the Trainer does."""
    # Autocast to float32 would warn on some devices, and change nothing on any.
    sixteen_bits = dtype != torch.float32
    with torch.autocast(loading.device().type, dtype) if sixteen_bits else nullcontext():
        yield


def label_log_probs(
    model: nn.Module,
    tokenizer: EncoderTokenizer,
    encoded: Sequence[EncodedText],
    *,
    dtype: torch.dtype,
    batch_tokens: int,
    description: str | Subtask | None = None,
) -> Tensor:
    """Log-probabilities of all labels [rows, labels], float64, in the order of the rows; each of
    its own where the model was loaded for several labels per text.

    Rows of similar length share a batch of at most `batch_tokens` tokens with padding, so the
    result is deterministic for the same rows, batch size and machine.
    """
    classifier: Any = model
    was_training = model.training
    model.eval()
    scores = torch.zeros(len(encoded), int(classifier.config.num_labels), dtype=torch.float64)
    with (
        torch.inference_mode(),
        mixed_precision(dtype),
        progress_bar(description, len(encoded)) as progress,
    ):
        # Of similar length, since encoders compute their padding.
        for rows in batch_by_token_budget([len(e.ids) for e in encoded], batch_tokens):
            inputs = tokenizer.collate([(encoded[i].ids, encoded[i].second_start) for i in rows])
            logits = model(**{k: v.to(loading.device()) for k, v in inputs.items()}).logits
            # Batches are in the order of lengths, scores in that of the examples.
            # float64 on the host: Apple's GPUs have none.
            scores[rows] = logits.cpu().double()
            progress.advance(0, len(rows))  # type: ignore[arg-type]
    model.train(was_training)
    if classifier.config.problem_type == SEVERAL_LABELS:
        # Labels have independent probabilities.
        return nn.functional.logsigmoid(scores)
    return torch.log_softmax(scores, dim=1)


def predict_labels(
    model: nn.Module,
    tokenizer: EncoderTokenizer,
    examples: Sequence[Example],
    labels: Sequence[str],
    *,
    dtype: torch.dtype,
    batch_tokens: int,
    description: str | Subtask | None = None,
) -> list[Prediction]:
    """Predict the label of every example, in their order. Their targets are not used."""
    encoded = tokenizer.encode([example.inputs for example in examples])
    log_probs = label_log_probs(
        model,
        tokenizer,
        encoded,
        dtype=dtype,
        batch_tokens=batch_tokens,
        description=description,
    )
    config: Any = model.config
    several = config.problem_type == SEVERAL_LABELS
    return [
        Prediction(
            example.id,
            chosen_labels(row, labels) if several else labels[int(np.argmax(row))],
            True,
            tuple(row),
            len(e.ids),
            e.truncated_tokens,
        )
        for example, e, row in zip(examples, encoded, log_probs.tolist(), strict=True)
    ]
