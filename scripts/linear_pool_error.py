# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""How far the linear-time pooling is from the dense one, results and gradients, over random inputs.

Both are computed in float32 and compared with dense pooling in float64: an error is the norm of the difference, over
all tokens, divided by the norm of what is exact. Hidden states and log-weights are drawn from a normal distribution;
sizes lie around a quarter of the widest one, as when training starts, or are spread over all scales from the floor of
a tenth of a token to the whole extent. The largest of the errors of all seeds is written to
results/linear_pool_error.csv. Takes a few minutes.

    python scripts/linear_pool_error.py
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from cp_transformers.files import rounded, write_csv
from cp_transformers.models.context_pool import context_pool


QUANTITIES = ("pooled", "gradient_hidden_states", "gradient_weights", "gradient_sigma", "gradient_offsets")
COLUMNS = ("tokens", "grid", "sizes", "heads", "implementation", *QUANTITIES, "seeds", "torch")
SHAPES: list[tuple[int, tuple[int, int] | None]] = [
    (128, None),
    (512, None),
    (2048, None),
    (196, (14, 14)),
    (1024, (32, 32)),
    (4096, (64, 64)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("results/linear_pool_error.csv"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for num_tokens, grid_size in SHAPES:
        for sizes in ("initial", "all scales"):
            for heads in (1, 2):
                errors = [measure(num_tokens, grid_size, sizes, heads, seed) for seed in range(options.seeds)]
                for implementation in ("linear", "dense"):
                    row = {
                        "tokens": num_tokens,
                        "grid": f"{grid_size[0]} x {grid_size[1]}" if grid_size else "",
                        "sizes": sizes,
                        "heads": f"{heads} with offsets" if heads > 1 else heads,
                        "implementation": implementation,
                        **{
                            name: rounded(max(error[implementation][name] for error in errors))
                            for name in errors[0][implementation]
                        },
                        "seeds": options.seeds,
                        "torch": torch.__version__,
                    }
                    rows.append([row.get(column, "") for column in COLUMNS])
                    print(*rows[-1], flush=True)
    write_csv(options.output, COLUMNS, rows)


def measure(
    num_tokens: int, grid_size: tuple[int, int] | None, sizes: str, heads: int, seed: int
) -> dict[str, dict[str, float]]:
    """From an implementation's name to its relative errors."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator, dtype=torch.float64)

    extent = max(grid_size or (num_tokens,))
    if sizes == "initial":  # the default pool_range is a tenth of the extent; a quarter of it is where sizes start
        sigma = 0.025 * extent * (0.3 * draw(heads, num_tokens)).exp()
    else:
        uniform = torch.rand(1, heads, num_tokens, generator=generator, dtype=torch.float64)
        sigma = 0.1 * (10 * extent) ** uniform
    inputs = [draw(num_tokens, 16), draw(heads, num_tokens), sigma.clamp(min=0.1)]
    if heads > 1:
        inputs.append(2 * draw(heads, num_tokens, 2 if grid_size else 1).tanh())
    direction = draw(num_tokens, 16)

    def run(implementation: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        leaves = [each.to(dtype).requires_grad_() for each in inputs]
        pooled = context_pool(*leaves, grid_size=grid_size, implementation=implementation)
        results: list[Any] = [pooled, *torch.autograd.grad(pooled, leaves, direction.to(dtype))]
        return {name: each.detach().double() for name, each in zip(QUANTITIES, results)}

    exact = run("dense", torch.float64)
    return {
        implementation: {
            name: ((each - exact[name]).norm() / exact[name].norm()).item()
            for name, each in run(implementation, torch.float32).items()
        }
        for implementation in ("linear", "dense")
    }


if __name__ == "__main__":
    main()
