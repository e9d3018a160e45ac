"""A bundle's model card: description, results, and how to load it with and without Prooftune."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from prooftune.bundle.answer_code import answer_code, answers_by_threshold
from prooftune.bundle.card_sections import render_sections
from prooftune.bundle.classifier_card import classifier_code
from prooftune.bundle.layout import needs_local_base
from prooftune.bundle.manifest import (
    AnyManifest,
    EncoderManifest,
    Manifest,
    display_name,
    is_encoder,
    is_language_model,
)
from prooftune.evaluation.primary import title_of
from prooftune.evaluation.score_types import Scores, Verdict
from prooftune.models.loading import ALIASES
from prooftune.utils import package_files

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def render_card(manifest: AnyManifest, scores: Scores) -> str:
    """Render the card as Markdown.

    Args:
        manifest: the bundle's manifest.
        scores: content of ``scores.json``; the card shows the bundled variant's metrics.
    """
    variant = scores["variants"][manifest["variant"]]
    trainings = variant.get("trainings")
    # Of several trainings the bundle is one; the variant's own metrics are means over all.
    metrics = trainings["metrics"] if trainings else variant["metrics"]
    rows = "\n".join(
        f"| {title_of(name)} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
        for name, m in metrics.items()
        if m["low"] is not None
    )
    return f"""# {display_name(manifest)}

{_verdict(manifest, scores["verdict"])}

{_describe_io(manifest)} Input fields: {", ".join(manifest["fields"])}.

{render_sections(manifest, rows)}
## Load it

With Prooftune:

```python
import prooftune
prooftune.load("THIS_FOLDER").predict([{_example(manifest)}])
```

{_bundle_code(manifest)}"""


def _verdict(manifest: AnyManifest, verdict: Verdict) -> str:
    """The study's verdict; where it is about another variant, the card says so."""
    judged = verdict.get("best_tuned") or verdict.get("winner") or manifest["variant"]
    # A verdict about another variant would otherwise be read as one about this bundle.
    if judged == manifest["variant"]:
        return str(verdict["sentence"])
    return (
        f"This bundle is the variant {manifest['variant']} of a study whose verdict is about the "
        f"variant {judged}: {verdict['sentence']}"
    )


def _describe_io(manifest: AnyManifest) -> str:
    if manifest["labels"]:
        return f"Labels: {', '.join(manifest['labels'])}."
    if manifest.get("retrieval"):
        return "Answers questions with passages retrieved from `index/`."
    return "Answers questions."


def _example(manifest: AnyManifest) -> str:
    """An example input of `predict`."""
    if manifest["labels"]:
        return '"some text"'
    fields = [
        name for name in manifest["fields"] if name == "question" or not manifest.get("retrieval")
    ]
    return (
        '"Some question?"'
        if fields == ["question"]
        else "{" + ", ".join(f'"{name}": "…"' for name in fields) + "}"
    )


def prompt_code() -> str:
    """Python code that turns texts into the prompt's token ids."""
    return """manifest = json.load(open("THIS_FOLDER/bundle.json", encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")

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

_LABEL_SETS_HEAD = """def log_probabilities(texts):  # of every label by itself
    with torch.no_grad():
        logits = model(torch.tensor([prompt(texts)])).logits[0]
    return dict(zip(manifest["labels"], torch.nn.functional.logsigmoid(logits.float()).tolist()))
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


def _bundle_code(manifest: AnyManifest) -> str:
    """Code that loads the folder without Prooftune."""
    if is_encoder(manifest):
        return _encoder_code(manifest)
    return _code_section(manifest) if is_language_model(manifest) else classifier_code(manifest)


def _encoder_code(manifest: EncoderManifest) -> str:
    texts = "text" if len(manifest["fields"]) == 1 else ", ".join(manifest["fields"])
    several = manifest["task"] == "multilabel"
    normalized = (
        "torch.nn.functional.logsigmoid(logits)" if several else "torch.log_softmax(logits, -1)"
    )
    # Probabilities of several labels are not calibrated.
    further = "label threshold" if several else "temperature"
    if len(manifest["fields"]) > 2:
        texts = f'"\\n".join([{texts}])'
    trust = _trust_argument(manifest["encoder"].get("trust_remote_code", False))
    return f"""With transformers alone:

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("THIS_FOLDER"{trust})
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")

def log_probabilities({", ".join(manifest["fields"]) if len(manifest["fields"]) > 1 else "text"}):
    inputs = tokenizer({texts}, truncation=True, return_tensors="pt",
                       max_length={manifest["encoder"]["max_length"]})
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return dict(zip(model.config.id2label.values(), {normalized}.tolist()))
```

Prooftune's own `predict` also applies the {further} of `bundle.json`.
"""


