# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers imagenet` on small models and folders: evaluation, training, resuming, processes, errors."""

import csv
import json
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, Features, Image as ImageFeature, Value
from datasets.distributed import split_dataset_by_node
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

from cp_transformers import (
    CPResNetConfig,
    CPResNetForImageClassification,
    CPViTConfig,
    CPViTForImageClassification,
)
from cp_transformers.cli import main as cli
from cp_transformers.tasks import image_data, image_evaluation, image_training
from cp_transformers.tasks.imagenet_arguments import ImageNetArguments


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


# Small models and data


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


@pytest.fixture(scope="module")
def material(tmp_path_factory, cache) -> Path:
    """A folder with checkpoints and data: `whole`, `broken` (with two images that cannot be read), and `colours`."""
    folder = tmp_path_factory.mktemp("images")
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


# Evaluation


def test_files_take_the_place_of_the_data_set_that_a_configuration_names():
    assert ImageNetArguments(dataset_name="digits", data_dir="mine").dataset_name is None


@pytest.mark.parametrize("kind", ["vit", "cp_resnet"])
def test_metrics_are_those_of_a_loop_by_hand(kind, material, tmp_path, capsys):
    row = evaluate(tmp_path / "out", material / kind, material / "broken", "--per_device_eval_batch_size", "9")
    assert of(row) == close(by_hand(material / kind, material / "broken"))
    assert 0 < row["top1"] < row["top5"] < 1  # or a mistake could not be seen
    assert row["images"] == len(CLASSES) * EACH and row["corrupt"] == 2
    named = [Path(message.split(":")[0]).name for message in row["corrupt_images"]]
    assert sorted(named) == ["cut.jpg", "empty.png"]
    printed = capsys.readouterr().out
    assert "cut.jpg" in printed and "empty.png" in printed
    model = AutoModelForImageClassification.from_pretrained(material / kind)
    assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (row["real_top1"], row["image_size"], row["dtype"]) == (None, "16", "float32")


@pytest.mark.parametrize(
    "more",
    [
        ["--per_device_eval_batch_size", "1"],
        ["--per_device_eval_batch_size", "5", "--dataloader_num_workers", "2"],
        ["--channels_last"],
    ],
    ids=lambda more: more[-1],
)
def test_options_of_loading_change_no_metric(more, material, tmp_path):
    row = evaluate(tmp_path / "out", material / "cp_resnet", material / "broken", *more)
    assert of(row) == close(by_hand(material / "cp_resnet", material / "broken")) and row["corrupt"] == 2


def test_reduced_precision_changes_little(material, tmp_path):
    exact = by_hand(material / "vit", material / "whole")
    row = evaluate(tmp_path / "out", material / "vit", material / "whole", "--bf16_full_eval", "true")
    assert row["dtype"] == "bfloat16" and row["loss"] != exact["loss"]
    assert row["loss"] == pytest.approx(exact["loss"], rel=0.05) and abs(row["top1"] - exact["top1"]) < 0.15


def rename(source: Path, target: Path, names: list[str]) -> Path:
    """The same folder with other names of classes."""
    for old, new in zip(CLASSES, names, strict=True):
        shutil.copytree(source / old, target / new)
    return target


@pytest.mark.parametrize("kind", ["other order", "upper case", "wordnet", "numerals", "unnamed"])
def test_labels_are_the_model_s_whatever_they_are_called(kind, material, tmp_path):
    labels, names = CLASSES, CLASSES
    if kind == "other order":
        labels = [CLASSES[index] for index in (3, 0, 6, 2, 1, 5, 4)]
    elif kind == "upper case":
        labels = [name.upper().replace("_", " ") for name in CLASSES]
    elif kind == "wordnet":
        names = [f"n0{index + 1}234567" for index in range(7)]
    elif kind == "numerals":
        labels, names = [f"thing {index}" for index in range(12)], ["0", "10", "2", "11", "4", "9", "6"]
    elif kind == "unnamed":
        labels = None
    model = save_model(tmp_path / "model", labels=labels, **({"num_labels": 7} if labels is None else {}))
    data = rename(material / "whole", tmp_path / "data", names)
    expected = {"other order": labels, "numerals": [str(index) for index in range(12)]}.get(kind, names)
    assert of(evaluate(tmp_path / "out", model, data)) == close(by_hand(model, data, expected))


