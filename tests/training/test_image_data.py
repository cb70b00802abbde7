# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Labelled images: folders and their classes, labels, damaged files, and preprocessing."""

import functools
import io
import json
import os
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from image_cases import HALF, as_bytes, picture
from PIL import Image, ImageOps
from torch import nn
from transformers import ConvNextImageProcessorPil, ResNetConfig, ViTConfig, ViTImageProcessor, ViTImageProcessorPil

from cp_transformers.training.data_files import PACKAGED
from cp_transformers.training.image_data import (
    CorruptImage,
    LabelledImages,
    decode,
    load_folder,
    load_images,
    load_real_labels,
    match_labels,
    model_label,
    resolve_preprocessing,
    validation_number,
)
from cp_transformers.training.image_evaluation import Preprocessed, evaluate


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Path:
    """Keeps what datasets caches out of the user's folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setitem(PACKAGED, "digits", functools.cache(PACKAGED["digits"]))
        yield folder


def folder_of(root: Path, *names: str) -> Path:
    """Pictures under these names."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(root / name)
    return root


def contents(data: LabelledImages) -> dict[str, str]:
    """The class of each file."""
    return {Path(row["image"]["path"]).name: data.names[row["label"]] for row in data.rows}


# Folders


@pytest.mark.parametrize("name", ["validation", "val", "valid", "dev", "."])
def test_a_folder_of_classes_may_have_any_usual_name(name, tmp_path):
    folder_of(tmp_path / name, "cat/1.png", "cat/2.png", "tree_frog/3.png")
    data = load_folder(str(tmp_path), "validation")
    assert data.names == ["cat", "tree_frog"]
    assert contents(data) == {"1.png": "cat", "2.png": "cat", "3.png": "tree_frog"}


def test_metadata_among_the_images_are_left_alone(tmp_path):
    folder_of(tmp_path / "val", "cat/1.png", "dog/2.png")
    (tmp_path / "val" / "metadata.csv").write_text("file_name,text\ncat/1.png,a cat\n")
    assert contents(load_folder(str(tmp_path), "validation")) == {"1.png": "cat", "2.png": "dog"}


