"""Our attention is the library's: a shared prefix, packed lines and sliding windows change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prooftune import recipe
from prooftune.engine import attention
from prooftune.engine.arithmetic import leave_inputs
from prooftune.engine.batches import collate, pack
from prooftune.engine.cache import Kept
from prooftune.engine.forward import body_of, check_readout, hidden_states, prefix_cache, shares
from prooftune.models import adapters
from prooftune.models.loading import load_model

PREFIX = list(range(40, 62))  # longer than Gemma-2's window of 16 in these models
ROWS = [[5, 6, 7], [9], list(range(10, 33)), [70, 71, 72, 73, 74, 75]]
READ = [[len(row) - 1] for row in ROWS]


def loaded(folder: Path, dtype: str = "float32") -> Any:
    return load_model(folder, recipe.Model.model_validate({"name": "tiny", "dtype": dtype, "attention": attention.NAME}))


def one_by_one(model: Any) -> Tensor:
    """Hidden states at each row's last token by the library's eager attention, each row alone after the whole prefix."""
    model.set_attn_implementation("eager")
    states = [body_of(model)(input_ids=torch.tensor([[*PREFIX, *row]]), use_cache=False).last_hidden_state[0, -1] for row in ROWS]
    model.set_attn_implementation(attention.NAME)
    return torch.stack(states)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-4), ("bfloat16", 0.12)])
def test_a_shared_prefix_changes_nothing(model_folder: Path, dtype: str, tolerance: float) -> None:
    model = loaded(model_folder, dtype)
    with torch.no_grad():
        wanted = one_by_one(model)
        prefix = prefix_cache(body_of(model), PREFIX)
        got = hidden_states(body_of(model), collate(ROWS, READ, len(PREFIX)), prefix)
    torch.testing.assert_close(got, wanted, atol=tolerance * float(wanted.abs().max()), rtol=0)


def test_packed_lines_change_nothing(model_folder: Path) -> None:
    model = loaded(model_folder)
    with torch.no_grad():
        got = hidden_states(body_of(model), pack(PREFIX, ROWS, READ, capacity=70), None)
        torch.testing.assert_close(got, one_by_one(model), atol=2e-4, rtol=1e-4)


def test_gradients_flow_through_the_shared_prefix(model_folder: Path) -> None:
    model = loaded(model_folder)
    parameters = list(body_of(model).parameters())
    # Squares would do nothing: the last layer's norm keeps their sum the same.
    weights = torch.randn(len(ROWS), 32, generator=torch.Generator().manual_seed(0))
    wanted = torch.autograd.grad((one_by_one(model) * weights).sum(), parameters, allow_unused=True)
    prefix = prefix_cache(body_of(model), PREFIX)
    states = hidden_states(body_of(model), collate(ROWS, READ, len(PREFIX)), prefix)
    got = torch.autograd.grad((states * weights).sum(), parameters, allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()), rtol=1e-3)


def test_padding_masks_are_obeyed_outside_the_engine(model_folder: Path) -> None:
    model = loaded(model_folder)
    left = torch.tensor([[0, 0, 0, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        ours = model(input_ids=left, attention_mask=mask).logits[0, -1]
        model.set_attn_implementation("eager")
        torch.testing.assert_close(ours, model(input_ids=left, attention_mask=mask).logits[0, -1], atol=1e-4, rtol=1e-4)


def test_an_architecture_that_it_does_not_fit_falls_back_and_says_so(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("prooftune.engine.forward.say", lambda message, style: said.append(message))
    model = loaded(model_folders["llama"])
    plain = attention.attend
    # A layer that loses what it is told about the prefix, as one would that takes no further arguments.
    monkeypatch.setattr(attention, "attend", lambda *a, sight=None, **options: plain(*a, **options))
    attention.register()
    try:
        check_readout(model)
    finally:
        monkeypatch.undo()
        attention.register()
    assert not shares(body_of(model))
    assert ["cannot share a prefix between rows" in message for message in said] == [True]


def test_inputs_left_as_they_are_give_the_same_gradients(model_folders: dict[str, Path]) -> None:
    def gradients(leaves: bool) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        model: Any = adapters.attach(loaded(model_folders["llama"], "bfloat16"), recipe.Variant(kind="tuned"), {"r": 4})
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if leaves:
            leave_inputs(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = hidden_states(body_of(model), pack(PREFIX, ROWS, READ), None)
        loss = states.float().square().mean(dim=0).mul(torch.linspace(-1, 1, 32)).sum()
        return loss.detach(), list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))

    (loss, ours), (wanted_loss, wanted) = gradients(True), gradients(False)
    assert torch.equal(loss, wanted_loss) and len(ours) == len(wanted) > 0
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=0.02 * float(b.abs().max()), rtol=0)


def test_kept_rows_are_the_rows_asked_for() -> None:
    kept = Kept(room=2)
    keys = torch.arange(24.0).reshape(3, 1, 4, 2)
    kept.update(keys, -keys, 0)
    kept.keep_rows(torch.tensor([2, 0]))
    added = torch.full((2, 1, 1, 2), 7.0)
    held, values = kept.update(added, added, 0)
    assert kept.length == kept.get_seq_length() == 5
    torch.testing.assert_close(held[:, :, :4], keys[[2, 0]])
    torch.testing.assert_close(values[:, :, 4:], added)
