# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The demo on handwritten digits: train small models from scratch on few handwritten digits, compare, convert.

Trains ViT with one, two and four layers, CP-ViT with one and two, ResNet and CP-ResNet under one seed and one budget,
and shows what each costs and reaches, and how far the pools reach. Then converts the stock models that it has trained.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
    ViTImageProcessorPil,
    pipeline,
    set_seed,
)

from ..checkpoints.conversion import convert_checkpoint
from ..training.digits import LABELS, load_digits
from .comparison import (
    QUICK,
    arm,
    beside_recorded,
    check_positive,
    draw_against_cost,
    make_trainer,
    milliseconds,
    paired_difference,
    table,
    write_results,
)


LABEL_NAMES = {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}
VIT: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 28,
    "patch_size": 4,
    **LABEL_NAMES,
}
# The grid is of 7 x 7 patches: a tenth of it would reach no neighbour.
VIT_POOL: dict[str, Any] = {"pool_range": 0.3}
RESNET: dict[str, Any] = {
    "embedding_size": 32,
    "hidden_sizes": [32, 64],
    "depths": [1, 1],
    "layer_type": "basic",
    **LABEL_NAMES,
}
FIELDS = {"ViT": VIT, "CP-ViT": {**VIT, **VIT_POOL}, "ResNet": RESNET, "CP-ResNet": RESNET}
# model -> its layers, and the model whose time its own is compared with
MODELS: dict[str, tuple[int, str]] = {
    "ViT, 4 layers": (4, "ViT, 4 layers"),
    "ViT, 2 layers": (2, "ViT, 4 layers"),
    "ViT, 1 layer": (1, "ViT, 4 layers"),
    "CP-ViT, 2 layers": (2, "ViT, 4 layers"),
    "CP-ViT, 1 layer": (1, "ViT, 4 layers"),
    "ResNet": (2, "ResNet"),
    "CP-ResNet": (2, "ResNet"),
}
# What is said of pairs of them: the model, and its control.
PAIRS = [
    ("CP-ViT, 2 layers", "ViT, 4 layers"),
    ("CP-ViT, 2 layers", "ViT, 2 layers"),
    ("CP-ViT, 1 layer", "ViT, 2 layers"),
    ("CP-ViT, 1 layer", "ViT, 1 layer"),
    ("CP-ResNet", "ResNet"),
]
# What results/demo_digits.json holds, which no package brings.
RECORDED: dict[str, Any] = {
    "settings": {"seed": 0, "train_samples": 600, "epochs": 60.0, "learning_rate": 1e-3, "pool_learning_rate": None},
    "accuracy": {
        "ViT, 4 layers": 0.8025,
        "ViT, 2 layers": 0.8045,
        "ViT, 1 layer": 0.795,
        "CP-ViT, 2 layers": 0.864,
        "CP-ViT, 1 layer": 0.8515,
        "ResNet": 0.9465,
        "CP-ResNet": 0.968,
    },
    "torch": "2.14.1+cu130",
}
FILES = (
    "results.json, accuracy.png, support_sizes.png, and the checkpoints vit-l4-digits, resnet-digits (stock), "
    "cp-vit-l4-digits, cp-resnet-digits (those, converted), cp-vit-l2-digits and cp-resnet-scratch-digits (trained)"
)


def make_model(name: str, seed: int) -> PreTrainedModel:
    """A new model of [`MODELS`]."""
    set_seed(seed)
    architecture = name.split(",")[0]
    fields = FIELDS[architecture]
    if fields is not RESNET:
        fields = {**fields, "num_hidden_layers": MODELS[name][0]}
    config = AutoConfig.for_model(architecture.lower().replace("-", "_"), **fields)
    return AutoModelForImageClassification.from_config(config)


def make_processor() -> ViTImageProcessorPil:
    """For images of any size and mode, as pipelines hand them over."""
    return ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def encode(data: Dataset, processor: ViTImageProcessorPil) -> list[dict[str, Any]]:
    """Digits as a data set of tensors, small enough to be held in memory."""
    images = [image.convert("RGB") for image in data["image"]]
    pixel_values = processor(images, return_tensors="pt")["pixel_values"]
    return [{"pixel_values": pixels, "labels": label} for pixels, label in zip(pixel_values, data["label"])]


