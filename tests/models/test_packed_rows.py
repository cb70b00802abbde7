# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-BERT on rows into which several sequences are packed."""

import inspect

import pytest
import torch
from model_cases import (
    NUM_TOKENS,
    TEXT_VARIANTS,
    VOCABULARY_SIZE,
    assert_same_outputs,
    over,
    text_inputs,
    token_labels,
)
from text_cases import BASE, MASKED_LM, OF_BERT, every_one_row_text, every_unstrided_variant, every_variant, run
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cp_transformers import CPBertModel
from cp_transformers.models import pool_inputs


PACKED = ((5, 4, 3), (12,), (2, 6))  # the lengths of the sequences in each row; the rest is padding


def packed_inputs() -> tuple[dict[str, torch.Tensor], list[tuple[int, slice]]]:
    """A batch of rows with several sequences in each, and where these are: (row, tokens)."""
    segments = torch.zeros(len(PACKED), NUM_TOKENS, dtype=torch.long)
    position_ids = torch.zeros_like(segments)
    places = []
    for row, lengths in enumerate(PACKED):
        for number, length in enumerate(lengths, start=1):
            place = slice(sum(lengths[: number - 1]), sum(lengths[:number]))
            segments[row, place], position_ids[row, place] = number, torch.arange(length)
            places.append((row, place))
    inputs = {
        "input_ids": text_inputs(3)["input_ids"].clamp(min=1),
        "attention_mask": (segments[:, :, None] == segments[:, None, :])[:, None],
        "position_ids": position_ids,
        "pool_segments": segments,
    }
    return inputs, places


@pytest.mark.parametrize("kernel_size", [3, 5])
@every_variant
@over([BASE, MASKED_LM, OF_BERT["ForTokenClassification"]])
def test_a_packed_sequence_gives_what_it_gives_alone(case, variant, kernel_size):
    model = case.model(**variant, pool_kernel_size=kernel_size)
    inputs, places = packed_inputs()
    packed = run(model, inputs, output_support_sizes=True)
    for row, place in places:
        alone = run(model, {"input_ids": inputs["input_ids"][row : row + 1, place]}, output_support_sizes=True)
        assert_same_outputs(packed[0][row : row + 1, place], alone[0], atol=1e-5)
        if model.config.is_strided:  # its sizes are those of groups, which stand elsewhere
            continue
        for sizes, sizes_alone in zip(packed.support_sizes, alone.support_sizes, strict=True):
            assert_same_outputs(sizes[row : row + 1, :, place], sizes_alone, atol=1e-5)


@every_variant
def test_a_packed_sequence_does_not_reach_another(variant):
    model, (inputs, places) = MASKED_LM.model(**variant), packed_inputs()
    logits = run(model, inputs).logits
    for row, place in places:
        changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
        changed["input_ids"][row, place] = 98 - changed["input_ids"][row, place] % 90
        others = inputs["pool_segments"] != 0
        others[row, place] = False
        assert_same_outputs(run(model, changed).logits[others], logits[others], atol=1e-6)


