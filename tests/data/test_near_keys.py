"""Near-copies of short texts that a link, a mention or an accent would hide."""

import random

import pytest

from prooftune.data.audit import duplicates, lsh
from prooftune.data.audit.duplicates import find_near_duplicates
from prooftune.data.audit.lsh import jaccard
from prooftune.data.normalization import character_shingles, example_dedup_key, near_key
from prooftune.types import Example

PAIR = [("train", "test")]
TEXT = "Oil prices climb as storm closes in on the Gulf"


def example(text: str) -> Example:
    return Example("e", {"text": text}, "a")


@pytest.mark.parametrize(
    "copy",
    [
        f"{TEXT} https://t.co/Ab3dE",
        f"RT @news_24: {TEXT}",
        f"@bob {TEXT.upper()}!!! www.example.org/x?y=1",
        TEXT.replace("climb", "clímb"),
    ],
)
def test_decorated_copies_have_the_key_of_the_original(copy: str) -> None:
    assert near_key(example(copy)) == near_key(example(TEXT))
    assert example_dedup_key(example(copy)) != example_dedup_key(example(TEXT))


def test_a_text_of_links_is_compared_as_it_is() -> None:
    assert near_key(example("https://t.co/a1")) != near_key(example("https://t.co/b2"))


def test_marks_that_are_vowels_stay() -> None:
    assert near_key(example("कि")) != near_key(example("का"))


def test_addresses_are_no_mentions() -> None:
    assert "example" in near_key(example("write to me@example.org"))


def test_decorated_copies_are_near_and_exact_ones_are_not() -> None:
    train = [example(f"RT @bob: {TEXT}"), example(TEXT), example("nothing of the kind at all")]
    test = [example(TEXT)]
    splits = {"train": train, "test": test}
    keys = {name: [near_key(e) for e in part] for name, part in splits.items()}
    exact = {name: [example_dedup_key(e) for e in part] for name, part in splits.items()}
    matches = find_near_duplicates(keys, [("train", "test")], 0.9, exact)
    assert matches["train", "test"] == [(0, 0)]


@pytest.mark.parametrize(
    ("text", "copy", "other"),
    [
        (
            "酒店的早餐种类很多,房间也很干净,下次还会再来",
            "酒店的早餐种类很多，房间也非常干净，下次还会再来！",
            "前台服务态度很差，等了一个小时才办好入住手续",
        ),
        (
            "この電気ケトルはお湯がすぐに沸くのでとても気に入っています",
            "この電気ケトルはお湯がすぐ沸くので、とても気に入っています。",
            "三日で壊れてしまったので返品しましたが返金はまだです",
        ),
    ],
)
def test_near_copies_in_scripts_without_spaces(text: str, copy: str, other: str) -> None:
    keys = {"train": [near_key(example(copy)), near_key(example(other))]}
    keys["test"] = [near_key(example(text))]
    matches = find_near_duplicates(keys, [("train", "test")], 0.6, keys)
    assert matches["train", "test"] == [(0, 0)]


WORDS = [f"{first}{last}" for first in ("oil", "rain", "team", "bank") for last in "abcdefghij"]


@pytest.mark.parametrize("length", [8, 14, 15, 16, 29, 30, 31, 45])
@pytest.mark.parametrize("change", ["typo", "added"])
def test_copies_with_a_small_change_are_near_at_every_length(length: int, change: str) -> None:
    words = (WORDS + [f"new{w}" for w in WORDS])[:length]
    copied = (
        [*words[:4], "extra", *words[4:]] if change == "added" else [words[0] + "s", *words[1:]]
    )
    train = [" ".join(copied), "nothing of the kind at all"]
    matches = find_near_duplicates({"train": train, "test": [" ".join(words)]}, PAIR, 0.7)
    assert matches["train", "test"] == [(0, 0)]


def test_short_texts_match_brute_force() -> None:
    generator = random.Random(3)
    test = [" ".join(generator.choices(WORDS, k=generator.randint(3, 12))) for _ in range(150)]
    train = []
    for text in test:
        words = text.split()
        for _ in range(generator.choice([0, 1, 2])):
            words[generator.randrange(len(words))] = generator.choice(WORDS)
        train.append(" ".join(words))
    matches = find_near_duplicates({"train": train, "test": test}, PAIR, 0.7)["train", "test"]
    sets = [[character_shingles(t) for t in texts] for texts in (train, test)]
    naive = {}
    for i, one in enumerate(sets[0]):
        best = max((jaccard(one, other), -j) for j, other in enumerate(sets[1]))
        if best[0] >= 0.7 and train[i] not in test:
            naive[i] = -best[1]
    assert set(matches) <= set(naive.items())
    assert len(matches) >= 0.95 * len(naive)
    assert len(naive) >= 20


def test_rows_made_from_one_template_are_one_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsh, "MAX_BUCKET", 5)
    compared = []

    def counted(first: frozenset[str], second: frozenset[str]) -> float:
        compared.append(first)
        return jaccard(first, second)

    monkeypatch.setattr(duplicates, "jaccard", counted)
    texts = [f"please wake me tomorrow morning at {n}" for n in range(300)]
    assert len(set(duplicates.duplicate_clusters(texts, 0.6))) == 1
    assert len(compared) < 300 * 20
