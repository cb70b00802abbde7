# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Experiments: grids of small models trained from scratch, each arm with its own learning rate and several seeds.

Where an experiment has several learning rates, every arm is first trained at each with [`SEARCH_SEED`], for each size
of the training set, and judged on the validation split; the best rate is then used for the seeds that count, which are
judged on the test split. A seed draws the training examples, the weights and the order, alike for all arms, so that
differences are paired.
"""

import argparse
import csv
import hashlib
import json
import math
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

import cp_transformers  # noqa: F401  (registers the models)
from cp_transformers.benchmark.timing import FEWEST_ROUNDS
from cp_transformers.demo.comparison import MAY_DIFFER
from cp_transformers.families import family_of
from cp_transformers.files import check_csv, write_csv
from cp_transformers.training.arguments import Loader

from .controls import replace_pools_by
from .task import Metric, Run, Task
from .tasks import TASKS
from .times import ROUNDS, measure, times_as_fast


SEARCH_SEED = 0
CELL = "stage arm train_samples learning_rate seed".split()


@dataclass
class Experiment:
    """An experiment, as a file of `experiments/configs` says it.

    Args:
        task: what the models are trained for and judged by, one of [`TASKS`].
        train_samples: sizes of the training set, in the order in which they are run.
        steps: of training, in batches of 32, of `photographs` of 8.
        learning_rates: those that each arm chooses from, or the one that all have.
        seeds: those that count.
        model: fields of every arm's configuration.
        arms: for each its configuration: `model_type`, its fields, and `control`, what takes the place of its pools:
            the `name` of one of [`CONTROLS`] and its options.
        comparisons: pairs of arms, the second the control of the first.
        series: for the picture of the first metric against time, arms of one kind by the name of the kind. None: there
            is no such picture.
        held_out: on how many examples the models are judged; None, and in files: on the whole split.
    """

    task: str
    train_samples: list[int]
    steps: int
    learning_rates: list[float]
    seeds: list[int]
    model: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    comparisons: list[list[str]]
    series: dict[str, list[str]] | None = None
    held_out: int | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"There is no task {self.task!r}; choose one of {', '.join(TASKS)}.")
        if SEARCH_SEED in self.seeds:
            raise ValueError(f"Seed {SEARCH_SEED} chooses the learning rates; it cannot be one of those that count.")
        for pair in self.comparisons:
            if len(pair) != 2 or not {*pair} <= {*self.arms}:
                raise ValueError(f"A comparison is a pair of arms, which {pair} is not.")
        if unknown := {arm for arms in (self.series or {}).values() for arm in arms} - {*self.arms}:
            raise ValueError(f"A series is of arms, which {', '.join(sorted(unknown))} are not.")

    @classmethod
    def read(cls, path: Path) -> "Experiment":
        """
        Raises:
            OSError: the file cannot be read.
            ValueError: it lacks an entry or has one that is not known, or an arm cannot be made.
        """
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
        expected = {field.name for field in fields(cls)} - {"held_out", "series"}
        if not isinstance(values, dict) or {*values} - {"series"} != expected:
            raise ValueError(f"{path} must have the entries {', '.join(sorted(expected))}, and no others.")
        experiment = cls(**values)
        for name in experiment.arms:
            try:
                make_model(experiment, name)
            except (ValueError, TypeError, StrictDataclassError) as error:
                raise ValueError(f"{path}: {name} cannot be made: {error.__cause__ or error}") from error
        return experiment

    def part(self, arms: Collection[str] | None, train_samples: Collection[int] | None, seeds: int | None) -> Self:
        """These arms and sizes alone, and so many of the seeds; None: all.

        Raises:
            ValueError: the experiment has no such arm or size, or not so many seeds.
        """
        for wanted, known in ((arms, self.arms), (train_samples, self.train_samples)):
            for each in wanted or ():
                if each not in known:
                    raise ValueError(f"There is no {each!r} in the experiment; it has {'; '.join(map(str, known))}.")
        if seeds is not None and not 0 < seeds <= len(self.seeds):
            raise ValueError(f"The experiment has 1 to {len(self.seeds)} seeds, not {seeds}.")
        return replace(
            self,
            arms={arm: options for arm, options in self.arms.items() if arms is None or arm in arms},
            train_samples=[size for size in self.train_samples if train_samples is None or size in train_samples],
            seeds=self.seeds[:seeds],
            comparisons=[pair for pair in self.comparisons if arms is None or {*pair} <= {*arms}],
            series=None,
        )

    def digest(self, arm: str) -> str:
        """A digest of all that the file says of an arm's run, so that two experiments may have an arm in common. What
        the file leaves to the defaults of this version is not in it."""
        said = json.dumps([self.task, {**self.model, **self.arms[arm]}, self.steps], sort_keys=True)
        return hashlib.blake2b(said.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class Cell:
    """One run."""

    stage: str  # "search" or "test"
    arm: str
    train_samples: int
    learning_rate: float
    seed: int


Results = dict[Cell, dict[str, Any]]


def make_model(experiment: Experiment, arm: str, head: Any = None) -> PreTrainedModel:
    """A new model of an arm; with another head than the task's, if one is given."""
    task = TASKS[experiment.task]
    options = {**experiment.model, **experiment.arms[arm]}
    control = options.pop("control", None)
    model = task.make_model(options, head or task.head)
    if control is not None:
        replace_pools_by(model, **control)
    return model


