"""Messages with words of a way out that no test follows."""

from __future__ import annotations

CANNOT_BE_FOLLOWED: dict[str, str] = {
    "it needs a CUDA GPU": "a GPU",
    "pip install 'llama-cpp-python>=0.3.16'": "is compiled for 10 to 30 minutes",
    "GGUF was not measured: llama.cpp is not installed": "is compiled for 10 to 30 minutes",
    "Export merged: if that passes, the conversion to GGUF": "llama.cpp that computes wrongly",
    "Please report this if the difference above exceeds": "a report to this project",
    "written by 'prooftune data export --to {…}'. In this folder run:": "the other tools",
    "tune download MODEL --output-dir model && tune run": "TorchTune and a model of the hub",
}
"""Fragment of a message -> what following it takes that is not here."""

NO_WAY_OUT: dict[str, tuple[str, ...]] = {
    "says what was done or found": (
        "A random sample of {…} of {…} rows (--limit).",
        "Change since the study: {…}.",
        "dropped (audit.leak: drop): duplicates",
        "--table quantization: {…} ({…}) contains no language model",
        "Prompts in tokens (limit {…}{…})",
        "empty reply",
        "score off the scale",
        "model.int8_training is not possible here",
        "take {} times as long",
        "--set {…}: '{…}' is a single value, not a section",
        "{…} is a study of {…} and {…} one of {…}: they cannot be compared",
        "Expected calibration error {…}",
        "expected cost",
        "; the target is {…}",
        "was read as {…}; the study's data is {…}.",
        "the truncated part is found by keyword search only",
        "The header takes {…} rows; the columns are named",
        "{…}: the header takes {…} rows; the columns are named",
        "the best replies are read ({…} messages)",
        "of the tokens of the bundle's answers are the export's too; {…} must be",
        "golden rows get the bundle's answer; {…} must",
    ),
    "a damaged manifest, which nobody writes by hand": (
        "a bundle that answers questions needs 'answering'",
        "'labels' must be {…} or more different names",
        "'classifier.classes' must be different names from 'labels'",
        "'classifier.classes' must be two or more",
        "needs an embedding model, and the manifest names none",
    ),
    "a prompt, a card, a description or a template of one": (
        "Below is an instruction that describes a task",
        "THIS_FOLDER is where `hf download",
        "NAME OF {…}",
        "{% if messages[0]['role'] == 'system' %}{% set system",
        "about after also and any are as at be because",
        "Labels and answers of fine-tuned models.",
        "Is what the answer says true?",
        "Is the answer clear, well ordered",
    ),
    "part of the code": (
        "-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
        "; remove it",
        "SELECT name FROM sqlite_master",
        "open-ended response",
    ),
}
"""Why the words name no way out -> fragments of the messages."""
