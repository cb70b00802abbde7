# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The pooling operation and its module, against plain loops, closed forms and symmetries."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pool_reference import randomize, reference_context_pool, reference_numbers
from torch.testing import assert_close

from cp_transformers.benchmark.timing import PeakMemory
from cp_transformers.models.context_pool import (
    INITIAL_SIGMA,
    MIN_SIGMA,
    MIN_WEIGHT,
    ContextPool,
    context_pool,
    pooling_weights,
)
from cp_transformers.models.feature_map_pool import WindowedContextPool
from cp_transformers.models.pool_inputs import class_tokens


BATCH_SIZE, NUM_TOKENS, HIDDEN_SIZE = 4, 15, 6

sequence_and_grid = pytest.mark.parametrize("grid_size", [None, (3, 5)], ids=["sequence", "grid"])
with_and_without_offsets = pytest.mark.parametrize("with_offsets", [False, True], ids=["centred", "offsets"])
one_head_and_three = pytest.mark.parametrize("num_heads", [1, 3], ids=["one_head", "three_heads"])
unmasked_and_masked = pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
contents_of_masked_tokens = pytest.mark.parametrize("content", [1e30, math.inf, math.nan])

every_module = pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool_num_heads": 3},
        {"pool_max_offset": 1.5},
        {"pool_gate": True},
        {"pool_factored": True},
        {"pool_num_heads": 2, "pool_max_offset": 2.0, "pool_gate": True, "pool_kernel_size": 5, "pool_range": 0.2}
        | {"pool_factored": True},
    ],
    ids=["plain", "heads", "offset", "gate", "factored", "everything"],
)


def reference_module(module, hidden_states, mask=None, grid_size=None):
    """The module's two outputs from its parameters, in plain loops."""
    batch_size, num_tokens, _ = hidden_states.shape
    mask = torch.ones(batch_size, num_tokens, dtype=torch.bool) if mask is None else mask.bool()
    numbers = reference_numbers(module, hidden_states, mask, grid_size)
    offsets = module.pool_max_offset * torch.tanh(numbers[..., 2:]) if module.pool_max_offset else None
    sigma = torch.zeros(numbers.shape[:3], dtype=torch.float64)
    for b in range(batch_size):
        extent = int(mask[b].sum()) if grid_size is None else max(grid_size)
        sigma[b] = torch.clamp(module.pool_range * extent * torch.sigmoid(numbers[b, ..., 1]), min=MIN_SIGMA)

    pooled = reference_context_pool(hidden_states, numbers[..., 0], sigma, offsets, mask, grid_size)
    if module.gate is not None:
        pooled = (1 - module.gate) * hidden_states + module.gate * pooled
    return pooled, sigma * mask[:, None]


def padding_mask():
    """Four examples: no padding, right padding, left padding, holes."""
    mask = torch.ones(BATCH_SIZE, NUM_TOKENS, dtype=torch.bool)
    mask[1, 9:] = False
    mask[2, :4] = False
    mask[3, [1, 2, 7, 14]] = False
    return mask


def random_inputs(grid_size=None, num_heads=2, with_offsets=True):
    """hidden_states, weights, sigma and offsets in float64."""
    hidden_states = torch.randn(BATCH_SIZE, NUM_TOKENS, HIDDEN_SIZE, dtype=torch.float64)
    weights = torch.randn(BATCH_SIZE, num_heads, NUM_TOKENS, dtype=torch.float64)
    sigma = 0.5 + 2 * torch.rand(BATCH_SIZE, num_heads, NUM_TOKENS, dtype=torch.float64)
    offsets = torch.randn(BATCH_SIZE, num_heads, NUM_TOKENS, 1 if grid_size is None else 2, dtype=torch.float64)
    return hidden_states, weights, sigma, offsets if with_offsets else None


def random_states(num_tokens=NUM_TOKENS):
    return torch.randn(BATCH_SIZE, num_tokens, HIDDEN_SIZE, dtype=torch.float64)


def random_module(grid_size=None, std=0.5, **options):
    """A module in float64 with random parameters, far from its initial state."""
    num_dims = 1 if grid_size is None else 2
    module = ContextPool(HIDDEN_SIZE, pool_hidden_size=8, num_dims=num_dims, **{"pool_range": 0.5, **options})
    return randomize(module, std)


def initial_module(grid_size=None, **options):
    """A module at its initial state, whose predictions do not depend on the tokens."""
    module = ContextPool(HIDDEN_SIZE, num_dims=1 if grid_size is None else 2, **options)
    torch.nn.init.zeros_(module.proj.weight)
    return module


# The equations


@sequence_and_grid
@one_head_and_three
@with_and_without_offsets
@unmasked_and_masked
def test_context_pool_equals_the_loops(grid_size, num_heads, with_offsets, masked):
    inputs = random_inputs(grid_size, num_heads, with_offsets)
    mask = padding_mask() if masked else None
    pooled = context_pool(*inputs, mask=mask, grid_size=grid_size)
    assert_close(pooled, reference_context_pool(*inputs, mask=mask, grid_size=grid_size))


@st.composite
def pooling_problems(draw):
    """The arguments of context_pool, of any shape, down to one token and to examples without a valid one."""
    grid_size = draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)))
    num_tokens = draw(st.integers(1, 9)) if grid_size is None else grid_size[0] * grid_size[1]
    batch_size, num_heads, head_size = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    with_offsets, with_mask = draw(st.booleans()), draw(st.booleans())
    rows_of_mask = st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "hidden_states": normal(batch_size, num_tokens, num_heads * head_size),
        "weights": 3 * normal(batch_size, num_heads, num_tokens),
        "sigma": normal(batch_size, num_heads, num_tokens).exp().clamp(min=MIN_SIGMA),
        "offsets": normal(batch_size, num_heads, num_tokens, 1 if grid_size is None else 2) if with_offsets else None,
        "mask": torch.tensor([draw(rows_of_mask) for _ in range(batch_size)]) if with_mask else None,
        "grid_size": grid_size,
    }


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pooling_problems())
def test_context_pool_equals_the_loops_for_any_shape(problem):
    assert_close(context_pool(**problem), reference_context_pool(**problem))