def test_several_checkpoints_are_evaluated_as_each_alone(material, tmp_path):
    names = ["vit", "cp_resnet"]
    both = ["--do_eval", "--model_name_or_path", *(material / name for name in names)]
    rows = imagenet(tmp_path / "both", *both, "--data_dir", material / "broken")
    alone = [evaluate(tmp_path / name, material / name, material / "broken") for name in names]
    for row in (*rows, *alone):
        del row["images_per_second"]
    assert rows == alone and [row["model"] for row in rows] == [str(material / name) for name in names]
    with open(tmp_path / "both" / "results.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 2
    for row, line in zip(results_of(tmp_path / "both"), written):
        assert line == {name: "" if row[name] is None else str(row[name]) for name in line}
        assert {"model", "top1", "top5", "real_top1", "loss", "images", "corrupt", "parameters"} <= set(line)


def test_an_image_of_another_size_than_the_model_s(material, tmp_path):
    row = evaluate(tmp_path / "out", material / "vit", material / "whole", "--image_size", "24")
    files = list((material / "whole").rglob("*.*"))
    network = AutoModelForImageClassification.from_pretrained(material / "vit").eval()
    processor = AutoImageProcessor.from_pretrained(material / "vit")
    size = {"height": 24, "width": 24}
    with torch.no_grad():
        images = [processor(Image.open(file).convert("RGB"), size=size, return_tensors="pt") for file in files]
        logits = torch.cat([network(**each, interpolate_pos_encoding=True).logits for each in images])
    expected = metrics_by_hand(logits, [CLASSES.index(path.parent.name) for path in files])
    assert of(row) == close(expected) and row["image_size"] == "24"
    plain = by_hand(material / "vit", material / "whole")
    assert abs(row["loss"] - plain["loss"]) > 1e-3


def test_crop_and_interpolation_are_reported_and_used(material, tmp_path):
    more = ["--crop_pct", "0.5", "--interpolation", "bilinear"]
    row = evaluate(tmp_path / "out", material / "cp_resnet", material / "whole", *more)
    assert (row["crop_pct"], row["interpolation"]) == (0.5, "bilinear")
    assert abs(row["loss"] - by_hand(material / "cp_resnet", material / "whole")["loss"]) > 1e-3


@pytest.fixture
def parquet(material, monkeypatch):
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


@pytest.mark.parametrize("source", ["folder", "data set"])
def test_real_labels_are_counted_by_the_numbers_of_the_images(source, parquet, material, tmp_path):
    data = write_pictures(tmp_path / "data", names="ILSVRC2012_val_{:08d}", each=4)
    (data / "ash" / "ILSVRC2012_val_00000000.jpg").rename(data / "ash" / "ILSVRC2012_val_00000028.jpg")  # from 1 on
    real = [[] if index % 5 == 0 else [index % 7, (index + 3) % 7] for index in range(28)]
    (tmp_path / "real.json").write_text(json.dumps(real))
    parquet(("image", "label"), True, data)
    images = ["--data_dir", data] if source == "folder" else ["--dataset_name", "some/images"]
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--real_labels", tmp_path / "real.json"]
    (row,) = imagenet(tmp_path / "out", *more, *images)
    files = list(data.rglob("*.*"))
    guesses = logits_by_hand(material / "vit", files).argmax(-1).tolist()
    allowed = [real[int(path.stem[-8:]) - 1] for path in files]
    counted = [guess in labels for guess, labels in zip(guesses, allowed) if labels]
    assert row["real_top1"] == pytest.approx(sum(counted) / len(counted))
    assert of(row) == close(by_hand(material / "vit", data))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("columns", "named"), [(("image", "label"), True), (("jpg", "cls"), False)])
def test_a_data_set_of_the_hub_gives_the_same_as_the_folder(columns, named, streaming, parquet, material, tmp_path):
    parquet(columns, named)
    more = ["--dataset_name", "some/images", "--do_eval", "--model_name_or_path", material / "vit"]
    (row,) = imagenet(tmp_path / "out", *more, *(["--streaming"] if streaming else []))
    assert of(row) == close(by_hand(material / "vit", material / "broken")) and row["corrupt"] == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_so_many_images_are_evaluated_as_are_asked_for(streaming, parquet, material, tmp_path):
    parquet(("image", "label"), True)
    more = ["--dataset_name", "some/images", "--do_eval", "--model_name_or_path", material / "vit"]
    more += ["--max_eval_samples", "12", *(["--streaming"] if streaming else [])]
    (row,) = imagenet(tmp_path / "out", *more)
    files = sorted((material / "broken").rglob("*.*"))
    order = Dataset.from_dict({"file": range(len(files))}).shuffle(seed=0)["file"]  # of all classes
    files = files[:12] if streaming else [files[number] for number in order[:12]]
    good = [file for file in files if file.name not in ("cut.jpg", "empty.png")]
    expected = metrics_by_hand(
        logits_by_hand(material / "vit", good), [CLASSES.index(file.parent.name) for file in good]
    )
    assert of(row) == close(expected) and row["images"] + row["corrupt"] == 12


# Stopping an evaluation, and going on


def stop_after(monkeypatch, images: int) -> None:
    """Interrupts evaluations in this process before they read one more."""
    seen, original = [0], image_evaluation.decode

    def decode(image):
        seen[0] += 1
        if seen[0] > images:
            raise KeyboardInterrupt
        return original(image)

    monkeypatch.setattr(image_evaluation, "decode", decode)


def interrupt(output: Path, *more) -> None:
    """Leaves the count of the first forty images, as a run that is killed does."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 45)
        assert cli(["imagenet", *options(output, *more, "--per_device_eval_batch_size", "1")]) == 130
    assert not (output / "results.json").exists()


def test_a_killed_evaluation_goes_on_where_it_was(material, tmp_path, environment, monkeypatch):
    output = tmp_path / "out"
    stops = """
