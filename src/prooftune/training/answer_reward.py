"""Group relative policy optimisation (GRPO): training on the rewards of sampled answers.

Shao et al. 2024, arXiv 2402.03300. Several answers to each question are sampled with the weights of
the moment; those with a reward above their group's mean become likelier, the others less likely.
Every batch of samples is used for one update, so that the probability ratio, which PPO clips, is 1
wherever it is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.forward import device_of
from prooftune.engine.generation import generate
from prooftune.engine.sequences import Generated
from prooftune.engine.uploads import upload
from prooftune.training.objective import TuningModule, target_count
from prooftune.training.rows import TrainingRow, make_collator
from prooftune.utils.disk_list import DiskBackedList

EPSILON = 1e-4
"""Added to the standard deviation of a group's rewards, which may be 0."""

References = tuple[str, ...]
"""Accepted answers to a question; none if it has no answer."""
Reward = Callable[[Sequence[Sequence[int]], Sequence[References]], list[float]]
"""Token ids of answers, and the references of their questions -> rewards, 0 to 1."""


class AnswerRewardRow(TrainingRow):
    """A prompt and the accepted answers to its question.

    Attributes:
        references: for the reward; none if the question has no answer.
    """

    __slots__ = ("references",)

    def __init__(self, ids: Sequence[int], references: References) -> None:
        # One target, which the Trainer counts: the loss is a mean over questions.
        super().__init__(ids, [], [0])
        self.references = references


def answer_reward_rows(
    pairs: Iterable[tuple[Sequence[int], References]],
) -> DiskBackedList[AnswerRewardRow]:
    """Rows of prompts (token ids after the shared prefix) with their references."""
    return DiskBackedList(AnswerRewardRow(ids, references) for ids, references in pairs)


def answer_reward_collator(rows: Sequence[AnswerRewardRow]) -> dict[str, Any]:
    """The Trainer's data collator: rows -> keyword arguments of `AnswerRewardModule.forward`."""
    return {
        "input_ids": torch.tensor([i for row in rows for i in row.ids], dtype=torch.long),
        "lengths": tuple(map(len, rows)),
        "labels": torch.zeros(len(rows), dtype=torch.long),
        "references": tuple(row.references for row in rows),
    }


