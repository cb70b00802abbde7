# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The model classes that the shared tests run over, each with a tiny configuration, inputs and labels."""

import inspect
import logging
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoBackbone, BertTokenizer, PreTrainedConfig, PreTrainedModel

from cp_transformers.families import FAMILIES, Family
from cp_transformers.models.context_pool import BaseContextPool
from cp_transformers.models.pool_inputs import ContextRestore


# Configuration fields, by a name that every family has variants under. The pools reach far (pool_range), so that
# pooling is seen on so few tokens.
LAYER_VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"pool_range": 0.5},
    "heads": {"pool_range": 0.5, "pool_num_heads": 2, "pool_max_offset": 2.0, "pool_gate": True},
    "elsewhere": {"pool_range": 0.5, "pool_placement": "block", "pool_layers": [1]},
    "strided": {"pool_range": 0.5, "pool_num_heads": 2, "pool_strides": [2, 1]},
}
TEXT_VARIANTS = {**LAYER_VARIANTS, "elsewhere": {**LAYER_VARIANTS["elsewhere"], "pool_class_token": True}}
# Of those whose attention may have a bias for each pair of patches, in each layer or the same in all.
RELATIVE_VARIANTS: dict[str, dict[str, Any]] = {
    "relative": {"pool_range": 0.5, "use_relative_position_bias": True, "use_absolute_position_embeddings": False},
    "shared": {**LAYER_VARIANTS["heads"], "use_shared_relative_position_bias": True},
}
RESNET_VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "heads": {"pool_num_heads": 2, "pool_max_offset": 2.0, "pool_gate": True, "pool_global": True},
    "elsewhere": {"pool_window": 5, "pool_global": True, "layer_type": "basic"},
}


@dataclass(frozen=True)
class ModelCase:
    """
    One model class, and what the shared tests must know to build and to call it.

    Args:
        model_class, stock_class, auto_class: the class, what it is built on, and what loads it.
        sizes: configuration fields that make it small.
        base_sizes: configuration fields of the usual size but for the depth, where sizes themselves matter.
        inputs: makes the arguments of a batch, with padding where the family has any.
        smaller: a batch of another shape, from such a batch.
        valid_tokens: for those arguments, True where a token is not padding, in the shape of `support_sizes` but for
            the heads.
        variants: configuration fields, by name.
        no_pools: configuration fields with which nothing pools.
        labels: makes the arguments with which a head returns a loss; None for a model without a loss.
    """

    model_class: type[PreTrainedModel]
    stock_class: type[PreTrainedModel]
    auto_class: type
    sizes: dict[str, Any]
    base_sizes: dict[str, Any]
    inputs: Callable[[], dict[str, torch.Tensor]]
    smaller: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
    valid_tokens: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    variants: dict[str, dict[str, Any]]
    no_pools: dict[str, Any]
    labels: Callable[[], dict[str, torch.Tensor]] | None = None

    def __str__(self) -> str:
        return self.model_class.__name__

    @property
    def has_layers(self) -> bool:
        """Whether it is a transformer: it pools in its layers and has attention."""
        return "num_hidden_layers" in self.sizes

    @property
    def layer_class_name(self) -> str:
        """The name of the modules that frameworks must not split, besides the embeddings."""
        return next(name for name in self.model_class._no_split_modules if name.startswith("CP"))

    @property
    def no_dropout(self) -> dict[str, float | None]:
        """Configuration fields with which nothing is dropped, whatever they are called, nor otherwise drawn."""
        fields = self.config().to_dict().items()
        dropped = {name: 0.0 for name, value in fields if "drop" in name and isinstance(value, float)}
        return {**dropped, **{name: None for name, value in fields if name.startswith("pos_embed_") and value}}

    def config(self, **overrides) -> PreTrainedConfig:
        return self.model_class.config_class(**{**self.sizes, **overrides})

    def stock_config(self, **overrides) -> PreTrainedConfig:
        """The upstream configuration; of `overrides`, those that begin with `pool_` are left out."""
        overrides = {name: value for name, value in overrides.items() if not name.startswith("pool_")}
        return self.stock_config_of({**self.sizes, **overrides})

    def stock_config_of(self, fields: dict[str, Any]) -> PreTrainedConfig:
        """The upstream configuration with these fields, of two towers in that of the image tower."""
        config_class = self.stock_class.config_class
        if "vision_config" not in config_class.sub_configs:
            return config_class(**fields)
        of_any = {*PreTrainedConfig().to_dict(), "num_labels", "attn_implementation"}
        return config_class(vision_config=fields, **{name: fields[name] for name in fields if name in of_any})

    def load(self, folder: Path) -> PreTrainedModel:
        """Loads by the Auto class; but AutoBackbone, of transformers 5.23, looks on the Hub alone."""
        return (self.model_class if self.auto_class is AutoBackbone else self.auto_class).from_pretrained(folder)

    def fresh_model(self, **overrides) -> PreTrainedModel:
        """As it is constructed, but in evaluation mode."""
        return self.model_class(self.config(**overrides)).eval()

    def model(self, **overrides) -> PreTrainedModel:
        """With its gates open, so that pooling is seen in the outputs."""
        model = self.fresh_model(**overrides)
        for pool in context_pools(model):
            if pool.gate is not None:
                nn.init.normal_(pool.gate)
        for module in model.modules():
            if isinstance(module, ContextRestore):
                nn.init.normal_(module.weight, std=0.2)
        return model


