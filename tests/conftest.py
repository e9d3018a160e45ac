"""Tiny random models of three families, with tokenizers, saved as model folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from skipped_kernels import (  # noqa: F401
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

os.environ["PROOFTUNE_QUIET"] = "1"
# For models this small, threads wait for each other longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_TEXT = (
    "the cat sat on a mat stocks fell markets rose goal scored match won planet orbit science new "
    "phone chip "
    "World Sports Business Sci/Tech good bad film loved hated text Text classify Classify below "
    "Answer with one of "
    "label Label user assistant system positive negative and was it is very no yes <|eot_id|> "
    "<end_of_turn> 0 1 2 3"
)
WORDS = _TEXT.split()

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] "
    "}}<|end_header_id|>\n\n{{ m['content'] | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt "
    "%}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not "
    "supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] "
    "}}\n{{ m['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_SPECIAL = {
    "llama": ("<s>", "</s>", [], None),
    "llama3": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        LLAMA3,
    ),
    "gemma2": ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"], GEMMA),
}
FAMILIES = tuple(_SPECIAL)


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that knows `WORDS`, adds its start token by itself and has the
    family's template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bos, eos, extra, template = _SPECIAL[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[bos, eos, *extra],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    fast.chat_template = template
    return fast


def make_model_folder(folder: Path, family: str, seed: int = 0, hidden: int = 32) -> Path:
    """A 3-layer random model of the family in the Hugging Face layout."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

    tokenizer = make_tokenizer(family)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    torch.manual_seed(seed)
    if family == "gemma2":
        # Soft-capping low enough to bend the logits, and a window shorter than the prompts.
        config = Gemma2Config(
            **sizes,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=16,
            final_logit_softcapping=2.0,
            attn_logit_softcapping=3.0,
        )
    else:
        config = LlamaConfig(**sizes, tie_word_embeddings=family == "llama3")
    config.initializer_range = (
        0.2  # large enough that different inputs give clearly different logits
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: make_model_folder(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def wide_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers hold whole blocks of 64 values, as 4-bit quantisation wants them."""
    return make_model_folder(tmp_path_factory.mktemp("wide") / "llama", "llama", hidden=64)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model_folder(model_folders: dict[str, Path], family: str) -> Path:
    return model_folders[family]


@pytest.fixture(scope="session")
def public_root() -> Path:
    """The folder of public data sets, which is not part of the project."""
    return Path(os.environ.get("PROOFTUNE_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture
def public_data(public_root: Path) -> Callable[[str], Path]:
    def find(name: str) -> Path:
        path = public_root / name
        if not path.exists():
            pytest.skip(f"public data not here: {name} (set PROOFTUNE_DATA)")
        return path

    return find
