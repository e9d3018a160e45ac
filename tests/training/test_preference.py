"""The DPO loss: by hand, against one padded row at a time, and finite differences."""

from __future__ import annotations

from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch

from prooftune.errors import UsageError
from prooftune.tasks.classification import instruction_pairs
from prooftune.training.preference import (
    PreferenceModule,
    PreferenceRow,
    dpo_losses,
    preference_collator,
    preference_row,
    with_reference_policy,
)
from prooftune.training.trainer import train
from training.tiny import EXAMPLES, arguments, setup

BETA = 0.4


def made(
    folder: Path, packed: bool = True, count: int = 7
) -> tuple[PreferenceModule, list[PreferenceRow], Any, Any]:
    """A module with adapters that are not zero, pairs of labels, their collator and encoder."""
    tuned, _, encoder = setup(folder, packed=packed)
    generator = torch.Generator().manual_seed(1)
    for parameter in tuned.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    module = PreferenceModule(tuned.model, BETA)
    module.packed = module.packed and packed
    rows = [
        preference_row(
            prompt,
            target,
            encoder.label_ids[(i + 1) % 3],
            encoder.stop_token_id,
            weight=1.0 + i % 2,
        )
        for i, (prompt, target) in enumerate(instruction_pairs(EXAMPLES[:count], encoder))
    ]
    for i, row in enumerate(rows):
        row.reference = 0.3 * i - 1
    collator = preference_collator(encoder.prefix, module.packed, module.pad_multiple)
    return module, rows, collator, encoder


def answer_log_prob(module: Any, prefix: list[int], row: Any) -> torch.Tensor:
    """By the whole model on one sequence, as transformers and TRL compute it."""
    ids = torch.tensor([[*prefix, *row.ids, row.targets[-1]]])
    logits = module.model(input_ids=ids, use_cache=False).logits[0].float()
    log_probs = torch.log_softmax(logits, dim=1)
    start = ids.shape[1] - len(row.targets)
    return sum(log_probs[start - 1 + k, token] for k, token in enumerate(row.targets))  # type: ignore[return-value]


def gradients(module: PreferenceModule) -> torch.Tensor:
    found = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    return torch.cat(found)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_loss_and_gradients_are_those_of_single_rows(model_folder: Path, packed: bool) -> None:
    module, rows, collator, encoder = made(model_folder, packed)
    out = module(**collator(rows))
    out["loss_sum"].backward()
    actual = gradients(module)
    total = torch.zeros(())
    for row in rows:
        chosen, rejected = (answer_log_prob(module, encoder.prefix, a) for a in row.answers())
        margin = BETA * (chosen - rejected - row.reference)
        total = total + row.weight * -torch.log(torch.sigmoid(margin))
    total.backward()  # type: ignore[no-untyped-call]
    assert out["count"].item() == 7
    assert out["loss_sum"].item() == pytest.approx(total.item(), abs=1e-4)
    torch.testing.assert_close(actual, gradients(module), atol=2e-5, rtol=2e-3)


def test_loss_by_hand() -> None:
    margins, reference = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 1.0])
    expected = [log(1 + exp(-0.5)), log(1 + exp(1.5))]
    assert dpo_losses(margins, reference, 0.5).tolist() == pytest.approx(expected)
    smoothed = dpo_losses(margins, reference, 0.5, 0.1).tolist()
    other = [log(1 + exp(0.5)), log(1 + exp(-1.5))]
    assert smoothed == pytest.approx(
        [0.9 * a + 0.1 * b for a, b in zip(expected, other, strict=True)]
    )


def test_gradient_is_the_finite_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(6, dtype=torch.float64, generator=generator, requires_grad=True)
    reference = torch.randn(6, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda m: dpo_losses(m, reference, 0.3, 0.05), (margins,))


def test_the_loss_at_the_reference_policy_is_log_two(model_folder: Path) -> None:
    module, rows, collator, _ = made(model_folder, count=20)
    module.train()
    rows = with_reference_policy(module, rows, collator, torch.device("cpu"))
    assert module.training
    module.eval()
    out = module(**collator(rows))
    weight = sum(row.weight for row in rows)
    assert out["loss_sum"].item() / weight == pytest.approx(log(2), abs=1e-5)
    assert len({round(row.reference, 4) for row in rows}) > 10


def test_rows_split_into_their_answers() -> None:
    row = preference_row([5, 6, 7], [8, 9], [3], stop=1, weight=2.0)
    chosen, rejected = row.answers()
    assert (chosen.ids, chosen.label_positions, chosen.targets) == (
        [5, 6, 7, 8, 9],
        [2, 3, 4],
        [8, 9, 1],
    )
    assert (rejected.ids, rejected.label_positions, rejected.targets) == (
        [5, 6, 7, 3],
        [2, 3],
        [3, 1],
    )
    assert len(row) == 9 and row.weight == 2.0
    with pytest.raises(UsageError, match="stop token"):
        preference_row([5], [8, 1, 9], [3], stop=1)


def test_training_prefers_the_chosen_answers(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    module, rows, collator, encoder = made(model_folders["llama"], count=12)
    rows = with_reference_policy(module, rows, collator, torch.device("cpu"))

    def preferred() -> int:
        module.eval()
        inputs = {
            k: v for k, v in collator(rows).items() if k not in ("labels", "reference", "weights")
        }
        with torch.no_grad():
            margins = module.margins(pairs=12, **inputs)
        return int((margins > torch.tensor([row.reference for row in rows]) + 1).sum())

    assert preferred() == 0
    train(
        module,
        rows,
        rows,
        encoder.prefix,
        arguments(tmp_path, num_train_epochs=6, gradient_accumulation_steps=2, save_strategy="no"),
        collator=collator,
        description=None,
    )
    assert preferred() >= 10


def test_a_shard_without_pairs_has_no_loss(model_folders: dict[str, Path]) -> None:
    module, _, collator, _ = made(model_folders["llama"])
    out = module(**collator([]))
    out["loss_sum"].backward()
    assert out["loss_sum"].item() == out["count"].item() == 0
