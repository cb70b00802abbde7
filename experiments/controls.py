# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Controls for experiments: what a sceptic would put in ContextPool's place, and ContextPool with parts of it fixed.

Each has the arguments and the outputs of [`ContextPool`], so that it can stand where one stands in a CP model.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from cp_transformers.benchmark.group_reduction import GroupMean, GroupReduction, Merging, replace_pools
from cp_transformers.models.context_pool import BaseContextPool, ContextPool
from cp_transformers.models.token_groups import group_grid, group_means, group_sigma, in_groups


def channels_of(pool: ContextPool) -> int:
    return (pool.conv if pool.reduce is None else pool.reduce).in_channels


def options_of(pool: ContextPool) -> dict[str, Any]:
    """What makes another ContextPool like it."""
    return {
        "hidden_size": channels_of(pool),
        "pool_hidden_size": pool.conv.out_channels,
        "pool_kernel_size": pool.conv.kernel_size[1],
        "pool_range": pool.pool_range,
        "pool_num_heads": pool.pool_num_heads,
        "pool_max_offset": pool.pool_max_offset,
        "pool_gate": pool.gate is not None,
        "pool_factored": pool.reduce is not None,
        "pool_implementation": pool.pool_implementation,
        "num_dims": pool.num_dims,
        "stride": pool.stride,
    }


