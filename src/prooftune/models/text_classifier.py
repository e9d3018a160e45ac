"""Classifiers of texts without a language model: class frequencies, and logistic regression on
TF-IDF features or on sentence embeddings.

They are stored as safetensors and JSON, never as pickles, and predict with the same scikit-learn
objects before and after saving. This module imports no PyTorch unless texts are embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, Protocol, TypedDict

import numpy as np

from prooftune.errors import Failure, UsageError
from prooftune.models.one_vs_rest import (
    MIN_PROBABILITY,
    Floats,
    OneVsRest,
    label_set_predictions,
)
from prooftune.types import Example, Prediction
from prooftune.utils.files import read_json, write_json
from prooftune.utils.label_sets import chosen_labels
from prooftune.utils.progress import Subtask

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

FeatureKind = Literal["none", "tfidf", "embedding"]

WEIGHTS_FILE = "classifier.safetensors"
VOCABULARY_FILE = "vocabulary.json"
SECTION_FILE = "classifier.json"
"""A variant's folder has the `ClassifierSection` here; a bundle has it in its manifest."""

EMBEDDING_BATCH_TOKENS = 1024
"""Faster than larger batches on CPUs, where short texts fit into the caches."""


class EmbeddingSection(TypedDict):
    """The embedding model that computes a classifier's features.

    Attributes:
        name: as in the recipe: an alias, a hub name or a folder.
        sha256: digest of its weights.
        prompt: put before every text.
    """

    name: str
    sha256: str
    prompt: str


class ClassifierSection(TypedDict):
    """What a classifier is, apart from its weights.

    Attributes:
        features: kind of features computed from a text.
        classes: labels of the training rows, in the order of the weights.
        embedding: the embedding model; None for other features.
        several: whether each class has an independent probability (``task: multilabel``).
    """

    several: NotRequired[bool]
    features: FeatureKind
    classes: list[str]
    embedding: EmbeddingSection | None


class Features(Protocol):
    """Computes a row of numbers from each text."""

    def transform(self, texts: Sequence[str], description: str | Subtask | None) -> object:
        """Features [texts, columns], dense or sparse."""


@dataclass(frozen=True, slots=True)
class TfidfFeatures:
    """TF-IDF of words and word pairs.

    Attributes:
        vectorizer: the fitted vectorizer, or one with a stored vocabulary.
    """

    vectorizer: TfidfVectorizer

    def transform(self, texts: Sequence[str], description: str | Subtask | None) -> object:
        """Sparse features [texts, terms]."""
        return self.vectorizer.transform(texts)


@dataclass(frozen=True, slots=True)
class EmbeddingFeatures:
    """Sentence embeddings of a frozen model.

    Attributes:
        name: the model's name in the recipe.
        folder: its local folder.
        prompt: put before every text.
    """

    name: str
    folder: Path
    prompt: str = ""

    def transform(self, texts: Sequence[str], description: str | Subtask | None) -> object:
        """Unit vectors [texts, dimensions]."""
        from prooftune.models import embeddings

        label = description if isinstance(description, str) else None
        return embeddings.embed(
            list(texts), self.folder, EMBEDDING_BATCH_TOKENS, label, prompt=self.prompt
        )


