# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-ViT model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import ViTConfig

from .configuration_context_pool import ImagePoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_vit import CPViTModel  # noqa: F401


@strict
class CPViTConfig(ImagePoolConfigMixin, ViTConfig):
    """
    Configuration of the CP-ViT models: every field of [`~transformers.ViTConfig`], with the same defaults, and
    those of ContextPool.
    """

    model_type = "cp_vit"
    heads = ("Model", "ForImageClassification", "ForMaskedImageModeling")