def test_each_split_has_its_folder(tmp_path):
    folder_of(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png")
    assert contents(load_folder(str(tmp_path), "train")) == {"1.png": "cat", "2.png": "dog"}
    assert contents(load_folder(str(tmp_path), "validation")) == {"3.png": "cat", "4.png": "dog"}


def test_words_for_splits_in_the_names_of_files_leave_out_no_image(tmp_path):
    names = ["ILSVRC2012_val_00000001.JPEG", "train_1.JPEG", "test-2.JPEG", "3.JPEG"]
    folder_of(tmp_path / "val", *(f"n0144076{index % 2}/{name}" for index, name in enumerate(names)))
    assert sorted(contents(load_folder(str(tmp_path), "validation"))) == sorted(names)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_words_for_splits_in_the_names_of_classes_leave_out_no_image(split, tmp_path):
    folder_of(tmp_path / split, "cat/1.png", "dev/2.png", "test tube/3.png", "train/4.png", "eval_5/5.png")
    found = contents(load_folder(str(tmp_path), split))
    assert found == {"1.png": "cat", "2.png": "dev", "3.png": "test tube", "4.png": "train", "5.png": "eval_5"}


def test_a_single_class_is_a_class(tmp_path):
    folder_of(tmp_path / "validation", "cat/1.png", "cat/2.png")
    assert contents(load_folder(str(tmp_path), "validation")) == {"1.png": "cat", "2.png": "cat"}


@pytest.mark.parametrize(
    ("names", "split", "message"),
    [
        ([], "validation", "no images in folders"),
        (["validation/text/1.txt"], "validation", "no images in folders"),
        (["train/cat/1.png"], "validation", "has no folder validation or val"),
        (["cat/1.png"], "train", "has no folder train"),
    ],
)
def test_a_folder_without_the_images_is_refused(names, split, message, tmp_path):
    for name in names:
        if name.endswith(".txt"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_text("no image")
        else:
            folder_of(tmp_path, name)
    with pytest.raises((ValueError, OSError), match=message):
        load_folder(str(tmp_path), split)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        load_folder(str(tmp_path / "nowhere"), split)


@pytest.mark.parametrize(
    "name", ["loose.png", "loose.JPEG", "cat/sub/4.png", "more/dog/4.png", "cat/loose/deep/4.png"]
)
def test_an_image_that_is_not_one_folder_deep_is_refused(name, tmp_path):
    folder_of(tmp_path, "train/cat/1.png", "train/dog/2.png", f"train/{name}")
    assert len(load_folder(str(tmp_path), "train", labelled=False).rows) == 3
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'train' / name} is not in the folder of a class")):
        load_folder(str(tmp_path), "train")


def test_what_is_no_image_may_lie_anywhere(tmp_path):
    folder_of(tmp_path / "val", "cat/1.png", "dog/2.jpg", "dog/3.webp")
    for name in ("notes.txt", "cat/more/notes.txt", ".hidden/4.png", "cat/.hidden.png"):
        (tmp_path / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / name).write_text("no image")
    found = contents(load_folder(str(tmp_path), "validation"))
    assert found == {"1.png": "cat", "2.jpg": "dog", "3.webp": "dog"}


def test_folders_and_images_may_be_links(tmp_path):
    folder_of(tmp_path / "elsewhere", "cats/1.png", "2.png", "hidden/3.png")
    folder_of(tmp_path / "set" / "training", "dog/4.png")
    links = {"cat": "elsewhere/cats", "dog/5.png": "elsewhere/2.png", ".hidden": "elsewhere/hidden"}
    for name, target in links.items():
        (tmp_path / "set" / "training" / name).symlink_to(tmp_path / target)
    (tmp_path / "set" / "train").symlink_to("training")
    (tmp_path / "data").symlink_to(tmp_path / "set")
    data = load_folder(str(tmp_path / "data"), "train")
    assert contents(data) == {"1.png": "cat", "4.png": "dog", "5.png": "dog"} and len(data.rows) == 3


def test_every_file_is_used_or_named(tmp_path, caplog):
    names = [
        "cat/1.png",
        "cat/2.JPG",
        "__other__/3.png",
        "do:g::[x] #%20/4.png",
        "tree\nfrog/5.png",
        "cat/\u0301é.png",
    ]
    folder = folder_of(tmp_path / "val", *names)
    named = os.fsdecode(b"cat/na\xefve.png")
    picture().save(folder / "cat" / "new.png")
    (folder / "cat" / "new.png").rename(folder / named)
    (folder / "cat" / "gone.png").symlink_to(tmp_path / "not-mounted.png")
    left_out = [".hidden.png", "cat/.1.png", "cat/notes.txt", "cat/no_ending", "__MACOSX", "empty"]
    for name in left_out:
        (folder / name).write_text("") if "." in name or "_e" in name else (folder / name).mkdir()
    with caplog.at_level("WARNING"):
        data = load_folder(str(tmp_path), "validation")
    assert len(data.rows) == len(names) + 2 and set(data.names) == {Path(name).parent.name for name in names}
    unreadable = []
    for row in data.rows:
        try:
            assert decode(row["image"]).size == picture().size
        except CorruptImage as error:
            unreadable.append(str(error))
    assert len(unreadable) == 1 and "gone.png" in unreadable[0]
    assert contents(data)[r"na\udcefve.png"] == "cat"
    (message,) = caplog.messages
    assert f"Of {folder} {len(left_out)} files and folders are left out: " in message and "and 3 more" in message


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("name", ["gone", "cat/gone", "cat/around"])
def test_a_link_to_no_folder_is_refused(name, labelled, tmp_path):
    folder_of(tmp_path / "val", "cat/1.png", "dog/2.png")
    (tmp_path / "val" / name).symlink_to(tmp_path / ("val" if "around" in name else "not-mounted"))
    with pytest.raises(ValueError, match=f"val/{name} is a link (that leads nowhere|to a folder that it lies in)"):
        load_folder(str(tmp_path), "validation", labelled)


def test_a_class_is_named_in_text(tmp_path):
    folder = folder_of(tmp_path / "val", "cat/1.png", "dog/2.png")
    (folder / "cat").rename(folder / os.fsdecode(b"na\xefve"))
    assert len(load_folder(str(tmp_path), "validation", labelled=False).rows) == 2
    with pytest.raises(ValueError, match=r"na\\udcefve is the folder of a class: rename it in UTF-8"):
        load_folder(str(tmp_path), "validation")


def test_a_split_has_one_folder(tmp_path):
    folder_of(tmp_path, "val/cat/1.png", "validation/cat/2.png")
    with pytest.raises(ValueError, match="has both validation and val, which are names of one split"):
        load_folder(str(tmp_path), "validation")
    (tmp_path / "gone" / "cat").mkdir(parents=True)
    (tmp_path / "gone" / "val").symlink_to(tmp_path / "not-mounted")
    with pytest.raises(FileNotFoundError, match="gone/val"):  # it is not taken for a folder of classes
        load_folder(str(tmp_path / "gone"), "validation")


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("name", ["img [x]", "img *", "img ?", "[!i]mg"])
def test_a_folder_s_name_is_no_pattern(name, labelled, tmp_path):
    folder_of(tmp_path, f"{name}/val/cat/1.png", f"{name}/val/dog [a]/2.png", "img x/val/cow/3.png")
    data = load_folder(str(tmp_path / name), "validation", labelled)
    assert sorted(Path(row["image"]["path"]).name for row in data.rows) == ["1.png", "2.png"]
    assert data.names == (["cat", "dog [a]"] if labelled else None)


@pytest.mark.parametrize("streaming", [False, True])
def test_digits_come_undecoded_with_their_names(streaming):
    data = load_images("digits", None, "validation", streaming)
    row = next(iter(data.rows))
    assert data.names == [str(digit) for digit in range(10)] and set(row) == {"image", "label"}
    assert decode(row["image"]).size == (28, 28)


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no column pixels; its columns are image, label; name it by --image_column"):
        load_images("digits", None, "validation", image_column="pixels")


# Labels


NAMES = [f"thing {letter}" for letter in "abcdefghijkl"]  # 12


def config(names: list[str] | None = None, count: int = 12) -> ViTConfig:
    if names is None:
        return ViTConfig(num_labels=count)
    return ViTConfig(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})


