"""Default prompt templates, for recipes without their own."""

from __future__ import annotations

from collections.abc import Sequence

from prooftune.recipe import Task
from prooftune.recipe.data import LABEL_TASKS
from prooftune.types import HISTORY

_EXTRACT = (
    "Answer the question with words copied from the text. If the text does not hold the answer, "
    "reply "
    '"{no_answer}".'
)


MANY_LABELS = 40
"""Labels beyond which a prompt is written so that their list is computed once: before the text, and
not again with every few-shot example."""


def default_template(task: Task, fields: Sequence[str], no_answer: str) -> str:
    """The default template of a task for the data's fields."""
    if HISTORY in fields:
        return "{question}"  # a message of a conversation, as it is
    if task not in LABEL_TASKS:
        return _question_templates(task, fields, no_answer)[0]
    if list(fields) == ["text"]:
        inputs = "Text: {text}"
    else:
        inputs = "\n".join(f"{name.replace('_', ' ').capitalize()}: {{{name}}}" for name in fields)
    if task == "multilabel":
        return f"Which of these labels apply to the text below: {{labels}}?\n\n{inputs}"
    return f"Classify the text below. Answer with one of: {{labels}}.\n\n{inputs}"


def candidate_templates(
    task: Task, fields: Sequence[str], no_answer: str, labels: int = 0
) -> list[str]:
    """Templates that the ``prompted`` variant compares by default.

    With more than `MANY_LABELS` labels, the list of labels comes before the text in all of them, so
    that it belongs to the prefix that all prompts share.
    """
    if task != "classification":
        return _question_templates(task, fields, no_answer)
    inputs = "\n".join(f"{{{name}}}" for name in fields)
    if labels > MANY_LABELS:
        return [
            default_template(task, fields, no_answer),
            f"Labels: {{labels}}\n\n{inputs}\n\nWhich of the labels above fits this text best?",
            "You are an expert annotator. Read the text and choose its label from this list: "
            f'{{labels}}.\n\n"{inputs}"\n\nReply with the label and nothing else.',
            f"Possible labels: {{labels}}\n\nText:\n{inputs}\n\nThe label of the text is",
        ]
    return [
        default_template(task, fields, no_answer),
        f"{inputs}\n\nWhich of these labels fits the text above best: {{labels}}?",
        "You are an expert annotator. Read the text and choose its label from this list: "
        f"{{labels}}.\n\n"
        f'"{inputs}"\n\nReply with the label and nothing else.',
        f"Text:\n{inputs}\n\nPossible labels: {{labels}}\nThe label of the text is",
    ]


def _question_templates(task: Task, fields: Sequence[str], no_answer: str) -> list[str]:
    """Templates for questions, the default first."""
    phrase = no_answer.replace("{", "{{").replace("}", "}}")
    if task == "extractive-qa":
        return [
            f"{_EXTRACT.format(no_answer=phrase)}\n\nText: {{context}}\n\nQuestion: {{question}}",
            f"{{context}}\n\nQuestion: {{question}}\nThe answer is a short passage of the text "
            f'above, or "{phrase}". Reply with '
            "the answer and nothing else.",
            "Read the text and find the shortest passage that answers the question; say "
            f'"{phrase}" if there is none.\n\n'
            "Text: {context}\n\nQuestion: {question}\nAnswer:",
        ]
    if "context" in fields:
        return [
            "Answer the question with the help of the passages.\n\n{context}\n\nQuestion: "
            "{question}",
            "Answer the following question:\n\n{question}\n\nContext:\n{context}\n\n---\nAnswer:",
            "{context}\n\nUse only the passages above. Answer in one or two full sentences: "
            "{question}",
        ]
    return [
        "Answer the question.\n\nQuestion: {question}",
        "Answer the following question:\n\n{question}\n\n---\nAnswer:",
        "You are an expert on this subject. Answer in one or two full sentences.\n\n{question}",
    ]
