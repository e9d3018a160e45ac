"""A stand-in for vLLM: the documented interface of its offline API, computed by transformers.

It refuses what vLLM 0.33 refuses: prompts that leave no room for a token, more than 128 token ids,
text as a prompt where no tokenizer was loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import ClassVar, TypedDict

import torch
from torch import Tensor


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    detokenize: bool = True

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or len(self.logprob_token_ids or ()) > 128:
            raise ValueError("VLLMValidationError")


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]


def unchanged(logits: Tensor) -> Tensor:
    return logits


class LLM:
    """Loads a folder with transformers, and computes one request at a time.

    Attributes:
        loaded: arguments of every model that was loaded, for tests.
        requests: prompts of all requests, for tests.
        distortion: what a broken vLLM does to its logits.
    """

    loaded: ClassVar[list[dict[str, object]]] = []
    requests: ClassVar[list[list[int]]] = []
    distortion: Callable[[Tensor], Tensor] = staticmethod(unchanged)

    def __init__(
        self,
        model: str,
        *,
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        max_model_len: int,
        enable_prefix_caching: bool | None = None,
        generation_config: str = "auto",
        seed: int = 0,
    ) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        self._limit = max_model_len
        assert max_model_len <= self._model.config.max_position_embeddings
        assert skip_tokenizer_init and enable_prefix_caching and generation_config == "vllm"
        LLM.loaded.append({"model": model, "dtype": dtype, "max_model_len": max_model_len})

    def generate(
        self,
        prompts: Sequence[TokensPrompt],
        sampling_params: Sequence[SamplingParams],
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        return [
            self._request(prompt["prompt_token_ids"], parameters)
            for prompt, parameters in zip(prompts, sampling_params, strict=True)
        ]

    def _log_probs(self, ids: list[int]) -> Tensor:
        """[length, vocabulary], of the token after each."""
        with torch.no_grad():
            logits = self._model(torch.tensor([ids])).logits[0].float()
        return LLM.distortion(logits).log_softmax(-1)

    def _request(self, prompt: list[int], parameters: SamplingParams) -> RequestOutput:
        assert not use_of_text(prompt) and parameters.temperature == 0 and parameters.ignore_eos
        if len(prompt) + 1 > self._limit:
            raise ValueError(f"the prompt is longer than the maximum model length of {self._limit}")
        LLM.requests.append(prompt)
        of_prompt = None
        if parameters.prompt_logprobs is not None:
            rows = self._log_probs(prompt)
            entries = [
                _entries(row, [token, int(row.argmax())])
                for row, token in zip(rows[:-1], prompt[1:], strict=True)
            ]
            of_prompt = [None, *entries]
        new: list[int] = []
        positions: list[dict[int, Logprob]] = []
        while len(new) < parameters.max_tokens and not set(new[-1:]) & {*parameters.stop_token_ids}:
            row = self._log_probs([*prompt, *new])[-1]
            new.append(int(row.argmax()))
            positions.append(_entries(row, [new[-1], *(parameters.logprob_token_ids or ())]))
        wanted = parameters.logprobs is not None or parameters.logprob_token_ids
        total = sum(position[token].logprob for position, token in zip(positions, new, strict=True))
        reason = "stop" if new[-1] in parameters.stop_token_ids else "length"
        completion = CompletionOutput(
            new, total if wanted else None, positions if wanted else None, reason
        )
        return RequestOutput(prompt, of_prompt, [completion])


def _entries(row: Tensor, tokens: Sequence[int]) -> dict[int, Logprob]:
    return {t: Logprob(float(row[t]), 1 + int((row > row[t]).sum())) for t in tokens}


def use_of_text(prompt: object) -> bool:
    return not isinstance(prompt, list) or not all(type(token) is int for token in prompt)


def module(version: str = "0.33.0") -> ModuleType:
    """A module to put into ``sys.modules`` under the name ``vllm``."""
    vllm = ModuleType("vllm")
    vllm.__version__ = version  # type: ignore[attr-defined]
    for part in (LLM, SamplingParams, TokensPrompt):
        setattr(vllm, part.__name__, part)
    LLM.loaded, LLM.requests = [], []
    return vllm