def _code_section(manifest: Manifest) -> str:
    return f"""{_loading_code(manifest)}
Shorten texts that exceed `rendering.max_length` of `bundle.json` first, and use its prompt: other
prompts change the predictions.{_note_extra_steps(manifest)}
"""


def _loading_code(manifest: Manifest) -> str:
    if manifest["part"] == "base":
        return (
            "The bundle holds the prompt, and not the untuned model, which is loaded by its name. "
            f"With transformers alone:\n\n```python\n{transformers_code(manifest)}```\n"
            f"{_base_source_note(manifest['model']['name'])}"
        )
    if manifest["part"] != "adapter":
        return f"With transformers alone:\n\n```python\n{transformers_code(manifest)}```\n"
    return f"""With transformers (where peft is installed, too):

```python
{transformers_code(manifest)}```

Or with peft, for a model with peft's own methods (`merge_and_unload`, `disable_adapter`):
replace the line `model = …` by

```python
{_peft_code(manifest)}```
{_base_model_note(manifest["model"]["name"])}"""


def _base_model_note(name: str) -> str:
    """How plain libraries find the base model of an adapter."""
    opening = (
        "\nThe base model is the one that `base_model_name_or_path` of `adapter_config.json` names"
    )
    if not needs_local_base(name) and _HUB_NAME.fullmatch(name):
        return f"{opening}: {name} on the hub.\n"
    note = f"{opening}, a local folder of {name}. On another machine, "
    if not needs_local_base(name):
        return f"{note}write the path of that folder there.\n"
    note += (
        "write the folder there that\n"
        "`python -c 'import prooftune; print(prooftune.base_model_folder(\"THIS_FOLDER\"))'`\n"
        "prints. It converts the model if needed.\n"
    )
    reference = ALIASES.get(name.lower(), name)
    if not package_files.is_reference(reference):
        return note
    package = package_files.parse_reference(reference)
    return (
        f"{note}The model is the file `{PurePosixPath(package.file)}` of the package "
        f"{package.requirement}.\n"
    )


def _base_source_note(name: str) -> str:
    """Where the base model of a bundle without weights is."""
    if not needs_local_base(name):
        return ""
    return (
        "\nTHE_BASE_MODEL is the folder that\n"
        "`python -c 'import prooftune; print(prooftune.base_model_folder(\"THIS_FOLDER\"))'`\n"
        "prints. It converts the model if needed.\n"
    )


def _model_class(manifest: Manifest) -> str:
    return f"ModelFor{'SequenceClassification' if manifest['objective'] == 'head' else 'CausalLM'}"


def _load_call(manifest: Manifest, library_class: str) -> str:
    # An adapter's folder has no config.json, in which the libraries look for the labels: with one,
    # transformers would look for the base model's weights in that folder, too.
    names_labels = manifest["objective"] == "head" and manifest["part"] == "adapter"
    labels = ', id2label=dict(enumerate(manifest["labels"]))' if names_labels else ""
    name = manifest["model"]["name"]
    base = "THE_BASE_MODEL" if needs_local_base(name) else name
    source = base if manifest["part"] == "base" else "THIS_FOLDER"
    arguments = labels + _trust_argument(manifest["model"]["trust_remote_code"])
    return f'model = {library_class}.from_pretrained("{source}"{arguments}).eval()\n'


def _trust_argument(trusted: bool) -> str:
    """The argument for a model with custom code, for which transformers otherwise asks."""
    return ", trust_remote_code=True" if trusted else ""


def _peft_code(manifest: Manifest) -> str:
    library_class = f"AutoPeft{_model_class(manifest)}"
    return f"from peft import {library_class}\n\n{_load_call(manifest, library_class)}"


def transformers_code(manifest: Manifest) -> str:
    """Python code that reproduces the predictions of the folder's model with transformers only.

    For an adapter, transformers needs peft.
    """
    library_class = f"Auto{_model_class(manifest)}"
    if not manifest["labels"]:
        score = answer_code(manifest)
    elif manifest["objective"] == "head":
        score = _LABEL_SETS_HEAD if manifest["task"] == "multilabel" else _HEAD
    else:
        by_length = manifest["scoring"]["normalize"] == "length"
        score = _INSTRUCTION.replace("SUM", "mean" if by_length else "sum")
    imports = "import json\nimport re" if "re.search(" in score else "import json"
    return f"""{imports}
import torch
from transformers import AutoTokenizer, {library_class}

{prompt_code()}
{_load_call(manifest, library_class)}
{score}"""


def _note_extra_steps(manifest: Manifest) -> str:
    """Steps of Prooftune's own `predict` that the code above leaves out."""
    if answers_by_threshold(manifest):
        return " Prooftune's own `predict` also splits long contexts into windows, as in the study."
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
