"""Prepacked weights give the matmuls of the original ones, and follow their changes."""

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

_PREPACKS = prepacked_weights.prepack_weights(
    nn.Sequential(nn.Linear(8, 8, bias=False, dtype=torch.bfloat16))
)
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not _PREPACKS, reason="no 16-bit products of oneDNN here"),
]
IDS = torch.arange(3, 43).view(2, 20)


def load_base(folder: Path, dtype: str = "bfloat16") -> Any:
    return load_model(
        folder,
        recipe.Model.model_validate(
            {"name": "tiny", "dtype": dtype, "attention": shared_prefix.NAME}
        ),
    ).eval()


def states(model: Any) -> Tensor:
    with torch.no_grad(), autocast(model):
        actual: Tensor = get_backbone(model)(input_ids=IDS, use_cache=False).last_hidden_state
    return actual


def close(actual: Tensor, expected: Tensor) -> bool:
    """Equal up to the rounding of two 16-bit kernels."""
    return bool((actual.float() - expected.float()).norm() <= 0.03 * expected.float().norm())


def load_lora(folder: Path, **lora: Any) -> Any:
    torch.manual_seed(0)
    model = adapters.make_trainable(
        load_base(folder),
        recipe.Variant(kind="tuned"),
        {"r": 4, "target_modules": "all-linear", **lora},
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture
def matmuls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Shapes [n, in, out] of the matmuls with prepacked weights."""
    actual: list[tuple[int, ...]] = []
    matmul = prepacked_weights.PrepackedWeight.matmul

    def recorded(self: prepacked_weights.PrepackedWeight, x: Tensor, weight: Tensor) -> Tensor:
        actual.append((*x.shape, len(weight)))
        return matmul(self, x, weight)

    monkeypatch.setattr(prepacked_weights.PrepackedWeight, "matmul", recorded)
    yield actual


def test_prepacked_matmul_matches_the_weight() -> None:
    torch.manual_seed(0)
    for size, in_features, out_features in (
        (1, 576, 3072),
        (17, 24, 40),
        (600, 31, 7),
        (3, 8, 1),
        (0, 8, 8),
    ):
        x, weight = (
            torch.randn(size, in_features).bfloat16(),
            torch.randn(out_features, in_features).bfloat16(),
        )
        exact = x.double() @ weight.double().T
        actual = prepacked_weights.PrepackedWeight().matmul(x, weight)
        assert (
            actual.dtype == torch.bfloat16
            and (actual.double() - exact).norm() <= 0.004 * exact.norm()
        )


def test_model_computes_the_same(
    model_folder: Path, matmuls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_base(model_folder)
    actual = states(model)
    assert (
        len(matmuls) == 7 * model.config.num_hidden_layers
    )  # queries, keys, values, output, gate, up, down
    monkeypatch.setattr(prepacked_weights, "MAX_PREPACKED_BYTES", 0)
    other = load_base(model_folder)
    expected, count = states(other), len(matmuls)
    assert count == 7 * model.config.num_hidden_layers  # the first model only
    assert close(actual, expected)


def test_adapted_model_is_prepacked_in_inference_only(
    model_folder: Path, matmuls: list[tuple[int, ...]]
) -> None:
    model = load_lora(model_folder)
    actual = states(model)
    assert len(matmuls) == 7 * model.config.num_hidden_layers
    matmuls.clear()
    with autocast(model):
        training = get_backbone(model)(input_ids=IDS, use_cache=False).last_hidden_state
    assert training.requires_grad and not matmuls
    with prepacked_weights.without_prepacked_weights():
        assert close(states(model), training.detach()) and not matmuls
    assert close(actual, training.detach())


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.add_(1),
        lambda weight: weight.data.add_(1),
        lambda weight: weight.data[:, 5:30].mul_(-3),
    ],
    ids=["in place", "through .data", "some columns"],
)
def test_changed_weight_is_packed_again(
    model_folders: dict[str, Path], change: Callable[[Tensor], Any]
) -> None:
    actual = []
    for used_before in (True, False):
        model = load_base(model_folders["llama"])
        before = states(model) if used_before else None
        with torch.no_grad():
            layer: Any = get_backbone(model).layers[0]  # type: ignore[index]
            change(layer.mlp.down_proj.weight)
        actual.append(states(model))
        assert before is None or not close(actual[-1], before)
    torch.testing.assert_close(actual[0], actual[1], atol=0, rtol=0)


@pytest.mark.parametrize(
    "lora",
    [{}, {"use_dora": True}, {"target_modules": ["q_proj", "down_proj"]}],
    ids=["all", "dora", "some"],
)
def test_merging_and_unloading_adapters(
    model_folders: dict[str, Path], lora: dict[str, Any]
) -> None:
    """Results are bit-identical, whether or not the model ran between merging steps."""

    def answers(every: bool) -> list[Tensor]:
        model, actual = load_lora(model_folders["llama"], **lora), []
        steps: list[Callable[[], Any]] = [
            lambda: None,
            model.merge_adapter,
            model.unmerge_adapter,
            model.merge_and_unload,
        ]
        for step in steps:
            result = step()
            if every or step is steps[-1]:
                actual.append(states(result if step is steps[-1] else model))
        return actual

    every_step = answers(True)
    torch.testing.assert_close(every_step[-1], answers(False)[-1], atol=0, rtol=0)
    assert (
        close(every_step[1], every_step[0])
        and close(every_step[2], every_step[0])
        and close(every_step[3], every_step[0])
    )


def test_disabled_adapter(model_folders: dict[str, Path]) -> None:
    model = load_lora(model_folders["llama"])
    tuned = states(model)
    with model.disable_adapter():
        disabled = states(model)
    assert (
        close(disabled, states(load_base(model_folders["llama"])))
        and not close(disabled, tuned)
        and close(states(model), tuned)
    )


def test_model_cast_after_its_first_use(
    model_folders: dict[str, Path], matmuls: list[tuple[int, ...]]
) -> None:
    model = load_base(model_folders["llama"])
    before = states(model)
    matmuls.clear()
    after = states(model.float())
    assert not matmuls and after.dtype == torch.float32 and close(after, before)


def test_unsupported_weights_are_not_prepacked(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not prepacked_weights.prepack_weights(load_base(model_folders["llama"], "float32"))
    model = load_base(model_folders["llama"])
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


@pytest.mark.slow
def test_prepacked_weights_are_freed_with_the_model(model_folders: dict[str, Path]) -> None:
    gc.collect()
    before = len(prepacked_weights.PREPACKED)
    model = load_base(model_folders["llama"])
    states(model)
    assert len(prepacked_weights.PREPACKED) > before
    del model
    gc.collect()
    assert len(prepacked_weights.PREPACKED) <= before
