# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The demo on real weights and real images: a pretrained ViT at about half the cost, three ways.

Takes the weights of DINOv2-small. Leaves out half of its layers, or keeps one of 2 x 2 patches from its fifth layer
on, by their mean or by ContextPool; lets each learn the full model's class token and patches on crops of photographs
for the same number of steps; and shows what each costs, and how far it is from the full model on other photographs.
"""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from transformers import AutoModel, PreTrainedModel

from ..checkpoints.conversion import convert_checkpoint
from ..checkpoints.processors import copy_processor
from ..inspection import inspect_pools
from .comparison import (
    QUICK,
    aligned,
    beside_recorded,
    check_positive,
    draw_against_cost,
    faster_models,
    learn,
    milliseconds,
    paired_difference,
    write_results,
)
from .dinov2_small import MEAN, STD, onnx_file, save_stock
from .photographs import load_photographs


FULL, CUT, MEANS, POOL = "all layers and patches", "6 of the layers", "means of 2 x 2", "ContextPool of 2 x 2"
KEPT_LAYERS = [0, 2, 4, 6, 8, 11]
HALVED_BEFORE = 4
PATCH, CROP = 14, 140  # pixels: crops are 10 x 10 patches
BATCH, TRAIN_CROPS, TEST_CROPS = 8, 960, 140
SHOWN = 1  # of the photographs that are not trained on, the one in the picture
# What results/demo_image.json holds, which no package brings.
RECORDED: dict[str, Any] = {
    "settings": {"seed": 0, "steps": 200, "learning_rate": 1e-05, "pool_learning_rate": 0.003},
    "error": {
        "all layers and patches": 3.3208302089146206e-08,
        "6 of the layers": 0.7136512377432415,
        "means of 2 x 2": 0.26495473427431926,
        "ContextPool of 2 x 2": 0.22627054282597134,
    },
    "torch": "2.14.1+cu130",
}
FILES = (
    "results.json, error.png, pooled.png, and the checkpoints dinov2-small (stock), cp-dinov2-small-halved "
    "(converted) and cp-dinov2-small-distilled (trained)"
)


def normalized(image: PIL.Image.Image) -> torch.Tensor:
    """`(3, height, width)`, of the colours that DINOv2 was trained on."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def crops(images: Sequence[PIL.Image.Image], number: int, seed: int) -> torch.Tensor:
    """`(number, 3, CROP, CROP)`: squares of random sizes, from 200 pixels a side on, as many of each photograph."""
    generator, cut = random.Random(seed), []
    for index in range(number):
        image = images[index % len(images)]
        side = generator.randrange(200, min(image.size) + 1)
        left, top = (generator.randrange(length - side + 1) for length in image.size)
        square = image.crop((left, top, left + side, top + side))
        cut.append(normalized(square.resize((CROP, CROP), PIL.Image.Resampling.BICUBIC)))
    return torch.stack(cut)


