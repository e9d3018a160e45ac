"""The card of an export: description, parity with its bundle, and usage."""

from __future__ import annotations

from typing import Any

from prooftune.bundle.card import prompt_code, transformers_code
from prooftune.bundle.golden import max_new_tokens
from prooftune.bundle.manifest import Manifest, label_threshold
from prooftune.exporters import vllm
from prooftune.exporters.compare_outputs import scores_labels
from prooftune.exporters.gguf import FILE

COLUMNS = (
    "format",
    "answers agree",
    "log-prob difference, mean",
    "max",
    "metric",
    "of the bundle",
    "difference",
    "retokenization match",
    "MB",
    "peak MB",
    "rows/s",
    "checked with",
)
"""Columns of the parity table, explained in docs/export.md."""


def render_card(manifest: Manifest, record: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        manifest: the content of ``bundle.json``.
        record: the content of ``export.json``.
    """
    return f"""# {manifest["variant"]} of {manifest["model"]["name"]}, {record["format"]}

{_describe_check(record)}

{table([record])}

## Use it

{_usage(manifest, record["format"])}
"""


def table(records: list[dict[str, Any]]) -> str:
    """The parity table of several exports, as Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_table_row, records)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(record: dict[str, Any]) -> list[str]:
    """The parity results as lines for the terminal."""
    parity, size = record["parity"], f"{record['size_bytes'] / 1e6:,.1f} MB"
    if parity is None:
        return [f"{record['format']}, {size}: not checked"]
    lines = [
        f"{record['format']}, {size}: the bundle's answer to {parity['agreement']:.1%} of "
        f"{parity['rows']} golden rows "
        f"({parity['agreement_low']:.1%} to {parity['agreement_high']:.1%})"
    ]
    if parity.get("token_agreement") is not None:
        lines.append(f"  tokens: {parity['token_agreement']:.1%} are its own choice too")
    if parity["mean_difference"] is not None:
        lines.append(
            f"  log-probabilities differ by {_nats(parity['mean_difference'])} nats on average, "
            f"{_nats(parity['max_difference'])} at most"
        )
    if (metric := parity["metric"]) is not None:
        lines.append(
            f"  {metric['name']}: {metric['export']:.3f}, the bundle's {metric['bundle']:.3f}"
        )
    return [
        *lines,
        f"  {parity['rows_per_second']:.1f} rows/s, {parity['peak_memory_bytes'] / 1e6:,.0f} MB "
        "of memory at most, by "
        f"{parity['runtime']}",
    ]


def _describe_check(record: dict[str, Any]) -> str:
    if not record["checked"]:
        return (
            "**NOT CHECKED.** This export was written without running it: its outputs may differ "
            "from the bundle's. Export it again where its runtime is installed."
        )
    rows, limits = record["parity"]["rows"], record["limits"]
    criterion = (
        "of the tokens of the bundle's answers at least had to be its own choice too"
        if record["parity"].get("token_agreement") is not None
        else "at least had to get the bundle's answer"
    )
    return (
        f"Checked: {rows} golden rows of the bundle were run through these files by "
        f"{record['parity']['runtime']}. "
        f"{limits['agreement']:.0%} {criterion}, with log-probabilities within "
        f"{limits['mean_difference']:g} nats on average."
    )


def _table_row(record: dict[str, Any]) -> tuple[str, ...]:
    parity = record["parity"]
    size = f"{record['size_bytes'] / 1e6:,.1f}"
    if parity is None:
        return (record["format"], "not checked", *[""] * 6, size, "", "", "nothing")
    agreement = (
        f"{parity['agreement']:.1%} of {parity['rows']} ({parity['agreement_low']:.1%} to "
        f"{parity['agreement_high']:.1%})"
    )
    if parity.get("token_agreement") is not None:
        agreement += f"; tokens {parity['token_agreement']:.1%}"
    metric = parity["metric"]
    figures = (
        ("", "", "")
        if metric is None
        else (
            f"{metric['name']} {metric['export']:.3f}",
            f"{metric['bundle']:.3f}",
            f"{metric['export'] - metric['bundle']:+.3f} ({metric['low']:+.3f} to "
            f"{metric['high']:+.3f}, n = {metric['n']})",
        )
    )
    return (
        record["format"],
        agreement,
        _nats(parity["mean_difference"]),
        _nats(parity["max_difference"]),
        *figures,
        "" if parity["one_text"] is None else f"{parity['one_text']:.0%}",
        size,
        f"{parity['peak_memory_bytes'] / 1e6:,.0f}",
        f"{parity['rows_per_second']:.1f}",
        parity["runtime"],
    )


