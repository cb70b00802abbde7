# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The controls that take the pooling's place in experiments."""

import pytest
import torch

from cp_transformers import CPResNetConfig, CPResNetForImageClassification
from cp_transformers.models.context_pool import ContextPool, context_pool
from experiments.controls import CONTROLS, replace_pools_by


@pytest.fixture
def inputs(seeded):
    """Tokens of two grids of 3 x 4, and which are valid."""
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    return torch.randn(2, 12, 8), mask


@pytest.fixture
def pool(seeded):
    pool = ContextPool(8, pool_hidden_size=16, pool_num_heads=2, num_dims=2)
    torch.nn.init.normal_(pool.proj.weight)
    return pool


@pytest.mark.parametrize("name", ["depthwise", "bottleneck"])
def test_a_convolution_starts_as_the_identity(pool, inputs, name):
    tokens, mask = inputs
    mixed, sizes = CONTROLS[name](pool)(tokens, mask=mask, grid_size=(3, 4))
    assert torch.equal(mixed[mask], tokens[mask])
    assert sizes.shape == (2, 2, 12)


def test_a_bottleneck_of_kernel_1_is_of_each_token_alone(pool, inputs):
    tokens, _ = inputs
    control = CONTROLS["bottleneck"](pool, kernel_size=1)
    torch.nn.init.normal_(control.out.weight)
    one_changed = tokens.clone()
    one_changed[:, 5] += 1
    first, second = (control(each, grid_size=(3, 4))[0] for each in (tokens, one_changed))
    differs = ~torch.isclose(first, second).all(dim=2)
    assert differs.nonzero()[:, 1].tolist() == [5, 5]


@pytest.mark.parametrize("name", ["depthwise", "bottleneck", "mean"])
@pytest.mark.parametrize("num_dims", [1, 2])
def test_what_padding_holds_reaches_no_token(seeded, inputs, name, num_dims):
    tokens, mask = inputs
    control = CONTROLS[name](ContextPool(8, num_dims=num_dims))
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter)
    grid = (3, 4) if num_dims == 2 else None
    other = torch.where(mask[..., None], tokens, 1e3)
    first, second = (control(each, mask=mask, grid_size=grid)[0] for each in (tokens, other))
    assert torch.equal(first[mask], second[mask])
    assert not torch.allclose(first[mask], tokens[mask])


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_bottleneck_has_about_as_many_parameters_as_what_it_replaces(kernel_size):
    pool = ContextPool(64, 64, pool_num_heads=4, pool_max_offset=1.0, pool_factored=False, num_dims=2)
    ours, theirs = (
        sum(each.numel() for each in module.parameters())
        for module in (CONTROLS["bottleneck"](pool, kernel_size=kernel_size), pool)
    )
    assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("first", [0, 1])
def test_the_mean_of_a_group_is_that_of_its_valid_tokens(seeded, first):
    """Groups are counted from the first valid token: of five tokens the last is alone."""
    tokens, mask = torch.randn(1, 7, 8), torch.tensor([[first <= index < first + 5 for index in range(7)]])
    pool = ContextPool(8, stride=2, pool_num_heads=2)
    groups, sizes = CONTROLS["group_mean"](pool)(tokens.masked_fill(~mask[..., None], 1e3), mask=mask)
    own = tokens[0, first : first + 5]
    torch.testing.assert_close(groups[0, :3], torch.stack([own[:2].mean(dim=0), own[2:4].mean(dim=0), own[4]]))
    assert groups.shape == pool(tokens, mask=mask)[0].shape and sizes.shape == pool(tokens, mask=mask)[1].shape


def test_the_mean_of_a_group_on_a_grid_is_that_of_its_square(seeded):
    tokens = torch.randn(2, 12, 8)
    groups, _ = CONTROLS["group_mean"](ContextPool(8, stride=2, num_dims=2))(tokens, grid_size=(3, 4))
    torch.testing.assert_close(groups[:, 0], tokens[:, [0, 1, 4, 5]].mean(dim=1))
    torch.testing.assert_close(groups[:, 3], tokens[:, [10, 11]].mean(dim=1))


STRIDED = {
    "group_mean": {},
    "group_first": {},
    "group_weights": {},
    "strided_conv": {},
    "strided_bottleneck": {},
    "merging": {},
    "merging of neighbours": {"neighbours": True},
    "partly_learned": {"learned": ["weights", "offsets"]},
}


