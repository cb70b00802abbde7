# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Groups of neighbouring tokens, of each of which strided pooling keeps one.

A sequence is divided into runs of `stride` positions, which are counted from its first valid token, so that padding on
either side changes nothing; a packed row is divided sequence by sequence. A grid is divided into squares of
`stride` x `stride` positions, which are counted from its first corner.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .linear_pool import can_be_read, is_traced


class Layout(NamedTuple):
    """Places for the tokens of a sequence such that every `stride` places, from the first on, hold one group.

    Attributes:
        source: `(batch, places)`, the index of the token at each place; of an empty place any.
        mask: `(batch, places)`, boolean, True at the places of valid tokens.
        places: `(batch, tokens)`, the place of each token; of a token that has none, any.
        segments: `(batch, places)`, integers, where rows are packed: equal within a group.
    """

    source: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor
    segments: torch.Tensor | None

    def take(self, tokens: torch.Tensor) -> torch.Tensor:
        """From `(batch, tokens, channels)` to `(batch, places, channels)`."""
        return take(tokens, self.source)


def take(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Picks from `(batch, tokens, channels)` the tokens at `(batch, places)`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def number_runs(segments: torch.Tensor) -> torch.Tensor:
    """`(batch, tokens)`, which of its row's runs of equal `segments`, `(batch, tokens)`, each token is in, from 0."""
    return F.pad((segments[:, 1:] != segments[:, :-1]).long(), (1, 0)).cumsum(dim=1)


def lay_out(mask: torch.Tensor | None, segments: torch.Tensor | None, stride: int) -> Layout | None:
    """The layout of a sequence's tokens; None where they stand so already.

    Args:
        mask: `(batch, tokens)`, boolean, True where a token is valid. None: all are.
        segments: `(batch, tokens)`, integers: tokens with different ones are of different sequences, each a run of
            tokens. None: a row is one sequence.
        stride: the tokens of a group.

    Raises:
        ValueError: a graph is traced of packed rows, whose groups must be counted.
    """
    if segments is not None:
        return _lay_out_packed(mask, segments, stride)
    if mask is None or (can_be_read(mask) and bool((mask[:, 0] | ~mask.any(dim=1)).all())):
        return None
    num_tokens = mask.shape[1]
    first = mask.int().argmax(dim=1, keepdim=True)
    index = torch.arange(num_tokens, device=mask.device)
    source = (first + index).clamp(max=num_tokens - 1)
    valid = mask.gather(1, source) & (first + index < num_tokens)
    return Layout(source, valid, (index - first).clamp(min=0), None)


def _lay_out_packed(mask: torch.Tensor | None, segments: torch.Tensor, stride: int) -> Layout:
    if is_traced(segments):
        raise ValueError("The groups of packed rows are counted, which a traced graph cannot: pass no segments here.")
    num_tokens = segments.shape[1]
    index = torch.arange(num_tokens, device=segments.device).expand_as(segments)
    valid = torch.ones_like(segments, dtype=torch.bool) if mask is None else mask
    run = number_runs(segments)
    # Of each run the first and the last valid token.
    first = torch.full_like(index, num_tokens).scatter_reduce(1, run, torch.where(valid, index, num_tokens), "amin")
    last = torch.full_like(index, -1).scatter_reduce(1, run, torch.where(valid, index, -1), "amax")
    groups = ((last - first + stride) // stride).clamp(min=0)
    begins = groups.cumsum(dim=1) - groups
    num_groups = int(groups.sum(dim=1).max())
    places = begins.gather(1, run) * stride + index - first.gather(1, run)
    target = torch.where(valid, places, num_groups * stride)  # invalid tokens go where nobody looks

    def placed(values: torch.Tensor, where: torch.Tensor, size: int) -> torch.Tensor:
        return values.new_zeros(len(values), size + 1).scatter(1, where, values)[:, :size]

    return Layout(
        source=placed(index, target, num_groups * stride),
        mask=placed(valid, target, num_groups * stride),
        places=places.clamp(0, max(num_groups * stride - 1, 0)),
        segments=placed(run, target // stride, num_groups).repeat_interleave(stride, dim=1),
    )


def group_grid(grid_size: tuple[int, int] | None, num_tokens: int, stride: int) -> tuple[int, int]:
    """The (rows, columns) of groups; a sequence is one row."""
    # Everywhere in this one form: an exporter must see that counts of groups are equal for any number of tokens.
    down, across = ((side + stride - 1) // stride for side in grid_size or (1, num_tokens))
    return down, across


def in_groups(numbers: torch.Tensor, grid_size: tuple[int, int] | None, stride: int) -> torch.Tensor:
    """From `(..., tokens)` to `(..., groups, tokens of a group)`, with zeros beyond the ends."""
    num_tokens = numbers.shape[-1]
    down, across = group_grid(grid_size, num_tokens, stride)
    if grid_size is None:
        return F.pad(numbers, (0, across * stride - num_tokens)).unflatten(-1, (across, stride))
    rows, columns = grid_size
    numbers = F.pad(numbers.unflatten(-1, (rows, columns)), (0, across * stride - columns, 0, down * stride - rows))
    squares = numbers.unflatten(-1, (across, stride)).unflatten(-3, (down, stride)).transpose(-3, -2)
    return squares.flatten(-2).flatten(-3, -2)


def valid_groups(mask: torch.Tensor, grid_size: tuple[int, int] | None, stride: int) -> torch.Tensor:
    """`(batch, groups)`, True where any token of the group is valid, from `(batch, tokens)`."""
    return in_groups(mask.to(torch.uint8), grid_size, stride).amax(dim=-1) != 0


def group_means(
    numbers: torch.Tensor, mask: torch.Tensor | None, grid_size: tuple[int, int] | None, stride: int
) -> torch.Tensor:
    """The mean over each group's valid tokens of `(batch, heads, tokens)` as `(batch, heads, groups)`, zero where
    there is none. `numbers` may be anything but not finite at invalid tokens."""
    counted = numbers.new_ones(1, numbers.shape[-1]) if mask is None else mask.to(numbers.dtype)
    counted = in_groups(counted, grid_size, stride)[:, None]
    return (in_groups(numbers, grid_size, stride) * counted).sum(dim=-1) / counted.sum(dim=-1).clamp(min=1)


def centre_shifts(
    num_tokens: int,
    mask: torch.Tensor | None,
    grid_size: tuple[int, int] | None,
    stride: int,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor | None:
    """From the middle of each group to the mean position of its valid tokens, `(batch or 1, 1, groups, dimensions)`.
    None where it is zero, as all groups are whole."""
    sides = grid_size or (num_tokens,)
    if mask is None and not any(side % stride for side in sides):
        return None
    index = [torch.arange(side, device=device) % stride - (stride - 1) / 2 for side in sides]
    within = [index[0]] if grid_size is None else [index[0][:, None].expand(sides), index[1].expand(sides)]
    shifts = [group_means(each.to(dtype).flatten()[None, None], mask, grid_size, stride) for each in within]
    return torch.stack(shifts, dim=-1)


def repeat_groups(
    groups: torch.Tensor, num_tokens: int, grid_size: tuple[int, int] | None, stride: int
) -> torch.Tensor:
    """From `(batch, groups, channels)` to `(batch, tokens, channels)`: each token gets what its group has."""
    if grid_size is None:
        return groups[:, :, None].expand(-1, -1, stride, -1).flatten(1, 2)[:, :num_tokens]
    squares = groups.unflatten(1, group_grid(grid_size, num_tokens, stride))[:, :, None, :, None]
    whole = squares.expand(-1, -1, stride, -1, stride, -1).flatten(3, 4).flatten(1, 2)
    return whole[:, : grid_size[0], : grid_size[1]].flatten(1, 2)


def group_sigma(stride: int) -> float:
    """The standard deviation of the positions of a group along one dimension, `sqrt((stride^2 - 1) / 12)`."""
    return math.sqrt((stride**2 - 1) / 12)