import sys
from cp_transformers.cli import main
from cp_transformers.tasks import image_evaluation
original, seen = image_evaluation.decode, [0]
def decode(image):
    seen[0] += 1
    if seen[0] == 45:
        print("reached", flush=True)
        sys.stdin.read()  # until it is killed
    return original(image)
image_evaluation.decode = decode
sys.exit(main(sys.argv[1:]))
"""
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--data_dir", material / "broken"]
    more += ["--per_device_eval_batch_size", "1"]
    command = [sys.executable, "-c", stops, "imagenet", *options(output, *more)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert any("reached" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (output / "results.json").exists()
    names = read_images(monkeypatch)
    (row,) = imagenet(output, *more, "--resume_from_checkpoint", "last")
    assert of(row) == close(by_hand(material / "vit", material / "broken")) and row["corrupt"] == 2
    assert len(names) == len(CLASSES) * EACH + 2 - 40 and not list(output.rglob("progress/*.json"))


def test_what_is_done_is_not_read_again_in_other_batches(material, tmp_path, monkeypatch):
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--data_dir", material / "broken"]
    interrupt(tmp_path / "out", *more)
    names = read_images(monkeypatch)
    more += ["--resume_from_checkpoint", "last", "--per_device_eval_batch_size", "7"]
    (row,) = imagenet(tmp_path / "out", *more)
    assert of(row) == close(by_hand(material / "vit", material / "broken")) and len(names) == 18


def test_a_stream_goes_on_where_it_was(parquet, material, tmp_path):
    parquet(("image", "label"), True)
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--dataset_name", "some/images", "--streaming"]
    interrupt(tmp_path / "out", *more)
    (row,) = imagenet(tmp_path / "out", *more, "--resume_from_checkpoint", "last")
    assert of(row) == close(by_hand(material / "vit", material / "broken")) and row["corrupt"] == 2


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_stream_that_is_split_among_processes_goes_on_with_each_ones_own(shards):
    rows = Dataset.from_list([{"image": {"path": str(number)}, "label": number} for number in range(24)])
    stream = rows.to_iterable_dataset(num_shards=shards)
    for done in (0, 4):
        seen = []
        for rank in range(2):
            own = split_dataset_by_node(stream, rank, 2)
            batches = image_evaluation._batches(own, done, 2, 0, preprocessing=None)  # no image can be read
            labels = [example["label"] for batch in batches for example in batch]
            whole = [row["label"] for row in own]
            assert labels == whole[done:]
            seen += labels
        assert len({*seen}) == len(seen) == 24 - 2 * done


@pytest.mark.parametrize("change", ["model", "crop", "folder", "real labels", "anew"])
def test_the_count_of_another_evaluation_is_not_gone_on_with(change, parquet, material, tmp_path):
    data = write_pictures(tmp_path / "data", names="ILSVRC2012_val_{:08d}" if change == "real labels" else "{}")
    output, model, images, more = tmp_path / "out", material / "vit", ["--data_dir", data], []
    if change == "real labels":
        parquet(("image", "label"), True, data)
        images = ["--dataset_name", "some/images"]
    interrupt(output, "--do_eval", "--model_name_or_path", model, *images)
    if change == "model":
        model = save_model(tmp_path / "other", seed=5)
    elif change == "crop":
        more = ["--crop_pct", "0.7"]
    elif change == "folder":
        images = ["--data_dir", rename(data, tmp_path / "renamed", CLASSES[::-1])]
    elif change == "real labels":
        (tmp_path / "real.json").write_text(json.dumps([[index % 7] for index in range(60)]))
        more = ["--real_labels", tmp_path / "real.json"]
    resumes = [] if change == "anew" else ["--resume_from_checkpoint", "last"]
    more += ["--do_eval", "--model_name_or_path", model, *images]
    (row,) = imagenet(output, *more, *resumes)
    (fresh,) = imagenet(tmp_path / "fresh", *more)
    assert of(row) == close(fresh) and row["real_top1"] == fresh["real_top1"]


def test_a_finished_evaluation_is_not_done_again(material, tmp_path, monkeypatch):
    first = evaluate(tmp_path / "out", material / "vit", material / "whole")
    names = read_images(monkeypatch)
    again = evaluate(tmp_path / "out", material / "vit", material / "whole", "--resume_from_checkpoint", "last")
    assert again == first and not names


def test_two_processes_count_every_image_once(material, tmp_path, environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "scripts" / "run_imagenet.py"), "--ddp_backend", "gloo"]
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--per_device_eval_batch_size", "5"]
    data = shutil.copytree(material / "broken", tmp_path / "data")
    picture(7, 12, 12).save(data / "fir" / "odd.png")  # an odd number
    command += options(tmp_path / "out", *more, "--data_dir", data)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = results_of(tmp_path / "out")
    assert of(row) == close(by_hand(material / "vit", data)) and row["images"] == len(CLASSES) * EACH + 1
    assert len(set(row["corrupt_images"])) == row["corrupt"] == 2 and done.stdout.count("Written to") == 1


# Training


def train(output: Path, data: Path, *more) -> list[dict]:
    return imagenet(output, "--data_dir", data, *TRAIN, *STILL, *more)


@pytest.mark.parametrize(("config", "kind"), [("tiny", "cp_vit"), ("tiny", "vit"), ("tiny_resnet", "cp_resnet")])
def test_the_small_configurations_train(config, kind, tmp_path):
    output = tmp_path / "out"
    more = ["--config", ROOT / "configs" / "imagenet" / f"{config}.yaml", "--model_type", kind, "--max_steps", "2"]
    more += ["--max_train_samples", "32", "--max_eval_samples", "40", "--per_device_train_batch_size", "8"]
    (row,) = imagenet(output, *more)
    model = AutoModelForImageClassification.from_pretrained(output)
    assert model.config.model_type == kind and model.config.id2label == {index: str(index) for index in range(10)}
    assert row["model"] == str(output) and row["images"] == 40 and row["image_size"] == "28"
    assert AutoImageProcessor.from_pretrained(output).size == {"height": 28, "width": 28}


@pytest.mark.parametrize("kind", ["cp_vit", "vit", "cp_resnet", "resnet"])
def test_every_kind_is_trained_saved_and_loaded_again(kind, material, tmp_path):
    output = tmp_path / "out"
    fields = VIT if "vit" in kind else RESNET
    more = ["--do_eval", "--model_type", kind, "--model_config", json.dumps(fields)]
    more += [] if "vit" in kind else ["--image_size", SIDE]
    mixing = "--crop_min_scale 0.3 --flip 0.5 --rand_augment 5 --random_erasing 0.2 --mixup 0.8 --cutmix 1.0".split()
    (row,) = train(output, material / "colours", *more, *mixing)
    assert of(row) == close(by_hand(output, material / "colours" / "val"))
    again = evaluate(tmp_path / "again", output, material / "colours")
    assert of(again) == of(row)
    classify = pipeline("image-classification", str(output), device="cpu")
    guesses = classify(str(material / "colours" / "val" / CLASSES[0] / "0.png"))
    assert {guess["label"] for guess in guesses} == set(CLASSES[:3])
    assert AutoModelForImageClassification.from_pretrained(output).config.model_type == kind


def test_what_can_be_learned_is_learned(material, tmp_path):
    learns = [*NEW, "--do_eval", "--max_steps", "60", "--learning_rate", "1e-2"]
    (row,) = train(tmp_path / "out", material / "colours", *learns)
    assert row["top1"] == row["top5"] == 1.0 and row["images"] == 12


def test_fine_tuning_keeps_the_order_of_the_checkpoint_s_labels(material, tmp_path):
    labels = [CLASSES[index].upper() for index in (2, 0, 1)]
    model = save_model(tmp_path / "model", labels=labels, initializer_range=0.02)
    more = ["--model_name_or_path", model, "--do_eval", "--max_steps", "40", "--learning_rate", "1e-2"]
    (row,) = train(tmp_path / "out", material / "colours", *more)
    config = AutoModelForImageClassification.from_pretrained(tmp_path / "out").config
    assert list(config.id2label.values()) == labels and row["top1"] == 1.0
    expected = by_hand(tmp_path / "out", material / "colours" / "val", [CLASSES[index] for index in (2, 0, 1)])
    assert of(row) == close(expected)


@pytest.mark.parametrize("kind", ["vit", "cp_resnet"])
@pytest.mark.parametrize("labels", [CLASSES, CLASSES[:3]], ids=["of another size", "of the same size"])
def test_a_new_head_replaces_the_old_one_alone(kind, labels, material, tmp_path):
    model = save_model(tmp_path / "model", kind, labels=labels)
    more = ["--model_name_or_path", model, "--new_head", "--learning_rate", "1e-12"]
    train(tmp_path / "out", material / "colours", *more)
    before, after = weights(model), weights(tmp_path / "out")
    head = next(name for name in before if name.startswith("classifier") and name.endswith("weight"))
    assert after[head].shape[0] == 3 and not torch.allclose(after[head], before[head][:3], atol=1e-3)
    for name in before:
        if not name.startswith("classifier") and "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], before[name], atol=1e-5, rtol=0)
    config = AutoModelForImageClassification.from_pretrained(tmp_path / "out").config
    assert list(config.id2label.values()) == CLASSES[:3]


@pytest.mark.parametrize("kind", ["vit", "cp_resnet"])
def test_what_is_saved_sees_images_as_it_was_trained_to(kind, material, tmp_path):
    model = save_model(tmp_path / "model", kind, labels=CLASSES[:3])
    more = ["--crop_pct", "0.5", "--interpolation", "bilinear", *([] if kind == "vit" else ["--image_size", "24"])]
    (row,) = train(tmp_path / "out", material / "colours", "--model_name_or_path", model, "--do_eval", *more)
    again = evaluate(tmp_path / "again", tmp_path / "out", material / "colours")
    for name in ("image_size", "crop_pct", "interpolation", *METRICS):
        assert again[name] == pytest.approx(row[name])
    assert row["interpolation"] == "bilinear" and row["crop_pct"] == 0.5


def losses(output: Path) -> tuple[float, float]:
    """The first loss of training and of evaluation."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return tuple(next(entry[name] for entry in history if name in entry) for name in ("loss", "eval_loss"))


