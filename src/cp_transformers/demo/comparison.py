# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Shared by the demos: train models alike, measure them side by side, and show what each costs and reaches."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from .. import __version__
from ..benchmark.group_reduction import GroupMean, replace_pools
from ..benchmark.timing import interleaved
from ..checkpoints.conversion import convert_model, cut_layers
from ..files import write_json
from ..training.metrics import Accuracy
from ..training.optimizer import param_groups, pool_parameters


def check_positive(options: Mapping[str, float | None]) -> None:
    """Raises a ValueError that names the first option, by its flag, that is not positive and finite; None passes."""
    for name, value in options.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, not {value}.")


def faster_models(
    full: PreTrainedModel, kept_layers: Sequence[int], halved_before: int, seed: int
) -> list[Callable[[], PreTrainedModel]]:
    """Three ways to make a model faster, not yet trained, each of which builds one: some of its layers; from the layer
    `halved_before` on one token of each group, the group's mean; and the same, by ContextPool."""

    def halved() -> PreTrainedModel:
        transformers.set_seed(seed)
        return convert_model(full, halve_before=[halved_before])

    return [lambda: cut_layers(full, kept_layers), lambda: replace_pools(halved(), GroupMean), halved]


def make_trainer(
    model: nn.Module,
    train_dataset: Any,
    processing_class: Any,
    folder: str,
    *,
    epochs: float = 1.0,
    max_steps: int = -1,
    seed: int,
    learning_rate: float,
    pool_learning_rate: float | None,
    weight_decay: float,
    data_collator: Callable | None = None,
    train_sampling_strategy: str = "random",
    trainer_class: Callable[..., Trainer] = Trainer,
    metrics: Callable[[transformers.EvalPrediction], dict[str, float]] | None = None,
    gate_learning_rate: float | None = None,
) -> Trainer:
    """A Trainer that classifies, unless `metrics` are others than the accuracy: AdamW, linear decay after a warm-up
    over a tenth of the steps, batches of 32; `epochs`, or `max_steps` where that is positive. The learning rates of
    the pooling and its gates are for those models that have them."""
    accuracy = Accuracy()

    def compute_metrics(prediction: transformers.EvalPrediction) -> dict[str, float]:
        labels = np.argmax(prediction.predictions, axis=-1)
        return accuracy.compute(predictions=labels, references=prediction.label_ids) or {}

    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        max_steps=max_steps,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        logging_steps=50,
        save_strategy="no",
        train_sampling_strategy=train_sampling_strategy,
        remove_unused_columns=False,
        seed=seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    if not pool_parameters(model)[0]:
        pool_learning_rate = gate_learning_rate = None
    groups = param_groups(
        model, learning_rate, pool_learning_rate, weight_decay, gate_learning_rate=gate_learning_rate
    )
    optimizer = torch.optim.AdamW(groups)
    return trainer_class(
        model,
        arguments,
        data_collator=data_collator,
        train_dataset=train_dataset,
        compute_metrics=metrics or compute_metrics,
        processing_class=processing_class,
        optimizers=(optimizer, None),
    )


