"""Adapters (LoRA, DoRA, rsLoRA) and fully tuned models: create, save, load, switch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prooftune import recipe as recipes
from prooftune.errors import Failure, UsageError
from prooftune.models.loading import load_model
from prooftune.utils.files import explain_full_disk

if TYPE_CHECKING:
    from peft import PeftModel

DEFAULT_ADAPTER = "default"
"""Name of a model's first adapter, which is peft's own."""

OVERWRITTEN = (
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "megatron_core",
)
"""`LoraConfig` fields that do not affect training, and that peft sets itself."""

_HALF = {torch.float16, torch.bfloat16}

_SWITCHES = {"dora": "use_dora", "rslora": "use_rslora"}


def make_trainable(model: nn.Module, variant: recipes.Variant, lora: dict[str, Any]) -> nn.Module:
    """Make the variant's parameters trainable: LoRA, DoRA or rsLoRA adapters, or all weights.

    All trainable weights are float32 whatever the base model's dtype, those of
    ``lora.modules_to_save`` too; a classification head is trained in full. After training,
    `remove_master_weights` rounds fully trained modules to the dtype they are used in.

    Raises:
        UsageError: the `LoraConfig` fields contradict each other or fit no layer of the model.
    """
    if variant.method == "full":
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model
    from peft import get_peft_model

    try:
        adapted: nn.Module = get_peft_model(model, lora_config(variant, lora))
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise UsageError(f"lora: {error}") from error
    _add_master_weights(adapted)
    return adapted


@dataclass(frozen=True, slots=True)
class _MasterWeights:
    """Trainable weights that have been cast to float32, and how to undo it.

    Attributes:
        dtypes: the weights and the dtypes they had.
        hooks: casts of outputs.
    """

    dtypes: list[tuple[nn.Parameter, torch.dtype]]
    hooks: list[RemovableHandle]


_MASTER_WEIGHTS: WeakKeyDictionary[nn.Module, _MasterWeights] = WeakKeyDictionary()


def _add_master_weights(model: nn.Module) -> None:
    """Cast trainable 16-bit weights to float32.

    Small steps would be rounded away in bfloat16, and gradients in float16 cannot be unscaled
    (mixed precision, arXiv 1710.03740).
    """
    from peft.utils.other import ModulesToSaveWrapper

    master = _MasterWeights([], [])
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            dtypes = {p.dtype for p in module.original_module.parameters()} & _HALF
            if dtypes:
                # An embedding or a norm would otherwise make all later activations float32.
                master.hooks.append(module.register_forward_hook(partial(_cast, dtypes.pop())))
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in _HALF:
            master.dtypes.append((parameter, parameter.dtype))
            # The parameter itself stays, to which peft and the optimiser refer.
            parameter.data = parameter.data.float()
    _MASTER_WEIGHTS[model] = master


def _cast(dtype: torch.dtype, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.to(dtype)


def remove_master_weights(model: nn.Module) -> None:
    """Round weights that were float32 for training to the dtype in which they are used."""
    master = _MASTER_WEIGHTS.pop(model, None)
    for hook in master.hooks if master else ():
        hook.remove()
    for parameter, dtype in master.dtypes if master else ():
        parameter.data = parameter.data.to(dtype)


def lora_config(variant: recipes.Variant, lora: dict[str, Any]) -> Any:
    """The `peft.LoraConfig` of a tuned variant.

    Args:
        variant: its method turns DoRA or rsLoRA on; its objective sets the task type.
        lora: `LoraConfig` fields; they override the defaults r=16, alpha=32, all linear layers.

    Raises:
        TypeError, ValueError: the fields contradict each other.
    """
    from peft import LoraConfig, TaskType

    # The recipe's fields come last, so that they win.
    options = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", **lora}
    options["task_type"] = TaskType.SEQ_CLS if variant.has_head else TaskType.CAUSAL_LM
    for key in OVERWRITTEN:
        options.pop(key, None)
    if variant.method in _SWITCHES:
        options[_SWITCHES[variant.method]] = True
    return LoraConfig(**options)


def save_tuned(model: nn.Module, folder: Path, method: str, dtype: torch.dtype) -> None:
    """Write the trained weights in the libraries' layout: a peft adapter, or a whole model."""
    tuned: Any = model
    if method == "full":
        tuned = tuned.to(dtype)
        # `load_model` gives the head float32 weights whatever the dtype, so they are saved as
        # float32.
        if hasattr(tuned, "score"):
            tuned.score.to(torch.float32)
    with explain_full_disk(folder, OSError, SafetensorError):
        tuned.save_pretrained(folder)
    # peft writes an empty model card with paths of this machine; the bundle has its own card.
    (folder / "README.md").unlink(missing_ok=True)


