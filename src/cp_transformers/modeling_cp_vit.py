# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""PyTorch CP-ViT model: a ViT whose attention compares pooled contexts, on transformers' own ViT classes.

Patches pool their neighbours on the patch grid; the class token has no place there, so it is neither pooled nor pooled
from. Only constructors are written anew, since upstream's build stock layers; what they compute is inherited.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
)
from transformers.models.vit.modeling_vit import (
    ViTAttention,
    ViTEmbeddings,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTLayer,
    ViTMLP,
    ViTModel,
    ViTPooler,
    ViTPreTrainedModel,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_cp_vit import CPViTConfig
from .context_pool import ContextPool
from .modeling_context_pool import (
    build_context_pool,
    init_context_pool,
    keep_empty_rows,
    record_pool_sizes,
    with_pool_sizes,
)


@dataclass
class CPViTModelOutput(BaseModelOutputWithPooling):
    """What upstream returns and, as in the classes below, `pool_sizes`: for each layer that pools, in order, the
    predicted sigma in patches, `(batch, heads, rows, columns)` in float32."""

    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPViTImageClassifierOutput(ImageClassifierOutput):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


@dataclass
class CPViTMaskedImageModelingOutput(MaskedImageModelingOutput):
    pool_sizes: tuple[torch.Tensor, ...] | None = None


def pool_patches(
    context_pool: ContextPool, hidden_states: torch.Tensor, grid_size: tuple[int, int], pool_mask: torch.Tensor | None
) -> torch.Tensor:
    """Pools the patches of `(batch, tokens, channels)`, the last of the tokens, and lets those before them pass.
    `pool_mask`, `(batch, patches)`, is True where a patch is valid; None: all are."""
    num_others = hidden_states.shape[1] - grid_size[0] * grid_size[1]
    others, patches = hidden_states[:, :num_others], hidden_states[:, num_others:]
    patches, sizes = context_pool(patches, mask=pool_mask, grid_size=grid_size)
    record_pool_sizes(sizes.unflatten(-1, grid_size))
    return torch.cat([others, patches], dim=1)


class CPViTAttention(ViTAttention):
    """Self-attention whose queries, keys and values are computed from pooled patches."""

    def __init__(self, config: CPViTConfig):
        super().__init__(config)
        self.context_pool = build_context_pool(config, num_dims=2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        grid_size: tuple[int, int],
        pool_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_states = pool_patches(self.context_pool, hidden_states, grid_size, pool_mask)
        return super().forward(hidden_states, attention_mask, **kwargs)


class CPViTLayer(ViTLayer):
    """A ViT layer that pools its attention's input or, with `pool_placement="block"`, its own."""

    def __init__(self, config: CPViTConfig, layer_idx: int):
        nn.Module.__init__(self)
        pools = config.pool_layers is None or layer_idx in config.pool_layers
        self.pools_attention = pools and config.pool_placement == "attention"
        self.context_pool = build_context_pool(config, num_dims=2) if pools and not self.pools_attention else None
        self.attention = (CPViTAttention if self.pools_attention else ViTAttention)(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ViTMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        grid_size: tuple[int, int],
        pool_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        if self.context_pool is not None:
            pooled = pool_patches(self.context_pool, hidden_states, grid_size, pool_mask)
            hidden_states = keep_empty_rows(pooled, hidden_states, pool_mask)
        elif self.pools_attention:
            kwargs.update(grid_size=grid_size, pool_mask=pool_mask)
        return super().forward(hidden_states, attention_mask, **kwargs)


class CPViTPreTrainedModel(ViTPreTrainedModel):
    config_class = CPViTConfig
    config: CPViTConfig
    accepts_loss_kwargs = False  # else Trainer takes losses to divide by `num_items_in_batch`: not all of them do
    _no_split_modules = ["ViTEmbeddings", "CPViTLayer"]
    _can_record_outputs = {"hidden_states": CPViTLayer, "attentions": ViTAttention}

    def __init__(self, config: CPViTConfig):
        config.validate_context_pool()  # the fields may have been changed since the configuration was made
        # Not super(): in the heads that would be upstream's constructor, which builds a stock ViTModel.
        ViTPreTrainedModel.__init__(self, config)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_context_pool(module)

    def save_pretrained(self, *args, save_original_format: bool = False, **kwargs) -> None:
        """Upstream's, but under the names that the weights have in the model. Upstream's default are those of the ViT
        checkpoints on the Hub, which are read here as well, but which Trainer does not know when it resumes."""
        super().save_pretrained(*args, save_original_format=save_original_format, **kwargs)


class CPViTModel(CPViTPreTrainedModel, ViTModel):
    """The bare CP-ViT encoder. `forward` takes and returns what [`~transformers.ViTModel`]'s does, and with
    `output_pool_sizes=True` the support sizes, see [`CPViTModelOutput`]; so it does in every head. An `attention_mask`
    must be of shape `(batch, tokens)`, the class token included; patches where it is zero are not pooled from."""

    def __init__(self, config: CPViTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super().__init__(config)
        self.embeddings = ViTEmbeddings(config, use_mask_token=use_mask_token)
        self.layers = nn.ModuleList([CPViTLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        self.post_init()

    @with_pool_sizes(CPViTModelOutput)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        bool_masked_pos: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, ...] | BaseModelOutputWithPooling:
        """See [`~transformers.ViTModel.forward`]."""
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values.")
        patch_height, patch_width = self.embeddings.patch_embeddings.patch_size
        rows, columns = pixel_values.shape[-2] // patch_height, pixel_values.shape[-1] // patch_width
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(
                "CP-ViT takes an attention_mask of shape (batch, tokens), which says of each patch whether it may be "
                f"pooled from, not one with {attention_mask.ndim} dimensions."
            )
        return super().forward(
            pixel_values,
            bool_masked_pos=bool_masked_pos,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            grid_size=(rows, columns),
            pool_mask=None if attention_mask is None else attention_mask[:, -rows * columns :].bool(),
            **kwargs,
        )


# The ViT checkpoints on the Hub have other names for the weights; they are read as upstream's classes read them.
register_checkpoint_conversion_mapping("CPViTModel", get_checkpoint_conversion_mapping("ViTModel"), overwrite=True)


class CPViTForImageClassification(CPViTPreTrainedModel, ViTForImageClassification):
    """CP-ViT with an image classification head on the class token."""

    def __init__(self, config: CPViTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vit = CPViTModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    forward = with_pool_sizes(CPViTImageClassifierOutput)(ViTForImageClassification.forward)


class CPViTForMaskedImageModeling(CPViTPreTrainedModel, ViTForMaskedImageModeling):
    """CP-ViT with a decoder for masked image modelling, as in SimMIM. As upstream's, it is for square images."""

    def __init__(self, config: CPViTConfig):
        super().__init__(config)
        self.vit = CPViTModel(config, add_pooling_layer=False, use_mask_token=True)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.hidden_size, config.encoder_stride**2 * config.num_channels, kernel_size=1),
            nn.PixelShuffle(config.encoder_stride),
        )
        self.post_init()

    @with_pool_sizes(CPViTMaskedImageModelingOutput)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        bool_masked_pos: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, ...] | MaskedImageModelingOutput:
        """See [`~transformers.ViTForMaskedImageModeling.forward`]."""
        if pixel_values is not None and pixel_values.shape[-2] != pixel_values.shape[-1]:
            raise ValueError(
                "Masked image modelling is for square images, of which upstream's decoder restores the pixels, not "
                f"for {pixel_values.shape[-2]} x {pixel_values.shape[-1]} ones."
            )
        return super().forward(pixel_values, bool_masked_pos, interpolate_pos_encoding, **kwargs)


__all__ = ["CPViTForImageClassification", "CPViTForMaskedImageModeling", "CPViTModel", "CPViTPreTrainedModel"]
