# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""What the models of every family share: how a layer gets its ContextPool, and how support sizes get out."""

import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, initialization as init
from transformers.utils import ModelOutput

from .context_pool import BaseContextPool, ContextPool, FactoredConv, PoolProjection


def build_context_pool(config: PreTrainedConfig, num_dims: int) -> ContextPool:
    """The pooling module of a layer that `config` describes, for sequences (`num_dims=1`) or grids (2)."""
    return ContextPool(
        config.hidden_size,
        **predictor_options(config),
        pool_range=config.pool_range,
        pool_max_offset=config.pool_max_offset,
        pool_implementation=config.pool_implementation,
        num_dims=num_dims,
    )


def predictor_options(config: PreTrainedConfig) -> dict[str, Any]:
    """What every kind of pooling takes from `config`."""
    return {
        "pool_hidden_size": config.pool_hidden_size,
        "pool_kernel_size": config.pool_kernel_size,
        "pool_num_heads": config.pool_num_heads,
        "pool_gate": config.pool_gate,
        "pool_factored": config.pool_factored,
    }


@torch.no_grad()
def init_context_pool(module: nn.Module) -> None:
    """The part of `_init_weights` that is ContextPool's own; all else is initialised as in any model."""
    # Of code outside transformers only modules that own parameters are initialised, so each is asked for by itself.
    if isinstance(module, PoolProjection) and module.bias is not None:
        init.copy_(module.bias, module.initial_bias())
    elif isinstance(module, FactoredConv):
        module.reset_parameters()
    elif isinstance(module, BaseContextPool) and module.gate is not None:
        init.zeros_(module.gate)


class _Collector:
    """Where the pooling modules leave their support sizes during a forward pass that was asked for them.

    Upstream's models hand unknown arguments down in part and nothing new up, so the sizes go past them. Each thread
    and task has a collection of its own; under torch.compile, which cannot trace a ContextVar, each thread does, also
    of layers that are compiled by themselves.
    """

    def __init__(self) -> None:
        self._of_context: ContextVar[list[torch.Tensor] | None] = ContextVar("pool_sizes", default=None)
        self._of_thread = threading.local()

    def get(self) -> list[torch.Tensor] | None:
        if torch.compiler.is_compiling():
            return getattr(self._of_thread, "collected", None)
        return self._of_context.get()

    def set(self, collected: list[torch.Tensor] | None) -> None:
        self._of_thread.collected = collected
        if not torch.compiler.is_compiling():
            self._of_context.set(collected)


_COLLECTOR = _Collector()


def record_pool_sizes(sizes: torch.Tensor) -> None:
    """Called by whatever pools, with its sigma, for [`with_pool_sizes`]."""
    collected = _COLLECTOR.get()
    if collected is not None:
        collected.append(sizes)


def keep_empty_rows(pooled: torch.Tensor, hidden_states: torch.Tensor, pool_mask: torch.Tensor | None) -> torch.Tensor:
    """For a block's whole input: the pooled tokens, `(batch, tokens, channels)`, or the tokens themselves in rows that
    are False throughout in `pool_mask`. These pool zeros, at which a LayerNorm has an unbounded gradient."""
    return pooled if pool_mask is None else torch.where(pool_mask.any(dim=1)[:, None, None], pooled, hidden_states)


def with_pool_sizes(output_class: type[ModelOutput], *handed_down: str) -> Callable:
    """Decorator that gives a model's `forward` the argument `output_pool_sizes` (default: the config's).

    With it, the output is an `output_class`, which adds `pool_sizes`: a tuple with the predicted sigma of every module
    that pools, in positions and float32; `(batch, heads, tokens)` for text, zero at what is not pooled; `(batch,
    heads, rows, columns)` for images. Under gradient checkpointing of the reentrant kind they have no gradient.

    `handed_down` names what a head hands to the model in it as one of its `kwargs`: the signature then has it, without
    which Trainer takes the columns of that name from the data.
    """

    def decorator(forward: Callable) -> Callable:
        @wraps(forward)
        def wrapper(self, *args, **kwargs):
            requested = kwargs.pop("output_pool_sizes", None)
            requested = self.config.output_pool_sizes if requested is None else requested
            if not requested or _COLLECTOR.get() is not None:  # a head that contains this model has already asked
                return forward(self, *args, **kwargs)
            return_dict = kwargs.pop("return_dict", None)
            return_dict = self.config.return_dict if return_dict is None else return_dict
            collected: list[torch.Tensor] = []
            _COLLECTOR.set(collected)
            try:
                outputs = forward(self, *args, return_dict=True, **kwargs)
            finally:
                _COLLECTOR.set(None)
            outputs = output_class(**outputs, pool_sizes=tuple(collected))
            return outputs if return_dict else outputs.to_tuple()

        # Code of its own, by which torch.compile counts recompilations: those of one class are not another's.
        own_code = wrapper.__code__.replace(co_qualname=forward.__qualname__)  # type: ignore[attr-defined]
        wrapper.__code__ = own_code  # type: ignore[attr-defined]
        signature = inspect.signature(forward)
        *named, kwargs = signature.parameters.values()
        named += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in handed_down]
        wrapper.__signature__ = signature.replace(parameters=[*named, kwargs])  # type: ignore[attr-defined]
        return wrapper

    return decorator