@dataclass(frozen=True, slots=True)
class TextClassifier:
    """A fitted classifier.

    Attributes:
        features: what the model computes from texts; None where it ignores them.
        model: logistic regression over `features`; None where texts are ignored.
        priors: log-probability of each of `classes` where texts are ignored.
        classes: labels of the training rows.
        several: labels have independent probabilities, and a text any number of labels.
    """

    features: TfidfFeatures | EmbeddingFeatures | None
    model: LogisticRegression | OneVsRest | None
    priors: Floats
    classes: list[str]
    several: bool = False

    def predict(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        description: str | Subtask | None = None,
    ) -> list[Prediction]:
        """Log-probabilities of all labels for every example.

        Args:
            examples: their targets are not used.
            labels: the study's labels; those without training rows get a probability near zero.
            description: text of the progress bar, where computing the features takes long.
        """
        if not examples:
            return []
        if self.features is None or self.model is None:
            log_probs = tuple(self.priors.tolist())
            if self.several:
                output = chosen_labels(log_probs, self.classes)
                return [Prediction(example.id, output, True, log_probs) for example in examples]
            label = self.classes[int(np.argmax(self.priors))]
            return [Prediction(example.id, label, True, log_probs) for example in examples]
        features = self.features.transform(joined_texts(examples), description)
        if isinstance(self.model, OneVsRest):
            return label_set_predictions(self.model, features, examples, labels)
        return class_predictions(self.model, features, examples, labels)

    def section(self) -> ClassifierSection:
        """The description that is stored beside the weights."""
        section: ClassifierSection = {
            "features": "none" if self.features is None else "tfidf",
            "classes": self.classes,
            "embedding": None,
        }
        if isinstance(self.features, EmbeddingFeatures):
            section["features"] = "embedding"
            section["embedding"] = {
                "name": self.features.name,
                "sha256": _weights_digest(self.features.folder),
                "prompt": self.features.prompt,
            }
        # Left out for one label, so that such bundles are the same files as before.
        if self.several:
            section["several"] = True
        return section

    def save(self, folder: Path) -> None:
        """Write the weights, the vocabulary and the section into a folder."""
        from safetensors.numpy import save_file

        tensors: dict[str, Floats] = {}
        if self.model is None:
            tensors["intercept"] = self.priors
        else:
            # float64, as scikit-learn fits them: a loaded classifier predicts the same to the last
            # bit.
            tensors["coefficients"] = np.ascontiguousarray(self.model.coef_, np.float64)
            tensors["intercept"] = np.ascontiguousarray(self.model.intercept_, np.float64)
        if isinstance(self.features, TfidfFeatures):
            tensors["idf"] = np.ascontiguousarray(self.features.vectorizer.idf_, np.float64)
            terms = self.features.vectorizer.get_feature_names_out().tolist()
            # A list: a term's index is its column.
            write_json(folder / VOCABULARY_FILE, terms)
        save_file(tensors, folder / WEIGHTS_FILE)
        write_json(folder / SECTION_FILE, self.section())


def make_vectorizer(vocabulary: Sequence[str] | None = None) -> TfidfVectorizer:
    """The TF-IDF vectorizer of all studies.

    Strong settings for short texts: sublinear term frequency, bigrams, and one-character tokens,
    which scikit-learn's default pattern drops.

    Args:
        vocabulary: terms in the order of their columns; None to fit one.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        ngram_range=(1, 2),
        # 1 + log(count): a word's tenth occurrence says little more than its first.
        sublinear_tf=True,
        token_pattern=r"(?u)\b\w+\b",
        vocabulary=None if vocabulary is None else list(vocabulary),
    )


def joined_texts(examples: Sequence[Example]) -> list[str]:
    """Each example's fields joined by newlines, for methods that use no prompt."""
    return ["\n".join(example.inputs.values()) for example in examples]


def class_predictions(
    model: LogisticRegression, features: object, examples: Sequence[Example], labels: Sequence[str]
) -> list[Prediction]:
    """Predictions of a fitted logistic regression, with log-probabilities of all labels."""
    probabilities = np.full((len(examples), len(labels)), MIN_PROBABILITY)
    # The model knows the labels of its training rows only, in its own order.
    columns = [list(labels).index(str(label)) for label in model.classes_]
    probabilities[:, columns] = np.clip(model.predict_proba(features), MIN_PROBABILITY, 1.0)
    # Clipping may have added a little: the sum is 1 again.
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return [
        Prediction(example.id, labels[int(row.argmax())], True, tuple(np.log(row).tolist()))
        for example, row in zip(examples, probabilities, strict=True)
    ]


