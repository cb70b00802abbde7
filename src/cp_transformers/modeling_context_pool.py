# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""What the models of every family share: how a layer gets its ContextPool, and how support sizes get out."""

from functools import wraps

import torch
from torch import nn
from transformers import PreTrainedConfig, initialization as init

from .context_pool import ContextPool


def build_context_pool(config: PreTrainedConfig, num_dims: int) -> ContextPool:
    """The pooling module that `config` describes, for sequences (`num_dims=1`) or grids (2)."""
    return ContextPool(
        config.hidden_size,
        pool_hidden_size=config.pool_hidden_size,
        pool_kernel_size=config.pool_kernel_size,
        pool_range=config.pool_range,
        pool_num_heads=config.pool_num_heads,
        pool_max_offset=config.pool_max_offset,
        pool_gate=config.pool_gate,
        num_dims=num_dims,
    )


@torch.no_grad()
def init_context_pool(module: nn.Module) -> None:
    """The part of `_init_weights` that is ContextPool's own; its linear layers are initialised as all others are."""
    if isinstance(module, ContextPool):
        init.copy_(module.proj.bias, module.initial_bias())
        if module.gate is not None:
            init.zeros_(module.gate)


def with_pool_sizes(forward):
    """Gives a model's `forward` the argument `output_pool_sizes` (default: the config's).

    With it, the output has an entry `pool_sizes`: a tuple with one `(batch, heads, tokens)` float32 tensor for every
    layer that pools, the predicted sigma in positions, zero at padding.
    """

    # Upstream's heads pass unknown keywords down to every layer but nothing new up, so a list travels down instead.
    @wraps(forward)
    def wrapper(self, *args, **kwargs):
        requested = kwargs.pop("output_pool_sizes", None)
        requested = self.config.output_pool_sizes if requested is None else requested
        if not requested or "pool_sizes" in kwargs:  # a head that contains this model has already asked
            return forward(self, *args, **kwargs)
        return_dict = kwargs.pop("return_dict", None)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        pool_sizes: list[torch.Tensor] = []
        outputs = forward(self, *args, return_dict=True, pool_sizes=pool_sizes, **kwargs)
        outputs["pool_sizes"] = tuple(pool_sizes)
        return outputs if return_dict else outputs.to_tuple()

    return wrapper