@sequence_and_grid
@every_module
@unmasked_and_masked
def test_module_equals_its_reference(grid_size, options, masked):
    module, hidden_states = random_module(grid_size, **options), random_states()
    mask = padding_mask() if masked else None
    with torch.no_grad():
        pooled, sigma = module(hidden_states, mask=mask, grid_size=grid_size)
        expected_pooled, expected_sigma = reference_module(module, hidden_states, mask, grid_size)
    valid = padding_mask() if masked else torch.ones_like(padding_mask())
    assert_close(pooled[valid], expected_pooled[valid])
    assert_close(sigma, expected_sigma)


@sequence_and_grid
def test_one_head_without_offset_is_the_form_of_the_paper(grid_size):
    hidden_states, weights, sigma, _ = random_inputs(grid_size, num_heads=1, with_offsets=False)
    rows, columns = grid_size or (1, NUM_TOKENS)
    position = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    gaussian = torch.distributions.Normal(position[:, None], sigma[:, 0, :, None, None]).log_prob(position).sum(-1)
    p = weights.exp() * gaussian.exp()
    p = p / p.sum(dim=-1, keepdim=True)
    assert_close(pooling_weights(weights, sigma, grid_size=grid_size)[:, 0], p)
    assert_close(context_pool(hidden_states, weights, sigma, grid_size=grid_size), p @ hidden_states)


# Gradients


@sequence_and_grid
def test_gradients_of_context_pool(grid_size):
    inputs = [tensor[2:].requires_grad_() for tensor in random_inputs(grid_size)]
    mask = padding_mask()[2:]
    assert torch.autograd.gradcheck(lambda *inputs: context_pool(*inputs, mask=mask, grid_size=grid_size), inputs)


@sequence_and_grid
def test_gradients_of_the_module(grid_size):
    module = random_module(grid_size, pool_num_heads=2, pool_max_offset=1.0, pool_gate=True)
    hidden_states, mask = random_states()[3:].requires_grad_(), padding_mask()[3:]
    names, parameters = zip(*module.named_parameters())

    def forward(hidden_states, *parameters):
        arguments = (hidden_states, mask, grid_size)
        return torch.func.functional_call(module, dict(zip(names, parameters)), arguments)

    assert torch.autograd.gradcheck(forward, (hidden_states, *parameters))


# Weighted averages


@sequence_and_grid
@with_and_without_offsets
def test_weights_sum_to_one_over_valid_tokens_and_are_zero_elsewhere(grid_size, with_offsets):
    _, weights, sigma, offsets = random_inputs(grid_size, with_offsets=with_offsets)
    mask = padding_mask()
    p = pooling_weights(weights, sigma, offsets, mask=mask, grid_size=grid_size)
    valid_columns = mask[:, None, None].expand_as(p)
    assert_close(p.where(valid_columns, 0.0).sum(dim=-1), torch.ones_like(sigma))
    assert (p[~valid_columns] == 0).all()


def test_without_gradients_nothing_is_written_beside_the_logits_and_the_weights():
    weights, sigma = torch.randn(2, 8, 64), 1 + torch.rand(2, 8, 64)
    with PeakMemory() as memory:
        p = pooling_weights(weights, sigma)
    assert 2 * p.nbytes < memory.peak < 2.5 * p.nbytes  # and what all heads share


def test_no_weight_is_subnormal():
    # At the initial sizes of long sequences the tails of the Gaussians pass through all magnitudes.
    sigma = torch.linspace(3.0, 15.0, 512).expand(1, 2, 512)
    p = pooling_weights(torch.zeros(1, 2, 512), sigma)
    assert p[p > 0].min() > MIN_WEIGHT > 1e6 * torch.finfo(p.dtype).tiny and (p == 0).any()
    index = torch.arange(512, dtype=torch.float64)
    exact = (-((index[:, None] - index) ** 2) / (2 * sigma.double()[..., None] ** 2)).softmax(dim=-1)
    assert_close(p.double(), exact, rtol=2e-5, atol=2 * MIN_WEIGHT)


@sequence_and_grid
def test_vanishing_sigma_is_the_identity(grid_size):
    hidden_states, weights, sigma, _ = random_inputs(grid_size)
    mask = padding_mask()
    pooled = context_pool(hidden_states, weights, torch.full_like(sigma, 1e-3), mask=mask, grid_size=grid_size)
    assert torch.equal(pooled[mask], hidden_states[mask])


@sequence_and_grid
def test_infinite_sigma_with_equal_weights_is_the_mean_over_valid_tokens(grid_size):
    hidden_states, weights, sigma, offsets = random_inputs(grid_size)
    weights, sigma, mask = torch.full_like(weights, 0.7), torch.full_like(sigma, math.inf), padding_mask()
    pooled = context_pool(hidden_states, weights, sigma, offsets, mask=mask, grid_size=grid_size)
    mean = torch.stack([example[valid].mean(dim=0) for example, valid in zip(hidden_states, mask)])
    assert_close(pooled, mean[:, None].expand_as(pooled))


@sequence_and_grid
def test_constant_input_is_a_fixed_point(grid_size):
    hidden_states, *others = random_inputs(grid_size)
    constant = hidden_states[:, :1].expand_as(hidden_states)
    assert_close(context_pool(constant, *others, mask=padding_mask(), grid_size=grid_size), constant)


