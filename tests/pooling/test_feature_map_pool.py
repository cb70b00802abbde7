# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The pooling of feature maps and its modules, against plain loops, the dense pooling, closed forms and symmetries."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pool_reference import predictor_weights, randomize
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from cp_transformers.benchmark.timing import PeakMemory
from cp_transformers.models.context_pool import MIN_SIGMA, context_pool
from cp_transformers.models.feature_map_pool import (
    GlobalContextPool,
    WindowedContextPool,
    windowed_context_pool,
    windowed_pooling_weights,
)


BATCH_SIZE, HIDDEN_SIZE, MAP_SIZE = 2, 6, (5, 8)

every_stride = pytest.mark.parametrize("stride", [1, 2, 3], ids=lambda stride: f"stride_{stride}")
every_window = pytest.mark.parametrize("window", [1, 3, 7], ids=lambda window: f"window_{window}")
every_size = pytest.mark.parametrize(
    "size", [(5, 5), (4, 9), (7, 6), (2, 3), (1, 1)], ids=lambda size: "{}x{}".format(*size)
)
with_and_without_offsets = pytest.mark.parametrize("with_offsets", [False, True], ids=["centred", "offsets"])
one_head_and_three = pytest.mark.parametrize("num_heads", [1, 3], ids=["one_head", "three_heads"])
unmasked_and_masked = pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
contents_of_masked_positions = pytest.mark.parametrize("content", [1e30, math.inf, math.nan])
half_precision = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])

every_windowed_module = pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"pool_num_heads": 3},
        {"pool_max_offset": 1.5},
        {"pool_gate": True},
        {"pool_factored": True},
        {
            "window": 3,
            "stride": 3,
            "pool_num_heads": 2,
            "pool_max_offset": 2.0,
            "pool_gate": True,
            "pool_factored": True,
            "pool_kernel_size": 5,
            "pool_range": 0.2,
        },
    ],
    ids=["plain", "stride", "heads", "offset", "gate", "factored", "everything"],
)
every_global_module = pytest.mark.parametrize(
    "options",
    [{}, {"pool_num_heads": 3}, {"pool_gate": True}, {"pool_num_heads": 2, "pool_gate": True, "pool_kernel_size": 5}],
    ids=["plain", "heads", "gate", "everything"],
)


