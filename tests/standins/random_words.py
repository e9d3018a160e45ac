"""Texts that are no near-duplicates of each other, as texts of one template would be."""

from __future__ import annotations

from random import Random


def random_words(seed: int, count: int = 3) -> str:
    """`count` pronounceable words of six letters."""
    letters = Random(seed)
    return " ".join("".join(letters.choices("aeiouklmnprst", k=6)) for _ in range(count))
