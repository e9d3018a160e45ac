"""Messages of exports that name a way out: the export that follows them is written and checked."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from exporters.conftest import Make
from prooftune import export
from prooftune import recipe as recipes
from prooftune.bundle.manifest import GOLDEN
from prooftune.bundle.manifest_reader import language_model_manifest
from prooftune.errors import Failure, UsageError
from prooftune.exporters import build, gguf, merged, ollama
from prooftune.exporters.formats import FORMATS, USUAL, get_format
from prooftune.exporters.gguf_vocabulary import build_vocabulary
from prooftune.models import loading
from serving.made import head_bundle
from ways_out import follows, follows_table, names, refused


def test_names_of_formats() -> None:
    with refused("--to: one of {…}; found '{…}'{…}") as error:
        get_format("gguf")
    assert all(name in str(error.value) and get_format(name) for name in FORMATS)
    # The 8 bits that most people take, and not the alphabetically next name.
    assert str(error.value).endswith("found 'gguf' (did you mean 'gguf-q8_0'?)")
    assert {*USUAL.values()} <= {*FORMATS} and not {*USUAL} & {*FORMATS}


@pytest.mark.slow
def test_another_folder_and_another_golden_set(make: Make, tmp_path: Path) -> None:
    bundle = make("llama")
    taken = tmp_path / "taken"
    taken.mkdir()
    with refused("exists and is no earlier export; give --out another name"):
        export(bundle, "merged", taken)
    assert export(bundle, "merged", tmp_path / "out").agreement == 1.0
    without = Path(shutil.copytree(bundle, tmp_path / "without"))
    rows = (without / GOLDEN).rename(tmp_path / "rows.jsonl")
    with refused("Give one: --golden RUN, the run folder that it came from, asks the run's"):
        export(without, "merged", tmp_path / "again")
    assert export(without, "merged", tmp_path / "again", golden=rows).agreement == 1.0


def test_a_classification_head_in_another_format(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    bundle = head_bundle(tmp_path, model_folders["llama"])
    manifest = language_model_manifest(bundle)

    def request(to: str, objective: str = "head", task: str = "classification") -> None:
        known: Any = {**manifest, "objective": objective, "task": task}
        build._check_request(get_format(to), to, known, tmp_path / "out", unchecked=True)

    with refused("GGUF cannot store classification heads; export merged, int8, int4 or vllm{…}"):
        request("gguf-f16")
    with pytest.raises(UsageError, match="or tune with objective: instruction"):
        request("gguf-f16")
    # Several labels per text need the head.
    with pytest.raises(UsageError, match=r"int4 or vllm$"):
        request("ollama", task="multilabel")
    for to in ("merged", "int8", "int4", "vllm"):
        request(to)
    request("gguf-f16", "instruction")


def test_llama_cpp_is_installed_or_the_check_is_skipped(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = language_model_manifest(make("llama"))

    def request(unchecked: bool = False) -> None:
        format_ = get_format("gguf-f16")
        build._check_request(format_, "gguf-f16", manifest, tmp_path / "out", unchecked)

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with refused("Or skip the check with --unchecked, which the export's card will state."):
        request()
    request(unchecked=True)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "llama_cpp", None)
        with refused("q4_k_m is quantised by llama.cpp itself: pip install 'prooftune[llama-cpp]'"):
            gguf._llama_cpp()
    library = SimpleNamespace()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: library)
    monkeypatch.setitem(sys.modules, "llama_cpp", library)
    request()
    assert gguf._llama_cpp() is library


@pytest.mark.slow
def test_widths_that_other_formats_compute(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make("llama")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with refused("export int8 or merged, or use a machine with a CUDA GPU"):
        export(bundle, "int4", tmp_path / "out")
    for to in ("int8", "merged"):
        assert (export(bundle, to, tmp_path / to).agreement or 0) > 0.8


@pytest.mark.slow
def test_a_difference_that_is_allowed(make: Make, tmp_path: Path) -> None:
    bundle = make("llama")
    with refused(
        "Allow it (--max-difference), or give --golden RUN: the run's validation", Failure
    ):
        export(bundle, "merged", tmp_path / "out", max_difference=0.0)
    assert export(bundle, "merged", tmp_path / "out", max_difference=0.1).agreement == 1.0


@pytest.mark.slow
def test_models_that_gguf_cannot_hold_are_exported_as_merged(make: Make, tmp_path: Path) -> None:
    follows_table("exporters/gguf_vocabulary.py", "_ALTERNATIVE")
    bundle = make("llama")
    manifest = language_model_manifest(bundle)
    model, tokenizer = merged.merge(bundle, manifest), loading.load_tokenizer(bundle)
    model.config.model_type = "olmo"
    other = follows("known: {…}. Export it as merged, and convert that with llama.cpp's own")
    with pytest.raises(UsageError) as error:
        gguf.write_model(model, tokenizer, manifest, tmp_path / "a.gguf", "f16")
    assert names(other, str(error.value))
    from tokenizers import models, pre_tokenizers

    model.config.model_type = "llama"
    model.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    with refused("GGUF: rope scaling of type {…} is not written here; known: default, linear, lla"):
        gguf.write_model(model, tokenizer, manifest, tmp_path / "a.gguf", "f16")
    unigram = loading.load_tokenizer(bundle)
    unigram.backend_tokenizer.model = models.WordLevel({"a": 0}, unk_token="a")
    with refused("GGUF: a tokenizer of type {…} is not known here; known: BPE. {…}"):
        build_vocabulary(unigram, 500)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UsageError, match="Export it as merged"):
        build_vocabulary(tokenizer, 500)
    assert export(bundle, "merged", tmp_path / "out").agreement == 1.0


def test_a_prompt_that_a_modelfile_can_hold(make: Make) -> None:
    bundle = make("llama")
    manifest, tokenizer = language_model_manifest(bundle), loading.load_tokenizer(bundle)

    def written(cue: str) -> str:
        tokens: dict[str, Any] = {**manifest["tokens"]}
        ids = tokenizer(cue, add_special_tokens=False).input_ids
        prompt = [part if isinstance(part, str) else list(part) for part in tokens["prompt"]]
        known: Any = {**manifest, "tokens": {**tokens, "prompt": [*prompt, ids]}}
        return ollama.modelfile(known, tokenizer)

    with refused('three quotes in a row (""") in its template; change prompt.template'):
        written(' """')
    assert "TEMPLATE" in written(" ''")
    data = {"train": "a.csv", "text": "text", "label": "label"}
    values = {"name": "x", "data": data, "variants": ["tuned"], "prompt": {"template": "{text} ''"}}
    assert recipes.parse(values).prompt.template == "{text} ''"
