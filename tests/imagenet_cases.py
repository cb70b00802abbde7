# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers imagenet` on small models and folders: what its tests share."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, Features, Image as ImageFeature, Value
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from cp_transformers import CPResNetConfig, CPResNetForImageClassification, CPViTConfig, CPViTForImageClassification
from cp_transformers.cli import main as cli
from cp_transformers.training import image_data, image_evaluation


ROOT = Path(__file__).parents[1]
SIDE = 16
CLASSES = ["ash", "bay_laurel", "cedar", "date palm", "elm", "fir", "gum_tree"]
EACH = 8  # pictures of a class
COLOURS = [(220, 30, 30), (30, 220, 30), (30, 30, 220)]  # of the classes of what can be learned
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VIT |= {"image_size": SIDE, "patch_size": 8}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
QUIET = ["--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
STILL = "--crop_min_scale 1.0 --flip 0 --rand_augment 0 --random_erasing 0 --mixup 0 --cutmix 0".split()
TRAIN = ["--do_train", "--max_steps", "3", "--learning_rate", "1e-3", "--save_strategy", "no"]
NEW = ["--model_config", json.dumps(VIT), "--pool_config", json.dumps({"pool_range": 0.5})]
METRICS = ["top1", "top5", "loss", "images"]


def picture(seed: int, rows: int, columns: int, colour: tuple[int, int, int] | None = None) -> Image.Image:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    if colour is not None:
        pixels = np.clip(np.array(colour) + generator.integers(-20, 21, (4, 4, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BICUBIC)


def write_pictures(folder: Path, classes: list[str] = CLASSES, each: int = EACH, names: str = "{}") -> Path:
    """Pictures of several sizes and modes, `each` in a class; `names` is formatted with their numbers."""
    kinds = [("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("P", "gif")]
    for number in range(len(classes) * each):
        mode, extension = kinds[number % 5]
        path = folder / classes[number // each] / f"{names.format(number)}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, 9 + number % 13, 24 - number % 11).convert(mode).save(path)
    return folder


def write_colours(folder: Path, each: int = 8, seed: int = 0) -> Path:
    for label, colour in enumerate(COLOURS):
        (folder / CLASSES[label]).mkdir(parents=True)
        for number in range(each):
            image = picture(1000 * seed + 100 * label + number, SIDE, SIDE, colour)
            image.save(folder / CLASSES[label] / f"{number}.png")
    return folder


def rename(source: Path, target: Path, names: list[str]) -> Path:
    """Copies the folder, with other names of classes."""
    for old, new in zip(CLASSES, names, strict=True):
        shutil.copytree(source / old, target / new)
    return target


def save_model(folder: Path, kind: str = "vit", labels: list[str] | None = CLASSES, seed: int = 0, **fields) -> Path:
    """A checkpoint with large random weights, so that its predictions differ, and its image processor."""
    classes = {
        "vit": (ViTConfig, ViTForImageClassification),
        "cp_vit": (CPViTConfig, CPViTForImageClassification),
        "resnet": (ResNetConfig, ResNetForImageClassification),
        "cp_resnet": (CPResNetConfig, CPResNetForImageClassification),
    }
    config_class, model_class = classes[kind]
    options = {**VIT, "initializer_range": 0.4} if "vit" in kind else dict(RESNET)
    if labels is not None:
        options |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    torch.manual_seed(seed)
    model = model_class(config_class(**{**options, **fields}))
    if "resnet" in kind:
        torch.nn.init.normal_(model.classifier[1].weight)
    model.save_pretrained(folder)
    size = model.config.image_size if "vit" in kind else SIDE
    if "vit" in kind:
        processor = ViTImageProcessorPil(size={"height": size, "width": size})
    else:
        processor = ConvNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_pct=0.8)
    processor.save_pretrained(folder)
    return folder


def make_material(folder: Path) -> Path:
    """A folder with checkpoints and data: `whole`, `broken` (with two images that cannot be read), and `colours`."""
    write_pictures(folder / "whole")
    write_pictures(folder / "broken")
    content = (folder / "whole" / "ash" / "0.jpg").read_bytes()
    (folder / "broken" / "ash" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "broken" / "elm" / "empty.png").write_bytes(b"")
    write_colours(folder / "colours" / "train")
    write_colours(folder / "colours" / "val", each=4, seed=1)
    save_model(folder / "vit")
    save_model(folder / "cp_resnet", "cp_resnet")
    return folder


def options(output: Path, *more) -> list[str]:
    return [str(each) for each in ("--output_dir", output, *QUIET, *more)]


def results_of(output: Path) -> list[dict]:
    return json.loads((output / "results.json").read_text())["results"]


def imagenet(output: Path, *more) -> list[dict]:
    """Runs the command and returns the rows of its results."""
    assert cli(["imagenet", *options(output, *more)]) == 0
    return results_of(output)


def evaluate(output: Path, model: Path, data: Path, *more) -> dict:
    (row,) = imagenet(output, "--do_eval", "--model_name_or_path", model, "--data_dir", data, *more)
    return row


def train(output: Path, data: Path, *more) -> list[dict]:
    return imagenet(output, "--data_dir", data, *TRAIN, *STILL, *more)


def logits_by_hand(model: Path, files: list[Path]) -> torch.Tensor:
    network, processor = (
        AutoModelForImageClassification.from_pretrained(model),
        AutoImageProcessor.from_pretrained(model),
    )
    with torch.no_grad():
        inputs = [processor(Image.open(file).convert("RGB"), return_tensors="pt") for file in files]
        return torch.cat([network.eval()(**each).logits for each in inputs])


def metrics_by_hand(logits: torch.Tensor, labels: list[int]) -> dict[str, float]:
    first, right = 0, 0
    for row, label in zip(logits.tolist(), labels):
        best = sorted(range(len(row)), key=lambda index: -row[index])[:5]
        first, right = first + (best[0] == label), right + (label in best)
    loss = float(F.cross_entropy(logits, torch.tensor(labels)))
    return {"top1": first / len(labels), "top5": right / len(labels), "loss": loss, "images": len(labels)}


def by_hand(model: Path, data: Path, classes: list[str] = CLASSES) -> dict[str, float]:
    """Metrics of a folder, one image at a time; `classes` are the folders in the order of the model's labels."""
    files = [path for path in data.rglob("*.*") if path.name not in ("cut.jpg", "empty.png")]
    return metrics_by_hand(logits_by_hand(model, files), [classes.index(path.parent.name) for path in files])


def close(metrics: dict[str, float], tolerance: float = 1e-4):
    return pytest.approx({name: metrics[name] for name in METRICS}, abs=tolerance)


def of(row: dict) -> dict[str, float]:
    return {name: row[name] for name in METRICS}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal_weights(first: Path, second: Path, tolerance: float = 0.0) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=tolerance, rtol=tolerance, msg=name)


def read_images(monkeypatch) -> list[str]:
    """The names of the images that evaluations in this process read from now on."""
    names, original = [], image_evaluation.decode

    def decode(image):
        names.append(Path(image["path"]).name)
        return original(image)

    monkeypatch.setattr(image_evaluation, "decode", decode)
    return names


def make_parquet(material: Path, monkeypatch) -> Callable[..., None]:
    """Puts the pictures of `broken` in the place of a data set of the Hub, with these columns and names of labels."""

    def put(columns: tuple[str, str], named: bool, folder: Path = material / "broken") -> None:
        files = sorted(folder.rglob("*.*"))
        label = ClassLabel(names=CLASSES) if named else Value("int64")
        rows = [
            {columns[0]: {"bytes": file.read_bytes(), "path": file.name}, columns[1]: CLASSES.index(file.parent.name)}
            for file in files
        ]
        data = Dataset.from_list(rows, features=Features({columns[0]: ImageFeature(), columns[1]: label}))

        def load_by_name(name, config_name, split, streaming=False, instead=""):
            assert (name, config_name, split) == ("some/images", None, "validation")
            return data.to_iterable_dataset() if streaming else data

        monkeypatch.setattr(image_data, "load_by_name", load_by_name)

    return put
