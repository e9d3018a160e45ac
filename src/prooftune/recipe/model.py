"""The sections that say which model is asked, with what words, and how its answer is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prooftune.recipe.base import Section


class Model(Section):
    name: str = "smollm2-135m-instruct"
    """``smollm2-135m-instruct``, a local folder, a hub name, or ``pypi:NAME==VERSION#FILE``."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic. ``auto``: bfloat16 where the processor computes with it, else float32."""
    attention: Literal["auto", "shared-prefix", "eager", "sdpa", "flash_attention_2"] = "auto"
    """``auto``: the fastest for this device. ``shared-prefix`` is our own, which computes the
    common beginning of all prompts once; the others are the library's."""
    int8_training: bool = False
    """While adapters learn, compute products with frozen weights in 8 bits, on processors with
    AVX512-BF16 and -VNNI and without AMX, where there is a C compiler: training then takes a tenth
    to a third less time, its gradients are rounded more. Everything is evaluated as without."""
    trust_remote_code: bool = False
    """Whether a hub model may bring and run its own Python code."""


class Prompt(Section):
    """How an example becomes a prompt. ``{field}`` is an input column, ``{labels}`` the label list."""

    template: str | None = None
    """None: "Classify the text below. Answer with one of: …", then the fields; for questions the
    like."""
    system: str | None = None
    """System message. None: what the chat template has of its own."""
    chat: bool | None = None
    """Whether to use the tokenizer's chat template. None: if it has one."""
    max_length: int = Field(default=512, gt=8)
    """Tokens of prompt and target together, few-shot examples not counted; longer inputs are
    shortened, targets never."""


class Scoring(Section):
    method: Literal["likelihood", "generation"] = "likelihood"
    """``likelihood`` compares the labels' log-probabilities; ``generation`` lets the model write
    and parses it."""
    normalize: Literal["none", "length"] = "none"
    """``length`` divides a label's log-probability by its number of tokens."""
    calibration: bool = False
    """Contextual calibration (arXiv 2102.09690): divide by the label probabilities of a
    content-free input."""
    max_new_tokens: int = Field(default=16, gt=0)
    """Tokens that generation may write."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens of input per scoring batch."""


class Answering(Section):
    """How questions are answered, in the tasks ``extractive-qa`` and ``free-text-qa``."""

    no_answer: str = Field(default="unanswerable", min_length=1)
    """extractive-qa: what is said where the context holds no answer."""
    constrained: bool = False
    """extractive-qa: write nothing that is not a run of words of the context."""
    max_new_tokens: int = Field(default=48, gt=0)
    """Tokens that an answer may have; the room for it is kept free in `prompt.max_length`."""
    window_overlap: int = Field(default=64, ge=0)
    """Tokens that two neighbouring windows share where a context is too long for one prompt."""
    batch_tokens: int = Field(default=8192, gt=0)
    """Tokens of the prompts and answers that are worked on at one time."""
    bertscore: str | None = None
    """Model whose embeddings BERTScore compares (``all-minilm-l6-v2`` comes from a package,
    ``roberta-large`` from the hub). None: not computed."""


DATA_CONTEXT = "data:context"
"""The document collection that consists of the data's own contexts."""


class Retrieval(Section):
    """Where passages come from for variants with ``context: retrieved``."""

    documents: str
    """A file, a folder, a zip archive or a pattern of PDF, HTML, Markdown, text or JSON files, or a
    package reference. ``data:context``: the contexts that the data's questions came with, each the
    gold passage of its own."""
    passages: int = Field(default=3, gt=0)
    """Passages shown with a question, as far as they fit."""
    search: Literal["bm25", "dense", "fused"] = "fused"
    """By words, by meaning, or both lists joined by reciprocal rank."""
    embedding: str = "all-minilm-l6-v2"
    """Model that embeds passages and questions."""
    rerank: str | None = None
    """Cross-encoder that puts the found passages in a new order. None: none."""
    chunk_words: int = Field(default=120, gt=0)
    """Words of a passage, about."""
    overlap_words: int = Field(default=20, ge=0)
    """Words that two neighbouring passages share."""
