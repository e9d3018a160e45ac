"""The bundle's card: what it is, how well it does, and how to load it with and without Prooftune."""

from __future__ import annotations

from typing import Any


def card(facts: dict[str, Any], scores: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        facts: the content of ``bundle.json``.
        scores: the study's scores, from which the bundled variant's metrics are shown.
    """
    metrics = scores["variants"][facts["variant"]]["metrics"]
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
        for name, m in metrics.items() if isinstance(m, dict) and m.get("low") is not None)
    return f"""# {facts['variant']} of {facts['model']['name']}

{scores['verdict']['sentence']}

Labels: {', '.join(facts['labels'])}. Input fields: {', '.join(facts['fields'])}.

| metric | value | interval |
|---|---|---|
{rows}

## Load it

With Prooftune:

```python
import prooftune
prooftune.load("THIS_FOLDER").predict(["some text"])
```

{_plain(facts)}
`bundle.json` holds the prompt (`rendering`) with which it was trained; other prompts give other answers.
"""


def _plain(facts: dict[str, Any]) -> str:
    kind = "AutoModelForSequenceClassification" if facts["objective"] == "head" else "AutoModelForCausalLM"
    extra = f", num_labels={len(facts['labels'])}" if facts["objective"] == "head" else ""
    if facts["part"] == "model":
        return f"""With transformers alone:

```python
from transformers import {kind}
model = {kind}.from_pretrained("THIS_FOLDER/model")
```
"""
    return f"""With transformers and peft alone, `BASE` being a folder or hub name of {facts['model']['name']}:

```python
from peft import PeftModel
from transformers import {kind}
model = PeftModel.from_pretrained({kind}.from_pretrained(BASE{extra}), "THIS_FOLDER/adapter")
```
"""
