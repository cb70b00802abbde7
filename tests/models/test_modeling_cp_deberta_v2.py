# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-DeBERTa-v2: the fields that upstream does not declare, and the keywords that it does not hand down."""

import pytest
import torch
from conversion_cases import write_deberta_v2_tokenizer
from model_cases import CASES, assert_same_outputs, context_pools
from text_cases import UNSTRIDED, run
from transformers import AutoModelForMaskedLM, AutoTokenizer, DebertaV2ForMaskedLM, DebertaV2Tokenizer

from cp_transformers import CPDebertaV2ForMaskedLM, CPDebertaV2Model, convert_checkpoint
from cp_transformers.checkpoints.parity import parity


OF_DEBERTA = {case.model_class.__name__.removeprefix("CPDebertaV2"): case for case in CASES["deberta-v2"]}
BASE, MASKED_LM = OF_DEBERTA["Model"], OF_DEBERTA["ForMaskedLM"]
# Of the checkpoints on the Hub: those of version 2 have a convolution after the first layer.
VERSIONS = {
    "2": {
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
        "attention_head_size": 8,
        "type_vocab_size": 0,
    },
    "3": {
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "type_vocab_size": 0,
        "legacy": False,
    },
    "without_relative_positions": {"relative_attention": False, "pos_att_type": None},
}
every_version = pytest.mark.parametrize("fields", VERSIONS.values(), ids=VERSIONS)
every_variant = pytest.mark.parametrize("variant", UNSTRIDED.values(), ids=UNSTRIDED)


@every_version
def test_a_conversion_carries_the_fields_that_upstream_does_not_declare(fields, tmp_path):
    stock = DebertaV2ForMaskedLM(MASKED_LM.stock_config(**fields, num_hidden_layers=3)).eval()
    stock.save_pretrained(tmp_path / "source")
    tokenizer = write_deberta_v2_tokenizer(tmp_path / "source")
    record = convert_checkpoint(tmp_path / "source", tmp_path / "cp", layers="0,2", pool_num_heads=2)
    assert record["parity"]["max_abs_difference"] == 0.0
    convert_checkpoint(tmp_path / "source", tmp_path / "whole")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "whole")
    assert type(model) is CPDebertaV2ForMaskedLM and parity(stock, model) == 0.0
    assert {name: getattr(model.config, name) for name in fields} == fields
    for folder in ("cp", "whole"):
        loaded = AutoTokenizer.from_pretrained(tmp_path / folder)
        assert type(loaded) is DebertaV2Tokenizer
        assert loaded("a film", "a story").data == tokenizer("a film", "a story").data


@every_version
@every_variant
def test_padding_changes_nothing_in_any_version(fields, variant):
    model, inputs = BASE.model(**fields, **variant), BASE.inputs()
    batch = run(model, inputs, output_hidden_states=True)
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1)):
        alone = run(model, {name: each[row : row + 1, :length] for name, each in inputs.items()})
        assert_same_outputs(batch.last_hidden_state[row : row + 1, :length], alone.last_hidden_state, atol=1e-5)


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not_reentrant"])
@every_version
@every_variant
def test_gradient_checkpointing_changes_no_gradient_in_any_version(fields, variant, use_reentrant):
    model = BASE.model(**fields, **variant, **BASE.no_dropout).train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        model.zero_grad()
        model(**BASE.inputs()).last_hidden_state.pow(3).mean().backward()
        found.append({name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None})
    assert any("rel_embeddings" in name for name in found[0]) == model.config.relative_attention
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_a_head_hands_its_keywords_to_the_base_model():
    model, inputs = MASKED_LM.model(pool_range=0.5), MASKED_LM.inputs()
    for name in ("pool_mask", "pool_segments"):
        given = {**inputs, name: (torch.arange(inputs["input_ids"].shape[1]) > 3).long().expand(3, -1)}
        logits = run(model, given).logits
        assert_same_outputs(logits, model.cls(run(model.deberta, given).last_hidden_state))
        assert (logits - run(model, inputs).logits)[0].abs().max() > 1e-3


@pytest.mark.parametrize("model_class", [CPDebertaV2Model, CPDebertaV2ForMaskedLM], ids=lambda each: each.__name__)
def test_a_model_that_runs_within_another_gets_nothing_of_it(model_class):
    case = next(case for case in CASES["deberta-v2"] if case.model_class is model_class)
    outer, inner, inputs = MASKED_LM.model(pool_range=0.5), case.model(pool_range=0.5), case.inputs()
    masked = {**inputs, "pool_mask": (torch.arange(inputs["input_ids"].shape[1]) > 3).long().expand(3, -1)}
    expected = run(outer, masked), run(inner, inputs)
    found = []
    context_pools(outer)[0].register_forward_hook(lambda *args: found.append(run(inner, inputs)))
    assert_same_outputs(run(outer, masked), expected[0])
    assert len(found) == 1 and torch.equal(found[0][0], expected[1][0])


def test_a_model_that_has_failed_leaves_nothing_behind():
    model, inputs = MASKED_LM.model(pool_range=0.5), MASKED_LM.inputs()
    expected = run(model, inputs)
    pool_mask = (torch.arange(inputs["input_ids"].shape[1]) > 3).long().expand(3, -1)
    with pytest.raises(IndexError):
        run(model, {**inputs, "input_ids": inputs["input_ids"] + 1000}, pool_mask=pool_mask)
    assert_same_outputs(run(model, inputs), expected)
    states, mask = torch.zeros(1, 4, 32), torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="needs pool_inputs"):
        model.deberta.encoder.layer[0](states, mask, rel_embeddings=model.deberta.encoder.get_rel_embedding())