def label_set_prior(labels: Sequence[str], chosen: Sequence[str]) -> TextClassifier:
    """A classifier that always predicts one label set; its probabilities are almost 0 and 1."""
    shares = [1 - MIN_PROBABILITY if label in chosen else MIN_PROBABILITY for label in labels]
    return TextClassifier(None, None, np.log(shares), list(labels), several=True)


def load_classifier(folder: Path, section: ClassifierSection) -> TextClassifier:
    """Load a stored classifier.

    Args:
        folder: with the files that `TextClassifier.save` wrote. It is treated as untrusted.
        section: its description, from the manifest.

    Raises:
        UsageError: a file is missing or damaged.
        Failure: the embedding model cannot be loaded, or has other weights than the one that the
            classifier was fitted on.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / WEIGHTS_FILE
    try:
        tensors = {name: value.astype(np.float64) for name, value in load_file(path).items()}
        vocabulary = read_json(folder / VOCABULARY_FILE) if section["features"] == "tfidf" else None
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"{folder} holds no usable classifier: {error}") from None
    # From here on shapes are checked, before scikit-learn computes with strangers' arrays.
    classes = section["classes"]
    intercept = tensors.get("intercept", np.zeros(0))
    several = bool(section.get("several"))
    if section["features"] == "none":
        if intercept.shape != (len(classes),):
            raise UsageError(f"{path} is damaged: {len(classes)} classes, but {intercept.shape}")
        return TextClassifier(None, None, intercept, classes, several)
    coefficients = tensors.get("coefficients", np.zeros((0, 0)))
    # Two classes have one row in scikit-learn, unless their probabilities are independent.
    rows = 1 if len(classes) == 2 and not several else len(classes)
    if coefficients.shape[:1] != (rows,) or intercept.shape != (rows,):
        raise UsageError(f"{path} is damaged: its shapes do not fit {len(classes)} classes")
    width = coefficients.shape[1]
    features: TfidfFeatures | EmbeddingFeatures
    if section["features"] == "tfidf":
        idf = tensors.get("idf", np.zeros(0))
        if not _is_vocabulary(vocabulary, width) or idf.shape != (width,):
            raise UsageError(f"{path} is damaged: its shapes do not fit {VOCABULARY_FILE}")
        vectorizer = make_vectorizer(vocabulary)
        # The setter also makes the transformer that `fit` would have made.
        vectorizer.idf_ = idf
        features = TfidfFeatures(vectorizer)
    else:
        features = _load_embedding(section["embedding"], path)
    model = (
        OneVsRest(coefficients, intercept, classes)
        if several
        else _restore(coefficients, intercept, classes)
    )
    return TextClassifier(features, model, np.zeros(0), classes, several)


def _is_vocabulary(value: object, width: int) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(term, str) for term in value)
        and len(set(value)) == len(value) == width
    )


def _load_embedding(section: EmbeddingSection | None, path: Path) -> EmbeddingFeatures:
    from prooftune.models import embeddings

    if section is None:
        raise UsageError(f"{path} needs an embedding model, and the manifest names none")
    folder = embeddings.resolve(section["name"])
    if _weights_digest(folder) != section["sha256"]:
        raise Failure(
            f"{section['name']} at {folder} has other weights than the embedding model that this "
            f"classifier was fitted on (sha256 {section['sha256'][:16]}…); it would predict "
            "something else"
        )
    return EmbeddingFeatures(section["name"], folder, section["prompt"])


def _weights_digest(folder: Path) -> str:
    from prooftune.models import embeddings

    return embeddings.weights_digest(folder)


def _restore(coefficients: Floats, intercept: Floats, classes: Sequence[str]) -> LogisticRegression:
    """A logistic regression with stored weights, which predicts as the fitted one did."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression()
    # All that `predict_proba` needs of what `fit` would set.
    model.classes_ = np.array(classes)
    model.coef_, model.intercept_ = coefficients, intercept
    model.n_features_in_ = coefficients.shape[1]
    return model
