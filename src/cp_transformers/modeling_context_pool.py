# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""What the models of every family share: how a layer gets its ContextPool, and how support sizes get out."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import nn
from transformers import PreTrainedConfig, initialization as init
from transformers.utils import ModelOutput

from .context_pool import ContextPool, PoolProjection


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
    """The part of `_init_weights` that is ContextPool's own; all else is initialised as in any model."""
    # Of code outside transformers only modules that own parameters are initialised, so each is asked for by itself.
    if isinstance(module, PoolProjection):
        init.copy_(module.bias, module.initial_bias())
    elif isinstance(module, ContextPool) and module.gate is not None:
        init.zeros_(module.gate)


class PoolSizes:
    """Travels down through a model and collects sigma from every layer that pools.

    Not a list, which accelerate's hooks (`device_map`) and FSDP would copy on the way.
    """

    def __init__(self) -> None:
        self.collected: list[torch.Tensor] = []

    def append(self, sizes: torch.Tensor) -> None:
        self.collected.append(sizes)


def with_pool_sizes(output_class: type[ModelOutput]) -> Callable:
    """Decorator that gives a model's `forward` the argument `output_pool_sizes` (default: the config's).

    With it, the output is an `output_class`, which adds `pool_sizes`: a tuple with the predicted sigma of every layer
    that pools, in positions and float32; `(batch, heads, tokens)` for text, zero at padding.
    """

    def decorator(forward: Callable) -> Callable:
        # Upstream's heads pass unknown keywords down to every layer but nothing new up, so a collector travels down.
        @wraps(forward)
        def wrapper(self, *args, **kwargs):
            requested = kwargs.pop("output_pool_sizes", None)
            requested = self.config.output_pool_sizes if requested is None else requested
            if not requested or "pool_sizes" in kwargs:  # a head that contains this model has already asked
                return forward(self, *args, **kwargs)
            return_dict = kwargs.pop("return_dict", None)
            return_dict = self.config.return_dict if return_dict is None else return_dict
            pool_sizes = PoolSizes()
            outputs = forward(self, *args, return_dict=True, pool_sizes=pool_sizes, **kwargs)
            outputs = output_class(**outputs, pool_sizes=tuple(pool_sizes.collected))
            return outputs if return_dict else outputs.to_tuple()

        return wrapper

    return decorator