def group_advantages(rewards: Tensor) -> Tensor:
    """Rewards relative to those of the other answers to the same question, [questions, answers].

    Args:
        rewards: [questions, answers].

    Returns:
        (reward - mean) / (standard deviation + `EPSILON`) of each group.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    # Not an estimate from a sample, which of one answer would be NaN.
    return centred / (rewards.std(dim=1, keepdim=True, correction=0) + EPSILON)


def divergence_estimates(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Estimates of KL(policy || reference) from tokens that the policy sampled, [tokens], in nats.

    Unbiased, never negative, and of less variance than the difference itself (Schulman 2020,
    http://joschu.net/blog/kl-approx.html, k3).

    Args:
        log_probs: of the tokens under the policy, [tokens].
        reference: the same under the reference policy, [tokens].
    """
    ratio = reference - log_probs
    return ratio.exp() - ratio - 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are sampled.

    Attributes:
        prefix: token ids that all prompts start with.
        stop_token_id: token that ends an answer.
        max_new_tokens: longest answer, the stop token included.
        samples: answers to each question.
    """

    prefix: Sequence[int]
    stop_token_id: int
    max_new_tokens: int
    samples: int


class AnswerRewardModule(TuningModule):
    """A causal model that is trained on the rewards of the answers that it samples.

    In training mode answers are sampled; else the greedy answer is measured.

    Attributes:
        sampling: how answers are sampled.
        reward: measures answers.
        beta: factor of the KL divergence from the weights at construction.
    """

    def __init__(self, model: nn.Module, sampling: Sampling, reward: Reward, beta: float) -> None:
        super().__init__(model)
        self.sampling, self.reward, self.beta = sampling, reward, beta
        self._collate = make_collator(sampling.prefix, self.packed, self.pad_multiple)
        # The adapter at its start, since the reference is the variant that is continued, and not
        # the base model that is left when the adapter is switched off.
        self._start = [p.detach().clone() for p in self._trainable()] if beta else []

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        lengths: tuple[int, ...],
        labels: Tensor,
        references: tuple[References, ...],
    ) -> dict[str, Tensor]:
        """Sample answers, and compute the loss of one batch.

        Args:
            input_ids: token ids of all prompts after the prefix, one behind the other, [tokens].
            lengths: tokens of each prompt.
            labels: one entry for each question, [questions].
            references: accepted answers to each question.

        Returns:
            ``loss_sum``: 1 - mean reward, plus `beta` times the divergence, summed over questions.
            In training mode its gradient is the policy gradient. ``count``: questions.
        """
        count = target_count(labels)
        prompts = [part.tolist() for part in torch.split(input_ids.cpu(), list(lengths))]
        if not prompts:  # a rank's shard of a short batch
            return {"loss_sum": self._zero(), "count": count}
        k = self.sampling.samples if self.training else 1
        # All answers to a question behind each other, which generation prefills once.
        rows = [prompt for prompt in prompts for _ in range(k)]
        answers = self.answers(rows)
        rewards = torch.tensor(
            self.reward([a.ids for a in answers], [r for r in references for _ in range(k)])
        ).view(len(prompts), k)
        cost = upload((1 - rewards).mean(dim=1).sum(), labels.device)
        if not self.training:
            return {"loss_sum": cost, "count": count}
        surrogate, penalty = self._surrogate(rows, answers, group_advantages(rewards).flatten())
        # The surrogate's value says nothing, as advantages sum to 0; only its gradient counts.
        loss = cost + penalty.detach() + surrogate - surrogate.detach()
        return {"loss_sum": loss, "count": count}

    def answers(self, rows: Sequence[Sequence[int]]) -> list[Generated]:
        """Answers to prompts, sampled in training mode, else greedy."""
        answers, sampling, sample = [Generated() for _ in rows], self.sampling, self.training
        with self._inference():
            for numbers, outputs in generate(
                self.model,
                sampling.prefix,
                rows,
                sampling.stop_token_id,
                max_new_tokens=sampling.max_new_tokens,
                sample=sample,
            ):
                for number, output in zip(numbers, outputs, strict=True):
                    answers[number] = output
        return answers

    def _surrogate(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Generated], advantages: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss whose gradient is the policy gradient with the penalty, and the penalty, each
        summed over questions.

        Args:
            prompts, answers: one of each for every sample.
            advantages: [samples].
        """
        # Without a penalty, groups whose answers are all equally good teach nothing.
        used = [i for i, a in enumerate(advantages.tolist()) if self.beta or a]
        if not used:
            return self._zero(), self._zero().detach()
        rows = [_answer_row(prompts[i], answers[i], self.sampling.stop_token_id) for i in used]
        device = device_of(self.model)
        batch = {
            name: upload(value, device) if isinstance(value, Tensor) else value
            for name, value in self._collate(rows).items()
        }
        targets = batch.pop("labels")
        counts = torch.tensor([len(row.targets) for row in rows])
        factors = upload(advantages[used].repeat_interleave(counts), device)
        log_probs = self._token_log_probs(batch, targets)
        # Summed over an answer's tokens and not averaged: this is the gradient of the expected
        # reward, and a mean would favour long wrong answers (Liu et al. 2025, arXiv 2503.20783).
        surrogate = -(factors * log_probs).sum() / self.sampling.samples
        penalty = log_probs.new_zeros(())
        if self.beta:
            with self._inference(), self._start_weights():
                reference = self._token_log_probs(batch, targets)
            divergence = divergence_estimates(log_probs, reference)
            penalty = self.beta * divergence.sum() / self.sampling.samples
        return surrogate + penalty, penalty

    def _token_log_probs(self, batch: dict[str, Any], targets: Tensor) -> Tensor:
        """Log-probabilities of the target tokens, [targets], in float32."""
        hidden = self.target_hidden_states(**batch)
        return self.in_parts(_token_log_probs_of, hidden, targets)

    def _zero(self) -> Tensor:
        """0, with a gradient of 0 for every trained parameter, which distributed training needs."""
        return torch.stack([(p * 0).sum() for p in self._trainable()]).sum()

    def _trainable(self) -> Iterator[nn.Parameter]:
        return (p for p in self.parameters() if p.requires_grad)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode without gradients, inside a training step."""
        kind, was_training = device_of(self.model).type, self.training
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        self.eval()
        try:
            # No cache: 16-bit copies made here have no gradient, and those of the start weights
            # would be taken for the present ones.
            with torch.no_grad(), torch.autocast(kind, dtype, enabled, cache_enabled=False):
                yield
        finally:
            self.train(was_training)

    @contextmanager
    def _start_weights(self) -> Iterator[None]:
        """The reference policy in place of the present one."""
        parameters = [*self._trainable()]
        present = [p.data for p in parameters]
        try:
            for i, parameter in enumerate(parameters):
                # The Trainer may have moved the model since.
                if self._start[i].device != parameter.device:
                    self._start[i] = upload(self._start[i], parameter.device)
                parameter.data = self._start[i]
            yield
        finally:
            for parameter, data in zip(parameters, present, strict=True):
                parameter.data = data


def _token_log_probs_of(logits: Tensor, targets: Tensor) -> Tensor:
    return -nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def _answer_row(prompt: Sequence[int], answer: Generated, stop: int) -> TrainingRow:
    """A sampled answer behind its prompt. One that was cut off at the limit has no stop token."""
    tokens = [*answer.ids, *([stop] if answer.stopped else [])]
    start = len(prompt) - 1
    return TrainingRow([*prompt, *tokens[:-1]], range(start, start + len(tokens)), tokens)
