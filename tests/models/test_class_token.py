# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The class token of a text, which passes by the pooling, wherever it stands in a row."""

from unittest.mock import Mock

import pytest
import torch
from model_cases import CASES, NUM_TOKENS, assert_same_outputs
from pool_reference import randomize
from torch.export import Dim
from torch.testing import assert_close

from cp_transformers.models import pool_inputs
from cp_transformers.models.context_pool import ContextPool
from cp_transformers.models.modeling_context_pool import PooledTextModel, pool_tokens
from cp_transformers.models.pool_inputs import class_tokens


PADDED = {"none": (0, NUM_TOKENS), "right": (0, 5), "left": (NUM_TOKENS - 5, NUM_TOKENS), "alone": (2, 3)}


def pool_all_but_class_tokens(pool, hidden_states, mask=None, segments=None, valid=None):
    model = Mock(config=Mock(pool_class_token=False, is_strided=False, _attn_implementation="sdpa"))
    arguments = {"inputs_embeds": hidden_states, "pool_mask": mask, "pool_segments": segments}
    arguments["attention_mask"] = mask if valid is None else valid
    return pool_tokens(pool, hidden_states, **PooledTextModel.make_pool_inputs(model, arguments))


@pytest.mark.parametrize("options", [{}, {"pool_num_heads": 2, "pool_max_offset": 2.0, "pool_gate": True}])
@pytest.mark.parametrize("place", PADDED.values(), ids=PADDED)
def test_the_class_token_passes_by_and_is_in_no_pool(place, options):
    pool = randomize(ContextPool(8, pool_range=0.5, **options))
    hidden_states, mask = torch.randn(2, NUM_TOKENS, 8).double(), torch.zeros(2, NUM_TOKENS, dtype=torch.bool)
    mask[0, slice(*place)] = mask[1] = True
    pooled = pool_all_but_class_tokens(pool, hidden_states, mask)
    for row, (first, end) in enumerate([place, (0, NUM_TOKENS)]):
        assert torch.equal(pooled[row, first], hidden_states[row, first])
        others = hidden_states[row, first + 1 : end]
        alone = pool(others[None])[0][0] if len(others) else others
        assert_close(pooled[row, first + 1 : end], alone)


@pytest.mark.parametrize("mask", ["none", "right", "holes"])
def test_it_is_the_same_where_the_mask_cannot_be_read(mask, monkeypatch):
    pool, hidden_states = randomize(ContextPool(8, pool_range=0.5)), torch.randn(2, NUM_TOKENS, 8).double()
    valid = torch.arange(NUM_TOKENS) < torch.tensor([[NUM_TOKENS], [5]])
    if mask == "holes":
        valid[:, 2] = False
    arguments = (pool, hidden_states.requires_grad_()) if mask == "none" else (pool, hidden_states, valid)
    valid = valid | (mask == "none")
    found = []
    for traced in (False, True):
        monkeypatch.setattr(pool_inputs, "is_traced", Mock(return_value=traced))
        pooled = pool_all_but_class_tokens(*arguments)[valid]
        found.append((pooled, *torch.autograd.grad(pooled.square().sum(), pool.parameters())))
    assert_close(found[1], found[0])


def test_a_sequence_of_one_token_passes_by():
    pool, hidden_states = ContextPool(8), torch.randn(2, 1, 8, requires_grad=True)
    pooled = pool_all_but_class_tokens(pool, hidden_states)
    pooled.sum().backward()
    assert torch.equal(pooled, hidden_states) and torch.equal(hidden_states.grad, torch.ones(2, 1, 8))


@pytest.mark.slow
def test_an_export_without_a_mask_takes_as_few_tokens_as_with_one():
    case = CASES["bert"][0]
    model, ids = case.model(), case.inputs()["input_ids"]
    shapes = {"input_ids": {0: Dim.AUTO, 1: Dim("tokens", min=2, max=40)}}
    exported = torch.export.export(model, (), kwargs={"input_ids": ids}, dynamic_shapes=shapes).module()
    for tokens in (2, NUM_TOKENS):
        assert_same_outputs(exported(input_ids=ids[:, :tokens]), model(input_ids=ids[:, :tokens]), atol=1e-5)


@pytest.mark.parametrize("left", [0, 3])
def test_tokens_that_are_not_to_be_pooled_do_not_change_which_is_the_class_token(left):
    pool, hidden_states = randomize(ContextPool(8, pool_range=0.5)), torch.randn(1, NUM_TOKENS, 8).double()
    valid = torch.arange(NUM_TOKENS)[None] >= left
    but_three = valid & (torch.arange(NUM_TOKENS) != left + 3)
    expected = pool_all_but_class_tokens(pool, hidden_states, but_three, valid=valid)
    but_three[0, left] = False  # [CLS], said to be left out as well
    found = pool_all_but_class_tokens(pool, hidden_states, but_three, valid=valid)
    assert torch.equal(found[0, left], hidden_states[0, left]) and not torch.equal(found, hidden_states)
    assert torch.equal(found[but_three], expected[but_three])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.long])
def test_of_packed_rows_the_first_of_each_sequence_is_the_class_token(dtype):
    segments = torch.tensor([[1, 1, 2, 3, 3, 0, 0], [4, 4, 4, 4, 1, 1, 1]], dtype=dtype)
    expected = torch.tensor([[1, 0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0]]).bool()
    assert torch.equal(class_tokens(segments != 0, segments), expected)
    masked = torch.tensor([[1, 1, 1, 0, 1, 1, 1], [0, 0, 1, 1, 0, 1, 1]]).bool() & (segments != 0)
    expected = torch.tensor([[1, 0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1, 0]]).bool()
    assert torch.equal(class_tokens(masked, segments), expected)
