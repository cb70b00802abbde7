# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Tokenizers, image processors and the files of sentence-transformers come along with a converted model."""

import json
from pathlib import Path

import numpy as np
import pytest
from conversion_cases import SENTENCE_MODULES, tiny_stock, write_sentence_files
from transformers import AutoImageProcessor, AutoTokenizer, ViTImageProcessorPil

from cp_transformers.checkpoints.conversion import convert_checkpoint
from cp_transformers.checkpoints.hub import export_checkpoint
from cp_transformers.checkpoints.reading import CheckpointError


def test_the_image_processor_comes_along_as_it_is(tmp_path):
    tiny_stock("ViTModel").save_pretrained(tmp_path / "source")
    ViTImageProcessorPil(size={"height": 8, "width": 8}, resample=3).save_pretrained(tmp_path / "source")
    convert_checkpoint(tmp_path / "source", tmp_path / "cp")
    name = "preprocessor_config.json"
    assert (tmp_path / "cp" / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "cp", backend="pil")
    assert (processor.size["height"], int(processor.resample)) == (8, 3)


def test_a_tokenizer_of_another_kind_comes_along(source, tmp_path):
    (source / "vocab.txt").unlink()
    words = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "ab"])}
    (source / "vocab.json").write_text(json.dumps(words))
    (source / "merges.txt").write_text("#version: 0.2\na b\n")
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    convert_checkpoint(source, tmp_path / "cp")
    theirs, ours = (AutoTokenizer.from_pretrained(folder)("abba")["input_ids"] for folder in (source, tmp_path / "cp"))
    assert ours == theirs and 7 in ours


@pytest.fixture
def sentence_source(source) -> Path:
    return write_sentence_files(source)


def test_sentence_transformers_gives_the_embeddings_of_the_source(sentence_source, tmp_path):
    SentenceTransformer = pytest.importorskip("sentence_transformers").SentenceTransformer
    record = convert_checkpoint(sentence_source, tmp_path / "cp")
    assert {"modules.json", "1_Pooling/config.json"} < {*record["processor_files"]}
    convert_checkpoint(sentence_source, tmp_path / "cp", overwrite=True)
    export_checkpoint(tmp_path / "cp", tmp_path / "export")
    texts = ["a good film good bad", "bad"]
    expected = SentenceTransformer(str(sentence_source), device="cpu").encode(texts)
    assert np.linalg.norm(expected, axis=1) == pytest.approx(1)
    for folder in (tmp_path / "cp", tmp_path / "export"):
        model = SentenceTransformer(str(folder), device="cpu")
        assert "CPBertModel" in str(model)
        assert np.abs(model.encode(texts) - expected).max() < 1e-6


@pytest.mark.parametrize(
    "module", [{"type": "evil.Transformer"}, {"path": "../1_Pooling"}, {"path": "1_Pooling/../.."}, {"type": None}]
)
def test_modules_that_are_not_those_of_sentence_transformers_are_left(module, sentence_source, tmp_path, caplog):
    modules = [*SENTENCE_MODULES[:2], {**SENTENCE_MODULES[2], **module}]
    (sentence_source / "modules.json").write_text(json.dumps(modules))
    convert_checkpoint(sentence_source, tmp_path / "cp")
    names = {path.name for path in (tmp_path / "cp").iterdir()}
    assert not names & {"modules.json", "sentence_bert_config.json", "1_Pooling"}
    assert f"{sentence_source} has modules that are not sentence-transformers' own, which are not" in caplog.text


def test_weights_of_modules_that_are_pickles_are_left_and_named(sentence_source, tmp_path, caplog):
    (sentence_source / "1_Pooling" / "pytorch_model.bin").write_bytes(b"any")
    convert_checkpoint(sentence_source, tmp_path / "cp")
    assert not [*(tmp_path / "cp").rglob("*.bin")] and "copied: 1_Pooling/pytorch_model.bin." in caplog.text


def test_a_tokenizer_s_file_that_is_a_link_to_nowhere_is_not_passed_over(source, tmp_path):
    (source / "vocab.txt").unlink()
    (source / "vocab.txt").symlink_to(tmp_path / "not-mounted")
    with pytest.raises(CheckpointError, match=r"vocab\.txt is a link that leads nowhere"):
        convert_checkpoint(source, tmp_path / "cp")
