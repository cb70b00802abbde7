# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-ESM on proteins, in the two kinds of ESM that there are checkpoints of."""

import pytest
import torch
from model_cases import assert_same_outputs, context_pools
from safetensors.torch import load_file, save_file
from text_cases import run
from torch import nn
from transformers import AutoModelForMaskedLM, AutoTokenizer, EsmConfig, EsmForMaskedLM, EsmModel, EsmTokenizer
from transformers.models.esm.configuration_esm import get_default_vocab_list

from cp_transformers import CPEsmConfig, CPEsmForMaskedLM, CPEsmModel, convert_checkpoint, convert_model
from cp_transformers.checkpoints.conversion import CheckpointError, cut_layers
from cp_transformers.checkpoints.parity import parity


PROTEINS = ["MKTAYIAKQRQISFVKSHFSRQ", "MKV<mask>LAAGG", "G<mask>"]
SIZES = {
    "vocab_size": 33,
    "pad_token_id": 1,
    "mask_token_id": 32,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 66,
    "initializer_range": 0.1,
    "token_dropout": True,
    "attn_implementation": "eager",
}
KINDS = {
    "esm1b": {"position_embedding_type": "absolute", "emb_layer_norm_before": True},
    "esm2": {"position_embedding_type": "rotary", "emb_layer_norm_before": False},
}
VARIANTS = {
    "attention": {"pool_range": 0.5},
    "block": {"pool_range": 0.5, "pool_placement": "block", "pool_num_heads": 2},
    "strided": {"pool_strides": [1, 2, 2], "pool_layers": [0]},
    "restored": {"pool_strides": [2, 1, 1], "pool_restore_layer": 2},
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> EsmTokenizer:
    file = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    file.write_text("\n".join(get_default_vocab_list()))
    return EsmTokenizer(str(file))


@pytest.fixture
def inputs(tokenizer) -> dict[str, torch.Tensor]:
    return dict(tokenizer(PROTEINS, padding=True, return_tensors="pt"))


def make_model(**fields) -> CPEsmModel:
    model = CPEsmModel(CPEsmConfig(**SIZES, **fields)).eval()
    for pool in context_pools(model):
        nn.init.normal_(pool.proj.weight, std=0.5)
    return model


@every_kind
def test_a_conversion_equals_its_source_and_reads_the_same_residues(kind, tokenizer, inputs, tmp_path):
    stock = EsmForMaskedLM(EsmConfig(**SIZES, **kind)).eval()
    stock.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    record = convert_checkpoint(tmp_path / "source", tmp_path / "cp", pool_num_heads=2, pool_max_offset=2.0)
    assert record["parity"]["max_abs_difference"] == 0.0
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "cp", attn_implementation="eager").eval()
    assert type(model) is CPEsmForMaskedLM and parity(stock, model) == 0.0
    loaded = AutoTokenizer.from_pretrained(tmp_path / "cp")
    assert type(loaded) is EsmTokenizer
    assert torch.equal(loaded(PROTEINS, padding=True, return_tensors="pt")["input_ids"], inputs["input_ids"])
    assert_same_outputs(run(model, inputs), run(stock, inputs), atol=1e-6)
    contacts = [each.predict_contacts(inputs["input_ids"], inputs["attention_mask"]) for each in (model, stock)]
    assert_same_outputs(*contacts, atol=1e-6)


@every_kind
@every_variant
def test_a_protein_is_the_same_alone_and_in_a_batch(kind, variant, inputs):
    model = make_model(**kind, **variant)
    batch = run(model, inputs).last_hidden_state
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1)):
        alone = run(model, {name: each[row : row + 1, :length] for name, each in inputs.items()}).last_hidden_state
        assert_same_outputs(batch[row : row + 1, :length], alone, atol=1e-4)


@every_kind
def test_contacts_of_a_cut_model_are_those_of_the_layers_that_are_left(kind, inputs):
    stock = EsmModel(EsmConfig(**SIZES, **kind)).eval()
    models = [cut_layers(stock, [0, 1]), convert_model(stock, [0, 1])]
    with torch.no_grad():
        stock.contact_head.regression.weight[:, -SIZES["num_attention_heads"] :] = 0.0  # those of the last layer
        contacts = [each.predict_contacts(inputs["input_ids"], inputs["attention_mask"]) for each in (stock, *models)]
    for each in contacts[1:]:
        assert_same_outputs(each, contacts[0], atol=1e-6)