def learn(
    name: str | None,
    model: nn.Module,
    loss: Callable[[nn.Module, int], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    pool_learning_rate: float,
) -> float:
    """Trains a model in evaluation mode, as dropout would only blur what it learns of another's outputs: with AdamW, a
    warm-up over a tenth of the steps and linear decay to zero. `loss` is given the model and the number of the step.
    Prints the loss now and then, unless `name` is None. Returns the seconds that it took."""
    groups = param_groups(model, learning_rate, pool_learning_rate if pool_parameters(model)[0] else None, 0.01)
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, max(1, steps // 10), steps)
    start, recent = time.perf_counter(), []
    model.eval()
    for step in range(steps):
        value = loss(model, step)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent.append(value.item())
        if name is not None and (len(recent) == 50 or step + 1 == steps):
            print(f"  {name}, step {step + 1} of {steps}: loss {statistics.mean(recent):.3f}", flush=True)
            recent = []
    return time.perf_counter() - start


def arm(name: str, model: PreTrainedModel, correct: np.ndarray, **more: Any) -> dict[str, Any]:
    """A row of the results: what a model reaches, from which of the test examples it got right."""
    accuracy = float(correct.mean())
    return {
        "model": name,
        **more,
        "parameters": model.num_parameters(),
        "accuracy": accuracy,
        "accuracy_standard_error": math.sqrt(accuracy * (1 - accuracy) / len(correct)),
    }


def paired_difference(correct: np.ndarray, control: np.ndarray) -> tuple[float, float]:
    """The difference of two models' accuracies on the same examples, and its standard error."""
    difference = correct.astype(float) - control
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


@torch.no_grad()
def milliseconds(models: Mapping[str, nn.Module], batch: Mapping[str, torch.Tensor], rounds: int) -> dict[str, float]:
    """The median time of a forward pass over `batch` for each model, measured in turn so that all see the same
    machine."""
    seconds = interleaved({name: partial(model, **batch) for name, model in models.items()}, rounds)
    return {name: 1000 * statistics.median(each) for name, each in seconds.items()}


def table(arms: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table of the arms."""
    header = f"{'model':<20}{'layers':>7}{'parameters':>12}{'accuracy':>16}{'ms/batch':>10}{'time':>8}"
    lines = [header, "-" * len(header)]
    for row in arms:
        accuracy = f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_standard_error']:.1f} %"
        number, unit = (row["parameters"] / 1e6, "M") if row["parameters"] >= 1e6 else (row["parameters"] / 1e3, "k")
        lines.append(
            f"{row['model']:<20}{row['layers']:>7}{number:>10.1f} {unit}{accuracy:>16}"
            f"{row['milliseconds_a_batch']:>10.1f}{row['time_to_stock']:>7.2f}x"
        )
    return lines


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in (header, *rows)
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def beside_recorded(
    results: Mapping[str, Any], recorded: Mapping[str, Any], metric: str = "accuracy", form: str = "{:.2%}"
) -> list[str]:
    """The lines that show a demo's figures beside the recorded ones; none, where the run had other settings."""
    if results["quick"] or any(results["settings"][name] != value for name, value in recorded["settings"].items()):
        return []
    lines = ["", f"{metric} here, and recorded with torch {recorded['torch']} on another machine:"]
    for row in results["arms"]:
        here, then = (form.format(each) for each in (row[metric], recorded[metric][row["model"]]))
        lines.append(f"  {row['model']:<20}{here:>9}{then:>9}")
    return [*lines, *MAY_DIFFER]


# Why what is run again is not always the same.
MAY_DIFFER = [
    "Other versions differ; the same ones on another processor may add up in another order, after which training",
    "takes another course: a few examples more or less then come out right.",
]
QUICK = ["This was a quick run: it shows that everything works, and its figures mean nothing.", ""]


def draw_against_cost(
    results: dict[str, Any],
    path: Path,
    *,
    title: str,
    label: str,
    cost_label: str,
    metric: str = "accuracy",
    scale: float = 100,
) -> None:
    """A metric of the arms against the time of a forward pass, with one standard error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    times = [row["milliseconds_a_batch"] for row in results["arms"]]
    for row in results["arms"]:
        color = "tab:orange" if "CP" in row["model"] or "ContextPool" in row["model"] else "tab:blue"
        x, y, error = row["milliseconds_a_batch"], scale * row[metric], scale * row[f"{metric}_standard_error"]
        axes.errorbar(x, y, yerr=error, fmt="o", capsize=3, color=color)
        # Beside the point, on the side where there is room.
        offset, side = (8, "left") if 2 * x < min(times) + max(times) else (-8, "right")
        axes.annotate(row["model"], (x, y), (offset, 0), textcoords="offset points", ha=side, va="center", color=color)
    axes.margins(x=0.1, y=0.1)
    axes.set_xlabel(f"forward pass, ms {cost_label} ({results['threads']} threads)")
    axes.set_ylabel(label)
    axes.set_title(title + (" (quick run: no evidence)" if results["quick"] else ""))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def write_results(results: dict[str, Any], output: Path) -> None:
    """Writes `results.json`, whole, with the versions of what made it."""
    versions = {
        "cp_transformers": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    write_json(output / "results.json", {**results, "versions": versions})
