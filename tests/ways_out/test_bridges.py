"""Messages about configs of other tools: what they leave to do is done, and the recipe loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridges.test_exporting import RECIPE, STUDY, exported
from bridges.test_importing import AXOLOTL, LLAMA_FACTORY, TORCHTUNE, TRL, imported
from prooftune import recipe as recipes
from prooftune.bridges.exporting import export_for_tool
from prooftune.bridges.foreign_config import COMMON
from prooftune.bridges.importing import import_config, init_from_config
from prooftune.bridges.llama_factory import _WITHOUT_TRAINING
from prooftune.errors import UsageError
from ways_out import follows, follows_table, names, refused


def reread(folder: Path, written: str, **data: Any) -> recipes.Recipe:
    """The recipe with another `data` section, as somebody edits it."""
    values = yaml.safe_load(written)
    values["data"] |= data
    (folder / "edited.yaml").write_text(yaml.safe_dump(values), "utf-8")
    return recipes.load(folder / "edited.yaml")[0]


def said(fragment: str, sentences: list[str]) -> None:
    assert any(names(fragment, sentence) for sentence in sentences), sentences


def test_files_that_are_named(tmp_path: Path) -> None:
    _, result = imported(tmp_path, LLAMA_FACTORY | {"eval_dataset": "held_out"})
    said(follows("{…}: name its file in data.train"), result.to_do)
    said(follows("data.train: put your file in place of train.jsonl"), result.to_do)
    said(follows("{…}: {…}: name its file in data.validation"), result.to_do)
    for name in ("support.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text("{}\n")
    read = reread(tmp_path, result.text, train="support.jsonl", validation="held_out.jsonl")
    assert read.data.validation is not None
    assert (read.data.train.path, read.data.validation.path) == ("support.jsonl", "held_out.jsonl")


def test_a_config_with_options(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("- base_model\n")
    with refused("{…}: expected a mapping of options"):
        import_config(config, tmp_path / "a.yaml")
    config.write_text(yaml.safe_dump(AXOLOTL))
    assert import_config(config, tmp_path / "a.yaml").tool == "axolotl"


def test_the_model_of_a_folder(tmp_path: Path) -> None:
    _, result = imported(tmp_path, TORCHTUNE)
    said(follows("model.name: is {…} the model in {…}? If not, change it"), result.to_do)
    values = yaml.safe_load(result.text) | {"model": "/m/Llama-3.2-1B"}
    assert recipes.parse(values).model.name == "/m/Llama-3.2-1B"


def test_columns_that_are_named(tmp_path: Path) -> None:
    config = AXOLOTL | {"datasets": [{"path": "a/b", "type": "somebody.own_strategy"}]}
    _, result = imported(tmp_path, config)
    said(follows("{…}: name its columns in data.text and data.label"), result.to_do)
    read = reread(tmp_path, result.text, text={"question": "ask"}, label="say")
    assert (read.data.text, read.data.label) == ({"question": "ask"}, "say")


def test_the_recipe_is_written_elsewhere_or_over_the_old_one(tmp_path: Path) -> None:
    config, old = tmp_path / "config.yaml", tmp_path / "old.yaml"
    config.write_text(yaml.safe_dump(AXOLOTL), "utf-8")
    old.write_text("name: old\n")
    with refused("{…} exists; choose another name (--out), or overwrite it (--force)"):
        init_from_config(config, old)
    assert recipes.load(init_from_config(config, tmp_path / "new.yaml")[0])
    assert recipes.load(init_from_config(config, old, force=True)[0])


@pytest.mark.parametrize("key", _WITHOUT_TRAINING)
def test_a_config_that_trains_is_read(tmp_path: Path, key: str) -> None:
    follows_table("bridges/llama_factory.py", "_WITHOUT_TRAINING")
    config = {"model_name_or_path": "m", "template": "llama3", key: "x"}
    with refused("({…}); {…}, and 'prooftune init --from' reads configs that train"):
        imported(tmp_path, config)
    assert imported(tmp_path, LLAMA_FACTORY)[1].tool == "llama-factory"


def test_a_torchtune_config_that_trains_is_read(tmp_path: Path) -> None:
    with refused("no dataset and no optimizer; 'prooftune init --from' reads configs that train"):
        imported(tmp_path, {"model": TORCHTUNE["model"], "prompt": {"user": "Hello"}})
    assert imported(tmp_path, TORCHTUNE)[1].tool == "torchtune"


@pytest.mark.parametrize("base", [AXOLOTL, LLAMA_FACTORY, TRL], ids=["axolotl", "factory", "trl"])
def test_keys_that_recipes_do_without(tmp_path: Path, base: dict[str, Any]) -> None:
    follows_table("bridges/foreign_config.py", "COMMON")
    follows_table("bridges/llama_factory.py", "_RULES")
    follows_table("bridges/axolotl.py", "_RULES")
    without, _ = imported(tmp_path, base)
    dropped = {key for key, rule in COMMON.items() if rule.reason} - base.keys()
    dropped |= {"overwrite_output_dir", "auto_resume_from_checkpoints"}
    read, result = imported(tmp_path, base | dict.fromkeys(dropped, "x"))
    assert {s.partition(":")[0] for s in result.dropped} >= dropped - {"chat_template"}
    # What the reasons say that a recipe does without the key needs nothing of the recipe.
    assert read.training == without.training


def test_a_test_split_and_a_prompt_are_written_into_the_recipe(tmp_path: Path) -> None:
    splits = {"dataset_name": "acme/chats", "dataset_splits": ["train", "held_out"]}
    _, result = imported(tmp_path, {"model_name_or_path": "m"} | splits)
    said(follows("name a test split as data.test"), result.dropped)
    read = reread(tmp_path, result.text, test={"path": "hub:acme/chats", "split": "held_out"})
    assert read.data.test is not None and read.data.test.split == "held_out"
    dataset = {"path": "a/b", "type": {"format": "{instruction} ->"}}
    _, result = imported(tmp_path, AXOLOTL | {"datasets": [dataset]})
    said(follows("write it as prompt.template"), result.dropped)
    values = yaml.safe_load(result.text) | {"prompt": {"template": "{question} ->"}}
    assert recipes.parse(values).prompt.template == "{question} ->"


def test_an_exported_variant_is_named() -> None:
    changes = {"variants": {"tuned": {}, "second": {"kind": "tuned"}}}
    recipe = recipes.parse({**RECIPE, **changes})
    from prooftune.bridges.plan import training_plan

    with refused(
        "--variant: '{…}' is not a variant that is trained by instructions; this recipe"
    ) as e:
        training_plan(recipe, STUDY, "secnd")
    for name in ("tuned", "second"):
        assert name in str(e.value) and training_plan(recipe, STUDY, name)


def test_a_tool_that_takes_the_model(tmp_path: Path) -> None:
    model = {"model": "acme/Own-1B-Instruct"}
    with refused("(--to axolotl and --to llama-factory take any model)"):
        exported(tmp_path, "torchtune", **model)
    assert exported(tmp_path / "a", "axolotl", **model)[0]["base_model"] == model["model"]
    factory, _, differences = exported(tmp_path / "l", "llama-factory", **model)
    assert factory["model_name_or_path"] == model["model"]
    said(follows("template: name LLaMA-Factory's template for {…}"), differences)
    config = tmp_path / "l" / "config.yaml"
    config.write_text(yaml.safe_dump({**factory, "template": "llama3"}), "utf-8")
    assert import_config(config, tmp_path / "back.yaml").tool == "llama-factory"


def test_end_tokens_and_chat_templates_of_an_export(tmp_path: Path) -> None:
    own = {"model": "acme/Own-1B", "prompt": {"template": "{text} Topic", "chat": False}}
    recipe = recipes.parse({**RECIPE, **own})
    _, plan = export_for_tool(STUDY, recipe, "llama-factory", tmp_path)
    message = follows("template: empty trains no end token; add the model's own to every comp")
    said(message, plan.differences)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").open(encoding="utf-8")]
    assert {row["completion"] for row in rows} == {" World", " Sports"}
    ended = [{**row, "completion": f"{row['completion']}</s>"} for row in rows]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ended), "utf-8")
    back = import_config(tmp_path / "config.yaml", tmp_path / "back.yaml")
    assert yaml.safe_load(back.text)["data"]["train"] == str(tmp_path / "train.jsonl")
    chat = follows("is not set, and {…} {…} chat template by its name; set it if that is wrong")
    _, _, differences = exported(tmp_path / "a", "axolotl", model="acme/Own-1B")
    said(chat, differences)
    prompt = {**RECIPE["prompt"], "chat": True}
    _, rows, differences = exported(tmp_path / "b", "axolotl", model="acme/Own-1B", prompt=prompt)
    assert "messages" in rows[0] and not any(names(chat, d) for d in differences)


def test_other_options_of_one_tool_only(tmp_path: Path) -> None:
    follows_table("bridges/torchtune.py", "_RULES")
    read, result = imported(tmp_path, TORCHTUNE | {"resume_from_checkpoint": True})
    assert any(s.startswith("resume_from_checkpoint") for s in result.dropped)
    assert read.variants["tuned"].is_trained
    with pytest.raises(UsageError):
        imported(tmp_path, {"resume_from_checkpoint": True})
