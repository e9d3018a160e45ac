"""``retrieval.documents: data:context``: the contexts of the questions as a document collection."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from prooftune.errors import UsageError
from prooftune.types import CONTEXT, Example, Study
from prooftune.utils.files import write_text

CONTEXTS_FILE = "contexts.jsonl"
"""File name of the collection in the study's data folder; `retrieval` reads it."""


def use_contexts_as_documents(study: Study, folder: Path) -> Study:
    """Write each distinct context as one passage, and mark it as the gold passage of its questions.

    Args:
        study: questions that all have a context.
        folder: folder to write `CONTEXTS_FILE` to.

    Returns:
        The study, with `Example.gold` set.

    Raises:
        UsageError: a question has no context.
    """
    texts: dict[str, str] = {}

    def with_gold_passage(example: Example) -> Example:
        text = example.inputs.get(CONTEXT, "").strip()
        if not text:
            raise UsageError(
                f"{example.source or example.id} has no context, but retrieval.documents: "
                "data:context builds the document collection from the contexts. Set their column: "
                "data.text: {question: COLUMN, context: COLUMN}"
            )
        # Content hash as id: equal contexts are one passage.
        # 12 digits: two of a million contexts share an id with a probability of 0.2%.
        passage_id = hashlib.sha256(text.encode()).hexdigest()[:12]
        texts[passage_id] = text
        return replace(example, gold=(passage_id,))

    study = study.map_examples(with_gold_passage)
    lines = [
        json.dumps({"id": passage_id, "text": text}, ensure_ascii=False)
        for passage_id, text in texts.items()
    ]
    write_text(folder / CONTEXTS_FILE, "\n".join(lines) + "\n")
    return study
