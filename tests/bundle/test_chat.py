"""Chat: lines in, answers out, base or tuned, with retrieval or without, and a polite end."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prooftune.bundle import chat as chat_module
from prooftune.bundle.chat import chat
from prooftune.bundle.qa import CitedPassage, QAPrediction
from prooftune.utils.files import read_json, write_json
from study.small import classifier


def talk(folder: Path, *lines: str | type[BaseException]) -> list[str]:
    """The output of the chat for these input lines."""
    output: list[str] = []
    left: Iterator[str | type[BaseException]] = iter(lines)

    def read(_: str) -> str:
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    chat(folder, read, output.append)
    return output


def test_a_label_is_said_with_its_probabilities_as_predict_gives_them(bundle: Path) -> None:
    output = talk(bundle, "goal scored", "", "/quit", "never read")
    [answer] = classifier(bundle).predict(["goal scored"])
    assert output[1] == f"{answer.label}  {answer.probability:.1%}"
    others = sorted(answer.probabilities.items(), key=lambda item: -item[1])[1:]
    assert output[2:] == [
        "  " + ", ".join(f"{label} {share:.1%}" for label, share in others),
        "Bye.",
    ]


def test_base_is_the_model_without_its_adapter_and_tuned_brings_it_back(bundle: Path) -> None:
    output = talk(bundle, "goal scored", "/base", "goal scored", "/tuned", "goal scored")
    loaded = classifier(bundle)
    [base] = loaded.predict(["goal scored"], tuned=False)
    assert output[3] == "Now querying the base model."
    assert output[4] == f"{base.label}  {base.probability:.1%}"
    assert output[7:9] == output[1:3] != output[4:6]


def test_commands_are_explained_and_mistyped_ones_named(bundle: Path) -> None:
    output = talk(bundle, "/help", "/bas", "/retrieval on", "/retrieval")
    assert all(command in output[1] for command in chat_module.COMMANDS)
    assert output[2] == "No command /bas (did you mean '/base'?); /help lists them."
    assert output[3] == "This bundle has no documents."
    assert output[4].startswith("No command /retrieval")


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_ctrl_d_and_ctrl_c_end_it_politely(bundle: Path, end: type[BaseException]) -> None:
    assert talk(bundle, end)[-1] == "Bye."


def test_a_bundle_of_several_fields_asks_for_each(bundles: Callable[..., Path]) -> None:
    bundle = bundles({"head": "Headline", "body": "Body"})
    output = talk(bundle, "match", "goal scored")
    [answer] = classifier(bundle).predict([{"head": "match", "body": "goal scored"}])
    assert "Type a head, then body, a line each" in output[0]
    assert output[1] == f"{answer.label}  {answer.probability:.1%}"


def test_where_there_is_no_base_that_is_said_and_the_tuned_model_goes_on(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = read_json(folder / "bundle.json")
    monkeypatch.setattr(
        chat_module,
        "load",
        lambda _: SimpleNamespace(manifest={**manifest, "objective": "head"}, fields=["text"]),
    )
    assert "a classification head" in talk(folder, "/base")[1]
    monkeypatch.undo()
    write_json(
        folder / "bundle.json",
        {**manifest, "abstention": {"target": 0.9, "reachable": True, "threshold": 1.0}},
    )
    assert talk(folder, "goal")[1].endswith("below the threshold")
    assert "threshold" not in talk(folder, "/base", "goal")[2]


def test_answers_come_with_their_sources_and_retrieval_can_be_turned_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[dict[str, Any]] = []

    class Answering:
        def __init__(self) -> None:
            self.fields = ["question"]
            self.manifest = {
                "variant": "tuned",
                "model": {"name": "m"},
                "retrieval": {"passages": 3},
                "part": "adapter",
            }

        def predict(self, questions: list[Any], **options: Any) -> list[QAPrediction]:
            requests.append(options)
            source = CitedPassage("privacy.md", 3, "Data", "Personal  data\nis kept for two years.")
            return (
                [QAPrediction("two years", (source,), (source,), 1, 4)]
                if options["retrieve"]
                else [QAPrediction("")]
            )

    monkeypatch.setattr(chat_module, "load", lambda _: Answering())
    output = talk(tmp_path, "how long?", "/retrieval off", "how long?")
    assert output[1:5] == [
        "two years",
        "  [1] privacy.md, page 3, Data: Personal data is kept for two years.",
        "  (1 citations of passages that were not retrieved)",
        "  (4 tokens were truncated)",
    ]
    assert output[5:] == ["Retrieval is off.", "(no answer)", "Bye."]
    assert [options["retrieve"] for options in requests] == [True, False]


@pytest.mark.slow
def test_it_works_without_a_terminal(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prooftune", "chat", str(bundle)],
        input="goal scored\n/base\ngoal\n",
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tuned of ")
    assert (lines[3], lines[-1]) == ("Now querying the base model.", "Bye.")
    assert "> " not in done.stdout
