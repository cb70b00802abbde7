# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Which tokens of a text the kept tokens of a faster model are made of, and which fade."""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cp_transformers.cli import run
from cp_transformers.files import check_csv, rounded, write_csv
from cp_transformers.inspection.pools import inspect_pools

from .embeddings import Embeddings
from .grids import Cell, Experiment, make_run
from .tasks import TASKS


CONFIG = Path(__file__).parent / "configs" / "embeddings.yaml"
ARM = "ContextPool"
FEWEST = 30  # occurrences of a token that is written
OTHERS = "(all rarer ones)"
COLUMNS = ["token", "occurrences", "share", "spread"]


def shares(
    model: PreTrainedModel, examples: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[float]]:
    """For each token, at every place in the examples, its share of what its group pools of its own tokens, the mean of
    the heads: of pairs a half where both count alike. Groups of a single token are left out.

    Args:
        model: a CP model of texts with one strided layer.
        examples: batches of one.
        tokenizer: names the tokens.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for example in examples:
        inspection = inspect_pools(model, example, tokenizer)
        pool = next(pool for pool in inspection.pools if pool.stride > 1)
        assert inspection.tokens is not None and pool.token_in is not None
        tokens = [token for token, place in zip(inspection.tokens, pool.token_in) if place >= 0]
        for group in range(pool.num_pools):
            members = pool.members(group)
            own = pool.row(group)[members]
            if len(members) > 1:
                for index, weight in zip(members, own / own.sum()):
                    found[tokens[index]].append(float(weight))
    return found


def main(args: Sequence[str] | None = None) -> None:
    """The command `python -m experiments.kept_tokens`."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.kept_tokens",
        description=f"Train the arm {ARM!r} of experiments/configs/embeddings.yaml again, with its first seed, and "
        "write for the tokens of sentences from the news their share of what their pair pools of its two tokens: the "
        f"mean and the standard deviation, a row for each token that occurs {FEWEST} times or more, and one for all "
        "others.",
    )
    parser.add_argument("--output", type=Path, default=Path("out/kept_tokens.csv"), help="default: %(default)s")
    parser.add_argument("--examples", type=int, default=1000, help="sentences (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of training (default: as in the experiment)")
    options = parser.parse_args(args)
    check_csv(options.output)
    experiment = Experiment.read(CONFIG)
    experiment.steps = options.steps or experiment.steps
    task = TASKS[experiment.task]
    assert isinstance(task, Embeddings)
    task.prepare()
    cell = Cell("search", ARM, experiment.train_samples[0], experiment.learning_rates[0], experiment.seeds[0])
    model = task.train(make_run(experiment, cell))
    found = shares(model, task.examples(options.examples), task.data()["tokenizer"])
    common = {token: each for token, each in found.items() if len(each) >= FEWEST}
    common[OTHERS] = [share for token, each in found.items() if token not in common for share in each]
    rows = [
        (token, len(each), rounded(statistics.mean(each)), rounded(statistics.stdev(each)))
        for token, each in common.items()
        if len(each) > 1
    ]
    write_csv(options.output, COLUMNS, sorted(rows, key=lambda row: -row[2]))
    print(f"{options.output} has {len(rows)} rows.")


if __name__ == "__main__":
    sys.exit(run("experiments.kept_tokens"))