def context_pools(model: nn.Module) -> list[BaseContextPool]:
    return [module for module in model.modules() if isinstance(module, BaseContextPool)]


def tensors(outputs) -> list[torch.Tensor]:
    """The tensors of a model's output, in order, whether it is a tensor, a tuple or a dictionary."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    entries = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for entry in entries if entry is not None for tensor in tensors(entry)]


def assert_same_outputs(actual, expected, atol: float = 0.0) -> None:
    """Same number of tensors, equal to `atol`; bit for bit by default."""
    torch.testing.assert_close(tensors(actual), tensors(expected), rtol=0.0, atol=atol)


def aligned(model: PreTrainedModel) -> PreTrainedModel:
    """The model, its tensors in new memory, so that equal weights give equal outputs to the last bit."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def at_valid_tokens(case: ModelCase, outputs) -> list[torch.Tensor]:
    """The tensors of an output, those that have a value for each token without the padded ones."""
    valid = case.valid_tokens(case.inputs())
    return [tensor[valid] if tensor.shape[:2] == valid.shape else tensor for tensor in tensors(outputs)]


def layers_on_disk(model: PreTrainedModel) -> dict[str, str]:
    """A device map: modules that must not be split are on the disk, everything else on the CPU. A module that has an
    attention of PyTorch's own is on the CPU, too, since accelerate brings a part of it alone."""
    whole = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in model._no_split_modules
        and not any(isinstance(part, nn.MultiheadAttention) for part in module.modules())
    ]
    owners = {name.rpartition(".")[0] for name, _ in (*model.named_parameters(), *model.named_buffers())}
    rest = [name for name in sorted(owners) if not any(f"{name}.".startswith(f"{each}.") for each in whole)]
    rest = rest or [whole.pop()]  # older versions of accelerate refuse a model that is on the disk whole
    return {**dict.fromkeys(whole, "disk"), **dict.fromkeys(rest, "cpu")}


def losses_of_steps(model: nn.Module, **inputs: torch.Tensor) -> list[float]:
    """Returns the losses of eight steps of training of the parameters that want a gradient."""
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.02)
    losses = []
    for _ in range(8):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@contextmanager
def messages_of_transformers():
    """The list of what transformers logs as a warning or worse within the block."""
    messages: list[str] = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("transformers").addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger("transformers").removeHandler(handler)


# ---------------------------------------------------------------------------------------------------------- text

VOCABULARY_SIZE, NUM_TOKENS = 99, 12
LENGTHS = (12, 7, 3)  # of the rows of a batch, in turn


