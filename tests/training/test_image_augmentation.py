# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Labelled images in training: random changes, mixtures, and others in the place of damaged ones."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from image_cases import HALF, as_bytes, picture
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms.v2 import functional as T
from transformers import ViTImageProcessorPil

from cp_transformers.training.image_data import (
    INTERPOLATIONS,
    Augmentation,
    CorruptImage,
    MixingCollator,
    TrainingImages,
    decode,
    normalization,
)
from cp_transformers.training.image_training import CorruptImages
from cp_transformers.training.rows import DrawnAnew, Stream


OFF = {"crop_min_scale": 1.0, "flip": 0.0, "rand_augment": 0, "random_erasing": 0.0}
ALL = {"crop_min_scale": 0.1, "flip": 0.5, "rand_augment": 9, "random_erasing": 0.5}


def test_what_is_drawn_differs_from_epoch_to_epoch_and_row_to_row_and_not_otherwise():
    draws = DrawnAnew(["row"] * 5, lambda row, seed: seed, seed=1)
    first = [draws[index] for index in range(5)]
    draws.set_epoch(1)
    second = [draws[index] for index in range(5)]
    assert len(set(first + second)) == 10
    draws.set_epoch(0)
    assert [draws[index] for index in range(5)] == first
    assert [DrawnAnew(["row"] * 5, lambda row, seed: seed, seed=2)[index] for index in range(5)] != first


def test_the_same_seed_gives_the_same_change_whatever_else_is_drawn():
    augment = Augmentation((16, 16), **ALL, **HALF)
    changed = [augment(picture(), seed) for seed in range(8)]
    assert len({tuple(each.flatten().tolist()) for each in changed}) == 8
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = [augment(picture(), seed) for seed in range(8)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one, other) for one, other in zip(changed, again))
    assert all(each.shape == (3, 16, 16) and each.dtype == torch.float32 for each in changed)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_without_changes_images_are_resized_and_normalised(mode):
    augment = Augmentation((12, 16), **OFF, **HALF, interpolation=mode)
    resized = picture().resize((16, 12), Image.Resampling[mode.upper()])
    expected = T.normalize(T.to_dtype(T.to_image(resized), torch.float32, scale=True), **HALF)
    assert torch.equal(augment(picture(), 3), expected)


@pytest.mark.parametrize("fields", [{}, {"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}])
def test_training_sees_the_numbers_that_the_image_processor_gives(fields):
    processor = ViTImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4], **fields
    )
    image = picture().resize((16, 16))
    mean, std = normalization(processor)
    ours = Augmentation((16, 16), **OFF, mean=mean, std=std)(image, 0)
    assert_close(ours, processor(image, return_tensors="pt")["pixel_values"][0])


def test_flipping_always_mirrors_the_image():
    plain, flipped = (Augmentation((16, 16), **{**OFF, "flip": flip}, **HALF)(picture(), 0) for flip in (0.0, 1.0))
    assert torch.equal(flipped, plain.flip(-1))


def test_crops_are_of_at_least_the_area_asked_for():
    # Each pixel of a ramp shows its column: the range that is seen is the width of the crop.
    ramp = Image.fromarray(np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 64, 3)).copy())
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3}

    def narrowest(scale: float) -> float:
        augment = Augmentation((64, 64), **{**OFF, "crop_min_scale": scale}, **plain, interpolation="nearest")
        widths = [float(seen.max() - seen.min()) for seen in (augment(ramp, seed) for seed in range(40))]
        return min(widths)

    assert narrowest(0.9) > 0.75 > narrowest(0.05)


def rows_with(*contents: bytes | None) -> list[dict]:
    """Rows with these contents, a picture for None."""
    return [
        {"image": {"bytes": content or as_bytes(picture(index)), "path": f"{index}.png"}, "label": index}
        for index, content in enumerate(contents)
    ]


def draw(row: dict, seed: int) -> int:
    decode(row["image"])
    return row["label"]


def test_the_next_image_takes_the_place_of_one_that_cannot_be_read(tmp_path):
    report = CorruptImages(tmp_path / "corrupt.txt")
    images = TrainingImages(rows_with(None, b"text", b"text", None, b"text"), draw, 0, report)
    for _ in range(2):  # the second time, nothing is reported anew
        assert [images[index] for index in range(5)] == [0, 3, 3, 3, 0]
    lines = (tmp_path / "corrupt.txt").read_text().splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["1.png", "2.png", "4.png"]


def test_training_images_end_after_the_last(tmp_path):
    images = TrainingImages(rows_with(None, None, b"text"), draw, 0, lambda message: None)
    assert list(itertools.islice(images, 9)) == [0, 1, 0] and images[-1] == 0
    for index in (3, 7, -4):
        with pytest.raises(IndexError):
            images[index]


def test_another_process_does_not_name_an_image_again(tmp_path):
    for _ in range(2):
        CorruptImages(tmp_path / "corrupt.txt")("1.png: broken")
    assert (tmp_path / "corrupt.txt").read_text() == "1.png: broken\n"


