"""``prooftune chat``: ask a bundle in the terminal, tuned or as its base model was, with or without
retrieval."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.bundle.base_model import why_no_base_model
from prooftune.bundle.load import LabelPrediction, load
from prooftune.errors import nearest

if TYPE_CHECKING:
    from prooftune.bundle.load import Classifier
    from prooftune.bundle.qa import QAPrediction, QuestionAnswerer

COMMANDS = {
    "/base": "ask the base model, without what was learned",
    "/tuned": "ask the tuned model",
    "/retrieval on|off": "show it passages of the documents, or none",
    "/help": "this list",
    "/quit": "end (also Ctrl-D)",
}
_SHOWN = 5
"""Labels whose probabilities are shown."""


@dataclass(slots=True)
class _Talk:
    bundle: Classifier | QuestionAnswerer
    tuned: bool = True
    retrieval: bool = True


def chat(folder: Path, read: Callable[[str], str], write: Callable[[str], None]) -> None:
    """Answer lines until there are no more.

    Args:
        folder: a bundle.
        read: gives the next line for a prompt; raises EOFError or KeyboardInterrupt at the end.
        write: shows a line.

    Raises:
        UsageError: the folder is no bundle.
        Failure: its base model is not there.
    """
    talk = _Talk(load(folder))
    manifest = talk.bundle.manifest
    write(
        f"{manifest['variant']} of {manifest['model']['name']}. {_fields(talk)}. /help lists the "
        "commands."
    )
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            line = read(f"{'tuned' if talk.tuned else 'base'}> ").strip()
            if line == "/quit":
                break
            if line.startswith("/"):
                write(_command(talk, line))
            elif line:
                for said in _answered(talk, _inputs(talk, line, read)):
                    write(said)
    write("Bye.")


def _fields(talk: _Talk) -> str:
    names = talk.bundle.fields
    if len(names) == 1:
        return f"Type a {names[0]}"
    return f"Type a {names[0]}, then {', '.join(names[1:])}, a line each"


def _inputs(talk: _Talk, line: str, read: Callable[[str], str]) -> Mapping[str, str]:
    first, *others = talk.bundle.fields
    return {first: line, **{name: read(f"{name}: ") for name in others}}


def _command(talk: _Talk, line: str) -> str:
    if line in ("/base", "/tuned"):
        reason = None if line == "/tuned" else why_no_base_model(talk.bundle.manifest)
        talk.tuned = talk.tuned if reason else line == "/tuned"
        return f"Not possible: {reason}." if reason else f"Asking the {line[1:]} model."
    if line in ("/retrieval on", "/retrieval off"):
        if not talk.bundle.manifest.get("retrieval"):
            return "This bundle has no documents."
        talk.retrieval = line.endswith("on")
        return (
            "It is shown passages of the documents."
            if talk.retrieval
            else "It is shown no passages."
        )
    if line != "/help":
        known = [
            *(command for command in COMMANDS if "|" not in command),
            "/retrieval on",
            "/retrieval off",
        ]
        return f"No command {line}{nearest(line, known)}; /help lists them."
    return "\n".join(f"{command:<18} {what}" for command, what in COMMANDS.items())


def _answered(talk: _Talk, inputs: Mapping[str, str]) -> Iterator[str]:
    options: dict[str, Any] = {"progress": False, "tuned": talk.tuned}
    if talk.bundle.manifest.get("retrieval"):
        options["retrieve"] = talk.retrieval
    [answer] = talk.bundle.predict([inputs], **options)
    yield from _labelled(answer) if isinstance(answer, LabelPrediction) else _replied(answer)
    if answer.truncated_tokens:
        yield f"  ({answer.truncated_tokens} tokens did not fit and were not read)"


def _labelled(answer: LabelPrediction) -> Iterator[str]:
    sure = "" if answer.probability is None else f"  {answer.probability:.1%}"
    yield f"{answer.label or '(no label)'}{sure}{'  below the threshold' if answer.abstained else ''}"
    others = sorted(answer.probabilities.items(), key=lambda item: -item[1])[1:_SHOWN]
    if others:
        yield "  " + ", ".join(f"{label} {share:.1%}" for label, share in others)


def _replied(reply: QAPrediction) -> Iterator[str]:
    yield reply.answer or "(no answer)"
    for number, source in enumerate(reply.sources, start=1):
        place = ", ".join(
            [
                source.document,
                *([f"page {source.page}"] if source.page else []),
                *filter(None, [source.section]),
            ]
        )
        yield f"  [{number}] {place}: {' '.join(source.text.split())[:160]}"
    if reply.unknown_citations:
        yield (
            f"  ({reply.unknown_citations} citations of passages that it was not shown were "
            "left out)"
        )
