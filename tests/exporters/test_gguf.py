"""GGUF files, read back by transformers' own reader, and run under llama.cpp where that is
installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from exporters.conftest import LLAMA_CPP, Make
from prooftune.bundle import golden
from prooftune.bundle.manifest import GOLDEN
from prooftune.bundle.manifest_reader import language_model_manifest
from prooftune.errors import Failure, UsageError
from prooftune.exporters import gguf, merged
from prooftune.exporters.build import export
from prooftune.exporters.gguf_vocabulary import build_vocabulary
from prooftune.models import loading
from prooftune.utils.files import read_json, write_json

llama_cpp = pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason=LLAMA_CPP)
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture(scope="session")
def scaled_model(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The llama3 model with Llama 3.1's rope scaling, its frequencies on all three sides of it."""
    folder = tmp_path_factory.mktemp("scaled") / "model"
    shutil.copytree(model_folders["llama3"], folder)
    write_json(
        folder / "config.json", {**read_json(folder / "config.json"), "rope_parameters": SCALED}
    )
    return folder


@pytest.mark.slow
@pytest.mark.failure(23)
def test_another_reader_finds_the_same_model_in_the_file(
    make: Make, family: str, tmp_path: Path
) -> None:
    bundle = make(family)
    export(bundle, "gguf-f16", tmp_path / "out", unchecked=True)
    read = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file=gguf.FILE, dtype=torch.float32
    )
    there, here = merged.merge(bundle, language_model_manifest(bundle)), read.state_dict()
    for name, tensor in there.state_dict().items():
        torch.testing.assert_close(
            here[name], tensor, atol=1e-3, rtol=1e-3, msg=name
        )  # 16 bits of every weight
    for key in (
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "max_position_embeddings",
    ):
        assert getattr(read.config, key) == pytest.approx(getattr(there.config, key)), key
    assert read.config.rope_parameters["rope_theta"] == there.config.rope_parameters["rope_theta"]