@pytest.mark.parametrize("more", [["--label_smoothing_factor", "0.5"], ["--mixup", "0.8"], ["--cutmix", "1.0"]])
def test_soft_labels_change_the_loss_of_training_alone(more, material, tmp_path):
    model = save_model(tmp_path / "model", labels=CLASSES[:3])
    steps = ["--model_name_or_path", model, "--learning_rate", "1e-12", "--max_steps", "1", "--logging_steps", "1"]
    steps += ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    steps += ["--per_device_train_batch_size", "24"]
    found = []
    for name, options_here in (("plain", []), ("soft", more)):
        train(tmp_path / name, material / "colours", *steps, *options_here)
        found.append(losses(tmp_path / name / "checkpoint-1"))
    assert abs(found[0][0] - found[1][0]) > 1e-3 and found[0][1] == pytest.approx(found[1][1], abs=1e-5)
    assert found[0][0] == pytest.approx(by_hand(model, material / "colours" / "train")["loss"], abs=1e-3)
    assert found[0][1] == pytest.approx(by_hand(model, material / "colours" / "val")["loss"], abs=1e-3)


def test_evaluation_in_training_leaves_out_what_cannot_be_read(material, tmp_path):
    data = shutil.copytree(material / "colours", tmp_path / "data")
    (data / "val" / CLASSES[1] / "broken.png").write_bytes(b"broken")
    more = [*NEW, "--eval_strategy", "epoch", "--do_eval", "--save_strategy", "epoch", "--max_steps", "3"]
    (row,) = train(tmp_path / "out", data, *more, "--learning_rate", "1e-12", "--per_device_eval_batch_size", "6")
    state = json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())
    (entry,) = [entry for entry in state["log_history"] if "eval_top1" in entry]
    assert (entry["eval_top1"], entry["eval_top5"]) == (row["top1"], row["top5"])
    assert row["images"] == 12 and row["corrupt"] == 1 and np.isfinite(entry["eval_loss"])


