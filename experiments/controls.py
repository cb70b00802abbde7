# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Controls for experiments: what a sceptic would put in ContextPool's place, and ContextPool with parts of it fixed.

Each has the arguments and the outputs of [`ContextPool`], so that it can stand where one stands in a CP model.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from cp_transformers.demo.group_mean import GroupMean, replace_pools
from cp_transformers.models.context_pool import ContextPool


def channels_of(pool: ContextPool) -> int:
    return (pool.conv if pool.reduce is None else pool.reduce).in_channels


class FixedContextPool(ContextPool):
    """ContextPool of which the sizes, the weights or both do not depend on the tokens. With both it is a
    Gaussian; with offsets one a head, each at a distance from the token that is a parameter.

    Args:
        pool: what it takes the place of, and the options from.
        sigma: of all tokens, in positions; None: as predicted.
        equal_weights: whether all tokens have the same pooling weight.
    """

    def __init__(self, pool: ContextPool, sigma: float | None = None, equal_weights: bool = False):
        super().__init__(
            channels_of(pool),
            pool.conv.out_channels,
            pool.conv.kernel_size[1],
            pool.pool_range,
            pool.pool_num_heads,
            pool.pool_max_offset,
            pool.gate is not None,
            pool.reduce is not None,
            pool.pool_implementation,
            pool.num_dims,
        )
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


CONTROLS: dict[str, type[nn.Module]] = {
    "fixed": FixedContextPool,
    "depthwise": DepthwiseConv,
    "mean": Mean,
    "bottleneck": ConvBottleneck,
    "group_mean": GroupMean,
}


def replace_pools_by(model: nn.Module, name: str, **options: Any) -> nn.Module:
    """Puts the control of [`CONTROLS`] with this name in the place of every ContextPool of a model, which it returns.

    Raises:
        ValueError: there is no such control, or the model does not pool.
    """
    if name not in CONTROLS:
        raise ValueError(f"There is no control {name!r}; choose one of {', '.join(CONTROLS)}.")
    return replace_pools(model, CONTROLS[name], **options)
