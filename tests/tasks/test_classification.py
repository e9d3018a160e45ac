"""From model to predictions: the same whatever the batch, blind to targets, and no array larger
than needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prooftune import recipe
from prooftune.engine.model_parts import get_output_head
from prooftune.models import adapters
from prooftune.models.loading import load_model, load_tokenizer
from prooftune.tasks.classification import class_pairs, instruction_pairs, predict
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.training.objective import TuningModule
from prooftune.training.rows import head_rows, instruction_rows, make_collator
from prooftune.types import Example

LABELS = ("World", "Sports", "Sci/Tech")
TEXTS = [
    "goal scored",
    "planet",
    "the cat sat on a mat and it was very good",
    "",
    "stocks fell markets rose 1 2 3",
    "no yes no",
]
EXAMPLES = [Example(str(i), {"text": text}, LABELS[i % 3]) for i, text in enumerate(TEXTS)]


def parts(folder: Path, *, head: bool = False, dtype: str = "float32") -> tuple[Any, PromptEncoder]:
    model = load_model(
        folder,
        recipe.Model.model_validate({"name": "tiny", "dtype": dtype}),
        labels=list(LABELS) if head else None,
    )
    tokenizer = load_tokenizer(folder)
    return model, PromptEncoder(
        Rendering("{text}", LABELS, chat=bool(tokenizer.chat_template), max_length=64),
        tokenizer,
        ["text"],
    )


@pytest.mark.failure(14)
@pytest.mark.parametrize("head", [False, True], ids=["labels", "head"])
def test_likelihoods_do_not_depend_on_the_batch(model_folder: Path, head: bool) -> None:
    model, encoder = parts(model_folder, head=head)
    alone, together = (
        predict(model, encoder, EXAMPLES, recipe.Scoring(batch_tokens=size), head=head)
        for size in (1, 4096)
    )
    torch.testing.assert_close(
        torch.tensor([p.log_probs for p in alone]),
        torch.tensor([p.log_probs for p in together]),
        atol=2e-4,
        rtol=1e-4,
    )
    assert [p.id for p in alone] == [p.id for p in together] == [e.id for e in EXAMPLES]


@pytest.mark.failure(14)
def test_generated_texts_do_not_depend_on_the_batch(model_folder: Path) -> None:
    model, encoder = parts(model_folder)
    raw = [
        [
            p.raw
            for p in predict(
                model,
                encoder,
                EXAMPLES,
                recipe.Scoring(method="generation", batch_tokens=size, max_new_tokens=6),
            )
        ]
        for size in (1, 4096)
    ]
    assert raw[0] == raw[1]
    assert len(set(raw[0])) > 1


@pytest.mark.slow
@pytest.mark.failure(17)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(targets=st.lists(st.sampled_from([*LABELS, None]), min_size=len(TEXTS), max_size=len(TEXTS)))
def test_predictions_are_blind_to_targets(model_folder: Path, targets: list[str | None]) -> None:
    model, encoder = parts(model_folder)
    others = [replace(e, target=t) for e, t in zip(EXAMPLES, targets, strict=True)]
    assert predict(model, encoder, others, recipe.Scoring()) == predict(
        model, encoder, EXAMPLES, recipe.Scoring()
    )


@pytest.mark.failure(20)
@pytest.mark.parametrize("head", [False, True], ids=["labels", "head"])
def test_the_output_head_sees_only_label_positions(
    model_folders: dict[str, Path], head: bool
) -> None:
    """One place per row for classes, one per row and inner node of the label tree for labels; in
    training the targets'."""
    model, encoder = parts(model_folders["llama"], head=head)
    seen: list[int] = []
    layer = model.score if head else model.get_output_embeddings()
    layer.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[:-1].numel()))
    predict(model, encoder, EXAMPLES, recipe.Scoring(), head=head)
    inner = {tuple(label[:n]) for label in encoder.label_ids for n in range(1, len(label))}
    assert sum(seen) == len(EXAMPLES) * (1 if head else 1 + len(inner))
    seen.clear()
    rows = (
        head_rows(class_pairs(EXAMPLES, encoder))
        if head
        else instruction_rows(instruction_pairs(EXAMPLES, encoder), encoder.stop_token_id)
    )
    TuningModule(model)(**make_collator(encoder.prefix)(rows))
    assert sum(seen) == sum(len(row.targets) for row in rows)


@pytest.mark.failure(8)
def test_heads_take_batches_though_the_tokenizer_names_no_padding_token(model_folder: Path) -> None:
    model, encoder = parts(model_folder, head=True)
    tokenizer = load_tokenizer(model_folder)
    assert model.config.pad_token_id == tokenizer.pad_token_id is not None
    batch = tokenizer(TEXTS[:3], return_tensors="pt", padding=True)
    assert model(**batch).logits.shape == (3, 3)
    assert len(predict(model, encoder, EXAMPLES, recipe.Scoring(), head=True)) == len(EXAMPLES)


@pytest.mark.failure(21)
def test_a_head_computes_in_float32_whatever_the_model_does(model_folder: Path) -> None:
    model, _ = parts(model_folder, head=True, dtype="bfloat16")
    tuned: Any = adapters.make_trainable(
        model, recipe.Variant(kind="tuned", objective="head"), {"r": 4}
    )
    heads = {name: p.dtype for name, p in tuned.named_parameters() if "score" in name}
    assert heads and set(heads.values()) == {torch.float32}
    hidden = torch.randn(5, 32).bfloat16()
    weight = tuned.get_base_model().score.modules_to_save["default"].weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = get_output_head(tuned)(hidden)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, hidden.float() @ weight.T)
