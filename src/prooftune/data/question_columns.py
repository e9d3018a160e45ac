"""Which columns of a table are questions, contexts and answers, by their names."""

from __future__ import annotations

from itertools import islice

from prooftune.data.readers.conversations import conversations_to_questions
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError
from prooftune.types import CONTEXT, QUESTION

ANSWER_COLUMNS = ("answers", "answer", "output", "references", "reference")
"""Default answer columns, in order of preference."""


_EXPECTED = ("expected_output", "expected_answer", "correct_answer")
"""Answer columns of evaluation tools."""
# The first that fits: in an Alpaca table `instruction` is the question and `input` its context.
LAYOUTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (QUESTION, (*ANSWER_COLUMNS, "response", "ground_truth", "completion", "ideal", *_EXPECTED)),
    ("instruction", ("output", "response", "completion", "answer")),
    ("prompt", ("completion", "response", "answer", "output", *_EXPECTED)),
    ("user_input", ("reference", "response")),
    ("query", ("answer", "response", "output")),
    ("input", ("output", "answer", "response", "ideal", *_EXPECTED)),
    ("source", ("target",)),
    ("src", ("tgt",)),
    ("inputs", ("targets", "outputs")),
    ("article", ("highlights", "summary")),
    ("document", ("summary",)),
    ("dialogue", ("summary",)),
    ("frage", ("antwort",)),
    ("pregunta", ("respuesta",)),
    ("question", ("réponse", "reponse")),
    ("pergunta", ("resposta",)),
    ("domanda", ("risposta",)),
    ("вопрос", ("ответ",)),
    ("问题", ("答案", "回答")),
    ("問題", ("答案", "回答")),
    ("質問", ("回答", "答え")),
    ("질문", ("답변", "답", "대답")),
    ("السؤال", ("الجواب", "الإجابة")),
)
"""Question column -> answer columns, in the layouts of Alpaca, Dolly, TRL, ragas and others."""
_TASK_NEUTRAL = ("source", "src", "inputs", "article", "document", "dialogue")
"""Names of inputs of any task."""
_SAMPLE = 5000
WANTED_UNWANTED = (
    ("true", "false"),
    ("desirable", "undesirable"),
    ("correct", "incorrect"),
    ("right", "wrong"),
)
"""Values of a column ``label`` for wanted (right) and for unwanted (wrong) answers, lower case."""
# 1 and "yes" can call an answer relevant or toxic. They tell `init` that a table holds judged
# answers, but not which of them are unwanted, so that `questions_from_table` does not know them.
_FLAGS = (*WANTED_UNWANTED, ("0", "1"), ("yes", "no"))
"""Values that say whether an answer is right or wanted."""
_CONTEXTS = (CONTEXT, "passage", "document", "paragraph")


def detect_question_columns(table: Table) -> dict[str, str] | None:
    """Detect the columns of a question-answering table by their names.

    Returns:
        Field (question, context or ``answers``) -> column; empty for a SQuAD file read as plain
        JSON; None if the table holds no questions.

    Raises:
        UsageError: the table holds preferences, which have no task here.
    """
    if "paragraphs" in table.columns:
        return {}
    converted = conversations_to_questions(table)
    # A label beside a conversation is a class, as in data on safety, and not an answer.
    if converted is not table and _is_closed_label(converted):
        return None
    table = converted
    columns = {name.lower(): name for name in table.columns}
    if {"chosen", "rejected"} <= columns.keys():
        layout = "TRL" if "prompt" in columns else "hh-rlhf: whole conversations"
        raise UsageError(
            f"{table.name} holds preferences (columns 'chosen' and 'rejected', in the layout of "
            f"{layout}). They train a tuned variant further: in a recipe of task: free-text-qa, "
            "add the variant {kind: tuned, objective: preference, from: tuned, pairs: FILE}. To "
            "train on the chosen answers alone, keep them as column 'answer'"
        )
    for question, answers in LAYOUTS:
        answer = next((columns[name] for name in answers if name in columns), None)
        if question not in columns or answer is None:
            continue
        # Outside the usual names, few short answers are more likely labels of any task.
        if question in _TASK_NEUTRAL and _repeat(table, answer):
            continue
        # A label that is the same in all rows says nothing.
        values = _label_values(table)
        if len(values) > 1 and (question not in (QUESTION, "instruction") or _are_flags(values)):
            continue  # a pair of texts with a label
        contexts = ("input", *_CONTEXTS) if question == "instruction" else _CONTEXTS
        context = next(
            (
                columns[c]
                for c in contexts
                if c in columns and c != question and _holds_texts(table, columns[c])
            ),
            None,
        )
        return {
            QUESTION: columns[question],
            **({CONTEXT: context} if context else {}),
            "answers": answer,
        }
    return None


def _is_closed_label(table: Table) -> bool:
    """Whether the column ``label`` has a few values that come again."""
    values = _label_values(table)
    return 1 < len(values) <= max(2, len(table.rows) // 3)


def _repeat(table: Table, column: str) -> bool:
    """Whether half of the cells of a column or more repeat others."""
    position = table.columns.index(column)
    cells = [row[position] for row in islice(table.rows, _SAMPLE) if row[position]]
    return 2 * len({*cells}) <= len(cells)


def _holds_texts(table: Table, column: str) -> bool:
    """Whether a column holds texts rather than names of documents, or nothing in these rows."""
    position = table.columns.index(column)
    cells = [(row[position] or "").strip() for row in islice(table.rows, _SAMPLE)]
    filled = [cell for cell in cells if cell]
    # Scripts without spaces have long words.
    return not filled or any(len(cell.split()) > 2 or len(cell) > 40 for cell in filled)


def flags_answers(table: Table) -> bool:
    """Whether the column ``label`` says which answers are right or wanted, as in KTO's data and in
    pairs of question and candidate answer: the others are no references."""
    values = _label_values(table)
    return len(values) > 1 and _are_flags(values)


def _label_values(table: Table) -> set[str]:
    """The values of the column ``label`` in the first rows, lower case; empty without one."""
    name = label_column(table)
    if name is None:
        return set()
    position = table.columns.index(name)
    return {(row[position] or "").strip().lower() for row in islice(table.rows, _SAMPLE)} - {""}


def label_column(table: Table) -> str | None:
    """The column ``label``, in any case."""
    return next((name for name in table.columns if name.lower() == "label"), None)


def _are_flags(values: set[str]) -> bool:
    return any(values <= {*flags} for flags in _FLAGS)
