"""A converted checkpoint computes what Meta's equations say, reads text as its own tokenizer does,
and bad ones are refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convert.meta import LLAMA_3, WORDS, forward, write_checkpoint
from prooftune.convert.convert import convert
from prooftune.convert.params import read_params
from prooftune.convert.tokenizer import LLAMA_3 as SPECIAL_3
from prooftune.convert.tokenizer import LLAMA_3_1 as SPECIAL_3_1
from prooftune.convert.tokenizer import convert_tokenizer
from prooftune.errors import UsageError
from prooftune.utils.files import read_json

pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
SCALED = {"use_scaled_rope": True}
TEXTS = [
    "the cat sat on a mat",
    " two  spaces",
    "stocks fell, markets rose 1234!",
    "ünïcode 漢字 🎉",
    "line\nbreak\n\n",
    "it's I'LL",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "shards", "changes"),
    [
        ("llama2", 1, {}),
        ("llama2", 2, {}),
        ("llama2", 4, {"n_kv_heads": 4}),
        ("llama3", 1, {}),
        ("llama3", 2, {}),
        ("llama3", 2, SCALED),
        ("llama3", 1, {**SCALED, "rope_scaling_factor": 32.0}),
    ],
)
def test_logits_are_those_of_metas_equations(
    tmp_path: Path, family: str, shards: int, changes: dict[str, Any]
) -> None:
    from transformers import AutoModelForCausalLM

    params, whole = write_checkpoint(tmp_path / "meta", family, shards, **changes)
    done = convert(tmp_path / "meta", tmp_path / "out")
    tokens = torch.randint(
        0, params["vocab_size"], (70,), generator=torch.Generator().manual_seed(1)
    )
    # Positions far apart, where a wrong order of the rotary embedding or a wrong stretch shows.
    expected = forward(params, whole, tokens)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        converted_logits = model(input_ids=tokens[None]).logits[0]
    assert expected.std() > 0.5
    torch.testing.assert_close(converted_logits, expected, atol=1e-4, rtol=0)
    assert done.parameters == sum(t.numel() for name, t in whole.items() if name != "rope.freqs")
    assert (done.vocabulary, done.tied, done.dtype) == (params["vocab_size"], False, "float32")


def test_several_files_are_written_with_their_index_and_the_dtype_is_kept(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "meta"
    _, whole = write_checkpoint(folder, "llama3")
    torch.save(
        {name: tensor.bfloat16() for name, tensor in whole.items()}, folder / "consolidated.00.pth"
    )
    done = convert(folder, tmp_path / "out", shard_bytes=40_000)
    assert done.files == len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.model.norm.weight, whole["norm.weight"].bfloat16())
    assert (
        sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
        >= 2 * done.parameters
    )
    assert max(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")) < 100_000


@pytest.mark.parametrize("how", ["missing", "equal"])
def test_an_output_layer_that_is_the_embedding_is_tied(tmp_path: Path, how: str) -> None:
    from transformers import AutoModelForCausalLM

    params, whole = write_checkpoint(tmp_path / "meta", "llama3")
    whole["output.weight"] = whole["tok_embeddings.weight"]
    if how == "missing":
        del whole["output.weight"]
    torch.save(whole, tmp_path / "meta" / "consolidated.00.pth")
    assert convert(tmp_path / "meta", tmp_path / "out").tied
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokens = torch.arange(20)
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=tokens[None]).logits[0],
            forward(params, whole, tokens),
            atol=1e-4,
            rtol=0,
        )


def same_as_sentencepiece(tokenizer: Any, path: Path, texts: list[str]) -> None:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor()
    pieces.Load(str(path))
    for text in texts:
        assert tokenizer(text).input_ids == [1, *pieces.EncodeAsIds(text)], text
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text, text


def same_as_tiktoken(tokenizer: Any, path: Path, special: list[str], texts: list[str]) -> None:
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    import base64

    ranks = {
        base64.b64decode(token): int(rank)
        for token, rank in map(bytes.split, path.read_bytes().splitlines())
    }
    encoding = tiktoken.Encoding(
        "llama3",
        pat_str=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| "
        r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
        mergeable_ranks=ranks,
        special_tokens={name: len(ranks) + i for i, name in enumerate(special)},
    )
    for text in texts:
        assert tokenizer(text).input_ids == [
            len(ranks),
            *encoding.encode(text, disallowed_special=()),
        ], text
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert tokenizer.convert_tokens_to_ids(special) == [
        encoding.encode_single_token(name) for name in special
    ]


def test_sentencepiece_reads_text_as_before(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_checkpoint(tmp_path / "meta", "llama2")
    convert(tmp_path / "meta", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    same_as_sentencepiece(
        tokenizer, tmp_path / "meta" / "tokenizer.model", [*TEXTS, " ".join(WORDS)]
    )
    config = read_json(tmp_path / "out" / "config.json")
    assert (config["bos_token_id"], config["eos_token_id"], tokenizer.eos_token) == (1, 2, "</s>")
    assert config["max_position_embeddings"] == tokenizer.model_max_length == 4096
    assert tokenizer.chat_template is None


@pytest.mark.parametrize(
    ("changes", "special", "ends"),
    [
        ({}, SPECIAL_3, ["<|end_of_text|>", "<|eot_id|>"]),
        (SCALED, SPECIAL_3_1, ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]),
    ],
)
def test_tiktoken_reads_text_as_before_and_an_instruct_model_stops_at_the_end_of_a_turn(
    tmp_path: Path, changes: dict[str, Any], special: list[str], ends: list[str]
) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "Tiny-Llama-3-Instruct"
    write_checkpoint(folder, "llama3", **changes)
    assert convert(folder, tmp_path / "out").chat
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    same_as_tiktoken(tokenizer, folder / "tokenizer.model", special, [*TEXTS, " ".join(WORDS)])
    generation = read_json(tmp_path / "out" / "generation_config.json")
    assert tokenizer.convert_ids_to_tokens(generation["eos_token_id"]) == ends
    assert tokenizer.eos_token == "<|eot_id|>"
    turns = [{"role": "system", "content": " Be short. "}, {"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe "
        "short.<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_special_tokens_stand_at_their_published_places() -> None:
    assert len(SPECIAL_3) == len(SPECIAL_3_1) == len(set(SPECIAL_3)) == len(set(SPECIAL_3_1)) == 256
    for tokens in (SPECIAL_3, SPECIAL_3_1):
        assert [tokens[i] for i in (0, 1, 6, 7, 9)] == [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ]
    assert SPECIAL_3[-1] == "<|reserved_special_token_250|>"
    assert (SPECIAL_3_1[4], SPECIAL_3_1[8], SPECIAL_3_1[10]) == (
        "<|finetune_right_pad_id|>",
        "<|eom_id|>",
        "<|python_tag|>",
    )
    assert SPECIAL_3_1[-1] == "<|reserved_special_token_247|>"


def test_llama_2s_template_is_the_published_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "llama-2-7b-chat", "llama2")
    made = convert_tokenizer(
        tmp_path / "llama-2-7b-chat" / "tokenizer.model", scaled_rope=False, chat=True, context=4096
    )
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi "},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Why?"},
    ]
    assert made.tokenizer.apply_chat_template(turns, tokenize=False) == (
        "<s>[INST] <<SYS>>\nBe short.\n<</SYS>>\n\nHi [/INST] Yes </s><s>[INST] Why? [/INST]"
    )


def test_real_small_tokenizers(public_data: Callable[[str], Path]) -> None:
    spm, table = (
        public_data("tiny_tokenizers/m.model"),
        public_data("tiny_tokenizers/tiktoken_small.model"),
    )
    with pytest.raises(
        UsageError, match=r"m\.model tokenizes .* differently from the converted tokenizer"
    ):
        convert_tokenizer(
            spm, scaled_rope=False, chat=False, context=4096
        )  # a unigram model, which Llama's is not
    same_as_tiktoken(
        convert_tokenizer(table, scaled_rope=False, chat=False, context=8192).tokenizer,
        table,
        SPECIAL_3,
        TEXTS,
    )


@pytest.mark.parametrize(
    ("values", "hidden", "factor", "context"),
    [
        (
            {
                "dim": 4096,
                "n_layers": 32,
                "n_heads": 32,
                "multiple_of": 256,
                "norm_eps": 1e-5,
                "vocab_size": -1,
            },
            11008,
            None,
            4096,
        ),
        (
            {
                "dim": 8192,
                "n_layers": 80,
                "n_heads": 64,
                "n_kv_heads": 8,
                "multiple_of": 4096,
                "ffn_dim_multiplier": 1.3,
                "norm_eps": 1e-5,
                "vocab_size": -1,
            },
            28672,
            None,
            4096,
        ),
        (
            {
                "dim": 4096,
                "n_layers": 32,
                "n_heads": 32,
                "n_kv_heads": 8,
                "vocab_size": 128256,
                "multiple_of": 1024,
                "ffn_dim_multiplier": 1.3,
                "norm_eps": 1e-5,
                "rope_theta": 500000.0,
            },
            14336,
            None,
            8192,
        ),
        (
            {
                "dim": 4096,
                "n_layers": 32,
                "n_heads": 32,
                "n_kv_heads": 8,
                "vocab_size": 128256,
                "multiple_of": 1024,
                "ffn_dim_multiplier": 1.3,
                "norm_eps": 1e-5,
                "rope_theta": 500000.0,
                "use_scaled_rope": True,
            },
            14336,
            8.0,
            131072,
        ),
        (
            {
                "dim": 2048,
                "n_layers": 16,
                "n_heads": 32,
                "n_kv_heads": 8,
                "vocab_size": 128256,
                "multiple_of": 256,
                "ffn_dim_multiplier": 1.5,
                "norm_eps": 1e-5,
                "rope_theta": 500000.0,
                "use_scaled_rope": True,
            },
            8192,
            32.0,
            131072,
        ),
    ],
)
def test_sizes_of_published_models(
    tmp_path: Path, values: dict[str, Any], hidden: int, factor: float | None, context: int
) -> None:
    (tmp_path / "params.json").write_text(json.dumps(values))
    params = read_params(tmp_path)
    assert (params.ffn_dim, params.rope_factor, params.context_length) == (hidden, factor, context)


class Code:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


def lose_shard(folder: Path) -> None:
    (folder / "consolidated.02.pth").write_bytes((folder / "consolidated.01.pth").read_bytes())
    (folder / "consolidated.01.pth").unlink()


def hide_code(folder: Path) -> None:
    torch.save({"tok_embeddings.weight": Code()}, folder / "consolidated.00.pth")


def hide_code_in_a_plain_pickle(folder: Path) -> None:
    (folder / "consolidated.00.pth").write_bytes(pickle.dumps(Code()))


def halve(folder: Path) -> None:
    path = folder / "consolidated.01.pth"
    path.write_bytes(path.read_bytes()[:5000])


def widen(folder: Path) -> None:
    change(folder, "layers.0.attention.wq.weight", torch.zeros(16, 40))


def rename(folder: Path) -> None:
    path = folder / "consolidated.00.pth"
    loaded = torch.load(path)
    loaded["layers.9.attention.wq.weight"] = loaded.pop("layers.1.attention.wq.weight")
    torch.save(loaded, path)


def change(folder: Path, name: str, tensor: torch.Tensor) -> None:
    path = folder / "consolidated.00.pth"
    torch.save({**torch.load(path), name: tensor}, path)


def params(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        values = {**LLAMA_3, **changes}
        (folder / "params.json").write_text(
            json.dumps({k: v for k, v in values.items() if v is not None})
        )

    return write


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda folder: (folder / "params.json").unlink(),
            "contains no params.json; give the folder that contains it",
        ),
        (
            lambda folder: (folder / "tokenizer.model").unlink(),
            "tokenizer.model: no such file; Meta publishes it next to the weight folders",
        ),
        (
            lambda folder: [p.unlink() for p in folder.glob("*.pth")],
            "contains no consolidated.00.pth; found params.json, tokenizer.model",
        ),
        (lose_shard, "found 00, 02; 01 is missing"),
        (hide_code, "is refused: loading it would run"),
        (hide_code_in_a_plain_pickle, "is refused: loading it would run"),
        (halve, "consolidated.01.pth is not a checkpoint, or is incomplete"),
        (widen, "layers.0.attention.wq.weight has the shape [16, 40] after merging 2 shards"),
        (rename, "consolidated.00.pth lacks layers.1.attention.wq.weight"),
        (
            lambda folder: change(folder, "layers.0.adapter.weight", torch.zeros(2)),
            "layers.0.adapter.weight",
        ),
        (params(dim=64, vocab_size=-1), "params.json implies"),
        (params(vocab_size=99), "params.json says vocab_size 99"),
        (params(n_heads=5), "do not divide each other"),
        (params(dim=None), "has no number for dim"),
        (params(moe_args={"num_experts": 16}), "a model with experts"),
        (lambda folder: (folder / "params.json").write_text("{"), "params.json cannot be read"),
        (
            lambda folder: (folder / "tokenizer.model").write_bytes(b"\0nothing"),
            "is neither a SentencePiece model",
        ),
    ],
)
def test_invalid_checkpoint_is_reported_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], Any], message: str
) -> None:
    folder = tmp_path / "meta"
    write_checkpoint(folder, "llama3", shards=2)
    harm(folder)
    with pytest.raises(UsageError) as caught:
        convert(folder, tmp_path / "out")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "out").exists()
    assert "code ran" not in capsys.readouterr().out


def test_a_folder_that_exists_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="out exists; choose another folder"):
        convert(tmp_path / "meta", tmp_path / "out")


@pytest.mark.parametrize(
    ("module", "package"), [("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")]
)
def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    import sys

    write_checkpoint(tmp_path / "meta", "llama2")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"needs {package}: pip install 'prooftune\[convert\]'"):
        convert(tmp_path / "meta", tmp_path / "out")
    shutil.rmtree(tmp_path / "meta")
    write_checkpoint(tmp_path / "meta", "llama3")
    assert convert(tmp_path / "meta", tmp_path / "out").vocabulary > 256
