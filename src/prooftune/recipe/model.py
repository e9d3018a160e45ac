"""Recipe sections for the model, the prompt, scoring, question answering and retrieval."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from prooftune.recipe.base import Section


class Model(Section):
    name: str = Field(default="smollm2-135m-instruct", min_length=1)
    """``smollm2-135m-instruct``, a local folder, a hub name, or ``pypi:NAME==VERSION#FILE``."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype. ``auto``: bfloat16 if the hardware computes in it, else float16 on NVIDIA GPUs
    and float32 elsewhere."""
    attention: Literal["auto", "shared-prefix", "flex", "eager", "sdpa", "flash_attention_2"] = (
        "auto"
    )
    """Attention implementation. ``shared-prefix``: Prooftune's own, which computes the common
    prefix of all prompts once, by compiled code or PyTorch's matmuls. ``flex``: the same by
    PyTorch's FlexAttention, for GPUs. ``auto``: ``flex`` on NVIDIA GPUs from the Ampere generation
    on, else ``shared-prefix``. The others are those of transformers."""
    int8_training: bool = False
    """During adapter training, compute matmuls with frozen weights in int8. Needs a CPU with
    AVX512-BF16 and AVX512-VNNI but without AMX, and a C compiler. Training takes 10% to 33% less
    time; gradients are rounded more coarsely. Evaluation is not affected."""
    trust_remote_code: bool = False
    """Whether a hub model can run its own Python code."""


class Prompt(Section):
    """How an example becomes a prompt. ``{field}`` is an input field, ``{labels}`` the labels."""

    template: str | None = None
    """Prompt template. Default: "Classify the text below. Answer with one of: …", followed by the
    input fields; a similar instruction for question answering."""
    system: str | None = None
    """System message. Default: that of the chat template."""
    chat: bool | None = None
    """Whether to apply the tokenizer's chat template. Default: if the tokenizer has one."""
    max_length: int = Field(default=512, gt=8)
    """Maximum tokens of prompt and target, few-shot examples not counted. Longer inputs are
    truncated; targets never are."""


CPU_SCORING_TOKENS, CPU_ANSWERING_TOKENS = 4096, 8192
"""Tokens per batch on CPUs that ``batch_tokens: auto`` stands for, of `Scoring` and `Answering`."""


class Scoring(Section):
    method: Literal["likelihood", "generation"] = "likelihood"
    """``likelihood``: compare the log-probabilities of the labels. ``generation``: generate text
    and parse the label from it."""
    normalize: Literal["none", "length"] = "none"
    """``length``: divide the log-probability of a label by its number of tokens."""
    calibration: bool = False
    """Contextual calibration (arXiv 2102.09690): divide by the label probabilities for a
    content-free input."""
    max_new_tokens: int = Field(default=16, gt=0)
    """Maximum new tokens for ``generation`` and ``generated_rows``."""
    generated_rows: int = Field(default=0, ge=0)
    """likelihood: number of test rows, sampled with the seed, for which language models also
    generate their answer. The report then says how often it is a valid label, the label and nothing
    else, or no label, tuned against untuned; the judge reads these answers."""
    batch_tokens: Literal["auto"] | PositiveInt = "auto"
    """Input tokens per scoring batch. ``auto``: 4096 on CPUs; on GPUs by the free memory."""

    @property
    def fixed_batch_tokens(self) -> int:
        """The number, or that of CPUs: for encoders, which are small on every device."""
        return CPU_SCORING_TOKENS if self.batch_tokens == "auto" else self.batch_tokens


class Answering(Section):
    """Generation settings for question answering (``extractive-qa`` and ``free-text-qa``)."""

    no_answer: str = Field(default="unanswerable", min_length=1)
    """extractive-qa: the output for questions that the context does not answer."""
    constrained: bool = False
    """extractive-qa: constrain decoding to spans of the context."""
    max_new_tokens: int = Field(default=48, gt=0)
    """Maximum tokens of an answer, reserved within `prompt.max_length`."""
    window_overlap: int = Field(default=64, ge=0)
    """Overlap in tokens of the sliding windows over a context that is too long for one prompt."""
    batch_tokens: Literal["auto"] | PositiveInt = "auto"
    """Tokens of prompts and answers per batch. ``auto``: 8192 on CPUs; on GPUs by the free
    memory."""
    bertscore: str | None = None
    """Embedding model for BERTScore: ``all-minilm-l6-v2`` comes from a package, ``roberta-large``
    from the hub. Default: BERTScore is not computed."""


DATA_CONTEXT = "data:context"
"""Value of `Retrieval.documents` that makes the contexts of the data the document collection."""


class Retrieval(Section):
    """Passage retrieval for variants with ``context: retrieved``."""

    documents: str
    """File, folder, zip archive or glob pattern of documents (PDF, Office, HTML, text …), or a
    package reference. ``data:context``: the contexts of the questions in the data, each the gold
    passage of its question."""
    passages: int = Field(default=3, gt=0)
    """Number of passages in the prompt, as far as they fit."""
    search: Literal["bm25", "dense", "fused"] = "fused"
    """``bm25``: keyword search. ``dense``: embedding search. ``fused``: both, merged by reciprocal
    rank fusion."""
    embedding: str = "all-minilm-l6-v2"
    """Embedding model for passages and questions."""
    rerank: str | None = None
    """Cross-encoder that reranks the retrieved passages. Default: no reranking."""
    chunk_words: int = Field(default=120, gt=0)
    """Approximate number of words per passage."""
    overlap_words: int = Field(default=20, ge=0)
    """Overlap of neighbouring passages in words."""