def test_an_image_is_named_although_its_name_is_the_end_of_another_s(tmp_path):
    for name in ("11.png: broken", "1.png: broken"):
        CorruptImages(tmp_path / "corrupt.txt")(name)
    assert (tmp_path / "corrupt.txt").read_text() == "11.png: broken\n1.png: broken\n"


def test_training_without_a_single_image_that_can_be_read_is_refused():
    with pytest.raises(ValueError, match="None of the training images can be read"):
        TrainingImages(rows_with(b"text", b"text"), draw, 0, lambda message: None)[0]


def test_a_stream_leaves_out_what_cannot_be_read():
    rows, messages = Dataset.from_list(rows_with(None, b"text", None, None)).to_iterable_dataset(), []
    images = Stream(rows, lambda row, seed: (draw(row, seed), seed), 0, CorruptImage, messages.append)
    drawn = list(itertools.islice(images, 6))
    assert [label for label, _ in drawn] == [0, 2, 3, 0, 2, 3] and len({seed for _, seed in drawn}) == 6
    assert [text.split(":")[0] for text in messages] == ["1.png", "1.png"]


def test_a_stream_of_which_nothing_can_be_read_ends():
    rows = Dataset.from_list(rows_with(b"text", b"text")).to_iterable_dataset()
    assert list(Stream(rows, draw, 0, CorruptImage, lambda message: None)) == []


def test_workers_that_share_a_stream_draw_with_seeds_of_their_own():
    rows = Dataset.from_list(rows_with(*[None] * 8)).to_iterable_dataset(num_shards=2)
    loader = torch.utils.data.DataLoader(
        Stream(rows, lambda row, seed: seed, 0), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    seeds = list(itertools.islice(loader, 16))
    assert len(set(seeds)) == 16


def batch(seed: int = 0, count: int = 6) -> list[dict]:
    """Each image has its own constant colour, so that a mixed one tells what it was made of."""
    values = [{"pixel_values": torch.full((3, 8, 8), float(index)), "labels": index} for index in range(count)]
    return [{**each, "seed": seed + index} for index, each in enumerate(values)]


def test_without_mixing_labels_stay_numbers():
    mixed = MixingCollator(6)(batch())
    assert mixed["labels"].tolist() == list(range(6)) and mixed["labels"].dtype == torch.long
    assert mixed["pixel_values"][:, 0, 0, 0].tolist() == list(range(6)) and set(mixed) == {"pixel_values", "labels"}


def test_evaluation_is_not_mixed():
    without_seed = [{name: value for name, value in each.items() if name != "seed"} for each in batch()]
    assert MixingCollator(6, 0.8, 1.0)(without_seed)["labels"].tolist() == list(range(6))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_labels_are_the_parts_of_the_images(mixup, cutmix):
    collate = MixingCollator(6, mixup, cutmix)
    kinds = set()
    for seed in range(12):
        mixed = collate(batch(seed))
        labels, pixel_values = mixed["labels"], mixed["pixel_values"]
        assert labels.shape == (6, 6) and (labels >= 0).all() and (labels <= 1).all()
        torch.testing.assert_close(labels.sum(-1), torch.ones(6))
        # The mean colour is the labels' mean, whether images are blended or put together of two.
        mean = (labels * torch.arange(6.0)).sum(-1)
        torch.testing.assert_close(pixel_values.mean((1, 2, 3)), mean, atol=1e-4, rtol=1e-4)
        kinds.add(bool((pixel_values.amin((1, 2, 3)) == pixel_values.amax((1, 2, 3))).all()))
        assert all(torch.equal(collate(batch(seed))[name], mixed[name]) for name in mixed)
    assert (True in kinds) if mixup else True
    assert (False in kinds) if cutmix else kinds == {True}


def test_mixup_blends_with_the_image_before():
    for seed in range(5):
        mixed = MixingCollator(6, mixup=0.8)(batch(seed))
        share = mixed["labels"].diagonal()
        assert torch.allclose(share, share[:1])
        index = torch.arange(6.0)
        expected = share * index + (1 - share) * index.roll(1)
        torch.testing.assert_close(mixed["pixel_values"][:, 1, 2, 3], expected)
        one_hot = torch.eye(6)
        torch.testing.assert_close(mixed["labels"], share[0] * one_hot + (1 - share[0]) * one_hot.roll(1, 0))


def test_what_is_drawn_leaves_all_generators_alone(monkeypatch):
    """A GPU's, too, by which a model in the same process draws its dropout."""

    def seeded_for_all_devices(*args):
        raise AssertionError("Drawing an image has seeded other devices.")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded_for_all_devices)
    before = torch.get_rng_state()
    mixed = [MixingCollator(6, 0.8, 1.0)(batch(seed))["labels"] for seed in range(3)]
    assert not torch.equal(mixed[0], mixed[1])
    augment = Augmentation((8, 8), 0.5, 0.5, 9, 0.5, [0.5] * 3, [0.5] * 3, "bilinear")
    assert not torch.equal(*(augment(picture(), seed) for seed in (0, 1)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_interpolation_goes_with_randaugment(interpolation):
    augment = Augmentation((8, 8), 0.5, 0.5, 9, 0.0, [0.5] * 3, [0.5] * 3, interpolation)
    for seed in range(30):
        assert augment(picture(), seed).shape == (3, 8, 8)