def strided(name: str, stride: int = 2) -> torch.nn.Module:
    """The control, with random parameters where it has any."""
    control = CONTROLS[name.split(" ")[0]](ContextPool(8, 16, stride=stride, pool_num_heads=2), **STRIDED[name])
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter)
    return control


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("name", STRIDED)
def test_what_keeps_fewer_tokens_does_not_depend_on_padding(seeded, name, stride, side):
    control = strided(name, stride)
    tokens = torch.randn(1, 7, 8)
    alone, sizes = control(tokens)
    padding = torch.full((1, 4, 8), 1e3)
    padded = torch.cat([tokens, padding] if side == "right" else [padding, tokens], dim=1)
    mask = (padded != 1e3).all(dim=-1)
    groups, _ = control(padded, mask=mask)
    torch.testing.assert_close(groups[:, : alone.shape[1]], alone)
    assert alone.shape == (1, -(-7 // stride), 8) and sizes.shape == (1, 2, alone.shape[1])


@pytest.mark.parametrize("name", ["strided_conv", "strided_bottleneck"])
@pytest.mark.parametrize("stride", [2, 3])
def test_a_strided_convolution_starts_as_the_mean_of_valid_tokens(seeded, name, stride):
    tokens, mask = torch.randn(2, 12, 8), torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    pool = ContextPool(8, 16, stride=stride)
    means, _ = CONTROLS["group_mean"](pool)(tokens, mask=mask)
    torch.testing.assert_close(CONTROLS[name](pool)(tokens, mask=mask)[0], means)


def test_a_strided_bottleneck_has_about_as_many_parameters_as_what_it_replaces():
    pool = ContextPool(64, 64, pool_num_heads=4, stride=2)
    ours, theirs = (
        sum(each.numel() for each in module.parameters()) for module in (CONTROLS["strided_bottleneck"](pool), pool)
    )
    assert ours == pytest.approx(theirs, rel=0.02)


def test_a_strided_convolution_sees_half_a_stride_on_either_side(seeded):
    tokens = torch.randn(1, 12, 8, requires_grad=True)
    strided("strided_conv")(tokens)[0][:, 2].sum().backward()
    assert tokens.grad.abs().sum(dim=-1).nonzero()[:, 1].tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("num_dims", [1, 2])
def test_weights_of_a_group_alone_are_those_of_its_valid_tokens(seeded, inputs, num_dims):
    tokens, mask = inputs
    grid = (3, 4) if num_dims == 2 else None
    control = CONTROLS["group_weights"](ContextPool(8, 16, pool_num_heads=2, stride=2, num_dims=num_dims))
    torch.nn.init.normal_(control.predictor.proj.weight)
    groups, _ = control(tokens, mask=mask, grid_size=grid)
    valid = tokens * mask[..., None]
    weights = control.predictor.predict_numbers(valid.transpose(1, 2).unflatten(2, grid or (1, 12)))[..., 0]
    members = [4, 5] if grid is None else [2, 3, 6, 7]  # of a group that is whole in both examples but for token 7
    for example in (0, 1):
        own = [token for token in members if mask[example, token]]
        p = weights[example, :, own].softmax(dim=-1)
        expected = torch.einsum("hj,jhd->hd", p, tokens[example, own].unflatten(-1, (2, 4))).flatten()
        torch.testing.assert_close(groups[example, 2 if grid is None else 1], expected)


@pytest.mark.parametrize("learned", [[], ["weights"], ["sizes"], ["offsets"], ["weights", "sizes", "offsets"]])
def test_what_a_pool_does_not_learn_stays_at_its_start(seeded, learned):
    tokens = torch.randn(2, 12, 8)
    pool = ContextPool(8, 16, stride=2, pool_num_heads=2)
    torch.nn.init.normal_(pool.proj.weight)
    weights, sigma, offsets = pool.predict(tokens)
    weights = weights if "weights" in learned else torch.zeros_like(weights)
    sigma = sigma if "sizes" in learned else torch.full_like(sigma, 0.5)  # the deviation of two positions
    expected = context_pool(tokens, weights, sigma, offsets if "offsets" in learned else None, stride=2)
    torch.testing.assert_close(CONTROLS["partly_learned"](pool, learned=learned)(tokens)[0], expected)


def test_what_a_pool_cannot_learn_is_named():
    with pytest.raises(ValueError, match="weights, sizes and offsets, not shapes"):
        CONTROLS["partly_learned"](ContextPool(8, stride=2), learned=["shapes"])


def test_the_first_of_a_group_is_its_first_valid_token(seeded):
    tokens, mask = torch.randn(1, 7, 8), torch.tensor([[False, True, True, True, True, True, False]])
    groups, _ = CONTROLS["group_first"](ContextPool(8, stride=2))(tokens, mask=mask)
    assert torch.equal(groups[0, :3], tokens[0, [1, 3, 5]])


def test_the_mean_is_that_of_valid_neighbours(pool, inputs):
    tokens, mask = inputs
    mixed, _ = CONTROLS["mean"](pool)(tokens, mask=mask, grid_size=(3, 4))
    for example, token in [(0, 0), (0, 5), (1, 6), (1, 3)]:
        row, column = divmod(token, 4)
        near = [
            tokens[example, other]
            for other in range(12)
            if mask[example, other] and max(abs(other // 4 - row), abs(other % 4 - column)) <= 1
        ]
        torch.testing.assert_close(mixed[example, token], torch.stack(near).mean(dim=0))


@pytest.mark.parametrize(
    ("options", "fixed_sizes", "fixed_weights"),
    [
        ({"sigma": 0.7}, True, False),
        ({"equal_weights": True}, False, True),
        ({"sigma": 0.7, "equal_weights": True}, True, True),
    ],
)
def test_fixed_pooling_is_pooling_with_these_sizes_and_weights(pool, inputs, options, fixed_sizes, fixed_weights):
    tokens, mask = inputs
    tokens = tokens * mask[..., None]
    weights, sigma, _ = pool.predict(tokens, mask=mask, grid_size=(3, 4))
    weights = torch.zeros_like(weights) if fixed_weights else weights
    sigma = torch.full_like(sigma, 0.7) if fixed_sizes else sigma
    expected = context_pool(tokens, weights, sigma, mask=mask, grid_size=(3, 4))
    expected = torch.where(mask[..., None], expected, tokens)
    control = CONTROLS["fixed"](pool, **options)
    torch.testing.assert_close(control(tokens, mask=mask, grid_size=(3, 4))[0], expected)
    assert bool(list(control.parameters())) is not (fixed_sizes and fixed_weights)


@pytest.mark.parametrize(("num_dims", "grid_size"), [(1, None), (2, (3, 4))])
def test_a_shifted_gaussian_has_the_offsets_that_the_pool_starts_with_and_learns_them(inputs, num_dims, grid_size):
    tokens, mask = inputs
    tokens = tokens * mask[..., None]
    pool = ContextPool(8, pool_num_heads=4, pool_max_offset=2.0, num_dims=num_dims)
    torch.nn.init.zeros_(pool.proj.weight)  # what is predicted is the bias then, for every token
    weights, sigma, offsets = pool.predict(tokens, mask=mask, grid_size=grid_size)
    assert (offsets[:, 0] - offsets[:, 1]).abs().max() > 0.5
    expected = context_pool(
        tokens, torch.zeros_like(weights), torch.full_like(sigma, 0.7), offsets, mask=mask, grid_size=grid_size
    )
    expected = torch.where(mask[..., None], expected, tokens)
    control = CONTROLS["fixed"](pool, sigma=0.7, equal_weights=True)
    pooled, _ = control(tokens, mask=mask, grid_size=grid_size)
    torch.testing.assert_close(pooled, expected)
    pooled[mask].square().sum().backward()
    assert [name for name, _ in control.named_parameters()] == ["shift"]
    assert (control.shift.grad != 0).all()


def test_controls_that_cannot_be_are_refused(pool):
    with pytest.raises(ValueError, match="choose one of fixed, depthwise"):
        replace_pools_by(torch.nn.Identity(), "depthwize")
    resnet = CPResNetForImageClassification(CPResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    with pytest.raises(ValueError, match="has no ContextPool"):
        replace_pools_by(resnet, "depthwise")
    with pytest.raises(ValueError, match="no packed rows"):
        CONTROLS["mean"](ContextPool(8))(torch.zeros(1, 2, 8), segments=torch.ones(1, 2))
