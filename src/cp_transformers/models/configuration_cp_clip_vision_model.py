# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Configuration of CP-CLIP's image tower."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import CLIPVisionConfig

from .configuration_context_pool import TowerPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_clip_vision_model import CPCLIPVisionModel  # noqa: F401


@strict
class CPCLIPVisionConfig(TowerPoolConfigMixin, CLIPVisionConfig):
    """
    Configuration of the models of CP-CLIP's image tower: every field of [`~transformers.CLIPVisionConfig`], with the
    same defaults, and those of ContextPool.
    """

    model_type = "cp_clip_vision_model"
    tower_of = "clip"
    heads = ("Model", "ModelWithProjection", "ForImageClassification")
