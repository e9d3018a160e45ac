"""Tiny random encoders over the words of the small studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from study.small import COMMON, TOPICS

WORDS = [*COMMON, *(word for words in TOPICS.values() for word in words)]
FAMILIES = ("bert", "modernbert", "xlm-roberta", "deberta-v2")


def encoder_folder(folder: Path, family: str = "bert", seed: int = 0, hidden: int = 32) -> Path:
    """A 2-layer random encoder without a classification head, and its tokenizer.

    Args:
        folder: to write.
        family: one of `FAMILIES`.
        seed: of the weights.
        hidden: dimensions.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = [*special, *WORDS, *map(str, range(10))]
    raw = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    types = ["token_type_ids"] if family in ("bert", "deberta-v2") else []
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", *types, "attention_mask"],
    )
    options: dict[str, Any] = {
        "vocab_size": len(names),
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,
        "pad_token_id": 0,
    }
    if family == "modernbert":
        options |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        options |= {"local_attention": 16, "global_attn_every_n_layers": 2}
        options["initializer_cutoff_factor"] = 2.0
    if family == "deberta-v2":
        options |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
        options |= {"type_vocab_size": 2, "pooler_hidden_size": hidden}
    config = transformers.AutoConfig.for_model(family, **options)
    torch.manual_seed(seed)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
