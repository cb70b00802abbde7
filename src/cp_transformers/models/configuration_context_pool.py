# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The configuration fields of ContextPool, shared by every model family."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, ClassVar


# Of the checkpoints: raised when what they hold comes to mean something else.
FORMAT_VERSION = 3

# How pooling may be computed, see `context_pool`.
POOL_IMPLEMENTATIONS = ("auto", "dense", "linear", "triton")

# By what a model is called after its family's prefix: those Auto classes that are not named so.
AUTO_CLASSES = {
    "Model": "AutoModel",
    "ModelWithProjection": "AutoModel",
    "Backbone": "AutoBackbone",
    "ForImageClassificationWithTeacher": "AutoModelForImageClassification",
}


@dataclass(repr=False, eq=False)
class ContextPoolConfigMixin:
    """
    The fields that the configurations of every family add to their upstream class.

    Args:
        pool_hidden_size: channels inside the predictor.
        pool_kernel_size: kernel of the predictor's convolution, odd.
        pool_range: the largest support size sigma, as a fraction of the extent: of the number of valid tokens (text),
            of the longer side of the grid (patches) or of the window's side (feature maps).
        pool_num_heads: pooling heads, each owning an equal slice of the channels.
        pool_max_offset: how far the centre of a head's pool may move from its token, in positions; 0 for not at all.
        pool_gate: whether a gate, one a channel and zero at the start, mixes the pooled tokens in. Conversion of a
            pretrained checkpoint sets it, so that the converted model starts where its source stood.
        pool_factored: whether the predictor projects the tokens to its channels before its convolution, which on a
            grid is several times cheaper, or convolves all channels, as in checkpoints of format 1. The latter wants
            more of them: set `pool_hidden_size` (64 was measured) with it.
        output_support_sizes: whether the models return the predicted support sizes as `support_sizes`, a tuple with
            one float32 tensor for each module that pools, in order, but for CP-ResNet's global pooling; sigma in
            positions, zero at what is not pooled.
        context_pool_version: the format of the checkpoint; not to be set.

    With a configuration, and so with every model, the modules that define its family are saved, and an `auto_map` that
    names them: `trust_remote_code=True` loads such a folder where this package is not installed.

    Raises:
        huggingface_hub.errors.StrictDataclassError: a value is of the wrong type or out of its range.
        ValueError: a name that begins with `pool_` is not one of the fields, or the checkpoint is of a newer format.
    """

    # For transformers' exporter: of the families it copies the module of the class and what it imports from beside it.
    _auto_class: ClassVar[str | None] = None
    # What a family's models are called after its prefix, such as "Model", "ForMaskedLM" or "Backbone".
    heads: ClassVar[tuple[str, ...]] = ()
    # Of heads the Auto classes that are not those of their names in this family.
    auto_classes: ClassVar[dict[str, str]] = {}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["support_sizes"]

    if TYPE_CHECKING:  # of the upstream configuration
        architectures: list[str] | None

    pool_hidden_size: int = 64
    pool_kernel_size: int = 3
    pool_range: float | int = 0.1
    pool_num_heads: int = 1
    pool_max_offset: float | int = 0.0
    pool_gate: bool = False
    pool_factored: bool = False
    output_support_sizes: bool = False
    context_pool_version: int = FORMAT_VERSION

    def __init_subclass__(cls, *args, **kwargs) -> None:
        super().__init_subclass__(*args, **kwargs)
        # What is saved with a subclass elsewhere is for its author to say, by `register_for_auto_class`.
        cls._auto_class = "AutoConfig" if cls.is_family() else None
        if cls.is_family():
            fields_of = [each for each in reversed(cls.__mro__[1:]) if issubclass(each, ContextPoolConfigMixin)]
            cls.__doc__ = "\n\n".join(cleandoc(each.__doc__ or "") for each in (cls, *fields_of))

    @classmethod
    def is_family(cls) -> bool:
        """Whether this is a family's own configuration, not a subclass of one that is defined elsewhere."""
        return "heads" in vars(cls)

    @classmethod
    def auto_models(cls) -> dict[str, tuple[str, ...]]:
        """From the name of an Auto class to those of the family's models that it gives: that which a checkpoint names,
        by default the first."""
        models: dict[str, tuple[str, ...]] = {}
        for head in cls.heads:
            auto_class = {**AUTO_CLASSES, **cls.auto_classes}.get(head, f"AutoModel{head}")
            models[auto_class] = (*models.get(auto_class, ()), cls.model_name(head))
        return models

    @classmethod
    def model_name(cls, head: str) -> str:
        """The name of the family's model with one of its `heads`."""
        return cls.__name__.removesuffix("Config") + head

    def __post_init__(self, **kwargs):
        if isinstance(self.context_pool_version, int) and self.context_pool_version > FORMAT_VERSION:
            raise ValueError(
                f"This checkpoint is of ContextPool's format {self.context_pool_version}, and this version of "
                f"cp_transformers reads formats up to {FORMAT_VERSION}: install a newer one."
            )
        if self.context_pool_version == 1:
            self.pool_factored = False
        self.context_pool_version = FORMAT_VERSION  # that of what is saved
        for name in ("heads", "auto_models", "auto_classes", "_auto_class"):  # a checkpoint has no say in these
            kwargs.pop(name, None)
        if (named_before := kwargs.pop("output_pool_sizes", None)) is not None:  # in earlier checkpoints
            self.output_support_sizes = named_before
        self._check_names(kwargs)
        super().__post_init__(**kwargs)  # type: ignore[misc]
        if type(self).is_family():  # a subclass elsewhere is exported from where it is
            self.auto_map = _auto_map(self)
            if self.architectures is None and any(len(names) > 1 for names in type(self).auto_models().values()):
                self.architectures = []  # over which upstream's Auto classes iterate

    def save_pretrained(self, *args, **kwargs) -> None:
        """Upstream's; by now `architectures` names the model that is saved."""
        if type(self).is_family():
            self.auto_map = _auto_map(self)
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    @classmethod
    def _check_names(cls, names: Iterable[str]) -> None:
        """Raises, since configurations take any keyword: a misspelt field, or one of a later version, did nothing."""
        known = [field.name for field in fields(cls) if field.name.startswith("pool_")]
        for name in names:
            if name.startswith("pool_") and name not in known:
                close = get_close_matches(name, known, n=1, cutoff=0.75)
                hint = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(known)}."
                raise ValueError(f"{cls.__name__} of this version has no field {name}; {hint}")

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Upstream's, which sets `kwargs` when the configuration has been made and checked: they are checked, too."""
        cls._check_names(kwargs)
        result = super().from_dict(config_dict, **kwargs)  # type: ignore[misc]
        (result[0] if isinstance(result, tuple) else result).validate_context_pool()
        return result

    def validate_context_pool(self):
        """Checks the `pool_*` fields; run by transformers after construction and before saving."""
        for name in ("pool_hidden_size", "pool_num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.pool_kernel_size < 1 or self.pool_kernel_size % 2 == 0:
            raise ValueError(f"pool_kernel_size must be odd and positive, not {self.pool_kernel_size}.")
        if not 0 < self.pool_range < float("inf"):
            raise ValueError(f"pool_range must be positive and finite, not {self.pool_range}.")
        if not 0 <= self.pool_max_offset < float("inf"):
            raise ValueError(f"pool_max_offset must be zero or positive and finite, not {self.pool_max_offset}.")

    def _validate_pool_num_heads(self, name: str, channels: int) -> None:
        if channels % self.pool_num_heads:
            raise ValueError(
                f"pool_num_heads ({self.pool_num_heads}) must divide {name} ({channels}): "
                "each pooling head owns an equal slice of the channels."
            )


def _auto_map(config: Any) -> dict[str, str]:
    """Where transformers finds what the Auto classes give for a family's configuration, in a checkpoint's folder."""
    family = type(config).model_type.replace("-", "_")
    architectures = config.architectures if isinstance(config.architectures, list) else ()  # not yet checked
    auto_map = {"AutoConfig": f"configuration_{family}.{type(config).__name__}"}
    for auto_class, names in type(config).auto_models().items():
        auto_map[auto_class] = f"modeling_{family}.{next((each for each in names if each in architectures), names[0])}"
    return auto_map


@dataclass(repr=False, eq=False)
class LayerPoolConfigMixin(ContextPoolConfigMixin):
    """
    And those of the transformers, which pool in their layers.

    The default of `pool_num_heads` is 4 here; one head without offset is the paper's module.

    Args:
        pool_placement: "attention" pools what queries, keys and values are computed from and leaves the residual
            stream alone; "block" pools the block's whole input.
        pool_layers: the indices of the layers that pool; None for all.
        pool_strides: one number a layer; None for all 1. A layer with a stride of 2 or more pools its whole input and
            keeps one token of each group of so many neighbours (of so many x so many patches), whatever `pool_layers`
            and `pool_placement` say, so that it and the layers behind it see fewer tokens. Tokens that are not pooled,
            such as class tokens, are all kept. What the model gives has the input's length again; `hidden_states` and
            `attentions` have the lengths that the layers see. Families whose attention cannot be told of groups refuse
            strides above 1.
        pool_restore_layer: the index of the layer before which all tokens are restored; None: after the last layer.
        pool_implementation: how pooling is computed: "dense", "linear" (in linear time), "triton" (a fused kernel) or
            "auto", which chooses by length and device; see [`~cp_transformers.models.context_pool.context_pool`].
    """

    if TYPE_CHECKING:  # of the upstream configuration
        hidden_size: ClassVar[int]
        num_hidden_layers: ClassVar[int]
        num_attention_heads: ClassVar[int]

    pool_num_heads: int = 4
    pool_placement: str = "attention"
    pool_layers: list[int] | tuple[int, ...] | None = None
    pool_strides: list[int] | tuple[int, ...] | None = None
    pool_restore_layer: int | None = None
    pool_implementation: str = "auto"

    def __post_init__(self, **kwargs):
        for name in ("pool_layers", "pool_strides"):
            if getattr(self, name) is not None:
                setattr(self, name, list(getattr(self, name)))  # as JSON gives it back
        super().__post_init__(**kwargs)

    @property
    def is_strided(self) -> bool:
        """Whether any layer keeps fewer tokens than come in."""
        return max(self.pool_strides or [1]) > 1

    @property
    def strides_refused(self) -> str | None:
        """Why the layers of such a model cannot keep fewer tokens, and what to do; None: they can."""
        return None

    def pool_levels(self) -> list[int]:
        """For each layer the number of strided layers, itself included, whose tokens it sees; 0: it sees all."""
        strides = self.pool_strides or [1] * self.num_hidden_layers
        levels = [sum(stride > 1 for stride in strides[: index + 1]) for index in range(len(strides))]
        restored = len(levels) if self.pool_restore_layer is None else self.pool_restore_layer
        return [level if index < restored else 0 for index, level in enumerate(levels)]

    def validate_context_pool(self):
        super().validate_context_pool()
        if self.pool_placement not in ("attention", "block"):
            raise ValueError(f'pool_placement must be "attention" or "block", not "{self.pool_placement}".')
        if self.pool_implementation not in POOL_IMPLEMENTATIONS:
            raise ValueError(
                f"pool_implementation must be one of {', '.join(POOL_IMPLEMENTATIONS)}, not "
                f'"{self.pool_implementation}".'
            )
        # A width that does not fit the attention's heads is upstream's to refuse, when a model is made.
        if self.hidden_size % max(1, self.num_attention_heads) == 0:
            self._validate_pool_num_heads("hidden_size", self.hidden_size)
        if self.pool_layers is not None:
            outside = [layer for layer in self.pool_layers if not 0 <= layer < self.num_hidden_layers]
            if outside:
                raise ValueError(
                    f"pool_layers names {outside}, but the layers are 0 to {self.num_hidden_layers - 1}; "
                    "use None to pool before every layer."
                )
            if len(set(self.pool_layers)) < len(self.pool_layers):
                raise ValueError(f"pool_layers names a layer twice: {self.pool_layers}.")
        if self.is_strided and self.strides_refused is not None:
            raise ValueError(self.strides_refused)
        if self.pool_strides is not None:
            if len(self.pool_strides) != self.num_hidden_layers or any(stride < 1 for stride in self.pool_strides):
                raise ValueError(
                    f"pool_strides must be {self.num_hidden_layers} numbers from 1 on, one a layer, not "
                    f"{self.pool_strides}."
                )
        if self.pool_restore_layer is not None:
            strided = [index for index, stride in enumerate(self.pool_strides or ()) if stride > 1]
            if not strided or not strided[-1] < self.pool_restore_layer < self.num_hidden_layers:
                raise ValueError(
                    f"pool_restore_layer ({self.pool_restore_layer}) must be the index of a layer behind all layers "
                    f"with a stride of 2 or more ({strided or 'there are none'})."
                )


# The heads of most text encoders.
TEXT_HEADS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForMultipleChoice",
    "ForTokenClassification",
    "ForQuestionAnswering",
)


