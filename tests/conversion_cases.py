# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Conversion: the small models that its tests share."""

import hashlib
import json
from pathlib import Path

import transformers
from transformers import BertConfig, BertModel, ResNetConfig

from cp_transformers.families import FAMILIES


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "good", "bad"]


def tiny_config(**kwargs) -> BertConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
    return BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=40, **{**sizes, **kwargs})


def tiny_stock(name: str) -> transformers.PreTrainedModel:
    """A new model of the upstream class `name`."""
    sizes: dict[str, object] = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    if name.startswith("Bert"):
        config = tiny_config()
    elif name.startswith("ResNet"):
        config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2])
    else:
        family = next(family for family in FAMILIES.values() if name in family.models)
        if family.is_text:
            sizes |= {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40}
        else:
            sizes |= {"image_size": 8, "patch_size": 2}
        known = family.stock_config_class().to_dict()
        more = {"intermediate_size": 24, "hidden_dim": 24, "mlp_ratio": 2, "encoder_stride": 2}
        config = family.stock_config_class(**{**sizes, **{field: more[field] for field in more if field in known}})
    return getattr(transformers, name)(config)


def make_source(folder: Path) -> Path:
    """A small stock checkpoint of BERT with its tokenizer."""
    BertModel(tiny_config()).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
