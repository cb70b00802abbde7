# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Strided pooling, which keeps one token of each group of neighbours: the operation and its module, against plain
loops, closed forms and invariances."""

import math

import pytest
import torch
from pool_reference import (
    mean_position,
    randomize,
    reference_groups,
    reference_strided_context_pool,
    reference_strided_module,
    reference_strided_weights,
)
from torch.testing import assert_close

from cp_transformers.models.context_pool import ContextPool, context_pool, pooling_weights
from cp_transformers.models.token_groups import lay_out


BATCH_SIZE, HIDDEN_SIZE = 5, 6

# Sequences, and grids of the tokens of one, whose sides are multiples of the strides or not.
SHAPES = {
    "sequence_of_15": (15, None),
    "sequence_of_12": (12, None),
    "grid_3x5": (15, (3, 5)),
    "grid_2x6": (12, (2, 6)),
}
every_shape = pytest.mark.parametrize(("num_tokens", "grid_size"), SHAPES.values(), ids=SHAPES)
sequence_and_grid = pytest.mark.parametrize("grid_size", [None, (3, 5)], ids=["sequence", "grid"])
both_strides = pytest.mark.parametrize("stride", [2, 3])
with_and_without_offsets = pytest.mark.parametrize("with_offsets", [False, True], ids=["centred", "offsets"])
unmasked_and_masked = pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])

every_module = pytest.mark.parametrize(
    "options",
    [{}, {"pool_num_heads": 3, "pool_factored": True, "pool_kernel_size": 5}],
    ids=["plain", "heads_and_factored"],
)


def padding_mask(num_tokens=15):
    """Five examples: no padding, right padding, left padding, holes as long as groups, nothing valid."""
    mask = torch.ones(BATCH_SIZE, num_tokens, dtype=torch.bool)
    mask[1, 8:] = False
    mask[2, :4] = False
    mask[3, 1] = mask[3, 4:10] = False
    mask[4] = False
    return mask


def group_count(num_tokens, grid_size, stride):
    return math.prod(math.ceil(side / stride) for side in grid_size or (num_tokens,))


def random_states(num_tokens=15):
    return torch.randn(BATCH_SIZE, num_tokens, HIDDEN_SIZE, dtype=torch.float64)


def random_inputs(num_tokens=15, grid_size=None, stride=2, with_offsets=True, num_heads=2, groups=None):
    """`hidden_states`, `weights`, `sigma` and `offsets` in float64."""
    groups = groups or group_count(num_tokens, grid_size, stride)
    weights = torch.randn(BATCH_SIZE, num_heads, num_tokens, dtype=torch.float64)
    sigma = stride * (0.3 + torch.rand(BATCH_SIZE, num_heads, groups, dtype=torch.float64))
    offsets = torch.rand(BATCH_SIZE, num_heads, groups, 1 if grid_size is None else 2, dtype=torch.float64)
    return random_states(num_tokens), weights, sigma, stride * (offsets - 0.5) if with_offsets else None


def random_module(grid_size=None, stride=2, **options):
    num_dims = 1 if grid_size is None else 2
    return randomize(ContextPool(HIDDEN_SIZE, pool_hidden_size=8, num_dims=num_dims, stride=stride, **options))


def initial_module(grid_size=None, stride=2):
    """A module at its initial state, whose predictions do not depend on the tokens."""
    module = ContextPool(HIDDEN_SIZE, num_dims=1 if grid_size is None else 2, stride=stride).double()
    torch.nn.init.zeros_(module.proj.weight)
    return module


def with_gradients(function, inputs, direction, **options):
    inputs = [None if each is None else each.detach().requires_grad_() for each in inputs]
    pooled = function(*inputs, **options)
    given = [each for each in inputs if each is not None]
    return pooled.detach(), *torch.autograd.grad(pooled, given, direction[:, : pooled.shape[1]])


def valid_groups(mask, grid_size, stride, segments=None):
    """`(batch, groups)`, True where a group has a valid token."""
    segments = [None] * len(mask) if segments is None else segments.tolist()
    found = [
        [bool(group) for group in reference_groups(len(row), row, grid_size, parts, stride)]
        for row, parts in zip(mask.tolist(), segments)
    ]
    longest = max(map(len, found))
    return torch.tensor([row + [False] * (longest - len(row)) for row in found])


# The equations


@every_shape
@pytest.mark.parametrize(("stride", "with_offsets"), [(2, True), (3, True), (3, False)])
@unmasked_and_masked
def test_context_pool_and_its_gradients_equal_the_loops(num_tokens, grid_size, stride, with_offsets, masked):
    inputs, direction = random_inputs(num_tokens, grid_size, stride, with_offsets), random_states(num_tokens)
    options = {"mask": padding_mask(num_tokens) if masked else None, "grid_size": grid_size, "stride": stride}
    found = with_gradients(context_pool, inputs, direction, implementation="dense", **options)
    assert_close(found, with_gradients(reference_strided_context_pool, inputs, direction, **options))


@every_shape
@pytest.mark.parametrize("stride", [2, 3, 4])
@unmasked_and_masked
def test_the_linear_form_and_its_gradients_are_near_the_loops(num_tokens, grid_size, stride, masked):
    inputs, direction = random_inputs(num_tokens, grid_size, stride), random_states(num_tokens)
    options = {"mask": padding_mask(num_tokens) if masked else None, "grid_size": grid_size, "stride": stride}
    found = with_gradients(context_pool, inputs, direction, implementation="linear", **options)
    expected = with_gradients(reference_strided_context_pool, inputs, direction, **options)
    for ours, exact in zip(found, expected):
        assert (ours - exact).norm() <= 3e-4 * exact.norm()


@pytest.mark.parametrize(("num_tokens", "grid_size"), [(603, None), (21 * 29, (21, 29))], ids=["sequence", "grid"])
@pytest.mark.parametrize(
    "stride", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_the_linear_form_of_many_tokens_is_near_the_dense_one(num_tokens, grid_size, stride):
    """The sizes are such that there are several levels."""
    inputs, direction = random_inputs(num_tokens, grid_size, stride), random_states(num_tokens)
    inputs[2].mul_(torch.logspace(0, 1, inputs[2].shape[-1], dtype=torch.float64))
    mask = torch.rand(BATCH_SIZE, num_tokens) < 0.8
    mask[1, 400:] = mask[2, :101] = False
    options = {"mask": mask, "grid_size": grid_size, "stride": stride}
    found = with_gradients(context_pool, inputs, direction, implementation="linear", **options)
    expected = with_gradients(context_pool, inputs, direction, implementation="dense", **options)
    for ours, exact in zip(found, expected):
        assert (ours - exact).norm() <= 3e-4 * exact.norm()


@every_shape
@both_strides
@with_and_without_offsets
def test_rows_of_weights_equal_the_loops_sum_to_one_and_give_the_pool(num_tokens, grid_size, stride, with_offsets):
    hidden_states, *inputs = random_inputs(num_tokens, grid_size, stride, with_offsets)
    mask = padding_mask(num_tokens)
    options = {"mask": mask, "grid_size": grid_size, "stride": stride}
    p = pooling_weights(*inputs, **options)
    assert_close(p, reference_strided_weights(*inputs, **options))
    groups = valid_groups(mask, grid_size, stride)
    assert_close(p.sum(dim=-1), groups[:, None].expand(-1, 2, -1).double())
    assert (p.transpose(1, 3)[~mask] == 0).all()
    pooled = torch.cat([p[:, head] @ each for head, each in enumerate(hidden_states.chunk(2, dim=-1))], dim=-1)
    assert_close(context_pool(hidden_states, *inputs, **options), pooled)


@sequence_and_grid
@both_strides
@unmasked_and_masked
@every_module
def test_the_module_and_its_gradients_equal_the_loops(grid_size, stride, masked, options):
    module, mask = random_module(grid_size, stride, **options), padding_mask() if masked else None
    hidden_states, direction = random_states().requires_grad_(), random_states()

    def results(function, *arguments):
        pooled, sigma = function(*arguments, mask=mask, grid_size=grid_size)
        value = (pooled * direction[:, : pooled.shape[1]]).sum() + sigma.square().sum()
        return pooled, sigma, *torch.autograd.grad(value, [hidden_states, *module.parameters()])

    assert_close(results(module, hidden_states), results(reference_strided_module, module, hidden_states))


# Closed forms


@sequence_and_grid
def test_at_the_start_the_pool_of_a_pair_is_near_its_mean(grid_size):
    num_tokens, sides = (40, None) if grid_size is None else (64, (8, 8))
    hidden_states = random_states(num_tokens)
    pooled, sigma = initial_module(grid_size)(hidden_states, grid_size=sides)
    groups = reference_groups(num_tokens, None, sides, None, 2)
    means = torch.stack([hidden_states[:, group].mean(dim=1) for group in groups], dim=1)
    assert (pooled - means).norm() < 0.05 * means.norm()
    assert_close(sigma, torch.full_like(sigma, 0.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("stride", [2, 3, 4])
@sequence_and_grid
def test_sigma_starts_at_the_standard_deviation_of_a_groups_positions(grid_size, stride):
    _, sigma = initial_module(grid_size, stride)(random_states(), grid_size=grid_size)
    deviation = torch.arange(float(stride)).double().std(correction=0)
    assert_close(sigma, deviation.expand_as(sigma), rtol=1e-6, atol=0)


@every_shape
@both_strides
def test_the_centre_of_a_group_is_the_mean_position_of_its_valid_tokens(num_tokens, grid_size, stride):
    """Two weights of a Gaussian tell where along the line between them it stands."""
    mask, width = padding_mask(num_tokens), 7.0
    groups = group_count(num_tokens, grid_size, stride)
    weights, sigma = (
        torch.zeros(BATCH_SIZE, 1, num_tokens).double(),
        torch.full((BATCH_SIZE, 1, groups), width).double(),
    )
    p = pooling_weights(weights, sigma, mask=mask, grid_size=grid_size, stride=stride)
    columns = num_tokens if grid_size is None else grid_size[1]
    for b, row in enumerate(mask.tolist()):
        for g, group in enumerate(reference_groups(num_tokens, row, grid_size, None, stride)):
            if group:
                centre = torch.tensor(mean_position(group, columns))
                keys = mask[b].nonzero().squeeze(1)
                squares = ((torch.stack([keys // columns, keys % columns], dim=1) - centre) ** 2).sum(dim=1)
                logits = 2 * width**2 * p[b, 0, g, keys].log()
                assert_close(logits - logits[0], (squares[0] - squares).double(), rtol=0, atol=1e-5)


@sequence_and_grid
@both_strides
@pytest.mark.parametrize("implementation", ["dense", "linear"])
def test_constant_input_gives_constant_output(grid_size, stride, implementation):
    _, *inputs = random_inputs(15, grid_size, stride)
    constant, mask = torch.randn(HIDDEN_SIZE, dtype=torch.float64), padding_mask()
    options = {"mask": mask, "grid_size": grid_size, "stride": stride, "implementation": implementation}
    pooled = context_pool(constant.expand(BATCH_SIZE, 15, -1), *inputs, **options)
    assert_close(pooled, valid_groups(mask, grid_size, stride)[..., None] * constant)


@both_strides
def test_a_grid_of_single_rows_of_groups_is_a_sequence(stride):
    """The grid has one row, and so have its groups of `stride` rows."""
    hidden_states, weights, sigma, offsets = random_inputs(15, None, stride)
    on_grid = torch.cat([torch.zeros_like(offsets), offsets], dim=-1)
    pooled = context_pool(hidden_states, weights, sigma, on_grid, grid_size=(1, 15), stride=stride)
    assert_close(pooled, context_pool(hidden_states, weights, sigma, offsets, stride=stride))


@pytest.mark.parametrize("grid_size", [None, (3, 5), (1, 1)], ids=["sequence", "grid", "one_position"])
@pytest.mark.parametrize("implementation", ["dense", "linear"])
def test_one_group_may_hold_everything(grid_size, implementation):
    num_tokens = 15 if grid_size is None else math.prod(grid_size)
    inputs = random_inputs(num_tokens, grid_size, 20)
    options = {"grid_size": grid_size, "stride": 20}
    pooled = context_pool(*inputs, implementation=implementation, **options)
    assert_close(pooled, reference_strided_context_pool(*inputs, **options), rtol=0, atol=1e-4)


# Masks


@pytest.mark.parametrize(("left", "right"), [(0, 1), (0, 9), (1, 0), (7, 0), (3, 4)])
@both_strides
@every_module
def test_padding_changes_nothing(left, right, stride, options):
    module, hidden_states, mask = random_module(stride=stride, **options), random_states(), padding_mask()
    padded_mask = torch.nn.functional.pad(mask, (left, right))
    padded_states = torch.randn(BATCH_SIZE, left + 15 + right, HIDDEN_SIZE, dtype=torch.float64)
    padded_states[:, left : left + 15] = hidden_states
    pooled, sigma = module(hidden_states, mask)
    padded, padded_sigma = module(padded_states, padded_mask)
    groups = pooled.shape[1]
    assert_close((padded[:, :groups], padded_sigma[..., :groups]), (pooled, sigma))
    assert (padded[:, groups:] == 0).all() and (padded_sigma[..., groups:] == 0).all()


@pytest.mark.parametrize("implementation", ["dense", "linear"])
@both_strides
@sequence_and_grid
def test_what_invalid_tokens_hold_reaches_neither_result_nor_gradient(grid_size, stride, implementation):
    inputs, mask, direction = random_inputs(15, grid_size, stride), padding_mask(), random_states()
    options = {"mask": mask, "grid_size": grid_size, "stride": stride, "implementation": implementation}
    expected = with_gradients(context_pool, inputs, direction, **options)
    hidden_states, weights, *others = inputs
    hidden_states = hidden_states.masked_fill(~mask[..., None], math.nan)
    weights = weights.masked_fill(~mask[:, None], math.nan)
    found = with_gradients(context_pool, (hidden_states, weights, *others), direction, **options)
    assert_close(found, expected, rtol=0, atol=0)
    assert (found[1][~mask] == 0).all()


@both_strides
@sequence_and_grid
@every_module
def test_what_invalid_tokens_hold_passes_the_module_nowhere(grid_size, stride, options):
    module, mask = random_module(grid_size, stride, **options), padding_mask()
    found = []
    for content in (0.0, math.nan):
        hidden_states = torch.ones(BATCH_SIZE, 15, HIDDEN_SIZE, dtype=torch.float64).cumsum(dim=1) / 8
        hidden_states = hidden_states.masked_fill(~mask[..., None], content).requires_grad_()
        pooled, sigma = module(hidden_states, mask, grid_size)
        value = pooled.square().sum() + sigma.square().sum()
        found.append([pooled, sigma, *torch.autograd.grad(value, [hidden_states, *module.parameters()])])
    assert_close(found[1], found[0], rtol=0, atol=0)
    assert (found[0][2][~mask] == 0).all()
    empty = ~valid_groups(mask, grid_size, stride)
    assert (pooled[empty] == 0).all() and (sigma.transpose(1, 2)[empty] == 0).all()


@sequence_and_grid
def test_a_mask_of_numbers_is_a_boolean_mask(grid_size):
    inputs, mask, module = random_inputs(15, grid_size), padding_mask(), random_module(grid_size)
    options = {"grid_size": grid_size, "stride": 2}
    for function in (
        lambda mask: context_pool(*inputs, mask=mask, **options),
        lambda mask: module(inputs[0], mask, grid_size),
    ):
        assert_close(function(mask.long()), function(mask), rtol=0, atol=0)


@sequence_and_grid
def test_a_mask_of_ones_is_no_mask(grid_size):
    module, hidden_states = random_module(grid_size), random_states()
    ones = torch.ones(BATCH_SIZE, 15, dtype=torch.bool)
    assert_close(module(hidden_states, ones, grid_size), module(hidden_states, None, grid_size))


# Packed rows


PACKED = [[5, 3, 7], [15], [1, 1, 2, 7, 3], [6], []]  # the lengths of the sequences in each row, before its padding


def packed_segments():
    """Numbers of sequences from 1, 0 at padding."""
    rows = [[number for number, length in enumerate(row, start=1) for _ in range(length)] for row in PACKED]
    return torch.tensor([row + [0] * (15 - len(row)) for row in rows])


def packed_places(stride):
    """(row, from, to, first group, end of groups) of each sequence."""
    places = []
    for row, lengths in enumerate(PACKED):
        start, group = 0, 0
        for length in lengths:
            end = group + math.ceil(length / stride)
            places.append((row, start, start + length, group, end))
            start, group = start + length, end
    return places


@both_strides
@with_and_without_offsets
@pytest.mark.parametrize("holes", [False, True], ids=["whole", "holes"])
def test_packed_rows_and_their_gradients_equal_the_loops(stride, with_offsets, holes):
    segments = packed_segments()
    mask = segments != 0
    if holes:
        mask[0, [0, 6, 10]] = mask[2, [1, 4]] = mask[1, 4:11] = False
    groups = valid_groups(mask, None, stride, segments).shape[1]
    inputs, direction = random_inputs(15, None, stride, with_offsets, groups=groups), random_states()
    options = {"mask": mask, "segments": segments, "stride": stride}
    found = with_gradients(context_pool, inputs, direction, **options)
    assert_close(found, with_gradients(reference_strided_context_pool, inputs, direction, **options))
    p = pooling_weights(*inputs[1:], **options)
    assert_close(p, reference_strided_weights(*inputs[1:], **options))


def test_packed_rows_need_no_mask():
    segments = packed_segments()
    layout = lay_out(None, segments, 2)
    inputs = random_inputs(groups=layout.source.shape[1] // 2)
    options = {"segments": segments, "stride": 2}
    assert_close(context_pool(*inputs, **options), reference_strided_context_pool(*inputs, **options))


@both_strides
@every_module
def test_a_packed_sequence_is_pooled_as_if_it_stood_alone(stride, options):
    module, segments = random_module(stride=stride, **options), packed_segments()
    hidden_states, direction = random_states().requires_grad_(), random_states()
    pooled, sigma = module(hidden_states, mask=segments != 0, segments=segments)
    total, rest = 0.0, torch.ones(pooled.shape[:2], dtype=torch.bool)
    for row, start, stop, first, end in packed_places(stride):
        alone, sigma_alone = module(hidden_states[row : row + 1, start:stop])
        assert_close(pooled[row : row + 1, first:end], alone)
        assert_close(sigma[row : row + 1, :, first:end], sigma_alone)
        total = total + (alone * direction[row, first:end]).sum() + sigma_alone.square().sum()
        rest[row, first:end] = False
    assert (pooled[rest] == 0).all() and (sigma.transpose(1, 2)[rest] == 0).all()
    packed = (pooled * direction[:, : pooled.shape[1]]).sum() + sigma.square().sum()
    variables = [hidden_states, *module.parameters()]
    assert_close(torch.autograd.grad(packed, variables), torch.autograd.grad(total, variables))


# Dtypes


@sequence_and_grid
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)], ids=str)
def test_half_precision_keeps_its_dtype_and_is_near_float64(grid_size, dtype, tolerance):
    module, hidden_states, mask = random_module(grid_size), random_states().to(dtype), padding_mask()
    expected, _ = module(hidden_states.double(), mask, grid_size)
    pooled, sigma = module.to(dtype)(hidden_states, mask, grid_size)
    assert (pooled.dtype, sigma.dtype) == (dtype, torch.float32)
    assert (pooled.double() - expected).norm() < tolerance * expected.norm()


# Compilation and export


@pytest.mark.slow
@pytest.mark.parametrize(("grid_size", "masked"), [(None, False), ((3, 5), True)], ids=["sequence", "masked_grid"])
def test_a_compiled_module_equals_itself(grid_size, masked):
    module, mask = random_module(grid_size, pool_num_heads=2), padding_mask() if masked else None
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    hidden_states = random_states()
    assert_close(compiled(hidden_states, mask, grid_size), module(hidden_states, mask, grid_size))


@pytest.mark.slow
def test_one_compilation_with_a_mask_serves_every_length():
    module = random_module(stride=3, pool_num_heads=2)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for num_tokens in (15, 25):
        hidden_states, mask = random_states(num_tokens), torch.rand(BATCH_SIZE, num_tokens) < 0.7
        with torch.compiler.set_stance("fail_on_recompile" if num_tokens == 25 else "default"):
            assert_close(compiled(hidden_states, mask), module(hidden_states, mask))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stride", "length"),
    # Of divisions by 3 torch cannot prove that what it asks of the memory layout always holds: AUTO needs no proof.
    [(2, torch.export.Dim("length", min=4, max=64)), (3, torch.export.Dim.AUTO)],
    ids=["stride_2", "stride_3"],
)
def test_an_exported_module_takes_any_length(stride, length):
    module = random_module(stride=stride, pool_num_heads=2)
    length = {1: length}
    exported = torch.export.export(module, (random_states(), padding_mask()), dynamic_shapes=(length, length))
    for num_tokens in (22, 23, 24):
        hidden_states, mask = random_states(num_tokens), torch.rand(BATCH_SIZE, num_tokens) < 0.7
        assert_close(exported.module()(hidden_states, mask), module(hidden_states, mask))


# Refusals


@sequence_and_grid
def test_an_error_tells_of_sizes_of_another_number_of_groups(grid_size):
    hidden_states, weights, sigma, _ = random_inputs(15, grid_size)
    options = {"grid_size": grid_size, "stride": 2}
    for wrong in (sigma[..., :-1], torch.ones_like(weights)):
        with pytest.raises(ValueError, match=f"sigma must be of {sigma.shape[-1]} groups"):
            context_pool(hidden_states, weights, wrong, **options)
        with pytest.raises(ValueError, match=f"sigma must be of {sigma.shape[-1]} groups"):
            pooling_weights(weights, wrong, **options)


@sequence_and_grid
def test_an_error_tells_of_offsets_of_another_number_of_coordinates(grid_size):
    hidden_states, weights, sigma, offsets = random_inputs(15, grid_size)
    wrong = torch.cat([offsets, offsets[..., :1]], dim=-1)
    for arguments, function in (((hidden_states, weights), context_pool), ((weights,), pooling_weights)):
        with pytest.raises(ValueError, match="coordinates"):
            function(*arguments, sigma, wrong, grid_size=grid_size, stride=2)


@pytest.mark.parametrize("stride", [0, -1])
def test_an_error_tells_of_a_stride_that_is_none(stride):
    hidden_states, weights, sigma, offsets = random_inputs()
    with pytest.raises(ValueError, match="stride must be at least 1"):
        ContextPool(HIDDEN_SIZE, stride=stride)
    with pytest.raises(ValueError, match="stride must be at least 1"):
        context_pool(hidden_states, weights, sigma, offsets, stride=stride)
    with pytest.raises(ValueError, match="stride must be at least 1"):
        pooling_weights(weights, sigma, offsets, stride=stride)


def test_an_error_tells_of_a_gate_that_has_nothing_to_mix():
    with pytest.raises(ValueError, match="gate"):
        ContextPool(HIDDEN_SIZE, pool_gate=True, stride=2)


def test_an_error_tells_of_packed_rows_in_a_traced_graph():
    module, segments = random_module(), packed_segments()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="pass no segments"):
        compiled(random_states(), segments != 0, segments=segments)


def test_an_error_tells_of_segments_of_a_grid():
    hidden_states, weights, sigma, offsets = random_inputs(15, (3, 5))
    options = {"grid_size": (3, 5), "segments": packed_segments(), "stride": 2}
    with pytest.raises(ValueError, match="segments are for sequences"):
        random_module((3, 5))(hidden_states, grid_size=(3, 5), segments=packed_segments())
    with pytest.raises(ValueError, match="segments are for sequences"):
        context_pool(hidden_states, weights, sigma, offsets, **options)
    with pytest.raises(ValueError, match="segments are for sequences"):
        pooling_weights(weights, sigma, offsets, **options)


# Others


def test_without_a_stride_nothing_is_strided():
    hidden_states, weights, *_ = random_inputs()
    sigma = 1 + torch.rand_like(weights)
    assert torch.equal(
        context_pool(hidden_states, weights, sigma, stride=1), context_pool(hidden_states, weights, sigma)
    )
    assert ContextPool(HIDDEN_SIZE).stride == 1


@both_strides
@sequence_and_grid
def test_an_empty_batch_is_pooled_to_an_empty_one(grid_size, stride):
    module = random_module(grid_size, stride)
    groups = group_count(15, grid_size, stride)
    pooled, sigma = module(random_states()[:0], grid_size=grid_size)
    assert pooled.shape == (0, groups, HIDDEN_SIZE) and sigma.shape == (0, 1, groups)
    masked, _ = module(random_states()[:0], torch.ones(0, 15, dtype=torch.bool), grid_size)
    assert masked.shape == (0, groups, HIDDEN_SIZE)


@pytest.mark.parametrize("num_dims", [1, 2])
@pytest.mark.parametrize("stride", [2, 3])
def test_the_bounds_that_spare_the_linear_form_a_look_hold(num_dims, stride, monkeypatch):
    seen = {}

    def linear(hidden_states, weights, sigma, offsets, *args, max_sigma, max_offset, **kwargs):
        seen.update(sigma=sigma.max(), offset=offsets.abs().max(), max_sigma=max_sigma, max_offset=max_offset)
        return hidden_states.new_zeros(len(hidden_states), sigma.shape[-1], hidden_states.shape[-1])

    monkeypatch.setattr("cp_transformers.models.context_pool.linear_context_pool", linear)
    monkeypatch.setattr("cp_transformers.models.context_pool.can_be_read", lambda tensor: False)
    module = ContextPool(8, num_dims=num_dims, stride=stride, pool_implementation="linear")
    grid_size = None if num_dims == 1 else (7, 7)
    mask = torch.ones(1, 49, dtype=torch.bool)
    mask[:, 1] = False  # the middle of a group is where no valid token is
    offsets, largest = [], torch.tensor([0.0, 50.0, *[-50.0] * num_dims])
    for numbers in (largest, -largest):
        with torch.no_grad():
            module.proj.weight.zero_()
            module.proj.bias.copy_(numbers)
            module(torch.randn(1, 49, 8), mask=mask, grid_size=grid_size, laid_out=True)
        assert seen["sigma"] <= seen["max_sigma"] and seen["offset"] <= seen["max_offset"]
        offsets.append(seen["offset"])
    assert max(offsets) > stride / 2  # what its group has predicted, and from the middle to its valid tokens
