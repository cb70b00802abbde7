# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Whole models side by side: stock, stock with fewer layers, CP, and what a user would pick instead from transformers.

All are new models of the same dimensions, fed with the same random inputs; what they compute is worth nothing here.
The command keeps freed memory with the process, see [`~cp_transformers.benchmark.timing.keep_freed_memory`].
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    FunnelBaseModel,
    FunnelConfig,
    LongformerConfig,
    PoolFormerConfig,
    PreTrainedConfig,
    PreTrainedModel,
    SwinConfig,
)

from ..families import FAMILIES, Family, register
from ..files import rounded, write_csv
from .pooling import ONE_HEAD
from .timing import (
    ACCELERATOR_TOKENS,
    PeakMemory,
    dtype_on,
    environment,
    interleaved,
    ratio_to,
    those_that_fit,
)


# The pooling of the suite's CP models: the default, which all have, and the paper's form.
POOLS: dict[str, dict[str, Any]] = {
    "": {},
    ", one head": ONE_HEAD,
}
PATCHES = 197  # the tokens of an image of 224 x 224 pixels, in patches of 16
COLUMNS = """
group model layers tokens batch pass ratio lower_quartile upper_quartile items_per_second peak_memory_mb parameters
gflops rounds threads torch machine
""".split()


@dataclass(frozen=True)
class Group:
    """Models that are compared with the first of them.

    Attributes:
        tokens: of a text; None for images of 224 x 224 pixels.
        configs: from the name of a model to its configuration.
    """

    name: str
    batch: int
    tokens: int | None
    configs: Mapping[str, PreTrainedConfig]

    def inputs(self, device: str = "cpu") -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        if self.tokens is None:
            size = getattr(next(iter(self.configs.values())), "image_size", 224)
            pixels = torch.rand(self.batch, 3, size, size, generator=generator)
            return {"pixel_values": pixels.to(device, dtype_on(device))}
        input_ids = torch.randint(1, 1000, (self.batch, self.tokens), generator=generator).to(device)
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def by_layers(
    name: str, layers: Sequence[int], stock: Callable[..., PreTrainedConfig], cp: Callable[..., PreTrainedConfig]
) -> dict[str, PreTrainedConfig]:
    """The stock and CP configurations with these numbers of layers, and with all pools at the second number."""
    configs = {f"{name}, {number} layers": stock(num_hidden_layers=number) for number in layers}
    for number in layers:
        for pool, options in POOLS.items():
            if not pool or number == layers[1]:
                configs[f"CP-{name}, {number} layers{pool}"] = cp(num_hidden_layers=number, **options)
    return configs


def named(name: str) -> tuple[Family, dict[str, Any]]:
    """The family of a model of the table of families, and its sizes."""
    family = next(each for each in FAMILIES.values() if name in each.sizes)
    return family, {field: value for field, value in family.sizes[name].items() if field != "tokens"}


def by_layers_of(name: str, layers: Sequence[int]) -> dict[str, PreTrainedConfig]:
    """[`by_layers`] of a model of the table of families."""
    family, sizes = named(name)
    sizes.pop("num_hidden_layers")
    classes: list[Any] = [family.stock_config_class, family.config_class]
    return by_layers(name, layers, *(partial(each, **sizes) for each in classes))


def _text(name: str, batch: int, tokens: int, layers: Sequence[int]) -> Group:
    configs = by_layers_of(name, layers)
    sizes = named(name)[1]
    hidden_size = sizes["hidden_size"]
    third = layers[0] // 3
    configs[f"Funnel, {3 * third} layers"] = FunnelConfig(
        d_model=hidden_size,
        n_head=12,
        d_head=hidden_size // 12,
        d_inner=4 * hidden_size,
        block_sizes=[third] * 3,
        vocab_size=30522,
    )
    # Its positions are counted from 2, and lengths are padded to whole windows.
    configs[f"Longformer, {layers[0]} layers"] = LongformerConfig(
        attention_window=min(256, tokens),
        max_position_embeddings=tokens + 2,
        vocab_size=30522,
        **sizes,
    )
    return Group(f"{name}, {tokens} tokens", batch, tokens, configs)


def _images(name: str, batch: int, others: Mapping[str, PreTrainedConfig]) -> Group:
    return Group(f"{name} at 224", batch, None, {**by_layers_of(name, (12, 8, 4)), **others})


def groups() -> list[Group]:
    """The comparisons of the suite."""
    convnet = named("ResNet-50")[0]
    swin_base = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
    poolformer_m48 = {"depths": [8, 8, 24, 8], "hidden_sizes": [96, 192, 384, 768]}
    return [
        _text("BERT-base", 2, 128, (12, 8, 4)),
        _text("BERT-base", 1, 512, (12, 8, 4)),
        _text("MiniLM", 8, 128, (6, 4, 2)),
        _images(
            "ViT-B/16",
            1,
            {"Swin-B": SwinConfig(**swin_base), "PoolFormer-M48": PoolFormerConfig(**poolformer_m48)},
        ),
        _images("ViT-S/16", 4, {"Swin-T": SwinConfig(), "PoolFormer-S24": PoolFormerConfig(depths=[4, 4, 12, 4])}),
        Group(
            "ResNet-50 at 224",
            2,
            None,
            {"ResNet-50": convnet.stock_config_class(), "CP-ResNet-50": convnet.config_class()},
        ),
    ]


def num_layers(config: PreTrainedConfig) -> int:
    """The number of blocks, however a configuration counts them."""
    for name in ("depths", "block_sizes"):
        if hasattr(config, name):
            return sum(getattr(config, name))
    return config.num_hidden_layers


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """A new bare model. Funnel's is the one without a decoder, which classifies."""
    torch.manual_seed(0)
    return FunnelBaseModel(config) if isinstance(config, FunnelConfig) else AutoModel.from_config(config)


