# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Models compared by their outputs, and written weights by every tensor."""

import pytest
import torch
import transformers
from conversion_cases import tiny_stock
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from cp_transformers import CPBertModel
from cp_transformers.checkpoints.conversion import convert_checkpoint, convert_model, cut_layers
from cp_transformers.checkpoints.hub import export_checkpoint
from cp_transformers.checkpoints.parity import parity
from cp_transformers.checkpoints.reading import CheckpointError
from cp_transformers.models.context_pool import BaseContextPool


@pytest.mark.parametrize("name", ["BertForPreTraining", "ViTForMaskedImageModeling", "ResNetForImageClassification"])
def test_parity_sees_any_open_gate(name):
    stock = tiny_stock(name)
    options = {"pool_global": True} if name.startswith("ResNet") else {"pool_range": 0.5}
    converted = convert_model(stock, **options)
    gates = [module.gate for module in converted.modules() if isinstance(module, BaseContextPool)]
    assert len(gates) == (2 if name.startswith("ResNet") else 4)
    assert parity(stock, converted) == 0.0
    for gate in gates:
        with torch.no_grad():
            gate[0] = 0.1
            assert parity(stock, converted) > 0.0
            gate[0] = 0.0


@pytest.mark.parametrize(
    ("name", "options", "lacks"),
    [
        ("BertModel", {"add_pooling_layer": False}, "pooler"),
        ("ViTModel", {"add_pooling_layer": False}, "pooler"),  # DINO's
        ("ViTModel", {"use_mask_token": True}, None),
    ],
)
def test_bare_models_keep_the_options_that_they_were_built_with(name, options, lacks, tmp_path):
    stock = getattr(transformers, name)(tiny_stock(name).config, **options)
    stock.save_pretrained(tmp_path / "source")
    convert_checkpoint(tmp_path / "source", tmp_path / "cp", layers="first:2")
    exported = export_checkpoint(tmp_path / "cp", tmp_path / "export")
    loaded, info = AutoModel.from_pretrained(tmp_path / "export", output_loading_info=True, **options)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for model in (exported, loaded, convert_model(stock, [0, 1])):
        assert parity(cut_layers(stock, [0, 1]), model) == 0.0
        assert not any(key.startswith("pooler") for key in model.state_dict()) or lacks is None
        assert ("embeddings.mask_token" in model.state_dict()) is ("use_mask_token" in options)


def test_weights_that_are_written_wrongly_are_noticed(source, tmp_path, monkeypatch):
    save = CPBertModel.save_pretrained

    def save_badly(model, folder, **kwargs):
        save(model, folder, **kwargs)
        weights = load_file(folder / "model.safetensors")
        weights["encoder.layer.0.output.dense.bias"] += 1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(CPBertModel, "save_pretrained", save_badly)
    with pytest.raises(CheckpointError, match="cannot be loaded as it was saved"):
        convert_checkpoint(source, tmp_path / "cp")
    assert not (tmp_path / "cp").exists()
