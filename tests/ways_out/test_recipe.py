"""Messages about a recipe that name a way out: what they name to change is accepted."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from prooftune import recipe as recipes
from prooftune.errors import UsageError
from prooftune.recipe.loading import RecipeLoader
from test_cli import prooftune
from ways_out import follows, names, refused

DATA = {"train": "a.csv", "text": "text", "label": "label"}
SMALL: dict[str, Any] = {"name": "small", "data": DATA, "variants": ["tuned"]}
QUESTIONS = {"train": "a.jsonl"}
ANSWERS: dict[str, Any] = {"task": "free-text-qa", "data": QUESTIONS}
MULTILABEL: dict[str, Any] = {"task": "multilabel"}
GPT: dict[str, Any] = {"model": "gpt", "base_url": "http://localhost:1/v1"}
EURO = {"input": 1, "output": 1, "currency": "EUR"}
DOLLAR = {**EURO, "currency": "USD"}
INSTRUCTION = {"objective": "instruction"}
COSTS = {"a": {"b": 2}, "b": {"a": 1}}
SEVERAL = {"swa": "a.csv", "hau": "b.csv"}


def variants(**options: Any) -> dict[str, Any]:
    return {"variants": options}


def endpoint(**options: Any) -> dict[str, Any]:
    return {"kind": "endpoint", "endpoint": {**GPT, **options}}


def search(space: Any, **options: Any) -> dict[str, Any]:
    return {"search": {"space": space, **options}}


def judge(**options: Any) -> dict[str, Any]:
    return {**ANSWERS, "judge": {"base_url": "http://localhost:1/v1", "model": "gpt", **options}}


RATES = {"training.learning_rate": [1e-4, 1e-3]}
TUNED = {"tuned": INSTRUCTION}
REWARD = {"objective": "reward", "from": "tuned"}
PREFERENCE = {"objective": "preference", "from": "tuned"}
MORE = {**REWARD, "kind": "tuned"}
PAIRS = {**PREFERENCE, "pairs": "pairs.jsonl"}


def rewarded(**options: Any) -> dict[str, Any]:
    """Answers that are trained further, by their reward unless the options say otherwise."""
    return {**ANSWERS, **variants(tuned=INSTRUCTION, more={**REWARD, "kind": "tuned", **options})}


REWARDED = [rewarded(rewards=name) for name in ("f1", "exact", "rouge1", "rouge2", "rougeL")]

Recipe = dict[str, Any]
WAYS: list[tuple[str, Recipe, list[Recipe]]] = [
    (
        follows("is not a metric that can judge task: {…}{…}; choose one of {…}"),
        {"evaluation": {"primary": "acuracy"}},
        [{"evaluation": {"primary": "accuracy"}}, {"evaluation": {"primary": "mcc"}}],
    ),
    (
        follows("evaluation.primary: {…} needs data.ordinal, which says"),
        {"evaluation": {"primary": "mae"}},
        [{"evaluation": {"primary": "mae"}, "data": {**DATA, "ordinal": True}}],
    ),
    (
        follows("evaluation.primary: {…} needs costs, what errors cost"),
        {"evaluation": {"primary": "mean_cost"}},
        [{"evaluation": {"primary": "mean_cost"}, "costs": COSTS}],
    ),
    (
        follows("is not a variant that can be served{…}; name one of {…}"),
        {"bundle": {"variant": "tund"}},
        [{"bundle": {"variant": "tuned"}}, {"bundle": {"variant": "best"}}],
    ),
    (
        follows("cost.currency needs cost.machine_per_hour, the price that it belongs to"),
        {"cost": {"currency": "EUR"}},
        [{"cost": {"currency": "EUR", "machine_per_hour": 2}}],
    ),
    (
        follows("give cost.machine_per_hour and every endpoint.price in one currency"),
        {
            "cost": {"machine_per_hour": 2, "currency": "EUR"},
            **variants(api=endpoint(price=DOLLAR)),
        },
        [
            {"cost": {"machine_per_hour": 2, "currency": c}, **variants(api=endpoint(price=p))}
            for c, p in (("EUR", EURO), ("USD", DOLLAR))
        ],
    ),
    (
        follows("is not a variant that is trained on labels{…}; name some of {…}"),
        {"learning_curve": {"variants": ["tund"]}},
        [{"learning_curve": {"variants": ["tuned"]}}],
    ),
    *(
        (
            follows("'{…}' needs data.language, or data.train as {language: files}"),
            variants(tuned={option: ["swa"]}),
            [
                {**variants(tuned={option: ["swa"]}), "data": data}
                for data in ({**DATA, "language": "tongue"}, {**DATA, "train": SEVERAL})
            ],
        )
        for option in ("languages", "without")
    ),
    (
        follows("objective: {…} cannot give several labels per text; use head"),
        {**MULTILABEL, **variants(tuned=INSTRUCTION)},
        [{**MULTILABEL, **variants(tuned={"objective": "head"})}],
    ),
    (
        "kind: encoder cannot answer questions. task: free-text-qa has the kinds {…}",
        {**ANSWERS, **variants(a={"kind": "encoder"})},
        [{**ANSWERS, **variants(a={"kind": kind})} for kind in ("majority", "zero-shot", "tuned")],
    ),
    (
        follows("objective: head cannot answer questions; use instruction"),
        {**ANSWERS, **variants(tuned={"objective": "head"})},
        [{**ANSWERS, **variants(tuned=INSTRUCTION)}],
    ),
    (
        follows("context: {…} needs a retrieval section with documents"),
        {**ANSWERS, **variants(a={"kind": "zero-shot", "context": "retrieved"})},
        [
            {
                **ANSWERS,
                **variants(a={"kind": "zero-shot", "context": "retrieved"}),
                "retrieval": {"documents": "docs"},
            }
        ],
    ),
    (
        follows("was trained on {…}; remove the model"),
        variants(
            tuned=INSTRUCTION, again={"kind": "prompted", "adapter": "tuned", "model": "a/b"}
        ),
        [variants(tuned=INSTRUCTION, again={"kind": "prompted", "adapter": "tuned"})],
    ),
    (
        follows("which is not prompted; name a variant with objective: instruction"),
        variants(tuned={"objective": "head"}, again={"kind": "prompted", "adapter": "tuned"}),
        [variants(tuned=INSTRUCTION, again={"kind": "prompted", "adapter": "tuned"})],
    ),
    (
        follows("decision: least-cost needs the recipe's costs"),
        variants(tuned={"decision": "least-cost"}),
        [{**variants(tuned={"decision": "least-cost"}), "costs": COSTS}],
    ),
    (
        follows("'costs' does not apply to task: {…}; it needs one label per text"),
        {**MULTILABEL, "costs": COSTS, **variants(tuned={"objective": "head"})},
        [{"costs": COSTS, **variants(tuned={"objective": "head"})}],
    ),
    (
        follows("'pretrain' contradicts from: give it to '{…}'"),
        variants(tuned=INSTRUCTION, more={**REWARD, "kind": "tuned", "pretrain": "a.txt"}),
        [variants(tuned={**INSTRUCTION, "pretrain": "a.txt"}, more={**REWARD, "kind": "tuned"})],
    ),
    (
        follows("; name one of {…}"),
        variants(tuned=INSTRUCTION, more={**REWARD, "kind": "tuned", "from": "tund"}),
        [variants(tuned=INSTRUCTION, more={**REWARD, "kind": "tuned"})],
    ),
    (
        follows("; add a variant of kind tuned"),
        variants(more={**REWARD, "kind": "tuned"}),
        [variants(more={**REWARD, "kind": "tuned"}, tuned={"kind": "tuned"})],
    ),
    (
        follows("objective: {…} needs 'from', the tuned variant to continue{…}"),
        variants(tuned=INSTRUCTION, more={"kind": "tuned", "objective": "reward"}),
        [variants(tuned=INSTRUCTION, more={**REWARD, "kind": "tuned"})],
    ),
    (
        follows("from: '{…}' has a classification head; name a variant with objective: instr"),
        variants(head={"kind": "tuned", "objective": "head"}, tuned=INSTRUCTION,
                 more={**REWARD, "kind": "tuned", "from": "head"}),
        [variants(head={"kind": "tuned", "objective": "head"}, tuned=INSTRUCTION,
                  more={**REWARD, "kind": "tuned"})],
    ),
    (
        follows("asked about every sampled answer of every step; choose from {…}"),
        rewarded(rewards="judge"),
        REWARDED,
    ),
    (
        follows("further sees the context of the data; choose from {…}"),
        rewarded(rewards="citations"),
        REWARDED,
    ),
    (
        follows("rewards: '{…}' is not a metric of single answers{…}; choose from {…}"),
        rewarded(rewards="bleu"),
        REWARDED,
    ),
    (follows("rewards: name at least one of {…}"), rewarded(rewards={}), REWARDED),
    (
        follows("cannot be sharded; remove training.fsdp, or use objective: preference"),
        rewarded(training={"fsdp": "full_shard"}),
        [rewarded(), rewarded(objective="preference", training={"fsdp": "full_shard"})],
    ),
    (
        follows("does not apply to objective: reward; set it to 0 for this variant"),
        {
            "training": {"label_smoothing_factor": 0.1},
            **variants(tuned=INSTRUCTION, more={**REWARD, "kind": "tuned"}),
        },
        [
            {
                "training": {"label_smoothing_factor": 0.1},
                **variants(
                    tuned=INSTRUCTION,
                    more={**REWARD, "kind": "tuned", "training": {"label_smoothing_factor": 0}},
                ),
            }
        ],
    ),
    (
        follows("beta: objective: preference needs a value above 0, found 0"),
        variants(tuned=INSTRUCTION, more={**PREFERENCE, "kind": "tuned", "beta": 0}),
        [variants(tuned=INSTRUCTION, more={**PREFERENCE, "kind": "tuned", "beta": 0.1})],
    ),
    (
        follows("its pairs are made from labels. Remove it, or use task: free-text-qa"),
        variants(tuned=INSTRUCTION, more={**PAIRS, "kind": "tuned"}),
        [
            variants(tuned=INSTRUCTION, more={**PREFERENCE, "kind": "tuned"}),
            {**ANSWERS, **variants(tuned=INSTRUCTION, more={**PAIRS, "kind": "tuned"})},
        ],
    ),
    (
        follows("give two or more different labels, from the lowest to the highest"),
        {"data": {**DATA, "ordinal": ["bad"]}},
        [{"data": {**DATA, "ordinal": ["bad", "good"]}}],
    ),
    (
        follows("are mutually exclusive (in {…}): keep the one that fits the column"),
        {"data": {**DATA, "labels": {"0": "no", "1": "yes"}, "bins": {"no": [0, 1]}}},
        [
            {"data": {**DATA, "labels": {"0": "no", "1": "yes"}}},
            {"data": {**DATA, "bins": {"no": [0, 1], "yes": [2, 3]}}},
        ],
    ),
    (
        follows("must not contain a key or password; name an environment variable in api_key_env"),
        variants(api=endpoint(base_url="http://user:secret@localhost:1/v1")),
        [variants(api=endpoint(base_url="http://localhost:1/v1", api_key_env="KEY"))],
    ),
    (
        follows("expected the name of an environment variable, such as OPENAI_API_KEY"),
        variants(api=endpoint(api_key_env="sk-proj-1234")),
        [variants(api=endpoint(api_key_env="OPENAI_API_KEY"))],
    ),
    (
        follows("'{…}' needs prompting: {…}"),
        variants(api={**endpoint(), "shots": 3}),
        [variants(api={**endpoint(), "shots": 3, "prompting": "few-shot"})],
    ),
    (
        follows("budget.money needs the prices of the model: price: {input: …, output: …}"),
        variants(api=endpoint(budget={"money": 3})),
        [variants(api=endpoint(budget={"money": 3}, price={"input": 1, "output": 2}))],
    ),
    (
        follows("Write your own as 'name: the question that the judge answers'"),
        judge(criteria=["kindness"]),
        [judge(criteria={"kindness": "Is it kind?"}), judge(criteria=["correctness"])],
    ),
    (
        follows("give at least one criterion, each with its question"),
        judge(criteria={"kindness": ""}),
        [judge(criteria={"kindness": "Is it kind?"})],
    ),
    (
        follows("is not a scale; write [lowest, highest], such as [1, 5]"),
        judge(scale=[5, 1]),
        [judge(scale=[1, 5])],
    ),
    (
        follows("a curve is fitted to at least {…} shares, 1 included; here: {…}. Give more"),
        {"learning_curve": {"shares": [0.5]}},
        [{"learning_curve": {"shares": [0.1, 0.5, 1]}}],
    ),
    (
        follows("{…} is neither a range nor choices; give [low, high], or {choices: [...]}"),
        search({"training.learning_rate": 1e-4}),
        [
            search({"training.learning_rate": [1e-5, 1e-4]}),
            search({"training.learning_rate": {"choices": [1e-5, 1e-4]}}),
        ],
    ),
    (
        follows("one choice leaves nothing to search; give at least two"),
        search({"lora.r": [8]}),
        [search({"lora.r": {"choices": [8, 16]}})],
    ),
    (
        follows("give [low, high], or {choices: [...]}"),
        search({"lora.r": {"low": 4}}),
        [search({"lora.r": [4, 8]}), search({"lora.r": {"choices": [4, 8]}})],
    ),
    (
        follows("is not below the upper bound {…}; write [{…}, {…}]"),
        search({"lora.r": [16, 4]}),
        [search({"lora.r": [4, 16]})],
    ),
    (
        follows("a logarithmic scale needs a lower bound above 0, not {…}"),
        search({"training.weight_decay": {"low": 0, "high": 0.1, "log": True}}),
        [search({"training.weight_decay": {"low": 0.001, "high": 0.1, "log": True}})],
    ),
    (
        follows("name at least one hyperparameter, such as training.learning_rate"),
        search({}),
        [search(RATES)],
    ),
    (
        follows("; did you mean '{…}'?"),
        search({"learning_rate": [1e-4, 1e-3]}),
        [search(RATES)],
    ),
    (
        follows("takes no range of numbers; give {choices: [...]}"),
        search({"training.lr_scheduler_type": [1, 2]}),
        [search({"training.lr_scheduler_type": {"choices": ["linear", "cosine"]}})],
    ),
    (
        follows("search.variants: '{…}' is not a variant that is trained{…}; name some of {…}"),
        search(RATES, variants=["tund"]),
        [search(RATES, variants=["tuned"])],
    ),
    (
        follows("is not measured during training with task: {…}{…}; choose one of {…}"),
        search(RATES, metric="mcc"),
        [search(RATES, metric=m) for m in ("accuracy", "macro_f1", "loss")],
    ),
    (
        follows("it changes the loss itself, by which trials are compared; use another search.m"),
        search({"training.label_smoothing_factor": [0.1, 0.3]}, metric="loss"),
        [search({"training.label_smoothing_factor": [0.1, 0.3]}, metric="accuracy")],
    ),
    (
        follows("search: needs evaluations during training; remove training.eval_strategy: no"),
        {**search(RATES), "training": {"eval_strategy": "no"}},
        [{**search(RATES), "training": {}}],
    ),
    (
        follows("has no effect with training.max_steps; remove one of them"),
        {**search({"training.num_train_epochs": [1, 3]}), "training": {"max_steps": 9}},
        [search({"training.num_train_epochs": [1, 3]}), {"training": {"max_steps": 9}}],
    ),
    (follows("name at least one variant"), {"variants": []}, [{"variants": ["tfidf"]}]),
    (
        follows(": one of {…}{…}"),
        variants(few_shot={"shots": 3}),
        [
            variants(few_shot={"shots": 3, "kind": "few-shot"}),
            {"variants": {"few-shot": {"shots": 3}}},
        ],
    ),
    (
        follows("use letters, digits, '.', '_', '+' and '-', and start with a letter or digit"),
        {"name": "my study"},
        [{"name": "my-study"}, {"name": "9.my_study+"}],
    ),
    (
        follows("'languages' contradicts without: give one of them"),
        {
            "data": {**DATA, "train": SEVERAL},
            **variants(tuned={"languages": ["swa"], "without": ["hau"]}),
        },
        [
            {"data": {**DATA, "train": SEVERAL}, **variants(tuned=options)}
            for options in ({"languages": ["swa"]}, {"without": ["hau"]})
        ],
    ),
    (
        follows("is not supported; use kind: tuned, or name a model that was pretrained on such"),
        variants(a={"kind": "encoder", "pretrain": "a.txt"}),
        [
            variants(a={"kind": "tuned", "pretrain": "a.txt"}),
            variants(a={"kind": "encoder", "model": "own/bert"}),
        ],
    ),
    (
        follows("or name the languages in 'without' of several variants"),
        variants(tuned={"leave_one_language_out": True}),
        [
            {
                "data": {**DATA, "train": SEVERAL},
                **variants(tuned={"leave_one_language_out": True}),
            },
            {
                "data": {**DATA, "language": "tongue"},
                **variants(
                    **{
                        f"tuned-{x}": {"kind": "tuned", "without": [x]}
                        for x in ("swa", "hau")
                    }
                ),
            },
        ],
    ),
    (
        follows("one of {…}"),
        {"training": {"lr_scheduler_type": "cosin"}},
        [{"training": {"lr_scheduler_type": "cosine"}}],
    ),
    (
        follows("rewards: the weight of '{…}' must be above 0, found {…}"),
        {**ANSWERS, **variants(tuned=INSTRUCTION, more={**MORE, "rewards": {"f1": 0}})},
        [{**ANSWERS, **variants(tuned=INSTRUCTION, more={**MORE, "rewards": {"f1": 1}})}],
    ),
    (
        follows("expected a URL such as http://localhost:11434/v1"),
        variants(api=endpoint(base_url="localhost")),
        [variants(api=endpoint(base_url="http://localhost:11434/v1"))],
    ),
    (
        follows("expected {true label: {predicted label: cost}}, such as {spam: {ham: 1}, ham: "),
        {"costs": {"spam": 1}},
        [{"costs": {"spam": {"ham": 1}, "ham": {"spam": 10}}}],
    ),
    *(
        (
            follows("right labels cost 0: remove '{…}: {…}' from the costs of '{…}'"),
            {"costs": {"spam": {"spam": cost, "ham": 2}}},
            [{"costs": {"spam": {"ham": 2}}}, {"costs": {"spam": {"spam": 0, "ham": 2}}}],
        )
        for cost in (2, 0.5)
    ),
    (
        follows("shares must ascend, without repetitions"),
        {"learning_curve": {"shares": [0.5, 0.1, 1]}},
        [{"learning_curve": {"shares": [0.1, 0.5, 1]}}],
    ),
    *(
        (
            follows("expected training.FIELD or lora.FIELD"),
            search({"optimizer.lr": [1e-4, 1e-3]}),
            [search({key: [4, 8]})],
        )
        for key in ("training.num_train_epochs", "lora.r")
    ),
    (
        follows("{…} should be {…}"),
        search({"lora.r": {"choices": ["small", "large"]}}),
        [search({"lora.r": {"choices": [4, 8]}})],
    ),
    (
        follows("{…}: should be a section with keys, found {…}"),
        {"evaluation": 3},
        [{"evaluation": {"resamples": 300}}],
    ),
    (
        follows("{…}.{…}: should be {…}, found {…}{…}"),
        {"training": {"num_train_epochs": "three"}},
        [{"training": {"num_train_epochs": 3}}],
    ),
    *(
        (
            follows("{…}: should be {…}{…}, found {…}{…}"),
            {"variants": {"b": {"kind": "encodr"}}},
            [{"variants": {"b": {"kind": kind}}}],
        )
        for kind in ("encoder", "tfidf")
    ),
    (
        follows(" (did you mean '{…}'?)"),
        {"traning": {"num_train_epochs": 1}},
        [{"training": {"num_train_epochs": 1}}],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "before", "ways"), WAYS, ids=[m for m, *_ in WAYS])
def test_what_a_message_says_to_change_is_accepted(
    message: str, before: Recipe, ways: list[Recipe]
) -> None:
    values = {**SMALL, **before}
    with pytest.raises(UsageError) as error:
        recipes.parse(values)
    problems = str(error.value).splitlines()[1:]
    assert any(names(message, problem) for problem in problems), problems
    for way in ways:
        recipes.parse({**SMALL, **way})


@pytest.mark.parametrize(
    ("message", "values"),
    [
        (
            follows("{…}.{…}: write {…}: {…}"),
            {"optimizer": {"_component_": "torch.optim.AdamW", "lr": 2e-5}},
        ),
        (
            follows("{…}.{…}: {…}; remove it"),
            {"optimizer": {"_component_": "torch.optim.AdamW", "amsgrad": False}},
        ),
        (
            follows("{…}: old name of {…}, which is set too; remove one"),
            {"training": {"evaluation_strategy": "epoch", "eval_strategy": "steps"}},
        ),
        (follows("{…}: write {…}: {…}{…}"), {"training": {"lora_rank": 8}}),
        (follows("{…}: {…}; remove it"), {"output_dir": "runs/a"}),
    ],
)
def test_what_a_message_says_to_write_is_accepted(message: str, values: Recipe) -> None:
    with pytest.raises(UsageError) as error:
        recipes.parse({**SMALL, **values})
    problems = [line.removeprefix("  - ") for line in str(error.value).splitlines()[1:]]
    assert any(names(message, problem) for problem in problems), problems
    after = copy.deepcopy({**SMALL, **values})
    for problem in problems:
        path, _, advice = problem.partition(": ")
        first, _, last = path.partition(".")
        if isinstance(after[first], dict):
            after[first].pop(last)
        else:
            del after[first]
        if write := re.match(r"write (\w+)\.(\w+): (\S+)", advice):
            section = after.setdefault(write[1], {})
            section[write[2]] = yaml.load(write[3], Loader=RecipeLoader)
    recipes.parse({key: value for key, value in after.items() if value != {}})


def test_the_run_folder_is_set_by_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused("the run folder is runs/NAME, or set by --out"):
        recipes.parse({**SMALL, "output_dir": "elsewhere"})
    folders: list[object] = []
    monkeypatch.setattr("prooftune.api.run", lambda *a, **options: folders.append(options["out"]))
    monkeypatch.setattr("prooftune.cli.studies._run_study", lambda _, out, *__: folders.append(out))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(SMALL))
    assert prooftune(monkeypatch, "run", str(tmp_path / "a.yaml"), "--out", "elsewhere") == 0
    assert [str(folder) for folder in folders] == ["elsewhere"]


def test_a_data_file_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n")
    with refused("write a recipe for it with 'prooftune init {…}'"):
        recipes.load(tmp_path / "a.csv")


def test_a_file_with_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("- tuned\n")
    with refused("{…}: expected a mapping with the keys data and variants, found {…}"):
        recipes.load(path)
    path.write_text(yaml.safe_dump({"data": DATA, "variants": ["tuned"], "name": "x"}))
    assert recipes.load(path)
    with refused("no shipped recipe is named '{…}'; available: {…}{…}") as error:
        recipes.shipped_text("dem")
    assert "demo" in str(error.value) and recipes.shipped_text("demo")


def test_set_of_one_key() -> None:
    with refused("--set expects key=value, as in --set training.num_train_epochs=1"):
        recipes.parse(SMALL, overrides=["training.num_train_epochs"])
    changed = recipes.parse(SMALL, overrides=["training.num_train_epochs=1"])
    assert changed.training["num_train_epochs"] == 1
