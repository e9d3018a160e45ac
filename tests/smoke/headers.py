"""Every command in the headers of the shipped recipes, with the packages of requirements/run.txt.

    PYTHONPATH=tests python -m smoke.headers [--gpu] [--real] [RECIPE ...]

Commands for a laptop are run as they are, with limits of rows and steps, and with a tiny random
model in place of the built-in one. ``--real`` keeps that one: five minutes on one core. ``--gpu``
adds the commands for a GPU, on the tiny model and without 4-bit and 8-bit weights, float16 and
paged optimisers. Data of other people is made up here, in the layout of the original; what a
recipe reads from the package index is read from there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from convert.meta import write_checkpoint
from judge.server import serving as judge_server
from prooftune import recipe as recipes
from smoke.header_commands import every_command, needs_gpu
from smoke.running import CommandRunner, work_folder

LIMITS = {
    "data.limit.train": "16",
    "data.limit.validation": "4",
    "data.limit.test": "8",
    "training.max_steps": "2",
    "evaluation.resamples": "100",
}
"""Appended to every command: the size of the study, and nothing of what it does."""
OF_TASK = {
    "free-text-qa": {"answering.max_new_tokens": "4"},
    "extractive-qa": {"answering.max_new_tokens": "4"},
    "classification": {"scoring.max_new_tokens": "4"},
}
# Near-duplicates are looked for among all 2,225 articles; the tiny tokenizer makes them long.
OF_RECIPE = {"bbc-news": {"audit.near_duplicates": "null", "variants.few-shot.shots": "1"}}
WITHOUT_GPU = {
    "quantization": "null",
    "training.fp16": "false",
    "training.optim": "adamw_torch",
}
"""Replaces in commands for a GPU what a CPU cannot compute."""
TOPICS = ("business", "entertainment", "health", "politics", "religion", "sports", "technology")
WORDS = ("the", "bank", "film", "team", "doctor", "vote", "church", "phone", "won", "lost")


def texts(rows: int, start: int = 0) -> Iterator[str]:
    """Different sentences; a number written as words makes every one unique."""
    for row in range(start, start + rows):
        digits = [WORDS[int(digit)] for digit in f"{row * 7919 % 10**6:06d}"]
        yield f"The {' '.join(digits)} in {1900 + row}."


def news(folder: Path) -> None:
    """MasakhaNEWS: a folder for each language with three tab-separated files."""
    languages = recipes.load("masakha-news")[0].data.train.by_language()
    for number, language in enumerate(languages):
        path = folder / "masakhane-news" / "data" / language
        path.mkdir(parents=True)
        for split, start in (("train", 0), ("dev", 700), ("test", 1400)):
            lines = ["category\theadline\ttext\turl"]
            for row, text in enumerate(texts(28, start + 40 * number)):
                lines.append(f"{TOPICS[row % 7]}\tNews {row}\t{text}\thttps://example.org/{row}")
            (path / f"{split}.tsv").write_text("\n".join(lines) + "\n", "utf-8")


def phrases(folder: Path) -> None:
    """Financial PhraseBank: "sentence@label" in ISO-8859-1, CRLF, four nested files."""
    lines = [
        f"{text} Café Oy@{('positive', 'neutral', 'negative')[row % 3]}"
        for row, text in enumerate(texts(90))
    ]
    for level in ("50Agree", "66Agree", "75Agree", "AllAgree"):
        path = folder / "FinancialPhraseBank-v1.0" / f"Sentences_{level}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(("\r\n".join(lines) + "\r\n").encode("iso-8859-1"))


def squad(folder: Path) -> None:
    """SQuAD 2.0: articles, paragraphs, questions, every other one unanswerable."""
    articles = []
    for row, text in enumerate(texts(60)):
        answer = text.split()[1]
        questions = [
            {
                "id": f"{row}-{number}",
                "question": f"What is number {number} of {row}?",
                "answers": [] if number else [{"text": answer, "answer_start": 4}],
                "is_impossible": bool(number),
            }
            for number in range(2)
        ]
        articles.append(
            {"title": f"Article {row}", "paragraphs": [{"context": text, "qas": questions}]}
        )
    content = {"version": "v2.0", "data": articles}
    (folder / "train-v2.0.json").write_text(json.dumps(content), "utf-8")


def policies(folder: Path) -> None:
    """questions.csv, and a folder of documents that hold the answers."""
    (folder / "documents").mkdir()
    lines = ["question,answer"]
    for row, text in enumerate(texts(60)):
        (folder / "documents" / f"rule-{row}.md").write_text(f"# Rule {row}\n\n{text}\n", "utf-8")
        lines.append(f"What does the rule say on {' '.join(text.split()[1:-2])}?,{text}")
    (folder / "questions.csv").write_text("\n".join(lines) + "\n", "utf-8")


def hub_tables(folder: Path) -> dict[str, dict[str, str]]:
    """AG News and SST-2 by the columns of the hub; their files take the place of ``hub:``.

    Reading the hub itself needs the extra ``hub``; tests/data/test_hub.py does, from a stand-in.
    """
    tables = {"train": (0, 90), "test": (1000, 40)}
    for split, (start, rows) in tables.items():
        ag_news, sst2 = ["text,label"], ["idx,sentence,label"]
        for row, text in enumerate(texts(rows, start)):
            ag_news.append(f"{text},{('World', 'Sports', 'Business', 'Sci/Tech')[row % 4]}")
            sst2.append(f"{row},{text},{('negative', 'positive')[row % 2]}")
        (folder / f"ag_news_{split}.csv").write_text("\n".join(ag_news) + "\n", "utf-8")
        (folder / f"sst2_{split}.csv").write_text("\n".join(sst2) + "\n", "utf-8")
    return {
        "ag-news": {"data.train": "ag_news_train.csv", "data.test": "ag_news_test.csv"},
        "sst2": {"data.train": "sst2_train.csv"},
    }


def reduced(
    name: str, words: list[str], replaced: Mapping[str, str], judge_url: str, real: bool
) -> list[str]:
    """The command with its limits; ``demo`` takes no options, so its recipe is run by name."""
    if words[0] == "demo":
        words = ["run", name]
    if words[0] == "data":
        return [*words, *_set(replaced)]
    recipe = recipes.load(name)[0]
    options = {**replaced, **LIMITS, **OF_TASK[recipe.task]}
    options |= OF_RECIPE.get(name, {})
    gpu = needs_gpu(name, words)
    if gpu:
        options |= WITHOUT_GPU
        if name == "ag-news":
            options |= {"judge.base_url": judge_url, "judge.rows": "2"}
    if gpu or not real:
        if "--model" in words:
            at = words.index("--model")
            words = words[:at] + words[at + 2 :]
        options["model.dtype"] = "float32"
        if recipe.audit.max_truncated < 1:  # the tiny tokenizer knows few words
            options["prompt.max_length"] = "400"
        words = [*words, "--model", "./tiny"]
    return [*words, *_set(options)]


def _set(options: Mapping[str, str]) -> list[str]:
    return [word for key, value in options.items() for word in ("--set", f"{key}={value}")]


def main() -> None:
    chosen = [word for word in sys.argv[1:] if not word.startswith("--")]
    gpu, real = "--gpu" in sys.argv, "--real" in sys.argv
    runner, began = CommandRunner(), time.monotonic()
    with work_folder(None) as folder, judge_server() as judge:
        for write in (news, phrases, squad, policies):
            write(folder)
        write_checkpoint(folder / "meta-llama3", "llama3")
        runner.run("convert", "meta-llama3", "tiny", "--chat")
        replaced = hub_tables(folder)
        commands = [
            (name, words)
            for name, words in every_command()
            if (gpu or not needs_gpu(name, words)) and (not chosen or name in chosen)
        ]
        for number, (name, words) in enumerate(commands):
            command = reduced(name, words, replaced.get(name, {}), judge.url, real)
            if command[0] == "run":
                command += ["--out", f"runs/{number}"]
            runner.run(*command)
    print(
        f"All {len(commands)} commands in the headers of recipes work "
        f"({time.monotonic() - began:.0f} s)."
    )


if __name__ == "__main__":
    main()
