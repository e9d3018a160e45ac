"""Somebody without Prooftune: the code of the cards gives the labels of the golden set, in a
process that cannot import it."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exporters.conftest import LLAMA_CPP, Make
from prooftune.bundle import golden
from prooftune.bundle.manifest import GOLDEN, Manifest
from prooftune.exporters.build import export
from prooftune.exporters.card import _usage

SCRIPT = '''
import sys

class Nothing:
    """Finds no Prooftune, wherever it may lie."""
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "prooftune":
            raise ImportError("there is no prooftune here")

sys.meta_path.insert(0, Nothing())
try:
    import prooftune
except ImportError:
    pass
else:
    raise SystemExit("prooftune is here")
folder, number, BASE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
readme = open(folder + "/README.md", encoding="utf-8").read()
code = readme.split("```python")[number].split("```")[0]
exec(code.replace("THIS_FOLDER", folder))
found = []
for line in open(sys.argv[4], encoding="utf-8"):
    scores = log_probabilities(json.loads(line)["inputs"])
    found.append([max(scores, key=scores.get), *scores.values()])
print(json.dumps(found))
'''


def consumed(folder: Path, number: int, base: Path, rows: Path) -> list[list[Any]]:
    """What the card's code says to golden rows: label, and log-probabilities."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(number), str(base), str(rows)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    predictions: list[list[Any]] = json.loads(done.stdout)
    return predictions


@pytest.mark.slow
@pytest.mark.failure(23)
def test_transformers_and_peft_alone_give_the_bundles_labels(
    make: Make, model_folders: dict[str, Path]
) -> None:
    bundle = make("llama3")
    rows = golden.read(bundle / GOLDEN)
    predictions = consumed(bundle, 2, model_folders["llama3"], bundle / GOLDEN)
    assert [label for label, *_ in predictions] == [row.output for row in rows]
    for (_, *log_probs), row in zip(predictions, rows, strict=True):
        assert log_probs == pytest.approx(row.log_probs, abs=1e-3)


@pytest.mark.slow
@pytest.mark.failure(23)
def test_transformers_alone_gives_the_bundles_labels_with_a_merged_head(
    make: Make, tmp_path: Path
) -> None:
    bundle = make("llama", variant={"objective": "head"})
    export(bundle, "merged", tmp_path / "out")
    predictions = consumed(tmp_path / "out", 1, tmp_path, bundle / GOLDEN)
    assert [label for label, *_ in predictions] == [
        row.output for row in golden.read(bundle / GOLDEN)
    ]


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason=LLAMA_CPP)
def test_llama_cpp_alone_gives_the_bundles_label(make: Make, tmp_path: Path) -> None:
    bundle = make("llama3")
    export(bundle, "gguf-f16", tmp_path / "out")
    row = golden.read(bundle / GOLDEN)[0]
    code = (tmp_path / "out" / "README.md").read_text("utf-8").split("```python")[1].split("```")[0]
    code = code.replace("THIS_FOLDER", str(tmp_path / "out")).replace(
        '{"text": "…"}', json.dumps(row.inputs)
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [row.output]


def card_manifest(**values: Any) -> Manifest:
    """What the code on a card reads of a manifest."""
    manifest: Any = {
        "task": "classification",
        "objective": "instruction",
        "labels": ["a", "b"],
        "fields": ["text"],
        "part": "model",
        "model": {"name": "m", "trust_remote_code": False},
        "scoring": {"normalize": "length", "method": "likelihood", "max_new_tokens": 4},
        "answering": {"max_new_tokens": 9},
        "tokens": {"prompt": [[1], "text"], "labels": {"a": [2], "b": [3]}, "stop": 0},
        "rendering": {"max_length": 64},
        **values,
    }
    return manifest  # type: ignore[no-any-return]


@pytest.mark.parametrize("to", ["merged", "int8", "vllm", "gguf-f16"])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"objective": "head"},
        {"objective": "head", "task": "multilabel", "label_threshold": 0.3},
        {"labels": [], "task": "free-text-qa"},
    ],
    ids=["labels", "head", "label sets", "answers"],
)
def test_the_code_of_a_card_defines_every_name_that_it_uses(
    values: dict[str, Any], to: str
) -> None:
    code = "\n".join(
        part.split("```")[0] for part in _usage(card_manifest(**values), to).split("```python")[1:]
    )
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    defined = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef):
            defined |= {node.name, *(argument.arg for argument in node.args.args)}
    assert used - defined <= {*dir(builtins)}
    assert "0.3" in code or "label_threshold" not in values or to != "vllm"
