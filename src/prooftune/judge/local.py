"""A local judge: a model in this process behind the same interface as an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prooftune.chat_client.types import Message
from prooftune.engine.generation import generate
from prooftune.engine.precision import autocast
from prooftune.errors import UsageError
from prooftune.judge.types import CompletionFn
from prooftune.models import loading
from prooftune.recipe import Model
from prooftune.utils.progress import progress_bar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def local_completion_fn(
    name: str, max_tokens: int, context: int = 4096
) -> tuple[CompletionFn, str]:
    """Load a model as a judge.

    Args:
        name: as in the recipe's ``model.name``.
        max_tokens: tokens of a reply.
        context: tokens of prompt and reply together; longer prompts lose their beginning.

    Returns:
        The completion function, and the digest of the model's weights.

    Raises:
        UsageError: there is no such model, or it has no chat template.
    """
    folder = loading.resolve(name)
    tokenizer = loading.load_tokenizer(folder)
    if not tokenizer.chat_template:
        raise UsageError(
            f"judge.model: {name} has no chat template, so it cannot judge; use a chat model"
        )
    # A list, which the closure fills at its first call.
    loaded: list[Any] = []

    def complete(prompts: list[list[Message]], /) -> list[str]:
        if not loaded:  # loaded only if a reply is missing from the cache
            loaded.append(loading.load_model(folder, Model(name=name)))
        [model] = loaded
        stop = int(tokenizer.eos_token_id)
        # The end of a prompt asks for the score, so the beginning is what can go.
        rows = [_ids(tokenizer, messages)[-(context - max_tokens) :] for messages in prompts]
        texts = [""] * len(rows)
        with autocast(model), progress_bar("Judging", len(rows)) as progress:
            for indices, outputs in generate(model, [], rows, stop, max_new_tokens=max_tokens):
                for index, generated in zip(indices, outputs, strict=True):
                    texts[index] = str(tokenizer.decode(generated.ids, skip_special_tokens=True))
                progress.advance(0, len(indices))  # type: ignore[arg-type]
        return texts

    return complete, loading.weights_digest(folder)


def _ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # The template has written the special tokens already.
    return list(tokenizer(text, add_special_tokens=False).input_ids)