def test_a_training_image_that_cannot_be_read_is_named_and_training_goes_on(material, tmp_path):
    data = shutil.copytree(material / "colours", tmp_path / "data")
    (data / "train" / CLASSES[1] / "broken.png").write_bytes(b"broken")
    (data / "train" / CLASSES[0] / "empty.png").write_bytes(b"")
    more = [*NEW, "--dataloader_num_workers", "2", "--max_steps", "9", "--do_eval"]
    (row,) = train(tmp_path / "out", data, *more)
    lines = (tmp_path / "out" / "corrupt_images.txt").read_text().splitlines()
    assert sorted(Path(line.split(":")[0]).name for line in lines) == ["broken.png", "empty.png"]
    assert row["images"] == 12


@pytest.mark.parametrize("streaming", [False, True])
def test_the_data_can_be_sent_to_workers_that_are_not_forked(streaming, material, tmp_path, monkeypatch):
    sent = []

    def pickled(self, *args, **kwargs):
        data = pickle.loads(pickle.dumps((self.train_dataset, self.data_collator)))
        sent.append(data[1]([next(iter(data[0]))])["pixel_values"].shape)

    monkeypatch.setattr(Trainer, "train", pickled)
    more = ["--dataset_name", "digits", "--max_train_samples", "4", *(["--streaming"] if streaming else [])]
    imagenet(tmp_path / "out", *more, *TRAIN, *STILL, *NEW, "--image_size", SIDE, "--max_steps", "1")
    assert sent == [(1, 3, SIDE, SIDE)]


def test_a_stream_is_trained_on_again_and_again(material, tmp_path):
    more = ["--dataset_name", "digits", "--streaming", "--max_train_samples", "12", "--max_eval_samples", "10"]
    more += ["--do_eval", "--image_size", SIDE, "--per_device_train_batch_size", "4"]
    (row,) = imagenet(tmp_path / "out", *more, *TRAIN, *STILL, *NEW, "--max_steps", "7")
    assert row["images"] == 10
    state = AutoModelForImageClassification.from_pretrained(tmp_path / "out").state_dict()
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_learning_rates_decay_from_the_head_down(kind, material, tmp_path, monkeypatch):
    seen, original = {}, Trainer.train

    def recorded(self, *args, **kwargs):
        for group in self.optimizer.param_groups:
            seen.update({id(parameter): group["lr"] for parameter in group["params"]})
        seen.update({name: seen[id(parameter)] for name, parameter in self.model.named_parameters()})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "train", recorded)
    model = save_model(tmp_path / "model", kind, labels=CLASSES[:3])
    more = ["--model_name_or_path", model, "--layer_decay", "0.5", "--learning_rate", "0.08", "--max_steps", "1"]
    train(tmp_path / "out", material / "colours", *more)
    named = {name: rate for name, rate in seen.items() if isinstance(name, str)}
    head = {rate for name, rate in named.items() if name.startswith("classifier")}
    lowest = {rate for name, rate in named.items() if "embed" in name}
    part = {"vit": "layers", "resnet": "stages"}[kind]
    for index, expected in enumerate((0.02, 0.04)):
        assert {rate for name, rate in named.items() if f".{part}.{index}." in name} == {expected}
    assert head == {0.08}
    assert lowest == {0.01}