@sequence_and_grid
def test_output_lies_between_the_smallest_and_the_largest_valid_token(grid_size):
    hidden_states, *others = random_inputs(grid_size)
    mask = padding_mask()
    pooled = context_pool(hidden_states, *others, mask=mask, grid_size=grid_size)
    for example, valid, tokens in zip(pooled, mask, hidden_states):
        assert (example >= tokens[valid].amin(dim=0) - 1e-12).all()
        assert (example <= tokens[valid].amax(dim=0) + 1e-12).all()


@sequence_and_grid
def test_a_constant_added_to_all_weights_changes_nothing(grid_size):
    hidden_states, weights, sigma, offsets = random_inputs(grid_size)
    constant = 1e6 * torch.randn(BATCH_SIZE, weights.shape[1], 1, dtype=torch.float64)
    pooled = context_pool(hidden_states, weights, sigma, offsets, mask=padding_mask(), grid_size=grid_size)
    shifted = context_pool(hidden_states, weights + constant, sigma, offsets, mask=padding_mask(), grid_size=grid_size)
    assert_close(shifted, pooled)


# Heads


@sequence_and_grid
def test_equal_heads_are_one_head(grid_size):
    hidden_states, *predictions = random_inputs(grid_size, num_heads=1)
    three = [prediction.repeat_interleave(3, dim=1) for prediction in predictions]
    assert_close(
        context_pool(hidden_states, *three, mask=padding_mask(), grid_size=grid_size),
        context_pool(hidden_states, *predictions, mask=padding_mask(), grid_size=grid_size),
    )


@sequence_and_grid
def test_a_module_of_equal_heads_is_a_module_of_one_head(grid_size):
    one = random_module(grid_size, pool_num_heads=1, pool_max_offset=1.0, pool_gate=True)
    three = random_module(grid_size, pool_num_heads=3, pool_max_offset=1.0, pool_gate=True)
    state = one.state_dict()
    state["proj.weight"], state["proj.bias"] = state["proj.weight"].repeat(3, 1), state["proj.bias"].repeat(3)
    three.load_state_dict(state)
    hidden_states = random_states()
    pooled, sigma = one(hidden_states, padding_mask(), grid_size)
    assert_close(three(hidden_states, padding_mask(), grid_size), (pooled, sigma.expand(-1, 3, -1)))


@sequence_and_grid
def test_a_head_pools_its_own_slice_alone(grid_size):
    hidden_states, *predictions = random_inputs(grid_size, num_heads=3)
    pooled = context_pool(hidden_states, *predictions, grid_size=grid_size)
    for head, (own_slice, pooled_slice) in enumerate(zip(hidden_states.chunk(3, dim=-1), pooled.chunk(3, dim=-1))):
        own_predictions = [prediction[:, head : head + 1] for prediction in predictions]
        assert_close(pooled_slice, context_pool(own_slice, *own_predictions, grid_size=grid_size))


# Symmetries


@sequence_and_grid
def test_reversed_tokens_give_the_reversed_output(grid_size):
    hidden_states, weights, sigma, offsets = random_inputs(grid_size)
    mask = padding_mask()
    pooled = context_pool(hidden_states, weights, sigma, offsets, mask=mask, grid_size=grid_size)
    backwards = (hidden_states.flip(1), weights.flip(2), sigma.flip(2), -offsets.flip(2))
    assert_close(context_pool(*backwards, mask=mask.flip(1), grid_size=grid_size), pooled.flip(1))


def test_a_grid_of_one_row_is_a_sequence():
    hidden_states, weights, sigma, offsets = random_inputs()
    row = context_pool(
        hidden_states,
        weights,
        sigma,
        torch.cat([torch.zeros_like(offsets), offsets], dim=-1),
        mask=padding_mask(),
        grid_size=(1, NUM_TOKENS),
    )
    assert_close(row, context_pool(hidden_states, weights, sigma, offsets, mask=padding_mask()))


def test_a_transposed_grid_gives_the_transposed_output():
    hidden_states, weights, sigma, offsets = random_inputs((3, 5))
    mask = padding_mask()
    order = torch.arange(NUM_TOKENS).view(3, 5).T.flatten()
    pooled = context_pool(hidden_states, weights, sigma, offsets, mask=mask, grid_size=(3, 5))
    transposed = (hidden_states[:, order], weights[..., order], sigma[..., order], offsets[:, :, order].flip(-1))
    assert_close(context_pool(*transposed, mask=mask[:, order], grid_size=(5, 3)), pooled[:, order])


@with_and_without_offsets
def test_a_whole_offset_moves_the_centre_to_the_token_that_far_on(with_offsets):
    hidden_states, weights, sigma, _ = random_inputs(num_heads=1)
    shift = 2 if with_offsets else 0
    offsets = torch.full((BATCH_SIZE, 1, NUM_TOKENS, 1), float(shift), dtype=torch.float64)
    pooled = context_pool(hidden_states, weights, torch.full_like(sigma, 1e-3), offsets)
    assert torch.equal(pooled[:, : NUM_TOKENS - shift], hidden_states[:, shift:])


# Masks and padding


@sequence_and_grid
@contents_of_masked_tokens
def test_context_pool_ignores_what_masked_tokens_hold(grid_size, content):
    hidden_states, weights, sigma, offsets = random_inputs(grid_size)
    mask = padding_mask()
    results = []
    for held in (0.0, content):
        held_states = hidden_states.masked_fill(~mask[..., None], held).requires_grad_()
        held_weights = weights.masked_fill(~mask[:, None], held).requires_grad_()
        others = [sigma.clone().requires_grad_(), offsets.clone().requires_grad_()]
        pooled = context_pool(held_states, held_weights, *others, mask=mask, grid_size=grid_size)
        gradients = torch.autograd.grad(pooled[mask].square().sum(), [held_states, held_weights, *others])
        results.append([pooled, *gradients])
    assert all(map(torch.equal, *results))