def workloads(experiment: Experiment) -> dict[str, Callable[[], Any]]:
    """For each arm what its time is measured on, by a model that has not been trained."""
    task = TASKS[experiment.task]
    return {arm: task.workload(make_model(experiment, arm).eval()) for arm in experiment.arms}


def make_run(experiment: Experiment, cell: Cell) -> Run:
    """The run that the experiment's task is asked for."""
    return Run(
        partial(make_model, experiment, cell.arm),
        experiment.arms[cell.arm],
        cell.train_samples,
        experiment.steps,
        cell.learning_rate,
        cell.seed,
        "validation" if cell.stage == "search" else "test",
        experiment.held_out,
    )


def run_cell(experiment: Experiment, cell: Cell) -> dict[str, Any]:
    """Trains a model and judges it: the task's metrics, and what else a row has."""
    task = TASKS[experiment.task]
    begin = time.perf_counter()
    model, metrics = task.run(make_run(experiment, cell))
    return {
        **metrics,
        "parameters": model.num_parameters(),
        "gflops": gflops(model, task),
        "seconds": round(time.perf_counter() - begin, 1),
        "digest": experiment.digest(cell.arm),
    }


@torch.no_grad()
def gflops(model: PreTrainedModel, task: Task) -> float:
    """The billions of multiplications and additions of a forward pass over one example."""
    if model._supports_sdpa:  # whose multiplications are not counted on a CPU
        model.set_attn_implementation("eager")
    inputs = {name: each.to(model.device) for name, each in task.inputs(model).items() if name != "labels"}
    with FlopCounterMode(display=False) as counter:
        model.eval()(**inputs)
    return counter.get_total_flops() / 1e9


def search_cells(experiment: Experiment, train_samples: int) -> list[Cell]:
    """The runs that choose each arm's learning rate; none where there is no choice."""
    if len(experiment.learning_rates) == 1:
        return []
    return [
        Cell("search", arm, train_samples, rate, SEARCH_SEED)
        for arm in experiment.arms
        for rate in experiment.learning_rates
    ]


