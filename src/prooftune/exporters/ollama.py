"""An Ollama Modelfile whose template is the bundle's prompt, and the part of Ollama's template
language that it uses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prooftune.bundle.golden import max_new_tokens
from prooftune.bundle.manifest import Manifest
from prooftune.errors import UsageError
from prooftune.exporters.gguf import FILE
from prooftune.exporters.gguf_vocabulary import adds_bos

_PROMPT = "{{ .Prompt }}"
_QUOTED = re.compile(r'\{\{ "((?:[^"\\]|\\.)*)" \}\}')


def split_prompt(manifest: Manifest, tokenizer: Any) -> tuple[str, list[str], str]:
    """The prompt's text before the first field, what stands from there to the last one (field names
    and fixed texts in turn), and the text after it. The start token is left out where the tokenizer
    adds it by itself."""
    parts = list(manifest["tokens"]["prompt"])
    if (
        parts
        and isinstance(parts[0], list)
        and adds_bos(tokenizer)
        and parts[0][:1] == [tokenizer.bos_token_id]
    ):
        parts[0] = parts[0][1:]
    fields = [i for i, part in enumerate(parts) if isinstance(part, str)]
    texts = [part if isinstance(part, str) else decode_fixed(tokenizer, part) for part in parts]
    first, last = fields[0], fields[-1]
    return "".join(texts[:first]), texts[first : last + 1], "".join(texts[last + 1 :])


def decode_fixed(tokenizer: Any, ids: list[int]) -> str:
    """The text of the prompt's fixed ids, control tokens included."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def middle(manifest: Manifest, between: list[str], inputs: dict[str, str]) -> str:
    """What a user of Ollama sends as the prompt: the fields with the fixed text that stands between
    them."""
    return "".join(inputs[part] if i % 2 == 0 else part for i, part in enumerate(between))


def modelfile(manifest: Manifest, tokenizer: Any) -> str:
    """The Modelfile. Temperature 0 and the bundle's own stop token: what the bundle would write,
    and no more.

    Raises:
        UsageError: the prompt's fixed text holds three quotes in a row, which a Modelfile cannot.
    """
    before, _, after = split_prompt(manifest, tokenizer)
    template = f"{_escaped(before)}{_PROMPT}{_escaped(after)}{{{{ .Response }}}}"
    if '"""' in template:
        raise UsageError(
            'Ollama: a Modelfile cannot hold three quotes in a row (""") in its template; change '
            "prompt.template"
        )
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
    """Tokens of the longest label with its stop token; 0 where there are none."""
    return max((len(ids) + 1 for ids in manifest["tokens"].get("labels", {}).values()), default=0)


def rendered(file: Path, prompt: str) -> str:
    """What Ollama makes of a prompt with a Modelfile: Go's text/template, as far as `modelfile`
    uses it.

    Raises:
        UsageError: the file has no template, or one with other actions.
    """
    found = re.search(r'^TEMPLATE """(.*?)"""$', file.read_text(encoding="utf-8"), re.S | re.M)
    if found is None:
        raise UsageError(f"{file} has no TEMPLATE")
    template = found[1].partition("{{ .Response }}")[0]
    pieces = [
        _QUOTED.sub(lambda quoted: quoted[1].replace('\\"', '"').replace("\\\\", "\\"), piece)
        for piece in template.split(_PROMPT)
    ]
    unknown = [
        action
        for piece in template.split(_PROMPT)
        for action in re.findall(r"\{\{.*?\}\}", _QUOTED.sub("", piece), re.S)
    ]
    if unknown or len(pieces) != 2:
        raise UsageError(
            f"{file}: its TEMPLATE is not one of ours: "
            f"{', '.join(unknown) or 'the prompt stands in it not once'}"
        )
    return pieces[0] + prompt + pieces[1]


def _escaped(text: str) -> str:
    """Fixed text in a Go template: an action's braces are written as a quoted string."""
    return re.sub(r"\{\{", lambda _: '{{ "{{" }}', text)
