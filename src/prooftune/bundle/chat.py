"""``prooftune chat``: query a bundle in the terminal, tuned or base, with or without retrieval."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.bundle.base_model import why_no_base_model
from prooftune.bundle.classifier import LabelPrediction
from prooftune.bundle.load import load
from prooftune.bundle.manifest import display_name
from prooftune.errors import nearest
from prooftune.tasks.conversations import Turn, dump_history
from prooftune.types import HISTORY

if TYPE_CHECKING:
    from prooftune.bundle.classifier import Classifier
    from prooftune.bundle.qa import QAPrediction, QuestionAnswerer

COMMANDS = {
    "/base": "query the untuned base model",
    "/tuned": "query the tuned model",
    "/retrieval on|off": "retrieve passages of the documents, or not",
    "/new": "begin a new conversation (bundles that were trained on conversations)",
    "/help": "list the commands",
    "/quit": "quit (also Ctrl-D)",
}
_MAX_LABELS = 5
"""Number of labels that are shown with their probabilities."""


@dataclass(slots=True)
class _Session:
    bundle: Classifier | QuestionAnswerer
    tuned: bool = True
    retrieval: bool = True
    turns: list[Turn] = field(default_factory=list)


def chat(folder: Path, read: Callable[[str], str], write: Callable[[str], None]) -> None:
    """Answer each input line until the user quits.

    Args:
        folder: a bundle.
        read: prompt -> the next line; raises EOFError or KeyboardInterrupt at the end.
        write: prints a line.

    Raises:
        UsageError: the folder is not a bundle.
        Failure: the base model is unavailable.
    """
    session = _Session(load(folder))
    manifest = session.bundle.manifest
    title = f"{display_name(manifest)}"
    write(f"{title}. {_describe_fields(session)}. /help lists the commands.")
    # Ctrl-D and Ctrl-C end a conversation like /quit.
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            line = read(f"{'tuned' if session.tuned else 'base'}> ").strip()
            if line == "/quit":
                break
            # A text that begins with a slash cannot be queried; no data set that we know has one.
            if line.startswith("/"):
                write(_run_command(session, line))
            elif line:
                for output in _predict(session, _read_inputs(session, line, read)):
                    write(output)
    write("Bye.")


def _describe_fields(session: _Session) -> str:
    names = [name for name in session.bundle.fields if name != HISTORY]
    if len(names) == 1:
        return f"Type a {names[0]}"
    return f"Type a {names[0]}, then {', '.join(names[1:])}, a line each"


def _read_inputs(session: _Session, line: str, read: Callable[[str], str]) -> Mapping[str, str]:
    first, *others = [name for name in session.bundle.fields if name != HISTORY]
    inputs = {first: line, **{name: read(f"{name}: ") for name in others}}
    # The session collects the turns, so the user is not asked for a history.
    if HISTORY in session.bundle.fields:
        inputs[HISTORY] = dump_history(session.turns)
    return inputs


def _run_command(session: _Session, line: str) -> str:
    if line in ("/base", "/tuned"):
        reason = None if line == "/tuned" else why_no_base_model(session.bundle.manifest)
        session.tuned = session.tuned if reason else line == "/tuned"
        return f"Not possible: {reason}." if reason else f"Now querying the {line[1:]} model."
    if line == "/new":
        session.turns.clear()
        return "A new conversation."
    if line in ("/retrieval on", "/retrieval off"):
        if not session.bundle.manifest.get("retrieval"):
            return "This bundle has no documents."
        session.retrieval = line.endswith("on")
        return f"Retrieval is {'on' if session.retrieval else 'off'}."
    if line != "/help":
        known = [
            *(command for command in COMMANDS if "|" not in command),
            "/retrieval on",
            "/retrieval off",
        ]
        return f"No command {line}{nearest(line, known)}; /help lists them."
    return "\n".join(f"{command:<18} {description}" for command, description in COMMANDS.items())


def _predict(session: _Session, inputs: Mapping[str, str]) -> Iterator[str]:
    options: dict[str, Any] = {"progress": False, "tuned": session.tuned}
    if session.bundle.manifest.get("retrieval"):
        options["retrieve"] = session.retrieval
    [prediction] = session.bundle.predict([inputs], **options)
    # The answer becomes part of the next question's prompt.
    if HISTORY in inputs and not isinstance(prediction, LabelPrediction):
        question = next(text for name, text in inputs.items() if name != HISTORY)
        session.turns += [Turn("user", question), Turn("assistant", prediction.answer)]
    if isinstance(prediction, LabelPrediction):
        yield from _format_label(prediction)
    else:
        yield from _format_answer(prediction)
    if prediction.truncated_tokens:
        yield f"  ({prediction.truncated_tokens} tokens were truncated)"


def _format_label(prediction: LabelPrediction) -> Iterator[str]:
    confidence = "" if prediction.probability is None else f"  {prediction.probability:.1%}"
    warning = "  below the threshold" if prediction.abstained else ""
    if prediction.labels is not None:
        yield ", ".join(prediction.labels) or "(no label)"
        ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
        yield "  " + ", ".join(f"{label} {p:.1%}" for label, p in ranked[:_MAX_LABELS])
        return
    yield f"{prediction.label or '(no label)'}{confidence}{warning}"
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    if runners_up := ranked[1:_MAX_LABELS]:
        yield "  " + ", ".join(f"{label} {probability:.1%}" for label, probability in runners_up)


def _format_answer(prediction: QAPrediction) -> Iterator[str]:
    yield prediction.answer or "(no answer)"
    for number, source in enumerate(prediction.sources, start=1):
        location = ", ".join(
            [
                source.document,
                *([f"page {source.page}"] if source.page else []),
                *filter(None, [source.section]),
            ]
        )
        yield f"  [{number}] {location}: {' '.join(source.text.split())[:160]}"
    if prediction.unknown_citations:
        yield f"  ({prediction.unknown_citations} citations of passages that were not retrieved)"