def test_cells(experiment: Experiment, train_samples: int, results: Results) -> list[Cell]:
    """The runs that count, at each arm's best learning rate; of equally good ones at the lowest."""
    chosen_by = TASKS[experiment.task].metrics[0]
    sign = -1 if chosen_by.lower_is_better else 1

    def place(cell: Cell) -> tuple[float, float]:
        reached = sign * results[cell][chosen_by.name]
        return -math.inf if math.isnan(reached) else reached, -cell.learning_rate

    rates = dict.fromkeys(experiment.arms, experiment.learning_rates[0])
    # The best comes last, and its rate is the one that stays.
    for cell in sorted(search_cells(experiment, train_samples), key=place):
        rates[cell.arm] = cell.learning_rate
    return [Cell("test", arm, train_samples, rates[arm], seed) for arm in experiment.arms for seed in experiment.seeds]


def read_results(experiment: Experiment, path: Path) -> Results:
    """The runs that are finished.

    Raises:
        ValueError: one of them is of an arm that was another then, or is no more, or at a rate that is none of the
            experiment's; or runs that count are of one arm and size at several.
    """
    results: Results = {}
    metrics = TASKS[experiment.task].metrics
    if not path.is_file():
        return results
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["arm"] not in experiment.arms or row["digest"] != experiment.digest(row["arm"]):
                raise ValueError(
                    f"{path} has runs of {row['arm']} with another configuration; move the file away, or choose "
                    "another --output."
                )
            where = int(row["train_samples"]), float(row["learning_rate"]), int(row["seed"])
            if where[1] not in experiment.learning_rates:
                raise ValueError(
                    f"{path} has runs of {row['arm']} at a rate of {where[1]}, which is none of the experiment's; "
                    "move the file away, or choose another --output."
                )
            results[Cell(row["stage"], row["arm"], *where)] = {
                **{each.name: float(row[each.name]) if row[each.name] else None for each in metrics},
                **{name: float(row[name]) for name in ("gflops", "seconds")},
                "parameters": int(row["parameters"]),
                "digest": row["digest"],
            }
    counting = {(cell.arm, cell.train_samples, cell.learning_rate) for cell in results if cell.stage == "test"}
    arms_and_sizes = {(arm, size) for arm, size, _ in counting}
    if len(counting) > len(arms_and_sizes):
        raise ValueError(f"{path} has runs that count of one arm at several rates; take out those of one of them.")
    return results


def write_results(experiment: Experiment, results: Results, path: Path) -> None:
    """In one order, whatever the runs were finished in."""
    arms = list(experiment.arms)

    def place(cell: Cell) -> tuple:
        return cell.train_samples, arms.index(cell.arm), cell.stage, cell.learning_rate, cell.seed

    metrics = [metric.name for metric in TASKS[experiment.task].metrics]
    columns = [*CELL, *metrics, "parameters", "gflops", "seconds", "digest"]
    rows = [{**asdict(cell), **results[cell]} for cell in sorted(results, key=place)]
    write_csv(path, columns, [[row[name] for name in columns] for row in rows])