@dataclass(repr=False, eq=False)
class TextPoolConfigMixin(LayerPoolConfigMixin):
    """
    And that of the text encoders. Their default of `pool_max_offset` is 2: on texts, heads that look to one side learn
    more.

    Args:
        pool_class_token: whether the class token ([CLS] or <s>), the first valid token of a row (of packed rows, the
            first of each sequence), is pooled and in other tokens' pools, as in checkpoints of formats 1 and 2; else
            it passes by the pooling as it is.
    """

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "support_sizes"]

    pool_max_offset: float | int = 2.0
    pool_class_token: bool = False

    @classmethod
    def auto_models(cls) -> dict[str, tuple[str, ...]]:
        models = super().auto_models()
        pretraining = models.get("AutoModelForPreTraining", models["AutoModelForMaskedLM"])
        return {**models, "AutoModelForTextEncoding": models["AutoModel"], "AutoModelForPreTraining": pretraining}

    def __post_init__(self, **kwargs):
        if self.context_pool_version in (1, 2):
            self.pool_class_token = True
        super().__post_init__(**kwargs)


@dataclass(repr=False, eq=False)
class ImagePoolConfigMixin(LayerPoolConfigMixin):
    """
    The predictor of the vision transformers is by default a factored one (`pool_factored=True`) of
    `pool_hidden_size=32` channels.
    """

    pool_hidden_size: int = 32
    pool_factored: bool = True


@dataclass(repr=False, eq=False)
class TowerPoolConfigMixin(ImagePoolConfigMixin):
    """
    Such a model is the image tower of two, the other of which reads texts. Its heads, too, are configured by the
    tower's fields alone.
    """

    # Upstream's model type of both towers.
    tower_of: ClassVar[str]

    @property
    def vision_config(self) -> Any:
        """Itself: where upstream's heads, which take the configuration of both towers, look for the tower's fields."""
        return self

    @classmethod
    def model_name(cls, head: str) -> str:
        return super().model_name(head).replace("VisionFor", "For")
