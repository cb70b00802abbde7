# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The speed of checkpoints of one's own, CP or stock, side by side: `cp-transformers benchmark --models`.

Each is run as it is saved, with its head, on random inputs: all texts of one length, and images of the size that a
checkpoint's configuration names.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from ..checkpoints.reading import CheckpointError
from ..families import auto_class_of, max_tokens, tower_config
from ..files import write_csv
from ..training.loading import load_config, load_model
from .models import COLUMNS, measure_side_by_side, show
from .timing import dtype_on


LENGTH = 128  # of texts, unless another is asked for or a model has fewer positions


def load(name: str) -> PreTrainedModel:
    """A checkpoint's model, with its head where that takes what the bare model takes.

    Raises:
        CheckpointError, ValueError: see [`~cp_transformers.training.loading.load_config`].
    """
    config = load_config(name, AutoModel)
    head = (config.architectures or [""])[0].rpartition("For")[2]
    heads = auto_class_of(head) if head != "MultipleChoice" else AutoModel
    return load_model(name, heads if type(config) in heads._model_mapping else AutoModel)


def make_inputs(model: PreTrainedModel, batch: int, length: int | None) -> dict[str, torch.Tensor]:
    """Random texts of `length` tokens, or images of the size that the model's configuration names, else of 224."""
    config, generator = tower_config(model.config), torch.Generator().manual_seed(0)
    if length is None:
        size = getattr(config, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.rand(batch, config.num_channels, height, width, generator=generator)}
    input_ids = torch.randint(config.vocab_size, (batch, length), generator=generator)
    if config.pad_token_id is not None:
        input_ids = input_ids.masked_fill(input_ids == config.pad_token_id, (config.pad_token_id + 1) % 2)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def common_length(models: dict[str, PreTrainedModel], length: int | None) -> int | None:
    """The tokens of the texts that all models are given; None for images.

    Raises:
        ValueError: some read texts and others images, or `length` is not for these models.
    """
    texts = {name for name, model in models.items() if model.main_input_name == "input_ids"}
    if texts and len(texts) < len(models):
        raise ValueError("Some of the models read texts and others images; measure those of each kind by themselves.")
    if not texts:
        if length is not None:
            raise ValueError("--length is for texts, and these models read images, of the size that each names.")
        return None
    longest = {name: max_tokens(model.config) for name, model in models.items()}
    limits = {name: tokens for name, tokens in longest.items() if tokens > 0}  # not those of relative positions
    for name, tokens in limits.items():
        if length is not None and length > tokens:
            raise ValueError(f"{name} has positions for {tokens} tokens: give a --length of no more.")
    return min([LENGTH, *limits.values()]) if length is None else length


def run_checkpoints(
    output: Path,
    names: Sequence[str],
    batch: int,
    length: int | None,
    rounds: int,
    threads: int,
    seconds: float = math.inf,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measures the checkpoints against the first of them, prints what is found and writes it to a CSV file.

    Args:
        names: folders, or ids of models on the Hub.
        batch: texts or images at a time.
        length: tokens of each text; None for 128, or as many as all models have positions for.

    Raises:
        ValueError: a checkpoint is named twice, or see [`load`] and [`common_length`].
        OSError: the file cannot be written.
    """
    if len(set(names)) < len(names):
        raise ValueError("--models names a checkpoint twice.")
    models = {name: load(name) for name in names}
    length = common_length(models, length)
    measured = {}
    for name, model in models.items():
        inputs = {key: each.to(device) for key, each in make_inputs(model, batch, length).items()}
        inputs = {key: each.to(dtype_on(device)) if each.is_floating_point() else each for key, each in inputs.items()}
        measured[name] = model.to(device, dtype_on(device)), inputs
    title = f"batches of {batch}" + ("" if length is None else f", {length} tokens")
    sizes = {"group": title, "tokens": length or "", "batch": batch}
    rows = show(title, measure_side_by_side(measured, sizes, rounds, seconds, device), threads, device)
    if not rows:
        raise CheckpointError(f"{names[0]} does not fit into the memory: give a smaller --batch.")
    for row in rows:
        if row["pass"] == "forward":
            print(f"{row['model']}: {row['items_per_second']:g} {'texts' if length else 'images'} a second")
    write_csv(output, COLUMNS, ([row[column] for column in COLUMNS] for row in rows))
    return rows