def run(
    output: str | os.PathLike,
    *,
    seed: int = 0,
    train_samples: int = 600,
    epochs: float = 60.0,
    learning_rate: float = 1e-3,
    pool_learning_rate: float | None = None,
    quick: bool = False,
) -> dict[str, Any]:
    """Runs the demo and writes `results.json`, `accuracy.png`, `support_sizes.png` and six checkpoints to `output`.

    Args:
        output: a folder; what an earlier run left there is replaced.
        seed: of the models and the order of the data.
        train_samples: training images, at most the whole training split.
        epochs: passes over them.
        learning_rate: of all models.
        pool_learning_rate: of the pooling modules; None for the same.
        quick: a run of under a minute on few images that only shows that everything works.

    Returns:
        What is written to `results.json`.

    Raises:
        ImportError: the `demo` extra is not installed.
        OSError: `output` cannot be written.
        ValueError: an argument is out of its range.
    """
    import matplotlib  # noqa: F401  (before any work, so that a missing extra is found now)

    check_positive(
        {
            "train_samples": train_samples,
            "epochs": epochs,
            "learning_rate": learning_rate,
            "pool_learning_rate": pool_learning_rate,
        }
    )
    if quick:
        train_samples, epochs = min(train_samples, 128), min(epochs, 2.0)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)

    print("Reading the digits ...", flush=True)
    digits, processor = load_digits(), make_processor()
    digits["train"] = digits["train"].select(range(min(train_samples, len(digits["train"]))))
    if quick:
        digits["test"] = digits["test"].select(range(256))
    train, test = encode(digits["train"], processor), encode(digits["test"], processor)

    models: dict[str, PreTrainedModel] = {}
    correct: dict[str, np.ndarray] = {}
    arms: list[dict[str, Any]] = []
    for name, (layers, _) in MODELS.items():
        print(f"Training {name} on {len(train)} digits ...", flush=True)
        models[name] = make_model(name, seed)
        set_seed(seed)
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(
                models[name],
                train,
                processor,
                folder,
                epochs=epochs,
                seed=seed,
                learning_rate=learning_rate,
                pool_learning_rate=pool_learning_rate,
                weight_decay=0.05,
            )
            trainer.train()
            prediction = trainer.predict(test)
        correct[name] = np.argmax(prediction.predictions, axis=-1) == prediction.label_ids
        arms.append(arm(name, models[name], correct[name], layers=layers))

    print("Measuring ...", flush=True)
    batch = {"pixel_values": torch.stack([example["pixel_values"] for example in test[:32]])}
    batch = {key: value.to(models["ResNet"].device) for key, value in batch.items()}
    times = milliseconds({name: model.eval() for name, model in models.items()}, batch, rounds=5 if quick else 50)
    for row in arms:
        row["milliseconds_a_batch"] = times[row["model"]]
        row["time_to_stock"] = times[row["model"]] / times[MODELS[row["model"]][1]]

    print("Converting the stock models ...", flush=True)
    conversions = {
        "ViT, 4 layers": convert_trained(models["ViT, 4 layers"], processor, output, "vit-l4-digits", **VIT_POOL),
        "ResNet": convert_trained(models["ResNet"], processor, output, "resnet-digits", pool_global=True),
    }
    for name, folder in (("CP-ViT, 2 layers", "cp-vit-l2-digits"), ("CP-ResNet", "cp-resnet-scratch-digits")):
        save(models[name], processor, output / folder)

    image = digits["test"][0]["image"].convert("RGB")
    folders = ("vit-l4-digits", "cp-vit-l4-digits", "resnet-digits", "cp-resnet-digits")
    results = {
        "quick": quick,
        "parity": conversions,
        "arms": arms,
        "gains": [
            {"model": name, "control": control, "gain": gain, "standard_error": error}
            for name, control in PAIRS
            for gain, error in [paired_difference(correct[name], correct[control])]
        ],
        "batch": list(batch["pixel_values"].shape),
        "threads": torch.get_num_threads(),
        "pipelines": {folder: pipeline("image-classification", str(output / folder))(image)[0] for folder in folders},
        "label_of_the_first": LABELS[digits["test"][0]["label"]],
        "settings": {
            "seed": seed,
            "train_samples": len(train),
            "test_samples": len(test),
            "epochs": epochs,
            "learning_rate": learning_rate,
            "pool_learning_rate": pool_learning_rate,
            "vit_pool": VIT_POOL,
        },
    }
    draw_against_cost(
        results,
        output / "accuracy.png",
        title=f"{len(train)} digits, from scratch",
        label="accuracy on held-out digits, %",
        cost_label=f"a batch of {len(batch['pixel_values'])}",
    )
    firsts = [digits["test"]["label"].index(digit) for digit in (0, 1, 2, 4, 7, 8)]
    draw_support_sizes(models, test, firsts, output / "support_sizes.png", quick)
    write_results(results, output)
    return results