def test_labels_are_matched_by_name_in_any_order_and_spelling():
    assert match_labels(["Thing_c", "THING a"], config(NAMES), "here") == [2, 0]
    assert match_labels(NAMES, config(NAMES[::-1]), "here") == list(range(12))[::-1]


def test_classes_that_differ_in_case_alone_are_different_classes():
    assert match_labels(["A", "a", "b"], config(["a", "b", "A"]), "here") == [2, 0, 1]
    for ours, theirs, name in (["Aa"], ["a", "B"], "Aa"), (["A", "a"], ["a", "b"], "A"), (["aA"], ["AA", "aa"], "aA"):
        with pytest.raises(ValueError, match=f"here has a class '{name}', which is not one"):
            match_labels(ours, config(theirs), "here")
    with pytest.raises(ValueError, match="two classes of the same number"):
        match_labels(["1", "01"], config(), "here")


@pytest.mark.parametrize("names", [NAMES, None], ids=["named", "unnamed"])
def test_numerals_that_sort_as_strings_are_numbers(names):
    numerals = sorted(map(str, range(12)))
    assert numerals[:3] == ["0", "1", "10"]
    assert match_labels(numerals, config(names), "here") == [int(name) for name in numerals]
    assert match_labels(["7", "11"], config(names), "here") == [7, 11]
    with pytest.raises(ValueError, match="a class 12, but the model tells only 12 apart"):
        match_labels([*numerals, "12"], config(names), "here")


def test_imagenet_s_wordnet_ids_are_in_the_order_of_the_labels():
    ids = [f"n{10**7 + 3 * index:08d}" for index in range(1000)]
    names = [f"thing {index}" for index in range(1000)]
    assert match_labels(ids, config(names), "here") == list(range(1000))
    assert match_labels(ids[3:6], config(ids), "here") == [3, 4, 5]
    assert match_labels(ids[:12], config(), "here") == list(range(12))  # the model's have no names
    for some in (ids[:11], ids[:12]):  # of other models with as many labels nothing is known
        with pytest.raises(ValueError, match=ids[0]):
            match_labels(some, config(NAMES), "here")