def run(experiment: Experiment, output: Path, workers: int = 2, part: Experiment | None = None) -> Results:
    """Runs what is not yet in `output`, each run in one thread of one of `workers` processes; the file is written anew
    after each. With a [`Experiment.part`] of the experiment no more than that is run.

    Raises:
        ImportError, OSError: see [`Task.prepare`].
        ValueError: see [`read_results`].
    """
    results = read_results(experiment, output)
    part = part or experiment
    TASKS[experiment.task].prepare()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
        try:
            for train_samples in part.train_samples:
                _finish(experiment, search_cells(part, train_samples), results, output, pool)
                _finish(experiment, test_cells(part, train_samples, results), results, output, pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _start_worker() -> None:
    """One thread, no progress bars of its own, and no life beyond that of the process that started it."""
    torch.set_num_threads(1)
    disable_progress_bar()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _finish(
    experiment: Experiment, cells: Iterable[Cell], results: Results, output: Path, pool: ProcessPoolExecutor
) -> None:
    missing = [cell for cell in cells if cell not in results]
    futures = {pool.submit(partial(run_cell, experiment), cell): cell for cell in missing}
    for future in (progress := tqdm(as_completed(futures), total=len(futures), disable=not futures)):
        cell = futures[future]
        results[cell] = future.result()
        progress.set_description(f"{cell.train_samples} {TASKS[experiment.task].unit}, {cell.stage}: {cell.arm}")
        write_results(experiment, results, output)


def values(results: Results, metric: Metric, arm: str, train_samples: int) -> dict[int, float]:
    """The figures that the runs that count reach, by seed, in the unit of the tables."""
    return {
        cell.seed: metric.scale * figures[metric.name]
        for cell, figures in results.items()
        if (cell.stage, cell.arm, cell.train_samples) == ("test", arm, train_samples)
        and figures[metric.name] is not None
    }


def paired_interval(ours: Mapping[int, float], control: Mapping[int, float]) -> tuple[float, float, int]:
    """The mean difference over the seeds that both have, half the width of its 95 % confidence interval (Student's t),
    and the number of seeds."""
    from scipy.stats import t

    differences = [ours[seed] - control[seed] for seed in ours if seed in control]
    n = len(differences)
    if n < 2:
        return statistics.mean(differences) if n else float("nan"), float("nan"), n
    return statistics.mean(differences), t.ppf(0.975, n - 1) * statistics.stdev(differences) / n**0.5, n


def sizes_and_metrics(experiment: Experiment, results: Results) -> list[tuple[int, Metric, str]]:
    """The columns of the tables: for each a size of the training set, a metric and the title."""
    task = TASKS[experiment.task]
    sizes = sorted({cell.train_samples for cell in results if cell.stage == "test"})
    if len(task.metrics) == 1:
        return [(size, task.metrics[0], f"{size} {task.unit}") for size in sizes]
    return [(size, metric, metric.title) for size in sizes for metric in task.metrics]


def times_path(output: Path) -> Path:
    """The file of the arms' times beside a file of runs."""
    return output.with_name(f"{output.stem}_times.csv")


def summary(experiment: Experiment, results: Results, speeds: Mapping[str, float] | None = None) -> str:
    """Two tables in Markdown: what each arm reaches, with the standard deviation over the seeds, and the paired
    differences with their 95 % confidence intervals; with [`times_as_fast`] how fast each is, too."""
    columns = sizes_and_metrics(experiment, results)
    heads = " | ".join(title for _, _, title in columns)
    fast = " times as fast |" if speeds else ""
    lines = [
        f"| model | parameters | MFLOPs |{fast} {heads} |",
        "|---|---|---|" + "---|" * (len(columns) + bool(speeds)),
    ]
    for arm in experiment.arms:
        known = next((figures for cell, figures in results.items() if cell.arm == arm), None)
        if known is None:
            continue
        cells = []
        for size, metric, _ in columns:
            reached = values(results, metric, arm, size).values()
            spread = f" ± {statistics.stdev(reached):.{metric.decimals}f}" if len(reached) > 1 else ""
            cells.append(f"{statistics.mean(reached):.{metric.decimals}f}{spread}" if reached else "-")
        if speeds:
            cells.insert(0, f"{speeds[arm]:.2f}" if arm in speeds else "-")
        lines.append(
            f"| {arm} | {known['parameters'] / 1e3:.0f} k | {1e3 * known['gflops']:.1f} | {' | '.join(cells)} |"
        )
    lines += ["", f"| model | against | {heads} |", "|---|---|" + "---|" * len(columns)]
    run = {cell.arm for cell in results}
    for arm, control in experiment.comparisons:
        if not {arm, control} <= run:
            continue
        cells = []
        for size, metric, _ in columns:
            mean, half, n = paired_interval(*(values(results, metric, each, size) for each in (arm, control)))
            spread = f" ± {half:.{metric.decimals}f}" if n > 1 else ""
            cells.append(f"{mean:+.{metric.decimals}f}{spread}" if n else "-")
        lines.append(f"| {arm} | {control} | {' | '.join(cells)} |")
    return "\n".join(lines)


def beside_recorded(experiment: Experiment, results: Results, recorded: Results) -> str:
    """A table of what the same runs reached when they were recorded; empty where there are no such runs."""
    lines = []
    for size, metric, title in sizes_and_metrics(experiment, results):
        for arm in experiment.arms:
            now, then = (values(each, metric, arm, size) for each in (results, recorded))
            if seeds := sorted(now.keys() & then.keys()):
                pair = (statistics.mean(each[seed] for seed in seeds) for each in (now, then))
                shown = " | ".join(f"{mean:.{metric.decimals + 1}f}" for mean in pair)
                lines.append(f"| {arm} | {title} | {', '.join(map(str, seeds))} | {shown} |")
    if not lines:
        return ""
    return "\n".join(["| model | | seeds | here | recorded |", "|---|---|---|---|---|", *lines, "", *MAY_DIFFER])


def read_recorded(experiment: Experiment, config: Path) -> Results:
    """The runs that stand in `results/` beside the folder of a configuration of `experiments/configs`; none, where
    they are of another one."""
    try:
        return read_results(experiment, config.parent / ".." / ".." / "results" / f"{config.stem}.csv")
    except ValueError:
        return {}


def draw(experiment: Experiment, results: Results, path: Path) -> None:
    """The first metric against the training examples, a line an arm, with standard deviations over the seeds; where
    there is one size alone, a row an arm."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    task = TASKS[experiment.task]
    metric = task.metrics[0]
    sizes = sorted({cell.train_samples for cell in results if cell.stage == "test"})
    arms = {arm: options for arm, options in experiment.arms.items() if any(cell.arm == arm for cell in results)}
    figure = Figure(figsize=(7, 4.5 if len(sizes) > 1 else 1 + 0.28 * len(arms)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    oranges = ["tab:orange", "tab:red", "tab:brown", "gold"] if len(sizes) > 1 else ["tab:orange"]
    colors = {True: cycle(oranges), False: cycle(["tab:blue"])}
    markers = cycle("osD^vP*X<>")
    for arm, options in arms.items():
        by_size = {size: list(values(results, metric, arm, size).values()) for size in sizes}
        by_size = {size: reached for size, reached in by_size.items() if reached}
        means = [statistics.mean(reached) for reached in by_size.values()]
        spreads = [statistics.stdev(reached) if len(reached) > 1 else 0 for reached in by_size.values()]
        pools = family_of(options["model_type"]) is not None and "control" not in options
        color = next(colors[pools and options.get("pool_layers") != []])
        if len(sizes) > 1:
            axes.errorbar(list(by_size), means, yerr=spreads, label=arm, marker=next(markers), color=color, capsize=3)
        elif means:
            axes.errorbar(means, [arm], xerr=spreads, fmt="o", color=color, capsize=3)
    label = f"{metric.title} (held-out {task.unit})"
    if len(sizes) > 1:
        axes.set(xscale="log", xlabel=f"training {task.unit}", ylabel=label, xticks=sizes)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.legend()
    else:
        axes.set_xlabel(label)
        axes.invert_yaxis()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def draw_against_time(
    experiment: Experiment, results: Results, speeds: Mapping[str, float], path: Path, train_samples: int
) -> None:
    """The first metric against the time, to the first arm's, of the arms of each of the experiment's series, with the
    standard deviations over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    task = TASKS[experiment.task]
    metric = task.metrics[0]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    markers = cycle("os^DvP*X<>")
    for name, arms in (experiment.series or {}).items():
        reached = {arm: list(values(results, metric, arm, train_samples).values()) for arm in arms}
        known = sorted((arm for arm in arms if reached[arm] and arm in speeds), key=lambda arm: speeds[arm])
        axes.errorbar(
            [1 / speeds[arm] for arm in known],
            [statistics.mean(reached[arm]) for arm in known],
            yerr=[statistics.stdev(reached[arm]) if len(reached[arm]) > 1 else 0 for arm in known],
            label=name,
            marker=next(markers),
            linestyle="-" if len(known) > 1 else "none",
            linewidth=1,
            capsize=3,
        )
    axes.set(
        xlabel=f"time on a CPU, relative to {next(iter(experiment.arms))}",
        ylabel=f"{metric.title} (held-out {task.unit})",
        ylim=(0, None),
    )
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def quick(experiment: Experiment) -> Experiment:
    """A smoke run of an experiment: all arms, but a handful of steps on few examples, and two seeds."""
    return replace(
        experiment,
        train_samples=[64],
        steps=2,
        seeds=experiment.seeds[:2],
        learning_rates=experiment.learning_rates[:2],
        held_out=64,
    )


def main(args: Sequence[str] | None = None) -> None:
    """The command `python -m experiments`."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description="Run an experiment of experiments/configs, or what is left of it: it can be stopped at any time. "
        "Writes a row a run to results/<name>.csv, and prints and draws what they show.",
    )
    parser.add_argument("--config", type=Path, required=True, help="such as experiments/configs/images.yaml")
    parser.add_argument("--output", type=Path, help="CSV file (default: results/<name>.csv)")
    parser.add_argument("--arms", nargs="+", help="of those in the file, which to run (default: all)")
    parser.add_argument("--train_samples", type=int, nargs="+", help="of the sizes in it, which to run (default: all)")
    parser.add_argument("--seeds", type=int, help="of the seeds in it, how many to run (default: all)")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (default: 2)")
    parser.add_argument("--summary", action="store_true", help="run nothing; print what is there")
    parser.add_argument("--draw", action="store_true", help="with --summary: draw the pictures anew, too")
    parser.add_argument(
        "--times",
        action="store_true",
        help="run nothing; measure how fast the arms are, side by side, in results/<name>_times.csv",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run, in out/<name>_quick.csv")
    options = parser.parse_args(args)
    disable_progress_bar()
    experiment = Experiment.read(options.config)
    name = options.config.stem + ("_quick" if options.quick else "")
    output = options.output or Path("out" if options.quick else "results") / f"{name}.csv"
    check_csv(output)
    part = experiment.part(options.arms, options.train_samples, options.seeds)
    if options.times:
        TASKS[experiment.task].prepare()
        measure(workloads(experiment), times_path(output), FEWEST_ROUNDS if options.quick else ROUNDS)
        print(f"\n{times_path(output)} has the times.")
        return
    if options.quick:
        experiment, part = quick(experiment), quick(part)
    results = read_results(experiment, output) if options.summary else run(experiment, output, options.workers, part)
    if not results:
        raise ValueError(f"{output.resolve()} has no runs; run the experiment without --summary first.")
    speeds = times_as_fast(times_path(output))
    print("\n" + summary(experiment, results, speeds))
    missing = [arm for arm in part.arms if all(cell.arm != arm for cell in results)]
    if missing:
        print(f"\nNot run: {'; '.join(missing)}.")
    recorded = {} if options.quick or options.output is None else read_recorded(experiment, options.config.resolve())
    if compared := beside_recorded(experiment, results, recorded):
        print("\n" + compared)
    contents = "a smoke run, whose figures mean nothing" if options.quick else "the runs"
    drawn = ""
    if options.draw or not options.summary:
        pictures = [output.with_suffix(".png")]
        draw(experiment, results, pictures[0])
        if speeds and experiment.series:
            pictures.append(times_path(output).with_suffix(".png"))
            draw_against_time(experiment, results, speeds, pictures[1], part.train_samples[-1])
        drawn = f", {' and '.join(map(str, pictures))} the {'picture' if len(pictures) == 1 else 'pictures'}"
    print(f"\n{output} has {contents}{drawn}.")
