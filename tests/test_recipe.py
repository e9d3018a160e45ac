"""The recipe: validation messages, overrides, defaults and the round trip through YAML."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune import recipe
from prooftune.errors import UsageError

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"train": "a.csv", "text": "text", "label": "label"},
    "variants": ["majority", "tuned"],
}


def with_(**sections: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SMALL), **sections}


def problems(values: dict[str, Any], *overrides: str) -> list[str]:
    """The lines of the complaint about a recipe."""
    with pytest.raises(UsageError) as caught:
        recipe.parse(values, "r.yaml", overrides)
    first, *lines = str(caught.value).splitlines()
    assert first == f"r.yaml: {len(lines)} problem{'s' if len(lines) > 1 else ''} found"
    return [line.removeprefix("  - ") for line in lines]


def test_all_problems_are_listed_at_once() -> None:
    messages = problems(
        {
            "nmae": "x",
            "seed": -1,
            "data": {"train": {"path": "a.csv", "delimter": ";"}},
            "training": {"learning_rte": 1e-3},
            "lora": {"rnk": 8},
            "quantization": {"load_in_4bits": True},
            "variants": {
                "tfidf": {"shots": 3},
                "best": {"kind": "tuned", "training": {"epocs": 3}},
                "tunde": None,
            },
        }
    )
    assert messages == [
        "name: required",
        "seed: Input should be greater than or equal to 0, found -1",
        "data.train.delimter: unknown key (did you mean 'delimiter'?)",
        "variants.tfidf: 'shots' does not apply to kind: tfidf",
        f"variants.tunde.kind: required: one of {', '.join(recipe.VARIANT_KINDS)} "
        "(did you mean 'tuned'?)",
        "nmae: unknown key (did you mean 'name'?)",
        "training.learning_rte: not a field of transformers.TrainingArguments (did you mean "
        "'learning_rate'?)",
        "lora.rnk: not a field of peft.LoraConfig",
        "quantization.load_in_4bits: not a field of transformers.BitsAndBytesConfig (did you mean "
        "'load_in_4bit'?)",
        "variants.best.training.epocs: not a field of transformers.TrainingArguments",
    ]


@pytest.mark.parametrize(
    ("section", "found"),
    [
        (
            {"training": {"learning_rate": "fast"}},
            "training.learning_rate: should be a number, found 'fast'",
        ),
        (
            {"training": {"max_steps": 1.5}},
            "training.max_steps: should be a whole number, found 1.5",
        ),
        (
            {"training": {"max_steps": None}},
            "training.max_steps: should be a whole number, found nothing",
        ),
        ({"training": {"bf16": "yes"}}, "training.bf16: should be true or false, found 'yes'"),
        ({"lora": {"r": "sixteen"}}, "lora.r: should be a whole number, found 'sixteen'"),
        (
            {"quantization": {"load_in_4bit": 1}},
            "quantization.load_in_4bit: should be true or false, found 1",
        ),
        (
            {"variants": {"a": {"kind": "tuned", "training": {"num_train_epochs": [1]}}}},
            "variants.a.training.num_train_epochs: should be a number, found [1]",
        ),
    ],
)
def test_invalid_library_values_are_reported(section: dict[str, Any], found: str) -> None:
    assert problems(with_(**section)) == [found]


def test_valid_library_values_are_accepted() -> None:
    recipe.parse(
        with_(
            lora={
                "lora_alpha": 0.5,
                "target_modules": "all-linear",
                "lora_dropout": 0,
                "init_lora_weights": "pissa",
            },
            training={
                "num_train_epochs": 1,
                "optim": "adamw_torch",
                "tf32": None,
                "logging_steps": 5,
            },
            quantization={
                "load_in_4bit": True,
                "llm_int8_threshold": 6,
                "bnb_4bit_compute_dtype": "float16",
            },
        )
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "data: should be a section with keys, found nothing"),
        (
            {"data": {"train": {"path": "a", "pth": "a"}}},
            "data.train.pth: unknown key (did you mean 'path'?)",
        ),
        ({"audit": {"leek": "drop"}}, "audit.leek: unknown key (did you mean 'leak'?)"),
        (
            {"audit": {"leak": "ignore"}},
            "audit.leak: should be one of error, drop, allow, found 'ignore'",
        ),
        (
            {"data": {"train": "a", "splitting": {"tset": 0.1}}},
            "data.splitting.tset: unknown key (did you mean 'test'?)",
        ),
        (
            {"data": {"train": "a", "splitting": {"test": 1.5}}},
            "data.splitting.test: Input should be less than 1, found 1.5",
        ),
        (
            {"prompt": {"max_length": "long"}},
            "prompt.max_length: Input should be a valid integer, unable to parse string as an "
            "integer, found 'long'",
        ),
        (
            {"variants": {"tuned": {"prompt": {"templat": "x"}}}},
            "variants.tuned.prompt.templat: unknown key (did you mean 'template'?)",
        ),
        (
            {"variants": {"prompt": {"kind": "few-shot", "shts": 2}}},
            "variants.prompt.shts: unknown key (did you mean 'shots'?)",
        ),
        (
            {"variants": {"x": {"kind": "tund"}}},
            "variants.x.kind: should be one of majority, tfidf, embedding, encoder, endpoint, "
            "zero-shot, few-shot, prompted, tuned, found 'tund' (did you mean 'tuned'?)",
        ),
        (
            {"task": "clasification"},
            "task: should be one of classification, multilabel, extractive-qa, free-text-qa, found "
            "'clasification' (did you mean 'classification'?)",
        ),
        ({"slices": ["a"]}, "slices: unknown key (it is a key of data: data.slices)"),
        (
            {"label_errors": 0},
            "label_errors: unknown key (it is a key of audit: audit.label_errors)",
        ),
        # Of several sections: which one is meant is not known.
        ({"trust_remote_cod": True}, "trust_remote_cod: unknown key"),
        ({"variants": {}}, "variants: name at least one variant"),
        ({"variants": None}, "variants: name at least one variant"),
        ({"variants": 5}, "variants: Input should be a valid dictionary, found 5"),
        ({"variants": ","}, "variants: name at least one variant"),
        (
            {"variants": {"a/b": {"kind": "tuned"}}},
            "variants.a/b: 'a/b' is not a valid name: use letters, digits, '.', '_', '+' and '-', "
            "and start with a letter or digit",
        ),
        (
            {"name": "../up"},
            "name: '../up' is not a valid name: use letters, digits, '.', '_', '+' and '-', and "
            "start with a letter or digit",
        ),
        (
            {"variants": {"tuned": {"method": "full", "lora": {"r": 4}}}},
            "variants.tuned: 'lora' contradicts method: full",
        ),
        (
            {"variants": {"zero-shot": {"shots": 3}}},
            "variants.zero-shot: 'shots' does not apply to kind: zero-shot",
        ),
        (
            {"data": {"train": "a", "bins": {"low": [2, 1], "high": [2, None]}}},
            "data.bins: bin 'low' is empty: its lower bound is above its upper bound",
        ),
        (
            {
                "data": {
                    "train": "a",
                    "labels": {"1": "x"},
                    "test": {"path": "b", "bins": {"x": [0, 1]}},
                }
            },
            "data: 'labels' and 'bins' are mutually exclusive (in test): keep the one that fits "
            "the column",
        ),
        (
            {"evaluation": {"primary": "macro-f1"}},
            "evaluation.primary: 'macro-f1' is not a metric that can judge task: classification "
            "(did you mean 'macro_f1'?); choose one of accuracy, balanced_accuracy, macro_f1, "
            "macro_precision, macro_recall, weighted_f1, mcc",
        ),
        (
            {"bundle": {"variant": "zero-shot"}},
            "bundle.variant: 'zero-shot' is not a variant that can be served; name one of "
            "majority, tuned, best",
        ),
        ({"early_stopping": 0}, "early_stopping: Input should be greater than 0, found 0"),
    ],
)
def test_a_problem_is_reported_with_its_path(change: dict[str, Any], message: str) -> None:
    assert problems(with_(**change)) == [message]


def test_each_option_that_does_not_apply_is_reported() -> None:
    assert problems(with_(variants={"majority": {"shots": 2, "lora": {"r": 2}}})) == [
        "variants.majority: 'shots' does not apply to kind: majority",
        "variants.majority: 'lora' does not apply to kind: majority",
    ]


@pytest.mark.parametrize(
    "variants",
    [
        "tfidf, tuned",
        ["tfidf", "tuned"],
        {"tfidf": None, "tuned": {}},
        {"tfidf": {"kind": "tfidf"}, "tuned": None},
    ],
)
def test_kind_defaults_to_the_variant_name(variants: Any) -> None:
    assert [v.kind for v in recipe.parse(with_(variants=variants)).variants.values()] == [
        "tfidf",
        "tuned",
    ]


def test_parse_does_not_modify_its_input() -> None:
    values = with_()
    recipe.parse(values, overrides=["model.dtype=float32", "data.train.split=test"])
    assert values == SMALL


def test_numbers_are_accepted_as_columns_and_labels() -> None:
    data = recipe.parse(
        with_(data={"train": "a", "text": 2, "label": 0, "labels": {1: "good", 2: 3}})
    ).data
    assert (data.text, data.label, data.labels) == ("2", "0", {"1": "good", "2": "3"})


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.learning_rate=1e-3", "training.learning_rate", 1e-3),
        ("training.learning_rate=2.5E+2", "training.learning_rate", 250.0),
        ("training.bf16=true", "training.bf16", True),
        ("training.eval_strategy=no", "training.eval_strategy", "no"),
        ("training.run_name=a=b", "training.run_name", "a=b"),
        ("seed=7", "seed", 7),
        ("model=OTHER/NAME", "model.name", "OTHER/NAME"),
        ("model.dtype=float32", "model.dtype", "float32"),
        ("data.train.delimiter=;", "data.train.delimiter", ";"),
        ("data.limit={train: 10}", "data.limit.train", 10),
        ("data.limit.train=10", "data.limit.train", 10),
        ("variants.tuned.lora.r=4", "variants.tuned.lora.r", 4),
        ("variants.dora={kind: tuned, method: dora}", "variants.dora.method", "dora"),
        ("prompt.template=Label: {text}", "prompt.template", "Label: {text}"),
        ("prompt.template=# {text}", "prompt.template", "# {text}"),
        ("prompt.system=[not yaml", "prompt.system", "[not yaml"),
        ("prompt.system=", "prompt.system", None),
    ],
)
def test_overrides(override: str, path: str, value: Any) -> None:
    found: Any = recipe.parse(with_(model="tiny"), overrides=[override])
    for part in path.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_an_override_keeps_other_keys_of_its_section() -> None:
    chosen = recipe.parse(
        with_(model="tiny"),
        overrides=["model.dtype=float32", "data.train.split=x", "variants.tuned.method=dora"],
    )
    assert (chosen.model.name, chosen.model.dtype) == ("tiny", "float32")
    assert (chosen.data.train.path, chosen.data.train.split) == ("a.csv", "x")
    assert list(chosen.variants) == ["majority", "tuned"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set expects key=value"),
        ("=1", "--set expects key=value"),
        ("seed.x=1", "'seed' is a single value, not a section"),
        ("name.x=1", "'name' is a single value, not a section"),
    ],
)
def test_malformed_overrides(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe.parse(with_(seed=3), overrides=[override])


def test_an_override_with_an_unknown_key_is_reported() -> None:
    assert problems(with_(), "trainig.learning_rate=1") == [
        "trainig: unknown key (did you mean 'training'?)"
    ]


def test_a_split_inherits_and_overrides_source_options() -> None:
    data = recipe.parse(
        with_(
            data={
                "train": "a.csv",
                "test": {"path": "b.txt", "delimiter": "|", "header": True},
                "delimiter": ";",
                "header": False,
            }
        )
    ).data
    assert (data.source("train").delimiter, data.source("train").header) == (";", False)
    assert (data.source("test").delimiter, data.source("test").header) == ("|", True)
    with pytest.raises(KeyError):
        data.source("validation")


@pytest.mark.parametrize("name", recipe.shipped_names())
def test_every_shipped_recipe_loads_and_round_trips(name: str) -> None:
    chosen, base = recipe.load(name)
    assert chosen.name == name
    assert base == Path()
    assert_reads_back(chosen)
    assert recipe.describe_shipped()[name].endswith(".")


def assert_reads_back(chosen: recipe.Recipe) -> None:
    """The same recipe, also in what its splits and variants inherit."""
    again = recipe.parse(yaml.load(recipe.dump(chosen), Loader=recipe.loading.RecipeLoader))
    assert again == chosen
    assert recipe.dump(again) == recipe.dump(chosen)
    assert again.data.source("train") == chosen.data.source("train")
    for name, variant in chosen.variants.items():
        if variant.prompt is not None:
            prompt = again.variants[name].prompt
            assert prompt is not None and prompt.model_fields_set == variant.prompt.model_fields_set


texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12
) | st.sampled_from(
    [
        "no",
        "yes",
        "on",
        "null",
        "~",
        "1e-3",
        "0x1F",
        "1_000",
        "2024-01-01",
        "12:30",
        "true",
        "- a",
        "#",
        "{x}",
        ".inf",
        "=",
    ]
)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
prompts = st.fixed_dictionaries(
    {},
    optional={
        "template": texts,
        "system": texts,
        "chat": st.booleans(),
        "max_length": st.integers(9, 99),
    },
)
variants = st.one_of(
    st.just({"kind": "tfidf"}),
    st.fixed_dictionaries(
        {"kind": st.just("few-shot")}, optional={"shots": st.integers(1, 9), "prompt": prompts}
    ),
    st.fixed_dictionaries(
        {"kind": st.just("prompted")}, optional={"candidates": st.lists(texts), "prompt": prompts}
    ),
    st.fixed_dictionaries(
        {"kind": st.just("tuned")},
        optional={"method": st.sampled_from(["lora", "full"]), "prompt": prompts},
    ),
)
sources = texts | st.fixed_dictionaries(
    {"path": texts}, optional={"delimiter": texts, "header": st.booleans(), "label": texts}
)
bins = st.dictionaries(texts, st.tuples(st.none() | st.floats(0, 1), st.none() | st.floats(1, 2)))


def with_labels(data: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Data whose labels are mapped, binned or neither."""
    return st.one_of(
        st.just(data),
        st.dictionaries(texts, texts).map(lambda v: {**data, "labels": v}),
        bins.map(lambda v: {**data, "bins": v}),
    )


