# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Other ways to keep one token of each group, which can take the place of a strided ContextPool in comparisons."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..models.context_pool import ContextPool
from ..models.token_groups import group_means, in_groups, lay_out


class GroupReduction(nn.Module, ABC):
    """One token for each group, in the place of a strided ContextPool; subclasses define `reduce`.

    Args:
        pool: the [`ContextPool`] whose place it takes.
    """

    def __init__(self, pool: ContextPool):
        super().__init__()
        self.stride, self.num_dims, self.num_heads = pool.stride, pool.num_dims, pool.pool_num_heads

    @abstractmethod
    def reduce(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None, grid_size: tuple[int, int] | None
    ) -> torch.Tensor:
        """From `(batch, tokens, channels)` to `(batch, groups, channels)`.

        Args:
            hidden_states: every `stride` of them, from the first on, are a group; on a grid every square.
            mask: `(batch, tokens)`, True where a token is valid. None: all are.
            grid_size: (rows, columns) of a grid. None: the tokens are a sequence.
        """

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        grid_size: tuple[int, int] | None = None,
        segments: torch.Tensor | None = None,
        laid_out: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and gives back what the strided [`ContextPool`] does; the sizes are zeros."""
        mask = None if mask is None else mask.bool()
        if self.num_dims == 1 and not laid_out and (layout := lay_out(mask, segments, self.stride)) is not None:
            hidden_states, mask = layout.take(hidden_states), layout.mask
        groups = self.reduce(hidden_states, mask, grid_size)
        return groups, groups.new_zeros(len(groups), self.num_heads, groups.shape[1], dtype=torch.float32)


class GroupMean(GroupReduction):
    """The mean of each group's valid tokens; it has no parameters."""

    def reduce(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None, grid_size: tuple[int, int] | None
    ) -> torch.Tensor:
        return group_means(hidden_states.transpose(1, 2), mask, grid_size, self.stride).transpose(1, 2)


class Merging(GroupReduction):
    """Merges tokens into those that they are most similar to: the bipartite matching of Bolya et al., "Token Merging:
    Your ViT But Faster", ICLR 2023, of the tokens themselves, here of all that are to go in one step. The first token
    of every group stays.

    Args:
        pool: the [`ContextPool`] whose place it takes.
        neighbours: whether a token goes to its own group's first token or the next group's alone. Of texts.
    """

    def __init__(self, pool: ContextPool, neighbours: bool = False):
        super().__init__(pool)
        self.neighbours = neighbours

    def reduce(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None, grid_size: tuple[int, int] | None
    ) -> torch.Tensor:
        index = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        is_first = torch.isin(index, in_groups(index, grid_size, self.stride)[:, 0])
        stay, go = hidden_states[:, is_first], hidden_states[:, ~is_first]
        likeness = F.normalize(go, dim=-1) @ F.normalize(stay, dim=-1).transpose(1, 2)
        counted = go.new_ones(1, go.shape[1]) if mask is None else mask[:, ~is_first].to(go)
        if mask is not None:
            likeness = likeness.masked_fill(~mask[:, None, is_first], -math.inf)
        if self.neighbours:
            far = (index[~is_first, None] - index[is_first]).abs() >= self.stride
            likeness = likeness.masked_fill(far, -math.inf)
        target = likeness.argmax(dim=-1)
        go = go * counted[..., None]
        total = stay.scatter_add(1, target[..., None].expand_as(go), go)
        count = stay.new_ones(stay.shape[:2]).scatter_add(1, target, counted.expand(target.shape))
        return total / count[..., None]


def replace_pools(model: nn.Module, control: type[nn.Module], **options: Any) -> nn.Module:
    """Puts a module of class `control` in the place of every ContextPool of a model, which it returns.

    Raises:
        ValueError: the model does not pool.
    """
    owners = [module for module in model.modules() if type(getattr(module, "context_pool", None)) is ContextPool]
    if not owners:
        raise ValueError(f"{type(model).__name__} has no ContextPool that {control.__name__} could take the place of.")
    for owner in owners:
        owner.context_pool = control(owner.context_pool, **options)
    return model
