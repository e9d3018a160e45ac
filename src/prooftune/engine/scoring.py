"""Log-probability of every label for every prompt, exactly, in one forward pass per batch.

The prefix that all prompts share is computed once per run. Labels of several tokens form a tree (a
trie) that is laid out after each row: a node sees the prefix, its row and its own ancestors, so all
labels are scored together and their common beginnings once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prooftune.engine.batching import Batch, batch_by_token_budget, collate, to_device
from prooftune.engine.forward import (
    get_backbone,
    get_output_head,
    hidden_states,
    padding_budget,
    prefix_cache,
)


@dataclass(slots=True)
class LabelTree:
    """The labels' tokens as a tree whose inner nodes must be fed to the model.

    Attributes:
        tokens: id of each inner node, parents before children.
        parents: index of each inner node's parent, -1 for the end of the prompt.
        depths: 1 for a label's first token.
        reads: per label, the (node, token) pairs whose log-probabilities add up to the label's:
            node -1 is the end of the prompt.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    reads: list[list[tuple[int, int]]] = field(default_factory=list)


def label_tree(labels: Sequence[Sequence[int]], stop_token_id: int) -> LabelTree:
    """Build the tree. Where one label's tokens begin another's, every label is scored with its stop
    token; otherwise the labels already exclude each other and the stop token would only add noise.
    """
    tuples = [tuple(label) for label in labels]
    if any(a != b and b[: len(a)] == a for a in tuples for b in tuples):
        tuples = [(*label, stop_token_id) for label in tuples]
    tree = LabelTree()
    nodes: dict[tuple[int, ...], int] = {(): -1}
    for label in tuples:
        reads = []
        for i, token in enumerate(label):
            start = label[:i]
            if start not in nodes:
                nodes[start] = len(tree.tokens)
                tree.tokens.append(start[-1])
                tree.parents.append(nodes[start[:-1]])
                tree.depths.append(len(start))
            reads.append((nodes[start], token))
        tree.reads.append(reads)
    return tree


def score_labels(
    model: nn.Module,
    prefix: Sequence[int],
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    stop_token_id: int,
    *,
    normalize: bool = False,
    batch_tokens: int = 4096,
) -> Iterator[tuple[list[int], Tensor]]:
    """Score every label after every row with a causal model.

    Args:
        model: a causal language model, adapters included.
        prefix: ids that all rows begin with.
        rows: ids after the prefix, one list per prompt.
        labels: token ids of each label.
        stop_token_id: id of the stop token, used only where one label begins another.
        normalize: divide a label's log-probability by its number of tokens.
        batch_tokens: tokens of a batch, padding included.

    Yields:
        Row numbers of a batch, and the summed natural-log probabilities [batch, labels] in float32.
        Not normalised over the labels.
    """
    tree = label_tree(labels, stop_token_id)
    body, readout = get_backbone(model), get_output_head(model)
    device = next(model.parameters()).device
    lengths = torch.tensor([len(r) for r in tree.reads]) if normalize else torch.ones(len(labels))
    with torch.no_grad():
        cache = prefix_cache(body, prefix)
        for numbers in batch_by_token_budget(
            [len(row) + len(tree.tokens) for row in rows],
            batch_tokens,
            padding_budget(body, batch_tokens),
        ):
            batch = to_device(_with_tree([rows[i] for i in numbers], tree, len(prefix)), device)
            logits = readout(hidden_states(body, batch, cache))
            # [batch, 1 + nodes, vocabulary]: the end of the prompt first, then the tree's nodes.
            log_probs = torch.log_softmax(logits, dim=-1).reshape(
                len(numbers), 1 + len(tree.tokens), -1
            )
            sums = [
                sum(log_probs[:, node + 1, token] for node, token in reads) for reads in tree.reads
            ]
            yield numbers, torch.stack([torch.as_tensor(s) for s in sums], dim=1).cpu() / lengths


def score_classes(
    model: nn.Module,
    prefix: Sequence[int],
    rows: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 4096,
) -> Iterator[tuple[list[int], Tensor]]:
    """Log-probability of every class with a classification head, read at each row's last token.

    Yields:
        Row numbers of a batch, and log-probabilities [batch, classes] in float32.
    """
    body, readout = get_backbone(model), get_output_head(model)
    device = next(model.parameters()).device
    with torch.no_grad():
        cache = prefix_cache(body, prefix)
        for numbers in batch_by_token_budget(
            [len(row) for row in rows], batch_tokens, padding_budget(body, batch_tokens)
        ):
            chosen = [rows[i] for i in numbers]
            batch = to_device(
                collate(chosen, [[len(row) - 1] for row in chosen], len(prefix)), device
            )
            yield (
                numbers,
                torch.log_softmax(readout(hidden_states(body, batch, cache)), dim=-1).cpu(),
            )


def _with_tree(rows: Sequence[Sequence[int]], tree: LabelTree, prefix_length: int) -> Batch:
    nodes = len(tree.tokens)
    reads = [list(range(len(row) - 1, len(row) + nodes)) for row in rows]
    batch = collate([[*row, *tree.tokens] for row in rows], reads, prefix_length)
    if nodes == 0:
        return batch
    count, length = batch.input_ids.shape
    allowed = torch.ones(length, length, dtype=torch.bool).tril().repeat(count, 1, 1)
    positions = batch.position_ids.clone()
    ancestors = _ancestors(tree)
    for i, row in enumerate(rows):
        start, end = len(row), len(row) + nodes
        allowed[i, start:end, start:end] = ancestors
        allowed[i, range(end, length), range(end, length)] = False  # padding
        positions[i, start:end] = torch.tensor(tree.depths) + prefix_length + start - 1
    seen = torch.ones(count, length, prefix_length, dtype=torch.bool)
    return Batch(
        batch.input_ids,
        torch.cat([seen, allowed], dim=2)[:, None],
        positions,
        batch.logit_positions,
    )


def _ancestors(tree: LabelTree) -> Tensor:
    """[nodes, nodes] True where the column is the row's node itself or one of its ancestors."""
    matrix = torch.eye(len(tree.tokens), dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            matrix[node] |= matrix[parent]
    return matrix