recipes = st.fixed_dictionaries(
    {
        "name": names,
        "variants": st.dictionaries(names, variants, min_size=1, max_size=3),
        "data": st.fixed_dictionaries(
            {"train": sources},
            optional={
                "test": sources,
                "delimiter": texts,
                "header": st.booleans(),
                "text": texts | st.lists(texts) | st.dictionaries(texts, texts),
            },
        ).flatmap(with_labels),
    },
    optional={"prompt": prompts, "seed": st.integers(0, 9), "forgetting": texts, "model": texts},
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(recipes)
def test_dump_and_parse_round_trip(values: dict[str, Any]) -> None:
    assert_reads_back(recipe.parse(values))


def test_booleans_follow_yaml_1_2(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "name: x\ndata: {train: a.csv, labels: {0: no, 1: yes}, header: false}\nvariants: "
        "[majority]\n"
    )
    chosen, base = recipe.load(file)
    assert chosen.data.labels == {"0": "no", "1": "yes"}
    assert chosen.data.header is False
    assert base == tmp_path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a mapping with the keys data and variants, found an empty file"),
        (b"- a\n- b\n", "found list"),
        (b"name: [", "is not valid YAML"),
        (b"name: \xff\xfe", "is not a recipe: not valid UTF-8 at byte 6"),
        (b"name: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_files_that_are_not_recipes(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        recipe.load(file)
    assert message in str(caught.value)


def test_a_data_file_given_as_recipe_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    file.write_text("text,label\nURGENT: my tablet,a\n")
    with pytest.raises(
        UsageError,
        match=r"reviews.csv is a data file, not a recipe; .*'prooftune init .*reviews.csv'",
    ):
        recipe.load(file)


def test_yaml_errors_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: x\ndata: {train: a.csv\nvariants: [majority]\n")
    with pytest.raises(UsageError, match=r"r.yaml is not valid YAML: line 3, column 9: "):
        recipe.load(file)


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ("a: 1", "a: 1", []),
        ("a: 1", "a: 2", ["a 1, now 2"]),
        ("a: {b: 1, c: 2}", "a: {b: 1, c: }", ["a.c 2, now none"]),
        ("a: {b: 1}", "a: {c: 1}", ["a.b, now removed", "a.c, newly added"]),
        ("a: [1]", "a: [1, 2]", ["a [1], now [1, 2]"]),
        ("a: [", "a: 1", ["a recipe that cannot be read"]),
        ("", "a: 1", ["a recipe that cannot be read"]),
        ("key: sk-abcdefghijklmnopqrstuvwx", "key: b", ["key [removed], now b"]),
    ],
)
def test_differences_between_recipes(before: str, now: str, found: list[str]) -> None:
    assert recipe.differences(before, now) == found


def test_an_unknown_recipe_name_suggests_a_shipped_one() -> None:
    with pytest.raises(
        UsageError, match=r"recipe 'dmeo' not found: neither a file nor .*\(did you mean 'demo'\?\)"
    ):
        recipe.load("dmeo")


def test_recipe_and_command_line_have_the_same_chunking_defaults() -> None:
    from prooftune.retrieval.chunks import CHUNK_OVERLAP, CHUNK_WORDS

    section = recipe.Retrieval(documents="d")
    assert (section.chunk_words, section.overlap_words) == (CHUNK_WORDS, CHUNK_OVERLAP)


@pytest.mark.parametrize("template", ["{text}", "{text}, {labels}", "Label: {text}", "{text}: 1"])
def test_a_template_on_the_command_line_stays_a_text(template: str) -> None:
    values = {"name": "r", "data": {"train": "t.csv"}, "variants": ["tuned"]}
    assert recipe.parse(values, "r", [f"prompt.template={template}"]).prompt.template == template
    quoted = recipe.parse(values, "r", ['prompt.template="{text}\\n"'])
    assert quoted.prompt.template == "{text}\n"
    assert recipe.parse(values, "r", ["prompt.system=null"]).prompt.system is None