@sequence_and_grid
@contents_of_masked_tokens
@every_module
def test_module_ignores_what_masked_tokens_hold(grid_size, content, options):
    module, hidden_states, mask = random_module(grid_size, **options), random_states(), padding_mask()
    expected, expected_sigma = module(hidden_states.masked_fill(~mask[..., None], 0.0), mask, grid_size)
    pooled, sigma = module(hidden_states.masked_fill(~mask[..., None], content), mask, grid_size)
    assert torch.equal(pooled[mask], expected[mask])
    assert torch.equal(sigma, expected_sigma)


@sequence_and_grid
@contents_of_masked_tokens
@every_module
def test_gradients_of_the_parameters_ignore_what_masked_tokens_hold(grid_size, content, options):
    module, hidden_states, mask = random_module(grid_size, **options), random_states(), padding_mask()
    gradients = []
    for held in (0.0, content):
        pooled, sigma = module(hidden_states.masked_fill(~mask[..., None], held), mask, grid_size)
        loss = pooled[mask].square().sum() + sigma.sum()
        gradients.append(torch.autograd.grad(loss, list(module.parameters())))
    assert all(map(torch.equal, *gradients))


@sequence_and_grid
@contents_of_masked_tokens
@every_module
def test_masked_tokens_get_no_gradient_from_valid_ones(grid_size, content, options):
    module, mask = random_module(grid_size, **options), padding_mask()
    hidden_states = random_states().masked_fill(~mask[..., None], content).requires_grad_()
    pooled, sigma = module(hidden_states, mask, grid_size)
    (gradient,) = torch.autograd.grad(pooled[mask].square().sum() + sigma.sum(), hidden_states)
    assert (gradient[~mask] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("left", "right"), [(0, 1), (0, 9), (1, 0), (6, 0), (3, 4)])
@every_module
def test_padding_changes_nothing(left, right, options):
    module, hidden_states = random_module(**options).float(), random_states().float()
    pooled, sigma = module(hidden_states)
    padded_states = 100 * torch.randn(BATCH_SIZE, left + NUM_TOKENS + right, HIDDEN_SIZE)
    padded_states[:, left : left + NUM_TOKENS] = hidden_states
    mask = torch.zeros(BATCH_SIZE, left + NUM_TOKENS + right, dtype=torch.bool)
    mask[:, left : left + NUM_TOKENS] = True
    padded_pooled, padded_sigma = module(padded_states, mask)
    assert_close(padded_pooled[:, left : left + NUM_TOKENS], pooled, atol=1e-5, rtol=0)
    assert_close(padded_sigma[..., left : left + NUM_TOKENS], sigma, atol=1e-5, rtol=0)


def test_long_left_padding_changes_nothing():
    module = random_module(pool_num_heads=2, pool_max_offset=2.0, pool_range=0.1).float()
    hidden_states = random_states().float()
    padded_states = torch.nn.functional.pad(hidden_states, (0, 0, 500, 0))
    mask = torch.arange(500 + NUM_TOKENS).expand(BATCH_SIZE, -1) >= 500
    assert_close(module(padded_states, mask)[0][:, 500:], module(hidden_states)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["right", "left"])
@every_module
def test_an_example_is_the_same_alone_and_in_a_batch(side, options):
    module = random_module(**options).float()
    examples = [torch.randn(length, HIDDEN_SIZE) for length in (1, 4, 9, 15)]
    batch = torch.nn.utils.rnn.pad_sequence(examples, batch_first=True, padding_value=7.0, padding_side=side)
    lengths = torch.tensor([len(example) for example in examples])
    mask = torch.arange(15) < lengths[:, None]
    mask = mask if side == "right" else mask.flip(1)
    pooled, _ = module(batch, mask)
    for example, pooled_example, valid in zip(examples, pooled, mask):
        assert_close(pooled_example[valid], module(example[None])[0][0], atol=1e-5, rtol=0)


@sequence_and_grid
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_mask_of_ones_is_no_mask(grid_size, dtype):
    module = random_module(grid_size, pool_num_heads=2, pool_max_offset=1.0)
    hidden_states, mask = random_states(), torch.ones(BATCH_SIZE, NUM_TOKENS, dtype=dtype)
    assert_close(module(hidden_states, mask, grid_size), module(hidden_states, None, grid_size))


@sequence_and_grid
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_a_mask_of_numbers_is_a_boolean_mask(grid_size, dtype):
    module = random_module(grid_size, pool_num_heads=2, pool_max_offset=1.0)
    hidden_states, mask = random_states(), padding_mask()
    assert_close(module(hidden_states, mask.to(dtype), grid_size), module(hidden_states, mask, grid_size))


@sequence_and_grid
def test_context_pool_of_an_entirely_masked_example_is_zero_with_finite_gradients(grid_size):
    inputs = [tensor.requires_grad_() for tensor in random_inputs(grid_size)]
    mask = padding_mask()
    mask[1] = False
    pooled = context_pool(*inputs, mask=mask, grid_size=grid_size)
    assert (pooled[1] == 0).all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(pooled.square().sum(), inputs))


