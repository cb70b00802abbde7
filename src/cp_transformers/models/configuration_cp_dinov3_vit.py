# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-DINOv3 model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import DINOv3ViTConfig

from .configuration_context_pool import ImagePoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_dinov3_vit import CPDINOv3ViTModel  # noqa: F401


@strict
class CPDINOv3ViTConfig(ImagePoolConfigMixin, DINOv3ViTConfig):
    """
    Configuration of the CP-DINOv3 models: every field of [`~transformers.DINOv3ViTConfig`], with the same defaults,
    and those of ContextPool.
    """

    model_type = "cp_dinov3_vit"
    heads = ("Model", "Backbone")
