# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Configurations, models and tokenizers for the training commands: of checkpoints, without code of their own and not
from pickles, and of new models."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..checkpoints.reading import (
    UNTRUSTED,
    check_tokenizer,
    fetch,
    forget_code,
    read_model_type,
    reading,
    weight_files,
)
from ..families import family_of, tower_config
from .arguments import as_mapping


def load_config(name: str, auto_class: Any, **options: Any) -> PreTrainedConfig:
    """The configuration of a checkpoint for one of the Auto classes.

    Raises:
        CheckpointError: the checkpoint does not exist, or cannot be had, or is damaged, or needs code of its own or
            pickles.
        ValueError: the checkpoint is of a kind of model that the Auto class does not have.
    """
    folder = fetch(name)[0]
    read_model_type(folder)
    weight_files(folder)
    with reading(f"{name}: config.json"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
    if type(config) not in auto_class._model_mapping:
        raise ValueError(
            f"{name} is a model of type {config.model_type}, for which there is no {auto_class.__name__}."
        )
    return config


def load_model(name: str, auto_class: Any, **options: Any) -> PreTrainedModel:
    """A checkpoint's model in float32, whatever it is stored in; without code of its own, and not from pickles. Its
    configuration is to be read first by [`load_config`], which checks the files. Of two towers, of images and of
    texts, `AutoModel` gives that of the images.

    Raises:
        CheckpointError: the model cannot be loaded.
    """
    with reading(name):
        folder = fetch(name)[0]
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if auto_class is AutoModel and tower_config(config) is not config:
            options["config"] = tower_config(config)
        model = auto_class.from_pretrained(folder, dtype=torch.float32, **UNTRUSTED, **options)
    forget_code(model.config)
    return model


def load_tokenizer(name: str | os.PathLike) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer, without code of its own.

    Raises:
        CheckpointError: there is no tokenizer, or it is damaged.
    """
    if Path(name).is_dir():
        check_tokenizer(Path(name))
    with reading(f"The tokenizer of {name}"):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    tokenizer.init_kwargs.pop("auto_map", None)  # as [`forget_code`] of a model
    return tokenizer


def new_config(classes: Mapping[str, type], arguments: Any, **fields: Any) -> PreTrainedConfig:
    """The configuration of a new model by the options `model_type`, `model_config` and `pool_config`, the last for CP
    models alone; they come before `fields`.

    Raises:
        ValueError: a field does not exist, or its value does not fit.
    """
    config_class: Any = classes[arguments.model_type]
    given = as_mapping("model_config", arguments.model_config)
    if family_of(arguments.model_type) is not None:
        given.update(as_mapping("pool_config", arguments.pool_config))
    known = {*config_class().to_dict(), *config_class.attribute_map, "num_labels"}
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"A {arguments.model_type} model has no field {unknown[0]}.")
    try:
        return config_class(**{**fields, **given})
    except StrictDataclassError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1].strip()
        raise ValueError(f"A {arguments.model_type} model cannot be made so: {reason}") from error


def fixed_image_size(model: PreTrainedModel) -> int | list[int] | None:
    """The size of the images that a model takes unless it interpolates its position embeddings, in pixels; None for a
    model that takes images of any size."""
    models = [each for each in model.modules() if isinstance(each, PreTrainedModel)]
    interpolates = any("interpolate_pos_encoding" in inspect.signature(each.forward).parameters for each in models)
    return getattr(tower_config(model.config), "image_size", None) if interpolates else None


def draw_new_head(model: PreTrainedModel) -> PreTrainedModel:
    """Gives a model a new head, also where one of the same size has been loaded."""
    fresh = type(model)(model.config)
    inner = tuple(f"{name}." for name, each in model.named_modules() if name and isinstance(each, PreTrainedModel))
    for name, parameter in model.named_parameters():
        if not name.startswith(inner):
            parameter.data.copy_(fresh.get_parameter(name))
    return model