@sequence_and_grid
def test_an_entirely_masked_example_passes_the_module_with_finite_gradients(grid_size):
    module = random_module(grid_size, pool_num_heads=2, pool_max_offset=1.0).float()
    hidden_states, mask = random_states().float().requires_grad_(), padding_mask()
    mask[1] = False
    pooled, sigma = module(hidden_states, mask, grid_size)
    assert torch.equal(pooled[1], hidden_states[1]) and (sigma[1] == 0).all()
    gradients = torch.autograd.grad(pooled.square().sum() + sigma.sum(), [hidden_states, *module.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("pool_gate", [False, True])
@sequence_and_grid
def test_a_token_that_is_not_valid_passes_the_module_as_it_is(grid_size, pool_gate):
    module = random_module(grid_size, pool_num_heads=2, pool_max_offset=1.0, pool_gate=pool_gate).float()
    hidden_states, mask = random_states().float(), padding_mask()
    hidden_states[~mask] = torch.inf  # which would be seen in any sum
    pooled, _ = module(hidden_states, mask, grid_size)
    assert torch.equal(pooled[~mask], hidden_states[~mask])
    assert pooled[mask].isfinite().all() and not torch.equal(pooled[mask], hidden_states[mask])


# Dtypes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_are_computed_in_float32(dtype):
    _, *predictions = [tensor.to(dtype) for tensor in random_inputs()]
    p = pooling_weights(*predictions, mask=padding_mask())
    assert p.dtype == torch.float32
    assert torch.equal(p, pooling_weights(*[prediction.float() for prediction in predictions], mask=padding_mask()))


def test_weights_of_float64_are_computed_in_float64():
    _, *predictions = random_inputs()
    assert pooling_weights(*predictions).dtype == torch.float64


@sequence_and_grid
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
@every_module
def test_half_precision_keeps_its_dtype_and_is_near_float32(grid_size, dtype, tolerance, options):
    module, hidden_states = random_module(grid_size, std=0.2, **options).to(dtype), random_states().to(dtype)
    mask = padding_mask()
    mask[1] = False
    pooled, sigma = module(hidden_states, mask, grid_size)
    expected, _ = module.float()(hidden_states.float(), mask, grid_size)
    assert pooled.dtype == dtype and sigma.dtype == torch.float32
    assert pooled.isfinite().all() and sigma.isfinite().all()
    assert_close(pooled[mask].float(), expected[mask], atol=tolerance, rtol=tolerance)


@sequence_and_grid
@every_module
def test_autocast_is_near_float32(grid_size, options):
    module, hidden_states = random_module(grid_size, std=0.2, **options).float(), random_states().float()
    mask = padding_mask()
    mask[1] = False
    expected, _ = module(hidden_states, mask, grid_size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled, sigma = module(hidden_states, mask, grid_size)
    gradients = torch.autograd.grad(pooled.float().square().sum(), list(module.parameters()))
    assert sigma.dtype == torch.float32
    assert all(tensor.isfinite().all() for tensor in (pooled, sigma, *gradients))
    assert_close(pooled[mask].float(), expected[mask], atol=0.05, rtol=0.05)


# The module: gate, initial state, sizes, errors


@sequence_and_grid
@unmasked_and_masked
def test_a_gate_at_zero_is_exactly_the_identity(grid_size, masked):
    module, hidden_states = random_module(grid_size, pool_gate=True), random_states()
    torch.nn.init.zeros_(module.gate)
    pooled, _ = module(hidden_states, padding_mask() if masked else None, grid_size)
    assert torch.equal(pooled, hidden_states)


@sequence_and_grid
def test_a_gate_at_one_is_no_gate(grid_size):
    gated, ungated = random_module(grid_size, pool_gate=True), random_module(grid_size)
    torch.nn.init.ones_(gated.gate)
    ungated.load_state_dict({name: value for name, value in gated.state_dict().items() if name != "gate"})
    hidden_states, mask = random_states(), padding_mask()
    assert_close(gated(hidden_states, mask, grid_size)[0][mask], ungated(hidden_states, mask, grid_size)[0][mask])


@sequence_and_grid
def test_a_gate_opens_one_channel_at_a_time(grid_size):
    module, hidden_states = random_module(grid_size, pool_gate=True), random_states()
    torch.nn.init.zeros_(module.gate)
    module.gate.data[4] = 1.0
    pooled, _ = module(hidden_states, None, grid_size)
    changed = (pooled != hidden_states).any(dim=1).any(dim=0)
    assert changed.tolist() == [False, False, False, False, True, False]


def test_a_gate_is_one_number_a_channel_and_starts_at_zero():
    assert torch.equal(ContextPool(HIDDEN_SIZE, pool_gate=True).gate, torch.zeros(HIDDEN_SIZE))
    assert ContextPool(HIDDEN_SIZE).gate is None


@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize("num_dims", [1, 2])
def test_an_offset_is_predicted_only_where_there_is_one(num_heads, num_dims):
    module = ContextPool(HIDDEN_SIZE, pool_num_heads=num_heads, num_dims=num_dims)
    assert module.proj.out_features == num_heads * 2
    module = ContextPool(HIDDEN_SIZE, pool_num_heads=num_heads, pool_max_offset=1.0, num_dims=num_dims)
    assert module.proj.out_features == num_heads * (2 + num_dims)


@sequence_and_grid
@pytest.mark.parametrize("options", [{}, {"pool_num_heads": 3}, {"pool_num_heads": 2, "pool_max_offset": 2.0}])
def test_sigma_starts_at_a_fixed_fraction_of_its_range(grid_size, options):
    module = initial_module(grid_size, pool_range=0.7, **options)
    _, sigma = module(random_states().float(), padding_mask(), grid_size)
    extent = padding_mask().sum(dim=1) if grid_size is None else torch.full((BATCH_SIZE,), max(grid_size))
    expected = INITIAL_SIGMA[module.num_dims] * 0.7 * extent[:, None, None].expand_as(sigma)
    valid = padding_mask()[:, None].expand_as(sigma)
    assert_close(sigma[valid], expected[valid])


@sequence_and_grid
def test_weights_start_equal(grid_size):
    module = initial_module(grid_size, pool_num_heads=2, pool_max_offset=2.0)
    weights, _, _ = module.predict(random_states().float(), grid_size=grid_size)
    assert (weights == 0).all()


@sequence_and_grid
def test_one_head_starts_without_an_offset(grid_size):
    module = initial_module(grid_size, pool_max_offset=2.0)
    _, _, offsets = module.predict(random_states().float(), grid_size=grid_size)
    assert (offsets == 0).all()


@pytest.mark.parametrize("num_heads", [2, 3, 6])
def test_heads_of_a_sequence_start_left_and_right_in_turn(num_heads):
    module = initial_module(pool_num_heads=num_heads, pool_max_offset=2.0)
    _, _, offsets = module.predict(random_states().float())
    centres = offsets[0, :, 0, 0].tolist()
    assert_close(offsets, offsets[:1, :, :1].expand_as(offsets))
    assert all(-2 < centre < 0 for centre in centres[0::2]) and all(0 < centre < 2 for centre in centres[1::2])
    assert len({round(centre, 3) for centre in centres}) == num_heads


@pytest.mark.parametrize("num_heads", [2, 3, 6])
def test_heads_of_a_grid_start_around_the_compass(num_heads):
    module = initial_module((3, 5), pool_num_heads=num_heads, pool_max_offset=2.0)
    _, _, offsets = module.predict(random_states().float(), grid_size=(3, 5))
    centres = offsets[0, :, 0]
    assert_close(offsets, centres[None, :, None].expand_as(offsets))
    assert_close(centres.sum(dim=0), torch.zeros(2))
    assert_close(centres.norm(dim=1), centres[0].norm().expand(num_heads))
    assert 0 < centres[0].norm() < 2
    assert len({(round(row, 3), round(column, 3)) for row, column in centres.tolist()}) == num_heads


@sequence_and_grid
def test_sizes_are_float32_zero_at_padding_and_never_below_the_floor(grid_size):
    module = random_module(grid_size, pool_num_heads=3, pool_range=0.02).float()
    mask = padding_mask()
    _, sigma = module(random_states().float(), mask, grid_size)
    assert sigma.shape == (BATCH_SIZE, 3, NUM_TOKENS) and sigma.dtype == torch.float32
    assert (sigma.transpose(1, 2)[~mask] == 0).all()
    assert (sigma.transpose(1, 2)[mask] >= MIN_SIGMA).all()


@sequence_and_grid
def test_sizes_stay_below_their_range(grid_size):
    module = random_module(grid_size, pool_range=0.4)
    _, sigma = module(100 * random_states(), padding_mask(), grid_size)
    extent = padding_mask().sum(dim=1)[:, None, None] if grid_size is None else max(grid_size)
    assert (sigma <= 0.4 * extent).all()


def test_offsets_stay_within_their_range():
    module = random_module(pool_num_heads=2, pool_max_offset=1.5)
    _, _, offsets = module.predict(100 * random_states())
    assert (offsets.abs() <= 1.5).all()


def test_an_error_tells_of_channels_that_heads_cannot_share():
    hidden_states, *predictions = random_inputs(num_heads=4)
    with pytest.raises(ValueError, match="6 channels cannot be split into 4 pooling heads"):
        context_pool(hidden_states, *predictions)
    with pytest.raises(ValueError, match=r"hidden_size \(6\) must be divisible by pool_num_heads \(4\)"):
        ContextPool(HIDDEN_SIZE, pool_num_heads=4)


@pytest.mark.parametrize("given", [{}, {"grid_size": (3, 5)}])
def test_an_error_tells_of_a_feature_map_and_how_to_give_it(given):
    maps = torch.randn(BATCH_SIZE, HIDDEN_SIZE, 3, 5, dtype=torch.float64)
    module = random_module((3, 5))
    with pytest.raises(ValueError, match=r"must be of shape \(batch, tokens, channels\), not .*, with its grid_size"):
        module(maps, **given)
    with pytest.raises(ValueError, match=r"must be of shape \(batch, tokens, channels\), not"):
        context_pool(maps, *random_inputs((3, 5))[1:], grid_size=(3, 5))
    assert module(maps.flatten(2).transpose(1, 2), grid_size=(3, 5))[0].shape == (BATCH_SIZE, 15, HIDDEN_SIZE)


def test_an_error_tells_of_a_grid_of_the_wrong_size():
    with pytest.raises(ValueError, match="4 x 5 does not hold 15 tokens"):
        context_pool(*random_inputs((3, 5)), grid_size=(4, 5))
    with pytest.raises(ValueError, match="4 x 5 does not hold 15 tokens"):
        random_module((3, 5))(random_states(), grid_size=(4, 5))


def test_an_error_tells_of_a_missing_grid_size():
    with pytest.raises(ValueError, match=r"With num_dims=2 give grid_size=\(rows, columns\)"):
        random_module((3, 5))(random_states())


def test_an_error_tells_of_an_unexpected_grid_size():
    with pytest.raises(ValueError, match="is made with num_dims=2; this one pools sequences"):
        random_module()(random_states(), grid_size=(3, 5))


def test_an_error_tells_of_offsets_with_the_wrong_number_of_coordinates():
    with pytest.raises(ValueError, match="offsets need 2 coordinates a token, not 1"):
        context_pool(*random_inputs(), grid_size=(3, 5))
    with pytest.raises(ValueError, match="offsets need 1 coordinates a token, not 2"):
        context_pool(*random_inputs((3, 5)))


# Packed sequences


PACKED = ((1, 6, 4), (15,), (7, 8), (3, 2, 3, 4))  # the lengths of the sequences in each row; the rest is padding

OFFSETS = {"pool_max_offset": 3.0}
every_packed_module = pytest.mark.parametrize(
    "options",
    [
        {"pool_num_heads": num_heads, "pool_kernel_size": kernel_size, **more}
        for kernel_size in (3, 5)
        for num_heads in (1, 2)
        for more in (
            {},
            {"pool_max_offset": 3.0},
            {"pool_max_offset": 3.0, "pool_gate": True},
            {"pool_factored": True},
        )
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)


def packed_segments():
    """Numbers of sequences from 1, 0 at padding."""
    rows = [[number for number, length in enumerate(row, start=1) for _ in range(length)] for row in PACKED]
    return torch.tensor([row + [0] * (NUM_TOKENS - len(row)) for row in rows])


def packed_places():
    """(row, from, to) of each sequence."""
    return [(row, sum(of[:i]), sum(of[: i + 1])) for row, of in enumerate(PACKED) for i in range(len(of))]


@every_packed_module
def test_a_packed_sequence_is_pooled_as_if_it_stood_alone(options):
    module, segments = random_module(**options), packed_segments()
    hidden_states, direction = random_states().requires_grad_(), random_states()
    pooled, sigma = module(hidden_states, mask=segments != 0, segments=segments)
    assert (sigma.transpose(1, 2)[segments == 0] == 0).all()

    def gradients(value):
        return torch.autograd.grad(value, [hidden_states, *module.parameters()])

    total = 0.0
    for row, start, stop in packed_places():
        alone, sigma_alone = module(hidden_states[row : row + 1, start:stop])
        assert_close(pooled[row : row + 1, start:stop], alone)
        assert_close(sigma[row : row + 1, :, start:stop], sigma_alone)
        total = total + (alone * direction[row, start:stop]).sum() + sigma_alone.square().sum()
    packed = (pooled * direction)[segments != 0].sum() + sigma.square().sum()
    assert_close(gradients(packed), gradients(total))


def test_what_is_predicted_of_packed_rows_takes_memory_in_proportion_to_the_tokens():
    module, peaks = ContextPool(8, pool_hidden_size=4), []
    for tokens in (500, 1000):
        states, segments = torch.randn(1, tokens, 8), torch.arange(tokens)[None] // 7
        with PeakMemory() as memory, torch.no_grad():
            module.predict(states, segments=segments)
            class_tokens(segments > 3, segments)
        peaks.append(memory.peak)
    assert peaks[1] < 2.2 * peaks[0]


@with_and_without_offsets
def test_packed_context_pool_is_that_of_each_sequence(with_offsets):
    hidden_states, weights, sigma, offsets = random_inputs(with_offsets=with_offsets)
    segments = packed_segments()
    arguments = {"mask": segments != 0, "segments": segments}
    pooled = context_pool(hidden_states, weights, sigma, offsets, **arguments)
    p = pooling_weights(weights, sigma, offsets, **arguments)
    for row, start, stop in packed_places():
        here = (slice(row, row + 1), slice(None), slice(start, stop))
        own = (weights[here], sigma[here], None if offsets is None else offsets[here])
        assert_close(pooled[row : row + 1, start:stop], context_pool(hidden_states[row : row + 1, start:stop], *own))
        assert_close(p[here][..., start:stop], pooling_weights(*own))
        assert (p[here][..., :start] == 0).all() and (p[here][..., stop:] == 0).all()


@every_packed_module
def test_a_sequence_does_not_reach_another_of_its_row(options):
    module, segments, hidden_states = random_module(**options), packed_segments(), random_states()
    expected = module(hidden_states, mask=segments != 0, segments=segments)
    for row, start, stop in packed_places():
        changed_states = hidden_states.clone()
        changed_states[row, start:stop] = 50 * torch.randn(stop - start, HIDDEN_SIZE, dtype=torch.float64)
        others, own = segments != 0, (row, slice(start, stop))
        others[own] = False
        pooled, sigma = module(changed_states, mask=segments != 0, segments=segments)
        assert torch.equal(pooled[others], expected[0][others])
        assert torch.equal(sigma.transpose(1, 2)[others], expected[1].transpose(1, 2)[others])
        assert not torch.equal(pooled[own], expected[0][own])


class Adapted(torch.nn.Module):
    """A convolution to which something is added, as PEFT does."""

    def __init__(self, conv: torch.nn.Conv2d):
        super().__init__()
        self.base, self.added = conv, torch.nn.Conv2d(conv.in_channels, conv.out_channels, (1, 3), padding=(0, 1))
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.added(x)


def test_what_an_adapter_adds_is_added_to_packed_sequences_as_well():
    module, segments, hidden_states = random_module(pool_num_heads=2), packed_segments(), random_states()
    module.conv = Adapted(module.conv).to(hidden_states.dtype)
    pooled, _ = module(hidden_states, mask=segments != 0, segments=segments)
    for row, start, stop in packed_places():
        assert_close(pooled[row : row + 1, start:stop], module(hidden_states[row : row + 1, start:stop])[0])


@pytest.mark.parametrize("num_tokens", [10, 600])
@pytest.mark.parametrize("implementation", ["auto", "dense", "linear"])
def test_an_empty_batch_is_pooled_to_an_empty_one(num_tokens, implementation):
    pooled, sizes = ContextPool(8, pool_implementation=implementation)(torch.zeros(0, num_tokens, 8))
    assert pooled.shape == (0, num_tokens, 8) and sizes.shape == (0, 1, num_tokens)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (7, -3)], ids=str)
def test_only_whether_segments_differ_matters(numbers):
    module, hidden_states = random_module(pool_num_heads=2, pool_max_offset=2.0, pool_kernel_size=5), random_states()
    first, second = numbers
    segments = torch.where(torch.arange(NUM_TOKENS) < 6, first, second).expand(BATCH_SIZE, -1)
    pooled, sigma = module(hidden_states, segments=segments)
    halves = [module(hidden_states[:, :6]), module(hidden_states[:, 6:])]
    assert_close(pooled, torch.cat([half[0] for half in halves], dim=1))
    assert_close(sigma, torch.cat([half[1] for half in halves], dim=2))


@unmasked_and_masked
@every_module
def test_one_segment_is_none(options, masked):
    module, hidden_states = random_module(**options), random_states()
    mask = padding_mask() if masked else None
    ones = torch.ones(BATCH_SIZE, NUM_TOKENS, dtype=torch.long)
    packed, plain = module(hidden_states, mask, segments=ones), module(hidden_states, mask)
    valid = padding_mask() if masked else ones.bool()
    assert_close(packed[0][valid], plain[0][valid])
    assert_close(packed[1], plain[1])


@contents_of_masked_tokens
def test_padding_of_packed_rows_may_hold_anything(content):
    module, segments = random_module(pool_num_heads=2, pool_max_offset=2.0, pool_gate=True), packed_segments()
    mask, hidden_states = segments != 0, random_states()
    expected, _ = module(hidden_states, mask, segments=segments)
    changed_states = hidden_states.masked_fill(~mask[..., None], content).requires_grad_()
    pooled, sigma = module(changed_states, mask, segments=segments)
    assert_close(pooled[mask], expected[mask])
    for gradient in torch.autograd.grad(pooled[mask].sum() + sigma.sum(), [changed_states, *module.parameters()]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)], ids=str)