def test_a_model_without_names_has_the_order_of_the_data():
    assert match_labels(NAMES, config(), "here") == list(range(12))
    assert match_labels(None, config(NAMES), "here") is None
    with pytest.raises(ValueError, match="thing a"):
        match_labels(NAMES[:3], config(), "here")


def test_names_that_are_not_the_model_s_are_refused():
    with pytest.raises(ValueError, match=r"here has a class 'nothing'.*--new_head"):
        match_labels(["thing b", "nothing"], config(NAMES), "here")
    with pytest.raises(ValueError, match="here has a class"):
        match_labels([f"other {index}" for index in range(12)], config(NAMES), "here")
    many = [f"thing {index}" for index in range(1000)]
    renamed = ["crane bird", *many[1:]]
    assert match_labels(renamed, config(many), "here") == list(range(1000))  # as lists of ImageNet's names differ
    with pytest.raises(ValueError, match="here has a class 'crane bird'"):
        match_labels(renamed[:100], config(many[:100]), "here")


@pytest.mark.parametrize("label", [-1, 3, None, "1"])
def test_a_label_that_the_model_does_not_have_is_refused(label):
    with pytest.raises(ValueError, match=f"here has the label {label!r}"):
        model_label(label, None, 3, "here")
    with pytest.raises(ValueError, match="here has the label"):
        model_label(label, [2, 1, 0], 3, "here")


def test_a_resnet_s_labels_are_matched_likewise():
    names = json.loads(json.dumps({str(index): name for index, name in enumerate(NAMES)}))
    resnet = ResNetConfig(id2label={int(index): name for index, name in names.items()})
    assert match_labels(NAMES[::-1], resnet, "here") == list(range(12))[::-1]


# Reading images


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("1", "PNG"), ("LA", "PNG")]
)
def test_every_mode_is_read_as_rgb(mode, kind, tmp_path):
    content = as_bytes(picture().convert(mode), kind)
    (tmp_path / "image").write_bytes(content)
    decoded = decode({"path": None, "bytes": content})
    assert decoded.mode == "RGB" and decoded.size == (26, 20)
    assert decoded.tobytes() == Image.open(io.BytesIO(content)).convert("RGB").tobytes()
    assert decode({"path": str(tmp_path / "image"), "bytes": None}).tobytes() == decoded.tobytes()


