# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""ContextPool for the feature maps of ConvNets, where it takes the place of max pooling or global average pooling.

The equations are those of `context_pool`, in two forms that a feature map needs. The windowed form lets each output
position pool a window of its neighbours only, with a stride: memory grows with the output, not with the square of the
positions. Its `extent` is the window's side, so that a ConvNet keeps treating all parts of images of all sizes alike.
The global form pools the whole map, by its weights alone.
"""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
from torch import nn

from .context_pool import BaseContextPool, ContextPool
from .linear_pool import sum_of_products


def windowed_pooling_weights(
    weights: torch.Tensor,
    sigma: torch.Tensor,
    offsets: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    window: int = 7,
    stride: int = 1,
) -> torch.Tensor:
    """The weight with which each neighbour in its window enters the pool of an output position.

    The window of output `(r, c)` is centred on the input position `(r * stride, c * stride)`, so that there are
    `ceil(rows / stride)` x `ceil(columns / stride)` outputs.

    Args:
        weights: `(batch, heads, rows, columns)`, the unnormalised log-weight of each input position in any pool.
        sigma: `(batch, heads, out_rows, out_columns)`, positive, the width of each output's Gaussian in positions.
        offsets: `(batch, heads, out_rows, out_columns, 2)` (rows, columns): the centre of each output's Gaussian
            relative to its position, in input positions. None: the position itself.
        mask: `(batch, rows, columns)`, boolean or 0/1, True where a position is valid. None: all are.
        window: the window's side, odd.
        stride: input positions from one output to the next.

    Returns:
        `(batch, heads, window * window, out_rows, out_columns)` in float32, or float64 for float64 input; the
        neighbours come row by row. They sum to one; those that are invalid or outside the map are exactly zero, except
        where the whole window is invalid.

    Raises:
        ValueError: the window is not odd and positive.
    """
    _check_window(window)
    radius = window // 2
    dtype = torch.promote_types(weights.dtype, torch.float32)
    log_weights = weights.to(dtype)
    nowhere = torch.finfo(dtype).min
    if mask is not None:
        log_weights = log_weights.masked_fill(~mask.bool()[:, None], nowhere)
    log_weights = nn.functional.pad(log_weights, (radius,) * 4, value=nowhere)
    log_weights = torch.stack(list(_neighbours(log_weights, window, stride)), dim=2)

    # How far the output's own position lies below, or to the right of, the neighbour.
    distance = torch.arange(radius, -radius - 1, -1, device=weights.device, dtype=dtype)[:, None, None]
    down = right = distance  # (window, 1, 1)
    if offsets is not None:
        down_offset, right_offset = offsets.to(dtype).unsqueeze(2).unbind(-1)
        down, right = distance + down_offset, distance + right_offset  # (batch, heads, window, out_rows, out_columns)
    squared_distance = (down.unsqueeze(-3) ** 2 + right.unsqueeze(-4) ** 2).flatten(-4, -3)
    precision = (-0.5 / sigma.to(dtype) ** 2).unsqueeze(2)
    return torch.addcmul(log_weights, squared_distance, precision).softmax(dim=2)


def windowed_context_pool(
    hidden_states: torch.Tensor,
    weights: torch.Tensor,
    sigma: torch.Tensor,
    offsets: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    window: int = 7,
    stride: int = 1,
) -> torch.Tensor:
    """Pools `hidden_states` of shape `(batch, channels, rows, columns)` with the weights of
    [`windowed_pooling_weights`].

    Head `h` of `heads` pools the `h`-th of `heads` equal slices of the channels. On a map that every window covers, as
    at `window >= 2 * max(rows, columns) - 1`, and at stride 1, this is
    [`~cp_transformers.models.context_pool.context_pool`].

    Returns:
        `(batch, channels, out_rows, out_columns)` in the dtype of `hidden_states`; zeros where the whole window is
        invalid. What `hidden_states` and `weights` hold at invalid positions reaches neither it nor a gradient.

    Raises:
        ValueError: the window is not odd and positive, or the channels are not divisible by the number of heads.
    """
    num_heads = weights.shape[1]
    if hidden_states.shape[1] % num_heads:
        raise ValueError(f"{hidden_states.shape[1]} channels cannot be split into {num_heads} pooling heads.")
    if mask is not None:
        hidden_states = hidden_states.masked_fill(~mask.bool()[:, None], 0.0)
    p = windowed_pooling_weights(weights, sigma, offsets, mask=mask, window=window, stride=stride)
    if mask is not None:  # what a window sees outside of the map, where it has no weight, are other rows
        seen = nn.functional.max_pool2d(mask.to(p.dtype)[:, None], window, stride, window // 2)
        p = p * seen.unsqueeze(2)
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)  # to add up in
    slices = hidden_states.to(dtype).unflatten(1, (num_heads, -1))
    return _windowed_mix(slices, p.to(dtype), window, stride).flatten(1, 2).to(hidden_states.dtype)


class WindowedContextPool(ContextPool):
    """Predicts weights at every position of a feature map, support sizes and offsets at every output position, and
    pools each output's window with them.

    Args:
        hidden_size: channels of the feature map.
        window: the window's side, odd.
        stride: input positions from one output to the next.
        options: see [`~cp_transformers.models.context_pool.ContextPool`]; the extent is the window's side.
    """

    def __init__(self, hidden_size: int, window: int = 7, stride: int = 1, **options: Any):
        super().__init__(hidden_size, num_dims=2, **options)
        _check_window(window)
        self.window = window
        self.window_stride = stride

    def predict(  # type: ignore[override]
        self, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The `weights`, `sigma` and `offsets` that [`windowed_context_pool`] takes, of `(batch, channels, rows,
        columns)`."""
        numbers = self.predict_numbers(hidden_states).unflatten(2, hidden_states.shape[-2:])
        step = self.window_stride
        return numbers[..., 0], *self.sizes_and_offsets(numbers[:, :, ::step, ::step], self.window)

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, original: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden_states: `(batch, channels, rows, columns)`.
            original: `(batch, channels, out_rows, out_columns)`, the pooling whose place this takes: what the gate
                starts from. Needed where there is a gate.

        Returns:
            The pooled map, `(batch, channels, out_rows, out_columns)` in the dtype of `hidden_states`, and sigma in
            input positions, `(batch, heads, out_rows, out_columns)` in float32.
        """
        weights, sigma, offsets = self.predict(hidden_states)
        pooled = windowed_context_pool(
            hidden_states, weights, sigma, offsets, window=self.window, stride=self.window_stride
        )
        return _gated(self.gate, pooled, original), sigma

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, window={self.window}, window_stride={self.window_stride}"


class GlobalContextPool(BaseContextPool):
    """Pools a whole feature map with predicted weights: where all are equal, this is global average pooling.

    Args:
        hidden_size: channels of the feature map.
        pool_hidden_size: channels inside the predictor.
        pool_kernel_size: kernel of the predictor's convolution, odd.
        pool_num_heads: pooling heads, each owning an equal slice of the channels.
        pool_gate: whether a learned gate, one a channel and zero at the start, mixes the pooled map in.
        pool_factored: whether the predictor projects the map to its channels before its convolution.
    """

    def __init__(
        self,
        hidden_size: int,
        pool_hidden_size: int = 64,
        pool_kernel_size: int = 3,
        pool_num_heads: int = 1,
        pool_gate: bool = False,
        pool_factored: bool = False,
    ):
        super().__init__(
            hidden_size, 1, pool_hidden_size, pool_kernel_size, pool_num_heads, pool_gate, pool_factored, num_dims=2
        )

    def predict(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The unnormalised log-weights, `(batch, heads, positions)`, of `(batch, channels, rows, columns)`."""
        return self.predict_numbers(hidden_states).squeeze(-1)

    def forward(self, hidden_states: torch.Tensor, original: torch.Tensor | None = None) -> torch.Tensor:
        """From `(batch, channels, rows, columns)` to `(batch, channels, 1, 1)`; `original`, of the latter shape, is
        what the gate starts from, and needed where there is one."""
        p = self.predict(hidden_states).softmax(dim=2).to(hidden_states.dtype)
        slices = hidden_states.flatten(2).unflatten(1, (self.pool_num_heads, -1))
        pooled = (slices @ p[..., None]).flatten(1, 2).unsqueeze(-1)
        return _gated(self.gate, pooled, original)

    def extra_repr(self) -> str:
        return f"pool_num_heads={self.pool_num_heads}, pool_gate={self.gate is not None}"


