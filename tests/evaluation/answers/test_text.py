"""Metrics of free text against the reference implementations and hand-worked values; resamples
against a plain loop."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from prooftune.errors import UsageError
from prooftune.evaluation.answers import bleu, overlap, wordnet
from prooftune.evaluation.answers.text import answer_columns, measure, rates, sizes
from prooftune.evaluation.resampling import resample_counts

PREDICTIONS, REFERENCES = [
    list(column)
    for column in zip(
        *[
            (
                "The provider shall keep the technical documentation for 10 years.",
                [
                    "Providers must keep the technical documentation for ten years.",
                    "The documentation is kept for 10 years.",
                ],
            ),
            ("Yes, it is.", ["Yes."]),
            ("", ["Nobody."]),
            (
                "a risk-management system is required",
                [
                    "A risk management system shall be established.",
                    "a risk-management system is required",
                    "One is required.",
                ],
            ),
            (
                "the cat sat on the mat &quot;twice&quot;",
                ['The cat sat on the mat "twice"', "A cat was on the mat"],
            ),
            ("No one knows.", []),
            ("keine Ahnung, 5,000 Euro", ["5,000 Euro"]),
            (
                "It must be drawn up before the system is used.",
                ["It shall be drawn up before the system is put to use."],
            ),
        ],
        strict=True,
    )
]


@pytest.fixture(autouse=True)
def _no_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are the same whether this machine has WordNet or not."""
    monkeypatch.setattr(wordnet, "synonyms", lambda: ("", wordnet.NoSynonyms()))
    monkeypatch.setattr(overlap, "synonyms", lambda: ("", wordnet.NoSynonyms()))


def padded(references: list[list[str]]) -> Any:
    """As sacrebleu takes references that differ in number, against the types that it declares."""
    most = max(len(r) for r in references)
    return [[r[i] if i < len(r) else None for r in references] for i in range(most)]


def test_bleu_equals_the_command_line_of_sacrebleu(tmp_path: Path) -> None:
    predictions, references = (
        PREDICTIONS[:2] + PREDICTIONS[3:5],
        [(r * 2)[:2] for r in REFERENCES[:2] + REFERENCES[3:5]],
    )
    names = []
    for i in range(2):
        names.append(tmp_path / f"references{i}")
        names[-1].write_text("".join(r[i] + "\n" for r in references))
    (tmp_path / "predictions").write_text("".join(p + "\n" for p in predictions))
    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        *map(str, names),
        "-i",
        str(tmp_path / "predictions"),
        "-w",
        "10",
    ]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    columns = answer_columns(predictions, references, text=("bleu",))
    assert measure(columns)["bleu"] == pytest.approx(said["score"], abs=1e-9)
    assert columns.signatures["bleu"] == said["signature"]
    assert 20 < said["score"] < 90, "a score at the edge would not tell"


def test_bleu_of_differing_numbers_of_references_and_of_every_resample_is_sacrebleus() -> None:
    keep = [i for i, r in enumerate(REFERENCES) if r]
    columns = answer_columns(PREDICTIONS, REFERENCES, text=("bleu",))
    exact = BLEU()
    whole = exact.corpus_score(
        [PREDICTIONS[i] for i in keep], padded([REFERENCES[i] for i in keep])
    )
    assert measure(columns)["bleu"] == pytest.approx(whole.score, abs=1e-9)
    assert (
        columns.signatures["bleu"] == str(exact.get_signature())
        and "nrefs:var" in columns.signatures["bleu"]
    )
    counts = resample_counts(len(PREDICTIONS), 60, 3)
    got = rates(counts @ columns.values, columns.names)["bleu"]
    for row, value in zip(counts, got, strict=True):
        drawn = [i for i in np.repeat(np.arange(len(row)), row.astype(int)) if REFERENCES[i]]
        expected = (
            BLEU()
            .corpus_score([PREDICTIONS[i] for i in drawn], padded([REFERENCES[i] for i in drawn]))
            .score
        )
        assert value == pytest.approx(expected, abs=1e-9)
    assert len(set(got.round(6).tolist())) > 30


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 12),
    st.integers(0, 12),
    st.lists(st.integers(0, 12), min_size=4, max_size=4),
    st.booleans(),
)
def test_the_last_step_of_bleu_equals_sacrebleus(
    said: int, wanted: int, drawn: list[int], effective: bool
) -> None:
    total = [max(said - n, 0) for n in range(4)]
    matches = [min(m, t) for m, t in zip(drawn, total, strict=True)]
    expected = BLEU.compute_bleu(
        list(matches), list(total), said, wanted, smooth_method="exp", effective_order=effective
    ).score
    assert bleu.score(
        np.array([said, wanted, *matches, *total], dtype=float), effective
    ) == pytest.approx(expected, abs=1e-9)