class FixedContextPool(ContextPool):
    """ContextPool of which the sizes, the weights or both do not depend on the tokens. With both it is a
    Gaussian; with offsets one a head, each at a distance from the token that is a parameter.

    Args:
        pool: what it takes the place of, and the options from.
        sigma: of all tokens, in positions; None: as predicted.
        equal_weights: whether all tokens have the same pooling weight.
    """

    def __init__(self, pool: ContextPool, sigma: float | None = None, equal_weights: bool = False):
        super().__init__(**options_of(pool))
        self.load_state_dict(pool.state_dict())
        self.sigma, self.equal_weights = sigma, equal_weights
        if sigma is not None and equal_weights:  # nothing is left to predict
            if self.pool_max_offset:
                self.shift = nn.Parameter(pool.proj.bias.detach().view(self.pool_num_heads, 1, -1)[..., 2:].clone())
            del self.reduce, self.conv, self.proj

    def predict(
        self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if self.sigma is not None and self.equal_weights:
            weights = hidden_states.new_zeros(len(hidden_states), self.pool_num_heads, hidden_states.shape[1])
            offsets = None
            if self.pool_max_offset:
                offsets = (self.pool_max_offset * self.shift.tanh()).expand(*weights.shape, self.num_dims)
            return weights, torch.full_like(weights, self.sigma), offsets
        weights, sigma, offsets = super().predict(hidden_states, *args, **kwargs)
        sigma = sigma if self.sigma is None else torch.full_like(sigma, self.sigma)
        return torch.zeros_like(weights) if self.equal_weights else weights, sigma, offsets


class LocalControl(nn.Module, ABC):
    """A local operation on the map of the tokens in ContextPool's place; subclasses define `mix`."""

    def __init__(self, pool: ContextPool, kernel_size: int = 3):
        super().__init__()
        self.channels, self.num_dims, self.num_heads = channels_of(pool), pool.num_dims, pool.pool_num_heads
        self.kernel = (1 if pool.num_dims == 1 else kernel_size, kernel_size)
        self.padding = (self.kernel[0] // 2, kernel_size // 2)

    @abstractmethod
    def mix(self, feature_map: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, rows, columns)`, zero where `valid`, `(batch, 1, rows, columns)`, is; to the same."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        grid_size: tuple[int, int] | None = None,
        segments: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`ContextPool`]'s, without segments; the sizes are zeros."""
        if segments is not None:
            raise ValueError("A local control takes no packed rows.")
        batch, tokens, _ = hidden_states.shape
        valid = hidden_states.new_ones(batch, tokens, 1) if mask is None else mask[..., None].to(hidden_states)
        maps = [each.transpose(1, 2).unflatten(2, grid_size or (1, tokens)) for each in (hidden_states * valid, valid)]
        sizes = hidden_states.new_zeros(batch, self.num_heads, tokens, dtype=torch.float32)
        mixed = self.mix(*maps).flatten(2).transpose(1, 2)
        return (mixed if mask is None else torch.where(mask.bool()[..., None], mixed, hidden_states)), sizes


class DepthwiseConv(LocalControl):
    """A depthwise convolution of kernel 3 that starts as the identity."""

    def __init__(self, pool: ContextPool):
        super().__init__(pool)
        self.conv = nn.Conv2d(self.channels, self.channels, self.kernel, padding=self.padding, groups=self.channels)
        nn.init.dirac_(self.conv.weight, groups=self.channels)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def mix(self, feature_map: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return self.conv(feature_map)


class Mean(LocalControl):
    """The mean of a token and its neighbours, those that are not valid or beyond the ends left out."""

    def mix(self, feature_map: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        sums = (nn.functional.avg_pool2d(each, self.kernel, 1, self.padding) for each in (feature_map, valid))
        return next(sums) / next(sums).clamp(min=1e-6)


class ConvBottleneck(LocalControl):
    """`x + linear(gelu(conv(x)))`, of about as many parameters as the predictor that it takes the place of, zero but
    for `x` at the start. With a kernel of 1 it is of each token alone: that many parameters without any neighbour."""

    def __init__(self, pool: ContextPool, kernel_size: int = 3):
        super().__init__(pool, kernel_size)
        parameters = sum(each.numel() for each in pool.parameters())
        places = self.kernel[0] * self.kernel[1]
        hidden = round((parameters - self.channels) / (self.channels * (places + 1) + 1))
        self.conv = nn.Conv2d(self.channels, hidden, self.kernel, padding=self.padding)
        self.out = nn.Conv2d(hidden, self.channels, 1)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        for each in (self.conv.bias, self.out.weight, self.out.bias):
            nn.init.zeros_(each)  # type: ignore[arg-type]

    def mix(self, feature_map: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return feature_map + self.out(nn.functional.gelu(self.conv(feature_map)))


class PartlyLearnedPool(ContextPool):
    """A strided ContextPool of which only some of the weights, sizes and offsets are predicted. The others stay where
    all start: equal weights, sizes of the groups' own spread, and no offsets.

    Args:
        pool: what it takes the place of, and the options from.
        learned: of "weights", "sizes" and "offsets", those that are predicted.

    Raises:
        ValueError: `learned` has another name.
    """

    def __init__(self, pool: ContextPool, learned: Collection[str]):
        if unknown := {*learned} - {"weights", "sizes", "offsets"}:
            raise ValueError(f"A pool learns weights, sizes and offsets, not {', '.join(sorted(unknown))}.")
        super().__init__(**options_of(pool))
        self.load_state_dict(pool.state_dict())
        self.learned = frozenset(learned)
        if not learned:  # nothing is left to predict
            del self.reduce, self.conv, self.proj

    def predict(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        grid_size: tuple[int, int] | None = None,
        segments: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if not self.learned:
            rows, columns = group_grid(grid_size, hidden_states.shape[1], self.stride)
            shape = len(hidden_states), self.pool_num_heads
            weights = hidden_states.new_zeros(*shape, hidden_states.shape[1])
            return weights, weights.new_full((*shape, rows * columns), group_sigma(self.stride)), None
        weights, sigma, offsets = super().predict(hidden_states, mask, grid_size, segments)
        return (
            weights if "weights" in self.learned else torch.zeros_like(weights),
            sigma if "sizes" in self.learned else torch.full_like(sigma, group_sigma(self.stride)),
            offsets if "offsets" in self.learned else None,
        )


class FirstOfGroup(GroupReduction):
    """The first valid token of each group; the others are left out."""

    def reduce(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None, grid_size: tuple[int, int] | None
    ) -> torch.Tensor:
        return in_groups(hidden_states.transpose(1, 2), grid_size, self.stride)[..., 0].transpose(1, 2)


class WeightedGroup(GroupReduction):
    """The mean of each group's own tokens, with weights that are predicted as a ContextPool's are: nothing is pooled
    of other groups."""

    def __init__(self, pool: ContextPool):
        super().__init__(pool)
        options = options_of(pool)
        names = ("hidden_size", "pool_hidden_size", "pool_kernel_size", "pool_num_heads", "pool_factored", "num_dims")
        self.predictor = BaseContextPool(numbers_a_head=1, pool_gate=False, **{name: options[name] for name in names})

    def reduce(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None, grid_size: tuple[int, int] | None
    ) -> torch.Tensor:
        valid = hidden_states.new_ones(hidden_states.shape[:2]).bool() if mask is None else mask
        tokens = hidden_states.masked_fill(~valid[..., None], 0.0)
        feature_map = tokens.transpose(1, 2).unflatten(2, grid_size or (1, -1))
        weights = in_groups(self.predictor.predict_numbers(feature_map)[..., 0], grid_size, self.stride)
        within = in_groups(valid.to(torch.uint8), grid_size, self.stride)[:, None].bool()
        p = weights.masked_fill(~within, torch.finfo(weights.dtype).min).softmax(dim=-1) * within
        slices = in_groups(tokens.transpose(1, 2), grid_size, self.stride).unflatten(1, (self.num_heads, -1))
        return (slices * p.to(slices.dtype)[:, :, None]).sum(dim=-1).flatten(1, 2).transpose(1, 2)


class StridedConv(GroupReduction):
    """A depthwise convolution with a kernel of twice the stride around each group, which starts as the group's mean.
    Of texts alone."""

    def __init__(self, pool: ContextPool):
        super().__init__(pool)
        channels, kernel = channels_of(pool), 2 * self.stride
        self.conv = nn.Conv1d(channels, channels, kernel, stride=self.stride, groups=channels, bias=False)
        first = self.stride // 2
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:, :, first : first + self.stride] = 1 / self.stride

    def reduce(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None, grid_size: tuple[int, int] | None
    ) -> torch.Tensor:
        return _convolve(self.conv, hidden_states, mask) * _whole_to_valid(hidden_states, mask, self.stride)


class StridedBottleneck(GroupReduction):
    """The mean of each group, and `linear(gelu(conv))` of about as many parameters as the ContextPool has, which is
    zero at the start: a convolution with a kernel of twice the stride around the group. Of texts alone."""

    def __init__(self, pool: ContextPool):
        super().__init__(pool)
        channels, kernel = channels_of(pool), 2 * self.stride
        parameters = sum(each.numel() for each in pool.parameters())
        hidden = round((parameters - channels) / (channels * (kernel + 1) + 1))
        self.conv = nn.Conv1d(channels, hidden, kernel, stride=self.stride)
        self.out = nn.Linear(hidden, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def reduce(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None, grid_size: tuple[int, int] | None
    ) -> torch.Tensor:
        means = group_means(hidden_states.transpose(1, 2), mask, grid_size, self.stride).transpose(1, 2)
        return means + self.out(nn.functional.gelu(_convolve(self.conv, hidden_states, mask)))


def _convolve(conv: nn.Conv1d, hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`(batch, groups, channels)` of a convolution whose kernel reaches half a stride, rounded down, before each group
    and as far behind it as is left."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    tokens = hidden_states if mask is None else hidden_states.masked_fill(~mask[..., None], 0.0)
    groups = -(-tokens.shape[1] // stride)
    before = stride // 2
    after = (groups - 1) * stride + kernel - before - tokens.shape[1]
    return conv(nn.functional.pad(tokens.transpose(1, 2), (before, after))).transpose(1, 2)


def _whole_to_valid(hidden_states: torch.Tensor, mask: torch.Tensor | None, stride: int) -> torch.Tensor:
    """`(batch, groups, 1)`, a whole group's tokens to those that are valid; 0 where none is."""
    valid = hidden_states.new_ones(1, hidden_states.shape[1]) if mask is None else mask.to(hidden_states)
    counted = in_groups(valid, None, stride).sum(dim=-1)
    return torch.where(counted > 0, stride / counted.clamp(min=1), 0)[..., None]


CONTROLS: dict[str, type[nn.Module]] = {
    "fixed": FixedContextPool,
    "depthwise": DepthwiseConv,
    "mean": Mean,
    "bottleneck": ConvBottleneck,
    "partly_learned": PartlyLearnedPool,
    "group_mean": GroupMean,
    "group_first": FirstOfGroup,
    "group_weights": WeightedGroup,
    "strided_conv": StridedConv,
    "strided_bottleneck": StridedBottleneck,
    "merging": Merging,
}


def replace_pools_by(model: nn.Module, name: str, **options: Any) -> nn.Module:
    """Puts the control of [`CONTROLS`] with this name in the place of every ContextPool of a model, which it returns.

    Raises:
        ValueError: there is no such control, or the model does not pool.
    """
    if name not in CONTROLS:
        raise ValueError(f"There is no control {name!r}; choose one of {', '.join(CONTROLS)}.")
    return replace_pools(model, CONTROLS[name], **options)
