"""SQuAD 1.1 and 2.0 JSON -> a table with one question per row.

Rajpurkar et al. 2016, arXiv 1606.05250; Rajpurkar et al. 2018, arXiv 1806.03822.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from prooftune.data.readers.table import Table, to_cell
from prooftune.errors import UsageError

COLUMNS = ["id", "title", "context", "question", "answers"]


def read_squad(name: str, text: str) -> Table:
    """Read all questions; identical answers of several annotators are merged.

    Raises:
        UsageError: not JSON, not in SQuAD layout, or no questions.
    """
    try:
        articles = json.loads(text)["data"]
        rows = [list(row) for row in _rows(articles)]
    except json.JSONDecodeError as error:
        raise UsageError(f"{name}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise UsageError(f"{name}: JSON nested too deeply for SQuAD layout") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{name} is not in SQuAD layout (data -> paragraphs -> context, qas -> id, question, "
            f"answers): {type(error).__name__} {error}"
        ) from None
    if not rows:
        raise UsageError(f"{name} contains no questions")
    return Table(name, COLUMNS, rows, [str(row[0]) for row in rows])


def _rows(articles: list[dict[str, Any]]) -> Iterator[tuple[str | None, ...]]:
    # Annotation tools leave out titles and ids. Questions on one text stay together: an untitled
    # article is a group of its own, or each paragraph where there is one article.
    several = len(articles) > 1
    for i, article in enumerate(articles, start=1):
        for j, paragraph in enumerate(article["paragraphs"], start=1):
            title = article.get("title") or (f"article {i}" if several else f"paragraph {j}")
            for k, question in enumerate(paragraph["qas"], start=1):
                answers = (
                    []
                    if question.get("is_impossible")
                    else [answer["text"] for answer in question.get("answers") or ()]
                )
                identifier = question.get("id")
                yield (
                    to_cell(f"{i}.{j}.{k}" if identifier is None else identifier),
                    to_cell(title),
                    to_cell(paragraph["context"]),
                    to_cell(question["question"]),
                    json.dumps(list(dict.fromkeys(answers)), ensure_ascii=False),
                )
