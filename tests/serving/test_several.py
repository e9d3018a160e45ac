"""Several bundles over one base: one copy of its weights, each bundle's own answers, and the base's
under them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.making import LABELS, changed, load_classifier, make_bundle
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.errors import UsageError
from prooftune.models.loading import load_model
from prooftune.recipe import Model
from serving.made import Live
from study.small import classifier

TEXTS = ["goal scored", "", "planet orbit science", "stocks fell " * 30]


def other(folder: Path, model: Path) -> Path:
    """A second bundle over the same base, with another adapter: the first one's, turned round."""
    from safetensors.torch import load_file, save_file

    bundle = make_bundle(folder, model)
    file = bundle / "adapter_model.safetensors"
    save_file(
        {name: -value if "lora_B" in name else value for name, value in load_file(file).items()},
        file,
    )
    return bundle


def pointers(model: Any) -> dict[str, int]:
    return {
        name: parameter.data_ptr()
        for name, parameter in model.named_parameters()
        if "lora_" not in name
    }


@pytest.mark.slow
def test_two_adapters_share_their_base_and_give_their_own_answers(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folders = [
        make_bundle(tmp_path / "a", model_folders["llama"]),
        other(tmp_path / "b", model_folders["llama"]),
    ]
    alone = [classifier(folder).predict(TEXTS) for folder in folders]
    assert alone[0] != alone[1]
    shared: dict[str, Any] = {}
    first, second = (load_classifier(folder, shared) for folder in folders)
    assert len(shared) == 1
    assert pointers(first.model) == pointers(second.model) and len(pointers(first.model)) > 20
    weights = {
        parameter.data_ptr(): parameter.numel() for _, parameter in first.model.named_parameters()
    }
    one = {p.data_ptr(): p.numel() for _, p in load_classifier(folders[0]).model.named_parameters()}
    adapter = sum(
        p.numel() for n, p in first.model.named_parameters() if "lora_" in n and ".default." in n
    )
    assert sum(weights.values()) == sum(one.values()) + adapter
    for _ in range(2):  # in turns, also with the base between them
        for bundle, expected in ((first, alone[0]), (second, alone[1])):
            bundle.predict(TEXTS, tuned=False)
            for got, want in zip(bundle.predict(TEXTS), expected, strict=True):
                assert (
                    got.probabilities == pytest.approx(want.probabilities, abs=1e-6)
                    and got.label == want.label
                )


def test_another_arithmetic_or_head_is_another_base(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shared: dict[str, Any] = {}
    manifest = load_classifier(folders["topics"]).manifest
    wide = changed(
        folders["topics"], tmp_path / "b", model={**manifest["model"], "dtype": "bfloat16"}
    )
    loaded = [
        load_classifier(folder, shared) for folder in (folders["topics"], wide, folders["head"])
    ]
    assert len(shared) == 3 and len({id(bundle.model) for bundle in loaded}) == 3


def test_the_untuned_model_answers_as_plain_transformers_does(
    folders: dict[str, Path], model_folders: dict[str, Path]
) -> None:
    bundle = classifier(folders["topics"])
    tokens = bundle.manifest["tokens"]
    model: Any = load_model(model_folders["llama"], Model(name="llama", dtype="float32"))

    def ids_of(text: str) -> list[int]:
        return list(
            bundle.encoder._tokenizer(
                text, add_special_tokens=False, split_special_tokens=True
            ).input_ids
        )

    for text, answer in zip(TEXTS[:3], bundle.predict(TEXTS[:3], tuned=False), strict=True):
        ids: list[int] = []
        for part in tokens["prompt"]:
            ids += part if isinstance(part, list) else ids_of(text)
        sums = []
        for label in LABELS:
            answer_ids = tokens["labels"][label]
            with torch.no_grad():
                logits = model(torch.tensor([ids + answer_ids])).logits[0, len(ids) - 1 : -1]
            sums.append(
                torch.log_softmax(logits, -1).gather(1, torch.tensor(answer_ids)[:, None]).sum()
            )
        expected = torch.softmax(
            torch.stack(sums), -1
        ).tolist()  # without the tuned model's temperature
        assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-4)


def test_a_head_and_whole_weights_have_no_untuned_answer(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="an untrained head has no predictions"):
        classifier(folders["head"]).predict(TEXTS, tuned=False)


def test_an_answerer_answers_untuned_with_the_same_passages(server: Live) -> None:
    bundle = server.service.served["library"].bundle
    assert isinstance(bundle, QuestionAnswerer)
    with torch.no_grad():
        [tuned], [base] = (
            bundle.predict(["apple pear"]),
            bundle.predict(["apple pear"], tuned=False),
        )
    assert tuned.retrieved == base.retrieved and len(base.retrieved) == 3
    assert tuned.answer != base.answer
