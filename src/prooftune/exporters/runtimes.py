"""Runtimes that check an exported artefact, independent of the engine.

Transformers and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prooftune.models.weight_sizes import fits_in_float32

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FloatArray = NDArray[np.float64]


class Runtime(Protocol):
    """A loaded artefact.

    Attributes:
        name: the library with its version.
    """

    name: str

    def tokenize(self, text: str, *, special: bool, start: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: the text.
            special: whether control tokens in the text are parsed as such.
            start: whether to add the BOS token, if the artefact's tokenizer adds one.
        """

    def log_probs(self, ids: Sequence[int], count: int) -> FloatArray:
        """Natural-log probabilities of the token after each of the last `count` ids.

        Returns:
            Shape [count, vocabulary].
        """

    def label_log_probs(self, ids: Sequence[int], *, independent: bool = False) -> FloatArray:
        """Natural-log probabilities of the classification head, shape [labels].

        Args:
            ids: token ids of the prompt.
            independent: of each label by itself (sigmoid) instead of over all labels (softmax).
        """

    def generate_ids(self, ids: Sequence[int], stop: int, max_new_tokens: int) -> list[int]:
        """The greedy continuation, with the stop token if it is reached."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without control tokens."""


class Transformers:
    """A model folder run by transformers."""

    def __init__(self, folder: Path, head: bool) -> None:
        import torch
        import transformers
        from transformers import (
            AutoModelForCausalLM,
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )

        kind = AutoModelForSequenceClassification if head else AutoModelForCausalLM
        self.name = f"transformers {transformers.__version__}"
        # float32 if it fits into memory, to check the weights without 16-bit rounding.
        self.model: Any = kind.from_pretrained(
            folder, dtype="float32" if fits_in_float32(folder) else "auto"
        ).eval()
        if torch.cuda.is_available() and not getattr(
            self.model.config, "quantization_config", None
        ):
            self.model.to("cuda")
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )

    def tokenize(self, text: str, *, special: bool, start: bool = False) -> list[int]:
        return list(
            self.tokenizer(
                text, add_special_tokens=start, split_special_tokens=not special
            ).input_ids
        )

    def log_probs(self, ids: Sequence[int], count: int) -> FloatArray:
        # All logits would be an array of length x vocabulary.
        return self._log_probs(ids, logits_to_keep=count)[-count:]

    def label_log_probs(self, ids: Sequence[int], *, independent: bool = False) -> FloatArray:
        return self._log_probs(ids, independent=independent)

    def _log_probs(
        self, ids: Sequence[int], *, independent: bool = False, **options: Any
    ) -> FloatArray:
        import torch

        with torch.no_grad():
            logits = self.model(input_ids=self._tensor(ids), **options).logits[0]
        # float64, so that the comparison adds no rounding of its own.
        logits = logits.double()
        values = torch.nn.functional.logsigmoid(logits) if independent else logits.log_softmax(-1)
        log_probs: FloatArray = values.cpu().numpy()
        return log_probs

    def generate_ids(self, ids: Sequence[int], stop: int, max_new_tokens: int) -> list[int]:
        # Only the length is set: stop token and greedy decoding must come from the exported
        # generation config.
        prompt = self._tensor(ids)
        generated = self.model.generate(
            input_ids=prompt,
            attention_mask=prompt.new_ones(prompt.shape),
            max_new_tokens=max_new_tokens,
        )
        return [int(i) for i in generated[0, len(ids) :].tolist()]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def hidden_states(self, ids: Sequence[int]) -> list[Any]:
        """Hidden states [length, d] in float32 after the embedding and after every layer."""
        import torch

        with torch.no_grad():
            out = self.model(input_ids=self._tensor(ids), output_hidden_states=True)
        return [state[0].float().cpu() for state in out.hidden_states]

    def _tensor(self, ids: Sequence[int]) -> Any:
        import torch

        return torch.tensor([list(ids)], device=self.model.device)


class LlamaCpp:
    """A GGUF file run by llama.cpp through its Python binding."""

    def __init__(self, file: Path, context: int) -> None:
        """Load a GGUF file.

        Args:
            file: the file.
            context: number of tokens of the longest prompt with its answer.
        """
        import llama_cpp

        self.name = f"llama-cpp-python {llama_cpp.__version__}"
        self._library = llama_cpp
        # swa_full: prompts reuse the KV cache of the previous prompt's prefix, which a
        # sliding-window cache would have dropped.
        self._model = llama_cpp.Llama(
            str(file), n_ctx=context, n_batch=min(context, 512), swa_full=True, verbose=False
        )
        self._cached_ids: list[int] = []

    def tokenize(self, text: str, *, special: bool, start: bool = False) -> list[int]:
        if not text:  # llama.cpp raises an error for an empty text
            return []
        return list(self._model.tokenize(text.encode(), add_bos=start, special=special))

    def log_probs(self, ids: Sequence[int], count: int) -> FloatArray:
        ids, first = list(ids), len(ids) - count + 1
        shared_length = next(
            (i for i, (a, b) in enumerate(zip(ids, self._cached_ids, strict=False)) if a != b),
            min(len(ids), len(self._cached_ids)),
        )
        # At least one token is evaluated, since the cache holds no logits.
        self._model.n_tokens = min(shared_length, first - 1)
        rows = []
        # Without `logits_all` llama.cpp has the logits of the last token of each call only.
        for block in [ids[self._model.n_tokens : first], *([token] for token in ids[first:])]:
            self._model.eval(block)
            rows.append(self._last())
        self._cached_ids = ids
        return np.stack(rows)

    def _last(self) -> FloatArray:
        pointer = self._library.llama_get_logits_ith(self._model.ctx, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(self._model.n_vocab(),)).astype(np.float64)
        # The maximum is subtracted so that exp cannot overflow.
        logits -= logits.max()
        log_probs: FloatArray = logits - np.log(np.exp(logits).sum())
        return log_probs

    def label_log_probs(self, ids: Sequence[int], *, independent: bool = False) -> FloatArray:
        raise NotImplementedError  # exports of classification heads to GGUF are refused

    def generate_ids(self, ids: Sequence[int], stop: int, max_new_tokens: int) -> list[int]:
        generated: list[int] = []
        while len(generated) < max_new_tokens and stop not in generated[-1:]:
            generated.append(int(self.log_probs([*ids, *generated], 1)[0].argmax()))
        return generated

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._model.detokenize(list(ids)).decode(errors="replace"))

    def ends_at(self, stop: int) -> bool:
        """Whether llama.cpp treats the token as end of generation."""
        vocab = self._library.llama_model_get_vocab(self._model.model)
        return bool(self._library.llama_vocab_is_eog(vocab, stop))
