# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Registration of the model families with transformers' Auto classes."""

from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BertTokenizer,
    ConvNextImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.utils import is_torchvision_available, is_vision_available

from . import modeling_cp_bert, modeling_cp_resnet, modeling_cp_vit
from .configuration_cp_bert import CPBertConfig
from .configuration_cp_resnet import CPResNetConfig
from .configuration_cp_vit import CPViTConfig


# configuration -> the model that each Auto class gives for it
AUTO_MODELS: dict[type[Any], dict[type[Any], type[Any]]] = {
    config_class: {
        getattr(transformers, auto): getattr(modeling, name) for auto, name in config_class.auto_models.items()
    }
    for config_class, modeling in (
        (CPBertConfig, modeling_cp_bert),
        (CPViTConfig, modeling_cp_vit),
        (CPResNetConfig, modeling_cp_resnet),
    )
}

# configuration -> tokenizer
AUTO_TOKENIZERS = {CPBertConfig: BertTokenizer}

# configuration -> image processors, by what they are built on
AUTO_IMAGE_PROCESSORS: dict[type[Any], dict[str, type[Any]]] = {
    CPViTConfig: {"pil": ViTImageProcessorPil},
    CPResNetConfig: {"pil": ConvNextImageProcessorPil},
}
if is_torchvision_available():  # to name them without it is enough for a warning
    AUTO_IMAGE_PROCESSORS[CPViTConfig]["torchvision"] = transformers.ViTImageProcessor
    AUTO_IMAGE_PROCESSORS[CPResNetConfig]["torchvision"] = transformers.ConvNextImageProcessor


def register() -> None:
    """Makes the Auto classes know every family of this package. Calling it again, or after another copy of the package
    has registered the same names, is harmless: the last copy wins."""
    for config_class, models in AUTO_MODELS.items():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        for auto_class, model_class in models.items():
            auto_class.register(config_class, model_class, exist_ok=True)
    for config_class, tokenizer_class in AUTO_TOKENIZERS.items():
        AutoTokenizer.register(config_class, tokenizer_class=tokenizer_class, exist_ok=True)
    for config_class, image_processor_classes in AUTO_IMAGE_PROCESSORS.items() if is_vision_available() else ():
        AutoImageProcessor.register(config_class, image_processor_classes=image_processor_classes, exist_ok=True)
