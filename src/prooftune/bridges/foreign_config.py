"""A config of another tool while it is read: every key becomes a recipe option or is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prooftune.preflight.training_fields import REFUSED
from prooftune.recipe.library_fields import LIBRARY_CLASSES, library_fields
from prooftune.recipe.old_names import OLD_NAMES

Convert = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one key.

    Attributes:
        new: dotted recipe key; empty if the key has no counterpart.
        convert: old value -> new value; raises ValueError if there is no equivalent.
        reason: why there is no counterpart.
    """

    new: str = ""
    convert: Convert | None = None
    reason: str = ""


@dataclass(slots=True)
class ForeignConfig:
    """Keys that are still to be read, and the recipe as far as it is known.

    Attributes:
        values: top-level keys that are not read yet.
        recipe: the recipe, as nested dictionaries.
        taken: one sentence per key that became an option.
        dropped: one sentence per key without a counterpart, with the reason.
        to_do: what the user has to set before the recipe runs, one sentence each.
    """

    values: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)

    def take(self, key: str) -> Any:
        """Remove a key and return its value; None if it is missing or empty."""
        return self.values.pop(key, None)

    def set(self, option: str, value: object, source: str) -> None:
        """Set a dotted recipe option, and note from which key it comes.

        An option that is set already keeps its value; the other key is reported as dropped.
        """
        *parents, last = option.split(".")
        section = self.recipe
        for parent in parents:
            section = section.setdefault(parent, {})
        if last in section and section[last] != value:
            self.drop(source, f"{option} is {section[last]} already")
            return
        section[last] = value
        self.taken.append(f"{source} -> {option}: {value}")

    def drop(self, source: str, reason: str) -> None:
        self.dropped.append(f"{source}: {reason}")

    def apply(self, rules: Mapping[str, Rule]) -> None:
        """Read the keys for which there is a rule; keys without a value set nothing."""
        for key, rule in rules.items():
            if key in self.values and (value := self.take(key)) is not None:
                self._apply(key, value, rule)

    def apply_known_names(self) -> None:
        """Read the remaining keys by the names that recipes know; report those that are unknown."""
        for key in list(self.values):
            value = self.take(key)
            if value is None or value in ("", [], {}):
                continue
            if key in OLD_NAMES:
                old = OLD_NAMES[key]
                self._apply(key, value, Rule(old.new, old.convert, old.reason))
                continue
            # Most tools pass the fields of TrainingArguments and LoraConfig through under their own
            # names.
            library = next((n for n in LIBRARY_CLASSES if key in library_fields(n)), None)
            if library == "training" and key in REFUSED and value is not False:
                self.drop(f"{key}: {_shown(value)}", REFUSED[key].removesuffix("; remove it"))
            elif library is not None:
                self._apply(key, value, Rule(f"{library}.{key}"))
            else:
                self.drop(f"{key}: {_shown(value)}", "no counterpart")

    def _apply(self, key: str, value: object, rule: Rule) -> None:
        source = f"{key}: {_shown(value)}"
        if not rule.new:
            self.drop(source, rule.reason)
            return
        try:
            self.set(rule.new, rule.convert(value) if rule.convert else value, source)
        except ValueError as error:
            self.drop(source, str(error) or f"no equivalent value of {rule.new}")


def flatten(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested sections, as dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.{key}")
        elif value is not None:
            yield f"{path}.{key}", value


def set_times_per_epoch(config: ForeignConfig, key: str, option: str, epochs: float) -> None:
    """Read ``evals_per_epoch`` and the like.

    Args:
        config: the config, of which `key` is taken.
        key: the key with the number of times; 0 means never.
        option: ``eval`` or ``save``, the beginning of the options of `TrainingArguments`.
        epochs: the number of epochs.
    """
    times = config.take(key)
    if times is None:
        return
    source = f"{key}: {times}"
    if isinstance(times, bool) or not isinstance(times, int | float) or times < 0:
        config.drop(source, "not a number of times per epoch")
    elif times == 0:
        config.set(f"training.{option}_strategy", "no", source)
    else:
        config.set(f"training.{option}_strategy", "steps", source)
        # transformers takes a value below 1 as a share of all steps.
        config.set(f"training.{option}_steps", round(1 / (times * epochs), 6), source)


def checkpointing(value: object) -> bool:
    """Whether activations are recomputed; Axolotl also names where they are stored meanwhile."""
    return value in (True, "true", "unsloth", "offload", "offload_disk")


def bf16(value: object) -> bool:
    """Axolotl's and Lightning's ``auto`` is the default of recipes."""
    if not isinstance(value, bool):
        raise ValueError("by default a recipe computes in bfloat16 wherever the hardware does")
    return value


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


COMMON = {"seed": Rule("seed")} | {
    key: Rule(reason=reason)
    for key, reason in {
        "output_dir": "the run folder is runs/NAME, or set by --out",
        "resume_from_checkpoint": "the same 'prooftune run' again resumes a killed run",
        "overwrite_cache": "caches are keyed by content",
        "preprocessing_num_workers": "rows are tokenised once, before training",
        "dataset_num_proc": "rows are tokenised once, before training",
        "dataset_prepared_path": "rows are tokenised once, before training",
        "dataloader_num_workers": "batches are made in the training process",
        "ddp_timeout": "docs/scale.md says how several GPUs are used",
        "ddp_find_unused_parameters": "every parameter is used in every step",
        "local_rank": "torchrun sets it",
        "plot_loss": "the report draws the training curves",
        "do_train": "prooftune run trains",
        "do_eval": "validation rows are always evaluated",
        "flash_attention": "model.attention: auto chooses the fastest attention here",
        "flash_attn": "model.attention: auto chooses the fastest attention here",
        "attn_implementation": "model.attention: auto chooses the fastest attention here",
        "xformers_attention": "model.attention: auto chooses the fastest attention here",
        "sdp_attention": "model.attention: auto chooses the fastest attention here",
        "use_cache": "the KV cache is not used in training",
        "chat_template": "the chat template comes with the model; prompt.chat switches it on",
        "hub_model_id": "prooftune publish uploads the bundle",
        "push_to_hub": "prooftune publish uploads the bundle",
        "hub_strategy": "prooftune publish uploads the bundle",
        "save_only_model": "checkpoints are for resuming; the bundle holds the model",
        "wandb_entity": "set WANDB_ENTITY",
        "wandb_watch": "set WANDB_WATCH",
        "wandb_log_model": "set WANDB_LOG_MODEL",
    }.items()
}
"""Keys of several tools: mostly those whose work a recipe does without an option."""
