"""A study of conversations: trained, bundled, and served with the turns that came before."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

import prooftune
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.run_folder import read_predictions, read_study
from prooftune.serving.app import Options
from prooftune.serving.chat import _user_message
from prooftune.serving.errors import HTTPError
from prooftune.serving.registry import ServedBundle
from prooftune.serving.schemas import ChatMessage
from prooftune.serving.server import build_service
from prooftune.types import HISTORY, QUESTION

ANIMALS = ["cat", "goal", "planet", "phone", "film", "match"]


def conversation(number: int) -> list[dict[str, str]]:
    word = ANIMALS[number % len(ANIMALS)]
    return [
        {"role": "user", "content": f"it was a {word} {number}"},
        {"role": "assistant", "content": "very good"},
        {"role": "user", "content": f"was it new {number}"},
        {"role": "assistant", "content": word},
    ]


@pytest.mark.slow
def test_a_bundle_answers_with_the_turns_before(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = "".join(json.dumps({"messages": conversation(i)}) + "\n" for i in range(60))
    (tmp_path / "chats.jsonl").write_text(rows)
    result = prooftune.run(
        {
            "name": "chats",
            "task": "free-text-qa",
            "data": {
                "train": str(tmp_path / "chats.jsonl"),
                "splitting": {"method": "random", "test": 0.2, "validation": 0.2},
            },
            "audit": {"near_duplicates": None},
            "model": {"name": str(model_folders["llama3"]), "dtype": "float32"},
            "prompt": {"max_length": 120},
            "answering": {"max_new_tokens": 4},
            "training": {"num_train_epochs": 1, "learning_rate": 1e-2},
            "evaluation": {"resamples": 100},
            "variants": {"tuned": None},
        },
        tmp_path / "run",
    )
    study = read_study(result.folder / "data")
    assert all(json.loads(e.inputs[HISTORY])[0]["role"] == "user" for e in study.test)
    predicted = read_predictions(result.folder / "variants" / "tuned" / "predictions.parquet")
    assert result.bundle is not None
    bundle = prooftune.load(result.bundle)
    assert isinstance(bundle, QuestionAnswerer)
    answers = bundle.predict([e.inputs for e in study.test])
    assert [a.answer for a in answers] == [p.output for p in predicted]
    alone = bundle.predict([e.inputs[QUESTION] for e in study.test])
    # The first turn of a conversation has no history, and so a shorter prompt.
    assert all(a.prompt_tokens < p.prompt_tokens for a, p in zip(alone, predicted, strict=True))

    example = study.test[0]
    turns = json.loads(example.inputs[HISTORY])
    asked = [*turns, {"role": "user", "content": example.inputs[QUESTION]}]
    service = build_service({"chats": result.bundle}, Options())  # asks the bundle once
    try:
        body = {"model": "chats", "messages": asked}
        reply = TestClient(service.app).post("/v1/chat/completions", json=body).json()
    finally:
        service.close()
    assert reply["choices"][0]["message"]["content"] == answers[0].answer
    assert reply["usage"]["prompt_tokens"] == answers[0].prompt_tokens


def served(*fields: str) -> ServedBundle:
    return cast(ServedBundle, SimpleNamespace(name="chats", bundle=SimpleNamespace(fields=fields)))


def messages(*turns: tuple[str, str]) -> list[ChatMessage]:
    return [ChatMessage.model_validate({"role": r, "content": c}) for r, c in turns]


TURNS = [("system", "Be brief."), ("user", "When?"), ("assistant", "Rollo"), ("user", "When?")]


def test_the_endpoint_reads_all_messages_of_a_conversation() -> None:
    row: Any = _user_message(served(QUESTION, HISTORY), messages(*TURNS))
    assert row[QUESTION] == "When?"
    assert json.loads(row[HISTORY]) == [{"role": r, "content": c} for r, c in TURNS[:3]]
    assert _user_message(served(QUESTION), messages(*TURNS)) == "When?"  # as before


def test_the_first_question_begins_with_the_system_message_as_in_training() -> None:
    row: Any = _user_message(served(QUESTION, HISTORY), messages(*TURNS[:2]))
    assert row == {QUESTION: "Be brief.\n\nWhen?", HISTORY: ""}


def test_a_request_without_a_question_is_refused() -> None:
    with pytest.raises(HTTPError, match="no user message"):
        _user_message(served(QUESTION, HISTORY), messages(("system", "x")))
