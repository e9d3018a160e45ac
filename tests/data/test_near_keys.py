"""Near-copies of short texts that a link, a mention or an accent would hide."""

import pytest

from prooftune.data.audit.duplicates import find_near_duplicates
from prooftune.data.normalization import example_dedup_key, near_key
from prooftune.types import Example

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
