# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Evaluation of image classifiers: exact counts, whatever is wrong with an image, however many processes share the
work, and also where they are stopped and go on."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from transformers import AutoModelForImageClassification, TrainingArguments
from transformers.utils.logging import tqdm

from ..files import write_json
from .image_data import (
    CorruptImage,
    LabelledImages,
    as_pair,
    decode,
    load_processor,
    model_label,
    normalization,
    resolve_preprocessing,
    validation_number,
)
from .imagenet_arguments import ImageNetArguments
from .loading import fixed_image_size, load_model
from .metrics import check_finite


def evaluate_checkpoint(
    name: str,
    arguments: ImageNetArguments,
    training: TrainingArguments,
    data: LabelledImages,
    to_model: Sequence[int] | None,
    real_labels: Sequence[Sequence[int]] | None,
    progress: Path,
) -> dict[str, Any]:
    """Top-1, top-5, loss and more of a checkpoint; see [`evaluate`]. Goes on from `progress` where that is there and
    the run is one that is to be gone on with."""
    model = load_model(name, AutoModelForImageClassification).eval().to(training.device)
    preprocessing = resolve_preprocessing(
        load_processor(name), arguments.image_size, arguments.crop_pct, arguments.interpolation
    )
    weights = hash_weights(model)
    if training.bf16_full_eval:
        model = model.to(torch.bfloat16)
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    parameters = model.num_parameters()
    options = {}
    own_size = fixed_image_size(model)
    if own_size is not None and preprocessing.image_size != as_pair(own_size):
        options["interpolate_pos_encoding"] = True
    if training.torch_compile:
        model = torch.compile(model, backend=training.torch_compile_backend, mode=training.torch_compile_mode)

    def forward(pixel_values: torch.Tensor) -> torch.Tensor:
        pixel_values = pixel_values.to(training.device, non_blocking=True)
        if arguments.channels_last:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if training.bf16_full_eval:
            pixel_values = pixel_values.to(torch.bfloat16)
        with torch.autocast(training.device.type, torch.bfloat16, enabled=training.bf16):
            return model(pixel_values=pixel_values, **options).logits.float()

    counted = evaluate(
        forward,
        preprocessing,
        data,
        num_labels=model.config.num_labels,
        to_model=to_model,
        real_labels=real_labels,
        batch_size=training.per_device_eval_batch_size,
        num_workers=training.dataloader_num_workers,
        shard=(training.process_index, training.world_size),
        progress=progress,
        resume=training.resume_from_checkpoint is not None,
        show_progress=not training.disable_tqdm,
        fingerprint=f"{weights} {preprocessing.options} {preprocessing.image_size} {preprocessing.crop_pct} "
        f"{preprocessing.interpolation} {normalization(preprocessing.processor)} {training.bf16} "
        f"{training.bf16_full_eval} {arguments.real_labels} {arguments.max_eval_samples}",
    )
    reduced = training.bf16 or training.bf16_full_eval
    return {
        "model": name,
        **counted,
        "parameters": parameters,
        "image_size": "x".join(map(str, dict.fromkeys(preprocessing.image_size))),
        "crop_pct": round(preprocessing.crop_pct, 4),
        "interpolation": preprocessing.interpolation,
        "dtype": "bfloat16" if reduced else "float32",
    }


