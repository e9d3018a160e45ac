"""OpenAI's own client, unchanged: chat, streaming, models, and its typed errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from prooftune.bundle.qa import QuestionAnswerer
from prooftune.serving.app import Options
from serving.made import Live, live
from study.small import classifier


def client_of(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def chat(server: Live) -> Iterator[openai.OpenAI]:
    with client_of(server.url) as one:
        yield one


def conversation(text: str) -> list[Any]:
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "before"},
        {"role": "assistant", "content": "said"},
        {"role": "user", "content": text},
    ]


def test_the_completion_is_the_label(chat: openai.OpenAI, folders: dict[str, Path]) -> None:
    texts = ["goal scored", "planet orbit", "stocks"]
    for text, want in zip(texts, classifier(folders["topics"]).predict(texts), strict=True):
        reply = chat.chat.completions.create(
            model="topics", messages=conversation(text), temperature=0.3, max_tokens=5
        )
        assert (
            reply.choices[0].message.content == want.label
            and reply.choices[0].finish_reason == "stop"
        )
        assert (
            reply.model == "topics"
            and reply.usage is not None
            and reply.usage.prompt_tokens == want.prompt_tokens > 0
        )
        extra: Any = reply.model_extra
        assert extra["prooftune"]["probabilities"] == pytest.approx(want.probabilities, abs=1e-5)


def test_the_completion_is_the_answer_of_a_bundle_that_answers(
    chat: openai.OpenAI, server: Live
) -> None:
    bundle = server.service.served["library"].bundle
    assert isinstance(bundle, QuestionAnswerer)
    reply = chat.chat.completions.create(
        model="library",
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "apple "}, {"type": "text", "text": "pear"}],
            }
        ],
    )
    extra: Any = reply.model_extra
    assert reply.choices[0].message.content == extra["prooftune"]["answer"]
    assert extra["prooftune"]["retrieved"][0]["document"] == "fruit.txt"
    assert reply.usage is not None and reply.usage.completion_tokens > 0
    fields = {"question": "text below", "context": "the cat sat on a mat"}
    both = chat.chat.completions.create(
        model="reader", messages=[{"role": "user", "content": json.dumps(fields)}]
    )
    expected: Any = server.service.served["reader"].bundle.predict([fields])[0]
    assert both.choices[0].message.content == expected.answer


@pytest.mark.slow
@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_adds_up_to_the_completion(chat: openai.OpenAI, usage: bool) -> None:
    for model in ("topics", "topics:base", "library"):
        whole = chat.chat.completions.create(model=model, messages=conversation("apple pear"))
        options: Any = {"stream_options": {"include_usage": True}} if usage else {}
        chunks = list(
            chat.chat.completions.create(
                model=model, messages=conversation("apple pear"), stream=True, **options
            )
        )
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
        assert choices[0].delta.role == "assistant"
        assert (
            "".join(choice.delta.content or "" for choice in choices)
            == whole.choices[0].message.content
        )
        assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
        assert [chunk.usage for chunk in chunks if chunk.usage] == ([whole.usage] if usage else [])
        assert len({chunk.id for chunk in chunks}) == 1


def test_models_are_listed_and_found(chat: openai.OpenAI) -> None:
    assert [model.id for model in chat.models.list()][:2] == ["topics", "topics:base"]
    assert chat.models.retrieve("library").owned_by == "prooftune"


def test_errors_are_the_clients_own(chat: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        chat.chat.completions.create(model="nothing", messages=conversation("a"))
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        chat.models.retrieve("nothing")
    bad: list[dict[str, Any]] = [
        {"n": 2},
        {"logprobs": True},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": []},
        {"messages": [{"role": "system", "content": "a"}]},
        {"messages": [{"role": "nobody", "content": "a"}]},
        {"model": "reader"},
    ]
    for options in bad:
        with pytest.raises(openai.BadRequestError) as refused:
            chat.chat.completions.create(
                **{"model": "topics", "messages": conversation("a"), **options}
            )
        assert refused.value.body and refused.value.type == "invalid_request_error", options


def test_a_wrong_key_and_a_full_queue_are_the_clients_own_errors(folders: dict[str, Path]) -> None:
    key = "k" * 20
    with live({"topics": folders["topics"]}, Options(keys=[key])) as server:
        with client_of(server.url, "wrong") as wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        with client_of(server.url, key) as right:
            assert right.models.retrieve("topics").id == "topics"
            server.service.served["topics"].batcher.close(10)  # takes nothing more
            with pytest.raises(openai.RateLimitError) as full:
                right.chat.completions.create(model="topics", messages=conversation("a"))
            assert int(full.value.response.headers["retry-after"]) >= 1
