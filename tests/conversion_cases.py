# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Conversion: the small models that its tests share."""

import hashlib
import json
from pathlib import Path

import transformers
from model_cases import MODELS
from transformers import BertConfig, BertModel, DebertaV2Tokenizer, ResNetConfig, ViTConfig


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "good", "bad"]


def tiny_config(**kwargs) -> BertConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
    return BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=40, **{**sizes, **kwargs})


def tiny_stock(name: str) -> transformers.PreTrainedModel:
    """A new model of the upstream class `name`."""
    if name.startswith("Bert"):
        config = tiny_config()
    elif name.startswith("ViT"):
        sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
        config = ViTConfig(image_size=8, patch_size=2, encoder_stride=2, **sizes)
    elif name.startswith("ResNet"):
        config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2])
    else:
        config = next(case for case in MODELS if case.stock_class.__name__ == name).stock_config(num_hidden_layers=4)
    return getattr(transformers, name)(config)


def make_source(folder: Path) -> Path:
    """A small stock checkpoint of BERT with its tokenizer."""
    BertModel(tiny_config()).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def write_deberta_v2_tokenizer(folder: Path) -> DebertaV2Tokenizer:
    """A tokenizer of a few words beside a checkpoint of DeBERTa-v2."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*"abcdefghijklmnopqrstuvwxyz", "▁", "▁a", "▁film", "▁story", "▁good"]
    tokenizer = DebertaV2Tokenizer(vocab=[(each, 0.0) for each in special] + [(each, -1.0) for each in words])
    tokenizer.save_pretrained(folder)
    return tokenizer


SENTENCE_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
SENTENCE_FILES = ["modules.json", "sentence_bert_config.json", "1_Pooling/config.json"]


def write_sentence_files(folder: Path) -> Path:
    """Makes a checkpoint one of sentence-transformers."""
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    contents = [SENTENCE_MODULES, {"max_seq_length": 3, "do_lower_case": False}, pooling]
    for name, content in zip(SENTENCE_FILES, contents):
        (folder / name).write_text(json.dumps(content))
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