def measure_models(group: Group, rounds: int, seconds: float = math.inf, device: str = "cpu") -> list[dict[str, Any]]:
    """The time of a forward pass, and of a forward and a backward pass, of each model of a group as a fraction of the
    first's; what each has of parameters; the memory beyond them that it takes at most; and on a CPU its floating-point
    operations for one item, counted under eager attention."""
    register()
    inputs = group.inputs(device)
    with torch.device(device):
        models = {name: (build(config).to(dtype_on(device)), inputs) for name, config in group.configs.items()}
    sizes = {"group": group.name, "tokens": group.tokens or "", "batch": group.batch}
    return measure_side_by_side(models, sizes, rounds, seconds, device)


def measure_side_by_side(
    models: Mapping[str, tuple[PreTrainedModel, Mapping[str, torch.Tensor]]],
    sizes: Mapping[str, Any],
    rounds: int,
    seconds: float = math.inf,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measures models, each with inputs of its own, as [`measure_models`] does. All have the columns `sizes` alike."""
    rows, batch = [], sizes["batch"]
    stock = next(iter(models))
    counted = device == "cpu"
    gflops = {name: _gflops(*each) / batch if counted else "" for name, each in models.items()}

    def forward(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            model(**inputs)

    def training(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> None:
        model.zero_grad()
        model(**inputs)[0].square().mean().backward()

    for step in (forward, training):
        for model, _ in models.values():
            model.train(step is training)
        calls: dict[str, Callable[[], Any]] = {name: partial(step, *each) for name, each in models.items()}
        if not counted:
            calls = those_that_fit(calls)
            if stock not in calls:
                break
        measured = interleaved(calls, rounds, warm_up=1, seconds=seconds)
        for name in calls:
            model, inputs = models[name]
            model.zero_grad()
            with PeakMemory([*model.parameters(), *inputs.values()]) as memory:
                calls[name]()
            rows.append(
                {
                    **sizes,
                    "model": name,
                    "layers": num_layers(model.config),
                    "pass": step.__name__,
                    **ratio_to(measured[name], measured[stock]),
                    "items_per_second": batch / statistics.median(measured[name]),
                    "peak_memory_mb": memory.peak / 2**20,
                    "parameters": model.num_parameters(),
                    "gflops": gflops[name],
                    "rounds": len(measured[name]),
                }
            )
    return rows


@torch.no_grad()
def _gflops(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> float:
    attention = model.config._attn_implementation
    model.eval().set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    model.set_attn_implementation(attention)
    return counter.get_total_flops() / 1e9


def run(
    output: Path,
    rounds: int,
    threads: int,
    seconds: float = math.inf,
    compared: Sequence[Group] | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measures every group, prints what is found and writes it to a CSV file and, beside it, a picture of throughput
    against layers.

    Raises:
        OSError: the files cannot be written.
    """
    rows: list[dict[str, Any]] = []
    for group in groups() if compared is None else compared:
        if device != "cpu":
            group = replace(group, batch=max(1, ACCELERATOR_TOKENS // (group.tokens or PATCHES)))
        rows += show(group.name, measure_models(group, rounds, seconds, device), threads, device)
    write_csv(output, COLUMNS, ([row[column] for column in COLUMNS] for row in rows))
    draw_throughput(rows, output.with_suffix(".png"))
    return rows


def show(title: str, measured: Sequence[dict[str, Any]], threads: int, device: str) -> list[dict[str, Any]]:
    """Prints what was measured of one group, and returns it as rows of the file."""
    print(f"\n{title:<34}{'pass':<10}{'time':>6}  {'quartiles':<14}{'throughput':>11}{'memory':>9}{'GFLOPs':>8}")
    rows = [{name: rounded(value) for name, value in each.items()} | environment(threads, device) for each in measured]
    for row in rows:
        print(
            f"{row['model']:<34}{row['pass']:<10}{row['ratio']:>6.3f}  {row['lower_quartile']:.3f} to "
            f"{row['upper_quartile']:.3f}{1 / row['ratio']:>10.2f}x{row['peak_memory_mb']:>6.0f} MB"
            f"{row['gflops'] or math.nan:>8.1f}",
            flush=True,
        )
    return rows


def draw_throughput(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Throughput of a forward pass, in multiples of the stock model's, against the number of layers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers_of = {
        group: {row["layers"] for row in rows if row["group"] == group} for group in (r["group"] for r in rows)
    }
    names = [group for group, layers in layers_of.items() if len(layers) > 1]
    figure = Figure(figsize=(9, 2.9 * math.ceil(len(names) / 3)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(math.ceil(len(names) / 3), min(3, len(names)), squeeze=False).flat
    for group, axes in zip(names, panels):
        own = [row for row in rows if (row["group"], row["pass"]) == (group, "forward")]
        stock = own[0]["model"].split(",")[0]
        series = {stock: ("o-", "tab:blue"), f"CP-{stock}": ("o-", "tab:orange")}
        for row in own:
            series.setdefault(row["model"].split(",")[0], ("x", ("black", "grey")[len(series) % 2]))
        for name, (style, color) in series.items():
            points = [row for row in own if row["model"].split(",")[0] == name and "one head" not in row["model"]]
            layers, throughput = [row["layers"] for row in points], [1 / row["ratio"] for row in points]
            axes.plot(layers, throughput, style, color=color, label=name)
        axes.set_title(group, fontsize="medium")
        axes.set_xlabel("layers")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    for axes in panels:
        axes.set_axis_off()
    figure.axes[0].set_ylabel("throughput, forward, to stock")
    figure.savefig(path, dpi=150)