def hash_weights(model: torch.nn.Module) -> str:
    """A digest that is equal for models with equal parameters and buffers alone."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass
class Count:
    """The counts of a process so far, and `of`, by which it is known what they are of."""

    of: str
    done: int = 0
    images: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0
    real: int = 0
    real_images: int = 0
    corrupt_images: list[str] = field(default_factory=list)


@torch.inference_mode()
def evaluate(
    forward: Callable[[torch.Tensor], torch.Tensor],
    preprocessing: Callable[[Any], torch.Tensor],
    data: LabelledImages,
    *,
    num_labels: int,
    to_model: Sequence[int] | None = None,
    real_labels: Sequence[Sequence[int]] | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    shard: tuple[int, int] = (0, 1),
    progress: Path | None = None,
    resume: bool = False,
    show_progress: bool = False,
    fingerprint: str = "",
) -> dict[str, Any]:
    """Counts right predictions. What cannot be read is counted, named and left out.

    Args:
        forward: from pixel values to logits, `(batch, labels)`. When it runs out of memory, half the batch is tried.
        preprocessing: from a PIL image to pixel values.
        data: see [`LabelledImages`].
        num_labels: of the model.
        to_model: for each label of the data, the model's.
        real_labels: for each image of ImageNet's validation set, the labels that are right.
        batch_size, num_workers: of loading.
        shard: which of how many parts of the data this process takes; what it returns is of all of them.
        progress: a file that keeps the count so far, so that a run that is killed can go on.
        resume: whether to go on from what is there.
        show_progress: whether to show a progress bar.
        fingerprint: of what is measured; a count of anything else is not gone on with.

    Returns:
        `top1`, `top5`, `real_top1` (None without `real_labels`), `loss`, `images`, `corrupt`, `corrupt_images`,
        `batch_size` (as memory allowed) and `images_per_second` (of `forward`, in this process, in full
        batches but the first; None without).

    Raises:
        ValueError: a label is not one of the model's, or no image can be read.
    """
    rank, world = shard
    rows = data.rows
    if world > 1 and isinstance(rows, Dataset):
        rows = rows.shard(num_shards=world, index=rank, contiguous=False)
    elif world > 1:
        rows = split_dataset_by_node(rows, rank, world)
    size = len(rows) if isinstance(rows, Dataset) else None
    count = Count(of=f"{fingerprint} {data.where} {size}")
    if progress is not None and resume and progress.is_file():
        earlier = Count(**json.loads(progress.read_text(encoding="utf-8")))
        count = earlier if earlier.of == count.of else count
    batches = _batches(rows, count.done, batch_size, num_workers, preprocessing)
    seconds, timed, limit = 0.0, 0, batch_size
    bar = tqdm(initial=count.done, total=size, unit="image", disable=not (show_progress and rank == 0))
    for number, batch in enumerate(batches):
        good = [example for example in batch if example["pixel_values"] is not None]
        count.corrupt_images += [example["error"] for example in batch if example["pixel_values"] is None]
        if good:
            labels = torch.tensor([model_label(row["label"], to_model, num_labels, data.where) for row in good])
            pixel_values = torch.stack([example["pixel_values"] for example in good])
            start = time.perf_counter()
            logits, limit = _forward_in_parts(forward, pixel_values, limit)
            logits = logits.cpu()
            if number and len(good) == batch_size:  # a batch of another size may have to be compiled
                seconds, timed = seconds + time.perf_counter() - start, timed + len(good)
            best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
            right = best == labels[:, None]
            count.images += len(good)
            count.top1 += int(right[:, 0].sum())
            count.top5 += int(right.sum())
            count.loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            if real_labels is not None:
                for example, guess in zip(good, best[:, 0].tolist()):
                    index = validation_number(example["path"], data.where)
                    allowed = real_labels[index] if index < len(real_labels) else []
                    count.real += guess in allowed
                    count.real_images += bool(allowed)
        count.done += len(batch)
        bar.update(len(batch))
        if progress is not None and number % 20 == 19:
            write_json(progress, dataclasses.asdict(count))
    bar.close()
    if progress is not None:
        write_json(progress, dataclasses.asdict(count))
    parts = gather_object([count]) if world > 1 else [count]
    images, real_images = sum(part.images for part in parts), sum(part.real_images for part in parts)
    if not images:
        raise ValueError(f"{data.where} has no image that can be read.")
    check_finite(sum(part.loss for part in parts))
    corrupt = sorted(image for part in parts for image in part.corrupt_images)
    return {
        "top1": sum(part.top1 for part in parts) / images,
        "top5": sum(part.top5 for part in parts) / images,
        "real_top1": sum(part.real for part in parts) / real_images if real_images else None,
        "loss": sum(part.loss for part in parts) / images,
        "images": images,
        "corrupt": len(corrupt),
        "corrupt_images": corrupt,
        "batch_size": limit,
        "images_per_second": round(timed / seconds, 1) if timed else None,
    }


def _forward_in_parts(
    forward: Callable[[torch.Tensor], torch.Tensor], pixel_values: torch.Tensor, limit: int
) -> tuple[torch.Tensor, int]:
    """The logits of a batch, in parts of at most `limit` images, and how many of them memory has room for."""
    while True:
        try:
            return torch.cat([forward(part) for part in pixel_values.split(limit)]), limit
        except RuntimeError as error:
            if not should_reduce_batch_size(error) or limit == 1:
                raise
        limit = (min(limit, len(pixel_values)) + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Preprocessed(torch.utils.data.Dataset):
    """Rows with pixel values, None where the image cannot be read."""

    def __init__(self, rows: Any, preprocessing: Callable):
        self.rows, self.preprocessing = rows, preprocessing

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(self.rows[index])

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        example = {"label": row["label"], "path": (row["image"] or {}).get("path"), "pixel_values": None}
        try:
            return {**example, "pixel_values": self.preprocessing(decode(row["image"]))}
        except CorruptImage as error:
            return {**example, "error": str(error)}


class PreprocessedStream(torch.utils.data.IterableDataset):
    """The examples of rows that are streamed, as of [`Preprocessed`], without the first `done`. (`rows.skip`, of rows
    that are split among processes, may skip as many of all.)"""

    def __init__(self, rows: IterableDataset, preprocessing: Callable, done: int):
        self.rows, self.read, self.done = rows, Preprocessed(None, preprocessing).read, done

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.read, islice(self.rows, self.done, None))


def _batches(
    rows: Dataset | IterableDataset, done: int, batch_size: int, num_workers: int, preprocessing: Callable
) -> Any:
    """Lists of examples, those not yet done."""
    examples: torch.utils.data.Dataset
    if isinstance(rows, IterableDataset):
        examples = PreprocessedStream(rows, preprocessing, done)
        num_workers = min(num_workers, 1)  # with more, the order and so the number that is done would be lost
    else:
        examples = Preprocessed(rows.select(range(done, len(rows))), preprocessing)
    return torch.utils.data.DataLoader(examples, batch_size=batch_size, num_workers=num_workers, collate_fn=list)
