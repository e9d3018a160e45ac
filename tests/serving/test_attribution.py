"""What words do, on a decision whose parts are known."""

from __future__ import annotations

import math

import pytest

from prooftune.serving.attribution import leave_one_out, log_prob_changes, split_pieces


@pytest.mark.parametrize(
    "text", ["one", "", "  ", " a  b\n\nc ", "数据 kept 多久?", "x" * 9000, "\x00 \ud7ff 🎉 a"]
)
def test_pieces_give_the_text_back(text: str) -> None:
    [(name, parts)] = split_pieces({"text": text})
    assert name == "text"
    assert "".join(parts) == (text if text.strip() else "")


def test_scripts_without_spaces_are_taken_apart_by_the_letter() -> None:
    assert split_pieces({"text": "数据 kept多"}) == [("text", ["数", "据 ", "kept", "多"])]


def test_long_texts_are_cut_into_runs_of_words() -> None:
    [(_, parts)] = split_pieces({"text": " ".join(f"w{i}" for i in range(200))}, max_pieces=64)
    assert len(parts) == 50 and parts[0] == "w0 w1 w2 w3 "


def test_a_row_leaves_out_one_piece_of_one_field() -> None:
    rows = leave_one_out([("head", ["a ", "b"]), ("body", ["c"])])
    assert [(row["head"], row["body"]) for row in rows] == [
        ("a b", "c"),
        ("b", "c"),
        ("a ", "c"),
        ("a b", ""),
    ]


def test_changes_are_those_of_a_decision_that_adds_up_words() -> None:
    weights = {"good": 2.0, "bad": -1.0, "the": 0.0}
    cut = split_pieces({"text": "the good bad"})

    def decide(text: str) -> dict[str, float]:
        share = 1 / (1 + math.exp(-sum(weights[word] for word in text.split())))
        return {"yes": share, "no": 1 - share}

    changes = log_prob_changes([decide(row["text"]) for row in leave_one_out(cut)], "yes")
    whole = math.log(decide("the good bad")["yes"])
    assert changes == pytest.approx(
        [
            0.0,
            whole - math.log(decide("the bad")["yes"]),
            whole - math.log(decide("the good")["yes"]),
        ]
    )
    assert changes[1] > 0 > changes[2]