def test_the_tokenizer_is_in_the_file_with_its_start_and_stop(make: Make, tmp_path: Path) -> None:
    from gguf import GGUFReader

    bundle = make("llama3")
    export(bundle, "gguf-q8_0", tmp_path / "out", unchecked=True)
    fields = GGUFReader(tmp_path / "out" / gguf.FILE).fields
    tokenizer = AutoTokenizer.from_pretrained(bundle)

    def value(name: str) -> Any:
        return fields[f"tokenizer.ggml.{name}"].contents()

    assert value("model") == "gpt2" and value("pre") == "gpt-2" and value("add_bos_token") is True
    assert value("tokens") == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert (
        value("eot_token_id")
        == tokenizer.convert_tokens_to_ids("<|eot_id|>")
        == language_model_manifest(bundle)["tokens"]["stop"]
    )
    control = [
        token for token, kind in zip(value("tokens"), value("token_type"), strict=True) if kind == 3
    ]
    assert control == [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template


def test_the_rope_factors_are_those_of_transformers(
    make: Make, scaled_model: Path, tmp_path: Path
) -> None:
    from gguf import GGUFReader
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    export(make("llama3", model=scaled_model), "gguf-f16", tmp_path / "out", unchecked=True)
    [factors] = [
        t.data
        for t in GGUFReader(tmp_path / "out" / gguf.FILE).tensors
        if t.name == "rope_freqs.weight"
    ]
    config = AutoModelForCausalLM.from_pretrained(scaled_model).config
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 10000.0 ** (np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(factors, plain / scaled.numpy(), rtol=1e-5)
    assert factors[0] == 1 and factors[-1] == 8


def test_what_llama_cpp_would_compute_otherwise_is_refused(make: Make, tmp_path: Path) -> None:
    bundle = make("gemma2")
    model, tokenizer = (
        merged.merge(bundle, language_model_manifest(bundle)),
        loading.load_tokenizer(bundle),
    )
    model.config.query_pre_attn_scalar = 32
    with pytest.raises(UsageError, match=r"scales Gemma 2's attention by 8, this model by 32"):
        gguf.write_model(
            model, tokenizer, language_model_manifest(bundle), tmp_path / "a.gguf", "f16"
        )
    model.config.model_type = "olmo"
    with pytest.raises(
        UsageError, match=r"models of type olmo are not written here.*convert_hf_to_gguf"
    ):
        gguf.write_model(
            model, tokenizer, language_model_manifest(bundle), tmp_path / "a.gguf", "f16"
        )


def test_the_name_of_the_splitting_follows_from_the_tokenizer(
    model_folders: dict[str, Path],
) -> None:
    from tokenizers import Regex, pre_tokenizers

    from prooftune.exporters.gguf_vocabulary import _LLAMA3

    tokenizer: Any = AutoTokenizer.from_pretrained(model_folders["llama"])
    digits, words = (
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for steps, name in (
        ([digits, words], "smollm"),
        ([pre_tokenizers.Split(Regex(_LLAMA3), "isolated"), plain], "smaug-bpe"),
    ):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        assert build_vocabulary(tokenizer, 500).pre_tokenizer == name
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(
        UsageError, match=r"llama.cpp has no name that is known here for a tokenizer that splits"
    ):
        build_vocabulary(tokenizer, 500)


@llama_cpp
@pytest.mark.failure(16)
@pytest.mark.parametrize("to", ["gguf-f16", "gguf-q8_0"])
def test_llama_cpp_answers_as_the_bundle_does(
    make: Make, family: str, tmp_path: Path, to: str
) -> None:
    record = export(make(family), to, tmp_path / "out")
    parity = record["parity"]
    assert parity["runtime"].startswith("llama-cpp-python") and parity["agreement"] >= 0.9
    assert parity["mean_difference"] < (0.02 if to == "gguf-f16" else 0.1)


@llama_cpp
@pytest.mark.failure(16)
def test_llama_cpp_scales_frequencies_as_the_bundle_does(
    make: Make, scaled_model: Path, tmp_path: Path
) -> None:
    record = export(make("llama3", model=scaled_model), "gguf-f16", tmp_path / "out")
    assert record["parity"]["mean_difference"] < 0.02


@llama_cpp
def test_llama_cpp_quantises_to_4_bits(make: Make, wide_model_folder: Path, tmp_path: Path) -> None:
    record = export(
        make("llama", model=wide_model_folder),
        "gguf-q4_k_m",
        tmp_path / "out",
        agreement=0.3,
        difference=5,
    )
    assert set(record["files"]) == {gguf.FILE} and record["parity"]["mean_difference"] < 2


@llama_cpp
@pytest.mark.failure(16)
def test_answers_are_written_alike_under_llama_cpp(make: Make, tmp_path: Path) -> None:
    bundle = make("llama3", task="free-text-qa", answering={"max_new_tokens": 6})
    record = export(bundle, "gguf-f16", tmp_path / "out", agreement=0.8)
    assert record["parity"]["mean_difference"] < 0.02 and record["parity"]["metric"]["name"] == "F1"


@llama_cpp
@pytest.mark.failure(16)
def test_ollama_is_asked_with_its_own_template(make: Make, tmp_path: Path) -> None:
    bundle = make(
        "llama3",
        task="free-text-qa",
        answering={"max_new_tokens": 6},
        template="{context}\nQ:\n{question}\nA:",
    )
    record = export(bundle, "ollama", tmp_path / "out", agreement=0.6)
    assert {"Modelfile", gguf.FILE} == set(record["files"])
    assert record["parity"]["one_text"] == 1.0


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    def change(name: str, value: Any) -> None:
        monkeypatch.setattr(gguf, name, value)

    return change


@llama_cpp
@pytest.mark.failure(4)
def test_a_second_start_token_is_found_by_llama_cpp(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prooftune.exporters import ollama

    # The text keeps its start token while the file says that llama.cpp adds one.
    monkeypatch.setattr(ollama, "adds_bos", lambda tokenizer: False)
    with pytest.raises(Failure, match=r"begins with two start tokens \('<\|begin_of_text\|>'\)"):
        export(make("llama3"), "gguf-f16", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@llama_cpp
@pytest.mark.failure(16)
def test_heads_left_in_the_other_order_are_refused(
    make: Make, tmp_path: Path, broken: Callable[[str, Any], None]
) -> None:
    broken("_interleaved", lambda values, heads: values)
    with pytest.raises(Failure, match="so the weights differ, by conversion or by quantisation"):
        export(make("llama"), "gguf-f16", tmp_path / "out")


@llama_cpp
@pytest.mark.failure(16)
def test_another_splitting_is_refused_with_the_first_differing_token(
    make: Make, tmp_path: Path
) -> None:
    from prooftune.exporters import gguf_vocabulary

    bundle, other = make("llama"), dict.fromkeys(gguf_vocabulary._NAMES, "qwen2")
    message = r"tokenisation: the prompt of row .* differs first at token"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Failure, match=message):
        patch.setattr(gguf_vocabulary, "_NAMES", other)
        export(bundle, "gguf-f16", tmp_path / "out")


@llama_cpp
def test_sentencepiece_like_tokenizers_read_alike(
    tmp_path: Path, make: Make, model_folders: dict[str, Path]
) -> None:
    """Llama 2's kind: pieces over characters, bytes to fall back on, a space put before a text."""
    folder = tmp_path / "model"
    shutil.copytree(model_folders["llama"], folder)
    pieces(folder)
    bundle = make("llama", model=folder, prompt={"max_length": 128})
    record = export(bundle, "gguf-f16", tmp_path / "out")
    assert record["parity"]["mean_difference"] < 0.02
    assert any(
        "漢字" in row.inputs["text"] for row in golden.read(bundle / GOLDEN)
    )  # which needs the bytes


def pieces(folder: Path) -> None:
    """Put a tokenizer of pieces in place of the folder's own, no larger."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from conftest import WORDS

    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.train_from_iterator(
        [" ".join(WORDS)] * 5,
        trainers.BpeTrainer(
            vocab_size=440,
            special_tokens=[*special, *(f"<0x{i:02X}>" for i in range(256))],
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    # The bytes are pieces like any other, not control tokens.
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = [
        added for added in described["added_tokens"] if added["content"] in special
    ]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    fast.save_pretrained(folder)
    config = read_json(folder / "config.json")
    assert len(fast) <= config["vocab_size"]
    write_json(folder / "config.json", {**config, "bos_token_id": 1, "eos_token_id": 2})