def test_rouge_by_hand_for_the_best_reference_with_stems() -> None:
    found, signature = overlap.rouge(
        ["the cats are sleeping", "", "дом"], [["a dog", "the cat slept"], ["x"], ["дом"]]
    )
    # Stems: the cat are sleep / the cat slept. Unigrams 2 of 4 and 2 of 3; the pair "the cat" is 1
    # of 3 and 1 of 2.
    np.testing.assert_allclose(found[0], [2 * 2 / 7, 2 * 1 / 5, 2 * 2 / 7])
    assert found[1].tolist() == [0, 0, 0]
    assert found[2].tolist() == [1, 0, 1], "rouge-score itself knows no letters but a to z"
    assert "use_stemmer:true" in signature


def test_meteor_by_hand_without_synonyms() -> None:
    found, signature = overlap.meteor(
        ["the cat slept", "sleeping cats", "dog", "", "cat the"],
        [["a dog", "the cat slept"], ["cats sleep"], ["cat"], ["cat"], ["the cat"]],
    )
    # Three of three words in one chunk: 1 - 0.5 (1/3)^3. Both words by their stems, in two chunks:
    # 1 - 0.5 (2/2)^3.
    np.testing.assert_allclose(found, [1 - 0.5 / 27, 0.5, 0, 0, 0.5])
    assert signature.endswith("without synonyms")


def mini_wordnet(folder: Path) -> Path:
    """A WordNet in which "auto" and "car" are one synset, in the files' own format (wndb(5WN))."""
    folder.mkdir()
    head = "  1 This is made by hand.\n  2 WordNet 9.9 Copyright nobody.\n"
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"{part}.exc").write_text("")
        (folder / f"index.{part}").write_text(head)
        (folder / f"data.{part}").write_text(head)
    place = f"{len(head):08d}"
    (folder / "data.noun").write_text(head + f"{place} 06 n 02 car 0 auto 0 000 | goes  \n")
    (folder / "index.noun").write_text(
        head + "".join(f"{word} n 1 0 1 0 {place}  \n" for word in ("auto", "car"))
    )
    return folder


def test_meteor_with_wordnets_synonyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("WNSEARCHDIR", str(mini_wordnet(tmp_path / "dict")))
    found, signature = overlap.meteor(
        ["my car stopped", "my van stopped"], [["my auto stopped"]] * 2
    )
    # Three words in one chunk; two of three words in two chunks.
    np.testing.assert_allclose(found, [1 - 0.5 / 27, 2 / 3 * 0.5])
    assert signature.endswith("synonyms:WordNet 9.9")


def test_debians_wordnet_knows_real_synonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (wordnet.DEBIAN / "data.noun").is_file():
        pytest.skip("Debian's wordnet-base is not installed")
    monkeypatch.undo()
    monkeypatch.setenv("WNSEARCHDIR", str(wordnet.DEBIAN))
    found, signature = overlap.meteor(["my car stopped"], [["my auto stopped"]])
    assert found[0] == pytest.approx(1 - 0.5 / 27) and signature.endswith("synonyms:WordNet 3.0")