def test_a_teacher_teaches_in_the_order_of_its_own_labels(material, tmp_path):
    order = [2, 0, 1]
    teacher = save_model(tmp_path / "teacher", labels=CLASSES[:3], initializer_range=0.02)
    learns = ["--model_name_or_path", teacher, "--max_steps", "10", "--learning_rate", "1e-2"]
    train(tmp_path / "taught", material / "colours", *learns)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "taught", other)
    network = AutoModelForImageClassification.from_pretrained(other)
    with torch.no_grad():
        network.classifier.weight.copy_(network.classifier.weight[order].clone())
        network.classifier.bias.copy_(network.classifier.bias[order].clone())
    network.config.id2label = {index: CLASSES[old] for index, old in enumerate(order)}
    network.config.label2id = {CLASSES[old]: index for index, old in enumerate(order)}
    network.save_pretrained(other)
    for name in ("taught", "other"):
        more = [*NEW, "--teacher", tmp_path / name, "--distillation_logits_weight", "1", "--max_steps", "4"]
        train(tmp_path / f"{name}-student", material / "colours", *more)
    assert_equal_weights(tmp_path / "taught-student", tmp_path / "other-student", 1e-5)
    train(tmp_path / "alone", material / "colours", *NEW, "--max_steps", "4")
    with pytest.raises(AssertionError):
        assert_equal_weights(tmp_path / "taught-student", tmp_path / "alone", 1e-5)


def test_data_without_names_of_labels_trains_a_new_model(material, tmp_path, monkeypatch):
    rows = [
        {"jpg": {"bytes": file.read_bytes(), "path": file.name}, "cls": number % 5}
        for number, file in enumerate(sorted((material / "whole").rglob("*.png")))
    ]
    data = Dataset.from_list(rows, features=Features({"jpg": ImageFeature(), "cls": Value("int64")}))
    monkeypatch.setattr(image_data, "load_by_name", lambda *args, **kwargs: data)
    more = ["--do_train", "--max_steps", "1", "--num_labels", "5", "--dataset_name", "some/images"]
    tiny = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    imagenet(tmp_path / "out", *more, "--model_config", json.dumps(tiny))
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.num_labels == 5