def test_contacts_of_residues_that_are_not_all_kept_are_refused(inputs):
    model = make_model(pool_strides=[1, 2, 1])
    with pytest.raises(ValueError, match="whose layers keep all tokens"):
        model.predict_contacts(inputs["input_ids"], inputs["attention_mask"])


def test_a_resized_head_has_a_bias_for_every_token(inputs):
    model = CPEsmForMaskedLM(CPEsmConfig(**SIZES)).eval()
    nn.init.normal_(model.lm_head.bias)
    model.lm_head.bias.requires_grad_(False)
    before, bias = run(model, inputs).logits, model.lm_head.bias
    for size in (40, 33):
        model.resize_token_embeddings(size, mean_resizing=False)
        assert model.lm_head.bias.shape == (size,) and not model.lm_head.bias.requires_grad
        assert torch.equal(model.lm_head.bias[:33], bias) and not model.lm_head.bias[33:].any()
        assert torch.equal(run(model, inputs).logits[..., :33], before)


def test_the_folding_model_is_refused(tmp_path):
    EsmConfig(**SIZES, architectures=["EsmForProteinFolding"]).save_pretrained(tmp_path / "source")
    with pytest.raises(CheckpointError, match="EsmForProteinFolding cannot be converted; the classes that can are"):
        convert_checkpoint(tmp_path / "source", tmp_path / "cp")


@pytest.mark.parametrize("converted", [True, False], ids=["converted", "loaded"])
def test_frequencies_of_older_checkpoints_are_kept(converted, tmp_path):
    """Each layer had a copy of them, which had been rounded."""
    stock = EsmForMaskedLM(EsmConfig(**SIZES, **KINDS["esm2"])).eval()
    stock.save_pretrained(tmp_path / "source")
    weights = load_file(tmp_path / "source" / "model.safetensors")
    frequencies = weights.pop("esm.rotary_embeddings.inv_freq", stock.esm.rotary_embeddings.inv_freq) + 0.25
    for layer in range(3):
        weights[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = frequencies.clone()
    save_file(weights, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    expected = EsmForMaskedLM.from_pretrained(tmp_path / "source", attn_implementation="eager")
    assert torch.equal(expected.esm.rotary_embeddings.inv_freq, frequencies)
    if converted:
        convert_checkpoint(tmp_path / "source", tmp_path / "cp")
        model = CPEsmForMaskedLM.from_pretrained(tmp_path / "cp", attn_implementation="eager")
    else:
        config = CPEsmConfig(**SIZES, **KINDS["esm2"], pool_gate=True)
        model = CPEsmForMaskedLM.from_pretrained(tmp_path / "source", config=config)
    assert torch.equal(model.esm.rotary_embeddings.inv_freq, frequencies)
    assert parity(expected, model) == 0.0


@pytest.mark.parametrize("strides", [None, [2, 1, 2]], ids=["", "strided"])
def test_rotary_positions_say_only_how_far_residues_are_apart(strides, inputs):
    model = make_model(**KINDS["esm2"], pool_strides=strides)
    expected = run(model, inputs).last_hidden_state
    positions = torch.arange(inputs["input_ids"].shape[1])
    for moved, differs in ((positions + 17, False), (2 * positions, True)):
        states = run(model, inputs, position_ids=moved.expand(3, -1)).last_hidden_state
        difference = (states - expected)[inputs["attention_mask"].bool()].abs().max()
        assert difference > 1e-3 if differs else difference < 1e-4


def test_a_strided_layer_turns_groups_by_the_mean_position_of_their_residues(inputs):
    model, seen = make_model(**KINDS["esm2"], pool_strides=[2, 1, 1], pool_layers=[]), []
    attention = model.encoder.layer[0].attention.self
    attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_embeddings"]), with_kwargs=True
    )
    inputs = {
        name: each[:1, :10] for name, each in inputs.items()
    }  # the class token and nine more: four pairs and one
    run(model, inputs)
    centres = torch.tensor([[0.0, 1.5, 3.5, 5.5, 7.5, 9.0]])
    assert_same_outputs(seen[0], model.rotary_embeddings(torch.zeros(1), centres), atol=1e-6)