def save(model: PreTrainedModel, processor: ViTImageProcessorPil, folder: Path) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def convert_trained(
    model: PreTrainedModel, processor: ViTImageProcessorPil, output: Path, name: str, **pool_config: Any
) -> float:
    """Saves a trained stock model as `name`, converts that to `cp-{name}`, and returns the largest difference of the
    logits that the two folders give on two seeded images."""
    save(model, processor, output / name)
    convert_checkpoint(output / name, output / f"cp-{name}", overwrite=True, **pool_config)
    image = {"pixel_values": torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))}
    source, converted = (
        AutoModelForImageClassification.from_pretrained(output / folder).eval() for folder in (name, f"cp-{name}")
    )
    with torch.no_grad():
        return (source(**image).logits - converted(**image).logits).abs().max().item()


def report(results: dict[str, Any]) -> str:
    """The results as text: the table, the differences that matter, and the conversions."""
    settings = results["settings"]
    lines = [*table(results["arms"]), ""]
    for pair in results["gains"]:
        lines.append(
            f"{pair['model']} against {pair['control']}: {100 * pair['gain']:+.2f} ± "
            f"{100 * pair['standard_error']:.2f} points of accuracy"
        )
    lines += [
        f"(paired, {settings['test_samples']} test images; ± is one standard error)",
        f"One seed, {settings['train_samples']} training images, epochs: {settings['epochs']:g}; times: median "
        f"forward pass, {results['batch'][0]} images,",
        f"threads: {results['threads']}, relative to ViT with 4 layers or to ResNet.",
        "",
    ]
    if results["quick"]:
        lines += QUICK
    for name, difference in results["parity"].items():
        lines.append(f"{name}, converted: largest difference of a logit from the source's: {difference}")
    lines.append(f"Pipelines on a test image of a {results['label_of_the_first']}:")
    for folder, prediction in results["pipelines"].items():
        lines.append(f"  {folder:<18} {prediction['label']} ({prediction['score']:.4f})")
    return "\n".join([*lines, *beside_recorded(results, RECORDED)])


@torch.no_grad()
def draw_support_sizes(
    models: dict[str, PreTrainedModel], examples: list[dict[str, Any]], indices: list[int], path: Path, quick: bool
) -> None:
    """For some of `examples`, the image and the predicted sigma over it, averaged over the heads, of each pool."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pixel_values = torch.stack([examples[index]["pixel_values"] for index in indices])
    rows: list[tuple[str, np.ndarray]] = []
    # In pixels: a patch is four of them, a position of the map that the stem pools two.
    for name, pixels in (("CP-ViT, 2 layers", 4), ("CP-ResNet", 2)):
        model = models[name].eval()
        sizes = model(pixel_values.to(model.device), output_support_sizes=True).support_sizes
        for number, layer in enumerate(sizes, start=1):
            label = f"{name.split(',')[0]},\n" + (f"layer {number}" if len(sizes) > 1 else "stem")
            rows.append((label, pixels * layer.mean(dim=1).cpu().numpy()))

    figure = Figure(figsize=(1.25 * len(indices) + 2.4, 1.3 * (len(rows) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows) + 1, len(indices))
    images, centres = pixel_values[:, 0].numpy(), np.arange(28) + 0.5
    for axis, image in zip(axes[0], images):
        axis.imshow(image, cmap="gray")
    axes[0, 0].set_ylabel("image", rotation=0, ha="right", va="center")
    for row, (label, maps) in zip(axes[1:], rows):
        limits = {"vmin": maps.min(), "vmax": maps.max()}
        for axis, image, sizes in zip(row, images, maps):
            shown = axis.imshow(sizes, cmap="viridis", extent=(0, 28, 28, 0), **limits)
            axis.contour(centres, centres, image, levels=[0.0], colors="white", linewidths=0.8)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
        figure.colorbar(shown, ax=list(row), label="sigma, pixels")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    title = "How far the pools reach: predicted support sizes" + (" (quick run: no evidence)" if quick else "")
    figure.suptitle(title)
    figure.savefig(path, dpi=150, bbox_inches="tight")
