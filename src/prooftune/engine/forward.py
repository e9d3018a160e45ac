"""One forward pass for training and scoring: shared prefix, hidden states only where they are read.

A model is a body (token ids -> hidden states) and a read-out (hidden state -> logits over the vocabulary
or over the labels). The read-out is applied to the gathered positions alone, so no array of
rows x length x vocabulary ever exists.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.errors import Failure

LINE = 320
"""Tokens of a training line (`pack`)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that share a prefix, right-padded.

    Attributes:
        input_ids: [rows, length] ids after the shared prefix; padding has id 0 and is masked by position.
        attention_mask: [rows, length] 1 where a token stands, or [rows, 1, length, prefix + length] True
            where a token may look, for trees of labels.
        position_ids: [rows, length] positions, counted with the prefix.
        read: [n] places in the flattened rows x length whose hidden states are read.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    read: Tensor


def body_of(model: nn.Module) -> nn.Module:
    """The transformer without its output layer, adapters included."""
    inner = _unwrapped(model)
    body = getattr(inner, inner.base_model_prefix)
    if not isinstance(body, nn.Module):
        raise Failure(f"{type(inner).__name__} has no separate body; Prooftune needs a Llama-like causal model")
    return body


def readout_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Hidden states [n, d] -> logits [n, classes] in float32: the language head, or the classification head."""
    inner = _unwrapped(model)
    head = getattr(inner, "score", None)
    if isinstance(head, nn.Module):
        return _float32_head(head)
    output = inner.get_output_embeddings()
    cap = getattr(inner.config, "final_logit_softcapping", None)

    def read(hidden: Tensor) -> Tensor:
        logits: Tensor = output(hidden).float()
        return torch.tanh(logits / cap) * cap if cap else logits

    return read


def _float32_head(head: nn.Module) -> Callable[[Tensor], Tensor]:
    def read(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = head(hidden.float())
            return logits

    return read


def _unwrapped(model: nn.Module) -> Any:
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def prefix_cache(body: nn.Module, prefix: Sequence[int]) -> Any | None:
    """Keys and values of the prefix for one row, with gradients where they are enabled; None for no prefix."""
    if not prefix:
        return None
    ids = torch.tensor([list(prefix)], device=_device(body))
    return body(input_ids=ids, use_cache=True).past_key_values


def expanded(cache: Any, rows: int) -> Any:
    """The cache seen by `rows` rows without a copy: layers are replaced, tensors are views, gradients flow back."""
    seen = copy.copy(cache)
    seen.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in seen.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return seen


def hidden_states(body: nn.Module, batch: Batch, cache: Any | None) -> Tensor:
    """Hidden states [n, d] at the batch's read positions, gathered contiguously."""
    options: dict[str, Any] = {"use_cache": False}
    mask = batch.attention_mask
    if cache is not None:
        rows = batch.input_ids.shape[0]
        options = {"past_key_values": expanded(cache, rows), "use_cache": True}
        if mask.dim() == 2:
            mask = torch.cat([mask.new_ones(rows, cache.get_seq_length()), mask], dim=1)
    masks: Any = mask if mask.dim() == 2 else _tree_masks(body, batch)
    out = body(input_ids=batch.input_ids, attention_mask=masks, position_ids=batch.position_ids, **options)
    hidden: Tensor = out.last_hidden_state
    return hidden.reshape(-1, hidden.shape[-1])[batch.read].contiguous()


def collate(rows: Sequence[Sequence[int]], read: Sequence[Sequence[int]], prefix_length: int) -> Batch:
    """Right-pad `rows`; `read` gives, per row, the places within the row to read."""
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    places = [i * length + place for i, per_row in enumerate(read) for place in per_row]
    positions = (torch.arange(length) + prefix_length).expand(len(rows), -1)
    return Batch(ids, mask, positions, torch.tensor(places))


