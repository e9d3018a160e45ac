"""Copies of texts: what counts as the same, and near-duplicates against the plain comparison of all
pairs."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prooftune.data.audit import duplicates, lsh
from prooftune.data.normalization import dedup_key, word_shingles
from prooftune.utils.words import normalize_words

VOCABULARY = [f"w{i}" for i in range(400)]


def mutated(texts: list[str], generator: random.Random) -> list[str]:
    """Each text with some of its words replaced: none, one, or many."""
    changed = []
    for text in texts:
        parts = text.split(" ")
        if generator.random() < 0.3:
            parts.append("more")
        for _ in range(generator.choice([0, 1, 1, 2, 8])):
            parts[generator.randrange(len(parts))] = generator.choice(VOCABULARY)
        changed.append(" ".join(parts))
    return changed


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    generator = random.Random(5)
    train = [" ".join(generator.choices(VOCABULARY, k=40)) for _ in range(200)]
    return {"train": train, "test": mutated(train[:150], generator)}


@pytest.mark.parametrize("threshold", [0.7, 0.9])
def test_near_duplicates_match_brute_force(texts: dict[str, list[str]], threshold: float) -> None:
    matches = duplicates.find_near_duplicates(texts, [("train", "test")], threshold)[
        "train", "test"
    ]
    copies = set(texts["test"])
    sets = {name: [word_shingles(t) for t in split] for name, split in texts.items()}
    naive = {}
    for i, one in enumerate(sets["train"]):
        best = max((lsh.jaccard(one, other), -j) for j, other in enumerate(sets["test"]))
        if best[0] >= threshold and texts["train"][i] not in copies:
            naive[i] = -best[1]
    # None is reported wrongly; hashing may miss some that are near the threshold.
    assert set(matches) <= set(naive.items())
    assert len(matches) >= 0.95 * len(naive)
    assert len(naive) >= 20


def test_clusters_match_brute_force(texts: dict[str, list[str]]) -> None:
    both = texts["train"] + texts["test"]
    family = duplicates.duplicate_clusters(both, 0.7)
    sets = [word_shingles(t) for t in both]
    alike = {
        (i, j) for i, j in combinations(range(len(both)), 2) if lsh.jaccard(sets[i], sets[j]) >= 0.7
    }
    together = {(i, j) for i, j in combinations(range(len(both)), 2) if family[i] == family[j]}
    assert together <= alike
    assert len(together) >= 0.95 * len(alike)
    assert len({family[i] for i in range(200)}) == 200


def test_clusters_without_threshold_contain_exact_duplicates_only() -> None:
    assert duplicates.duplicate_clusters(["a b c d", "x", "a b c d", "a b c e"], None) == [
        0,
        1,
        0,
        3,
    ]


def test_clusters_are_transitive() -> None:
    line = [f"w{i}" for i in range(60)]
    chain = [" ".join(line[i : i + 40]) for i in (0, 4, 8, 12)]
    ends = lsh.jaccard(word_shingles(chain[0]), word_shingles(chain[3]))
    assert ends < 0.7 < lsh.jaccard(word_shingles(chain[0]), word_shingles(chain[1]))
    assert len(set(duplicates.duplicate_clusters(chain, 0.7))) == 1


def test_exact_duplicates_give_the_first_copy() -> None:
    assert duplicates.find_exact_duplicates(["a", "b", "c", ""], ["c", "a", "a", ""]) == [
        (0, 1),
        (2, 0),
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("It's GOOD!", "it s good"),
        ("  two\n lines ", "Two lines."),
        ("ﬁlm №５", "film no5"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "CAFÉ"),
    ],
)
def test_normalization_ignores_formatting(first: str, second: str) -> None:
    assert normalize_words(first) == normalize_words(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("हिन्दी", "हन्द"), ("good film", "goodfilm"), ("1.5", "15"), (":-)", ":-("), ("東京", "京都")],
)
def test_different_texts_stay_different(first: str, second: str) -> None:
    assert dedup_key({"text": first}) != dedup_key({"text": second})


@given(st.text(max_size=60))
def test_normalization_is_idempotent(text: str) -> None:
    assert normalize_words(normalize_words(text)) == normalize_words(text)


def test_shingles_are_word_3_grams() -> None:
    assert word_shingles("a b c d") == {"a b c", "b c d"}
    assert word_shingles("a b") == {"a b"}


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.95, 1.0])
def test_every_valid_threshold_works(threshold: float) -> None:
    line = " ".join(f"w{i}" for i in range(30))
    texts = {"train": [line, f"{line} more", "w0 w1 w2 w3"], "test": [f"again {line}", line]}
    matches = dict(
        duplicates.find_near_duplicates(texts, [("train", "test")], threshold)["train", "test"]
    )
    assert (1 in matches) == (threshold < 0.96)
    assert 0 not in matches