def test_without_variables_debians_place_is_looked_at_and_nothing_there_means_no_synonyms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise LookupError("no corpora/wordnet")

    monkeypatch.undo()
    for variable in ("WNSEARCHDIR", "WNHOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(wordnet, "_nltks_own", absent)
    monkeypatch.setattr(wordnet, "DEBIAN", tmp_path / "dict")
    wordnet.load_synonyms.cache_clear()
    try:
        assert wordnet.synonyms()[0] == ""
        wordnet.load_synonyms.cache_clear()
        mini_wordnet(tmp_path / "dict")
        name, reader = wordnet.synonyms()
        assert name == "WordNet 9.9" and [
            lemma.name() for lemma in reader.synsets("car")[0].lemmas()
        ] == ["car", "auto"]
    finally:
        wordnet.load_synonyms.cache_clear()


@pytest.mark.parametrize(("variable", "inside"), [("WNSEARCHDIR", ""), ("WNHOME", "dict")])
def test_a_variable_that_leads_nowhere_is_said(
    variable: str, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(
        UsageError, match=rf"{variable} leads to .*{inside}, where WordNet's index.noun is not"
    ):
        wordnet.synonyms()


@pytest.mark.parametrize(
    ("module", "metric"),
    [
        ("sacrebleu.metrics.bleu", "bleu"),
        ("rouge_score.rouge_scorer", "rouge1"),
        ("nltk.tokenize", "meteor"),
    ],
)
def test_a_missing_library_names_the_extra(
    module: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"prooftune\[answers\]"):
        answer_columns(["x"], [["x"]], text=(metric,))


def test_metrics_of_a_small_set_by_hand() -> None:
    predictions, references = (
        ["the cat", "", "x y", "", "one two three"],
        [["cat"], [], [], ["cat"], ["one"]],
    )
    columns = answer_columns(
        predictions,
        references,
        text=("rouge1",),
        bertscore_f1=np.array([0.9, np.nan, np.nan, 0.0, 0.6]),
        bertscore_signature="model:x|layer:1",
    )
    assert columns.values.shape == (5, len(columns.names)) and not np.isnan(columns.values).any()
    assert columns.signatures["bertscore_f1"] == "model:x|layer:1"
    assert measure(columns) == pytest.approx(
        {
            "exact": 2 / 5,
            "f1": 2.5 / 5,
            "has_answer_exact": 1 / 3,
            "has_answer_f1": 1.5 / 3,
            "no_answer_exact": 1 / 2,
            "no_answer_f1": 1 / 2,
            "rouge1": (2 / 3 + 0 + 1 / 2) / 3,
            "bertscore_f1": 0.5,
            "answer_words": 7 / 5,
        }
    )
    found = sizes(columns.values.sum(0), columns.names)
    assert {name: float(value) for name, value in found.items()} == {
        "n": 5,
        "has_answer": 3,
        "no_answer": 2,
    }


def test_every_resample_equals_the_metrics_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    meant = rng.random(len(PREDICTIONS))
    columns = answer_columns(PREDICTIONS, REFERENCES, bertscore_f1=meant)
    counts = resample_counts(len(PREDICTIONS), 25, 1)
    got = rates(counts @ columns.values, columns.names)
    for number, row in enumerate(counts):
        drawn = np.repeat(np.arange(len(row)), row.astype(int)).tolist()
        slow = measure(
            answer_columns(
                [PREDICTIONS[i] for i in drawn],
                [REFERENCES[i] for i in drawn],
                bertscore_f1=meant[drawn],
            )
        )
        assert set(slow) == set(got)
        for name, value in slow.items():
            assert got[name][number] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_what_no_example_counts_for_has_no_figure() -> None:
    got = measure(answer_columns(["", "x"], [[], []]))
    assert (got["exact"], got["no_answer_f1"]) == (0.5, 0.5)
    assert all(
        np.isnan(got[name])
        for name in ("has_answer_f1", "bleu", "rouge1", "rouge2", "rougeL", "meteor")
    )
    with pytest.raises(ValueError, match=r"zip\(\)"):
        answer_columns(["x"], [["x"], ["y"]])