def pack(prefix: Sequence[int], rows: Sequence[Sequence[int]], read: Sequence[Sequence[int]], capacity: int = LINE) -> Batch:
    """Lay rows one after another in lines that begin with the prefix; each row sees the prefix and itself.

    Batches drawn at random hold rows of very different lengths: padding them all to the longest would double the
    work, and repeating the prefix before each row would, too. The read positions keep the order of `rows`.

    Args:
        prefix: ids that all rows begin with.
        rows: ids after the prefix.
        read: per row, the places within the row to read.
        capacity: tokens of a line; more where the longest row or the prefix asks for it. Short lines repeat the prefix
            often, long ones pay for attention that is masked; the default is the best of what was measured.
    """
    shared = len(prefix)
    capacity = max(capacity, 3 * shared, shared + max(len(row) for row in rows))
    lines = _lines([len(row) for row in rows], capacity - shared)
    length = shared + max(sum(len(rows[i]) for i in line) for line in lines)
    ids = torch.zeros(len(lines), length, dtype=torch.long)
    positions = torch.zeros(len(lines), length, dtype=torch.long)
    owner = torch.full((len(lines), length), -1)
    ids[:, :shared] = torch.tensor(list(prefix), dtype=torch.long)
    positions[:, :shared] = torch.arange(shared)
    places: dict[int, list[int]] = {}
    for n, line in enumerate(lines):
        start = shared
        for i in line:
            end = start + len(rows[i])
            ids[n, start:end] = torch.tensor(rows[i])
            positions[n, start:end] = torch.arange(len(rows[i])) + shared
            owner[n, start:end] = i
            places[i] = [n * length + start + place for place in read[i]]
            start = end
    # Padding sees the prefix and itself: a position that sees nothing at all would be not-a-number.
    own = owner[:, :, None] == owner[:, None, :]
    own[:, :, :shared] = True
    mask = (own & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    return Batch(ids, mask, positions, torch.tensor([place for i in range(len(rows)) for place in places[i]]))


def _lines(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Row numbers of each line: first fit in order of falling length."""
    capacity = max(capacity, *lengths)
    lines: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        line = next((n for n, left in enumerate(room) if left >= lengths[i]), None)
        if line is None:
            lines.append([])
            room.append(capacity)
            line = len(lines) - 1
        lines[line].append(i)
        room[line] -= lengths[i]
    return lines


def to_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(getattr(batch, name).to(device) for name in Batch.__slots__))


def check_readout(model: nn.Module) -> None:
    """Compare body + read-out with the model's own logits on a few tokens.

    Raises:
        Failure: they differ, so the architecture does something between body and logits that we do not know.
    """
    device = _device(model)
    vocabulary = int(_unwrapped(model).config.vocab_size)
    ids = torch.arange(1, 9, device=device)[None] % vocabulary
    was_training = model.training
    model.eval()
    with torch.no_grad():
        # A classification head's own logits are at the last token that is not padding: none here is.
        own = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
        own = own[:, -1] if own.dim() == 3 else own
        ours = readout_of(model)(body_of(model)(input_ids=ids, use_cache=False).last_hidden_state[:, -1])
    model.train(was_training)
    difference = (own - ours).abs().max().item()
    if not difference <= 0.05 * max(1.0, own.abs().max().item()):
        raise Failure(f"{type(_unwrapped(model)).__name__}: logits computed from the hidden state differ from the model's own by "
                      f"{difference:.3g}; this architecture is not supported. Supported: Llama, Mistral, Qwen, Gemma and "
                      "others that apply their output layer to the last hidden state.")


def _tree_masks(body: nn.Module, batch: Batch) -> Any:
    """The batch's own mask in the form that the body's layers expect.

    Layers with a sliding window of W see the last W positions only, and keep only the last W - 1 keys of a
    cached prefix; where some layers slide and others do not, transformers takes one mask per kind of layer.
    """
    config: Any = body.config
    allowed, dtype = batch.attention_mask, next(body.parameters()).dtype
    length, total = allowed.shape[2:]
    full = _additive(allowed, dtype)
    kinds = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    if not window or total <= window or kinds == {"full_attention"}:
        return full
    prefix = total - length
    keys = torch.cat([torch.arange(prefix, device=allowed.device).expand(len(allowed), -1), batch.position_ids], dim=1)
    near = (batch.position_ids[:, :, None] - keys[:, None, :] < window)[:, None]
    sliding = _additive((allowed & near)[..., max(0, prefix - (window - 1)) :], dtype)
    return {"full_attention": full, "sliding_attention": sliding} if kinds else sliding


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
