# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Models compared by what they compute on the same inputs, and by the keys of their weights."""

import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch.func import functional_call
from transformers import PreTrainedConfig, PreTrainedModel

from ..families import max_tokens, tower_config
from .reading import UNTRUSTED, CheckpointError


def example_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Seeded inputs for a model: token ids of mixed lengths, padded on the right; or images, of the size that its
    configuration names where it does, and for masked image modelling masked patches."""
    config, generator = tower_config(model.config), torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", (96, 64))
        height, width = (size, size) if isinstance(size, int) else size
        inputs = {"pixel_values": torch.randn(2, config.num_channels, height, width, generator=generator)}
        # Upstream's loss divides the sizes, so that they must be numbers there.
        stride = getattr(config, "encoder_stride", getattr(config, "patch_size", None))
        masks = type(model).__name__.endswith("ForMaskedImageModeling") and getattr(config, "use_mask_token", True)
        if masks and size == height and stride == config.patch_size:
            num_patches = (size // stride) ** 2
            inputs["bool_masked_pos"] = torch.rand(2, num_patches, generator=generator) < 0.5
        return inputs
    longest = min(64, max_tokens(config))
    lengths = torch.tensor([longest, max(1, longest // 2), max(1, longest // 8), 1])
    input_ids = torch.randint(config.vocab_size, (len(lengths), longest), generator=generator)
    attention_mask = (torch.arange(longest) < lengths[:, None]).long()
    if config.pad_token_id is not None:
        input_ids = input_ids.masked_fill(attention_mask == 0, config.pad_token_id)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if type(model).__name__.endswith("ForMultipleChoice"):
        inputs = {name: tensor.unflatten(0, (2, 2)) for name, tensor in inputs.items()}  # two examples, two choices
    return inputs


def _placed_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The [`example_inputs`] on the model's device, the images in its dtype."""
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in example_inputs(model).items()
    }


@torch.no_grad()
def parity(model: PreTrainedModel, other: PreTrainedModel) -> float:
    """The largest absolute difference between any outputs of the two models, hidden states included, on the same
    seeded inputs ([`example_inputs`]); NaN if there is one among the outputs. Both are put into evaluation mode, and
    are otherwise left as they are."""
    inputs = _placed_inputs(model)
    pairs = zip(*(list(_tensors(_aligned_outputs(each, inputs))) for each in (model, other)), strict=True)
    differences = [(a.double() - b.double()).abs().max().item() for a, b in pairs]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


@torch.no_grad()
def hidden_state_distances(model: PreTrainedModel, other: PreTrainedModel) -> dict[str, float]:
    """The distances of the last hidden states of two models, as 1 - cosine, on the inputs of [`parity`]: `tokens` is
    the mean over all tokens, and `mean` compares the mean of each example's tokens."""
    inputs = _placed_inputs(model)
    ours, theirs = (
        each.eval()(**inputs, output_hidden_states=True, return_dict=True).hidden_states[-1].double()
        for each in (model, other)
    )
    mask = inputs.get("attention_mask", ours.new_ones(ours.shape[:2])).reshape(ours.shape[:2]).double()
    our_mean, their_mean = ((states * mask[..., None]).sum(dim=1) for states in (ours, theirs))
    tokens = ((1 - F.cosine_similarity(ours, theirs, dim=-1)) * mask).sum() / mask.sum()
    return {"tokens": tokens.item(), "mean": (1 - F.cosine_similarity(our_mean, their_mean, dim=-1)).mean().item()}


def _aligned_outputs(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> tuple:
    """The outputs of a model, computed with every tensor in new memory, so that equal weights give equal outputs.
    Loaded weights stay where they lie in their file, and on some processors a product's last bit depends on how its
    operands are aligned."""
    tensors = {name: each.clone() for name, each in (*model.named_parameters(), *model.named_buffers())}
    arguments = {**inputs, "output_hidden_states": True, "return_dict": True}
    return functional_call(model.eval(), tensors, (), arguments).to_tuple()


def _tensors(output: Any) -> Iterable[torch.Tensor]:
    """The tensors in nested tuples, in order."""
    if isinstance(output, torch.Tensor):
        yield output
    else:
        for part in output:
            yield from _tensors(part)


def load_and_compare_keys(
    model_class: Any, folder: Path, config: PreTrainedConfig
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """A checkpoint's model, the keys that its weights lack, and the keys that its class does not have. A bare model is
    made without a pooler where the weights have none, as those of DINO, and with a mask token where they have one."""
    options: dict[str, bool] = {}
    for _ in range(2):
        model, info = model_class.from_pretrained(
            folder, config=config, output_loading_info=True, **UNTRUSTED, **options
        )
        missing, unexpected = (sorted(info[f"{kind}_keys"]) for kind in ("missing", "unexpected"))
        if any(key.startswith("pooler.") for key in missing) and _takes_option(model_class, "add_pooling_layer"):
            options["add_pooling_layer"] = False
        if "embeddings.mask_token" in unexpected and _takes_option(model_class, "use_mask_token"):
            options["use_mask_token"] = True
        if not options:
            break
    return model, missing, unexpected


def build_options(model: PreTrainedModel) -> dict[str, bool]:
    """The options that a bare model was built with, besides its configuration."""
    options = {}
    if getattr(model, "pooler", model) is None and _takes_option(type(model), "add_pooling_layer"):
        options["add_pooling_layer"] = False
    masks = getattr(getattr(model, "embeddings", None), "mask_token", None) is not None
    if masks and _takes_option(type(model), "use_mask_token"):
        options["use_mask_token"] = True
    return options


def _takes_option(model_class: type[PreTrainedModel], option: str) -> bool:
    """Whether the constructor of a model, stock or CP, takes an option besides the configuration."""
    constructors = [vars(each)["__init__"] for each in model_class.__mro__ if "__init__" in vars(each)]
    return any(option in inspect.signature(each).parameters for each in constructors)


def check_written(folder: Path, model: PreTrainedModel) -> None:
    """Loads the checkpoint that was written of a model, and compares every tensor.

    Raises:
        CheckpointError: a tensor or a key differs.
    """
    loaded, info = type(model).from_pretrained(folder, output_loading_info=True, **build_options(model))
    expected = model.state_dict()
    same = all(torch.equal(tensor, expected[key].cpu()) for key, tensor in loaded.state_dict().items())
    if not same or any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise CheckpointError(f"What was written cannot be loaded as it was saved ({info}); nothing was kept.")


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' report on the keys of a checkpoint, for those who check the keys themselves."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