def reference_windowed_context_pool(hidden_states, weights, sigma, offsets=None, mask=None, window=7, stride=1):
    """The docstring's equations, one number at a time. No valid position in the window: zeros."""
    batch_size, num_channels, rows, columns = hidden_states.shape
    num_heads, radius = weights.shape[1], window // 2
    out_rows, out_columns = math.ceil(rows / stride), math.ceil(columns / stride)
    offsets = torch.zeros(*sigma.shape, 2) if offsets is None else offsets
    mask = torch.ones(batch_size, rows, columns) if mask is None else mask
    x, w, s, o, m = (tensor.tolist() for tensor in (hidden_states, weights, sigma, offsets, mask))

    pooled = torch.zeros(batch_size, num_channels, out_rows, out_columns, dtype=torch.float64)
    for b, h, r, c in itertools.product(range(batch_size), range(num_heads), range(out_rows), range(out_columns)):
        centre = [r * stride + o[b][h][r][c][0], c * stride + o[b][h][r][c][1]]
        logit = {}
        for i in range(max(r * stride - radius, 0), min(r * stride + radius + 1, rows)):
            for j in range(max(c * stride - radius, 0), min(c * stride + radius + 1, columns)):
                if m[b][i][j]:
                    logit[i, j] = w[b][h][i][j] - math.dist(centre, (i, j)) ** 2 / (2 * s[b][h][r][c] ** 2)
        largest = max(logit.values(), default=0.0)
        p = {position: math.exp(value - largest) for position, value in logit.items()}
        for channel in range(h * num_channels // num_heads, (h + 1) * num_channels // num_heads):
            for i, j in p:
                pooled[b, channel, r, c] += p[i, j] / sum(p.values()) * x[b][channel][i][j]
    return pooled


def dense_context_pool(hidden_states, weights, sigma, offsets=None, mask=None):
    """`context_pool` of all positions of a feature map."""
    size = hidden_states.shape[-2:]
    pooled = context_pool(
        hidden_states.flatten(2).transpose(1, 2),
        weights.flatten(2),
        sigma.flatten(2),
        None if offsets is None else offsets.flatten(2, 3),
        mask=None if mask is None else mask.flatten(1),
        grid_size=tuple(size),
    )
    return pooled.transpose(1, 2).unflatten(2, size)


def predictions_by_hand(module, hidden_states):
    """The predictor's numbers, `(batch, heads, numbers, rows, columns)`."""
    kernel, last_weight = predictor_weights(module)
    features = torch.nn.functional.conv2d(hidden_states, kernel, module.conv.bias, padding=kernel.shape[-1] // 2)
    features = features * (1 + torch.erf(features / math.sqrt(2))) / 2
    numbers = torch.einsum("bcij,nc->bnij", features, last_weight)
    if module.proj.bias is not None:
        numbers = numbers + module.proj.bias[:, None, None]
    return torch.stack(numbers.chunk(module.pool_num_heads, dim=1), dim=1)


def gated_by_hand(module, pooled, original):
    if module.gate is None:
        return pooled
    gate = module.gate[:, None, None]
    return (1 - gate) * original + gate * pooled


def reference_windowed_module(module, hidden_states, original=None):
    """The module's two outputs from its parameters."""
    numbers, stride = predictions_by_hand(module, hidden_states), module.window_stride
    own_numbers = numbers[..., ::stride, ::stride]
    sigma = torch.clamp(module.pool_range * module.window / (1 + torch.exp(-own_numbers[:, :, 1])), min=MIN_SIGMA)
    offsets = None
    if module.pool_max_offset:
        offsets = module.pool_max_offset * torch.stack([own_numbers[:, :, 2], own_numbers[:, :, 3]], dim=-1).tanh()
    pooled = reference_windowed_context_pool(
        hidden_states, numbers[:, :, 0], sigma, offsets, window=module.window, stride=stride
    )
    return gated_by_hand(module, pooled, original), sigma


def reference_global_module(module, hidden_states, original=None):
    """The module's output from its parameters."""
    weights = predictions_by_hand(module, hidden_states)[:, :, 0].exp()
    p = (weights / weights.sum(dim=(2, 3), keepdim=True)).repeat_interleave(HIDDEN_SIZE // weights.shape[1], dim=1)
    return gated_by_hand(module, (p * hidden_states).sum(dim=(2, 3), keepdim=True), original)


def output_size(size=MAP_SIZE, stride=1):
    return tuple(math.ceil(side / stride) for side in size)


def holes(size=MAP_SIZE):
    """A mask of two examples: one padded on the right, down to windows without a valid position; one with holes."""
    mask = torch.ones(BATCH_SIZE, *size, dtype=torch.bool)
    mask[0, :, -(size[1] // 2) :] = False
    mask[1, ::2, 1::3] = False
    return mask


def random_map(size=MAP_SIZE):
    return torch.randn(BATCH_SIZE, HIDDEN_SIZE, *size, dtype=torch.float64)


def random_original(size=MAP_SIZE, stride=1):
    """A map that a gate starts from."""
    return random_map(output_size(size, stride))


def random_inputs(num_heads=2, with_offsets=True, size=MAP_SIZE, stride=1):
    """hidden_states, weights, sigma and offsets in float64."""
    weights = torch.randn(BATCH_SIZE, num_heads, *size, dtype=torch.float64)
    out_size = output_size(size, stride)
    sigma = 0.5 + 2 * torch.rand(BATCH_SIZE, num_heads, *out_size, dtype=torch.float64)
    offsets = torch.randn(BATCH_SIZE, num_heads, *out_size, 2, dtype=torch.float64)
    return random_map(size), weights, sigma, offsets if with_offsets else None


def random_windowed_module(std=0.5, **options):
    """A module in float64 with random parameters, far from its initial state."""
    return randomize(WindowedContextPool(HIDDEN_SIZE, **{"pool_hidden_size": 8, "pool_range": 0.5, **options}), std)


def random_global_module(std=0.5, **options):
    """A module in float64 with random parameters, far from its initial state."""
    return randomize(GlobalContextPool(HIDDEN_SIZE, pool_hidden_size=8, **options), std)


# The equations


@every_stride
@every_window
@every_size
def test_windowed_context_pool_equals_the_loops(stride, window, size):
    inputs, mask = random_inputs(size=size, stride=stride), holes(size)
    pooled = windowed_context_pool(*inputs, mask=mask, window=window, stride=stride)
    assert_close(pooled, reference_windowed_context_pool(*inputs, mask=mask, window=window, stride=stride))


@one_head_and_three
@with_and_without_offsets
@unmasked_and_masked
@every_stride
def test_windowed_context_pool_equals_the_loops_with_every_option(num_heads, with_offsets, masked, stride):
    inputs = random_inputs(num_heads, with_offsets, stride=stride)
    mask = holes() if masked else None
    pooled = windowed_context_pool(*inputs, mask=mask, window=3, stride=stride)
    assert_close(pooled, reference_windowed_context_pool(*inputs, mask=mask, window=3, stride=stride))


def test_the_window_is_seven_and_the_stride_one_by_default():
    inputs = random_inputs()
    assert_close(windowed_context_pool(*inputs), reference_windowed_context_pool(*inputs, window=7, stride=1))
    module = WindowedContextPool(HIDDEN_SIZE)
    assert (module.window, module.window_stride) == (7, 1)


@st.composite
def pooling_problems(draw):
    """The arguments of windowed_context_pool, of any shape, down to one position and to no valid one."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    window, stride = draw(st.sampled_from([1, 3, 5, 7])), draw(st.integers(1, 4))
    batch_size, num_heads, head_size = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    with_offsets, with_mask = draw(st.booleans()), draw(st.booleans())
    share_of_valid = draw(st.sampled_from([0.0, 0.3, 0.8]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    out_size = output_size((rows, columns), stride)
    return {
        "hidden_states": normal(batch_size, num_heads * head_size, rows, columns),
        "weights": 3 * normal(batch_size, num_heads, rows, columns),
        "sigma": normal(batch_size, num_heads, *out_size).exp().clamp(min=MIN_SIGMA),
        "offsets": normal(batch_size, num_heads, *out_size, 2) if with_offsets else None,
        "mask": torch.rand(batch_size, rows, columns, generator=generator) < share_of_valid if with_mask else None,
        "window": window,
        "stride": stride,
    }


@settings(deadline=None, derandomize=True, max_examples=40)
@given(pooling_problems())
def test_windowed_context_pool_equals_the_loops_for_any_shape(problem):
    assert_close(windowed_context_pool(**problem), reference_windowed_context_pool(**problem))


@every_windowed_module
def test_windowed_module_equals_its_reference(options):
    module, hidden_states = random_windowed_module(**options), random_map()
    original = random_original(stride=module.window_stride)
    with torch.no_grad():
        assert_close(module(hidden_states, original), reference_windowed_module(module, hidden_states, original))


@every_global_module
def test_global_module_equals_its_reference(options):
    module, hidden_states, original = random_global_module(**options), random_map(), random_map((1, 1))
    assert_close(module(hidden_states, original), reference_global_module(module, hidden_states, original))


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 4)])
def test_output_size_is_that_of_the_max_pooling_of_a_resnet(size):
    pooled = windowed_context_pool(*random_inputs(size=size, stride=2), window=3, stride=2)
    assert pooled.shape == torch.nn.MaxPool2d(kernel_size=3, stride=2, padding=1)(random_map(size)).shape


@every_stride
@every_window
def test_output_size_is_the_size_over_the_stride_rounded_up(stride, window):
    module, hidden_states = random_windowed_module(window=window, stride=stride, pool_num_heads=3), random_map((7, 4))
    pooled, sigma = module(hidden_states)
    rows, columns = {1: (7, 4), 2: (4, 2), 3: (3, 2)}[stride]
    assert pooled.shape == (BATCH_SIZE, HIDDEN_SIZE, rows, columns)
    assert sigma.shape == (BATCH_SIZE, 3, rows, columns)


# The dense pooling


@with_and_without_offsets
@unmasked_and_masked
@pytest.mark.parametrize("size", [(3, 5), (4, 2), (1, 1)])
def test_a_window_over_the_whole_map_gives_the_dense_pooling(with_offsets, masked, size):
    inputs = random_inputs(with_offsets=with_offsets, size=size)
    mask = holes(size) if masked else None
    pooled = windowed_context_pool(*inputs, mask=mask, window=2 * max(size) - 1)
    assert_close(pooled, dense_context_pool(*inputs, mask=mask))


@with_and_without_offsets
@unmasked_and_masked
def test_a_window_over_the_whole_map_gives_the_gradients_of_the_dense_pooling(with_offsets, masked):
    inputs = random_inputs(with_offsets=with_offsets, size=(3, 5))
    variables = [tensor.requires_grad_() for tensor in inputs if tensor is not None]
    mask, grad = holes((3, 5)) if masked else None, random_map((3, 5))
    windowed = torch.autograd.grad(windowed_context_pool(*inputs, mask=mask, window=9), variables, grad)
    assert_close(windowed, torch.autograd.grad(dense_context_pool(*inputs, mask=mask), variables, grad))


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("size", [(3, 5), (4, 2)])
def test_a_stride_gives_the_dense_pooling_and_its_gradients_at_every_so_many_positions(stride, size):
    hidden_states, weights, sigma, offsets = (tensor.requires_grad_() for tensor in random_inputs(size=size))
    variables = [hidden_states, weights, sigma, offsets]
    own_sigma, own_offsets = sigma[..., ::stride, ::stride], offsets[:, :, ::stride, ::stride]
    mask, grad = holes(size), random_original(size, stride)
    window = 2 * max(size) - 1
    strided = windowed_context_pool(hidden_states, weights, own_sigma, own_offsets, mask, window=window, stride=stride)
    dense = dense_context_pool(*variables, mask=mask)[..., ::stride, ::stride]
    assert_close(strided, dense)
    assert_close(torch.autograd.grad(strided, variables, grad), torch.autograd.grad(dense, variables, grad))


# Gradients


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_windowed_context_pool(stride):
    inputs = [tensor.requires_grad_() for tensor in random_inputs(size=(3, 4), stride=stride)]
    mask = holes((3, 4))

    def forward(*inputs):
        return windowed_context_pool(*inputs, mask=mask, window=3, stride=stride)

    assert torch.autograd.gradcheck(forward, inputs)


def test_second_derivatives_of_windowed_context_pool():
    inputs = [tensor[:1].requires_grad_() for tensor in random_inputs(size=(2, 3), stride=2)]
    assert torch.autograd.gradgradcheck(lambda *inputs: windowed_context_pool(*inputs, window=3, stride=2), inputs)


@pytest.mark.parametrize("chosen", range(4), ids=["hidden_states", "weights", "sigma", "offsets"])
def test_the_gradient_of_one_input_alone_is_its_gradient_among_all(chosen):
    inputs, grad = random_inputs(stride=2), random_original(stride=2)
    variables = [tensor.clone().requires_grad_() for tensor in inputs]
    among_all = torch.autograd.grad(windowed_context_pool(*variables, stride=2), variables, grad)[chosen]
    alone = [variable if index == chosen else inputs[index] for index, variable in enumerate(variables)]
    assert_close(torch.autograd.grad(windowed_context_pool(*alone, stride=2), alone[chosen], grad)[0], among_all)


@pytest.mark.parametrize("kind", ["windowed", "global"])
def test_gradients_of_the_modules(kind):
    if kind == "windowed":
        module = random_windowed_module(window=3, stride=2, pool_num_heads=2, pool_max_offset=1.0, pool_gate=True)
        original = random_original((3, 4), stride=2)
    else:
        module, original = random_global_module(pool_num_heads=2, pool_gate=True), random_map((1, 1))
    hidden_states = random_map((3, 4))[:1].requires_grad_()
    names, parameters = zip(*module.named_parameters())

    def forward(hidden_states, original, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters)), (hidden_states, original))

    assert torch.autograd.gradcheck(forward, (hidden_states, original[:1].requires_grad_(), *parameters))


@pytest.mark.parametrize("kind", ["windowed", "global"])
def test_every_parameter_gets_a_gradient(kind):
    if kind == "windowed":
        module, original = random_windowed_module(pool_max_offset=1.0, pool_gate=True), random_original()
    else:
        module, original = random_global_module(pool_gate=True), random_map((1, 1))
    tree_leaves(module(random_map(), original))[0].square().sum().backward()
    for parameter in module.parameters():
        assert parameter.grad.norm() > 1e-6


# Weighted averages


@with_and_without_offsets
@unmasked_and_masked
@every_stride
def test_weights_sum_to_one_inside_the_map_and_are_zero_elsewhere(with_offsets, masked, stride):
    _, weights, sigma, offsets = random_inputs(with_offsets=with_offsets, stride=stride)
    mask = torch.ones(BATCH_SIZE, *MAP_SIZE, dtype=torch.bool)
    mask[1, ::2, 1::3] = not masked
    p = windowed_pooling_weights(weights, sigma, offsets, mask if masked else None, window=5, stride=stride)
    assert p.shape == (BATCH_SIZE, 2, 25, *output_size(stride=stride))

    valid = torch.nn.functional.unfold(mask[:, None].double(), 5, padding=2, stride=stride)
    valid = valid.bool().view(BATCH_SIZE, 1, 25, *output_size(stride=stride)).expand_as(p)
    assert_close(p.where(valid, 0.0).sum(dim=2), torch.ones_like(sigma))
    assert (p[valid] > 0).all() and (p[~valid] == 0).all()


@every_stride
def test_weights_are_those_of_the_neighbours_row_by_row(stride):
    hidden_states, *predictions = random_inputs(num_heads=1, stride=stride)
    p = windowed_pooling_weights(*predictions, mask=holes(), window=3, stride=stride).flatten(3)
    valid_states = hidden_states.where(holes()[:, None], 0.0)
    neighbours = torch.nn.functional.unfold(valid_states, 3, padding=1, stride=stride).unflatten(1, (HIDDEN_SIZE, 9))
    pooled = windowed_context_pool(hidden_states, *predictions, mask=holes(), window=3, stride=stride)
    assert_close((p * neighbours).sum(dim=2), pooled.flatten(2))


@every_stride
@every_window
def test_vanishing_sigma_takes_every_so_many_positions(stride, window):
    hidden_states, weights, sigma, _ = random_inputs(stride=stride)
    pooled = windowed_context_pool(hidden_states, weights, torch.full_like(sigma, 1e-3), window=window, stride=stride)
    assert torch.equal(pooled, hidden_states[..., ::stride, ::stride])


@every_stride
@every_window
def test_infinite_sigma_with_equal_weights_is_average_pooling(stride, window):
    hidden_states, weights, sigma, offsets = random_inputs(stride=stride)
    weights, sigma = torch.full_like(weights, 0.7), torch.full_like(sigma, math.inf)
    pooled = windowed_context_pool(hidden_states, weights, sigma, offsets, window=window, stride=stride)
    average_pool = torch.nn.AvgPool2d(window, stride, padding=window // 2, count_include_pad=False)
    assert_close(pooled, average_pool(hidden_states))


@every_stride
def test_infinite_sigma_with_equal_weights_is_the_mean_over_valid_positions(stride):
    hidden_states, weights, sigma, offsets = random_inputs(stride=stride)
    weights, sigma = torch.full_like(weights, 0.7), torch.full_like(sigma, math.inf)
    pooled = windowed_context_pool(hidden_states, weights, sigma, offsets, holes(), window=3, stride=stride)
    average_pool = torch.nn.AvgPool2d(3, stride, padding=1)
    mask = holes()[:, None].double()
    mean = average_pool(hidden_states * mask) / average_pool(mask)
    assert_close(pooled, mean.nan_to_num(0.0))


@every_stride
def test_a_constant_map_is_a_fixed_point(stride):
    hidden_states, *others = random_inputs(stride=stride)
    mask = torch.ones(BATCH_SIZE, *MAP_SIZE, dtype=torch.bool)
    mask[1, ::2, 1::3] = False
    constant = hidden_states[..., :1, :1]
    pooled = windowed_context_pool(constant.expand_as(hidden_states), *others, mask=mask, window=3, stride=stride)
    assert_close(pooled, constant.expand_as(pooled))


@every_stride
def test_output_lies_between_the_smallest_and_the_largest_neighbour(stride):
    hidden_states, *others = random_inputs(stride=stride)
    pooled = windowed_context_pool(hidden_states, *others, window=3, stride=stride)
    max_pool = torch.nn.MaxPool2d(3, stride, padding=1)
    assert (pooled <= max_pool(hidden_states) + 1e-12).all()
    assert (pooled >= -max_pool(-hidden_states) - 1e-12).all()


def test_one_heavy_neighbour_in_every_window_is_the_output():
    hidden_states, weights, sigma, offsets = random_inputs(stride=2)
    weights, sigma = 1e5 * weights, torch.full_like(sigma, 10.0)
    pooled = windowed_context_pool(hidden_states, weights, sigma, offsets, window=3, stride=2)
    _, heaviest = torch.nn.functional.max_pool2d(weights, 3, 2, padding=1, return_indices=True)
    heaviest = heaviest.repeat_interleave(HIDDEN_SIZE // 2, dim=1)
    assert_close(pooled.flatten(2), hidden_states.flatten(2).gather(2, heaviest.flatten(2)))


def test_a_constant_added_to_all_weights_changes_nothing():
    hidden_states, weights, sigma, offsets = random_inputs(stride=2)
    constant = 1e6 * torch.randn(BATCH_SIZE, weights.shape[1], 1, 1, dtype=torch.float64)
    pooled = windowed_context_pool(hidden_states, weights, sigma, offsets, holes(), stride=2)
    assert_close(windowed_context_pool(hidden_states, weights + constant, sigma, offsets, holes(), stride=2), pooled)


# Heads


def test_equal_heads_are_one_head():
    hidden_states, *predictions = random_inputs(num_heads=1, stride=2)
    three = [prediction.repeat_interleave(3, dim=1) for prediction in predictions]
    assert_close(
        windowed_context_pool(hidden_states, *three, mask=holes(), stride=2),
        windowed_context_pool(hidden_states, *predictions, mask=holes(), stride=2),
    )


@pytest.mark.parametrize("kind", ["windowed", "global"])
def test_a_module_of_equal_heads_is_a_module_of_one_head(kind):
    options = {"stride": 2, "pool_max_offset": 1.0} if kind == "windowed" else {}
    random_module = random_windowed_module if kind == "windowed" else random_global_module
    one, three = random_module(pool_num_heads=1, **options), random_module(pool_num_heads=3, **options)
    state = one.state_dict()
    repeated = {name: torch.cat([value] * 3) for name, value in state.items() if name.startswith("proj.")}
    three.load_state_dict(state | repeated)
    hidden_states = random_map()
    if kind == "windowed":
        pooled, sigma = one(hidden_states)
        assert_close(three(hidden_states), (pooled, sigma.expand(-1, 3, -1, -1)))
    else:
        assert_close(three(hidden_states), one(hidden_states))


def test_a_head_pools_its_own_slice_alone():
    hidden_states, *predictions = random_inputs(num_heads=3, stride=2)
    pooled = windowed_context_pool(hidden_states, *predictions, stride=2)
    for head, (own_slice, pooled_slice) in enumerate(zip(hidden_states.chunk(3, dim=1), pooled.chunk(3, dim=1))):
        own_predictions = [prediction[:, head : head + 1] for prediction in predictions]
        assert_close(pooled_slice, windowed_context_pool(own_slice, *own_predictions, stride=2))


# Symmetries


@every_stride
@every_window
def test_a_shifted_map_gives_the_shifted_output(stride, window):
    hidden_states, weights, sigma, offsets = random_inputs(size=(14, 17), stride=stride)
    pooled = windowed_context_pool(hidden_states, weights, sigma, offsets, window=window, stride=stride)
    shifted = windowed_context_pool(
        hidden_states[..., stride:, 2 * stride :],
        weights[..., stride:, 2 * stride :],
        sigma[..., 1:, 2:],
        offsets[:, :, 1:, 2:],
        window=window,
        stride=stride,
    )
    margin = math.ceil((window // 2) / stride)
    assert_close(shifted[..., margin:, margin:], pooled[..., 1 + margin :, 2 + margin :])


@every_windowed_module
def test_a_shifted_map_gives_the_shifted_output_of_the_module(options):
    options = {**options, "pool_gate": False}
    module, hidden_states = random_windowed_module(**options), random_map((18, 23))
    stride = module.window_stride
    margin = math.ceil((module.window // 2 + module.conv.weight.shape[-1] // 2) / stride)
    for result, shifted in zip(module(hidden_states), module(hidden_states[..., stride:, 2 * stride :])):
        assert_close(shifted[..., margin:, margin:], result[..., 1 + margin :, 2 + margin :])


@every_stride
@with_and_without_offsets
def test_a_transposed_map_gives_the_transposed_output(stride, with_offsets):
    hidden_states, weights, sigma, offsets = random_inputs(with_offsets=with_offsets, stride=stride)
    pooled = windowed_context_pool(hidden_states, weights, sigma, offsets, holes(), window=3, stride=stride)
    transposed_offsets = offsets.transpose(2, 3).flip(-1) if with_offsets else None
    transposed = windowed_context_pool(
        hidden_states.mT, weights.mT, sigma.mT, transposed_offsets, holes().mT, window=3, stride=stride
    )
    assert_close(transposed, pooled.mT)


def test_a_flipped_map_gives_the_flipped_output():
    hidden_states, weights, sigma, offsets = random_inputs()
    pooled = windowed_context_pool(hidden_states, weights, sigma, offsets, holes(), window=3)
    flipped = (hidden_states.flip(2, 3), weights.flip(2, 3), sigma.flip(2, 3), -offsets.flip(2, 3), holes().flip(1, 2))
    assert_close(windowed_context_pool(*flipped, window=3), pooled.flip(2, 3))


@every_stride
def test_a_whole_offset_moves_the_centre_that_many_rows_and_columns_on(stride):
    hidden_states, weights, sigma, offsets = random_inputs(stride=stride)
    offsets = torch.tensor([1.0, 2.0], dtype=torch.float64).expand_as(offsets)
    pooled = windowed_context_pool(hidden_states, weights, torch.full_like(sigma, 1e-3), offsets, stride=stride)
    moved = hidden_states[..., 1::stride, 2::stride]
    assert torch.equal(pooled[..., : moved.shape[2], : moved.shape[3]], moved)


def test_nothing_beyond_the_window_reaches_the_output():
    inputs = [tensor.requires_grad_() for tensor in random_inputs(size=(9, 9), stride=2)]
    offsets = 10 * inputs[3]
    pooled = windowed_context_pool(*inputs[:3], offsets, window=3, stride=2)
    for gradient in torch.autograd.grad(pooled[:, :, 2, 1].square().sum(), inputs[:2]):
        reached = (gradient != 0).any(dim=1).any(dim=0)
        rows, columns = reached.any(dim=1).nonzero().flatten(), reached.any(dim=0).nonzero().flatten()
        assert rows.tolist() == [3, 4, 5] and columns.tolist() == [1, 2, 3]


# Masks


@every_stride
@contents_of_masked_positions
def test_windowed_context_pool_ignores_what_masked_positions_hold(stride, content):
    hidden_states, weights, sigma, offsets = random_inputs(stride=stride)
    mask = holes()
    results = []
    for held in (0.0, content):
        held_states = hidden_states.masked_fill(~mask[:, None], held).requires_grad_()
        held_weights = weights.masked_fill(~mask[:, None], held).requires_grad_()
        others = [sigma.clone().requires_grad_(), offsets.clone().requires_grad_()]
        pooled = windowed_context_pool(held_states, held_weights, *others, mask=mask, window=3, stride=stride)
        gradients = torch.autograd.grad(pooled.square().sum(), [held_states, held_weights, *others])
        results.append([pooled, *gradients])
    assert all(map(torch.equal, *results))
    for gradient in gradients[:2]:
        assert (gradient.masked_fill(mask[:, None], 0.0) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_entirely_masked_window_gives_zeros_with_finite_gradients(dtype):
    inputs = [tensor.to(dtype).requires_grad_() for tensor in random_inputs(stride=2)]
    mask = holes()
    mask[1, :, :4] = False
    pooled = windowed_context_pool(*inputs, mask=mask, window=3, stride=2)
    assert (pooled[0, ..., 3] == 0).all() and (pooled[1, ..., :2] == 0).all() and (pooled[1, ..., 2] != 0).any()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(pooled.square().sum(), inputs))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_a_mask_of_numbers_is_a_boolean_mask(dtype):
    inputs = random_inputs(stride=2)
    pooled = windowed_context_pool(*inputs, mask=holes().to(dtype), stride=2)
    assert torch.equal(pooled, windowed_context_pool(*inputs, mask=holes(), stride=2))


def test_a_mask_of_ones_is_no_mask():
    inputs, mask = random_inputs(stride=2), torch.ones(BATCH_SIZE, *MAP_SIZE)
    assert torch.equal(windowed_context_pool(*inputs, mask=mask, stride=2), windowed_context_pool(*inputs, stride=2))


def test_masking_all_around_a_map_is_cropping_it():
    hidden_states, weights, sigma, offsets = random_inputs(size=(9, 12))
    mask = torch.zeros(BATCH_SIZE, 9, 12, dtype=torch.bool)
    mask[:, 2:7, 1:9] = True
    pooled = windowed_context_pool(hidden_states, weights, sigma, offsets, mask)
    inside = (..., slice(2, 7), slice(1, 9))
    cropped = windowed_context_pool(hidden_states[inside], weights[inside], sigma[inside], offsets[:, :, 2:7, 1:9])
    assert_close(pooled[inside], cropped)


# Dtypes and layouts


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_are_computed_in_float32(dtype):
    _, *predictions = [tensor.to(dtype) for tensor in random_inputs()]
    p = windowed_pooling_weights(*predictions, mask=holes())
    assert p.dtype == torch.float32
    assert torch.equal(p, windowed_pooling_weights(*[prediction.float() for prediction in predictions], mask=holes()))


def test_weights_of_float64_are_computed_in_float64():
    _, *predictions = random_inputs()
    assert windowed_pooling_weights(*predictions).dtype == torch.float64


@half_precision
@every_windowed_module
def test_half_precision_of_windowed_module_keeps_its_dtype_and_is_near_float32(dtype, tolerance, options):
    module, hidden_states = random_windowed_module(std=0.2, **options).to(dtype), random_map().to(dtype)
    original = random_original(stride=module.window_stride).to(dtype)
    pooled, sigma = module(hidden_states, original)
    expected, _ = module.float()(hidden_states.float(), original.float())
    assert pooled.dtype == dtype and sigma.dtype == torch.float32
    assert_close(pooled.float(), expected, atol=tolerance, rtol=tolerance)


@half_precision
@every_global_module
def test_half_precision_of_global_module_keeps_its_dtype_and_is_near_float32(dtype, tolerance, options):
    module, hidden_states = random_global_module(std=0.2, **options).to(dtype), random_map().to(dtype)
    original = random_map((1, 1)).to(dtype)
    pooled = module(hidden_states, original)
    assert pooled.dtype == dtype
    assert_close(
        pooled.float(), module.float()(hidden_states.float(), original.float()), atol=tolerance, rtol=tolerance
    )


@half_precision
def test_half_precision_gradients_are_near_float32(dtype, tolerance):
    inputs = [tensor.to(dtype).requires_grad_() for tensor in random_inputs(stride=2)]
    in_float32 = [tensor.detach().float().requires_grad_() for tensor in inputs]
    grad = random_original(stride=2).to(dtype)
    gradients = torch.autograd.grad(windowed_context_pool(*inputs, stride=2), inputs, grad)
    expected = torch.autograd.grad(windowed_context_pool(*in_float32, stride=2), in_float32, grad.float())
    for gradient, expected_gradient in zip(gradients, expected):
        assert gradient.dtype == dtype
        assert (gradient.float() - expected_gradient).norm() < tolerance * expected_gradient.norm()


def assert_autocast_is_near_float32(module, *inputs):
    parameters = list(module.parameters())
    expected = tree_leaves(module(*inputs))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = tree_leaves(module(*inputs))[0]
    assert_close(pooled.float(), expected, atol=0.05, rtol=0.05)
    gradients = [torch.autograd.grad(result.float().square().sum(), parameters) for result in (pooled, expected)]
    gradient, expected_gradient = (torch.nn.utils.parameters_to_vector(gradient) for gradient in gradients)
    assert (gradient - expected_gradient).norm() < 0.1 * expected_gradient.norm()


@every_windowed_module
def test_autocast_of_windowed_module_is_near_float32(options):
    module = random_windowed_module(std=0.2, **options).float()
    original = random_original(stride=module.window_stride).float()
    assert_autocast_is_near_float32(module, random_map().float(), original)


@every_global_module
def test_autocast_of_global_module_is_near_float32(options):
    module = random_global_module(std=0.2, **options).float()
    assert_autocast_is_near_float32(module, random_map().float(), random_map((1, 1)).float())


@every_stride
def test_a_channels_last_map_gives_the_same_output_and_gradients(stride):
    module = random_windowed_module(stride=stride, pool_num_heads=2, pool_max_offset=1.0)
    hidden_states = random_map()
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        variable = hidden_states.clone(memory_format=memory_format).requires_grad_()
        pooled, sigma = module(variable)
        results.append([pooled, sigma, *torch.autograd.grad(pooled.square().sum(), [variable, *module.parameters()])])
    assert_close(*results)


def test_a_channels_last_map_gives_the_same_global_pool():
    module, hidden_states = random_global_module(pool_num_heads=2), random_map()
    assert_close(module(hidden_states.to(memory_format=torch.channels_last)), module(hidden_states))


# Memory


def peak_memory(size, stride, with_offsets, num_channels=64, num_heads=1, window=5):
    """The peak of forward and backward in bytes; and the bytes of the padded map and of one number a neighbour."""
    side, out_side = size + window - 1, math.ceil(size / stride)
    hidden_states = torch.randn(1, num_channels, size, size, requires_grad=True)
    weights = torch.randn(1, num_heads, size, size, requires_grad=True)
    sigma = torch.ones(1, num_heads, out_side, out_side, requires_grad=True)
    offsets = torch.zeros(1, num_heads, out_side, out_side, 2, requires_grad=True) if with_offsets else None
    with PeakMemory() as memory:
        windowed_context_pool(hidden_states, weights, sigma, offsets, window=window, stride=stride).sum().backward()
    return memory.peak, 4 * num_channels * side**2, 4 * window**2 * num_heads * out_side**2


@pytest.mark.parametrize("stride", [1, 2])
@with_and_without_offsets
@pytest.mark.parametrize("num_channels", [1, 64])
def test_peak_memory_is_a_few_times_that_of_the_map_and_its_weights(stride, with_offsets, num_channels):
    peak, bytes_of_map, bytes_of_weights = peak_memory(32, stride, with_offsets, num_channels)
    # The weights stand in matrices of which they are a band, a third of one at stride 1 and a fifth at stride 2.
    assert peak < 6 * bytes_of_map + 30 * bytes_of_weights


@pytest.mark.parametrize("stride", [1, 2])
@with_and_without_offsets
def test_twice_the_side_takes_four_times_the_peak_memory(stride, with_offsets):
    peak, *_ = peak_memory(32, stride, with_offsets)
    peak_of_twice_the_side, *_ = peak_memory(64, stride, with_offsets)
    assert 3 < peak_of_twice_the_side / peak < 4.1


# The modules: gate, initial state, sizes, errors


@every_stride
def test_a_gate_at_zero_is_exactly_the_original(stride):
    module = random_windowed_module(stride=stride, pool_gate=True).float()
    torch.nn.init.zeros_(module.gate)
    original = random_original(stride=stride).float()
    assert torch.equal(module(random_map().float(), original)[0], original)


def test_a_gate_of_the_global_module_at_zero_is_exactly_the_original():
    module, original = random_global_module(pool_gate=True).float(), random_map((1, 1)).float()
    torch.nn.init.zeros_(module.gate)
    assert torch.equal(module(random_map().float(), original), original)


@pytest.mark.parametrize("kind", ["windowed", "global"])
def test_a_gate_at_one_is_no_gate(kind):
    random_module = random_windowed_module if kind == "windowed" else random_global_module
    gated, ungated = random_module(pool_gate=True), random_module()
    torch.nn.init.ones_(gated.gate)
    ungated.load_state_dict({name: value for name, value in gated.state_dict().items() if name != "gate"})
    hidden_states, original = random_map(), random_map() if kind == "windowed" else random_map((1, 1))
    assert_close(gated(hidden_states, original), ungated(hidden_states))


@pytest.mark.parametrize("kind", ["windowed", "global"])
def test_without_a_gate_the_original_changes_nothing(kind):
    module = random_windowed_module() if kind == "windowed" else random_global_module()
    hidden_states = random_map()
    assert_close(module(hidden_states, random_map()), module(hidden_states), atol=0, rtol=0)


def test_a_gate_opens_one_channel_at_a_time():
    module, original = random_windowed_module(pool_gate=True), random_original()
    torch.nn.init.zeros_(module.gate)
    module.gate.data[4] = 1.0
    pooled, _ = module(random_map(), original)
    changed = (pooled != original).any(dim=3).any(dim=2).any(dim=0)
    assert changed.tolist() == [False, False, False, False, True, False]


@pytest.mark.parametrize("module_class", [WindowedContextPool, GlobalContextPool])
def test_a_gate_is_one_number_a_channel_and_starts_at_zero(module_class):
    assert torch.equal(module_class(HIDDEN_SIZE, pool_gate=True).gate, torch.zeros(HIDDEN_SIZE))
    assert module_class(HIDDEN_SIZE).gate is None


@every_windowed_module
def test_sigma_starts_at_half_its_range(options):
    module = WindowedContextPool(HIDDEN_SIZE, **{"pool_range": 0.7, **options})
    torch.nn.init.zeros_(module.proj.weight)
    _, sigma = module(random_map().float(), random_original(stride=module.window_stride).float())
    assert_close(sigma, torch.full_like(sigma, module.pool_range * module.window * 0.5))


def test_windowed_module_starts_as_a_blur_without_an_offset():
    module = WindowedContextPool(HIDDEN_SIZE, window=5, stride=2, pool_range=0.4, pool_max_offset=2.0)
    torch.nn.init.zeros_(module.proj.weight)
    hidden_states = random_map().float()
    gaussian = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / 2)  # sigma is 0.4 * 5 / 2
    kernel = gaussian.outer(gaussian).expand(HIDDEN_SIZE, 1, 5, 5)

    def blur(feature_map):
        return torch.nn.functional.conv2d(feature_map, kernel, padding=2, stride=2, groups=HIDDEN_SIZE)

    assert_close(module(hidden_states)[0], blur(hidden_states) / blur(torch.ones_like(hidden_states)))


@pytest.mark.parametrize("window", [3, 7])
def test_sizes_are_float32_and_stay_between_the_floor_and_their_range(window):
    module = random_windowed_module(window=window, stride=2, pool_num_heads=3, pool_range=0.4).float()
    _, sigma = module(100 * random_map().float())
    assert sigma.dtype == torch.float32
    assert (sigma >= MIN_SIGMA).all() and (sigma <= 0.4 * window).all()
    assert_close((sigma.min().item(), sigma.max().item()), (MIN_SIGMA, 0.4 * window))


def test_sizes_of_a_float64_map_are_float64():
    assert random_windowed_module()(random_map())[1].dtype == torch.float64


@every_windowed_module
def test_sizes_do_not_depend_on_the_size_of_the_map(options):
    module = random_windowed_module(**{**options, "pool_gate": False})
    colour = random_map((1, 1))
    small, large = (module(colour.expand(-1, -1, *size))[1] for size in ((15, 17), (30, 70)))
    middle = tuple(side // 2 for side in small.shape[-2:])
    assert_close(small[..., middle[0], middle[1]], large[..., middle[0], middle[1]])
    assert_close(large[..., middle[0], middle[1]], large[..., middle[0], -2 * middle[1]])


def test_equal_weights_of_the_global_module_are_global_average_pooling():
    module, hidden_states = random_global_module(pool_num_heads=3), random_map()
    torch.nn.init.zeros_(module.proj.weight)
    assert_close(module(hidden_states), torch.nn.AdaptiveAvgPool2d(1)(hidden_states))


def test_global_module_gives_one_number_a_channel_between_the_smallest_and_the_largest():
    module, hidden_states = random_global_module(pool_num_heads=2), random_map()
    pooled = module(hidden_states)
    assert pooled.shape == (BATCH_SIZE, HIDDEN_SIZE, 1, 1)
    assert (pooled > hidden_states.amin(dim=(2, 3), keepdim=True)).all()
    assert (pooled < hidden_states.amax(dim=(2, 3), keepdim=True)).all()


def test_global_module_takes_a_map_of_one_position_as_it_is():
    hidden_states = random_map((1, 1))
    assert_close(random_global_module(pool_num_heads=2)(hidden_states), hidden_states)


@every_windowed_module
def test_an_example_is_the_same_alone_and_in_a_batch(options):
    module, hidden_states = random_windowed_module(**options), random_map()
    original = random_original(stride=module.window_stride)
    for in_the_batch, alone in zip(module(hidden_states, original), module(hidden_states[1:], original[1:])):
        assert_close(in_the_batch[1:], alone)


@pytest.mark.parametrize("kind", ["windowed", "global"])
def test_an_error_tells_of_a_gate_without_an_original(kind):
    random_module = random_windowed_module if kind == "windowed" else random_global_module
    with pytest.raises(ValueError, match="A gated pool needs `original`, the pooling whose place it takes"):
        random_module(pool_gate=True)(random_map())


@pytest.mark.parametrize("window", [-3, 0, 2, 8])
def test_an_error_tells_of_a_window_that_has_no_centre(window):
    hidden_states, *predictions = random_inputs()
    with pytest.raises(ValueError, match=f"The window must be odd and positive, not {window}"):
        windowed_pooling_weights(*predictions, window=window)
    with pytest.raises(ValueError, match=f"The window must be odd and positive, not {window}"):
        windowed_context_pool(hidden_states, *predictions, window=window)
    with pytest.raises(ValueError, match=f"The window must be odd and positive, not {window}"):
        random_windowed_module(window=window)(hidden_states)


def test_an_error_tells_of_channels_that_heads_cannot_share():
    with pytest.raises(ValueError, match="6 channels cannot be split into 4 pooling heads"):
        windowed_context_pool(*random_inputs(num_heads=4))
    for module_class in (WindowedContextPool, GlobalContextPool):
        with pytest.raises(ValueError, match=r"hidden_size \(6\) must be divisible by pool_num_heads \(4\)"):
            module_class(HIDDEN_SIZE, pool_num_heads=4)


def test_the_modules_print_their_options():
    windowed = WindowedContextPool(HIDDEN_SIZE, stride=2, window=5, pool_range=0.3)
    assert "pool_range=0.3" in repr(windowed) and "window=5, window_stride=2" in repr(windowed)
    assert "pool_num_heads=3, pool_gate=True" in repr(GlobalContextPool(HIDDEN_SIZE, pool_num_heads=3, pool_gate=True))


# Compilation and export


def with_gradients(function, module, *inputs):
    """Returns `function` of the inputs, and the gradients that come back through it to the parameters."""
    results = tree_leaves(function(*inputs))
    loss = sum(result.square().sum() for result in results)
    return [*results, *torch.autograd.grad(loss, list(module.parameters()))]


@pytest.mark.slow
def test_a_compiled_windowed_module_gives_the_same_output_and_gradients():
    module = random_windowed_module(window=3, stride=2, pool_num_heads=2, pool_max_offset=1.0, pool_gate=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=False)
    inputs = random_map(), random_original(stride=2)
    assert_close(with_gradients(compiled, module, *inputs), with_gradients(module, module, *inputs))


@pytest.mark.slow
def test_one_compilation_of_global_module_serves_every_size():
    module = random_global_module(pool_num_heads=2, pool_gate=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (MAP_SIZE, (9, 12)):
        inputs = random_map(size), random_map((1, 1))
        with torch.compiler.set_stance("default" if size == MAP_SIZE else "fail_on_recompile"):
            assert_close(with_gradients(compiled, module, *inputs), with_gradients(module, module, *inputs))


@pytest.mark.slow
def test_compiled_windowed_context_pool_gives_the_same_output_and_gradients():
    inputs, grad = [tensor.requires_grad_() for tensor in random_inputs(stride=2)], random_original(stride=2)
    compiled = torch.compile(windowed_context_pool, fullgraph=True, backend="aot_eager")
    results = []
    for function in (windowed_context_pool, compiled):
        pooled = function(*inputs, mask=holes(), window=3, stride=2)
        results.append([pooled, *torch.autograd.grad(pooled, inputs, grad)])
    assert_close(*results)


def sizes_from_four():
    """Every dimension but the channels may be of any size. That of less than four is another program to torch."""
    return {0: torch.export.Dim("batch"), 2: torch.export.Dim("rows", min=4), 3: torch.export.Dim("columns", min=4)}


@pytest.mark.slow
def test_an_exported_windowed_module_takes_maps_of_any_size():
    module = random_windowed_module(window=3, pool_num_heads=2, pool_max_offset=1.0)
    exported = torch.export.export(module, (random_map((6, 8)),), dynamic_shapes=(sizes_from_four(),))
    for size in ((6, 8), (7, 12), (13, 4)):
        hidden_states = random_map(size).repeat(2, 1, 1, 1)
        assert_close(exported.module()(hidden_states), module(hidden_states))


@pytest.mark.slow
def test_an_exported_windowed_module_with_a_stride_takes_any_batch_size():
    module = random_windowed_module(window=3, stride=2, pool_num_heads=2, pool_max_offset=1.0, pool_gate=True)
    batch = {0: torch.export.Dim("batch")}
    arguments = (random_map(), random_original(stride=2))
    exported = torch.export.export(module, arguments, dynamic_shapes=(batch, batch))
    larger_batch = (random_map().repeat(2, 1, 1, 1), random_original(stride=2).repeat(2, 1, 1, 1))
    assert_close(exported.module()(*larger_batch), module(*larger_batch))


@pytest.mark.slow
def test_an_exported_global_module_takes_maps_of_any_size():
    module = random_global_module(pool_num_heads=2)
    exported = torch.export.export(module, (random_map((6, 8)),), dynamic_shapes=(sizes_from_four(),))
    for size in ((6, 8), (7, 12), (13, 4)):
        hidden_states = random_map(size).repeat(2, 1, 1, 1)
        assert_close(exported.module()(hidden_states), module(hidden_states))
