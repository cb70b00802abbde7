# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-ResNet model configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import ResNetConfig

from .configuration_context_pool import ContextPoolConfigMixin


if TYPE_CHECKING:  # and for transformers' exporter, which takes the modules that it finds imported
    from .modeling_cp_resnet import CPResNetModel  # noqa: F401


@strict
class CPResNetConfig(ContextPoolConfigMixin, ResNetConfig):
    """
    Configuration of the CP-ResNet models: every field of [`~transformers.ResNetConfig`], with the same defaults, and
    those of ContextPool, which takes the place of the stem's max pooling or of the final average pooling, or of both.

    The defaults of three of them differ here: `pool_hidden_size=8` and `pool_factored=True`, since the stem's
    predictor works at a high resolution on few channels, and `pool_range=0.3`, since the extent is that of a window.
    And there are three more.

    Args:
        pool_stem: whether the stem pools a window around each output position in place of its maximum.
        pool_window: the window's side in the stem, odd.
        pool_global: whether learned weights pool the last feature map in place of its average.
    """

    model_type = "cp_resnet"
    heads = ("Model", "ForImageClassification", "Backbone")

    pool_hidden_size: int = 8
    pool_factored: bool = True
    pool_range: float | int = 0.3
    pool_stem: bool = True
    pool_window: int = 7
    pool_global: bool = False

    def validate_context_pool(self):
        super().validate_context_pool()
        if self.pool_window < 1 or self.pool_window % 2 == 0:
            raise ValueError(f"pool_window must be odd and positive, not {self.pool_window}.")
        if self.pool_max_offset > self.pool_window // 2:
            raise ValueError(
                f"pool_max_offset ({self.pool_max_offset}) must not lead out of the window: at pool_window="
                f"{self.pool_window} it is at most {self.pool_window // 2}."
            )
        if self.pool_stem:
            self._validate_pool_num_heads("embedding_size", self.embedding_size)
        if self.pool_global:
            self._validate_pool_num_heads("hidden_sizes[-1]", self.hidden_sizes[-1])
