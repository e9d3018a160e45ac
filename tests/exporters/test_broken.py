"""Exports that are broken on purpose: each is refused, leaves nothing behind, and is told where it
went wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bundle.making import changed
from exporters.conftest import ROWS, Make
from prooftune.bundle import golden
from prooftune.bundle.load import load
from prooftune.bundle.manifest import GOLDEN, Manifest
from prooftune.bundle.manifest_reader import language_model_manifest
from prooftune.errors import Failure, UsageError
from prooftune.exporters import build, card, merged, ollama
from prooftune.exporters.build import export
from prooftune.exporters.compare_outputs import GoldenResult
from prooftune.exporters.parity import ParityLimits, summarize_parity
from prooftune.utils.files import read_json, write_json
from prooftune.utils.profiling import Cost


def refused(bundle: Path, out: Path, to: str = "merged", **options: Any) -> str:
    """What the export says; it must leave nothing."""
    with pytest.raises(Failure) as caught:
        export(bundle, to, out, **options)
    assert caught.value.exit_code == 1
    assert not out.exists() and not list(out.parent.glob(f".{out.name}*"))
    return str(caught.value)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], None]:
    """Changes the weights of whatever is written as merged, before it is checked."""
    honest = merged.write

    def change(edit: Callable[[Path], None]) -> None:
        def write(bundle: Path, manifest: Manifest, out: Path) -> None:
            honest(bundle, manifest, out)
            edit(out)

        import dataclasses

        from prooftune.exporters import formats

        broken = dataclasses.replace(formats.FORMATS["merged"], write=write)
        monkeypatch.setitem(formats.FORMATS, "merged", broken)

    return change


def edit_weights(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.slow
@pytest.mark.failure(16)
def test_a_changed_template_is_refused_with_the_place_where_the_prompts_part(
    make: Make, tmp_path: Path
) -> None:
    bundle = make("llama3")
    rendering = language_model_manifest(bundle)["rendering"]
    other = {**rendering, "template": rendering["template"].replace("Classify", "Label")}
    message = refused(changed(bundle, tmp_path / "b", rendering=other), tmp_path / "out")
    assert (
        "template: by rendering of bundle.json" in message
        and "they differ from character" in message
    )
    assert "Label the text" in message and "Classify the text" in message


@pytest.mark.failure(4)
def test_two_start_tokens_are_refused(make: Make, tmp_path: Path) -> None:
    bundle = make("llama")
    tokens = language_model_manifest(bundle)["tokens"]
    twice = {
        **tokens,
        "prompt": [[tokens["prompt"][0][0], *tokens["prompt"][0]], *tokens["prompt"][1:]],
    }
    message = refused(changed(bundle, tmp_path / "b", tokens=twice), tmp_path / "out")
    assert "begins with two start tokens" in message


@pytest.mark.slow
@pytest.mark.failure(16)
def test_a_dropped_adapter_is_refused_as_the_untuned_model(
    make: Make, model_folders: dict[str, Path], tmp_path: Path, written: Callable[..., None]
) -> None:
    base = model_folders["gemma2"] / "model.safetensors"
    written(lambda out: shutil.copy(base, out / "model.safetensors") and None)
    message = refused(make("gemma2"), tmp_path / "out")
    assert "golden rows get the bundle's answer" in message or "log-probabilities differ" in message
    assert "first differing layer: layer 0 of 3 layers" in message
    assert "it is the untuned model's: the adapter is not in the export" in message


@pytest.mark.slow
@pytest.mark.failure(16)
def test_a_change_in_one_layer_is_found_in_that_layer(
    make: Make, tmp_path: Path, written: Callable[..., None]
) -> None:
    written(lambda out: edit_weights(out, "model.layers.1.mlp.up_proj.weight", torch.neg))
    message = refused(make("llama"), tmp_path / "out")
    assert "first differing layer: layer 1 of 3 layers" in message and "untuned" not in message
    # The figures are written beside the folder that was not.
    assert message.endswith(f"All figures: {tmp_path / 'out-failed.md'}")
    assert "| merged |" in (tmp_path / "out-failed.md").read_text("utf-8")
    record = read_json(tmp_path / "out-failed.json")
    assert record["checked"] and record["parity"]["mean_difference"] > 0.05


@pytest.mark.slow
@pytest.mark.failure(16)
def test_a_permuted_head_is_found_behind_the_last_layer(
    make: Make, tmp_path: Path, written: Callable[..., None]
) -> None:
    written(lambda out: edit_weights(out, "score.weight", lambda weight: weight.roll(1, 0)))
    message = refused(make("llama", variant={"objective": "head"}), tmp_path / "out")
    assert "first differing layer: the output layer" in message


@pytest.mark.slow
def test_a_bundle_that_has_changed_since_its_golden_set_is_refused(
    make: Make, tmp_path: Path
) -> None:
    shutil.copytree(make("llama"), tmp_path / "b")
    file = tmp_path / "b" / "adapter_model.safetensors"
    save_file(
        {name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()},
        file,
        metadata={"format": "pt"},
    )
    assert "the bundle itself has changed since its golden set was made" in refused(
        tmp_path / "b", tmp_path / "out"
    )


@pytest.mark.slow
def test_a_difference_of_arithmetic_alone_is_called_that(make: Make, tmp_path: Path) -> None:
    manifest = language_model_manifest(make("llama3"))
    bundle = changed(
        make("llama3"), tmp_path / "b", model={**manifest["model"], "dtype": "bfloat16"}
    )
    golden.write(bundle / GOLDEN, golden.make_rows(load(bundle), ROWS))
    message = refused(bundle, tmp_path / "out", agreement=0, difference=1e-5)
    assert "the difference is that of arithmetic, the bundle's being torch.bfloat16" in message


@pytest.mark.slow
def test_another_tokenizer_is_refused_with_the_first_differing_token(
    make: Make, tmp_path: Path, written: Callable[..., None]
) -> None:
    def swap(out: Path) -> None:
        tokenizer = read_json(out / "tokenizer.json")
        tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:20]
        (out / "tokenizer.json").write_text(json.dumps(tokenizer))

    written(swap)
    message = refused(make("llama"), tmp_path / "out")
    assert (
        "tokenisation: the prompt of row" in message
        and "differs first at token" in message
        and "in the bundle" in message
    )


@pytest.mark.slow
def test_limits_are_those_of_the_command_and_an_earlier_export_survives_a_refused_one(
    make: Make, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    bundle, out = make("llama"), tmp_path / "out"
    export(bundle, "merged", out)
    before = read_json(out / "export.json")
    with pytest.raises(
        Failure, match=r"log-probabilities differ by .* nats on average .*; 1e-07 are allowed"
    ):
        export(bundle, "int8", out, agreement=0, difference=1e-7)
    assert read_json(out / "export.json") == before


def test_what_cannot_be_exported_is_said_before_any_work(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make("llama")
    with pytest.raises(
        UsageError, match=r"--to: one of merged, .*found 'mergd' \(did you mean 'merged'"
    ):
        export(bundle, "mergd", tmp_path / "out")
    with pytest.raises(UsageError, match="cannot store classification heads"):
        export(make("llama", variant={"objective": "head"}), "gguf-f16", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="is no earlier export"):
        export(bundle, "merged", tmp_path / "mine")
    for module in ("importlib.util", "prooftune.models.loading"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    monkeypatch.setattr(build, "spinner", lambda title: pytest.fail(f"it says: {title}"))
    for to in ("int8", "int4"):
        with pytest.raises(UsageError, match="needs bitsandbytes, which is not installed"):
            export(bundle, to, tmp_path / "out")
    with pytest.raises(
        UsageError, match=r"prooftune\[llama-cpp\].*pip install .llama-cpp-python.*--unchecked"
    ):
        export(bundle, "gguf-f16", tmp_path / "out")


@pytest.mark.slow
def test_without_a_golden_set_one_must_be_given(make: Make, tmp_path: Path) -> None:
    bundle = make("llama", bundle={"golden": 0})
    assert not (bundle / GOLDEN).exists()
    with pytest.raises(UsageError, match=r"holds no golden set .* --golden RUN"):
        export(bundle, "merged", tmp_path / "out")
    record = export(bundle, "merged", tmp_path / "out", golden_path=make("llama") / GOLDEN)
    assert record["parity"]["rows"] == 10
    (tmp_path / "bad.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(UsageError, match="line 1 is not a golden row: id"):
        export(bundle, "merged", tmp_path / "out", golden_path=tmp_path / "bad.jsonl")


def test_an_unchecked_export_says_so_wherever_it_is_described(make: Make, tmp_path: Path) -> None:
    record = export(make("llama3"), "gguf-f16", tmp_path / "out", unchecked=True)
    assert record["checked"] is False and record["parity"] is None
    assert read_json(tmp_path / "out" / "export.json")["checked"] is False
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**NOT CHECKED.**" in card and "| gguf-f16 | not checked |" in card


def test_a_changed_modelfile_is_refused(make: Make, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    bundle = make("llama3", template='Say {{{{it}}}} of "{text}": {labels}')
    manifest, tokenizer = language_model_manifest(bundle), AutoTokenizer.from_pretrained(bundle)
    file = tmp_path / "Modelfile"
    file.write_text(ollama.modelfile(manifest, tokenizer))
    before, between, after = ollama.split_prompt(manifest, tokenizer)
    assert between == ["text"] and not before.startswith(tokenizer.bos_token)
    assert ollama.render_template(file, 'a {{ .b }} " c') == before + 'a {{ .b }} " c' + after
    assert 'Say {{it}} of "' in before and 'PARAMETER stop "<|eot_id|>"' in file.read_text()
    file.write_text(file.read_text().replace("{{ .Prompt }}", "{{ .System }}{{ .Prompt }}"))
    with pytest.raises(UsageError, match=r"is not one of ours: \{\{ .System \}\}"):
        ollama.render_template(file, "a")


@pytest.mark.slow
def test_the_command_exports_and_ends_in_1_when_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prooftune import cli

    def run(*words: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["prooftune", "export", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr()

    bundle = make("llama")
    code, output = run(str(bundle), "--to", "vllm", "--out", str(tmp_path / "out"))
    assert code in (0, None) and "the bundle's answer to 100.0% of 10 golden rows" in output.out
    assert "| vllm | 100.0% of 10" in (tmp_path / "out" / "README.md").read_text()
    assert (
        "vllm serve . --served-model-name prooftune --max-model-len"
        in (tmp_path / "out" / "serve.sh").read_text()
    )
    write_json(tmp_path / "rows.json", {})
    code, output = run(
        str(bundle),
        "--to",
        "merged",
        "--out",
        str(tmp_path / "two"),
        "--max-difference",
        "0",
        "--golden",
        str(make("llama3", chat=False) / GOLDEN),
    )
    assert (
        code == 1 and "prooftune: not exported:" in output.err and not (tmp_path / "two").exists()
    )


def test_free_texts_are_judged_by_their_tokens() -> None:
    outcomes = [
        GoldenResult("one half as it was", False, (0.01,), None, None, (39, 40)),
        GoldenResult("b", True, (0.0,), None, None, (10, 10)),
    ]
    parity_result = summarize_parity("library 1", outcomes, [True, True], Cost(1.0, 1), 0.0, "F1")
    assert (parity_result.agreement, parity_result.token_agreement) == (0.5, 0.98)
    assert not parity_result.misses(ParityLimits(0.98, 0.05))
    assert parity_result.misses(ParityLimits(0.99, 0.05)) == [
        "98.0% of the tokens of the bundle's answers are the export's too; 99.0% must be"
    ]
    labels = summarize_parity(
        "library 1",
        [replace(one, tokens=None) for one in outcomes],
        [],
        Cost(1.0, 1),
        0.0,
        "accuracy",
    )
    assert labels.misses(ParityLimits(0.98, 0.05)) == [
        "50.0% of 2 golden rows get the bundle's answer; 98.0% must"
    ]


def test_a_difference_that_would_round_to_0_keeps_its_size() -> None:
    shown = [card._nats(value) for value in (None, 0.0, 3.7e-6, 6e-5, 0.25)]
    assert shown == ["", "0.0000", "3.7e-06", "0.0001", "0.2500"]
