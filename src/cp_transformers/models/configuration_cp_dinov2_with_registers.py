# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-DINOv2 with registers model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import Dinov2WithRegistersConfig

from .configuration_context_pool import ImagePoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_dinov2_with_registers import CPDinov2WithRegistersModel  # noqa: F401


@strict
class CPDinov2WithRegistersConfig(ImagePoolConfigMixin, Dinov2WithRegistersConfig):
    """
    Configuration of the CP-DINOv2 with registers models: every field of
    [`~transformers.Dinov2WithRegistersConfig`], with the same defaults, and those of ContextPool.
    """

    model_type = "cp_dinov2_with_registers"
    heads = ("Model", "ForImageClassification", "Backbone")
