# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Statistics of the pools of a trained model: how large they are, whether they differ from token to token, and whether
they have moved since the start."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from cp_transformers.cli import run
from cp_transformers.files import check_csv, rounded, write_csv
from cp_transformers.inspection.pools import Prediction, recorded_pools
from cp_transformers.models.context_pool import INITIAL_SIGMA, MIN_SIGMA, ContextPool, pooling_weights

from .grids import Experiment, make_model, make_run, read_results
from .tasks import TASKS


# A sigma this near to an end of its range has a derivative of less than a tenth of the largest.
SATURATED = 0.025
FIGURES = """
sigma_at_start sigma sigma_spread sigma_saturated weight_spread offset offset_spread own_weight effective_tokens gate
""".split()


def check_pools(model: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: the model has no ContextPool, or one that keeps fewer tokens.
    """
    pools = [module for module in model.modules() if isinstance(module, ContextPool)]
    if not pools:
        raise ValueError(f"{type(model).__name__} has no ContextPool.")
    if any(pool.stride > 1 for pool in pools):
        raise ValueError(
            f"The {type(model).__name__} keeps fewer tokens, and these are figures of pools that keep all; "
            "experiments.kept_tokens shows what such pools keep."
        )


@torch.no_grad()
def pool_statistics(model: PreTrainedModel, examples: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, Any]]:
    """The figures of every pooling head of a model, means over the tokens of examples, which are batches of one
    without padding:

    - `sigma_at_start` and `sigma`, in positions; `sigma_spread`, its standard deviation over the tokens of an example;
      `sigma_saturated`, the share of the tokens within [`SATURATED`] of an end of the range, or at sigma's floor;
    - `weight_spread`, the standard deviation of the log-weights over the tokens of an example;
    - `offset`, the mean distance of the pools' centre from the token, and `offset_spread`, how far the centres scatter
      around their mean, the root of the mean square;
    - `own_weight`, with which a token enters its own pool, and `effective_tokens`, the exponential of the entropy of
      the weights in a pool: 1 where it is the token alone;
    - `gate`, the mean over the head's channels of its absolute value, 1 where there is none.

    Raises:
        ValueError: see [`check_pools`].
    """
    check_pools(model)
    with recorded_pools(model.eval()) as records:
        for example in examples:
            model(**example)
    rows = []
    for layer, (pool, predictions) in enumerate(records.items()):
        figures_of_heads = torch.stack([_figures(pool, each) for each in predictions]).mean(dim=0)
        for head, figures in enumerate(figures_of_heads.tolist()):
            rows.append({"layer": layer, "head": head, **dict(zip(FIGURES, figures))})
    return rows


def _figures(pool: Any, prediction: Prediction) -> torch.Tensor:
    """`(heads, figures)` of one example."""
    (weights, sigma, offsets), grid_size = prediction.numbers, prediction.arguments["grid_size"]
    largest = pool.pool_range * max(grid_size or (sigma.shape[-1],))
    p = pooling_weights(weights, sigma, offsets, grid_size=grid_size)[0]
    weights, sigma = weights[0], sigma[0]
    gate = sigma.new_ones(len(sigma), 1) if pool.gate is None else pool.gate.unflatten(0, (len(sigma), -1))
    centres = sigma.new_zeros(*sigma.shape, 1) if offsets is None else offsets[0]
    scatter = (centres - centres.mean(dim=1, keepdim=True)).square().sum(dim=-1).mean(dim=1).sqrt()
    fraction = sigma / largest
    return torch.stack(
        [
            torch.full_like(scatter, INITIAL_SIGMA[pool.num_dims] * largest),
            sigma.mean(dim=1),
            sigma.std(dim=1),
            ((sigma <= MIN_SIGMA) | (fraction < SATURATED) | (fraction > 1 - SATURATED)).float().mean(dim=1),
            weights.std(dim=1),
            centres.norm(dim=-1).mean(dim=1),
            scatter,
            p.diagonal(dim1=1, dim2=2).mean(dim=1),
            torch.special.entr(p).sum(dim=-1).exp().mean(dim=1),
            gate.abs().mean(dim=1),
        ],
        dim=-1,
    )


def main(args: Sequence[str] | None = None) -> None:
    """The command `python -m experiments.pool_statistics`."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.pool_statistics",
        description="Train arms of an experiment again, each with its first seed that counts, and write what their "
        "pools do on the first held-out examples, a row a pooling head (layers and heads are counted from 0). The "
        "experiment's results must be there, for the learning rates. What the columns mean stands in the docstring of "
        "experiments.pool_statistics.pool_statistics.",
    )
    parser.add_argument("--config", type=Path, required=True, help="such as experiments/configs/texts.yaml")
    parser.add_argument("--arms", nargs="+", required=True, help="such as 'CP-BERT, 2 layers'")
    parser.add_argument("--results", type=Path, help="of the experiment (default: results/<name>.csv)")
    parser.add_argument("--output", type=Path, help="CSV file (default: results/<name>_pools.csv)")
    parser.add_argument("--examples", type=int, default=200, help="default: %(default)s")
    options = parser.parse_args(args)
    output = options.output or Path("results") / f"{options.config.stem}_pools.csv"
    check_csv(output)
    experiment = Experiment.read(options.config)
    task, size = TASKS[experiment.task], experiment.train_samples[0]
    known = options.results or Path("results") / f"{options.config.stem}.csv"
    results = read_results(experiment, known)
    counted = {
        cell.arm: cell for cell in reversed(list(results)) if (cell.stage, cell.train_samples) == ("test", size)
    }
    for arm in options.arms:
        if arm not in counted:
            raise ValueError(f"{known} has no runs of {arm!r}; it has {', '.join(counted) or 'none at all'}.")
        check_pools(make_model(experiment, arm))
    task.prepare()
    rows: list[dict[str, Any]] = []
    columns = ["arm", "seed", "layer", "head", *FIGURES]
    for arm in options.arms:
        # judged on the validation split, and without what is done with it afterwards
        model, _ = task.run(make_run(experiment, replace(counted[arm], stage="search")))
        for row in pool_statistics(model, task.examples(options.examples)):
            rows.append({"arm": arm, "seed": counted[arm].seed} | {name: rounded(row[name]) for name in row})
            print(*rows[-1].values(), flush=True)
        write_csv(output, columns, [[row[name] for name in columns] for row in rows])


if __name__ == "__main__":
    sys.exit(run("experiments.pool_statistics"))
