"""The expected-cost loss: against enumeration row by row, finite differences, and the scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prooftune import recipe
from prooftune.engine.batching import Batch
from prooftune.engine.model_parts import get_backbone
from prooftune.tasks.classification import class_pairs, label_scores
from prooftune.training.reward import (
    RewardModule,
    RewardRow,
    ScoredLabels,
    _is_checkpointed,
    expected_costs,
    reward_collator,
    reward_rows,
)
from training.tiny import EXAMPLES, setup

COSTS = torch.tensor([[0.0, 1.0, 5.0], [2.0, 0.0, 1.0], [0.5, 3.0, 0.25]])
WEIGHTS = [2.0, 1.0, 0.5, 1.0, 3.0, 1.0, 1.0]


def made(
    folder: Path, beta: float = 0.3, normalize: bool = False, attention: str = "auto"
) -> tuple[RewardModule, list[RewardRow], Any]:
    """A module, seven rows, and their encoder. The adapters are not zero."""
    options = recipe.Model.model_validate(
        {"name": "tiny", "dtype": "float32", "attention": attention}
    )
    tuned, _, encoder = setup(folder, options=options)
    generator = torch.Generator().manual_seed(1)
    for parameter in tuned.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    labels = ScoredLabels.of(
        encoder.prefix, encoder.label_ids, encoder.stop_token_id, normalize=normalize
    )
    module = RewardModule(tuned.model, labels, COSTS, beta)
    reference = torch.randn(7, 3, generator=generator).log_softmax(1).tolist()
    rows = [*reward_rows(class_pairs(EXAMPLES[:7], encoder), reference, WEIGHTS)]
    return module, rows, encoder


def naive_loss(module: RewardModule, rows: list[RewardRow], encoder: Any, lengths: bool) -> Any:
    """One forward pass of the whole model for every label of every row."""
    total = torch.zeros(())
    for row in rows:
        scores = []
        for label in encoder.label_ids:
            ids = [*encoder.prefix, *row.ids, *label]
            logits = module.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            before = len(ids) - len(label) - 1
            of_tokens = torch.log_softmax(logits.float(), 1)[range(before, len(ids) - 1), label]
            scores.append(of_tokens.mean() if lengths else of_tokens.sum())
        p = torch.softmax(torch.stack(scores), 0)
        divergence = sum(p[j] * (p[j].log() - row.reference[j]) for j in range(3))
        cost = sum(p[j] * COSTS[row.targets[0], j] for j in range(3))
        total = total + row.weight * (cost + module.beta * divergence)
    return total


def gradients(module: RewardModule) -> torch.Tensor:
    found = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    return torch.cat(found)


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_loss_and_gradients_are_those_of_enumeration(
    model_folder: Path, attention: str, normalize: bool
) -> None:
    module, rows, encoder = made(model_folder, normalize=normalize, attention=attention)
    out = module(**reward_collator(module.labels)(rows))
    out["loss_sum"].backward()
    actual = gradients(module)
    naive = naive_loss(module, rows, encoder, normalize)
    naive.backward()
    # Labels of several tokens, or a wrong tree would not show.
    assert out["count"].item() == 7 and module.labels.tree.tokens
    assert out["loss_sum"].item() == pytest.approx(naive.item(), abs=1e-4)
    torch.testing.assert_close(actual, gradients(module), atol=2e-5, rtol=2e-3)


def test_recomputed_layers_give_the_same_gradients(model_folder: Path) -> None:
    module, rows, _ = made(model_folder)
    batch = reward_collator(module.labels)(rows)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            module.activation_checkpointing_enable()
        module.train()
        assert _is_checkpointed(get_backbone(module.model)) is checkpointing
        module(**batch)["loss_sum"].backward()
        found.append(gradients(module))
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=2e-3)


def test_gradient_is_the_finite_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    reference = torch.randn(5, 3, dtype=torch.float64, generator=generator).log_softmax(1)
    costs = COSTS.double()[[0, 1, 2, 0, 1]]

    def loss(scores: torch.Tensor) -> torch.Tensor:
        return expected_costs(scores.log_softmax(1), costs, reference, 0.7)

    assert torch.autograd.gradcheck(loss, (scores,))


def test_expected_costs_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25]])
    reference = torch.tensor([[0.25, 0.25, 0.5]])
    costs = torch.tensor([[0.0, 4.0, 2.0]])
    assert expected_costs(p.log(), costs, reference.log(), 0.0).item() == pytest.approx(1.5)
    # 0.5 ln 2 + 0 - 0.25 ln 2
    expected = 1.5 + 2 * 0.25 * torch.tensor(2.0).log().item()
    assert expected_costs(p.log(), costs, reference.log(), 2.0).item() == pytest.approx(expected)


def test_the_policy_is_that_of_the_scorer(model_folder: Path) -> None:
    module, rows, encoder = made(model_folder)
    scores = label_scores(
        module.model, encoder, [row.ids for row in rows], recipe.Scoring(), description=None
    )
    batch = reward_collator(module.labels)(rows)
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "reference", "weights")}
    with torch.no_grad():
        actual = module.label_log_probs(Batch(**inputs))
    torch.testing.assert_close(actual, scores.log_softmax(1).float(), atol=1e-4, rtol=1e-4)


def test_a_shard_without_rows_has_no_loss(model_folders: dict[str, Path]) -> None:
    module, _, _ = made(model_folders["llama"])
    out = module(**reward_collator(module.labels)([]))
    out["loss_sum"].backward()
    assert out["loss_sum"].item() == out["count"].item() == 0
    assert not gradients(module).any()
