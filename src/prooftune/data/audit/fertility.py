"""Tokenizer fertility: how many tokens a word of each language takes, and what that costs.

A tokenizer that was made from few texts of a language cuts its words into many tokens. The language
then pays more memory and time for the same text, and sees less of it within a length limit
(Rust et al. 2021, arXiv 2012.15613; Petrov et al. 2023, arXiv 2305.15425).
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TypedDict

from prooftune.data.audit.findings import Finding
from prooftune.types import Example, Study
from prooftune.utils.words import is_unspaced, words

ALL_ROWS = ""
"""Name of the rows of a study that names no languages."""
SAMPLE = 200
"""Texts measured of each language, spread evenly over its training rows."""
CHARACTERS = 1000
"""Characters measured of a text."""
HIGH = 2.0
"""From so many times the tokens of English, the audit warns."""


class Fertility(TypedDict):
    """Tokens of one language.

    ``tokens_per_word`` is None in scripts without spaces between words. ``against_english`` is the
    ratio of tokens per word to those of English or, without words, of tokens per character.
    ``words_in_prompt`` is how many words of the language fit into `prompt.max_length`.
    """

    texts: int
    tokens_per_word: float | None
    tokens_per_character: float
    against_english: float
    words_in_prompt: int | None


def measure_fertility(
    study: Study, count: Callable[[str], int], english: str, max_length: int
) -> dict[str, Fertility]:
    """Fertility by language; of all rows under the name `ALL_ROWS` where no languages are named.

    Args:
        study: the examples; those in training are measured.
        count: text -> its number of tokens, without special tokens.
        english: text to compare with, unless the study has rows in English.
        max_length: `prompt.max_length`.
    """
    texts = _sample(study)
    # ISO 639-3 and 639-1.
    name = next((n for n in ("eng", "en") if texts.get(n)), None)
    per_word, per_character = _rates(texts[name] if name else [english], count)
    result: dict[str, Fertility] = {}
    for language, own in texts.items():
        if not own:
            continue
        words_rate, character_rate = _rates(own, count)
        if words_rate is not None and per_word is not None:
            ratio = words_rate / per_word
        else:
            ratio = character_rate / per_character
        result[language] = {
            "texts": len(own),
            "tokens_per_word": words_rate,
            "tokens_per_character": character_rate,
            "against_english": ratio,
            "words_in_prompt": int(max_length / words_rate) if words_rate else None,
        }
    return result


def fertility_findings(measured: dict[str, Fertility], max_length: int) -> list[Finding]:
    """A warning for each language that takes at least `HIGH` times the tokens of English."""
    findings = []
    for language, figures in measured.items():
        ratio = figures["against_english"]
        if ratio < HIGH:
            continue
        of = f"a word of '{language}'" if language else "a word of these texts"
        rate = figures["tokens_per_word"]
        if rate is None:
            of, rate = of.replace("a word", "a character"), figures["tokens_per_character"]
        fits = (
            f" {figures['words_in_prompt']:,} words fit into prompt.max_length {max_length}."
            if figures["words_in_prompt"]
            else ""
        )
        findings.append(
            Finding(
                "fertility",
                "warning",
                f"{of} takes {rate:.1f} tokens of this model, {ratio:.1f} times as many as in "
                f"English: training and prediction take about {ratio:.1f} times as long for the "
                f"same text.{fits} A model with a tokenizer for this language costs less.",
            )
        )
    return findings


def _sample(study: Study) -> dict[str, list[str]]:
    """Beginnings of up to `SAMPLE` training texts of each language, spread over the rows."""
    train = study.train
    rows: dict[str, Sequence[int]] = {ALL_ROWS: range(len(train))}
    if study.languages():
        by_language: dict[str, array[int]] = defaultdict(lambda: array("q"))
        for number, example in enumerate(train):
            by_language[example.language or ALL_ROWS].append(number)
        rows = dict(sorted(by_language.items()))
    return {language: _texts(train, numbers) for language, numbers in rows.items()}


def _texts(train: Sequence[Example], numbers: Sequence[int]) -> list[str]:
    step = max(1, len(numbers) // SAMPLE)
    texts = (" ".join(train[number].inputs.values()) for number in numbers[::step])
    return [text[:CHARACTERS] for text in texts if text.strip()][:SAMPLE]


def _rates(texts: Sequence[str], count: Callable[[str], int]) -> tuple[float | None, float]:
    """Tokens per word, None in scripts without spaces, and tokens per character."""
    tokens = sum(count(text) for text in texts)
    letters = Counter("".join(texts))
    characters = letters.total()
    # Some characters without spaces (a Chinese name in an English text) leave words countable.
    unspaced = sum(number for letter, number in letters.items() if is_unspaced(letter))
    number = sum(len(words(text)) for text in texts)
    spaced = unspaced < 0.2 * characters and number > 0
    return tokens / number if spaced else None, tokens / max(1, characters)
