"""Write a merged model with the vLLM command that serves it, and example code for requests."""

from __future__ import annotations

import shlex
from pathlib import Path

from prooftune.bundle.golden import max_new_tokens
from prooftune.bundle.manifest import Manifest, label_threshold
from prooftune.exporters import merged


def write(bundle: Path, manifest: Manifest, out: Path) -> None:
    merged.write(bundle, manifest, out)
    (out / "serve.sh").write_text(
        f"#!/bin/sh\n# Start here, in this folder.\n{command(manifest)}\n", encoding="utf-8"
    )
    (out / "serve.sh").chmod(0o755)


def command(manifest: Manifest) -> str:
    """The command line, to be given in the exported folder."""
    # `max_length` does not include few-shot examples, so the fixed text counts in full.
    fixed_tokens = sum(len(part) for part in manifest["tokens"]["prompt"] if isinstance(part, list))
    words = [
        "vllm",
        "serve",
        ".",
        "--served-model-name",
        "prooftune",
        "--max-model-len",
        str(manifest["rendering"]["max_length"] + fixed_tokens + max_new_tokens(manifest)),
    ]
    # generation_config.json sets greedy decoding and the bundle's stop token.
    words += (
        ["--runner", "pooling"]
        if manifest["objective"] == "head"
        else ["--generation-config", ".", "--max-logprobs", "100"]
    )
    return shlex.join(words)


def request(manifest: Manifest) -> str:
    """Python code of a request with the prompt as token ids, so that the server changes nothing."""
    threshold = label_threshold(manifest)
    if threshold is not None:
        example_request = (
            'response = requests.post("http://localhost:8000/classify", json={\n'
            '    "model": "prooftune", "input": prompt(texts)})\n'
            "# Of every label by itself: config.json says multi_label_classification.\n"
            'probabilities = response.json()["data"][0]["probs"]\n'
            'print([label for label, p in zip(manifest["labels"], probabilities)\n'
            f"       if p >= {threshold:g}])"
        )
    elif manifest["objective"] == "head":
        example_request = (
            'response = requests.post("http://localhost:8000/classify", json={\n'
            '    "model": "prooftune", "input": prompt(texts)})\n'
            'print(response.json()["data"][0]["label"])'
        )
    elif manifest["labels"]:
        example_request = (
            'response = requests.post("http://localhost:8000/v1/completions", json={\n'
            '    "model": "prooftune", "prompt": prompt(texts), "max_tokens": 1, "logprobs": '
            "100}).json()\n"
            'candidates = response["choices"][0]["logprobs"]["top_logprobs"][0]\n'
            "# Labels of one token; of longer ones, this is the first token's.\n"
            'for label, ids in manifest["tokens"]["labels"].items():\n'
            "    print(label, candidates.get(tokenizer.decode(ids[:1])))"
        )
    else:
        example_request = (
            'response = requests.post("http://localhost:8000/v1/completions", json={\n'
            '    "model": "prooftune", "prompt": prompt(texts), "max_tokens": '
            f"{max_new_tokens(manifest)}}}).json()\n"
            'print(response["choices"][0]["text"])'
        )
    return example_request
