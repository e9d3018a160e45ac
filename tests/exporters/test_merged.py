"""Merged exports: what is written is what the bundle says, for anybody who has transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from bundle.making import LABELS, changed, load_classifier, make_bundle
from exporters.conftest import ROWS, Make
from prooftune import recipe
from prooftune.bundle import golden
from prooftune.bundle.base_model import base_model_folder
from prooftune.bundle.load import load
from prooftune.bundle.manifest import GOLDEN
from prooftune.bundle.manifest_reader import language_model_manifest
from prooftune.errors import Failure, UsageError
from prooftune.exporters import merged
from prooftune.exporters.build import export
from prooftune.models import loading, weight_sizes
from prooftune.types import Example
from prooftune.utils.files import read_json
from prooftune.utils.label_sets import parse_label_set

IDS = torch.tensor([[3, 50, 99, 120, 7, 80]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        computed: torch.Tensor = model(input_ids=IDS).logits.float()
    return computed


@pytest.mark.slow
@pytest.mark.failure(23)
def test_plain_from_pretrained_loads_a_merged_export(
    make: Make, family: str, tmp_path: Path
) -> None:
    bundle = make(family)
    record = export(bundle, "merged", tmp_path / "out")
    assert (
        record["checked"]
        and record["parity"]["agreement"] == 1.0
        and record["parity"]["max_difference"] < 1e-3
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(bundle).chat_template
    assert model.generation_config.eos_token_id == language_model_manifest(bundle)["tokens"]["stop"]
    assert "shared-prefix" not in (tmp_path / "out" / "config.json").read_text()
    loaded: Any = load(bundle)
    torch.testing.assert_close(
        logits(model), logits(loaded.model.base_model.model), atol=1e-3, rtol=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"variant": {"method": "dora"}},
        {"variant": {"method": "rslora"}},
        {"variant": {"objective": "head"}},
        {"lora": {"modules_to_save": ["lm_head"], "target_modules": ["q_proj", "v_proj"]}},
        {"scoring": {"normalize": "length"}},
        {"scoring": {"calibration": True}},
        {"scoring": {"method": "generation", "max_new_tokens": 3}},
        {"task": "extractive-qa", "answering": {"max_new_tokens": 6}},
        {"task": "free-text-qa", "answering": {"max_new_tokens": 6}},
    ],
    ids=lambda o: " ".join(f"{k}={v}" for k, v in o.items())[:40],
)
@pytest.mark.failure(3, 16, 23)
def test_every_kind_of_bundle_answers_the_same_once_it_is_merged(
    make: Make, tmp_path: Path, options: dict[str, Any]
) -> None:
    # The tied output layer of the llama3 family is parted from the embedding by modules_to_save.
    family = "llama3" if "lora" in options else "llama"
    record = export(make(family, **options), "merged", tmp_path / "out")
    parity = record["parity"]
    assert parity["agreement"] == 1.0 and parity["mean_difference"] < 1e-3
    assert parity["metric"]["export"] == pytest.approx(parity["metric"]["bundle"])
    assert parity["rows"] == (5 if "task" in options else 10)
    assert parity["token_agreement"] == (1.0 if "task" in options else None)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["merged", "vllm"])
def test_a_head_of_label_sets_gives_the_same_sets(make: Make, tmp_path: Path, to: str) -> None:
    bundle = make("llama", task="multilabel", variant={"objective": "head"})
    record = export(bundle, to, tmp_path / "out", agreement=1.0, difference=1e-3)
    rows, parity = golden.read(bundle / GOLDEN), record["parity"]
    # By scikit-learn: F1 of each row's set, then their mean.
    matrices = [
        MultiLabelBinarizer(classes=LABELS).fit_transform([parse_label_set(t) for t in texts])
        for texts in ([row.target for row in rows], [row.output for row in rows])
    ]
    expected = f1_score(*matrices, average="samples", zero_division=1.0)
    assert parity["metric"]["bundle"] == pytest.approx(expected)
    assert 0 < expected < 1 and len({row.output for row in rows}) > 1
    assert parity["metric"]["name"] == "example-based F1"
    # transformers' own pipeline chooses the sigmoid by the configuration.
    out = tmp_path / "out"
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert model.config.problem_type == "multi_label_classification"
    with torch.no_grad():
        values = model(torch.tensor([rows[0].prompt])).logits[0].sigmoid().log()
    assert values.tolist() == pytest.approx(rows[0].log_probs, abs=1e-3)
    card = (out / "README.md").read_text("utf-8")
    assert ("logsigmoid" if to == "merged" else "p >= 0.5") in card
    assert "at least 0.5" in card or to == "vllm"


@pytest.mark.slow
def test_a_head_of_label_sets_with_other_weights_is_refused(make: Make, tmp_path: Path) -> None:
    options: dict[str, Any] = {"task": "multilabel", "variant": {"objective": "head"}}
    bundle = changed(make("llama", **options), tmp_path / "b", label_threshold=0.9)
    rows = [
        replace(row, log_probs=tuple(-0.05 for _ in row.log_probs))
        for row in golden.read(bundle / GOLDEN)
    ]
    golden.write(bundle / GOLDEN, rows)
    with pytest.raises(Failure, match="golden rows get the bundle's answer"):
        export(bundle, "merged", tmp_path / "out")
    with pytest.raises(UsageError) as caught:
        export(bundle, "gguf-f16", tmp_path / "out")
    assert "export merged, int8, int4 or vllm" in str(caught.value)
    assert "objective: instruction" not in str(caught.value)


@pytest.mark.slow
def test_a_head_keeps_its_labels_in_the_export(make: Make, tmp_path: Path) -> None:
    export(make("llama3", variant={"objective": "head"}), "merged", tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert list(model.config.id2label.values()) == ["World", "Sports", "Sci/Tech"]


@pytest.mark.slow
@pytest.mark.failure(3)
@pytest.mark.parametrize(
    "quantization", [{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"load_in_8bit": True}]
)
def test_an_adapter_of_quantised_weights_is_merged_into_what_these_stand_for(
    make: Make, wide_model_folder: Path, quantization: dict[str, Any]
) -> None:
    pytest.importorskip("bitsandbytes")
    bundle = make("llama", model=wide_model_folder, quantization=quantization)
    manifest = language_model_manifest(bundle)
    trained: Any = load(bundle)
    there = logits(trained.model)
    whole, plain = (
        merged.merge(bundle, manifest),
        merged.merge(bundle, {**manifest, "quantization": None}),
    )
    if "load_in_8bit" in quantization:
        # 8-bit products round the activations, too, which no weights can stand for: compare the
        # weights.
        assert_stands_for(whole, trained.model)
        with pytest.raises(AssertionError):
            assert_stands_for(plain, trained.model)
        return
    here, elsewhere = ((logits(model) - there).abs().max() for model in (whole, plain))
    assert here < 0.02 * elsewhere, (here, elsewhere)
    # Into 4-bit weights themselves: what other tools do.
    from peft import PeftModel

    options = recipe.Model(name=str(base_model_folder(manifest)), dtype="float32")
    lossy = PeftModel.from_pretrained(
        loading.load_model(base_model_folder(manifest), options, quantization=quantization),
        str(bundle),
    ).merge_and_unload()
    assert (logits(lossy) - there).abs().max() > 10 * here


def assert_stands_for(model: Any, adapted: Any) -> None:
    """Every adapted 8-bit layer's weights, by the library's own account of them, are those of the
    plain model."""
    from bitsandbytes.functional import int8_vectorwise_dequant

    count = 0
    for name, layer in adapted.base_model.model.named_modules():
        weight: Any = getattr(getattr(layer, "base_layer", None), "weight", None)
        if type(weight).__name__ == "Int8Params":
            scale = weight.SCB if weight.SCB is not None else layer.base_layer.state.SCB
            wanted = (
                int8_vectorwise_dequant(weight.data, scale).float()
                + layer.get_delta_weight("default").float()
            )
            torch.testing.assert_close(
                model.get_submodule(name).weight.detach().float(), wanted, atol=1e-5, rtol=1e-4
            )
            count += 1
    assert count > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA kernels take any width")
def test_widths_that_4_bits_cannot_compute_are_refused_before_work(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make("llama")
    monkeypatch.setattr("prooftune.exporters.merged.write", lambda *_: pytest.fail("worked"))
    with pytest.raises(UsageError, match=r"layers with 32 inputs .* export int8 or merged"):
        export(bundle, "int4", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("to", ["int8", "int4"])
def test_quantised_exports_load_anywhere_and_are_measured(
    make: Make, wide_model_folder: Path, tmp_path: Path, to: str
) -> None:
    pytest.importorskip("bitsandbytes")
    bundle = make("llama", model=wide_model_folder)
    record = export(bundle, to, tmp_path / "out", agreement=0.0, difference=10.0)
    assert read_json(tmp_path / "out" / "config.json")["quantization_config"]["load_in_8bit"] == (
        to == "int8"
    )
    assert (
        not (tmp_path / "out" / "merged").exists()
        and (tmp_path / "out" / "tokenizer.json").is_file()
    )
    parity = record["parity"]
    assert 0 < parity["mean_difference"] < 1.5 and parity["agreement"] >= 0.5
    assert (
        record["size_bytes"] > 0
        and parity["rows_per_second"] > 0
        and parity["peak_memory_bytes"] > 0
    )


def test_the_golden_set_is_what_the_bundle_says_and_the_same_every_time(
    make: Make, family: str, tmp_path: Path
) -> None:
    bundle = make(family)
    rows = golden.read(bundle / GOLDEN)
    loaded: Any = load(bundle)
    assert [row.output for row in rows] == [
        answer.label for answer in loaded.predict([row.inputs for row in rows])
    ]
    golden.write(tmp_path / "again.jsonl", golden.make_rows(loaded, ROWS))
    assert (tmp_path / "again.jsonl").read_bytes() == (bundle / GOLDEN).read_bytes()


def test_texts_that_do_not_fit_into_a_prompt_are_shortened_for_the_golden_set(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    texts = [" ".join(f"goal {i} match" for i in range(n)) for n in (2, 60, 90)]
    rows = [Example(str(i), {"text": text}, "Sports") for i, text in enumerate(texts)]
    bundle = make_bundle(tmp_path, model_folders["llama"], rows=rows)
    found = golden.read(bundle / GOLDEN)
    loaded: Any = load(bundle)
    assert [row.id for row in found] == ["0", "1", "2"]
    for row, text in zip(found, texts, strict=True):
        kept = row.inputs["text"]
        assert text == kept or text.startswith(f"{kept} ")
        encoded = loaded.encoder.encode(row.inputs)
        assert row.prompt == [*loaded.encoder.prefix, *encoded.token_ids]
        assert not encoded.truncated_tokens and len(row.prompt) <= 64
    assert found[0].inputs["text"] == texts[0] and len(found[1].prompt) > 44
    assert export(bundle, "merged", tmp_path / "out")["parity"]["agreement"] == 1


@pytest.mark.slow
def test_the_golden_set_of_a_16_bit_bundle_says_what_its_weights_say(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = language_model_manifest(make("llama"))
    bundle = changed(
        make("llama"), tmp_path / "b", model={**manifest["model"], "dtype": "bfloat16"}
    )
    load_float32, usual = golden.load_float32(bundle), load_classifier(bundle)
    assert (load_float32.model.dtype, usual.model.dtype) == (torch.float32, torch.bfloat16)
    golden.write(bundle / GOLDEN, golden.make_rows(load_float32, ROWS))
    parity = export(bundle, "merged", tmp_path / "out")["parity"]
    assert parity["agreement"] == 1.0 and parity["max_difference"] < 1e-3
    there, here = (golden.make_rows(loaded, ROWS)[0].log_probs for loaded in (load_float32, usual))
    assert max(abs(a - b) for a, b in zip(there, here, strict=True)) > 1e-3
    # Without room for it, it is made in the bundle's own arithmetic.
    monkeypatch.setattr(weight_sizes, "available_memory", lambda: 1000)
    assert golden.load_float32(bundle).model.dtype == torch.bfloat16
