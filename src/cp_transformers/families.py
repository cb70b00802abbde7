# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The table of model families.

Whatever has to know a family reads it here: registration, conversion, `auto_map`, cards, commands, benchmarks, tests.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import is_torchvision_available, is_vision_available

from .models import (
    modeling_cp_beit,
    modeling_cp_bert,
    modeling_cp_clip_vision_model,
    modeling_cp_deberta_v2,
    modeling_cp_deit,
    modeling_cp_dinov2,
    modeling_cp_dinov2_with_registers,
    modeling_cp_dinov3_vit,
    modeling_cp_distilbert,
    modeling_cp_electra,
    modeling_cp_esm,
    modeling_cp_modernbert,
    modeling_cp_resnet,
    modeling_cp_roberta,
    modeling_cp_siglip_vision_model,
    modeling_cp_vit,
    modeling_cp_xlm_roberta,
)
from .models.configuration_context_pool import LayerPoolConfigMixin, TextPoolConfigMixin
from .models.configuration_cp_beit import CPBeitConfig
from .models.configuration_cp_bert import CPBertConfig
from .models.configuration_cp_clip_vision_model import CPCLIPVisionConfig
from .models.configuration_cp_deberta_v2 import CPDebertaV2Config
from .models.configuration_cp_deit import CPDeiTConfig
from .models.configuration_cp_dinov2 import CPDinov2Config
from .models.configuration_cp_dinov2_with_registers import CPDinov2WithRegistersConfig
from .models.configuration_cp_dinov3_vit import CPDINOv3ViTConfig
from .models.configuration_cp_distilbert import CPDistilBertConfig
from .models.configuration_cp_electra import CPElectraConfig
from .models.configuration_cp_esm import CPEsmConfig
from .models.configuration_cp_modernbert import CPModernBertConfig
from .models.configuration_cp_resnet import CPResNetConfig
from .models.configuration_cp_roberta import CPRobertaConfig
from .models.configuration_cp_siglip_vision_model import CPSiglipVisionConfig
from .models.configuration_cp_vit import CPViTConfig
from .models.configuration_cp_xlm_roberta import CPXLMRobertaConfig
from .models.modeling_context_pool import PooledLayer, PooledModel


@dataclass(frozen=True)
class Family:
    """
    One family of models. Its classes are named `CP` and upstream's name, its model type `cp_` and upstream's.

    Args:
        config_class: its configuration, which names its heads.
        modeling: the module of its models.
        processor: the name of upstream's tokenizer or image processor.
        positions_from_padding: whether the positions of a text are counted from `pad_token_id + 1`, not from 0.
        over_layers: the ends of the names of those matrices outside the layers whose columns are, in turn, for one
            layer after another: with a layer its columns are left out.
        sizes: configuration fields of upstream's models of this family that the benchmarks measure, by their names;
            for texts with the lengths to measure as `tokens`.
    """

    config_class: type[Any]
    modeling: ModuleType
    processor: str
    positions_from_padding: bool = False
    over_layers: tuple[str, ...] = ()
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def stock_config_class(self) -> type[Any]:
        """Upstream's configuration."""
        return self.config_class.__bases__[-1]

    @property
    def model_type(self) -> str:
        """Upstream's model type."""
        return self.stock_config_class.model_type

    @property
    def source_types(self) -> tuple[str, ...]:
        """Upstream's model types of what can be converted: its own, and of the image tower of two that of both."""
        tower_of = getattr(self.config_class, "tower_of", None)
        return (self.model_type,) if tower_of is None else (self.model_type, tower_of)

    @property
    def is_text(self) -> bool:
        """Whether it reads texts; else images."""
        return issubclass(self.config_class, TextPoolConfigMixin)

    @property
    def has_layers(self) -> bool:
        """Whether it is a transformer, which pools in its layers, all of one shape."""
        return issubclass(self.config_class, LayerPoolConfigMixin)

    @cached_property
    def auto_models(self) -> dict[type[Any], tuple[type[PreTrainedModel], ...]]:
        """From each Auto class that knows the family to the models that it gives, by default the first."""
        models = self.config_class.auto_models().items()
        return {
            getattr(transformers, auto): tuple(getattr(self.modeling, name) for name in names)
            for auto, names in models
        }

    @cached_property
    def models(self) -> dict[str, type[PooledModel]]:
        """From the name of upstream's model, with any of its heads, to the family's own."""
        return {model.__bases__[-1].__name__: model for models in self.auto_models.values() for model in models}

    @property
    def pretraining_model(self) -> str | None:
        """The name of upstream's model that has every pretraining head, that of a masked language model among them,
        whose weights are tied; None where there is none, or one without it, such as ELECTRA's discriminator."""
        pretraining = ((name, model) for name, model in self.models.items() if name.endswith("ForPreTraining"))
        return next((name for name, model in pretraining if model._tied_weights_keys), None)

    @property
    def takes_packed_rows(self) -> bool:
        """Whether it reads texts of which several may share a row, kept apart by an attention mask of 4 dimensions."""
        return self.is_text and next(iter(self.models.values())).takes_4d_masks

    @cached_property
    def layer_class(self) -> type[nn.Module] | None:
        """Upstream's layer, before or in which the family pools; None without [`has_layers`]."""
        classes = next(iter(self.models.values())).pooled_classes()
        return next((each.__bases__[-1] for each in classes if issubclass(each, PooledLayer)), None)

    def layers(self, model: nn.Module) -> tuple[str, nn.ModuleList] | None:
        """The name of the layers of a model of this family, stock or CP, and the layers."""
        for name, module in model.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) and isinstance(module[0], self.layer_class or ()):
                return name, module
        return None

    def register(self) -> None:
        """Makes the Auto classes know the family. The last copy of the package that registers it wins."""
        AutoConfig.register(self.config_class.model_type, self.config_class, exist_ok=True)
        for auto_class, models in self.auto_models.items():
            auto_class.register(self.config_class, models if len(models) > 1 else models[0], exist_ok=True)
        if self.is_text:
            tokenizer_class = getattr(transformers, self.processor)
            AutoTokenizer.register(self.config_class, tokenizer_class=tokenizer_class, exist_ok=True)
        elif is_vision_available():
            names = {"pil": f"{self.processor}Pil", "torchvision": self.processor}
            if not is_torchvision_available():  # to name it without torchvision is enough for a warning
                del names["torchvision"]
            found = {backend: getattr(transformers, name, None) for backend, name in names.items()}
            classes = {backend: each for backend, each in found.items() if each is not None}  # some have but one
            if classes:
                AutoImageProcessor.register(self.config_class, image_processor_classes=classes, exist_ok=True)


BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
MINI = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SMALL_OF_14 = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14}
SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}

# by upstream's model type
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            CPBertConfig,
            modeling_cp_bert,
            "BertTokenizer",
            sizes={
                "BERT-base": {**BASE, "tokens": (32, 128, 512, 2048, 8192)},
                "MiniLM": {**MINI, "tokens": (128, 512)},
            },
        ),
        Family(CPRobertaConfig, modeling_cp_roberta, "RobertaTokenizer", positions_from_padding=True),
        Family(CPXLMRobertaConfig, modeling_cp_xlm_roberta, "XLMRobertaTokenizer", positions_from_padding=True),
        Family(CPDistilBertConfig, modeling_cp_distilbert, "BertTokenizer"),
        Family(CPElectraConfig, modeling_cp_electra, "BertTokenizer"),
        Family(CPDebertaV2Config, modeling_cp_deberta_v2, "DebertaV2Tokenizer"),
        Family(
            CPEsmConfig,
            modeling_cp_esm,
            "EsmTokenizer",
            positions_from_padding=True,
            over_layers=("contact_head.regression.weight",),
        ),
        Family(CPModernBertConfig, modeling_cp_modernbert, "TokenizersBackend"),
        Family(CPViTConfig, modeling_cp_vit, "ViTImageProcessor", sizes={"ViT-B/16": BASE, "ViT-S/16": SMALL}),
        Family(CPDeiTConfig, modeling_cp_deit, "DeiTImageProcessor"),
        Family(
            CPDinov2Config,
            modeling_cp_dinov2,
            "BitImageProcessor",
            sizes={"DINOv2-small": {**SMALL_OF_14, "image_size": 224}},
        ),
        Family(CPDinov2WithRegistersConfig, modeling_cp_dinov2_with_registers, "BitImageProcessor"),
        Family(CPDINOv3ViTConfig, modeling_cp_dinov3_vit, "DINOv3ViTImageProcessor"),
        Family(CPBeitConfig, modeling_cp_beit, "BeitImageProcessor"),
        Family(CPCLIPVisionConfig, modeling_cp_clip_vision_model, "CLIPImageProcessor"),
        Family(CPSiglipVisionConfig, modeling_cp_siglip_vision_model, "SiglipImageProcessor"),
        Family(CPResNetConfig, modeling_cp_resnet, "ConvNextImageProcessor", sizes={"ResNet-50": {}}),
    )
}


def family_of(config: PreTrainedConfig | str) -> Family | None:
    """The family of a configuration of this package, or of its model type; None for any other."""
    model_type = config if isinstance(config, str) else config.model_type
    return next((each for each in FAMILIES.values() if each.config_class.model_type == model_type), None)


def configs_with(*heads: str) -> dict[str, type[Any]]:
    """From the model type to the configuration, CP and stock, of the families that have one of these heads; without
    the stock one of an image tower, since the stock head takes that of both towers."""
    families = [family for family in FAMILIES.values() if set(heads) & set(family.config_class.heads)]
    return {
        each.model_type: each
        for family in families
        for each in (family.config_class, family.stock_config_class)
        if family.source_types == (family.model_type,) or each is family.config_class
    }


def tower_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of a model's layers: of two towers that of the images', else the model's own."""
    return getattr(config, "vision_config", config)


def auto_class_of(head: str) -> Any:
    """The Auto class of a head, such as "MaskedLM"; of a head that shares another's, such as one with a teacher, that
    of the other; without any the bare model's."""
    words = re.findall("[A-Z][a-z]*", head)
    names = ["AutoModelFor" + "".join(words[:count]) for count in range(len(words), 0, -1)]
    return next((getattr(transformers, name) for name in names if hasattr(transformers, name)), AutoModel)


def first_position(config: PreTrainedConfig) -> int:
    """The position of the first token of a text, for a CP or a stock model; of a configuration that names no padding
    token yet that for 0."""
    family = FAMILIES.get(config.model_type) or family_of(config)
    return (config.pad_token_id or 0) + 1 if family is not None and family.positions_from_padding else 0


def max_tokens(config: PreTrainedConfig) -> int:
    """The number of tokens for which a text model, CP or stock, has positions; not above 0 for one that has none, such
    as a model of relative positions."""
    return (getattr(config, "max_position_embeddings", None) or 0) - first_position(config)


def register() -> None:
    """Makes the Auto classes know every family of this package. Calling it again, or after another copy of the package
    has registered the same names, is harmless: the last copy wins."""
    for family in FAMILIES.values():
        family.register()