def test_a_checkpoint_in_half_precision_is_evaluated_in_single(material, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(material / "cp_resnet")
    shutil.copytree(material / "cp_resnet", tmp_path / "half")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    row = evaluate(tmp_path / "out", tmp_path / "half", material / "whole")
    model.float().save_pretrained(tmp_path / "half")
    assert row["dtype"] == "float32" and of(row) == close(by_hand(tmp_path / "half", material / "whole"))


def test_a_teacher_of_images_that_are_normalised_otherwise_is_refused(material, tmp_path, capsys):
    shutil.copytree(material / "vit", tmp_path / "teacher")
    file = tmp_path / "teacher" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    more = ["--do_train", "--data_dir", material / "colours", "--model_name_or_path", material / "vit"]
    assert "normalised otherwise" in refusal(capsys, tmp_path / "out", *more, "--teacher", tmp_path / "teacher")


# The average of the weights, and going on with training


STEPS = [*NEW, "--max_steps", "5", "--save_strategy", "steps", "--save_steps", "2"]
STEPS += ["--do_eval", "--logging_steps", "1"]


@pytest.mark.parametrize("kind", ["cp_vit", "cp_resnet"])
def test_the_average_is_the_one_of_the_weights_after_each_step(kind, material, tmp_path, monkeypatch):
    decay, after = 0.7, []
    original = image_training.EmaCallback.on_step_end

    def on_step_end(self, args, state, control, model=None, **kwargs):
        after.append({name: value.clone() for name, value in model.state_dict().items()})
        return original(self, args, state, control, model=model, **kwargs)

    monkeypatch.setattr(image_training.EmaCallback, "on_step_end", on_step_end)
    fields = [] if kind == "cp_vit" else ["--model_config", json.dumps(RESNET), "--image_size", SIDE, "--pool_config"]
    more = [*STEPS, "--model_type", kind, *fields, *(["{}"] if fields else []), "--ema_decay", decay]
    (row,) = train(tmp_path / "out", material / "colours", *more)
    assert len(after) == 5
    saved = weights(tmp_path / "out")
    for name, value in saved.items():
        if value.is_floating_point():
            average = after[0][name]
            for each in after[1:]:
                average = decay * average + (1 - decay) * each[name]
            torch.testing.assert_close(value, average, atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(saved[name], after[-1][name]) for name in saved)
    assert of(row) == close(by_hand(tmp_path / "out", material / "colours" / "val"))


@pytest.mark.parametrize("ema", [[], ["--ema_decay", "0.7"]], ids=["without average", "with average"])
def test_training_that_was_stopped_goes_on_as_if_it_had_not_been(ema, material, tmp_path, monkeypatch):
    random = "--crop_min_scale 0.3 --flip 0.5 --rand_augment 5 --random_erasing 0.2 --mixup 0.8 --cutmix 1.0".split()
    (whole,) = train(tmp_path / "whole", material / "colours", *STEPS, *ema, *random)
    output, step = tmp_path / "out", Trainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 4:  # in the second epoch of three batches
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", training_step)
        more = ["--data_dir", material / "colours", *TRAIN, *STILL, *STEPS, *ema, *random]
        assert cli(["imagenet", *options(output, *more)]) == 130
    shutil.rmtree(output / "checkpoint-4")  # from the middle of the first epoch on
    (row,) = train(output, material / "colours", *STEPS, *ema, *random, "--resume_from_checkpoint", "last")
    assert_equal_weights(output, tmp_path / "whole", 1e-6)
    assert of(row) == close(whole)


def test_a_run_that_is_killed_after_a_deletion_has_a_whole_checkpoint(material, tmp_path, monkeypatch):
    more = [*STEPS, "--ema_decay", "0.7", "--save_total_limit", "1"]
    (whole,) = train(tmp_path / "whole", material / "colours", *more)

    def on_save(self, args, state, control):
        if state.global_step == 4:
            raise KeyboardInterrupt
        return control

    with monkeypatch.context() as patch:
        patch.setattr("transformers.trainer_callback.CallbackHandler.on_save", on_save)
        stopped = options(tmp_path / "out", "--data_dir", material / "colours", *TRAIN, *STILL, *more)
        assert cli(["imagenet", *stopped]) == 130
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-4"]
    steps, update = [], image_training.EmaCallback.on_step_end
    monkeypatch.setattr(
        image_training.EmaCallback,
        "on_step_end",
        lambda self, args, state, *rest, **more: (
            steps.append(state.global_step) or update(self, args, state, *rest, **more)
        ),
    )
    (row,) = train(tmp_path / "out", material / "colours", *more, "--resume_from_checkpoint", "last")
    assert steps == [5] and of(row) == close(whole)


def test_a_checkpoint_whose_average_was_being_written_is_passed_over(material, tmp_path):
    more = [*STEPS, "--ema_decay", "0.7"]
    (whole,) = train(tmp_path / "out", material / "colours", *more)
    (tmp_path / "out" / "results.json").unlink()
    (tmp_path / "out" / "checkpoint-5" / "ema.safetensors").unlink()
    first = weights(tmp_path / "out")
    (row,) = train(tmp_path / "out", material / "colours", *more, "--resume_from_checkpoint", "last")
    assert of(row) == close(whole)
    for name, value in weights(tmp_path / "out").items():
        torch.testing.assert_close(value, first[name], atol=1e-6, rtol=1e-6)


def test_training_on_after_a_stopped_evaluation_counts_the_new_weights_alone(material, tmp_path):
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(material / "colours" / "train", data / "train")
    write_colours(data / "val", each=16, seed=2)
    constant = [
        "--lr_scheduler_type",
        "constant",
        "--learning_rate",
        "1e-2",
        *STEPS,
        "--per_device_eval_batch_size",
        "1",
    ]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 45)
        assert cli(["imagenet", *options(output, "--data_dir", data, *TRAIN, *STILL, *constant)]) == 130
    more = ["--max_steps", "9", "--resume_from_checkpoint", "last"]
    (row,) = train(output, data, *constant, *more)
    assert of(row) == close(by_hand(output, data / "val"))


# Errors


