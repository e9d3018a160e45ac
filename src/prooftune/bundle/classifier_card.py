"""Code on the model card of a classifier without a language model, to load it without Prooftune."""

from __future__ import annotations

from prooftune.bundle.manifest import ClassifierManifest

_HUB_NAMES = {"all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2"}
"""Hub names of embedding models that Prooftune gets from packages."""

_IMPORTS = """import json
import numpy as np
from safetensors.numpy import load_file
"""

_TFIDF = """from sklearn.feature_extraction.text import TfidfVectorizer

manifest = json.load(open("THIS_FOLDER/bundle.json", encoding="utf-8"))
weights = load_file("THIS_FOLDER/classifier.safetensors")
vectorizer = TfidfVectorizer(
    ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\\b\\w+\\b",
    vocabulary=json.load(open("THIS_FOLDER/vocabulary.json", encoding="utf-8")))
vectorizer.idf_ = weights["idf"]

def features(texts):  # several fields of a row: joined by newlines
    return vectorizer.transform(texts)
"""

_EMBEDDING = """from sentence_transformers import SentenceTransformer

manifest = json.load(open("THIS_FOLDER/bundle.json", encoding="utf-8"))
weights = load_file("THIS_FOLDER/classifier.safetensors")
encoder = SentenceTransformer("EMBEDDING_MODEL")

def features(texts):  # several fields of a row: joined by newlines
    return encoder.encode(
        texts, prompt=manifest["classifier"]["embedding"]["prompt"] or None,
        normalize_embeddings=True)
"""

_PROBABILITIES = """
def probabilities(texts):
    scores = features(texts) @ weights["coefficients"].T + weights["intercept"]
    if scores.shape[1] == 1:  # two labels share one row of weights
        scores = np.hstack([np.zeros_like(scores), scores])
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    rows = scores / scores.sum(axis=1, keepdims=True)
    return [dict(zip(manifest["classifier"]["classes"], row)) for row in rows.tolist()]
"""

_LABEL_SETS = """
def probabilities(texts):  # of every label by itself
    scores = features(texts) @ weights["coefficients"].T + weights["intercept"]
    rows = 1 / (1 + np.exp(-scores))
    return [dict(zip(manifest["classifier"]["classes"], row)) for row in rows.tolist()]
"""

_CONSTANT = """
manifest = json.load(open("THIS_FOLDER/bundle.json", encoding="utf-8"))
log_probabilities = load_file("THIS_FOLDER/classifier.safetensors")["intercept"]
print(dict(zip(manifest["classifier"]["classes"], np.exp(log_probabilities))))
"""


def classifier_code(manifest: ClassifierManifest) -> str:
    """The card's section, as Markdown."""
    section = manifest["classifier"]
    computed = _LABEL_SETS if section.get("several") else _PROBABILITIES
    library, code = {
        "none": ("safetensors", f"{_IMPORTS}{_CONSTANT}"),
        "tfidf": ("scikit-learn", f"{_IMPORTS}{_TFIDF}{computed}"),
        "embedding": ("sentence-transformers", f"{_IMPORTS}{_EMBEDDING}{computed}"),
    }[section["features"]]
    embedding = section["embedding"]
    if embedding is not None:
        name = embedding["name"]
        code = code.replace("EMBEDDING_MODEL", _HUB_NAMES.get(name.lower(), name))
    scaled = (
        f" Prooftune's own `predict` also divides the logarithms of the probabilities by "
        f"{manifest['temperature']:.4g} and normalizes them again (temperature scaling)."
        if manifest["temperature"]
        else ""
    )
    return f"With {library} alone:\n\n```python\n{code}```\n\nNo file is a pickle.{scaled}\n"
