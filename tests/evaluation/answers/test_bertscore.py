"""BERTScore against a slow version with plain loops, and against its authors' own matching where
that is installed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from prooftune.errors import Failure, UsageError
from prooftune.evaluation.answers import bertscore as module
from prooftune.evaluation.answers.bertscore import BertScores, bertscore, default_model, encoder
from prooftune.models import embeddings

_TEXT = "the a cat dog sat slept was sleeping on mat rug bank raised rates were by no one knows . ,"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_TEXT.split(), "x", "##x"]
PREDICTIONS = ["the cat sat on the mat", "rates were raised", "no one knows .", "a dog"]
REFERENCES = [
    ["a cat was sleeping on a rug"],
    ["the bank raised rates", "rates were raised by the bank ."],
    ["no one knows ."],
    ["cat"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with layers that differ clearly from each other."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    place = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=16,
    ).save_pretrained(place)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(PIECES),
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=16,
            initializer_range=0.3,
        )
    ).save_pretrained(place)
    return place


def slow(folder: Path, prediction: str, reference: str, layer: int) -> tuple[float, float, float]:
    """Equations 1 to 3 of the paper, one text at a time, with a loop for every maximum."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModel.from_pretrained(folder).eval(),
    )
    both = []
    for text in (prediction, reference):
        with torch.no_grad():
            hidden = (
                model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
                .hidden_states[layer][0]
                .double()
            )
        both.append([v / v.norm() for v in hidden])

    def mean_of_best(of: list[torch.Tensor], among: list[torch.Tensor]) -> float:
        # The first and the last token are special: found, but not looked for.
        return float(np.mean([max(float(v @ w) for w in among) for v in of[1:-1]]))

    precision, recall = mean_of_best(both[0], both[1]), mean_of_best(both[1], both[0])
    return precision, recall, 2 * precision * recall / (precision + recall)


def table(scores: BertScores) -> np.ndarray:
    return np.stack([scores.precision, scores.recall, scores.f1], axis=1)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_equals_the_slow_version_in_every_layer(folder: Path, layer: int) -> None:
    got = bertscore(PREDICTIONS, REFERENCES, str(folder), layer)
    expected = [
        np.max([slow(folder, p, r, layer) for r in several], axis=0)
        for p, several in zip(PREDICTIONS, REFERENCES, strict=True)
    ]
    np.testing.assert_allclose(table(got), expected, atol=1e-5)
    assert f"tiny-bert|layer:{layer} of 3|" in got.signature


def test_layers_differ_and_the_last_is_the_default(folder: Path) -> None:
    each = [bertscore(PREDICTIONS, REFERENCES, str(folder), layer).f1 for layer in (0, 1, 2, 3)]
    assert all(np.abs(each[i] - each[i + 1]).max() > 1e-3 for i in range(3))
    default = bertscore(PREDICTIONS, REFERENCES, str(folder))
    np.testing.assert_array_equal(default.f1, each[3])
    assert "layer:3 of 3" in default.signature


def test_a_model_that_the_authors_tuned_is_read_at_their_layer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.TUNED_LAYERS, "tiny-bert", 2)
    assert "layer:2 of 3" in bertscore(["a cat"], [["a dog"]], str(folder)).signature


def test_equals_the_authors_matching(folder: Path) -> None:
    utils = pytest.importorskip("bert_score.utils")
    loaded = encoder(folder, 3)
    ids, _ = module.tokenize_texts(loaded, ["the cat sat", "a cat was sleeping on the rug"])
    with torch.inference_mode():
        first, second = module.embed_texts(loaded, ids, 4096).values()
    arguments = []
    for one in (second, first):  # references come first there
        arguments += [
            one.vectors[None].clone(),
            torch.ones(1, len(one.vectors)),
            one.counts[None].float(),
        ]
    expected = [value.item() for value in utils.greedy_cos_idf(*arguments)]
    assert module.match(first, second) == pytest.approx(expected, abs=1e-6)