def refusal(capsys, output: Path, *more) -> str:
    """The one line in which a command is refused, before anything is trained or measured."""
    capsys.readouterr()
    assert cli(["imagenet", *options(output, *more)]) == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and not (output / "results.json").exists()
    lines = printed.err[printed.err.index("cp-transformers: ") :].strip().splitlines()
    assert len(lines) == 1, lines
    assert not list(output.glob("*.safetensors"))
    return lines[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--do_eval", "--model_name_or_path", "vit", "--dataset_name", ""], "--dataset_name or by --data_dir"),
        (["--do_eval", "--model_name_or_path", "vit", "--data_dir", "nowhere"], "There is no folder"),
        (["--do_eval", "--model_name_or_path", "vit", "--data_dir", "vit"], "no images in folders of classes"),
        (["--do_train", "--data_dir", "whole"], "has no folder train"),
        (["--do_train", "--data_dir", "nowhere"], "There is no folder"),
        (["--do_eval", "--data_dir", "whole"], "nothing to evaluate"),
        (["--data_dir", "whole"], "There is nothing to do: give --do_train"),
        (["--do_train", "--data_dir", "colours", "--model_name_or_path", "vit", "cp_resnet"], "one --model_name"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "vit", "vit"], "named twice"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "no/where"], "no/where is no folder"),
        (["--do_train", "--dataset_name", "digits", "--streaming"], "--max_steps"),
        (["--do_eval", "--data_dir", "whole", "--streaming", "--model_name_or_path", "vit"], "streaming is for"),
        (["--do_train", "--data_dir", "colours", "--model_config", '{"hiden_size": 3}'], "no field hiden_size"),
        (["--do_train", "--data_dir", "colours", "--model_config", "[1]"], "must be a mapping"),
        (["--do_train", "--data_dir", "colours", "--model_type", "bert"], "model_type must be one of cp_vit"),
        (["--do_eval", "--data_dir", "whole", "--interpolation", "box"], "interpolation must be one of nearest"),
        (["--do_eval", "--data_dir", "whole", "--crop_pct", "1.5"], "crop_pct must be from 0 to 1"),
        (["--do_eval", "--data_dir", "whole", "--crop_pct", "0"], "crop_pct must be positive"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "vit", "--teacher", "vit"], "--do_train"),
        (
            ["--do_eval", "--data_dir", "whole", "--model_name_or_path", "vit", "--real_labels", "real.json"],
            "real.json",
        ),
        (
            ["--do_eval", "--data_dir", "colours", "--model_name_or_path", "other"],
            "is not one of the 3 labels of",
        ),
        (["--do_train", "--data_dir", "colours", "--model_name_or_path", "other"], "--new_head"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "bare"], "no image processor"),
        (["--do_train", "--data_dir", "colours", "--model_name_or_path", "bare"], "no image processor"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "bert"], "bert"),
        (["--do_train", "--data_dir", "colours", "--model_name_or_path", "bert"], "bert"),
        (["--do_eval", "--dataset_name", "some/images", "--model_name_or_path", "vit"], "--data_dir"),
        (["--do_train", "--data_dir", "colours", "--teacher", "large"], "images of 32"),
        (["--do_train", "--data_dir", "colours", "--teacher", "vit"], "other labels"),
        (["--do_train", "--data_dir", "colours", "--model_name_or_path", "large", "--image_size", "16"], "of 32"),
        (["--do_train", "--data_dir", "gone", "--do_eval"], "has no folder validation"),
    ],
    ids=lambda value: None if isinstance(value, list) else value,
)
def test_what_makes_no_sense_is_refused_in_a_sentence(more, message, refused_material, tmp_path, capsys):
    names = {path.name for path in refused_material.iterdir()} | {"nowhere"}
    given = [refused_material / each if each in names and at else each for at, each in enumerate(more)]
    if "--do_train" in more and "--model_name_or_path" not in more and "--model_config" not in more:
        given += NEW
    assert message in refusal(capsys, tmp_path / "out", *given, *STILL)


@pytest.fixture(scope="module")
def refused_material(material) -> Path:
    """`material` with what cannot be used."""
    (material / "real.json").write_text('[[1], "2"]')
    save_model(material / "other", labels=["x", "y", "z"])
    save_model(material / "large", labels=CLASSES[:3], image_size=32)
    shutil.copytree(material / "vit", material / "bare")
    (material / "bare" / "preprocessor_config.json").unlink()
    shutil.copytree(material / "colours" / "train", material / "gone" / "train")
    labels = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    sizes = {name: VIT[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    BertForSequenceClassification(BertConfig(**sizes, vocab_size=9, **labels)).save_pretrained(material / "bert")
    ViTImageProcessorPil().save_pretrained(material / "bert")
    return material


def test_labels_are_matched_before_an_image_is_read(material, tmp_path, capsys, monkeypatch):
    names = read_images(monkeypatch)
    model = save_model(tmp_path / "model", labels=CLASSES[:6])
    more = ["--do_eval", "--model_name_or_path", material / "vit", model, "--data_dir", material / "whole"]
    assert "a class 'gum_tree'" in refusal(capsys, tmp_path / "out", *more)
    data = rename(material / "whole", tmp_path / "data", ["0", "1", "2", "3", "10", "5", "6"])
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--data_dir", data]
    assert "a class 10, but the model tells only 7 apart" in refusal(capsys, tmp_path / "out", *more)
    assert not names and not (tmp_path / "out").exists()


def test_a_folder_in_which_no_image_can_be_read_is_refused(material, tmp_path, capsys):
    for name in CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(b"")
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--data_dir", tmp_path / "data"]
    assert str(tmp_path / "data") in refusal(capsys, tmp_path / "out", *more)


def test_an_earlier_run_s_results_are_not_overwritten(material, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "results.json").write_text("{}")
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--data_dir", material / "whole"]
    assert cli(["imagenet", *options(output, *more)]) == 1
    assert "earlier run" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in output.iterdir()} == {"results.json": "{}"}