@every_variant
def test_what_padding_may_see_changes_no_sequence(variant):
    model, (inputs, places) = MASKED_LM.model(**variant), packed_inputs()
    is_padding = (inputs["pool_segments"] == 0)[:, None, :, None]
    for mask in (inputs["attention_mask"] | is_padding, inputs["attention_mask"] & ~is_padding):
        logits = run(model, {**inputs, "attention_mask": mask}).logits
        for row, place in places:
            alone = run(model, {"input_ids": inputs["input_ids"][row : row + 1, place]}).logits
            assert_same_outputs(logits[row : row + 1, place], alone, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@every_variant
def test_a_training_step_on_packed_rows_is_that_on_their_sequences(variant, checkpointing):
    model = MASKED_LM.model(**variant, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    inputs, places = packed_inputs()
    labels = token_labels(VOCABULARY_SIZE)
    labels[(inputs["pool_segments"] == 0) | (torch.arange(3 * NUM_TOKENS).view(3, -1) % 4 == 0)] = -100

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    alone = 0.0
    for row, place in places:
        own = labels[row : row + 1, place]
        alone = alone + model(inputs["input_ids"][row : row + 1, place], labels=own).loss * (own != -100).sum()
    expected = gradients(alone / (labels != -100).sum())
    if checkpointing:
        model.activation_checkpointing_enable()
    torch.testing.assert_close(gradients(model(**inputs, labels=labels).loss), expected, rtol=1e-4, atol=1e-6)


def test_positions_that_all_rows_share_are_no_packing():
    model = MASKED_LM.model()
    inputs = {"input_ids": packed_inputs()[0]["input_ids"], "position_ids": torch.arange(NUM_TOKENS)[None]}
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")(**inputs).logits
    assert_same_outputs(compiled, run(model, {"input_ids": inputs["input_ids"]}).logits, atol=1e-6)


@pytest.mark.parametrize("said", ["cu_seq_lens_q", "seq_idx", "position_ids"])
@every_unstrided_variant
def test_rows_that_are_packed_for_flash_attention_are_pooled_by_sequence(variant, said, monkeypatch):
    model, sequences = BASE.model(**variant), [[2, 11, 12, 13, 3], [2, 41, 42, 43, 44, 45, 3]]
    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    batch = collator([{"input_ids": each} for each in sequences])
    segments = torch.tensor([[1] * 5 + [2] * 7])
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", said)}
    within = (segments[:, :, None] == segments[:, None, :])[:, None]  # flash attention's own, made by hand

    def attention(module, query, key, value, attention_mask, **kwargs):
        return sdpa_attention_forward(module, query, key, value, within, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "within", attention)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, "within", lambda *args, **kwargs: None)
    monkeypatch.setattr(pool_inputs, "is_flash_attention_requested", lambda config: said == "position_ids")
    model.set_attn_implementation("within")
    packed = run(model, inputs)[0]
    model.set_attn_implementation("sdpa")
    alone = torch.cat([run(model, {"input_ids": torch.tensor([each])})[0] for each in sequences], dim=1)
    assert_same_outputs(packed, alone, atol=1e-5)


@pytest.mark.parametrize("positions", [[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7], [0] * NUM_TOKENS], ids=["pair", "zeros"])
@every_variant
def test_positions_alone_are_no_segments_where_attention_does_not_split_rows_by_them(variant, positions):
    model, ids = BASE.model(**variant), text_inputs(1)["input_ids"]
    position_ids = torch.tensor([positions])
    alone = run(model, {"input_ids": ids, "position_ids": position_ids})[0]
    masked = run(model, {"input_ids": ids, "position_ids": position_ids, "attention_mask": torch.ones_like(ids)})[0]
    two = run(model, {"input_ids": ids.repeat(2, 1), "position_ids": position_ids.repeat(2, 1)})[0]
    assert_same_outputs([masked, two[:1], two[1:]], [alone] * 3, atol=1e-5)


def test_positions_that_do_not_begin_anew_and_those_of_masked_rows_are_no_segments():
    model, ids = BASE.model(**TEXT_VARIANTS["plain"]), text_inputs(1)["input_ids"]
    length = ids.shape[1]
    for positions, mask in ((range(3, length + 3), None), ([*range(4), *range(length - 4)], torch.ones_like(ids))):
        inputs = {"input_ids": ids, "position_ids": torch.tensor([list(positions)]), "attention_mask": mask}
        ones = torch.ones_like(ids)
        assert_same_outputs(run(model, inputs), run(model, inputs, pool_segments=ones), atol=1e-5)


@every_one_row_text
def test_trainer_finds_the_columns_of_the_pooling(case, tmp_path):
    training = Trainer(case.model(), TrainingArguments(tmp_path, use_cpu=True, report_to="none"))
    training._set_signature_columns_if_needed()
    assert {"pool_mask", "pool_segments", "attention_mask", "position_ids"} <= {*training._signature_columns}
    assert "kwargs" in inspect.signature(case.model_class.forward).parameters


@every_variant
def test_segments_of_ones_are_none(variant):
    model, inputs = MASKED_LM.model(**variant), {"input_ids": text_inputs(3)["input_ids"].clamp(min=1)}
    ones = torch.ones_like(inputs["input_ids"])
    assert_same_outputs(run(model, inputs, pool_segments=ones), run(model, inputs), atol=1e-5)


@every_variant
def test_packed_rows_are_pooled_where_weights_are_fetched_for_each_module(variant, tmp_path):
    model, (inputs, _) = BASE.model(**variant), packed_inputs()
    model.save_pretrained(tmp_path / "model")
    places = {"embeddings": "cpu", "encoder": "disk", "pooler": "cpu"}
    offloaded = CPBertModel.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload")
    assert_same_outputs(run(offloaded.eval(), inputs)[0], run(model, inputs)[0], atol=1e-5)