def test_16_bits_are_read_as_8():
    values = np.linspace(0, 65535, 20 * 26).astype(np.uint16).reshape(20, 26)
    for numbers, kind in ((values, "PNG"), (values.astype(np.int32), "TIFF")):
        decoded = decode({"path": None, "bytes": as_bytes(Image.fromarray(numbers), kind)})
        assert decoded.mode == "RGB"
        assert np.abs(np.asarray(decoded)[..., 0] - values / 257.0).max() < 1
    small = Image.fromarray((values // 257).astype(np.int32))
    assert np.array_equal(np.asarray(decode({"path": None, "bytes": as_bytes(small, "TIFF")}))[..., 0], values // 257)
    with pytest.raises(CorruptImage, match="fractions of an unknown range"):
        decode({"path": None, "bytes": as_bytes(Image.fromarray((values / 65535).astype(np.float32)), "TIFF")})


def test_an_image_is_turned_as_its_camera_says():
    for orientation in range(10):
        turned, file = Image.Exif(), io.BytesIO()
        turned[274] = orientation
        picture().save(file, "PNG", exif=turned)
        expected = ImageOps.exif_transpose(Image.open(file))
        assert np.array_equal(np.asarray(decode({"path": None, "bytes": file.getvalue()})), np.asarray(expected))


def damaged() -> list[bytes]:
    whole = [as_bytes(picture(), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]
    cut = [content[: len(content) * part // 4] for content in whole for part in (1, 2, 3)]
    return [b"", b"text", whole[0][:20] + b"\xff" * 40, *(each for each in cut)]


@pytest.mark.parametrize("content", damaged(), ids=range(len(damaged())))
def test_what_cannot_be_read_is_named(content):
    with pytest.raises(CorruptImage, match=r"^broken\.png: ") as error:
        decode({"path": "broken.png", "bytes": content})
    assert " at 0x" not in str(error.value)  # the same words whenever it is read


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_raises_nothing_else():
    metadata = Image.Exif()
    metadata.update({274: 6, 271: "maker", 282: 72.0})
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        file = io.BytesIO()
        picture().save(file, kind, exif=metadata)
        whole = file.getvalue()
        for seed in range(60):
            generator = np.random.default_rng(seed)
            content = bytearray(whole)
            for place in generator.integers(0, min(len(content), 200 if seed % 2 else len(content)), 4):
                content[place] = generator.integers(256)
            try:
                decode({"path": "broken", "bytes": bytes(content)})
            except CorruptImage as error:
                assert str(error).startswith("broken: ")


def test_a_row_without_an_image_is_a_corrupt_image():
    with pytest.raises(CorruptImage, match="an image: it is missing"):
        decode(None)
    row = {"image": None, "label": 3}
    read = Preprocessed([row], lambda image: image)[0]
    assert (read["label"], read["pixel_values"], read["error"]) == (3, None, "an image: it is missing")


def test_a_missing_file_is_a_corrupt_image(tmp_path):
    with pytest.raises(CorruptImage, match=r"gone\.png"):
        decode({"path": str(tmp_path / "gone.png"), "bytes": None})


def test_real_labels_are_lists_of_numbers(tmp_path):
    path = tmp_path / "real.json"
    path.write_text("[[1, 2], [], [0]]")
    assert load_real_labels(str(path)) == [[1, 2], [], [0]]
    for content in ("[[1, 2]", "{}", "[1, 2]", '[["1"]]', "[[0.5]]"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"real\.json"):
            load_real_labels(str(path))


def test_the_number_of_a_validation_image_is_in_its_name():
    assert validation_number("/a/n01440764/ILSVRC2012_val_00000293.JPEG", "here") == 292
    assert validation_number("ILSVRC2012_val_00050000_n01440764.JPEG", "here") == 49999
    for path in (None, "1.JPEG"):
        with pytest.raises(ValueError, match="ReaL labels are found by the images' file names"):
            validation_number(path, "here")


# Preprocessing


VIT = {"size": {"height": 16, "width": 16}, "resample": 2, "image_mean": HALF["mean"], "image_std": HALF["std"]}


def by_hand(image: Image.Image, size: tuple[int, int], side: int, resample: int) -> torch.Tensor:
    """Resizes to (rows, columns), cuts out a centred square, and normalises."""
    image = image.resize(size[::-1], Image.Resampling(resample))
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    pixels = torch.tensor(np.asarray(image.crop((left, top, left + side, top + side)))).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(HALF["mean"])[:, None, None]) / torch.tensor(HALF["std"])[:, None, None]


@pytest.mark.parametrize("processor_class", [ViTImageProcessor, ViTImageProcessorPil])
def test_without_other_values_the_processor_is_left_as_it_is(processor_class):
    for processor in (processor_class(**VIT), ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.8)):
        preprocessing = resolve_preprocessing(processor)
        expected = processor(picture(), return_tensors="pt")["pixel_values"][0]
        assert torch.equal(preprocessing(picture()), expected)
        assert preprocessing.image_size == (16, 16)


@pytest.mark.parametrize(
    ("options", "resized", "side", "resample", "crop_pct"),
    [
        ({}, (16, 16), 16, 2, 1.0),
        ({"interpolation": "bicubic"}, (16, 16), 16, 3, 1.0),
        ({"interpolation": "nearest"}, (16, 16), 16, 0, 1.0),
        ({"interpolation": "lanczos", "image_size": 12}, (12, 12), 12, 1, 1.0),
        ({"crop_pct": 0.8}, (20, 26), 16, 2, 0.8),
        ({"crop_pct": 1.0, "image_size": 10}, (10, 13), 10, 2, 1.0),
        ({"crop_pct": 0.5, "image_size": 10, "interpolation": "bicubic"}, (20, 26), 10, 3, 0.5),
    ],
)
def test_a_vit_s_images_are_resized_and_cropped_as_asked(options, resized, side, resample, crop_pct):
    preprocessing = resolve_preprocessing(ViTImageProcessorPil(**VIT), **options)
    expected = by_hand(picture(), resized, side, resample)
    torch.testing.assert_close(preprocessing(picture()), expected, atol=1e-5, rtol=1e-5)
    assert preprocessing.image_size == (side, side) and preprocessing.crop_pct == pytest.approx(crop_pct)
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
    assert preprocessing.interpolation == names[resample]


@pytest.mark.parametrize(
    ("options", "edge", "side"),
    [
        ({}, 20, 16),
        ({"image_size": 8}, 10, 8),
        ({"crop_pct": 0.5}, 32, 16),
        ({"crop_pct": 1.0, "image_size": 10, "interpolation": "bilinear"}, 10, 10),
    ],
)
def test_a_resnet_s_images_are_resized_and_cropped_as_asked(options, edge, side):
    processor = ConvNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_pct=0.8, resample=3, image_mean=HALF["mean"], image_std=HALF["std"]
    )
    preprocessing = resolve_preprocessing(processor, **options)
    image = picture(rows=20, columns=40)
    resample = 2 if "interpolation" in options else 3
    expected = by_hand(image, (edge, 2 * edge), side, resample)
    torch.testing.assert_close(preprocessing(image), expected, atol=1e-5, rtol=1e-5)
    assert preprocessing.image_size == (side, side)
    assert preprocessing.crop_pct == pytest.approx(options.get("crop_pct", 0.8))


def test_a_large_resnet_image_is_not_cropped():
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 384}, crop_pct=0.8, resample=0)
    with pytest.raises(ValueError, match="leave out --crop_pct"):
        resolve_preprocessing(processor, crop_pct=0.875)
    preprocessing = resolve_preprocessing(processor)
    assert preprocessing.crop_pct == 1.0
    ramp = np.broadcast_to(np.linspace(0, 255, 384)[None, :, None], (384, 384, 3)).astype(np.uint8)
    seen = preprocessing(Image.fromarray(ramp))[0]
    assert float(seen.max() - seen.min()) / 2 == pytest.approx(preprocessing.crop_pct, abs=0.03)


def test_a_processor_with_a_crop_keeps_its_part_of_the_side_at_another_size():
    processor = ViTImageProcessorPil(
        **{**VIT, "size": {"shortest_edge": 20}}, do_center_crop=True, crop_size={"height": 16, "width": 16}
    )
    own, other = resolve_preprocessing(processor), resolve_preprocessing(processor, image_size=8)
    assert (own.crop_pct, other.crop_pct) == (0.8, 0.8) and (own.image_size, other.image_size) == ((16, 16), (8, 8))
    torch.testing.assert_close(other(picture()), by_hand(picture(), (10, 13), 8, 2), atol=1e-5, rtol=1e-5)


# Counting


def counted(limit: int | None, message: str, batch_size: int = 8) -> dict:
    """An evaluation of a linear model that takes at most `limit` images at once."""
    rows = [{"image": {"bytes": as_bytes(picture(seed)), "path": f"{seed}"}, "label": seed % 7} for seed in range(22)]
    head = nn.Linear(3, 7)
    nn.init.orthogonal_(head.weight, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(head.bias)

    def forward(pixel_values: torch.Tensor) -> torch.Tensor:
        if limit is not None and len(pixel_values) > limit:
            raise RuntimeError(message)
        return head(pixel_values.mean((2, 3)))

    preprocessing = resolve_preprocessing(ViTImageProcessorPil(**VIT))
    data = LabelledImages(Dataset.from_list(rows), None, "here")
    return evaluate(forward, preprocessing, data, num_labels=7, batch_size=batch_size)


@pytest.mark.parametrize(("limit", "batch_size"), [(5, 4), (3, 2), (1, 1)])
def test_smaller_batches_are_tried_when_memory_runs_out(limit, batch_size):
    whole, parts = counted(None, ""), counted(limit, "CUDA out of memory. Tried to allocate 2.00 GiB")
    assert (whole["batch_size"], parts["batch_size"]) == (8, batch_size)
    for name in ("images", "top1", "top5", "corrupt"):
        assert parts[name] == whole[name]
    assert parts["loss"] == pytest.approx(whole["loss"], abs=1e-6) and whole["images"] == 22


def test_other_errors_and_a_single_image_too_many_are_raised():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        counted(3, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="out of memory"):
        counted(0, "CUDA out of memory. Tried to allocate 2.00 GiB")
