"""Bundles of a tiny random model, written by `bundle.save`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prooftune import recipe
from prooftune.bundle.save import save
from prooftune.files import write_json
from prooftune.models import adapters, loading
from prooftune.records import Example, Study, VariantResult
from prooftune.tasks.prompts import Rendering
from prooftune.tasks.templates import default_template

LABELS = ["World", "Sports", "Sci/Tech"]


def make_bundle(folder: Path, model: Path, text: Any = "text", **options: Any) -> Path:
    """A bundle of an untrained but non-zero adapter on `model`; `options` are other sections of the recipe."""
    chosen = recipe.parse({
        "name": "study", "data": {"train": "a.csv", "text": text, "label": "label"},
        "model": {"name": str(model), "dtype": "float32"}, "prompt": {"max_length": 64}, "variants": ["tuned"], **options})
    variant = folder / "variant"
    torch.manual_seed(0)
    tuned = adapters.attach(loading.load_model(model, chosen.model), chosen.variants["tuned"], {"r": 4})
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapters.save(tuned, variant / "trained", "lora", torch.float32)
    fields = list(text) if isinstance(text, dict | list) else [text]
    rendering = Rendering(default_template("classification", fields, ""), tuple(LABELS), chat=False, max_length=64)
    write_json(variant / "rendering.json", rendering.to_json())
    study = Study([], [], [Example("1", dict.fromkeys(fields, "goal"), "Sports")], LABELS)
    result = VariantResult("tuned", "tuned", [], [], {"objective": "instruction", "method": "lora"}, variant)
    save(chosen, study, result, {
        "verdict": {"sentence": "It helped."},
        "variants": {"tuned": {"metrics": {}, "temperature": 2.0}}}, folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="session")
def bundles(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a bundle, or gives back the one made before with the same options."""
    made: dict[str, Path] = {}

    def make(text: Any = "text", **options: Any) -> Path:
        key = repr((text, options))
        if key not in made:
            made[key] = make_bundle(tmp_path_factory.mktemp("bundle"), model_folders["llama"], text, **options)
        return made[key]

    return make


@pytest.fixture
def bundle(bundles: Callable[..., Path]) -> Path:
    return bundles()
