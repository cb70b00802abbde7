# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Whole models that keep fewer tokens, side by side with stock, with fewer layers of it, and with other ways to have
fewer tokens: the suite `strided` of `cp-transformers benchmark`.

All are new models of the same dimensions, fed with the same random inputs. What the multiplications that are left
promise is the column `gflops`; the table says how much of that is had.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import FunnelConfig, PreTrainedConfig, PreTrainedModel

from ..families import register
from ..files import write_csv
from .group_reduction import Merging, replace_pools
from .models import COLUMNS, PATCHES, Group, build, measure_side_by_side, named, show
from .timing import ACCELERATOR_TOKENS, dtype_on


MERGING = "merging by similarity"  # what the names of such models begin with


def strides(num_layers: int, *before: int) -> list[int]:
    return [2 if index in before else 1 for index in range(num_layers)]


def _group(
    name: str,
    batch: int,
    tokens: int | None,
    classes: tuple[Any, Any],
    sizes: Mapping[str, Any],
    fewer_layers: int,
    halvings: Sequence[tuple[int, ...]],
    others: Mapping[str, PreTrainedConfig] | None = None,
) -> Group:
    stock, cp = classes
    num_layers = sizes["num_hidden_layers"]
    configs = {
        f"{name}, {num_layers} layers": stock(**sizes),
        f"{name}, {fewer_layers} layers": stock(**{**sizes, "num_hidden_layers": fewer_layers}),
    }
    for before in halvings:
        where = " and ".join(map(str, before))
        config = {**sizes, "pool_strides": strides(num_layers, *before), "pool_layers": []}
        configs[f"CP-{name}, halved before {where}"] = cp(**config)
    before = halvings[0]
    config = {**sizes, "pool_strides": strides(num_layers, *before), "pool_layers": []}
    configs[f"{MERGING} before {before[0]}"] = cp(**config)
    length = "at 224" if tokens is None else f"{tokens} tokens"
    return Group(f"{name}, {length}", batch, tokens, {**configs, **(others or {})})


def groups() -> list[Group]:
    """The comparisons of the suite."""
    found = []
    for name, fewer, halvings, lengths in (
        ("MiniLM", 4, [(2,)], {32: 32, 128: 32, 512: 8}),
        ("BERT-base", 8, [(4,), (3, 7)], {128: 16, 512: 4}),
    ):
        family, sizes = named(name)
        third = sizes["num_hidden_layers"] // 3
        funnel = FunnelConfig(
            d_model=sizes["hidden_size"],
            n_head=12,
            d_head=sizes["hidden_size"] // 12,
            d_inner=sizes["intermediate_size"],
            block_sizes=[third] * 3,
            vocab_size=30522,
        )
        classes = family.stock_config_class, family.config_class
        for tokens, batch in lengths.items():
            others = {f"Funnel, {3 * third} layers": funnel}
            found.append(_group(name, batch, tokens, classes, sizes, fewer, halvings, others))
    for name, batch, halvings in (("ViT-B/16", 8, [(4,), (3, 7)]), ("DINOv2-small", 16, [(4,)])):
        family, sizes = named(name)
        found.append(_group(name, batch, None, (family.stock_config_class, family.config_class), sizes, 6, halvings))
    return found


def build_strided(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    """[`build`], with [`Merging`] in the place of the pools of a model whose name says so."""
    model = build(config)
    if name.startswith(MERGING):
        replace_pools(model, Merging)
    return model


def run(
    output: Path,
    rounds: int,
    threads: int,
    seconds: float = math.inf,
    compared: Sequence[Group] | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measures every group, prints what is found and writes it to a CSV file and, beside it, a picture.

    Raises:
        OSError: the files cannot be written.
    """
    rows: list[dict[str, Any]] = []
    register()
    for group in groups() if compared is None else compared:
        if device != "cpu":
            group = replace(group, batch=max(1, ACCELERATOR_TOKENS // (group.tokens or PATCHES)))
        inputs = group.inputs(device)
        with torch.device(device):
            models = {
                name: (build_strided(name, config).to(dtype_on(device)), inputs)
                for name, config in group.configs.items()
            }
        sizes = {"group": group.name, "tokens": group.tokens or "", "batch": group.batch}
        rows += show(group.name, measure_side_by_side(models, sizes, rounds, seconds, device), threads, device)
    write_csv(output, COLUMNS, ([row[column] for column in COLUMNS] for row in rows))
    draw_speed(rows, output.with_suffix(".png"))
    return rows


def draw_speed(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Throughput, forward and in training, in multiples of the stock model's, a bar a model; a mark shows what the
    multiplications promise."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["group"] for row in rows))
    figure = Figure(figsize=(11, 2.6 * math.ceil(len(names) / 2)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(math.ceil(len(names) / 2), 2, squeeze=False).flat
    for group, axes in zip(names, panels):
        own = [row for row in rows if row["group"] == group]
        models = list(dict.fromkeys(row["model"] for row in own))
        stock = own[0]["gflops"]
        for step, (shift, color) in {"forward": (-0.2, "tab:blue"), "training": (0.2, "tab:orange")}.items():
            speed = {row["model"]: 1 / row["ratio"] for row in own if row["pass"] == step}
            places = [index + shift for index, model in enumerate(models) if model in speed]
            axes.barh(places, list(speed.values()), height=0.38, color=color, label=step)
        if stock:
            gflops = {row["model"]: row["gflops"] for row in own}
            promised = [stock / gflops[model] for model in models]
            axes.plot(promised, range(len(models)), "k|", markersize=14, label="by multiplications")
        axes.set_yticks(range(len(models)), models, fontsize="x-small")
        axes.invert_yaxis()
        axes.set_title(group, fontsize="medium")
        axes.grid(axis="x", alpha=0.3)
    for axes in panels:
        axes.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, fontsize="x-small")
    figure.supxlabel("throughput, to stock", fontsize="medium")
    figure.savefig(path, dpi=120)
