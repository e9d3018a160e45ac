"""Label scores and texts by vLLM's offline API: `LLM`, `SamplingParams` and `TokensPrompt` as of
vLLM 0.33.

Prompts are token ids of our encoder, and vLLM loads no tokenizer, so that it can change no prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prooftune.engine.scoring import LabelTree
from prooftune.engine.sequences import Generated
from prooftune.errors import Failure, UsageError
from prooftune.exporters.compare_outputs import ForcedAnswer

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

OLDEST = (0, 33)
"""Oldest release, major and minor, whose API these functions were written for."""
MAX_TOKEN_IDS = 128
"""vLLM's limit of ``SamplingParams.logprob_token_ids``."""


def installed_version() -> str:
    """The version of vLLM.

    Raises:
        UsageError: vLLM is not installed, cannot be imported, or is older than `OLDEST`.
    """
    oldest = ".".join(map(str, OLDEST))
    try:
        import vllm
    except ImportError as error:
        # A missing CUDA library is an ImportError as well: hence its text.
        raise UsageError(
            f"--engine vllm needs vLLM {oldest} or newer and a device that it supports: pip "
            f"install 'vllm>={oldest}' ({error})"
        ) from None
    version = str(vllm.__version__)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and tuple(map(int, numbers.groups())) < OLDEST:
        raise UsageError(
            f"--engine vllm needs vLLM {oldest} or newer, and {version} is installed: pip install "
            f"'vllm>={oldest}'"
        )
    return version


def start(folder: Path, dtype: torch.dtype, max_tokens: int) -> LLM:
    """Load a model folder into vLLM.

    Args:
        folder: a causal model in the Hugging Face layout.
        dtype: that vLLM computes in; by its own default it would narrow float32 to 16 bits.
        max_tokens: most tokens of a prompt with its answer.

    Raises:
        Failure: vLLM cannot load the model.
    """
    from vllm import LLM

    try:
        return LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            dtype=str(dtype).removeprefix("torch."),
            max_model_len=max_tokens,
            # All prompts share a prefix, and a prompt is sent once per inner node of the label
            # tree.
            enable_prefix_caching=True,
            # The model's own generation config may sample, or penalize repetition.
            generation_config="vllm",
            seed=0,
        )
    except Exception as error:  # vLLM raises errors of many kinds, some of them from a subprocess
        raise Failure(f"vLLM could not load the model: {_summary(error)}") from error


def score_labels(
    llm: LLM, prompts: Sequence[Sequence[int]], tree: LabelTree, *, normalize: bool
) -> Tensor:
    """Score every label after every prompt, as `engine.scoring.score_labels` does.

    One request per prompt and inner node of the tree (labels of one token need one per prompt), for
    the log-probabilities of all tokens that follow the node in any label. The alternative,
    ``prompt_logprobs`` over prompt and label, needs one request per label, computes logits at every
    position of the prompt and cannot use the prefix cache.

    Args:
        llm: the model.
        prompts: token ids of whole prompts.
        tree: the labels.
        normalize: divide a label's log-probability by its number of tokens.

    Returns:
        Natural-log probabilities [prompts, labels] in float64, not normalised over the labels.
    """
    from vllm import SamplingParams

    paths: dict[int, list[int]] = {-1: []}
    for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        paths[node] = [*paths[parent], token]
    following: dict[int, list[int]] = {}
    for terms in tree.label_terms:
        for node, token in terms:
            if token not in following.setdefault(node, []):
                following[node].append(token)
    parts = [
        (node, tokens[i : i + MAX_TOKEN_IDS])
        for node, tokens in following.items()
        for i in range(0, len(tokens), MAX_TOKEN_IDS)
    ]
    parameters = [
        SamplingParams(
            temperature=0, max_tokens=1, logprob_token_ids=tokens, ignore_eos=True, detokenize=False
        )
        for _, tokens in parts
    ]
    outputs = iter(
        _run(
            llm,
            [[*prompt, *paths[node]] for prompt in prompts for node, _ in parts],
            parameters * len(prompts),
        )
    )
    scores = torch.zeros(len(prompts), len(tree.label_terms), dtype=torch.float64)
    for row in scores:
        log_probs: dict[tuple[int, int], float] = {}
        for node, tokens in parts:
            [position] = next(outputs).outputs[0].logprobs
            log_probs.update(((node, token), position[token].logprob) for token in tokens)
        for label, terms in enumerate(tree.label_terms):
            total = sum(log_probs[term] for term in terms)
            row[label] = total / len(terms) if normalize else total
    return scores


def generate(
    llm: LLM, prompts: Sequence[Sequence[int]], stop_token_id: int, max_new_tokens: int
) -> list[Generated]:
    """Continue every prompt by greedy decoding, as `engine.generation.generate` does.

    Args:
        llm: the model.
        prompts: token ids of whole prompts.
        stop_token_id: the only token that ends an answer; counts towards `max_new_tokens`.
        max_new_tokens: maximum number of tokens generated per prompt.
    """
    from vllm import SamplingParams

    parameters = SamplingParams(
        temperature=0,
        max_tokens=max_new_tokens,
        stop_token_ids=[stop_token_id],
        # Our engine does not stop at the tokenizer's end token where the bundle's is another.
        ignore_eos=True,
        logprobs=0,
        detokenize=False,
    )
    generated = []
    for output in _run(llm, prompts, [parameters] * len(prompts)):
        [completion] = output.outputs
        ids = list(completion.token_ids)
        stopped = stop_token_id in ids[-1:]
        generated.append(
            Generated(ids[:-1] if stopped else ids, completion.cumulative_logprob, stopped)
        )
    return generated


def force_answers(
    llm: LLM, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[ForcedAnswer]:
    """Log-probabilities of given answers after their prompts (teacher forcing).

    Args:
        llm: the model.
        prompts: token ids of whole prompts.
        answers: token ids of an answer to each.
    """
    from vllm import SamplingParams

    parameters = SamplingParams(
        temperature=0, max_tokens=1, prompt_logprobs=1, ignore_eos=True, detokenize=False
    )
    outputs = _run(
        llm,
        [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)],
        [parameters] * len(prompts),
    )
    forced = []
    for output, prompt, answer in zip(outputs, prompts, answers, strict=True):
        # vLLM's entries are those of prompt and answer together; the first one is None.
        positions = output.prompt_logprobs[len(prompt) :]
        entries = [position[token] for position, token in zip(positions, answer, strict=True)]
        forced.append(
            ForcedAnswer(
                [entry.logprob for entry in entries], [entry.rank == 1 for entry in entries]
            )
        )
    return forced


def _run(
    llm: LLM, prompts: Sequence[Sequence[int]], parameters: Sequence[SamplingParams]
) -> list[RequestOutput]:
    """The outputs of all requests, in order; vLLM forms the batches."""
    from vllm import TokensPrompt

    try:
        outputs: list[RequestOutput] = llm.generate(
            [TokensPrompt(prompt_token_ids=list(ids)) for ids in prompts],
            list(parameters),
            use_tqdm=False,
        )
    except Exception as error:  # as in `start`
        raise Failure(f"vLLM failed: {_summary(error)}") from error
    return outputs


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:500]}"