def _check_window(window: int) -> None:
    if window < 1 or window % 2 == 0:
        raise ValueError(f"The window must be odd and positive, not {window}.")


def _gated(gate: torch.Tensor | None, pooled: torch.Tensor, original: torch.Tensor | None) -> torch.Tensor:
    if gate is None:
        return pooled
    if original is None:
        raise ValueError("A gated pool needs `original`, the pooling whose place it takes.")
    return original + gate[:, None, None] * (pooled - original)


# The outputs of one row that are computed as one block, at most.
BLOCK = 16


def _windowed_mix(maps: torch.Tensor, p: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """`sum_k p_k x_k` over the neighbours `k` of each window, from `x`, `(batch, heads, channels / heads, rows,
    columns)`, and `p`, `(batch, heads, window * window, out_rows, out_columns)`.

    For each row of the window, the values of a block of outputs are the product of the stretch of the map that they
    see there and the band matrix of their weights.
    """
    out_rows, out_columns = p.shape[-2:]
    # The number of blocks would be fixed in a graph that serves maps of all sizes.
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        neighbours = _neighbours(nn.functional.pad(maps, (window // 2,) * 4), window, stride)
        return reduce(torch.add, (weight * each for weight, each in zip(p.unsqueeze(2).unbind(3), neighbours)))
    block = min(BLOCK, out_columns)
    blocks = -(-out_columns // block)
    step, seen = block * stride, (block - 1) * stride + window  # from one block's stretch to the next, and its length

    p = nn.functional.pad(p, (0, blocks * block - out_columns)).unflatten(-1, (blocks, block))
    p = p.unflatten(2, (window, window)).movedim(3, -1)  # (batch, heads, window, out_rows, blocks, block, window)
    # Rows that are `stride` too long, written one after the other and read again, each move on by `stride`.
    band = nn.functional.pad(p, (0, seen + stride - window)).flatten(-2)[..., : block * seen]
    bands = band.unflatten(-1, (block, seen)).transpose(-1, -2).unbind(2)

    # A stretch may run over into the next row, where its weights are zero.
    width = blocks * step
    below = (out_rows - 1) * stride + window - window // 2 - maps.shape[-2]
    maps = nn.functional.pad(maps, (0, width - maps.shape[-1], window // 2, below))
    # Every `stride`-th row, from each of the first ones on; the rows one after the other.
    phases = [maps[..., phase::stride, :].flatten(-2) for phase in range(stride)]
    phases = [nn.functional.pad(phase, (window // 2, seen)) for phase in phases]
    factors = []
    for row in range(window):
        stretch = phases[row % stride][..., row // stride * width :][..., : (out_rows * blocks - 1) * step + seen]
        stretch = stretch.unfold(-1, seen, step).transpose(2, 3)  # (batch, heads, out_rows * blocks, channels, seen)
        factors.append((stretch, bands[row].flatten(2, 3)))
    pooled = sum_of_products(factors).unflatten(2, (out_rows, blocks)).movedim(4, 2)
    return pooled.flatten(-2)[..., :out_columns]


def _neighbours(padded: torch.Tensor, window: int, stride: int) -> Iterator[torch.Tensor]:
    """For each place in the window, row by row, the view of the padded map that the outputs see there."""
    rows, columns = (size - window + 1 for size in padded.shape[-2:])
    for row in range(window):
        for column in range(window):
            yield padded[..., row : row + rows : stride, column : column + columns : stride]
