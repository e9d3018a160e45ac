"""Write an Ollama Modelfile with the bundle's prompt as template, and render such templates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.bundle.golden import max_new_tokens
from prooftune.bundle.manifest import Manifest
from prooftune.errors import UsageError
from prooftune.exporters.gguf import FILE
from prooftune.exporters.gguf_vocabulary import adds_bos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROMPT = "{{ .Prompt }}"
_QUOTED = re.compile(r'\{\{ "((?:[^"\\]|\\.)*)" \}\}')


def split_prompt(
    manifest: Manifest, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[str], str]:
    """Split the prompt into the texts before the first field, between, and after the last.

    Returns:
        Prefix; field names and fixed texts in turn, from the first to the last field; suffix. The
        BOS token is omitted if the tokenizer adds it.
    """
    parts = list(manifest["tokens"]["prompt"])
    if (
        parts
        and isinstance(parts[0], list)
        and adds_bos(tokenizer)
        and parts[0][:1] == [tokenizer.bos_token_id]
    ):
        # llama.cpp adds it to the text itself.
        parts[0] = parts[0][1:]
    fields = [i for i, part in enumerate(parts) if isinstance(part, str)]
    texts = [part if isinstance(part, str) else decode_fixed(tokenizer, part) for part in parts]
    first, last = fields[0], fields[-1]
    return "".join(texts[:first]), texts[first : last + 1], "".join(texts[last + 1 :])


def decode_fixed(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of fixed token ids, with control tokens."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def user_prompt(manifest: Manifest, middle_parts: list[str], inputs: dict[str, str]) -> str:
    """The prompt that a user of Ollama sends: the fields with the fixed text between them."""
    return "".join(inputs[part] if i % 2 == 0 else part for i, part in enumerate(middle_parts))


def modelfile(manifest: Manifest, tokenizer: PreTrainedTokenizerBase) -> str:
    """The Modelfile, with greedy decoding and the bundle's stop token.

    Raises:
        UsageError: the prompt contains three quotes in a row, which a Modelfile cannot hold.
    """
    before, _, after = split_prompt(manifest, tokenizer)
    template = f"{_escaped(before)}{_PROMPT}{_escaped(after)}{{{{ .Response }}}}"
    if '"""' in template:
        raise UsageError(
            'Ollama: a Modelfile cannot hold three quotes in a row (""") in its template; change '
            "prompt.template"
        )
    # Few-shot examples are fixed text in addition to `max_length`.
    context = manifest["rendering"]["max_length"] + sum(
        len(part) for part in manifest["tokens"]["prompt"] if isinstance(part, list)
    )
    return f"""FROM ./{FILE}
TEMPLATE \"\"\"{template}\"\"\"
PARAMETER stop "{decode_fixed(tokenizer, [manifest["tokens"]["stop"]])}"
PARAMETER temperature 0
PARAMETER num_predict {max(max_new_tokens(manifest), max_label_tokens(manifest))}
PARAMETER num_ctx {context + max_new_tokens(manifest)}
"""


def max_label_tokens(manifest: Manifest) -> int:
    """Number of tokens of the longest label with its stop token; 0 without labels."""
    return max((len(ids) + 1 for ids in manifest["tokens"].get("labels", {}).values()), default=0)


def render_template(file: Path, prompt: str) -> str:
    """Render a Modelfile's template as Ollama does (the subset of Go's text/template used here).

    Raises:
        UsageError: the file has no template, or one with other actions.
    """
    match = re.search(r'^TEMPLATE """(.*?)"""$', file.read_text(encoding="utf-8"), re.S | re.M)
    if match is None:
        raise UsageError(f"{file} has no TEMPLATE")
    # What follows the response is no part of the prompt.
    template = match[1].partition("{{ .Response }}")[0]
    pieces = [
        _QUOTED.sub(lambda quoted: quoted[1].replace('\\"', '"').replace("\\\\", "\\"), piece)
        for piece in template.split(_PROMPT)
    ]
    unknown_actions = [
        action
        for piece in template.split(_PROMPT)
        for action in re.findall(r"\{\{.*?\}\}", _QUOTED.sub("", piece), re.S)
    ]
    if unknown_actions or len(pieces) != 2:
        raise UsageError(
            f"{file}: its TEMPLATE is not one of ours: "
            f"{', '.join(unknown_actions) or 'it does not contain the prompt exactly once'}"
        )
    return pieces[0] + prompt + pieces[1]


def _escaped(text: str) -> str:
    """Escape fixed text for a Go template: double braces become a quoted string."""
    return re.sub(r"\{\{", lambda _: '{{ "{{" }}', text)