def load_tuned(
    base: Path,
    trained: Path,
    options: recipes.Model,
    *,
    quantization: dict[str, Any] | None,
    labels: list[str] | None,
) -> nn.Module:
    """Load what `save_tuned` wrote: the base model with its adapter, or a whole model.

    Args:
        base: the base model's folder.
        trained: the folder given to `save_tuned`.
        options, quantization: as for `load_model`.
        labels: labels of the classification head; None for a causal model.

    Raises:
        Failure: the files cannot be loaded, or the adapter or its head is incomplete.
    """
    arguments: dict[str, Any] = {"quantization": quantization, "labels": labels}
    # peft's mark of an adapter; a fully tuned model is a model folder of its own.
    if not (trained / "adapter_config.json").is_file():
        return load_model(trained, options, **arguments)
    from peft import PeftModel

    model = load_model(base, options, **arguments)
    with loading_errors(trained, base):
        tuned: nn.Module = PeftModel.from_pretrained(
            model, str(trained), adapter_name=DEFAULT_ADAPTER
        )
    return tuned.eval()


def load_to_continue(
    base: Path,
    trained: Path,
    options: recipes.Model,
    *,
    quantization: dict[str, Any] | None,
    method: str,
) -> nn.Module:
    """Load what `save_tuned` wrote, to train it further: its trainable parameters are those that
    were trained, in float32.

    Args:
        base, trained, options, quantization: as of `load_tuned`.
        method: with which it was trained.

    Raises:
        Failure: the files cannot be loaded.
    """
    if method == "full":
        model = load_model(trained, options, full_precision=True)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model
    from peft import PeftModel

    model = load_model(base, options, quantization=quantization)
    with loading_errors(trained, base):
        tuned: nn.Module = PeftModel.from_pretrained(
            model, str(trained), adapter_name=DEFAULT_ADAPTER, is_trainable=True
        )
    _add_master_weights(tuned)
    return tuned.eval()


def add_adapter(model: PeftModel, trained: Path) -> str:
    """Load another adapter into a model from `load_tuned`. The base weights are shared.

    Returns:
        The adapter's name in the model, for `use_adapter`.

    Raises:
        Failure: the files cannot be loaded, or do not fit the base model.
    """
    name = f"adapter-{len(model.peft_config) + 1}"
    with loading_errors(trained, "a base model that is already loaded"):
        model.load_adapter(str(trained), adapter_name=name)
    model.eval()
    return name


@contextmanager
def use_adapter(model: PeftModel, name: str | None) -> Iterator[None]:
    """Activate one of a model's adapters; None: deactivate all, which gives the base model.

    Not thread-safe: the active adapter is part of the model's state.
    """
    if name is None:
        model.base_model.disable_adapter_layers()
        try:
            yield
        finally:
            model.base_model.enable_adapter_layers()
            # Enabling the layers also made the adapter trainable; `set_adapter` reverts that.
            model.set_adapter(model.active_adapter, inference_mode=True)
        return
    # `set_adapter` visits every layer, so it is called only if the adapter changes.
    if model.active_adapters != [name]:
        model.set_adapter(name, inference_mode=True)
    yield


@contextmanager
def loading_errors(trained: Path, base: Path | str) -> Iterator[None]:
    """Context manager that turns the libraries' errors into failures for the user.

    Raises:
        Failure: the files cannot be loaded, or do not fit the base model.
    """
    try:
        yield
    except (KeyError, RuntimeError, ValueError, OSError, SafetensorError) as error:
        raise Failure(f"{trained} could not be loaded as an adapter of {base}: {error}") from error


def trainable_counts(model: nn.Module) -> tuple[int, int]:
    """Numbers of trainable and of all parameters. Quantised weights count unpacked."""
    trainable = total = 0
    for parameter in model.parameters():
        count = parameter.numel()
        if count == 0 or type(parameter).__name__ == "Params4bit":
            shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
            # bitsandbytes packs two 4-bit values into one byte.
            count = int(torch.Size(shape).numel()) if shape is not None else count * 2
        total += count
        trainable += count if parameter.requires_grad else 0
    return trainable, total
