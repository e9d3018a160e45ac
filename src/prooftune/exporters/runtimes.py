"""What runs an exported artefact when it is checked: libraries that others use, and nothing of our
engine.

Both runtimes have the same four methods, so that one comparison serves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prooftune.errors import Failure
from prooftune.models.loading import fits_in_float32

Floats = NDArray[np.float64]


class Runtime(Protocol):
    """One loaded artefact. `name` is what runs it, with its version."""

    name: str

    def tokenize(self, text: str, *, special: bool, start: bool = False) -> list[int]:
        """Token ids of a text; `special`: control tokens in it are read as such; `start`: the start
        token is added where the artefact adds it by itself."""

    def log_probs(self, ids: Sequence[int], count: int) -> Floats:
        """Natural-log probabilities [count, vocabulary] of what follows each of the last `count`
        ids."""

    def classes(self, ids: Sequence[int]) -> Floats:
        """Natural-log probabilities [labels] by the classification head."""

    def write(self, ids: Sequence[int], stop: int, max_new_tokens: int) -> list[int]:
        """The likeliest continuation, token by token, the stop token included where it comes."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without control tokens."""


class Transformers:
    """A model folder under plain transformers."""

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
        # Where there is room, what the written weights say, whatever the arithmetic of whoever will
        # use them.
        self.model: Any = kind.from_pretrained(
            folder, dtype="float32" if fits_in_float32(folder) else "auto"
        ).eval()
        if torch.cuda.is_available() and not getattr(
            self.model.config, "quantization_config", None
        ):
            self.model.to("cuda")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def tokenize(self, text: str, *, special: bool, start: bool = False) -> list[int]:
        return list(
            self.tokenizer(
                text, add_special_tokens=start, split_special_tokens=not special
            ).input_ids
        )

    def log_probs(self, ids: Sequence[int], count: int) -> Floats:
        return self._logits(ids, logits_to_keep=count)[-count:]

    def classes(self, ids: Sequence[int]) -> Floats:
        return self._logits(ids)

    def _logits(self, ids: Sequence[int], **options: Any) -> Floats:
        import torch

        with torch.no_grad():
            logits = self.model(input_ids=self._tensor(ids), **options).logits[0]
        found: Floats = logits.double().log_softmax(-1).cpu().numpy()
        return found

    def write(self, ids: Sequence[int], stop: int, max_new_tokens: int) -> list[int]:
        # No settings but the length: what ends an answer, and how tokens are chosen, must have been
        # exported.
        prompt = self._tensor(ids)
        written = self.model.generate(
            input_ids=prompt,
            attention_mask=prompt.new_ones(prompt.shape),
            max_new_tokens=max_new_tokens,
        )
        return [int(i) for i in written[0, len(ids) :].tolist()]

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
    """A GGUF file under llama.cpp, by its Python binding."""

    def __init__(self, file: Path, context: int) -> None:
        """`context`: tokens of the longest prompt with its answer."""
        import llama_cpp

        self.name = f"llama-cpp-python {llama_cpp.__version__}"
        self._library = llama_cpp
        # swa_full: the tokens of the last prompt are partly used again, which needs all of them in
        # the cache.
        self._model = llama_cpp.Llama(
            str(file), n_ctx=context, n_batch=min(context, 512), swa_full=True, verbose=False
        )
        self._seen: list[int] = []

    def tokenize(self, text: str, *, special: bool, start: bool = False) -> list[int]:
        if not text:  # llama.cpp calls an empty text an error
            return []
        return list(self._model.tokenize(text.encode(), add_bos=start, special=special))

    def log_probs(self, ids: Sequence[int], count: int) -> Floats:
        ids, first = list(ids), len(ids) - count + 1
        shared = next(
            (i for i, (a, b) in enumerate(zip(ids, self._seen, strict=False)) if a != b),
            min(len(ids), len(self._seen)),
        )
        self._model.n_tokens = min(shared, first - 1)
        rows = []
        for block in [ids[self._model.n_tokens : first], *([token] for token in ids[first:])]:
            self._model.eval(block)
            rows.append(self._last())
        self._seen = ids
        return np.stack(rows)

    def _last(self) -> Floats:
        pointer = self._library.llama_get_logits_ith(self._model.ctx, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(self._model.n_vocab(),)).astype(np.float64)
        logits -= logits.max()
        found: Floats = logits - np.log(np.exp(logits).sum())
        return found

    def classes(self, ids: Sequence[int]) -> Floats:
        raise Failure(
            "llama.cpp runs no classification head; export such a bundle in another format"
        )

    def write(self, ids: Sequence[int], stop: int, max_new_tokens: int) -> list[int]:
        written: list[int] = []
        while len(written) < max_new_tokens and stop not in written[-1:]:
            written.append(int(self.log_probs([*ids, *written], 1)[0].argmax()))
        return written

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._model.detokenize(list(ids)).decode(errors="replace"))

    def ends_at(self, stop: int) -> bool:
        """Whether llama.cpp's own programs end an answer at this token."""
        vocab = self._library.llama_model_get_vocab(self._model.model)
        return bool(self._library.llama_vocab_is_eog(vocab, stop))
