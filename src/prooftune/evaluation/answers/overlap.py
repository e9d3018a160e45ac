"""ROUGE and METEOR of free-text answers, for the best of several references, by their reference
implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np

from prooftune.errors import UsageError
from prooftune.evaluation.answers.wordnet import synonyms
from prooftune.evaluation.answers.words import stemmed_words
from prooftune.evaluation.metrics import Floats

ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Floats, str]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measures (Lin 2004) by rouge-score, 0 to 1, [n, 3], and the
    signature.

    Each is of the reference for which it is largest. English words are compared by their Porter
    stems. rouge-score itself knows the letters a to z and digits only, so that a text in another
    script has no words; `stemmed_words` has those of every script, and the same ones in ASCII.

    Args:
        predictions: one text for each example.
        references: at least one text for each example.

    Raises:
        UsageError: rouge-score is not installed.
    """
    try:
        from nltk.stem.porter import PorterStemmer
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UsageError("ROUGE needs rouge-score: pip install 'prooftune[answers]'") from None
    scorer = RougeScorer(ROUGE, tokenizer=_Tokenizer(PorterStemmer().stem))
    scores = np.empty((len(predictions), len(ROUGE)))
    for row, prediction, accepted in zip(scores, predictions, references, strict=True):
        made = scorer.score_multi(list(accepted), prediction)
        row[:] = [made[name].fmeasure for name in ROUGE]
    return scores, (
        f"rouge-score:{version('rouge-score')}|measure:f|use_stemmer:true|tokenizer:unicode words|"
        "references:max"
    )


class _Tokenizer:
    """What rouge-score asks for words."""

    def __init__(self, stem: Callable[[str], str]) -> None:
        self._stem = stem

    def tokenize(self, text: str) -> list[str]:
        return stemmed_words(text, self._stem)


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Floats, str]:
    """METEOR (Lavie and Agarwal 2007) by nltk, 0 to 1, [n], and the signature, which says whether
    synonyms counted.

    Args:
        predictions: one text for each example.
        references: at least one text for each example; the best counts.

    Raises:
        UsageError: nltk is not installed, or ``WNSEARCHDIR`` names a folder without WordNet's
            files.
    """
    try:
        from nltk.tokenize import NLTKWordTokenizer
        from nltk.translate.meteor_score import meteor_score
    except ImportError:
        raise UsageError("METEOR needs nltk: pip install 'prooftune[answers]'") from None
    # `nltk.word_tokenize` splits sentences first, for which it wants to download a model.
    tokenize = NLTKWordTokenizer().tokenize
    source, dictionary = synonyms()
    scores = np.array(
        [
            meteor_score([tokenize(r) for r in accepted], tokenize(prediction), wordnet=dictionary)
            for prediction, accepted in zip(predictions, references, strict=True)
        ],
        dtype=np.float64,
    )
    return scores, (
        f"nltk:{version('nltk')}|alpha:0.9|beta:3.0|gamma:0.5|tok:NLTKWordTokenizer|stem:porter|"
        "references:max|" + (f"synonyms:{source}" if source else "without synonyms")
    )