def test_packed_half_precision_keeps_its_dtype_and_is_near_float32(dtype, tolerance):
    module, segments = random_module(std=0.2, pool_num_heads=2, pool_max_offset=1.0).float(), packed_segments()
    hidden_states = random_states().to(dtype)
    expected, _ = module(hidden_states.float(), segments != 0, segments=segments)
    pooled, sigma = module.to(dtype)(hidden_states, segments != 0, segments=segments)
    assert pooled.dtype == dtype and sigma.dtype == torch.float32
    assert_close(pooled[segments != 0].float(), expected[segments != 0], atol=tolerance, rtol=0)


def test_an_error_tells_of_segments_of_a_grid():
    with pytest.raises(ValueError, match="segments are for sequences"):
        random_module((3, 5))(random_states(), grid_size=(3, 5), segments=packed_segments())


@pytest.mark.parametrize("shape", [(BATCH_SIZE, NUM_TOKENS - 1), (1, NUM_TOKENS), (BATCH_SIZE, 1, NUM_TOKENS)])
def test_an_error_tells_of_segments_of_another_shape(shape):
    with pytest.raises(ValueError, match="segments must be of shape"):
        random_module()(random_states(), segments=torch.ones(shape, dtype=torch.long))


# Reach on small grids


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_the_defaults_pool_neighbours_on_a_small_grid(seed):
    torch.manual_seed(seed)
    module, hidden_states = ContextPool(64, num_dims=2), torch.randn(2, 49, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, sigma = module(hidden_states, grid_size=(7, 7))
    weights, *numbers = module.predict(hidden_states, grid_size=(7, 7))
    own = pooling_weights(weights, *numbers, grid_size=(7, 7)).diagonal(dim1=-2, dim2=-1)
    assert own.mean() < 0.5 and sigma.min() > 0.5
    assert ContextPool(64).pool_range == 0.1 and module.pool_range == WindowedContextPool(64).pool_range == 0.3


@pytest.mark.parametrize(
    ("options", "grid_size", "warned"),
    [
        ({"pool_range": 0.1}, (7, 7), True),
        ({"pool_range": 0.1}, (3, 11), False),
        ({"pool_range": 0.1, "pool_max_offset": 1.0}, (7, 7), False),  # which leads to the next position
        ({}, (3, 3), True),
        ({}, (1, 1), False),
    ],
)
def test_a_grid_on_which_no_pool_leaves_its_position_is_warned_of(options, grid_size, warned):
    module, hidden_states = initial_module(grid_size, **options), torch.randn(1, math.prod(grid_size), HIDDEN_SIZE)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        module(hidden_states, grid_size=grid_size)
    assert [str(each.message).endswith("Raise pool_range.") for each in found] == [True] * warned


def test_the_warning_stays_out_of_graphs():
    module, hidden_states = initial_module((3, 3)), torch.randn(2, 9, HIDDEN_SIZE)
    with pytest.warns(UserWarning, match="Raise pool_range"):
        expected, _ = module(hidden_states, grid_size=(3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert_close(compiled(hidden_states, grid_size=(3, 3))[0], expected)
        torch.export.export(module, (hidden_states, None, (3, 3)))


# Compilation and export


@pytest.mark.slow
def test_one_compilation_serves_every_length():
    module = random_module(pool_num_heads=2, pool_max_offset=1.0, pool_gate=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for num_tokens in (15, 24):
        hidden_states, mask = random_states(num_tokens), torch.rand(BATCH_SIZE, num_tokens) < 0.7
        with torch.compiler.set_stance("fail_on_recompile" if num_tokens == 24 else "default"):
            assert_close(compiled(hidden_states, mask), module(hidden_states, mask))


@pytest.mark.slow
def test_an_exported_sequence_module_takes_any_length():
    module = random_module(pool_num_heads=2, pool_max_offset=1.0, pool_gate=True)
    length = {1: torch.export.Dim("length", min=2, max=64)}
    exported = torch.export.export(module, (random_states(), padding_mask()), dynamic_shapes=(length, length))
    hidden_states, mask = random_states(23), torch.rand(BATCH_SIZE, 23) < 0.7
    assert_close(exported.module()(hidden_states, mask), module(hidden_states, mask))


@pytest.mark.slow
def test_an_exported_grid_module_takes_any_batch_size():
    module = random_module((3, 5), pool_num_heads=2, pool_max_offset=1.0, pool_gate=True)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    arguments = (random_states(), padding_mask(), (3, 5))
    exported = torch.export.export(module, arguments, dynamic_shapes=(batch, batch, (None, None)))
    hidden_states, mask = random_states().repeat(2, 1, 1), padding_mask().repeat(2, 1)
    assert_close(exported.module()(hidden_states, mask, (3, 5)), module(hidden_states, mask, (3, 5)))


def test_an_error_tells_of_an_even_kernel():
    with pytest.raises(ValueError, match="odd"):
        ContextPool(HIDDEN_SIZE, pool_kernel_size=2)


def test_an_error_tells_of_a_mask_of_another_shape():
    with pytest.raises(ValueError, match="mask must be of shape"):
        random_module()(random_states(), torch.ones(BATCH_SIZE, NUM_TOKENS - 1))
