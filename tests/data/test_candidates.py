"""Roles of columns: texts, pairs, labels, names of values, splits, ids and groups."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from prooftune.data.init import candidates
from prooftune.data.init.candidates import Column
from prooftune.data.init.input_columns import input_columns
from prooftune.data.init.predictability import predictability

TOPICS = ("refund", "delivery", "login")
ROWS = 90


def topic(row: int) -> str:
    return TOPICS[row % 3]


def sentence(row: int) -> str:
    words = {
        "refund": "please send my money back",
        "delivery": "the parcel has not arrived yet",
        "login": "my password does not work anymore",
    }
    return f"{words[topic(row)]} since day {row}"


def noise(*values: str) -> Callable[[int], str]:
    """The same values in an order that has nothing to do with the text."""
    drawn = random.Random(len(values)).choices(values, k=ROWS)
    return lambda row: drawn[row]


def table(**columns: Callable[[int], str]) -> list[Column]:
    return [
        Column(i, name, [cell(row) for row in range(ROWS)])
        for i, (name, cell) in enumerate(columns.items())
    ]


def roles(columns: list[Column]) -> tuple[list[str], list[str]]:
    """Names of the input columns, and of the label candidates, best first."""
    inputs = input_columns(candidates.text_candidates(columns), columns)
    labels = candidates.label_candidates(columns, inputs)
    return [c.name for c in inputs], [c.column.name for c in labels]


@pytest.mark.parametrize("name", ["topic", "Ticket Type", "issueCategory", "x1", "outcome"])
@pytest.mark.parametrize(
    ("other", "values"),
    [
        ("Customer Gender", ("Female", "Male")),
        ("is_test", ("0", "1")),
        ("channel", ("web", "app")),
        ("country", ("KE", "TZ", "UG")),
        ("Satisfaction", ("1", "2", "3", "4", "5")),
        ("batch", ("a", "b")),
    ],
)
def test_the_label_is_what_the_text_predicts_not_metadata(
    name: str, other: str, values: tuple[str, ...]
) -> None:
    cells: dict[str, Callable[[int], str]] = {
        other: noise(*values),
        "id": str,
        "text": sentence,
        name: topic,
    }
    columns = table(**cells)
    inputs, labels = roles(columns)
    assert inputs == ["text"] and labels[0] == name


def test_a_name_decides_where_the_text_predicts_nothing() -> None:
    columns = table(
        gender=noise("f", "m"), text=lambda row: f"number {row} came", intent=noise("x", "y", "z")
    )
    assert roles(columns) == (["text"], ["intent", "gender"])


@pytest.mark.parametrize("stars", ["overall", "stars", "star_rating", "Score"])
@pytest.mark.parametrize("other", ["asin", "useful", "product_isbn", "helpful_votes"])
def test_the_stars_of_a_review_win_over_its_product(stars: str, other: str) -> None:
    # The text tells the product exactly, and the stars in part, as in reviews.
    partly = noise("0", "0", "1")
    columns = table(
        **{
            "reviewText": sentence,
            other: topic,
            stars: lambda row: str(1 + row % 3 if partly(row) == "0" else 5),
        }
    )
    assert roles(columns)[1] == [stars, other]


@pytest.mark.parametrize(
    "pair",
    [
        ("premise", "hypothesis"),
        ("sentence1", "sentence2"),
        ("question1", "question2"),
        ("text_a", "text_b"),
        ("claim", "evidence"),
    ],
)
def test_sentence_pairs_are_used_together(pair: tuple[str, str]) -> None:
    first, second = pair
    columns = table(**{first: sentence, second: lambda row: f"short {row}", "label": topic})
    assert roles(columns)[0] == [first, second]


def test_a_title_is_read_with_its_body_in_this_order() -> None:
    columns = table(body=sentence, label=topic, title=lambda row: f"ticket {row}")
    assert roles(columns)[0] == ["title", "body"]


def test_names_of_numbers_come_from_the_column_that_holds_them() -> None:
    columns = table(text=sentence, label=lambda row: str(row % 3), label_text=topic)
    result = candidates.names_of_values(columns[1], columns)
    assert result is columns[2]
    columns = table(text=sentence, label=lambda row: str(row % 3), other=noise("a", "b", "c"))
    assert candidates.names_of_values(columns[1], columns) is None


def test_columns_of_links_dates_numbers_and_json_are_no_texts() -> None:
    columns = table(
        url=lambda row: f"https://example.org/a-very-long-address/{row}",
        created=lambda row: f"2024-01-{row % 28 + 1:02} 10:00",
        score=lambda row: f"{row / 7:.3f}",
        meta=lambda row: f'{{"user": {row}, "a long description": "of something"}}',
        text=sentence,
        label=topic,
    )
    texts = [c.column.name for c in candidates.text_candidates(columns)]
    assert texts[0] == "text" and not {"url", "created", "score", "meta"} & {*texts}


def test_a_column_of_empty_cells_loses() -> None:
    columns = table(
        text=sentence,
        kind=topic,
        flag=lambda row: "urgent" if row < 50 else "",
    )
    assert roles(columns)[1][0] == "kind"


def test_split_id_and_group_columns_are_recognised() -> None:
    columns = table(
        text=sentence,
        label=topic,
        split=noise("train", "test"),
        uid=str,
        author=lambda row: f"author {row // 5}",
    )
    split = candidates.split_column(columns)
    identifier, group = candidates.id_column(columns), candidates.group_column(columns)
    assert split and split.name == "split"
    assert identifier and identifier.name == "uid"
    assert group and group.name == "author"


def test_predictability_is_near_one_for_topics_and_near_zero_for_noise() -> None:
    texts = [sentence(row) for row in range(ROWS)]
    assert (predictability(texts, [topic(r) for r in range(ROWS)]) or 0) > 0.9
    result = predictability(texts, [noise("a", "b")(r) for r in range(ROWS)])
    assert result is not None and result < 0.4
    assert predictability(texts[:5], ["a", "b", "a", "b", "a"]) is None
