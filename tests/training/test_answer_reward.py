"""GRPO: advantages by hand, the gradient against single rows, sampling, and rewards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from prooftune import recipe
from prooftune.engine.generation import generate
from prooftune.engine.precision import autocast
from prooftune.evaluation.answers import squad
from prooftune.models import loading
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.training.answer_reward import (
    EPSILON,
    AnswerRewardModule,
    AnswerRewardRow,
    Sampling,
    answer_reward_collator,
    answer_reward_rows,
    divergence_estimates,
    group_advantages,
)
from prooftune.training.trainer import train
from prooftune.types import Example
from prooftune.variants.answer_rewards import answer_rewards, reward_weights
from prooftune.variants.objectives import build_objective
from training.tiny import EXAMPLES, arguments, setup
from ways_out import refused

SAMPLES, NEW_TOKENS = 3, 4


def token_share(wanted: int) -> Any:
    """A reward: the share of an answer's tokens that are below a number."""

    def reward(ids: Sequence[Sequence[int]], _: Sequence[tuple[str, ...]]) -> list[float]:
        return [sum(i < wanted for i in row) / NEW_TOKENS for row in ids]

    return reward


def made(
    folder: Path, beta: float = 0.0, count: int = 4, packed: bool = True, samples: int = SAMPLES
) -> tuple[AnswerRewardModule, list[AnswerRewardRow], Any]:
    """A module whose adapters are not zero, prompts, and their encoder."""
    tuned, _, encoder = setup(folder, packed=packed)
    generator = torch.Generator().manual_seed(1)
    for parameter in tuned.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    sampling = Sampling(encoder.prefix, encoder.stop_token_id, NEW_TOKENS, samples)
    half = len(encoder_vocabulary(encoder)) // 2
    module = AnswerRewardModule(tuned.model, sampling, token_share(half), beta)
    pairs = ((encoder.encode(e.inputs).token_ids, ("a",)) for e in EXAMPLES[:count])
    return module, [*answer_reward_rows(pairs)], encoder


def encoder_vocabulary(encoder: Any) -> Any:
    return encoder._tokenizer.get_vocab()


def gradients(module: AnswerRewardModule) -> torch.Tensor:
    found = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    return torch.cat(found)


def token_log_probs(module: Any, prefix: list[int], prompt: list[int], answer: Any) -> torch.Tensor:
    """By the whole model on one sequence."""
    tokens = [*answer.ids, *([module.sampling.stop_token_id] if answer.stopped else [])]
    ids = torch.tensor([[*prefix, *prompt, *tokens]])
    logits = module.model(input_ids=ids, use_cache=False).logits[0].float()
    start = len(prefix) + len(prompt) - 1
    return torch.log_softmax(logits, 1)[range(start, start + len(tokens)), tokens]


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 1.0]])
    found = group_advantages(rewards)
    expected = [
        [0.5 / (0.5 + EPSILON), -0.5 / (0.5 + EPSILON), -0.5 / (0.5 + EPSILON)],
        [0.0, 0.0, 0.0],
        [-0.25 / (0.1875**0.5 + EPSILON)] * 3,
    ]
    torch.testing.assert_close(found[:, :3], torch.tensor(expected))
    assert found.sum(dim=1).tolist() == pytest.approx([0, 0, 0], abs=1e-5)


def test_divergence_by_hand_and_by_simulation() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    estimated = divergence_estimates(p.log(), q.log())
    assert estimated[0].item() == pytest.approx(0.4 - log(0.4) - 1)
    assert (estimated >= 0).all()
    # Its mean over what the policy samples is the divergence itself.
    assert (p * estimated).sum().item() == pytest.approx((p * (p / q).log()).sum().item())


