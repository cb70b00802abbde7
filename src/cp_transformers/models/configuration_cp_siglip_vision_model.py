# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Configuration of CP-SigLIP's image tower."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import SiglipVisionConfig

from .configuration_context_pool import TowerPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_siglip_vision_model import CPSiglipVisionModel  # noqa: F401


@strict
class CPSiglipVisionConfig(TowerPoolConfigMixin, SiglipVisionConfig):
    """
    Configuration of the models of CP-SigLIP's image tower: every field of [`~transformers.SiglipVisionConfig`], with
    the same defaults, and those of ContextPool.
    """

    model_type = "cp_siglip_vision_model"
    tower_of = "siglip"
    heads = ("Model", "ForImageClassification")
    # By which upstream multiplies the weights of a new classifier; a field of both towers' configuration.
    initializer_factor: ClassVar[float] = 1.0
