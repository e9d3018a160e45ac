"""Single tensors of a model folder, read without loading the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.errors import Failure
from prooftune.models.loading import compute_dtype, device
from prooftune.models.weight_files import open_weights
from prooftune.utils.files import read_json


class StoredTensors:
    """The safetensors files of a model folder, by tensor name; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> StoredTensors:
        for path in sorted(self.folder.glob("*.safetensors")):
            file = self._stack.enter_context(open_weights(path))
            self._files.update(dict.fromkeys(file.keys(), file))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """One tensor, in the dtype of the file, on the CPU."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


_HEADS = ("lm_head.weight", "model.embed_tokens.weight", "embed_tokens.weight")
"""Names of the output head's weights; tied ones are those of the input embeddings."""


def load_output_head(folder: Path, dtype: torch.dtype | None = None) -> Callable[[Tensor], Tensor]:
    """The output head (lm_head) of a causal model alone, for a model that ends in a
    classification head.

    Args:
        folder: of the causal model.
        dtype: of the weights. Default: the compute dtype of this machine.

    Returns:
        A function from hidden states [n, d] to logits [n, vocabulary] in float32.

    Raises:
        Failure: the folder holds no such weights.
    """
    with StoredTensors(folder) as stored:
        # With tied weights the files hold the embedding only.
        name = next((name for name in _HEADS if name in stored), None)
        if name is None:
            raise Failure(f"{folder} holds no output head ({' or '.join(_HEADS)})")
        weight = stored.read(name).to(device(), dtype or compute_dtype())
    cap = read_json(folder / "config.json").get("final_logit_softcapping")

    def logits_of(hidden: Tensor) -> Tensor:
        logits = nn.functional.linear(hidden, weight).float()
        return torch.tanh(logits / cap) * cap if cap else logits

    return logits_of