def test_equals_the_authors_package_from_end_to_end(folder: Path) -> None:
    package = pytest.importorskip("bert_score")
    scorer = package.BERTScorer(str(folder), num_layers=2)
    expected = torch.stack(scorer.score(PREDICTIONS, REFERENCES), dim=1)
    np.testing.assert_allclose(
        table(bertscore(PREDICTIONS, REFERENCES, str(folder), 2)), expected, atol=1e-5
    )


def test_batches_and_chunks_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table(bertscore(PREDICTIONS, REFERENCES, str(folder)))
    np.testing.assert_allclose(
        table(bertscore(PREDICTIONS, REFERENCES, str(folder), batch_tokens=1)), whole, atol=1e-5
    )
    monkeypatch.setattr(module, "HELD_TOKENS", 10)
    np.testing.assert_allclose(
        table(bertscore(PREDICTIONS, REFERENCES, str(folder))), whole, atol=1e-5
    )


def test_swapping_the_texts_swaps_precision_and_recall(folder: Path) -> None:
    there, back = (
        bertscore([a], [[b]], str(folder))
        for a, b in (("the cat sat", "a dog slept"), ("a dog slept", "the cat sat"))
    )
    assert there.precision == pytest.approx(back.recall) and there.recall == pytest.approx(
        back.precision
    )
    assert there.f1 == pytest.approx(back.f1)


def test_equal_texts_empty_texts_and_no_references(folder: Path) -> None:
    got = bertscore(
        ["the cat", "", "a dog", "a dog", " "],
        [["the  cat"], ["a dog"], [""], [], [""]],
        str(folder),
    )
    assert got.f1[0] == pytest.approx(1)
    assert table(got)[[1, 2, 4]].tolist() == [[0, 0, 0]] * 3
    assert np.isnan(table(got)[3]).all()
    assert np.isnan(bertscore(["x"], [[]], str(folder)).f1).all()


def test_long_texts_are_cut_and_counted(folder: Path) -> None:
    long = " ".join(["cat"] * 40)
    got = bertscore([long, "cat", "a dog"], [["cat dog"], [long + " dog"], ["a dog"]], str(folder))
    assert got.shortened == 2
    np.testing.assert_allclose(
        got.f1[0], bertscore([" ".join(["cat"] * 14)], [["cat dog"]], str(folder)).f1[0], atol=1e-5
    )
    assert got.f1[2] == pytest.approx(1)


def test_a_byte_level_model_sees_the_first_word_as_it_sees_others(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    vocabulary = {
        piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", "c", "Ġ", "Ġc"])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    )
    fast.save_pretrained(tmp_path)
    RobertaModel(
        RobertaConfig(
            vocab_size=7,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            pad_token_id=1,
            max_position_embeddings=12,
        )
    ).save_pretrained(tmp_path)
    loaded = encoder(tmp_path)
    assert module.tokenize_texts(loaded, ["c c"])[0] == {"c c": [0, 6, 6, 2]}
    assert loaded.limit == 10, "positions 0 and 1 are not for tokens"
    assert bertscore(["c " * 30], [["c"]], str(tmp_path)).shortened == 1


def test_what_cannot_be_done_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="layers 0 to 3, not 4"):
        bertscore(["x"], [["x"]], str(folder), 4)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Failure, match="could not be loaded"):
        bertscore(["x"], [["x"]], str(tmp_path))


def test_without_a_hub_the_packaged_model_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolve(name: str, revision: str | None = None) -> Path:
        asked.append(name)
        if deliver:
            return Path()
        raise Failure("the hub could not deliver it")

    monkeypatch.setattr(embeddings, "resolve", resolve)
    deliver = False
    assert default_model() == embeddings.DEFAULT_EMBEDDING
    deliver = True
    assert default_model() == "roberta-large"
    assert asked == ["FacebookAI/roberta-large"] * 2
