"""Messages of the judge and of endpoints that name a way out: what they name then works."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from judge import server
from judge.test_endpoint import ITEMS
from judge.test_scoring import LOCAL, Local, answers
from judge.test_summary import judged
from prooftune.errors import UsageError
from prooftune.judge import JudgeItem, Judgements, compare, judge, summarize
from prooftune.judge.human import read_human_scores
from prooftune.judge.local import local_completion_fn
from prooftune.judge.study import align_human_scores, warn_if_unreachable
from prooftune.recipe import Judge
from prooftune.recipe.judge import Judge as Settings
from ways_out import follows, names, refused

Make = Callable[..., Settings]


def scored(judgements: Judgements) -> bool:
    return all(j.score is not None for j in judgements.judgements)


@pytest.mark.slow
def test_a_key_in_an_environment_variable(
    endpoint_server: server.Judge,
    settings: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(handler: Any, _: server.Chat, __: int) -> bool:
        if handler.headers.get("Authorization") == "Bearer sk-right-key":
            return False
        return bool(handler.send(401, b'{"error": {"message": "no key"}}'))

    endpoint_server.act = answer
    with refused("Put a valid key into an environment variable and name it in {…}.api_key_env"):
        judge(ITEMS, settings(concurrency=1), tmp_path)
    with refused(
        "is not set. Set it to the key of {…}, or remove {…}.api_key_env if it needs none"
    ):
        judge(ITEMS, settings(api_key_env="JUDGE_KEY"), tmp_path)
    monkeypatch.setenv("JUDGE_KEY", "sk-right-key")
    assert scored(judge(ITEMS, settings(api_key_env="JUDGE_KEY"), tmp_path / "key"))
    endpoint_server.act = lambda *_: False  # needs no key
    monkeypatch.delenv("JUDGE_KEY")
    assert scored(judge(ITEMS, settings(), tmp_path / "none"))


def test_the_address_and_the_model_of_an_endpoint(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path
) -> None:
    def answer(handler: Any, body: server.Chat, _: int) -> bool:
        known = handler.path.startswith("/v1/") and body["model"] == "m"
        return False if known else bool(handler.send(404, b"{}"))

    endpoint_server.act = answer
    message = follows("Check {…}.base_url, which usually ends in /v1, and {…}.model")
    for wrong in ({"base_url": endpoint_server.url.removesuffix("/v1")}, {"model": "n"}):
        with pytest.raises(UsageError) as error:
            judge(ITEMS, settings(concurrency=1, **wrong), tmp_path)
        assert names(message, str(error.value))
    assert scored(judge(ITEMS, settings(), tmp_path))


def test_the_client_is_installed(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "openai", None)
        with refused("{…}.base_url needs the openai client: pip install 'prooftune[judge]'"):
            judge(ITEMS, settings(), tmp_path)
    assert scored(judge(ITEMS, settings(), tmp_path))


def test_an_endpoint_or_a_local_model(settings: Make, tmp_path: Path) -> None:
    with refused("judge: set judge.base_url to an endpoint, or judge.model to a local model"):
        judge(answers(["x"]), LOCAL, tmp_path)
    assert scored(judge(answers(["x"]), LOCAL, tmp_path, Local(lambda _: "4")))
    assert scored(judge(answers(["x"]), settings(), tmp_path))


def test_ids_of_answers_differ(tmp_path: Path) -> None:
    local = Local(lambda _: "4")
    with refused("among the answers; every answer needs its own"):
        judge([JudgeItem("a", "?", "x"), JudgeItem("a", "?", "y")], LOCAL, tmp_path, local)
    found = judge([JudgeItem("a", "?", "x"), JudgeItem("b", "?", "y")], LOCAL, tmp_path, local)
    assert scored(found)


def test_human_scores_are_those_of_the_test_rows_once_each(tmp_path: Path) -> None:
    file = tmp_path / "human.csv"
    for message, content in (
        (follows("the file has no scores; the columns are id,criterion,score"), ""),
        (follows("unknown criterion '{…}'{…}; the recipe's criteria are {…}"), "0,d,1\n"),
    ):
        file.write_text(f"id,criterion,score\n{content}")
        with pytest.raises(UsageError) as error:
            read_human_scores(file, ["c"], (1, 5))
        assert names(message, str(error.value))
    file.write_text("id,criterion,score,variant\n0,c,1,zro\n")
    with refused("unknown variant '{…}'{…}; the judged variants are {…}"):
        read_human_scores(file, ["c"], (1, 5), ["zero"])
    file.write_text("id,criterion,score,variant\n0,c,1,zero\n")
    assert read_human_scores(file, ["c"], (1, 5), ["zero"])["zero"]
    file.write_text("id,criterion,score\n0,c,1\n0,c,2\n")
    with refused("already has a score on {…}. Give one score per answer and criterion"):
        read_human_scores(file, ["c"], (1, 5))
    file.write_text("id,criterion,score\nrow 0,c,1\n")
    other = read_human_scores(file, ["c"], (1, 5))[None]
    with refused("Use the ids of the test examples, such as '{…}'") as unknown:
        summarize(judged([1, 2]), other)
    id_ = str(unknown.value).rpartition("such as '")[2].rstrip("'")
    file.write_text(f"id,criterion,score\n{id_},c,1\n")
    human = read_human_scores(file, ["c"], (1, 5))[None]
    summary = summarize(judged([1, 2]), human, resamples=100)["criteria"]["c"]["human"]
    assert summary is not None and summary["n"] == 1


def test_answers_to_the_same_questions(tmp_path: Path) -> None:
    local = Local(lambda _: "A")
    with refused("the two variants must have the same questions in the same order"):
        compare(answers(["x", "y"]), answers(["x"]), LOCAL, tmp_path, local)
    assert compare(answers(["x"]), answers(["z"]), LOCAL, tmp_path, local)


def test_human_scores_name_the_variant(tmp_path: Path) -> None:
    file = tmp_path / "human.csv"
    settings = Judge.model_validate({"model": "m", "criteria": {"c": "?"}, "human": "human.csv"})

    def notes(content: str) -> list[str]:
        file.write_text(content)
        scores: Any = {"verdict": {"best_tuned": "lora", "winner": "zero"}, "notes": []}
        align_human_scores(settings, tmp_path, ["zero", "lora"], scores)
        return list(scores["notes"])

    [note] = notes("id,criterion,score\n0,c,1\n")
    assert names(follows("judge's scores of {…} only. Add a column 'variant'."), note)
    assert notes("id,criterion,score,variant\n0,c,1,zero\n") == []


def test_an_endpoint_is_started_or_the_judge_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr("prooftune.judge.study.notify", lambda text, *_: messages.append(text))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening yet
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        warn_if_unreachable(Judge(model="m", base_url=url))
        start = follows("Start it before the variants are done (with Ollama: ollama serve), or rem")
        assert len(messages) == 1 and names(start, messages[0])
        taken.listen()
        warn_if_unreachable(Judge(model="m", base_url=url))
        assert len(messages) == 1
    from prooftune import recipe

    data = {"train": "a.jsonl"}
    values: dict[str, Any] = {"name": "x", "task": "free-text-qa", "data": data}
    values |= {"variants": ["zero-shot"], "judge": {"model": "m", "base_url": url}}
    assert recipe.parse(values, overrides=["judge=null"]).judge is None


def test_a_chat_model_judges(model_folders: dict[str, Path]) -> None:
    with refused("has no chat template, so it cannot judge; use a chat model"):
        local_completion_fn(str(model_folders["llama"]), 8, 256)
    complete, digest = local_completion_fn(str(model_folders["llama3"]), 8, 256)
    assert callable(complete) and json.dumps(digest)
