# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-DeiT model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import DeiTConfig

from .configuration_context_pool import ImagePoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_deit import CPDeiTModel  # noqa: F401


@strict
class CPDeiTConfig(ImagePoolConfigMixin, DeiTConfig):
    """
    Configuration of the CP-DeiT models: every field of [`~transformers.DeiTConfig`], with the same defaults, and
    those of ContextPool.
    """

    model_type = "cp_deit"
    heads = ("Model", "ForImageClassification", "ForImageClassificationWithTeacher", "ForMaskedImageModeling")
