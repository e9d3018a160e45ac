"""The contexts of the data's own questions as a document collection: ``retrieval.documents:
data:context``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from prooftune.errors import UsageError
from prooftune.types import CONTEXT, Example, Study
from prooftune.utils.files import write_text

CONTEXTS_FILE = "contexts.jsonl"
"""Name of the collection in the folder of the study's data, in a layout that `retrieval` reads."""


def use_contexts_as_documents(study: Study, folder: Path) -> Study:
    """Write every distinct context of a study's questions as one passage, and name it as the gold
    of its questions.

    Args:
        study: of questions that came with a context.
        folder: where `FILE` is written.

    Raises:
        UsageError: a question has no context.
    """
    texts: dict[str, str] = {}

    def own(example: Example) -> Example:
        text = example.inputs.get(CONTEXT, "").strip()
        if not text:
            raise UsageError(
                f"{example.source or example.id} has no context, and retrieval.documents: "
                "data:context searches the "
                "contexts of the data. Name their column: data.text: {question: COLUMN, context: "
                "COLUMN}"
            )
        id_ = hashlib.sha256(text.encode()).hexdigest()[:12]
        texts[id_] = text
        return replace(example, gold=(id_,))

    study = study.map_examples(own)
    lines = [
        json.dumps({"id": id_, "text": text}, ensure_ascii=False) for id_, text in texts.items()
    ]
    write_text(folder / CONTEXTS_FILE, "\n".join(lines) + "\n")
    return study
