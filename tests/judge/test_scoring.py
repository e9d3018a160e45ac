"""Scores and preferences through a judge whose every word is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st

from prooftune.errors import Failure, UsageError
from prooftune.judge import JudgeItem, Message, compare, judge, summarize_preferences
from prooftune.judge import client as client
from prooftune.judge.scoring import sample_indices
from prooftune.recipe.judge import CRITERIA
from prooftune.recipe.judge import Judge as Settings

LOCAL = Settings(model="local", rows=None)


class Local:
    """A local model that says what a function of the last message says, and counts what it is
    asked."""

    def __init__(self, say: Callable[[str], str]) -> None:
        self.say = say
        self.batches: list[int] = []

    def __call__(self, prompts: list[list[Message]], /) -> list[str]:
        self.batches.append(len(prompts))
        return [self.say(messages[-1]["content"]) for messages in prompts]


def answers(words: Sequence[str]) -> list[JudgeItem]:
    return [JudgeItem(f"q{i}", f"Question {i}?", word, ("gold",)) for i, word in enumerate(words)]


def shown(prompt: str, name: str) -> str:
    return prompt.split(f"<{name}>\n")[1].split(f"\n</{name}>")[0]


def prefers(better: Callable[[str, str], str]) -> Callable[[str], str]:
    return lambda prompt: json.dumps(
        {"winner": better(shown(prompt, "answer_a"), shown(prompt, "answer_b"))}
    )


def longer(a: str, b: str) -> str:
    return "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B"


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def test_every_criterion_has_its_own_request_in_order(folder: Path) -> None:
    places = {f"Criterion: {name}.": str(i) for i, name in enumerate(CRITERIA, start=1)}
    local = Local(
        lambda prompt: next(position for words, position in places.items() if words in prompt)
    )
    got = judge(answers(["x", "y"]), LOCAL, folder, local)
    assert [(j.id, j.criterion, j.score) for j in got.judgements] == [
        (id_, name, i + 1) for id_ in ("q0", "q1") for i, name in enumerate(CRITERIA)
    ]
    assert (got.rows, got.total, got.num_requests) == (2, 2, 6)


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        (None, None),
        (("Paris", "the city of Paris"), "Paris\nthe city of Paris"),
        ((), "(the question has no answer, and a right answer says so)"),
    ],
)
def test_prompt_contains_question_answer_reference_and_context(
    folder: Path, references: tuple[str, ...] | None, expected: str | None
) -> None:
    seen: list[str] = []
    local = Local(lambda prompt: seen.append(prompt) or "4")  # type: ignore[func-returns-value]
    judge([JudgeItem("1", "Where {x}?", "", references, "A <context> %s")], LOCAL, folder, local)
    assert shown(seen[0], "question") == "Where {x}?"
    assert shown(seen[0], "answer") == "(no answer was given)"
    assert shown(seen[0], "context") == "A <context> %s"
    assert ("<reference_answer>" in seen[0]) == (expected is not None)
    if expected:
        assert shown(seen[0], "reference_answer") == expected


def test_custom_criteria_and_scale(folder: Path) -> None:
    settings = Settings(model="m", criteria={"politeness": "Is it polite?"}, scale=(0, 10))
    local = Local(
        lambda prompt: (
            '{"score": 10}' if "Is it polite?" in prompt and "from 0 to 10" in prompt else "?"
        )
    )
    assert [j.score for j in judge(answers(["x"]), settings, folder, local).judgements] == [10]


def test_lone_surrogates_do_not_stop_a_run(folder: Path) -> None:
    got = judge(
        [JudgeItem("1", "\ud83d?", "x\udc00")], LOCAL, folder, Local(lambda prompt: '{"score": 2}')
    )
    assert {j.score for j in got.judgements} == {2}


def test_local_model_gets_batches_and_a_kill_loses_only_one(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(client, "LOCAL_BATCH", 4)
    items = answers([str(i) for i in range(10)])
    settings = Settings(model="local", criteria={"c": "?"})

    class Killed(Local):
        def __call__(self, prompts: list[list[Message]], /) -> list[str]:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().__call__(prompts)

    with pytest.raises(KeyboardInterrupt):
        judge(items, settings, folder, Killed(lambda prompt: "3"))
    local = Local(lambda prompt: "3")
    got = judge(items, settings, folder, local)
    assert local.batches == [2] and got.num_requests == 2
    assert [j.score for j in got.judgements] == [3] * 10


def test_local_model_with_missing_replies_is_a_failure(folder: Path) -> None:
    with pytest.raises(Failure, match="returned 0 replies to 3 prompts"):
        judge(answers(["x"]), LOCAL, folder, lambda prompts: [])


def test_missing_judge_and_duplicate_ids_are_errors(folder: Path) -> None:
    with pytest.raises(UsageError, match="base_url"):
        judge(answers(["x"]), LOCAL, folder)
    with pytest.raises(UsageError, match="duplicate id 'a'"):
        judge(
            [JudgeItem("a", "?", "x"), JudgeItem("a", "?", "y")],
            LOCAL,
            folder,
            Local(lambda prompt: "4"),
        )
    with pytest.raises(UsageError, match="same questions"):
        compare(answers(["x", "y"]), answers(["x"]), LOCAL, folder, Local(lambda prompt: "A"))


def test_row_sample_is_seeded_and_equal_for_all_variants(folder: Path) -> None:
    settings = Settings(model="m", criteria={"c": "?"}, rows=7)
    local = Local(lambda prompt: "4")
    ids = [
        [j.id for j in judge(answers([word] * 50), settings, folder, local, seed=seed).judgements]
        for word, seed in (("x", 1), ("y", 1), ("x", 2))
    ]
    assert ids[0] == ids[1] != ids[2]
    assert len(set(ids[0])) == 7
    assert sample_indices(3, 7, 0) == sample_indices(3, None, 0) == [0, 1, 2]


def test_preferred_answer_wins_in_both_orders(folder: Path) -> None:
    first, second = (
        answers(["long one", "x", "same", "abc"]),
        answers(["short", "longer", "same", "xyz"]),
    )
    got = compare(first, second, LOCAL, folder, Local(prefers(longer)))
    assert [p.winner for p in got.preferences] == ["first", "second", "tie", "tie"]
    assert got.num_requests == 6, "equal answers are not asked about"
    figures = summarize_preferences(got, resamples=100)
    assert (
        figures["wins"],
        figures["losses"],
        figures["ties"],
        figures["asked_twice"],
        figures["consistent"],
    ) == (1, 1, 2, 3, 1.0)


@pytest.mark.parametrize("position", ["A", "B"])
def test_position_bias_yields_only_ties(folder: Path, position: str) -> None:
    words = [f"answer {i}" for i in range(8)]
    got = compare(
        answers(words), answers(words[::-1]), LOCAL, folder, Local(prefers(lambda a, b: position))
    )
    assert {p.winner for p in got.preferences} == {"tie"}
    figures = summarize_preferences(got, resamples=100)
    assert figures["consistent"] == 0
    assert (figures["first_place"], figures["second_place"]) == (
        (16, 0) if position == "A" else (0, 16)
    )
    assert (figures["wins"], figures["losses"], figures["p"]) == (0, 0, 1.0)


def test_comparison_with_an_unparsable_reply_fails(folder: Path) -> None:
    first, second = answers(["good", "good"]), answers(["bad", "awful"])
    local = Local(prefers(lambda a, b: "?" if a == "awful" else "A" if a == "good" else "B"))
    got = compare(first, second, LOCAL, folder, local)
    assert [p.winner for p in got.preferences] == ["first", None]
    figures = summarize_preferences(got, resamples=100)
    assert (figures["n"], figures["failed"], figures["reasons"]) == (
        1,
        1,
        {"no preference in the reply": 1},
    )


_verdicts = st.sampled_from(["A", "B", "tie", "?"])


@pytest.mark.slow
@options(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.text("xy", max_size=3), st.text("xy", max_size=3)), min_size=1, max_size=6
    ),
    st.data(),
)
def test_swapping_the_variants_flips_the_preference(
    pairs: list[tuple[str, str]], data: st.DataObject
) -> None:
    verdicts: dict[str, str] = {}

    def say(prompt: str) -> str:
        if prompt not in verdicts:
            verdicts[prompt] = data.draw(_verdicts)
        return json.dumps({"winner": verdicts[prompt]})

    first, second = answers([a for a, _ in pairs]), answers([b for _, b in pairs])
    with TemporaryDirectory() as name:
        first_run = compare(first, second, LOCAL, Path(name), Local(say))
        two = compare(second, first, LOCAL, Path(name), Local(say))
    assert two.num_requests == 0
    flip = {"first": "second", "second": "first", "tie": "tie", None: None}
    assert [flip[p.winner] for p in first_run.preferences] == [p.winner for p in two.preferences]
    a, b = (summarize_preferences(p, resamples=100) for p in (first_run, two))
    assert (a["wins"], a["losses"], a["p"], a["failed"]) == (
        b["losses"],
        b["wins"],
        b["p"],
        b["failed"],
    )
    assert (a["net"] is None) == (a["n"] == 0) and (
        a["net"] is None or a["net"] == pytest.approx(-(b["net"] or 0))
    )