def _nats(value: float | None) -> str:
    if value is None:
        return ""
    # A difference that rounds to 0 is still more than a limit of 0.
    return f"{value:.1e}" if 0 < value < 5e-5 else f"{value:.4f}"


def _usage(manifest: Manifest, to: str) -> str:
    if to == "ollama":
        return _OLLAMA.replace("PROMPT", _describe_prompt(manifest))
    if to.startswith("gguf"):
        return _gguf(manifest)
    # Whatever the bundle held, the export is a whole model.
    # Only the code for a whole model loads it.
    merged: Manifest = {**manifest, "part": "model"}
    code = f"```python\n{transformers_code(merged)}```"
    threshold = label_threshold(manifest)
    if threshold is not None and to != "vllm":  # whose request applies it
        code += (
            f"\n\nA text gets the labels whose probability, the exponential of these values, is at "
            f"least {threshold:g}: `label_threshold` of bundle.json. It may get none."
        )
    if to != "vllm":
        return (
            "With transformers "
            f"alone{' and bitsandbytes' if to.startswith('int') else ''}:\n\n{code}"
        )
    return (
        f"```\n{vllm.command(manifest)}\n```\n\nin this folder, then\n\n```python\nimport "
        "json\nimport requests\n"
        f"from transformers import AutoTokenizer\n\n{prompt_code()}\n"
        f"texts = {_texts(manifest)}\n{vllm.request(manifest)}\n```\n\n"
        "The check was made with transformers, on the same files; vLLM itself was not run."
    )


def _texts(manifest: Manifest) -> str:
    return "{" + ", ".join(f'"{name}": "…"' for name in manifest["fields"]) + "}"


def _describe_prompt(manifest: Manifest) -> str:
    """The part of the prompt that the user sends: the fields and the text between them."""
    fields = [part for part in manifest["tokens"]["prompt"] if isinstance(part, str)]
    return (
        f"the {fields[0]}"
        if len(fields) == 1
        else (
            f"everything from the {fields[0]} to the {fields[-1]} as it stands in "
            "`rendering.template` of bundle.json"
        )
    )


_OLLAMA = """```
ollama create prooftune -f Modelfile
ollama run prooftune "some text"
```

in this folder. The prompt that you send is PROMPT; the Modelfile's template adds the rest,
including the start token and the stop token. The check runs llama.cpp on the text of this template;
Ollama itself was not run. Send nothing else (`system`, several messages): the bundle was not tuned
on it. Control tokens spelled in a text are read as such here, and as text by the bundle."""


def _gguf(manifest: Manifest) -> str:
    query_code = (
        f"""limit = {max_new_tokens(manifest)}
output = model.create_completion(ids, max_tokens=limit, temperature=0)
print(output["choices"][0]["text"])
"""
        if not scores_labels(manifest)
        else """scores = {}
for label, answer in facts["tokens"]["labels"].items():
    model.reset()
    model.eval(ids + answer[:-1])
    rows = Llama.logits_to_logprobs(model.scores[: model.n_tokens])
    scores[label] = sum(float(rows[len(ids) - 1 + i][token]) for i, token in enumerate(answer))MEAN
print(max(scores, key=scores.get))
""".replace("MEAN", " / len(answer)" if manifest["scoring"]["normalize"] == "length" else "")
    )
    return f"""With llama-cpp-python. The prompt is token ids; every text is tokenised separately:

```python
import json
from llama_cpp import Llama

model = Llama("THIS_FOLDER/{FILE}", n_ctx=2048, logits_all=True, verbose=False)
facts = json.load(open("THIS_FOLDER/bundle.json", encoding="utf-8"))
texts = {_texts(manifest)}
ids = []
for part in facts["tokens"]["prompt"]:
    if isinstance(part, list):
        ids += part
    else:
        ids += model.tokenize(texts[part].encode(), add_bos=False, special=False)
{query_code}```"""