@pytest.mark.slow
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_loss_and_gradients_are_those_of_single_rows(model_folder: Path, packed: bool) -> None:
    module, rows, encoder = made(model_folder, beta=0.5, packed=packed)
    start = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    module.train()
    torch.manual_seed(4)
    out = module(**answer_reward_collator(rows))
    out["loss_sum"].backward()
    actual = gradients(module)
    # The same draws again: sampling is by torch's own generator.
    torch.manual_seed(4)
    prompts = [row.ids for row in rows for _ in range(SAMPLES)]
    answers = module.answers(prompts)
    rewards = torch.tensor(module.reward([a.ids for a in answers], [])).view(4, SAMPLES)
    advantages = group_advantages(rewards).flatten()
    assert module.training and len({tuple(a.ids) for a in answers}) > 4
    surrogate = penalty = torch.zeros(())
    for prompt, answer, advantage in zip(prompts, answers, advantages, strict=True):
        log_probs = token_log_probs(module, encoder.prefix, prompt, answer)
        present = {n: p.data for n, p in module.named_parameters() if n in start}
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.data = start.get(name, parameter.data)
            reference = token_log_probs(module, encoder.prefix, prompt, answer)
            for name, parameter in module.named_parameters():
                parameter.data = present.get(name, parameter.data)
        ratio = reference - log_probs
        penalty = penalty + 0.5 * (ratio.exp() - ratio - 1).sum() / SAMPLES
        surrogate = surrogate - advantage * log_probs.sum() / SAMPLES
    (surrogate + penalty).backward()  # type: ignore[no-untyped-call]
    assert out["count"].item() == 4 and rewards.std() > 0 and penalty.item() > 1e-3
    expected = (1 - rewards).mean(dim=1).sum() + penalty
    assert out["loss_sum"].item() == pytest.approx(expected.item(), abs=1e-3)
    torch.testing.assert_close(actual, gradients(module), atol=5e-5, rtol=5e-3)


def test_groups_of_equal_rewards_teach_nothing(model_folders: dict[str, Path]) -> None:
    module, rows, _ = made(model_folders["llama"])
    module.reward = lambda ids, _: [0.25] * len(ids)
    module.train()
    out = module(**answer_reward_collator(rows))
    out["loss_sum"].backward()
    assert out["loss_sum"].item() == pytest.approx(4 * 0.75)
    assert not gradients(module).any()
    assert module(**answer_reward_collator([]))["loss_sum"].item() == 0


def test_evaluation_measures_the_greedy_answer(model_folders: dict[str, Path]) -> None:
    module, rows, encoder = made(model_folders["llama"])
    module.eval()
    out = module(**answer_reward_collator(rows))
    greedy: list[Any] = [None] * len(rows)
    for numbers, outputs in generate(
        module.model, encoder.prefix, [row.ids for row in rows], encoder.stop_token_id,
        max_new_tokens=NEW_TOKENS,
    ):  # fmt: skip
        for number, output in zip(numbers, outputs, strict=True):
            greedy[number] = output.ids
    expected = sum(1 - value for value in module.reward(greedy, []))
    assert out["loss_sum"].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_samples_have_the_models_distribution(model_folder: Path, attention: str) -> None:
    """First tokens of 3,000 samples against their probabilities (chi-squared, 20 likeliest)."""
    options = recipe.Model.model_validate(
        {"name": "tiny", "dtype": "float32", "attention": attention}
    )
    tuned, _, encoder = setup(model_folder, options=options)
    model, n = tuned.model.eval(), 3000
    prompt = encoder.encode(EXAMPLES[0].inputs).token_ids
    torch.manual_seed(0)
    first: Counter[int] = Counter()
    with torch.no_grad(), autocast(model):
        ids = torch.tensor([[*encoder.prefix, *prompt]])
        expected = model(input_ids=ids, use_cache=False).logits[0, -1].softmax(0)
        for _, outputs in generate(
            model, encoder.prefix, [prompt] * n, encoder.stop_token_id,
            max_new_tokens=1, sample=True,
        ):  # fmt: skip
            for output in outputs:
                token = output.ids[0] if output.ids else encoder.stop_token_id
                first[token] += 1
                assert output.log_prob == pytest.approx(expected[token].log().item(), abs=1e-3)
    top = expected.topk(20)
    wanted = np.array([*(top.values * n).tolist(), (1 - top.values.sum()).item() * n])
    seen = [first[token] for token in top.indices.tolist()]
    statistic = ((np.array([*seen, n - sum(seen)]) - wanted) ** 2 / wanted).sum()
    assert statistic < 45.3  # 20 degrees of freedom, p = 0.001