def text_inputs(*rows: int) -> dict[str, torch.Tensor]:
    """Token arguments of shape `(*rows, NUM_TOKENS)`, padded on the right by zeros."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor(LENGTHS).repeat(torch.Size(rows).numel())[: torch.Size(rows).numel()].view(*rows, 1)
    attention_mask = (torch.arange(NUM_TOKENS) < lengths).long()
    return {
        "input_ids": torch.randint(1, VOCABULARY_SIZE, (*rows, NUM_TOKENS), generator=generator) * attention_mask,
        "attention_mask": attention_mask,
        "token_type_ids": torch.randint(2, (*rows, NUM_TOKENS), generator=generator) * attention_mask,
    }


# Of each family those that its configuration has.
TEXT_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "embedding_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "hidden_dim": 40,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "mask_token_id": 4,
    "initializer_range": 0.1,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
}
# And those that upstream's code reads though its configuration does not declare them, by model type.
UNDECLARED: dict[str, dict[str, Any]] = {
    "deberta-v2": {"position_buckets": 8, "norm_rel_ebd": "layer_norm"},
}


# A BERT that is smaller still, and its words.
TINY_BERT = {
    "vocab_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}


def tiny_tokenizer() -> BertTokenizer:
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good film".split()
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def token_labels(num_labels: int) -> torch.Tensor:
    return torch.arange(3 * NUM_TOKENS).view(3, NUM_TOKENS) % num_labels


# by the end of a class's name: what makes the arguments with which the head returns a loss, and fields of its own
TEXT_HEADS: dict[str, tuple[Callable[[], dict[str, torch.Tensor]], dict[str, Any]]] = {
    "ElectraForPreTraining": (lambda: {"labels": token_labels(2)}, {}),  # before that of others
    "ForPreTraining": (
        lambda: {"labels": token_labels(VOCABULARY_SIZE), "next_sentence_label": torch.tensor([0, 1, 1])},
        {},
    ),
    "ForMaskedLM": (lambda: {"labels": token_labels(VOCABULARY_SIZE)}, {}),
    "ForNextSentencePrediction": (lambda: {"labels": torch.tensor([0, 1, 1])}, {}),
    "ForSequenceClassification": (lambda: {"labels": torch.tensor([0, 1, 2])}, {"num_labels": 3}),
    "ForMultipleChoice": (lambda: {"labels": torch.tensor([0, 2])}, {}),
    "ForTokenClassification": (lambda: {"labels": token_labels(3)}, {"num_labels": 3}),
    "ForQuestionAnswering": (
        lambda: {"start_positions": torch.tensor([0, 1, 0]), "end_positions": torch.tensor([9, 5, 2])},
        {},
    ),
}


def text_case(family: Family, stock: str) -> ModelCase:
    rows = (2, 3) if stock.endswith("ForMultipleChoice") else (3,)
    labels, fields = head_of(stock, TEXT_HEADS)
    known = family.stock_config_class()
    of_case = classes(family, stock)
    arguments = inspect.signature(of_case["stock_class"].forward).parameters
    tokens = [name for name in known.to_dict() if name.endswith("_token_id") and name not in TEXT_SIZES]
    outside = {name: 1 for name in tokens if (getattr(known, name) or 0) >= VOCABULARY_SIZE}
    # Else ModernBERT's weights are drawn until all are within two standard deviations.
    uncut = {"initializer_cutoff_factor": 10.0} if hasattr(known, "initializer_cutoff_factor") else {}
    return ModelCase(
        **of_case,
        sizes={
            **{name: value for name, value in {**TEXT_SIZES, **outside, **fields}.items() if hasattr(known, name)},
            **UNDECLARED.get(family.model_type, {}),
        },
        base_sizes={
            **{name: value for name, value in TEXT_SIZES.items() if getattr(known, name, value) is None},
            "num_hidden_layers": 1,
            **uncut,
        },
        inputs=lambda: {name: tensor for name, tensor in text_inputs(*rows).items() if name in arguments},
        smaller=lambda inputs: {name: tensor[:2, ..., :-2] for name, tensor in inputs.items()},
        valid_tokens=lambda inputs: inputs["attention_mask"].flatten(0, -2).bool(),
        variants=allowed(family.config_class(), of_heads(stock, of_twins(family, TEXT_VARIANTS))),
        no_pools={"pool_layers": []},
        labels=labels,
    )


def classes(family: Family, stock: str) -> dict[str, Any]:
    """The classes of a case: that of the family's own which is built on `stock`, this, and what loads it."""
    model_class = family.models[stock]
    auto_class = next(auto for auto, models in family.auto_models.items() if model_class in models)
    return {"model_class": model_class, "stock_class": model_class.__bases__[-1], "auto_class": auto_class}


