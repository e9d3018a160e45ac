"""A random BERT with a vocabulary of its own, and small collections of documents made here."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

VOCABULARY = [
    "apple",
    "pear",
    "plum",
    "grape",
    "melon",
    "bank",
    "loan",
    "rate",
    "credit",
    "money",
    "tree",
    "leaf",
    "root",
    "river",
    "stone",
    "law",
    "court",
    "judge",
    "rule",
    "duty",
    "train",
    "track",
    "wheel",
    "engine",
    "smoke",
]


def bert(
    folder: Path, *, hidden: int = 32, seed: int = 0, outputs: int | None = None, length: int = 64
) -> Path:
    """A 2-layer random BERT over `VOCABULARY` as a model folder; with `outputs`, it has a
    classification head."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertModel,
        PreTrainedTokenizerFast,
    )

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *VOCABULARY]
    raw = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=length,
    )
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=length,
        initializer_range=0.3,
        num_labels=outputs or 2,
    )
    torch.manual_seed(seed)
    model: Any = BertForSequenceClassification(config) if outputs else BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def texts(n: int, seed: int = 0, words: int = 30) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(VOCABULARY, k=words)).capitalize() + "." for _ in range(n)]


def collection(folder: Path, n: int = 6, words: int = 30) -> Path:
    """n text files a.txt, b.txt … of three paragraphs each."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (folder / f"{chr(97 + i)}.txt").write_text(
            "\n\n".join(texts(3, seed=i, words=words)), encoding="utf-8"
        )
    return folder


def pdf(pages: list[str | None], password: str | None = None) -> bytes:
    """A PDF with a line of text on each page; None: a page with nothing but a drawn box, as a scan
    has no text."""
    import io

    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = writer._add_object(
        DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
    )
    for text in pages:
        page = writer.add_blank_page(612, 792)
        stream = DecodedStreamObject()
        stream.set_data(
            f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode() if text else b"10 10 50 50 re f"
        )
        page[NameObject("/Contents")] = writer._add_object(stream)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
    if password is not None:
        writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()
