"""``prooftune init``: writes a commented recipe for a data file, with the evidence."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from prooftune.data.indicators import with_label_column
from prooftune.data.init import classification, questions
from prooftune.data.init.classification import Ask
from prooftune.data.init.companions import joining_hint, names_beside
from prooftune.data.init.data_section import data_section, in_comment
from prooftune.data.init.delimiters import SAMPLE_ROWS, NoLabels
from prooftune.data.init.epochs import epochs_for
from prooftune.data.init.inferred_options import InferredOptions, InitChoices
from prooftune.data.init.labels import describe_labels
from prooftune.data.init.prompt_length import (
    TokenCount,
    estimated_tokens,
    prompt_length,
    question_prompt_length,
)
from prooftune.data.init.sniffing import sniff_file
from prooftune.data.init.splits import drop_unlabelled_splits
from prooftune.data.init.templated import are_templates
from prooftune.data.init.templates import (
    CLASSIFICATION_TEMPLATE,
    MANY_TRUNCATED,
    MULTILABEL_TEMPLATE,
    QUESTIONS_TEMPLATE,
    RETRIEVAL_COMMENT,
    TEMPLATED,
)
from prooftune.data.question_columns import detect_question_columns
from prooftune.data.readers.conversations import conversations_to_questions
from prooftune.data.readers.dispatch import file_of
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError, nearest
from prooftune.recipe import TASKS
from prooftune.recipe.data import LABEL_TASKS
from prooftune.types import CONTEXT, HISTORY
from prooftune.utils.files import missing_file


def draft_recipe(
    path: Path,
    recipe: Path,
    choices: InitChoices | None = None,
    ask: Ask | None = None,
    count_tokens: TokenCount | None = None,
) -> tuple[str, list[str]]:
    """Inspect labelled texts or questions and write a recipe for them.

    Args:
        path: a file, a folder or a glob pattern.
        recipe: where the recipe will be written; it names the data relative to its folder.
        choices: what the user named instead of having it detected.
        ask: asks on a terminal where two label columns are close. Default: the better one.
        count_tokens: text -> tokens of the recipe's model. Default: an upper estimate by script.

    Returns:
        A commented recipe as YAML, and what was detected, one sentence each.

    Raises:
        UsageError: the data cannot be read, or holds no column that looks like a text or a label.
    """
    choices = choices or InitChoices()
    if choices.task is not None and choices.task not in TASKS:
        raise UsageError(
            f"--task: one of {', '.join(TASKS)}, found '{choices.task}'"
            f"{nearest(choices.task, TASKS)}"
        )
    file = file_of(path)
    if not file.exists() and not glob.has_magic(str(file)):
        raise missing_file(file)
    try:
        table, inferred = sniff_file(path, choices)
    except NoLabels as error:
        raise UsageError(f"{error}{joining_hint(path, None)}") from None
    columns = None
    if choices.task not in LABEL_TASKS and not (choices.label and choices.text):
        columns = detect_question_columns(table)
    elif choices.task in LABEL_TASKS:
        # `{}` is SQuAD's layout, which has no column that could be a label.
        columns = detect_question_columns(table) or None
    # Turns of conversations are no texts, whatever the task.
    converted = conversations_to_questions(table)
    inferred.notes += [note for note in converted.notes if note not in table.notes]
    if columns is None and questions.are_flagged_answers(converted):
        inferred.notes.append(
            "The column 'label' says which answers are right or wanted: read as classification of "
            "question and answer. To train on the wanted answers, keep only their rows."
        )
    elif columns is None and converted is not table and HISTORY in converted.columns:
        inferred.notes.append("Earlier turns of the conversations are not read.")
    if columns is None and choices.label is None:
        questions.refuse_unanswered(converted)
    as_labels = bool(columns) and (
        choices.task in LABEL_TASKS
        or (
            choices.task is None
            and questions.repeats_few_answers(converted, columns or {})
            and not questions.are_spans(converted, columns or {})
        )
    )
    if as_labels and questions.continue_conversations(converted):
        # Labels have no use for earlier turns, without which a question may mean nothing.
        as_labels = choices.task is not None
        inferred.notes.append(
            "Earlier turns of the conversations are not read."
            if as_labels
            else "The last answers are few and come again and again, but answer conversations, "
            "which are trained on as a whole. --task classification reads the last answers as "
            "labels of the last questions alone."
        )
    if columns:
        questions.refuse_multiple_choice(converted, columns["answers"])
    if columns is not None and not as_labels:
        text = _questions_recipe(
            path, recipe, converted, inferred, columns, choices, count_tokens or estimated_tokens
        )
        return text, inferred.notes
    if columns:
        inferred.notes.append(
            "The answers are few and come again and again: read as labels (task: classification)."
            + (f" {_as_answers(path, converted, columns)}" if choices.task is None else "")
        )
        choices = replace(
            choices,
            text=choices.text or questions.input_columns_as_texts(converted, columns),
            label=choices.label or columns["answers"],
        )
    try:
        text = _classification_recipe(
            path, recipe, converted, inferred, choices, ask, count_tokens or estimated_tokens
        )
    except NoLabels as error:
        raise UsageError(f"{error}{joining_hint(path, converted)}") from None
    return text, inferred.notes


def _as_answers(path: Path, table: Table, columns: dict[str, str]) -> str:
    """How to have answers read as answers, where they were read as labels."""
    task = "free-text-qa"
    if questions.answers_are_in_context(table, columns):
        task = "extractive-qa"
    return f"If they are answers: prooftune init {shlex.quote(str(path))} --task {task}"


def _classification_recipe(
    path: Path,
    recipe: Path,
    table: Table,
    inferred: InferredOptions,
    choices: InitChoices,
    ask: Ask | None,
    count_tokens: TokenCount,
) -> str:
    if inferred.options.get("format") in ("text", "folders", "fasttext"):
        columns = classification.table_columns(table, named=True)
        inputs, label = [columns[0]], columns[1]
    else:
        questions.refuse_preferences(table)
        inputs, label = classification.choose_columns(table, inferred, choices, ask)
        # Columns without names are numbered, and so may labels be.
        if choices.label is None and inferred.named:
            questions.refuse_multiple_choice(table, table.columns[label.position])
        if choices.label is None and not inferred.named:
            columns = classification.table_columns(table, named=False)
            questions.refuse_unnamed_choices(table.name, columns, label)
        if flags := inferred.options.get("label_columns"):
            table, _ = with_label_column(table, flags)
            label = classification.table_columns(table, named=True)[-1]
            if "[]" in label.counts:  # a row of zeros has no label, and is none without one
                choices = replace(choices, task="multilabel")
    if label.name not in inferred.class_names:
        inferred.class_names_from, names = names_beside(path, label.counts)
        if names:
            inferred.class_names[label.name] = names
    _note_empty_texts(table, [column.position for column in inputs], inferred)
    counts = describe_labels(table, label, inferred, choices.task)
    length, cut = prompt_length(inputs, list(counts), inferred, count_tokens)
    rows = [
        {column.name: cell for column, cell in zip(inputs, cells, strict=True)}
        for cells in zip(*(column.cells for column in inputs), strict=True)
    ]
    templated = _noted_templates(inferred, rows, label.cells)
    drop_unlabelled_splits(path, inferred)
    name, data = data_section(path, recipe, inferred)
    template = MULTILABEL_TEMPLATE if inferred.several_labels else CLASSIFICATION_TEMPLATE
    return template.format(
        file=in_comment(path.name),
        name=name,
        recipe=in_comment(shlex.quote(str(recipe))),
        data=data,
        max_length=length,
        epochs=epochs_for(len(rows)),
        audit=(MANY_TRUNCATED if cut else "") + (TEMPLATED if templated else ""),
    )


def _questions_recipe(
    path: Path,
    recipe: Path,
    table: Table,
    inferred: InferredOptions,
    columns: dict[str, str],
    choices: InitChoices,
    count_tokens: TokenCount,
) -> str:
    questions.note_columns(table, inferred, columns)
    squad = not columns
    if squad:
        questions.group_by_context_if_needed(table, inferred)
    asked = questions.question_texts(table, columns)
    # SQuAD's questions are split by article, whatever their wording.
    templated = not squad and _noted_templates(
        inferred, questions.question_inputs(table, columns), None
    )
    extracts = squad or questions.answers_are_in_context(table, columns)
    if choices.task is not None:
        extracts = choices.task == "extractive-qa"
    inferred.notes.append(
        "Answers are taken from the context (task: extractive-qa); for free answers set task: "
        "free-text-qa."
        if extracts
        else "Answers are free text (task: free-text-qa)."
    )
    answer_tokens = 32 if extracts else 64
    has_context = squad or CONTEXT in columns
    length, cut = question_prompt_length(asked, answer_tokens, has_context, count_tokens)
    if cut:
        inferred.notes.append(
            f"The questions are long: what is beyond prompt.max_length ({length} tokens) is cut, "
            "counted and shown."
        )
    name, data = data_section(path, recipe, inferred)
    return QUESTIONS_TEMPLATE.format(
        file=in_comment(path.name),
        name=name,
        recipe=in_comment(shlex.quote(str(recipe))),
        data=data,
        task="extractive-qa" if extracts else "free-text-qa",
        method="grouped" if squad else "random",
        answering=f"{{no_answer: unanswerable, max_new_tokens: {answer_tokens}}}"
        if extracts
        else f"{{max_new_tokens: {answer_tokens}}}",
        max_length=length,
        audit=(MANY_TRUNCATED if cut else "") + (TEMPLATED if templated else ""),
        majority="  majority:                      # always: no answer\n" if extracts else "",
        retrieval="" if extracts else RETRIEVAL_COMMENT,
    )


def _noted_templates(
    inferred: InferredOptions, rows: Sequence[Mapping[str, str]], labels: Sequence[str] | None
) -> bool:
    if not are_templates(rows, labels):
        return False
    inferred.notes.append(
        "Most texts differ in a few characters only, as if made from templates: the recipe counts "
        "only exact copies as copies (audit.near_duplicates: null)."
    )
    return True


def _note_empty_texts(table: Table, positions: list[int], inferred: InferredOptions) -> None:
    empty = sum(
        not any((row[position] or "").strip() for position in positions)
        for row in islice(table.rows, SAMPLE_ROWS)
    )
    if empty:
        inferred.notes.append(
            f"{empty:,} row{'s have' if empty > 1 else ' has'} no text and will be dropped."
        )
