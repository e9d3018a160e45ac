"""Conversations as prompts: rendered whole, and every answer of the assistant trained.

The reference is transformers: `apply_chat_template` with `return_assistant_tokens_mask`, which
reads the marks that templates put around what the assistant says.
"""

from __future__ import annotations

from typing import Any

import pytest

from conftest import make_tokenizer
from prooftune.recipe import Answering
from prooftune.tasks.conversations import Turn, dump_history, parse_history, without_oldest
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.tasks.question_answering import instruction_pairs
from prooftune.training.rows import TrainingRow, instruction_rows
from prooftune.types import HISTORY, QUESTION, Example

EARLIER = [Turn("user", "goal match"), Turn("assistant", "yes it was"), Turn("user", "cat mat")]
EARLIER += [Turn("assistant", "no")]
INPUTS = {QUESTION: "new phone", HISTORY: dump_history(EARLIER)}
ANSWER = "very good"

_BODY = {
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}"
        "<|end_header_id|>\n\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
        "<|eot_id|>{% endgeneration %}{% else %}{{ m['content'] }}<|eot_id|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma2": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<start_of_turn>"
        "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<end_of_turn>"
        "{% endgeneration %}{% else %}{{ m['content'] }}<end_of_turn>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    # Qwen's template has a default system message, and no start token.
    "qwen": (
        "{% if messages[0]['role'] != 'system' %}<|start_header_id|>system\nhelp<|eot_id|>\n"
        "{% endif %}{% for m in messages %}<|start_header_id|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|eot_id|>"
        "{% endgeneration %}{% else %}{{ m['content'] }}<|eot_id|>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}"
    ),
}


def tokenizer(family: str) -> Any:
    made = make_tokenizer("llama3" if family == "qwen" else family)
    made.chat_template = _BODY[family]
    if family == "qwen":
        made._tokenizer.post_processor = None
        made.bos_token = None
    return made


def encoder(family: str, **options: Any) -> PromptEncoder:
    rendering = Rendering(**{"template": "{question}", "labels": (), "answer_tokens": 8, **options})
    return PromptEncoder(rendering, tokenizer(family), [QUESTION, HISTORY])


def training_row(made: PromptEncoder, inputs: dict[str, str]) -> TrainingRow:
    example = Example("1", inputs, ANSWER, references=(ANSWER,))
    pairs = instruction_pairs([example], made, Answering(), "free-text-qa")
    [row] = instruction_rows(pairs, made.stop_token_id)
    return row


@pytest.mark.parametrize("family", _BODY)
def test_the_loss_covers_what_transformers_marks_as_the_assistants(family: str) -> None:
    made = encoder(family)
    row = training_row(made, INPUTS)
    messages = [
        t._asdict() for t in [*EARLIER, Turn("user", "new phone"), Turn("assistant", ANSWER)]
    ]
    reference = tokenizer(family).apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = reference["input_ids"], reference["assistant_masks"]
    # The stop token is only predicted, and what follows it in the template is not computed.
    whole = [*made.prefix, *row.ids, made.stop_token_id]
    assert ids[: len(whole)] == whole
    marked = [position for position, on in enumerate(mask) if on]
    shift = len(made.prefix)
    assert [p + 1 + shift for p in row.label_positions] == marked
    assert row.targets == [ids[position] for position in marked]
    assert row.targets.count(made.stop_token_id) == 3  # each of the assistant's turns


def test_targets_by_hand() -> None:
    made = encoder("llama3")
    words = {text: made.tokenize_text(text) for text in ("yes it was", "no", ANSWER)}
    stop = made.stop_token_id
    row = training_row(made, INPUTS)
    assert row.targets == [*words["yes it was"], stop, *words["no"], stop, *words[ANSWER], stop]


def test_a_question_without_history_is_the_single_message() -> None:
    single = PromptEncoder(encoder("llama3").rendering, tokenizer("llama3"), [QUESTION])
    made = encoder("llama3")
    wanted = [*single.prefix, *single.encode({QUESTION: "cat"}).token_ids]
    assert [*made.prefix, *made.encode({QUESTION: "cat", HISTORY: ""}).token_ids] == wanted


def test_a_system_message_of_the_conversation_takes_the_place_of_the_recipes() -> None:
    history = dump_history([Turn("system", "text label"), *EARLIER])
    text = encoder("llama3", system="Classify").render({QUESTION: "cat", HISTORY: history})
    assert "text label" in text and "Classify" not in text
    # Gemma has no system role: the message begins the first question.
    text = encoder("gemma2").render({QUESTION: "cat", HISTORY: history})
    assert "user\ntext label\n\ngoal match" in text


def test_without_a_chat_template_turns_are_named() -> None:
    made = PromptEncoder(
        Rendering("{question}", (), chat=False, answer_tokens=8),
        make_tokenizer("llama"),
        [QUESTION, HISTORY],
    )
    text = made.render(INPUTS)
    assert "user: goal match\n\nassistant: yes it was\n\nuser: cat mat" in text
    assert text.rstrip().endswith("user: new phone\nAnswer:")


def test_the_oldest_turns_are_dropped_first_and_counted() -> None:
    whole = encoder("llama3").encode(INPUTS)
    length = len(whole.token_ids) + 1
    made = encoder("llama3", max_length=length + 8 - 1)
    cut = made.encode(INPUTS)
    assert "goal match" not in made.render(INPUTS) and "cat mat" in made.render(INPUTS)
    assert cut.truncated_tokens == len(whole.token_ids) - len(cut.token_ids) > 0
    assert made.prompt_length(INPUTS) == (length, cut.truncated_tokens)


def test_dropping_keeps_the_system_message() -> None:
    turns = [Turn("system", "s"), *EARLIER]
    assert without_oldest(turns) == [turns[0], *EARLIER[2:]]
    assert without_oldest(without_oldest(turns)) == [turns[0]]


def test_history_that_is_no_list_of_messages() -> None:
    with pytest.raises(ValueError):
        parse_history('{"role": "user"}')
    assert dump_history([]) == ""