# Upstream's classes of these are copies of another family's.
TWINS = {"xlm-roberta", "dinov2_with_registers"}


def of_twins(family: Family, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The variants; of families of which another has the same code one is enough."""
    names = ["heads", "strided"] if family.model_type in TWINS else variants
    return {name: variants[name] for name in names}


def allowed(config: PreTrainedConfig, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The variants without those that drop tokens where models of such a configuration cannot."""
    refuses = config.strides_refused is not None
    return {name: each for name, each in variants.items() if not (refuses and "pool_strides" in each)}


def of_heads(stock: str, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The variants; of a model with a head two, since the head sees only what the bare model gives."""
    names = variants if stock.endswith("Model") else [name for name in ("heads", "strided") if name in variants]
    return {name: variants[name] for name in names}


def head_of(stock: str, heads: dict[str, Any]) -> Any:
    """The entry of `heads` for a class; of a bare model none."""
    return next((entry for end, entry in heads.items() if stock.endswith(end)), (None, {}))


# -------------------------------------------------------------------------------------------------------- images

GRID = (5, 4)  # of the patches of an image, or of a feature map after ResNet's stem
NUM_CHANNELS = 3


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(3, NUM_CHANNELS, height, width, generator=torch.Generator().manual_seed(1))


def all_valid(grid: tuple[int, int]) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
    return lambda inputs: torch.ones(len(inputs["pixel_values"]), *grid, dtype=torch.bool)


def class_labels() -> dict[str, torch.Tensor]:
    return {"labels": torch.tensor([0, 1, 2])}


def pixel_labels() -> dict[str, torch.Tensor]:
    height, width = 2 * GRID[0], 2 * GRID[1]
    return {"labels": (torch.arange(3 * height * width) % 3).view(3, height, width)}


IMAGE_HEADS: dict[str, tuple[Callable[[], dict[str, torch.Tensor]] | None, dict[str, Any]]] = {
    "ForImageClassification": (class_labels, {"num_labels": 3}),
    "ForImageClassificationWithTeacher": (None, {"num_labels": 3}),
    "ForSemanticSegmentation": (
        pixel_labels,
        # of the fewest layers of which it makes its four feature maps; the first index is that of the last state
        {"num_labels": 3, "num_hidden_layers": 3, "out_indices": [0, 1, 2, 3], "use_auxiliary_head": False},
    ),
    # of each masked patch the number of a visual word; before that of others
    "BeitForMaskedImageModeling": (lambda: {"labels": torch.arange(16) % 11}, {"vocab_size": 11}),
    "ForMaskedImageModeling": (dict, {}),  # the images themselves
}
# Families that upstream interpolates the positions of, and takes their grid for a square.
OF_SQUARES = {"dinov2", "dinov2_with_registers", "beit"}


def patch_case(family: Family, stock: str) -> ModelCase:
    masked = stock.endswith("ForMaskedImageModeling")
    # The image towers take no other shape than the configuration's, and this is of a square.
    grid = (4, 4) if masked or len(family.source_types) > 1 else GRID
    height, width = 2 * grid[0], 2 * grid[1]
    labels, fields = head_of(stock, IMAGE_HEADS)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "mlp_ratio": 2,
        "image_size": height if height == width or family.model_type in OF_SQUARES else [height, width],
        "patch_size": 2,
        "encoder_stride": 2,
        "num_channels": NUM_CHANNELS,
        "num_register_tokens": 2,
        "initializer_range": 0.1,
        "use_absolute_position_embeddings": True,
        "use_mask_token": True,
        **fields,
    }
    known = family.stock_config_class().to_dict()
    depth = {name: sizes[name] for name in ("num_hidden_layers", "out_indices") if name in fields}
    variants = {**LAYER_VARIANTS, **(RELATIVE_VARIANTS if "use_relative_position_bias" in known else {})}
    variants["strided"] = {**variants["strided"], "pool_strides": [2] + [1] * (sizes["num_hidden_layers"] - 1)}
    return ModelCase(
        **classes(family, stock),
        sizes={name: value for name, value in sizes.items() if name in known or name == "num_labels"},
        base_sizes={"num_hidden_layers": 1, **depth},
        inputs=lambda: {
            "pixel_values": images(height, width),
            **({"bool_masked_pos": (torch.arange(48) % 3 == 0).view(3, 16)} if masked else {}),
        },
        smaller=lambda inputs: {name: tensor[:2] for name, tensor in inputs.items()},
        valid_tokens=all_valid(grid),
        variants=allowed(family.config_class(), of_heads(stock, of_twins(family, variants))),
        no_pools={"pool_layers": []},
        labels=labels,
    )


def feature_map_case(family: Family, stock: str) -> ModelCase:
    labels, fields = head_of(stock, IMAGE_HEADS)
    stages = {"out_features": ["stem", "stage1", "stage2"]} if stock.endswith("Backbone") else {}
    return ModelCase(
        **classes(family, stock),
        sizes={
            "embedding_size": 8,
            "hidden_sizes": [16, 32],
            "depths": [2, 1],
            "num_channels": NUM_CHANNELS,
            **fields,
            **stages,
        },
        base_sizes={},
        inputs=lambda: {"pixel_values": images(4 * GRID[0], 4 * GRID[1] - 3)},
        smaller=lambda inputs: {name: tensor[:2, :, :-2, :-1] for name, tensor in inputs.items()},
        valid_tokens=all_valid(GRID),
        variants=RESNET_VARIANTS,
        no_pools={"pool_stem": False},
        labels=labels,
    )


# ------------------------------------------------------------------------------------------------- every family


def cases_of(family: Family) -> list[ModelCase]:
    """A case for each of a family's classes, its bare model first."""
    make_case = text_case if family.is_text else patch_case if family.has_layers else feature_map_case
    return [make_case(family, stock) for stock in family.models]


# by upstream's model type
CASES = {model_type: cases_of(family) for model_type, family in FAMILIES.items()}
MODELS = [case for cases in CASES.values() for case in cases]
LAYERED_MODELS = [case for case in MODELS if case.has_layers]
HEADS = [case for case in MODELS if case.labels is not None]
BARE_MODELS = [cases[0] for cases in CASES.values()]


def over(cases: list[ModelCase]):
    """Runs a test with each of `cases`."""
    return pytest.mark.parametrize("case", cases, ids=str)


def over_variants(cases: list[ModelCase], strided: bool = True):
    """Runs a test with each of `cases` and each of its variants, the fields of which are `variant`: without those that
    drop tokens where `strided` is False."""
    pairs = {
        f"{case}-{name}": (case, variant)
        for case in cases
        for name, variant in case.variants.items()
        if strided or "pool_strides" not in variant
    }
    return pytest.mark.parametrize(("case", "variant"), pairs.values(), ids=pairs)


every_model, every_variant = over(MODELS), over_variants(MODELS)
every_layered_model = over(LAYERED_MODELS)
every_unstrided_variant = over_variants(MODELS, strided=False)
every_unstrided_layered_variant = over_variants(LAYERED_MODELS, strided=False)
every_head, every_variant_of_a_head = over(HEADS), over_variants(HEADS)
every_family = over(BARE_MODELS)
