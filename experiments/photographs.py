# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""A pretrained ViT made faster: DINOv2-small with fewer layers or fewer patches, taught its own features."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoConfig, AutoModel, PreTrainedModel, set_seed

from cp_transformers.demo.comparison import learn
from cp_transformers.demo.dinov2_small import DINOV2_SMALL, onnx_file, save_stock
from cp_transformers.demo.image import CROP, crops, differences, draw_batches, last_hidden_states, normalized
from cp_transformers.demo.photographs import load_photographs
from cp_transformers.demo.text import classified_right
from cp_transformers.training.digits import load_digits

from .task import Metric, Run, Task, made_faster


POOL_RATE = 3e-3
# Of the photographs of rooms the last ones are not learned from: they choose the learning rates.
VALIDATION_PHOTOGRAPHS = 6
CROPS = {"train": 960, "validation": 120, "test": 140}
DIGITS, DIGIT_SIDE = 1000, 84


class Photographs(Task):
    """DINOv2-small with some of its `layers`, or with fewer patches by `halve_before` or `pool_strides`.

    Each arm learns the full model's class token and the means of its 2 x 2 patches on crops of photographs, but for
    those with `distilled: false`; the loss is the sum of both distances, each 1 - cosine. Batches are of 8 crops. What
    it then reaches is measured on crops of other photographs, and by a linear model on its class tokens of digits,
    which it has never seen.
    """

    unit = "crops"
    head = AutoModel
    metrics = (
        Metric("error", "1 - cosine", decimals=4, lower_is_better=True),
        Metric("class_token", "of the class token", decimals=4, lower_is_better=True),
        Metric("squares", "of 2 x 2 patches", decimals=4, lower_is_better=True),
        Metric("patches", "of each patch", decimals=4, lower_is_better=True),
        Metric("digits", "digits, %", 100),
    )
    config = {}

    def prepare(self) -> None:
        onnx_file()
        load_photographs()
        load_digits()

    def make_model(self, options: Mapping[str, Any], head: Any) -> PreTrainedModel:
        return made_faster(self.full(), options)

    def inputs(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(1, 3, CROP, CROP, generator=torch.Generator().manual_seed(0))}

    def examples(self, number: int) -> list[dict[str, torch.Tensor]]:
        return [{"pixel_values": each[None]} for each in self.crops()["validation"][:number]]

    @staticmethod
    @lru_cache(maxsize=1)
    def full() -> PreTrainedModel:
        """The full model, with random weights until [`load_weights`] is called: an experiment can be read without."""
        return AutoModel.from_config(AutoConfig.for_model("dinov2", **DINOV2_SMALL)).eval()

    @staticmethod
    @lru_cache(maxsize=1)
    def load_weights() -> None:
        """Gives the full model its weights."""
        with tempfile.TemporaryDirectory() as folder:
            save_stock(onnx_file(), Path(folder, "dinov2-small"))
            stock = AutoModel.from_pretrained(Path(folder, "dinov2-small"))
        Photographs.full().load_state_dict(stock.state_dict())

    @staticmethod
    @lru_cache(maxsize=1)
    def crops() -> dict[str, torch.Tensor]:
        """For each split the crops, `(crops, 3, pixels, pixels)`."""
        photographs = load_photographs()
        rooms, others = photographs["train"], photographs["test"]
        of_split = {"train": rooms[:-VALIDATION_PHOTOGRAPHS], "validation": rooms[-VALIDATION_PHOTOGRAPHS:]}
        of_split["test"] = others
        return {name: crops(images, CROPS[name], seed=0) for name, images in of_split.items()}

    @staticmethod
    @lru_cache(maxsize=1)
    def digits() -> dict[str, tuple[torch.Tensor, list[int]]]:
        """For each split the digits as colour images, `(images, 3, pixels, pixels)`, and which they are."""
        disable_progress_bars()

        def tensors(split: Dataset) -> tuple[torch.Tensor, list[int]]:
            rows = split.select(range(DIGITS))
            size = DIGIT_SIDE, DIGIT_SIDE
            images = (each.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC) for each in rows["image"])
            return torch.stack([normalized(each) for each in images]), rows["label"][:]

        return {name: tensors(split) for name, split in load_digits().items()}

    @staticmethod
    @lru_cache(maxsize=3)
    def known_targets(split: str) -> dict[int, torch.Tensor]:
        """The full model's last hidden states, `(tokens, channels)`, by the crop of a split: those found so far."""
        return {}

    def targets(self, split: str, chosen: Sequence[int]) -> torch.Tensor:
        """`(crops, tokens, channels)`, the full model's last hidden states of some crops of a split."""
        known = self.known_targets(split)
        if missing := [index for index in chosen if index not in known]:
            known |= zip(missing, last_hidden_states(self.full(), self.crops()[split][missing]))
        return torch.stack([known[index] for index in chosen])

    def run(self, run: Run) -> tuple[PreTrainedModel, dict[str, float | None]]:
        self.load_weights()
        set_seed(run.seed)
        model = run.make_model(self.head).eval()
        if run.options.get("distilled", True):
            self.teach(model, run)
        return model, self.measure(model, run)

    def teach(self, model: PreTrainedModel, run: Run) -> None:
        chosen = run.choose(CROPS["train"]).tolist()
        train, targets = self.crops()["train"][chosen], self.targets("train", chosen)
        batches = draw_batches(len(chosen), run.steps, run.seed)

        def loss(student: Any, step: int) -> torch.Tensor:
            found = differences(student(train[batches[step]]).last_hidden_state, targets[batches[step]])
            return found["class_token"].mean() + found["squares"].mean()

        learn(None, model, loss, steps=run.steps, learning_rate=run.learning_rate, pool_learning_rate=POOL_RATE)

    def measure(self, model: PreTrainedModel, run: Run) -> dict[str, float | None]:
        held_out = self.crops()[run.split][: run.held_out]
        states, targets = last_hidden_states(model, held_out), self.targets(run.split, range(len(held_out)))
        found = {name: float(each.clamp(min=0).mean()) for name, each in differences(states, targets).items()}

        def embedded(split: str) -> tuple[torch.Tensor, list[int]]:
            images, labels = self.digits()[split]
            return last_hidden_states(model, images[: run.held_out])[:, 0], labels[: run.held_out]

        right = classified_right(*embedded("train"), *embedded(run.split))
        return {"error": (found["class_token"] + found["squares"]) / 2, **found, "digits": float(right.mean())}
