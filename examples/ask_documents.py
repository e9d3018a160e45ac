"""Answer questions from documents (PDF, Office, HTML, text): ask_documents.py FOLDER FILE.csv."""

import sys

import prooftune

documents, questions = sys.argv[1:3]  # questions.csv has the columns question and answer
recipe = {
    "name": "documents",
    "task": "free-text-qa",
    "data": {"train": questions, "text": "question", "label": "answer"},
    "retrieval": {"documents": documents, "passages": 3},
    "variants": {
        "base": {"kind": "zero-shot", "context": "retrieved"},
        "tuned": {"kind": "tuned", "context": "retrieved"},
    },
}
result = prooftune.run(recipe, out="runs/documents", overrides=sys.argv[3:])
print(result.headline, result.verdict)
