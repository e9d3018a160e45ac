"""Messages about prompts that name a way out: the changed prompt is encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prooftune.errors import UsageError
from prooftune.models.loading import load_tokenizer
from prooftune.tasks.conversations import Turn, dump_history
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering, Shot
from prooftune.types import HISTORY
from ways_out import follows, names, refused

LABELS = ("World", "Sports")
DIFFERENT = "{% for m in messages %}{{ messages | length }} {{ m['content'] }}</s>{% endfor %}"
ENDLESS = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}{% endfor %}"
ONCE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
TWICE = "{{ bos_token }}" + ONCE


def encoder(
    folder: Path, template: str = "{text}", chat_template: str | None = None, **options: Any
) -> PromptEncoder:
    tokenizer = load_tokenizer(folder)
    tokenizer.model_max_length = 512
    if not options.pop("starts", True):
        tokenizer._tokenizer.post_processor = None
        tokenizer.bos_token = None
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    options.setdefault("chat", chat_template is not None)
    fields = options.pop("fields", ["text"])
    return PromptEncoder(Rendering(template, LABELS, **options), tokenizer, fields)


LONG = "long " * 50 + "{text}"
SHOTS = tuple(Shot({"text": "the cat sat on a mat " * 20}, "World") for _ in range(8))
WAYS: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    (
        follows("no room for the text. Raise prompt.max_length, or shorten the template."),
        {"template": LONG, "max_length": 64},
        [{"template": LONG, "max_length": 400}, {"template": "{text}", "max_length": 64}],
    ),
    (
        follows("more than the model's {…}: lower prompt.max_length or show fewer examples"),
        {"max_length": 10**6},
        [{"max_length": 500}],
    ),
    (
        "more than the model's {…}: lower prompt.max_length or show fewer examples",
        {"shots": SHOTS, "max_length": 100},
        [{"shots": SHOTS[:1], "max_length": 100}],
    ),
    (
        follows("prompt template: {…} (write {{ and }} for literal braces)"),
        {"template": 'Answer as {"label": X}: {text} {'},
        [{"template": 'Answer as {{"label": X}}: {text} {{'}],
    ),
    (
        follows("puts nothing after an answer, so a tuned model could never learn to stop; set pr"),
        {"chat_template": ENDLESS},
        [{"chat_template": ENDLESS, "chat": False}],
    ),
    (
        follows("begins with two start-of-text tokens: remove the one in the template, or the one"),
        {"template": "<s>{text}", "chat_template": ONCE},
        [{"template": "{text}", "chat_template": ONCE}],
    ),
    (
        "remove the one in the template, or the one in the chat template",
        {"chat_template": TWICE},
        [{"chat_template": ONCE}],
    ),
]


@pytest.mark.parametrize(("message", "before", "ways"), WAYS)
def test_what_a_message_says_to_change_works(
    model_folders: dict[str, Path],
    message: str,
    before: dict[str, Any],
    ways: list[dict[str, Any]],
) -> None:
    folder = model_folders["llama"]
    with pytest.raises(UsageError) as error:
        encoder(folder, **before)
    assert names(message, str(error.value)), str(error.value)
    for way in ways:
        assert encoder(folder, **way).encode({"text": "the cat"}).token_ids


def test_a_chat_template_that_refuses_is_not_used(model_folders: dict[str, Path]) -> None:
    folder = model_folders["gemma2"]
    template = load_tokenizer(folder).chat_template
    with refused("Set prompt.chat: false, or remove prompt.system."):
        encoder(folder, chat_template=template, system="Be brief.")
    ways: list[dict[str, Any]] = [{"chat": False, "system": "Be brief."}, {}]
    for way in ways:
        assert encoder(folder, chat_template=template, **way).encode({"text": "cat"})


def test_conversations_without_a_chat_template(model_folders: dict[str, Path]) -> None:
    folder = model_folders["llama"]
    inputs = {
        "question": "cat",
        HISTORY: dump_history([Turn("user", "the cat"), Turn("assistant", "a mat")]),
    }
    options: dict[str, Any] = {
        "template": "{question}",
        "fields": ["question", HISTORY],
        "starts": False,
    }
    with refused("differently from a single message; set prompt.chat: false"):
        encoder(folder, chat_template=DIFFERENT, **options).encode(inputs)
    plain = encoder(folder, chat_template=DIFFERENT, chat=False, **options)
    assert plain.encode(inputs).token_ids
