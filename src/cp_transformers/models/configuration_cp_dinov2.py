# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-DINOv2 model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import Dinov2Config

from .configuration_context_pool import ImagePoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_dinov2 import CPDinov2Model  # noqa: F401


@strict
class CPDinov2Config(ImagePoolConfigMixin, Dinov2Config):
    """
    Configuration of the CP-DINOv2 models: every field of [`~transformers.Dinov2Config`], with the same defaults, and
    those of ContextPool.
    """

    model_type = "cp_dinov2"
    heads = ("Model", "ForImageClassification", "Backbone")
