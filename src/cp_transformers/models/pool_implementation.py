# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The choice of the form in which the pooling is computed, by device, length and what else is asked for."""

import warnings
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec

import torch

from .configuration_context_pool import POOL_IMPLEMENTATIONS
from .linear_pool import is_traced, is_transformed


# The tokens from which "auto" pools in linear time, by the number of dimensions: where that begins to be faster. Texts
# of 512 tokens, of which [CLS] is not pooled, are among them.
LINEAR_FROM = {1: 500, 2: 4096}
LINEAR_FROM_WITH_GRADIENTS = {1: 500, 2: 16384}  # also of grids with sigma above `LINEAR_UP_TO` of the longer side
LINEAR_UP_TO = 0.1
LINEAR_FROM_ON_ACCELERATORS = 4096  # without the Triton kernels

# The largest relative difference of the Triton kernels from the dense form with which they are used: a mistake is
# larger, what TensorFloat-32 rounds is less.
TRITON_TOLERANCE = 1e-2


def choose_implementation(
    implementation: str,
    hidden_states: torch.Tensor,
    grid_size: tuple[int, int] | None = None,
    segments: torch.Tensor | None = None,
    max_sigma: float | None = None,
) -> str:
    """Chooses the form in which [`~cp_transformers.models.context_pool.context_pool`] computes: "dense", "linear" or
    "triton". Where a bound of sigma is known, it tells whether "linear" pays.

    Raises:
        ValueError: there is no such implementation.
    """
    if implementation not in POOL_IMPLEMENTATIONS:
        raise ValueError(f'implementation must be one of {", ".join(POOL_IMPLEMENTATIONS)}, not "{implementation}".')
    if implementation in ("auto", "triton"):
        traced = is_traced(hidden_states)
        if _is_for_triton(hidden_states) and not (traced and implementation == "auto"):
            if _triton_runs(hidden_states.device):
                return "triton"
        if implementation == "triton":
            if not traced and hidden_states.dtype != torch.float64:
                _warn_of_triton()
            return "dense"
    if implementation == "dense" or segments is not None or not hidden_states.shape[0]:
        return "dense"
    if implementation == "linear":
        return "dense" if _is_exported_for_all_lengths(hidden_states) else "linear"
    if is_traced(hidden_states) or is_transformed() or hidden_states.dtype == torch.float64:
        return "dense"
    shortest = LINEAR_FROM_ON_ACCELERATORS
    if hidden_states.device.type == "cpu":
        with_gradients = torch.is_grad_enabled() and hidden_states.requires_grad
        wide = grid_size is not None and max_sigma is not None and max_sigma > LINEAR_UP_TO * max(grid_size)
        by_dims = LINEAR_FROM_WITH_GRADIENTS if with_gradients or wide else LINEAR_FROM
        shortest = by_dims[1 if grid_size is None else 2]
    return "linear" if hidden_states.shape[1] >= shortest else "dense"


def _is_exported_for_all_lengths(hidden_states: torch.Tensor) -> bool:
    """Whether a graph is made that is to serve other numbers of tokens, without guards: the levels of the pyramid
    would stay those of the example."""
    exported = torch.compiler.is_exporting() and isinstance(hidden_states.shape[1], torch.SymInt)
    return exported or torch.jit.is_tracing()


def _is_for_triton(hidden_states: torch.Tensor) -> bool:
    """Whether the Triton kernels could compute this: in compiled graphs, but in no others, and not where torch.func or
    forward-mode differentiation would have to look into them. They count one example's numbers in 32 bits."""
    if hidden_states.device.type != "cuda" or hidden_states.dtype == torch.float64 or not hidden_states.numel():
        return False
    if hidden_states.shape[1] * hidden_states.shape[2] >= 2**31:
        return False
    if is_traced(hidden_states):
        exported = torch.compiler.is_exporting() or torch.jit.is_tracing()
        return torch.compiler.is_compiling() and not exported
    return not is_transformed() and torch.autograd.forward_ad._current_level < 0


@torch.compiler.assume_constant_result
def _triton_runs(device: torch.device) -> bool:
    """Whether the Triton kernels run on a CUDA device, and compute there what the dense form does. What cannot be
    known beforehand, such as whether Triton finds a C compiler, is tried, once a process, with a small pool."""
    if device not in _TRITON_RUNS:
        runs = torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)
        runs = runs and find_spec("triton") is not None
        reason = ""
        try:
            if runs and not (difference := _triton_difference(device)) < TRITON_TOLERANCE:
                reason = f"its results differ from those of the dense form by {difference:.2g}, relatively"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        if reason:
            warnings.warn(f"Triton fails here, and the pooling does without it: {reason}", stacklevel=2)
        _TRITON_RUNS[device] = runs and not reason
    return _TRITON_RUNS[device]


@torch.inference_mode(False)
@torch.enable_grad()
def _triton_difference(device: torch.device) -> float:
    """The largest difference of the Triton kernels' output and gradients from those of the dense form for a small pool
    in float32, relative to the largest number of each."""
    from .context_pool import MIN_SIGMA, context_pool
    from .triton_pool import triton_context_pool

    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 48, 32), (2, 2, 48), (2, 2, 48), (2, 2, 48, 1), (2, 48, 32)]
    drawn = (torch.randn(size, generator=generator).to(device) for size in sizes)
    hidden_states, weights, sigma, offsets, direction = drawn
    mask = torch.arange(48, device=device) < torch.tensor([[48], [41]], device=device)
    valid = mask[..., None]  # the forms differ at others
    inputs = hidden_states * valid, weights, 4 * sigma.sigmoid() + MIN_SIGMA, offsets
    pools: list[Callable] = [triton_context_pool, partial(context_pool, implementation="dense")]
    found = []
    with torch.autocast(device.type, enabled=False):
        for pool in pools:
            leaves = [each.clone().requires_grad_() for each in inputs]
            pooled = pool(*leaves, mask=mask) * valid
            found.append([pooled.detach(), *torch.autograd.grad(pooled, leaves, direction)])
    # By torch, whose maximum is NaN where one of them is.
    return float(torch.stack([(ours - exact).abs().max() / exact.abs().max() for ours, exact in zip(*found)]).max())


_TRITON_RUNS: dict[torch.device, bool] = {}


@cache
def _warn_of_triton() -> None:
    """Once a process."""
    warnings.warn(
        'pool_implementation="triton" needs an NVIDIA GPU of compute capability 8.0 or more and the package triton, '
        'and to be called outside of torch.func; here "dense" takes its place.',
        stacklevel=2,
    )