@pytest.mark.slow
def test_training_raises_the_reward(model_folders: dict[str, Path], tmp_path: Path) -> None:
    module, rows, encoder = made(model_folders["llama"], beta=0.01, count=12, samples=6)

    def mean_reward() -> float:
        torch.manual_seed(7)
        module.train()
        answers = module.answers([row.ids for row in rows for _ in range(8)])
        return float(np.mean(module.reward([a.ids for a in answers], [])))

    before = mean_reward()
    collator: Any = answer_reward_collator
    log_history = train(
        module,
        rows,
        rows[:4],
        encoder.prefix,
        arguments(tmp_path, num_train_epochs=8, learning_rate=2e-2, save_strategy="no"),
        collator=collator,
        description=None,
    )
    assert mean_reward() > before + 0.2
    assert all(0 <= entry["eval_loss"] <= 1 for entry in log_history if "eval_loss" in entry)


def test_questions_of_several_windows_are_left_out(model_folders: dict[str, Path]) -> None:
    values: dict[str, Any] = {"name": "n", "task": "free-text-qa", "data": {"train": "t.jsonl"}}
    reward = {"kind": "tuned", "objective": "reward", "from": "tuned"}
    chosen = recipe.parse({**values, "variants": {"tuned": None, "r": reward}})
    tokenizer, model = loading.load_tokenizer(model_folders["llama"]), torch.nn.Linear(1, 1)
    examples = [
        Example(str(n), {"question": "who won", "context": "goal " * n}, references=("goal",))
        for n in (3, 120)
    ]

    def rows(examples: list[Example], max_length: int) -> int:
        rendering = Rendering(
            "{context} {question}", (), chat=False, max_length=max_length, answer_tokens=4,
            windowed="context", overlap=4,
        )  # fmt: skip
        encoder = PromptEncoder(rendering, tokenizer, ["context", "question"])
        context: Any = SimpleNamespace(recipe=chosen)
        objective = build_objective(context, chosen.variants["r"], encoder, model)
        return len(objective.rows(examples, "train"))

    assert rows(examples, 48) == 1
    with refused("the context of every training question needs several windows. Raise prompt"):
        rows(examples[1:], 48)
    assert rows(examples, 200) == 2


def test_rewards_are_those_of_the_study() -> None:
    outputs = ["The red car.", "", "blue", "a big house", ""]
    references: list[tuple[str, ...]] = [
        ("red car", "car"), ("red",), (), ("the big old house",), (),
    ]  # fmt: skip
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    rouge = [
        scorer.score_multi(["red car", "car"], "The red car.")["rougeL"].fmeasure,
        0.0, 0.0, scorer.score("the big old house", "a big house")["rougeL"].fmeasure, 1.0,
    ]  # fmt: skip
    f1 = [squad.f1(output, accepted) for output, accepted in zip(outputs, references, strict=True)]
    assert f1[2:3] + f1[4:] == [0.0, 1.0]
    assert answer_rewards(outputs, references, {"f1": 2.0}).tolist() == pytest.approx(f1)
    rewards_of_answers = answer_rewards(outputs, references, {"rougeL": 3.0, "f1": 1.0})
    expected = [(3 * a + b) / 4 for a, b in zip(rouge, f1, strict=True)]
    assert rewards_of_answers.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("task", "primary", "rewards", "expected"),
    [
        ("extractive-qa", None, None, {"f1": 1.0}),
        ("free-text-qa", None, None, {"rougeL": 1.0}),
        ("free-text-qa", "exact", None, {"exact": 1.0}),
        ("free-text-qa", "meteor", None, {"rougeL": 1.0}),
        ("free-text-qa", "exact", "f1", {"f1": 1.0}),
        ("free-text-qa", None, {"f1": 2, "rougeL": 1}, {"f1": 2.0, "rougeL": 1.0}),
    ],
)
def test_the_metric_that_rewards(
    task: str, primary: str | None, rewards: object, expected: dict[str, float]
) -> None:
    chosen = recipe.parse(
        {
            "name": "n",
            "task": task,
            "data": {"train": "t.jsonl"},
            "evaluation": {"primary": primary},
            "variants": {
                "tuned": None,
                "r": {"kind": "tuned", "objective": "reward", "from": "tuned", "rewards": rewards},
            },
        }
    )
    assert reward_weights(chosen, chosen.variants["r"]) == expected
