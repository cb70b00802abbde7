# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-BEiT model configuration."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import BeitConfig

from .configuration_context_pool import ImagePoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_beit import CPBeitModel  # noqa: F401


@strict
class CPBeitConfig(ImagePoolConfigMixin, BeitConfig):
    """
    Configuration of the CP-BEiT models: every field of [`~transformers.BeitConfig`], with the same defaults, and
    those of ContextPool.
    """

    model_type = "cp_beit"
    heads = ("Model", "ForMaskedImageModeling", "ForImageClassification", "ForSemanticSegmentation", "Backbone")
    # It predicts the numbers of visual words, not the pixels that AutoModelForMaskedImageModeling stands for.
    auto_classes: ClassVar[dict[str, str]] = {"ForMaskedImageModeling": "AutoModelForPreTraining"}

    @property
    def strides_refused(self) -> str | None:
        if not (self.use_relative_position_bias or self.use_shared_relative_position_bias):
            return None
        return (
            "A BEiT with a relative position bias cannot keep fewer tokens, since the bias is of each pair of "
            "patches, and groups of patches have none: leave strides out, and cut layers for a faster model."
        )
