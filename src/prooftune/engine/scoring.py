"""Exact log-probabilities of every label for every prompt, in one forward pass per batch.

The prefix that all prompts share is computed once per run. Labels of several tokens form a trie
that follows each row: a node attends to the prefix, its row and its own ancestors (tree attention),
so all labels are scored in one pass and their common prefixes are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from prooftune.engine.attention.backends import flex_computes
from prooftune.engine.batching import Batch, batch_by_token_budget, collate, to_device
from prooftune.engine.compatibility import use_tree_attention
from prooftune.engine.forward import (
    compute_prefix_cache,
    device_of,
    flex_hidden_states,
    hidden_states,
    padding_budget,
    supports_shared_prefix,
)
from prooftune.engine.model_parts import get_backbone, get_output_head


@dataclass(slots=True)
class LabelTree:
    """The labels' tokens as a trie whose inner nodes must be fed to the model.

    Attributes:
        tokens: id of each inner node, parents before children.
        parents: index of each inner node's parent, -1 for the end of the prompt.
        depths: 1 for a label's first token.
        label_terms: per label, the (node, token) pairs whose log-probabilities add up to the
            label's; node -1 is the end of the prompt.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    label_terms: list[list[tuple[int, int]]] = field(default_factory=list)


def label_tree(labels: Sequence[Sequence[int]], stop_token_id: int) -> LabelTree:
    """Build the trie of the labels' token ids.

    If one label is a prefix of another, every label is scored with its stop token. Otherwise labels
    already exclude each other, and the stop token would only add noise.
    """
    # Tuples, because tries are dictionaries keyed by prefixes.
    tuples = [tuple(label) for label in labels]
    if any(a != b and b[: len(a)] == a for a in tuples for b in tuples):
        tuples = [(*label, stop_token_id) for label in tuples]
    tree = LabelTree()
    nodes: dict[tuple[int, ...], int] = {(): -1}
    for label in tuples:
        terms = []
        for i, token in enumerate(label):
            # Only proper prefixes become nodes: a label's last token is predicted and never fed.
            start = label[:i]
            # A node's hidden state predicts the next token of every label that starts like this.
            if start not in nodes:
                nodes[start] = len(tree.tokens)
                tree.tokens.append(start[-1])
                tree.parents.append(nodes[start[:-1]])
                tree.depths.append(len(start))
            terms.append((nodes[start], token))
        tree.label_terms.append(terms)
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
        prefix: token ids that all rows start with.
        rows: token ids after the prefix, one list per prompt.
        labels: token ids of each label.
        stop_token_id: used only if one label is a prefix of another.
        normalize: divide a label's log-probability by its number of tokens.
        batch_tokens: maximum number of tokens in a batch, padding and copied prefixes included.

    Yields:
        Row numbers of a batch, and the summed natural-log probabilities [batch_size, labels] in
        float32, not normalised over the labels.
    """
    tree = label_tree(labels, stop_token_id)
    backbone, output_head = get_backbone(model), get_output_head(model)
    device = device_of(model)
    divisors = (
        torch.tensor([len(terms) for terms in tree.label_terms])
        if normalize
        else torch.ones(len(labels))
    )
    # Labels of one token need no tree mask, so the model keeps its attention.
    with torch.no_grad(), use_tree_attention(model) if tree.tokens else nullcontext():
        cache = compute_prefix_cache(backbone, prefix)
        by_flex = flex_computes(backbone, "label tree" if tree.tokens else "rows")
        # transformers' attention copies the prefix's keys and values to every row.
        copied = 0 if supports_shared_prefix(backbone) else len(prefix)
        for row_ids in batch_by_token_budget(
            [copied + len(row) + len(tree.tokens) for row in rows],
            batch_tokens,
            padding_budget(backbone, batch_tokens),
        ):
            selected = [rows[i] for i in row_ids]
            if by_flex:
                hidden = flex_hidden_states(
                    backbone,
                    [[*row, *tree.tokens] for row in selected],
                    _tree_logit_positions(selected, tree),
                    len(prefix),
                    cache,
                    tree.parents,
                )
            else:
                batch = to_device(tree_batch(selected, tree, len(prefix)), device)
                hidden = hidden_states(backbone, batch, cache)
            # Summed on the device, so that a batch is one transfer to the host.
            yield row_ids, label_log_probs(output_head(hidden), tree).cpu() / divisors


def label_log_probs(logits: Tensor, tree: LabelTree) -> Tensor:
    """Summed log-probability of every label, [rows, labels], with gradients where they are enabled.

    Args:
        logits: [rows x (1 + nodes), vocabulary], at the positions of `tree_batch`.
        tree: the labels.
    """
    # [rows, 1 + nodes, vocabulary]: the end of the prompt (node -1), then the tree's nodes.
    log_probs = torch.log_softmax(logits, dim=-1).reshape(
        -1, 1 + len(tree.tokens), logits.shape[-1]
    )
    sums = [
        sum(log_probs[:, node + 1, token] for node, token in terms) for terms in tree.label_terms
    ]
    return torch.stack([torch.as_tensor(s) for s in sums], dim=1)


def score_classes(
    model: nn.Module,
    prefix: Sequence[int],
    rows: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 4096,
    independent: bool = False,
) -> Iterator[tuple[list[int], Tensor]]:
    """Log-probability of every class by a classification head at each row's last token.

    Args:
        model: a model with a classification head, adapters included.
        prefix: token ids that all rows start with.
        rows: token ids after the prefix.
        batch_tokens: maximum number of tokens in a batch, padding and copied prefixes included.
        independent: classes have independent probabilities (sigmoid), for several labels per
            row. Otherwise they sum to 1 (softmax).

    Yields:
        Row numbers of a batch, and natural-log probabilities [batch_size, classes] in float32.
    """
    backbone, output_head = get_backbone(model), get_output_head(model)
    device = device_of(model)
    with torch.no_grad():
        cache = compute_prefix_cache(backbone, prefix)
        by_flex = flex_computes(backbone, "rows")
        # transformers' attention copies the prefix's keys and values to every row.
        copied = 0 if supports_shared_prefix(backbone) else len(prefix)
        for row_ids in batch_by_token_budget(
            [copied + len(row) for row in rows],
            batch_tokens,
            padding_budget(backbone, batch_tokens),
        ):
            selected = [rows[i] for i in row_ids]
            last = [[len(row) - 1] for row in selected]
            if by_flex:
                hidden = flex_hidden_states(backbone, selected, last, len(prefix), cache)
            else:
                batch = to_device(collate(selected, last, len(prefix)), device)
                hidden = hidden_states(backbone, batch, cache)
            logits = output_head(hidden)
            normalize = torch.nn.functional.logsigmoid if independent else _log_softmax
            yield row_ids, normalize(logits).cpu()


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=-1)


def tree_batch(rows: Sequence[Sequence[int]], tree: LabelTree, prefix_length: int) -> Batch:
    """Rows followed by the label tree, with a 4D tree attention mask where the tree has nodes."""
    nodes = len(tree.tokens)
    batch = collate(
        [[*row, *tree.tokens] for row in rows], _tree_logit_positions(rows, tree), prefix_length
    )
    if nodes == 0:
        return batch
    count, length = batch.input_ids.shape
    # Copied per row and not expanded: each row's tree is at another place.
    allowed = torch.ones(length, length, dtype=torch.bool).tril().repeat(count, 1, 1)
    # `collate` expands one row of positions to all rows, and an expanded tensor cannot be written.
    positions = batch.position_ids.clone()
    ancestors = _ancestors(tree)
    for i, row in enumerate(rows):
        start, end = len(row), len(row) + nodes
        # Within the tree, a node attends to its ancestors only: siblings are alternatives.
        allowed[i, start:end, start:end] = ancestors
        # Padding does not attend even to itself: `Batch.token_mask` reads the diagonal.
        allowed[i, range(end, length), range(end, length)] = False
        # Siblings share a position, as if each label alone followed the row.
        positions[i, start:end] = torch.tensor(tree.depths) + prefix_length + start - 1
    # Every token of every row sees the whole prefix.
    prefix = torch.ones(count, length, prefix_length, dtype=torch.bool)
    mask = torch.cat([prefix, allowed], dim=2)[:, None]  # (rows, 1, length, prefix + length)
    last = prefix_length + max(map(len, rows)) - 1 + max(tree.depths)
    return replace(batch, attention_mask=mask, position_ids=positions, last_position=last)


def _tree_logit_positions(rows: Sequence[Sequence[int]], tree: LabelTree) -> list[list[int]]:
    """The end of every prompt and all tree nodes."""
    return [list(range(len(row) - 1, len(row) + len(tree.tokens))) for row in rows]


def _ancestors(tree: LabelTree) -> Tensor:
    """[nodes, nodes], True where the column is the row's node itself or one of its ancestors."""
    matrix = torch.eye(len(tree.tokens), dtype=torch.bool)
    # Parents come before children, so a parent's row of the matrix is complete here.
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            matrix[node] |= matrix[parent]
    return matrix
