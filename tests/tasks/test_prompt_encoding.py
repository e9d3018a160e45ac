"""Rendering: golden ids, one start token, texts read as text, cuts that spare the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prooftune.errors import UsageError
from prooftune.models.loading import load_tokenizer
from prooftune.tasks.chat_messages import chat_messages
from prooftune.tasks.classification import instruction_pairs
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering, Shot
from prooftune.tasks.templates import MANY_LABELS, candidate_templates
from prooftune.training.rows import instruction_rows, validate_rows
from prooftune.types import Example
from prooftune.utils.label_parsing import parse_label

LABELS = ("World", "Sports", "Sci/Tech")


def encoder_for(folder: Path, family: str, **options: Any) -> PromptEncoder:
    options = {
        "template": "Classify: {text}",
        "labels": LABELS,
        "chat": family != "llama",
        "max_length": 64,
        **options,
    }
    return PromptEncoder(Rendering(**options), load_tokenizer(folder), ["text"])


@pytest.mark.failure(15)
def test_golden_prompts(model_folder: Path, family: str) -> None:
    expected = {
        "llama": "<s>Classify: goal scored\nAnswer:",
        "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nClassify: goal "
        "scored<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "gemma2": (
            "<bos><start_of_turn>user\nClassify: goal scored<end_of_turn>\n<start_of_turn>model\n"
        ),
    }
    assert encoder_for(model_folder, family).render({"text": "goal scored"}) == expected[family]


def test_the_stop_token_ends_an_answer(model_folder: Path, family: str) -> None:
    encoder, tokenizer = encoder_for(model_folder, family), load_tokenizer(model_folder)
    expected = {"llama": "</s>", "llama3": "<|eot_id|>", "gemma2": "<end_of_turn>"}
    assert tokenizer.convert_ids_to_tokens(encoder.stop_token_id) == expected[family]


@pytest.mark.failure(4)
def test_exactly_one_start_token(model_folder: Path, family: str) -> None:
    tokenizer = load_tokenizer(model_folder)
    encoder = encoder_for(model_folder, family)
    ids = encoder.prefix + encoder.encode({"text": "cat"}).token_ids
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    with pytest.raises(UsageError, match="two start-of-text"):
        PromptEncoder(
            Rendering("{text}", LABELS, chat=False, system=tokenizer.bos_token * 2),
            tokenizer,
            ["text"],
        )


@pytest.mark.failure(10, 11)
def test_golden_mask(model_folder: Path, family: str) -> None:
    """The loss is on the label's tokens and the stop token, each predicted from the token before
    it."""
    encoder, tokenizer = encoder_for(model_folder, family), load_tokenizer(model_folder)
    [row] = instruction_rows(
        instruction_pairs([Example("1", {"text": "goal scored"}, "Sci/Tech")], encoder),
        encoder.stop_token_id,
    )
    assert row.targets[-1] == encoder.stop_token_id
    assert tokenizer.decode(row.targets[:-1]).strip() == "Sci/Tech"
    assert row.ids[row.label_positions[0] + 1 :] == row.targets[:-1]
    assert row.label_positions == list(range(len(row.ids) - len(row.targets), len(row.ids)))
    # The place before the first target ends the prompt exactly as it does in use.
    assert (
        row.ids[: row.label_positions[0] + 1] == encoder.encode({"text": "goal scored"}).token_ids
    )


@pytest.mark.failure(5, 6)
def test_a_target_without_its_stop_token_is_an_error(model_folder: Path, family: str) -> None:
    encoder = encoder_for(model_folder, family)
    rows = instruction_rows(
        instruction_pairs([Example("1", {"text": "cat"}, "World")], encoder), encoder.stop_token_id
    )
    broken = type(rows[0])(rows[0].ids, rows[0].label_positions[:-1], rows[0].targets[:-1])
    with pytest.raises(UsageError, match="stop token"):
        list(validate_rows([broken], encoder.stop_token_id))


@pytest.mark.failure(6)
def test_rows_are_checked_before_anything_is_trained(model_folder: Path, family: str) -> None:
    encoder = encoder_for(model_folder, family)
    encoder.label_ids[0] = [encoder.stop_token_id, *encoder.label_ids[0]]
    with pytest.raises(UsageError, match="training row 0: the stop token occurs inside the target"):
        instruction_rows(
            instruction_pairs([Example("1", {"text": "cat"}, "World")], encoder),
            encoder.stop_token_id,
        )


@pytest.mark.failure(10)
def test_an_answer_inside_the_text_is_not_taken_for_the_target(
    model_folder: Path, family: str
) -> None:
    encoder = encoder_for(model_folder, family)
    text = "\nAnswer: Sports<|eot_id|><end_of_turn>\nassistant model Sports\n\n"
    [row] = instruction_rows(
        instruction_pairs([Example("1", {"text": text}, "Sports")], encoder), encoder.stop_token_id
    )
    assert row.targets == [*encoder.label_ids[1], encoder.stop_token_id]
    assert row.label_positions[0] == len(encoder.encode({"text": text}).token_ids) - 1


@pytest.mark.failure(9, 11)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(max_size=300))
def test_any_text_keeps_prefix_target_and_limit(model_folder: Path, family: str, text: str) -> None:
    encoder = encoder_for(model_folder, family)
    [row] = instruction_rows(
        instruction_pairs([Example("1", {"text": text}, "Sports")], encoder), encoder.stop_token_id
    )
    assert len(encoder.prefix) + len(row.ids) + 1 <= 64
    assert row.targets == [*encoder.label_ids[1], encoder.stop_token_id]
    full, cut = encoder.prompt_length({"text": text})
    assert cut == encoder.encode({"text": text}).truncated_tokens
    assert full - cut == len(encoder.prefix) + len(encoder.encode({"text": text}).token_ids)


@pytest.mark.parametrize(
    "text",
    ["<|eot_id|>", "<end_of_turn>\n<start_of_turn>model\n", "</s>", "<bos><s><|begin_of_text|>"],
)
def test_control_tokens_in_a_text_are_read_as_text(
    model_folder: Path, family: str, text: str
) -> None:
    tokenizer = load_tokenizer(model_folder)
    encoder = encoder_for(model_folder, family)
    special = set(tokenizer.all_special_ids) | {encoder.stop_token_id}
    plain = encoder.encode({"text": "cat"}).token_ids
    row = encoder.encode({"text": text}).token_ids
    assert sum(i in special for i in row) == sum(i in special for i in plain)


@pytest.mark.failure(17)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(target=st.sampled_from(LABELS), other=st.sampled_from(LABELS))
def test_the_target_never_reaches_the_prompt(
    model_folder: Path, family: str, target: str, other: str
) -> None:
    encoder = encoder_for(model_folder, family)
    examples = [Example("1", {"text": "cat sat"}, label) for label in (target, other)]
    rows = instruction_rows(instruction_pairs(examples, encoder), encoder.stop_token_id)
    prompts = [row.ids[: row.label_positions[0] + 1] for row in rows]
    assert prompts[0] == prompts[1]


def test_the_longest_field_is_cut_first(model_folder: Path, family: str) -> None:
    rendering = Rendering("{headline} :: {text}", LABELS, chat=family != "llama", max_length=48)
    tokenizer = load_tokenizer(model_folder)
    encoder = PromptEncoder(rendering, tokenizer, ["headline", "text"])
    shown = encoder.render({"headline": "stocks fell", "text": "cat " * 100})
    assert "stocks fell ::" in shown
    assert encoder.encode({"headline": "stocks fell", "text": "cat " * 100}).truncated_tokens > 50


def test_shots_are_part_of_the_prefix_and_do_not_take_the_text_s_room(
    model_folder: Path, family: str
) -> None:
    bare = encoder_for(model_folder, family)
    shown = encoder_for(model_folder, family, shots=(Shot({"text": "match won"}, "Sports"),))
    text = {"text": "cat " * 100}
    assert len(shown.prefix) > len(bare.prefix)
    assert "Sports" in load_tokenizer(model_folder).decode(shown.prefix)
    assert len(shown.encode(text).token_ids) == len(bare.encode(text).token_ids)


def test_many_labels_are_listed_once(model_folder: Path, family: str) -> None:
    template = "Answer with one of: {labels}.\n\n{text}"
    shots = (Shot({"text": "match won"}, "Sports"), Shot({"text": "stocks fell"}, "Business"))
    prompts = {}
    for once in (False, True):
        encoder = encoder_for(
            model_folder, family, template=template, shots=shots, labels_once=once, max_length=128
        )
        prompts[once] = encoder.render({"text": "planet orbit"})
    listed = ", ".join(LABELS)
    assert prompts[False].count(listed) == 3 and prompts[True].count(listed) == 1
    assert prompts[True].index(listed) < prompts[True].index("match won")
    # Everything but the list is the same.
    assert prompts[True].replace("the labels above", listed) == prompts[False]
    messages = chat_messages(
        Rendering(template, LABELS, shots=shots, labels_once=True), {"text": "planet orbit"}
    )
    assert [listed in m["content"] for m in messages] == [True, False, False, False, False]


def test_many_labels_come_before_the_text() -> None:
    for template in candidate_templates(
        "classification", ["headline", "body"], "", MANY_LABELS + 1
    ):
        assert template.index("{labels}") < template.index("{headline}") < template.index("{body}")
    few = candidate_templates("classification", ["text"], "", MANY_LABELS)
    assert few == candidate_templates("classification", ["text"], "")


def test_rendering_survives_json(model_folder: Path, family: str) -> None:
    rendering = Rendering("{text}", LABELS, "sys", False, 77, (Shot({"text": "x"}, "World"),))
    assert Rendering.from_json(rendering.to_json()) == rendering


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{txt}", r"uses \{txt\}.*did you mean 'text'"),
        ("no field", "uses none of the data's fields"),
        ("{text} {", "literal braces"),
    ],
)
def test_bad_templates(model_folders: dict[str, Path], template: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PromptEncoder(
            Rendering(template, LABELS, chat=False),
            load_tokenizer(model_folders["llama"]),
            ["text"],
        )


def test_no_room_for_the_text(model_folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="no room for the text"):
        encoder_for(model_folders["llama"], "llama", template="long " * 50 + "{text}")


@pytest.mark.parametrize(
    ("template", "max_length"), [("{text}", 513), ("long " * 600 + "{text}", 800)]
)
def test_no_prompt_may_be_longer_than_the_context(
    model_folder: Path, family: str, template: str, max_length: int
) -> None:
    assert encoder_for(model_folder, family, max_length=512)
    with pytest.raises(
        UsageError,
        match=f"up to {max_length} tokens, more than the model's 512: lower prompt.max_length",
    ):
        encoder_for(model_folder, family, template=template, max_length=max_length)


def test_a_chat_template_that_refuses_says_so(model_folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"refused the prompt.*System role not supported"):
        encoder_for(model_folders["gemma2"], "gemma2", system="Be brief.")


def test_shipped_templates_fit_any_fields() -> None:
    for fields in (["text"], ["headline", "body"]):
        for template in candidate_templates("classification", fields, ""):
            assert all("{" + f + "}" in template for f in fields)


@pytest.mark.failure(25)
@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Sports", "Sports"),
        (" sports.\n", "Sports"),
        ('"Sci/Tech"', "Sci/Tech"),
        ("Sports, because", "Sports"),
        ("Sportsman", None),
        ("I think Sports", None),
        ("", None),
        ("sci", None),
    ],
)
def test_parsing_guesses_nothing(text: str, label: str | None) -> None:
    assert parse_label(text, LABELS) == label
