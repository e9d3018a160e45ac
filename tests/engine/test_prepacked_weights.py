"""Weights that are laid out once give the products of the weights as they are, and are laid out
anew when these change."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prooftune import recipe
from prooftune.engine.attention import shared_prefix
from prooftune.engine.fused import prepacked_weights
from prooftune.engine.model_parts import get_backbone
from prooftune.engine.precision import autocast
from prooftune.models import adapters
from prooftune.models.loading import load_model

pytestmark = pytest.mark.skipif(
    not prepacked_weights.prepack_weights(
        nn.Sequential(nn.Linear(8, 8, bias=False, dtype=torch.bfloat16))
    ),
    reason="no 16-bit products of oneDNN here",
)
IDS = torch.arange(3, 43).view(2, 20)


def model_of(folder: Path, dtype: str = "bfloat16") -> Any:
    return load_model(
        folder,
        recipe.Model.model_validate(
            {"name": "tiny", "dtype": dtype, "attention": shared_prefix.NAME}
        ),
    ).eval()


def states(model: Any) -> Tensor:
    with torch.no_grad(), autocast(model):
        found: Tensor = get_backbone(model)(input_ids=IDS, use_cache=False).last_hidden_state
    return found


def close(found: Tensor, wanted: Tensor) -> bool:
    """Within what two kernels round differently in 16 bits."""
    return bool((found.float() - wanted.float()).norm() <= 0.03 * wanted.float().norm())


def adapted(folder: Path, **lora: Any) -> Any:
    torch.manual_seed(0)
    model = adapters.make_trainable(
        model_of(folder),
        recipe.Variant(kind="tuned"),
        {"r": 4, "target_modules": "all-linear", **lora},
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of the products that were computed with a weight that is laid out."""
    found: list[tuple[int, ...]] = []
    product = prepacked_weights.PrepackedWeight.matmul

    def counted(self: prepacked_weights.PrepackedWeight, x: Tensor, weight: Tensor) -> Tensor:
        found.append((*x.shape, len(weight)))
        return product(self, x, weight)

    monkeypatch.setattr(prepacked_weights.PrepackedWeight, "matmul", counted)
    yield found


def test_products_are_those_of_the_weight_as_it_is() -> None:
    torch.manual_seed(0)
    for size, inside, out in ((1, 576, 3072), (17, 24, 40), (600, 31, 7), (3, 8, 1), (0, 8, 8)):
        x, weight = torch.randn(size, inside).bfloat16(), torch.randn(out, inside).bfloat16()
        exact = x.double() @ weight.double().T
        found = prepacked_weights.PrepackedWeight().matmul(x, weight)
        assert (
            found.dtype == torch.bfloat16
            and (found.double() - exact).norm() <= 0.004 * exact.norm()
        )


def test_a_model_computes_the_same(
    model_folder: Path, products: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(model_folder)
    found = states(model)
    assert (
        len(products) == 7 * model.config.num_hidden_layers
    )  # queries, keys, values, output, gate, up, down
    monkeypatch.setattr(prepacked_weights, "MAX_PREPACKED_BYTES", 0)
    other = model_of(model_folder)
    wanted, count = states(other), len(products)
    assert count == 7 * model.config.num_hidden_layers  # of the first model only
    assert close(found, wanted)


def test_an_adapted_model_is_laid_out_where_nothing_is_learned(
    model_folder: Path, products: list[tuple[int, ...]]
) -> None:
    model = adapted(model_folder)
    found = states(model)
    assert len(products) == 7 * model.config.num_hidden_layers
    products.clear()
    with autocast(model):
        learning = get_backbone(model)(input_ids=IDS, use_cache=False).last_hidden_state
    assert learning.requires_grad and not products
    with prepacked_weights.without_prepacked_weights():
        assert close(states(model), learning.detach()) and not products
    assert close(found, learning.detach())


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.add_(1),
        lambda weight: weight.data.add_(1),
        lambda weight: weight.data[:, 5:30].mul_(-3),
    ],
    ids=["in place", "through .data", "some columns"],
)
def test_a_weight_that_changes_is_laid_out_anew(
    model_folders: dict[str, Path], change: Callable[[Tensor], Any]
) -> None:
    found = []
    for asked_before in (True, False):
        model = model_of(model_folders["llama"])
        before = states(model) if asked_before else None
        with torch.no_grad():
            change(get_backbone(model).layers[0].mlp.down_proj.weight)  # type: ignore[index,union-attr]
        found.append(states(model))
        assert before is None or not close(found[-1], before)
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)


@pytest.mark.parametrize(
    "lora",
    [{}, {"use_dora": True}, {"target_modules": ["q_proj", "down_proj"]}],
    ids=["all", "dora", "some"],
)
def test_adapters_that_come_and_go(model_folders: dict[str, Path], lora: dict[str, Any]) -> None:
    """Asked in between or not, the answers are the same to the last bit: switched off, merged,
    taken out again, unloaded."""

    def answers(every: bool) -> list[Tensor]:
        model, found = adapted(model_folders["llama"], **lora), []
        steps: list[Callable[[], Any]] = [
            lambda: None,
            model.merge_adapter,
            model.unmerge_adapter,
            model.merge_and_unload,
        ]
        for step in steps:
            left = step()
            if every or step is steps[-1]:
                found.append(states(left if step is steps[-1] else model))
        return found

    often = answers(True)
    torch.testing.assert_close(often[-1], answers(False)[-1], atol=0, rtol=0)
    assert close(often[1], often[0]) and close(often[2], often[0]) and close(often[3], often[0])


def test_an_adapter_that_is_switched_off(model_folders: dict[str, Path]) -> None:
    model = adapted(model_folders["llama"])
    tuned = states(model)
    with model.disable_adapter():
        off = states(model)
    assert (
        close(off, states(model_of(model_folders["llama"])))
        and not close(off, tuned)
        and close(states(model), tuned)
    )


def test_a_model_that_is_cast_after_it_was_asked(
    model_folders: dict[str, Path], products: list[tuple[int, ...]]
) -> None:
    model = model_of(model_folders["llama"])
    before = states(model)
    products.clear()
    after = states(model.float())
    assert not products and after.dtype == torch.float32 and close(after, before)


def test_what_is_not_laid_out(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not prepacked_weights.prepack_weights(model_of(model_folders["llama"], "float32"))
    model = model_of(model_folders["llama"])
    size = sum(layer.weight.nbytes for layer in prepacked_weights.prepack_weights(model))
    assert size > 0
    monkeypatch.setattr(prepacked_weights, "MAX_PREPACKED_BYTES", size)
    assert prepacked_weights.prepack_weights(model)
    monkeypatch.setattr(prepacked_weights, "MAX_PREPACKED_BYTES", size - 1)
    assert not prepacked_weights.prepack_weights(model)
    biased = nn.Sequential(
        nn.Linear(8, 8, dtype=torch.bfloat16), nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
    )
    assert list(prepacked_weights.prepack_weights(biased)) == [biased[1]]


def test_nothing_is_kept_of_models_that_are_gone(model_folders: dict[str, Path]) -> None:
    gc.collect()
    before = len(prepacked_weights.PREPACKED)
    model = model_of(model_folders["llama"])
    states(model)
    assert len(prepacked_weights.PREPACKED) > before
    del model
    gc.collect()
    assert len(prepacked_weights.PREPACKED) <= before