def draw_batches(number: int, steps: int, seed: int) -> torch.Tensor:
    """`(steps, BATCH)`, which of `number` crops each step learns from: all of them, in another order each time."""
    generator = torch.Generator().manual_seed(seed)
    passes = -(-steps * BATCH // number)
    order = torch.cat([torch.randperm(number, generator=generator) for _ in range(passes)])
    return order[: steps * BATCH].unflatten(0, (steps, BATCH))


def squares(hidden_states: torch.Tensor) -> torch.Tensor:
    """The means of the patches' states in squares of 2 x 2, `(batch, channels, squares)`."""
    side = CROP // PATCH
    return F.avg_pool2d(hidden_states[:, 1:].transpose(1, 2).unflatten(2, (side, side)), 2).flatten(2)


def differences(states: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """1 - cosine of last hidden states to the full model's, `target`, for each image: of the class token, of the means
    of 2 x 2 patches, and of the patches one by one."""
    similar = {
        "class_token": F.cosine_similarity(states[:, 0], target[:, 0], dim=-1),
        "squares": F.cosine_similarity(squares(states), squares(target), dim=1).mean(dim=-1),
        "patches": F.cosine_similarity(states[:, 1:], target[:, 1:], dim=-1).mean(dim=-1),
    }
    return {name: 1 - each for name, each in similar.items()}


@torch.no_grad()
def last_hidden_states(model: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """`(batch, tokens, channels)`, computed in parts."""
    return torch.cat([model(part).last_hidden_state for part in pixel_values.split(16)])


def run(
    output: str | os.PathLike,
    *,
    seed: int = 0,
    steps: int = 200,
    learning_rate: float = 1e-5,
    pool_learning_rate: float = 3e-3,
    quick: bool = False,
) -> dict[str, Any]:
    """Runs the demo and writes `results.json`, `error.png`, `pooled.png` and three checkpoints to `output`.

    Args:
        output: a folder; what an earlier run left there is replaced.
        seed: of the pooling, the crops that are trained on and their order.
        steps: of training, for each model, on batches of 8 crops.
        learning_rate: of the pretrained weights.
        pool_learning_rate: of the pooling.
        quick: a run of under a minute on a handful of crops that only shows that everything works.

    Returns:
        What is written to `results.json`.

    Raises:
        ImportError: the `demo` extra is not installed.
        OSError: the weights or photographs cannot be fetched, or `output` cannot be written.
        ValueError: an argument is out of its range.
    """
    import matplotlib  # noqa: F401  (before any work, so that a missing extra is found now)
    import onnx  # noqa: F401

    rates = {"learning_rate": learning_rate, "pool_learning_rate": pool_learning_rate}
    check_positive({"steps": steps, **rates})
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    train_crops, test_crops = TRAIN_CROPS, TEST_CROPS
    if quick:
        steps, train_crops, test_crops = min(steps, 2), 16, 14

    print("Reading the photographs and DINOv2-small's weights ...", flush=True)
    photographs = load_photographs()
    train, test = crops(photographs["train"], train_crops, seed), crops(photographs["test"], test_crops, 0)
    stock, converted = output / "dinov2-small", output / "cp-dinov2-small-halved"
    save_stock(onnx_file(), stock)

    print("Converting ...", flush=True)
    record = convert_checkpoint(stock, converted, halve_before=[HALVED_BEFORE], overwrite=True)
    difference = record["parity"]["max_abs_difference"]
    print(f"  largest difference of any output from the source's, with all patches, in float32: {difference}")

    full = AutoModel.from_pretrained(stock).eval()
    print(f"Encoding {train_crops} crops with all layers and patches ...", flush=True)
    targets, test_targets = (last_hidden_states(full, each) for each in (train, test))
    batches = draw_batches(train_crops, steps, seed)

    def loss(model: Any, step: int) -> torch.Tensor:
        indices = batches[step]
        found = differences(model(train[indices]).last_hidden_state, targets[indices])
        return found["class_token"].mean() + found["squares"].mean()

    models: dict[str, PreTrainedModel] = {FULL: full}
    seconds = {FULL: 0.0}
    ways = faster_models(full, KEPT_LAYERS, HALVED_BEFORE, seed)
    for name, make in zip((CUT, MEANS, POOL), ways):
        print(f"Training: {name} ...", flush=True)
        models[name] = make()
        seconds[name] = learn(name, models[name], loss, steps=steps, **rates)

    print("Measuring ...", flush=True)
    times = milliseconds(models, {"pixel_values": test[:BATCH]}, rounds=3 if quick else 20)
    arms: list[dict[str, Any]] = []
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, model in models.items():
        each_kind = differences(last_hidden_states(model, test), test_targets)
        found[name] = {kind: each.clamp(min=0).double().numpy() for kind, each in each_kind.items()}
        error = found[name]["class_token"] + found[name]["squares"]
        arms.append(
            {
                "model": name,
                "parameters": model.num_parameters(),
                "milliseconds_a_batch": times[name],
                "time_to_full": times[name] / times[FULL],
                **{part: float(each.mean()) for part, each in found[name].items()},
                "error": float(error.mean()),
                "error_standard_error": float(error.std(ddof=1) / len(error) ** 0.5),
                "training_seconds": seconds[name],
            }
        )

    trained = output / "cp-dinov2-small-distilled"
    models[POOL].save_pretrained(trained)
    copy_processor(stock, trained)
    results = {
        "quick": quick,
        "parity": difference,
        "arms": arms,
        "gains_over_means": {
            part: paired_difference(found[MEANS][part], found[POOL][part])
            for part in ("class_token", "squares", "patches")
        },
        "batch": [BATCH, 3, CROP, CROP],
        "threads": torch.get_num_threads(),
        "settings": {
            "seed": seed,
            "steps": steps,
            "photographs": {name: len(part) for name, part in photographs.items()},
            "crops": {"train": train_crops, "test": test_crops},
            **rates,
        },
    }
    draw_against_cost(
        results,
        output / "error.png",
        title=f"DINOv2-small, {steps} steps of distillation",
        label="1 - cosine to the full model, class token + patches",
        cost_label=f"a batch of {BATCH}",
        metric="error",
        scale=1,
    )
    draw_pooled(AutoModel.from_pretrained(trained).eval(), photographs["test"][SHOWN], output / "pooled.png", quick)
    write_results(results, output)
    return results


def report(results: dict[str, Any]) -> str:
    """The results as text: the table, and what was measured."""
    settings, full = results["settings"], results["arms"][0]["milliseconds_a_batch"]
    header = ["model", "parameters", "ms/batch", "speed", "class token", "2 x 2 patches", "each patch"]
    rows = [
        [
            row["model"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['milliseconds_a_batch']:.1f}",
            f"{full / row['milliseconds_a_batch']:.2f}x",
            *(f"{row[part]:.3f}" for part in ("class_token", "squares", "patches")),
        ]
        for row in results["arms"]
    ]
    photographs, number = settings["photographs"], settings["crops"]
    gains = [f"{gain:.3f} ± {error:.3f}" for gain, error in results["gains_over_means"].values()]
    lines = [
        *aligned(header, rows),
        "",
        f"1 - cosine to the full model: of the class token, of the means of 2 x 2 patches, and of each patch, on "
        f"{number['test']} crops of",
        f"{photographs['test']} photographs that were not trained on. ContextPool is nearer than the means by",
        f"{gains[0]}, {gains[1]} and {gains[2]} (paired over the crops; ± is one standard error).",
        f"One seed; each learned class token and 2 x 2 patches for {settings['steps']} steps of {BATCH} of "
        f"{number['train']} crops of {photographs['train']} photographs.",
        f"Times: median forward pass, {BATCH} crops of {CROP} x {CROP} pixels, threads: {results['threads']}.",
    ]
    if results["quick"]:
        lines += ["", *QUICK]
    return "\n".join([*lines, *beside_recorded(results, RECORDED, "error", "{:.4f}")])


def draw_pooled(model: PreTrainedModel, image: PIL.Image.Image, path: Path, quick: bool) -> None:
    """A photograph, the squares of 2 x 2 patches, and the weights with which some of the tokens that are kept have
    pooled the patches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    square = image.crop((left, top, left + side, top + side)).resize((CROP, CROP), PIL.Image.Resampling.BICUBIC)
    patches = CROP // PATCH
    groups = patches // 2
    inspection = inspect_pools(model, {"pixel_values": normalized(square)[None]})
    pool = next(pool for pool in inspection.pools if pool.stride > 1)
    # Those that are furthest from the mean of their own four patches, in the order of the picture.
    apart = pool.apart()
    shown = np.sort(np.argsort(-apart, kind="stable")[:8])

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 5)
    extent = (0, patches, patches, 0)
    for axis in axes.flat:
        axis.imshow(np.asarray(square), extent=extent)
        axis.set(xticks=[], yticks=[])
    axes[1, 0].imshow(apart.reshape(groups, groups), extent=extent, alpha=0.7, cmap="magma")
    axes[0, 0].set_title("photograph", fontsize="small")
    axes[1, 0].set_title("weight outside of the mean\nof the token's own patches", fontsize="small")
    for axis, index in zip(axes[:, 1:].flat, shown):
        weights = pool.row(index).reshape(patches, patches)
        heat = axis.imshow(weights, extent=extent, alpha=0.75, cmap="viridis", vmin=0, vmax=0.5)
        corner = (2 * (index % groups), 2 * (index // groups))
        axis.add_patch(Rectangle(corner, 2, 2, fill=False, color="white"))
    figure.colorbar(heat, ax=axes, shrink=0.8, label="weight of a patch, mean of the heads")
    title = "What tokens that were kept have pooled (white: the four patches that each stands for)"
    figure.suptitle(title + (" (quick run: no evidence)" if quick else ""))
    figure.savefig(path, dpi=110)
