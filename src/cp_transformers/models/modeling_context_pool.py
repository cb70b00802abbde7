# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The mechanism that the models of every family share.

Upstream's constructor builds a model. Before its weights are initialised, each module that takes part is turned into
the family's own class, which mixes a class of this module into upstream's, and gets its `context_pool`. A model tells
its pools once a batch, by the keyword `pool_inputs`, which tokens they pool; and support sizes leave by a side door.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce, wraps
from operator import and_
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming
from transformers.masking_utils import create_bidirectional_mask

from .context_pool import BaseContextPool, ContextPool, FactoredConv, PoolProjection
from .pool_inputs import (
    ContextRestore,
    PoolInputs,
    of_rows,
    packed_segments,
    reduce_tokens,
    repeat_tokens,
    restore_tokens,
    with_reductions,
    without_class_tokens,
)
from .support_sizes import COLLECTED, WITH_SUPPORT_SIZES, record_support_sizes


# Where upstream's modules hand no keywords down, these go past them, by thread.
_ASIDE = threading.local()


@contextmanager
def _set_aside(**keywords: Any) -> Iterator[None]:
    """For a block, gives [`_from_aside`] these keywords."""
    before = _from_aside()
    _ASIDE.keywords = keywords
    try:
        yield
    finally:
        _ASIDE.keywords = before


def _from_aside() -> dict[str, Any]:
    return getattr(_ASIDE, "keywords", {})


def past_upstream(forward: Callable) -> Callable:
    """Decorator of a model's `forward` which hands no keywords down: those that it does not name go past it, from a
    head to its base model, and from that to its layers."""
    named = inspect.signature(forward).parameters

    @wraps(forward)
    def wrapper(self, *args, **kwargs):
        with _set_aside(**{name: each for name, each in kwargs.items() if name not in named}):
            return forward(self, *args, **{name: each for name, each in kwargs.items() if name in named})

    return wrapper


def pool_tokens(
    context_pool: ContextPool, hidden_states: torch.Tensor, pool_inputs: PoolInputs | None
) -> torch.Tensor:
    """Pools those of `(batch, tokens, channels)` that `pool_inputs` names; the others pass as they are."""
    pool_inputs = required(pool_inputs)
    mask, segments, grid_size, prefix = pool_inputs[:4]
    pooled, sizes = context_pool(hidden_states[:, prefix:], mask=mask, grid_size=grid_size, segments=segments)
    _record_sizes_of(sizes, pool_inputs)
    return torch.cat([hidden_states[:, :prefix], pooled], dim=1) if prefix else pooled


def required(pool_inputs: PoolInputs | None) -> PoolInputs:
    if pool_inputs is None:
        raise ValueError("This layer needs pool_inputs, which say what is pooled; call its model, which makes them.")
    return pool_inputs


def _record_sizes_of(sizes: torch.Tensor, inputs: PoolInputs) -> None:
    """Hands on sigma, `(batch, heads, tokens - prefix)`, of the tokens of `inputs`."""
    grid_size = inputs.grid_size
    record_support_sizes(F.pad(sizes, (inputs.prefix, 0)) if grid_size is None else sizes.unflatten(-1, grid_size))


class PooledAttention(nn.Module):
    """Mixed into an attention of upstream's: queries, keys and values are computed from pooled tokens."""

    context_pool: ContextPool

    def forward(self, hidden_states: torch.Tensor, *args, pool_inputs: PoolInputs | None = None, **kwargs):
        pool_inputs = _from_aside().get("pool_inputs") if pool_inputs is None else pool_inputs
        return super().forward(pool_tokens(self.context_pool, hidden_states, pool_inputs), *args, **kwargs)


class PooledLayer(nn.Module):
    """Mixed into a layer of upstream's, which then pools its attention's input, its own, or nothing; or which keeps
    fewer tokens than come in."""

    context_pool: ContextPool
    context_restore: ContextRestore
    # "attention" or "block", as in the configuration; "stride": one token of each group is kept; None: none is pooled
    pool_placement: str | None = None
    pool_level: int = 0  # the number of strided layers up to this one, if its tokens have not been restored
    pool_restore: str | None = None  # "before" or "after": where in this layer the tokens are restored
    _mask_index: ClassVar[int]  # of `attention_mask` among the positional arguments after `hidden_states`
    _hands_keywords_down: ClassVar[bool]  # whether upstream's layer does, to its attention

    def __init_subclass__(cls, **kwargs) -> None:
        upstream: Any = cls.__bases__[-1]
        if not issubclass(upstream, PooledLayer):  # as that of the classes that FSDP2 makes
            parameters = inspect.signature(upstream.forward).parameters
            names = [*parameters]
            cls._mask_index = names.index("attention_mask") - 2 if "attention_mask" in names else len(names)
            cls._hands_keywords_down = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        super().__init_subclass__(**kwargs)

    def __call__(self, hidden_states: torch.Tensor, *args, pool_inputs: PoolInputs | None = None, **kwargs):
        pool_inputs = _from_aside().get("pool_inputs") if pool_inputs is None else pool_inputs
        # Outside of what gradient checkpointing runs again, and as a positional argument, to which it gives gradients.
        if (unreduced := None if pool_inputs is None else pool_inputs.unreduced) is not None:
            if self.pool_placement == "stride" and self.pool_level == 1:
                unreduced.states = hidden_states
            if self.pool_restore is not None:
                args = unreduced.states, *args
        return super().__call__(hidden_states, *args, pool_inputs=pool_inputs, **kwargs)

    def forward(self, hidden_states: torch.Tensor, *args, pool_inputs: PoolInputs | None = None, **kwargs):
        if self.pool_restore is not None or self.pool_level:
            return self._forward_strided(hidden_states, *args, pool_inputs=required(pool_inputs), **kwargs)
        return self._forward_pooled(hidden_states, *args, pool_inputs=pool_inputs, **kwargs)

    def _forward_pooled(self, hidden_states: torch.Tensor, *args, pool_inputs: PoolInputs | None, **kwargs):
        """Upstream's layer, whose input, or that of its attention, is pooled, or neither."""
        if pool_inputs is not None and pool_inputs.position_embeddings is not None:
            kwargs["position_embeddings"] = self._of_own_type(pool_inputs.position_embeddings)
        if self.pool_placement == "block":
            hidden_states = pool_tokens(self.context_pool, hidden_states, pool_inputs)
        elif self.pool_placement == "attention" and self._hands_keywords_down:
            kwargs["pool_inputs"] = pool_inputs
        elif self.pool_placement == "attention":
            with _set_aside(pool_inputs=pool_inputs):
                return super().forward(hidden_states, *args, **kwargs)
        return super().forward(hidden_states, *args, **kwargs)

    def _of_own_type(self, given: Any) -> Any:
        """Picks what is for this layer, where it is given by layer type."""
        return given[self.attention_type] if isinstance(given, dict) else given

    def _forward_strided(self, hidden_states: torch.Tensor, *args, pool_inputs: PoolInputs, **kwargs):
        """The forward pass of a layer that keeps fewer tokens, comes behind one that does, or restores them."""
        before: Any = None
        if self.pool_restore is not None:
            before, *args = args  # type: ignore[assignment]
        if self.pool_restore == "before":
            hidden_states = restore_tokens(self.context_restore, hidden_states, before, pool_inputs)
        current = pool_inputs
        if self.pool_level:
            reduction = pool_inputs.reductions[self.pool_level - 1]
            current = reduction.inputs
            if self.pool_placement == "stride":
                given = pool_inputs.reductions[self.pool_level - 2].inputs if self.pool_level > 1 else pool_inputs
                hidden_states, sizes = reduce_tokens(self.context_pool, hidden_states, given, reduction)
                _record_sizes_of(sizes, current)
            attention_mask = self._of_own_type(reduction.attention_mask)
            if len(args) > self._mask_index:
                args = *args[: self._mask_index], attention_mask, *args[self._mask_index + 1 :]
            else:
                kwargs["attention_mask"] = attention_mask
            kwargs.pop("position_ids", None)  # by which flash attention would look for packed rows
        hidden_states = self._forward_pooled(hidden_states, *args, pool_inputs=current, **kwargs)
        if self.pool_restore == "after":
            hidden_states = restore_tokens(self.context_restore, hidden_states, before, pool_inputs)
        return hidden_states


def insert_pool(
    layer: Any, index: int, config: PreTrainedConfig, num_dims: int, own: dict[type, type[nn.Module]]
) -> None:
    """Turns one of upstream's layers, the `index`-th, into that of `own` which is built on its class, and gives it or
    its attention the pool that `config` describes."""
    layer.__class__ = own[type(layer)]
    if config.is_strided:
        layer.pool_level = config.pool_levels()[index]
        at_end = config.pool_restore_layer is None
        if index == (config.num_hidden_layers - 1 if at_end else config.pool_restore_layer):
            layer.pool_restore = "after" if at_end else "before"
            layer.context_restore = ContextRestore(config.hidden_size, config.hidden_size)
        if config.pool_strides[index] > 1:
            layer.pool_placement = "stride"
            layer.context_pool = build_context_pool(config, num_dims, config.pool_strides[index])
            return
    if config.pool_layers is not None and index not in config.pool_layers:
        return
    layer.pool_placement = config.pool_placement
    pooled = layer
    if config.pool_placement == "attention":
        pooled = next(module for module in layer.modules() if type(module) in own)
        pooled.__class__ = own[type(pooled)]
    pooled.context_pool = build_context_pool(config, num_dims)


def build_context_pool(config: PreTrainedConfig, num_dims: int, stride: int = 1) -> ContextPool:
    """The pooling module of a layer that `config` describes, for sequences (`num_dims=1`) or grids (2); one that keeps
    one token of `stride` (or `stride` x `stride`) has no gate."""
    options = {**predictor_options(config), "pool_gate": config.pool_gate and stride == 1}
    return ContextPool(
        config.hidden_size,
        **options,
        pool_range=config.pool_range,
        pool_max_offset=config.pool_max_offset,
        pool_implementation=config.pool_implementation,
        num_dims=num_dims,
        stride=stride,
    )


def predictor_options(config: PreTrainedConfig) -> dict[str, Any]:
    """The arguments that every kind of pooling takes from `config`."""
    return {
        "pool_hidden_size": config.pool_hidden_size,
        "pool_kernel_size": config.pool_kernel_size,
        "pool_num_heads": config.pool_num_heads,
        "pool_gate": config.pool_gate,
        "pool_factored": config.pool_factored,
    }


def pooling_forward(forward: Callable, pool_arguments: Sequence[str] = ()) -> Callable:
    """Decorator of a model's `forward`, which [`PooledModel`] puts on upstream's.

    A base model makes its `pool_inputs`, from its arguments and from those that `pool_arguments` names besides. Every
    model gets the argument `output_support_sizes` (default: the config's), see [`SupportSizesOutput`]. Under gradient
    checkpointing of the reentrant kind the sizes have no gradient.
    """
    signature = inspect.signature(forward)
    *named, rest = signature.parameters.values()
    positional = [each.name for each in named[1:]]

    @wraps(forward)
    def wrapper(self, *args, **kwargs):
        requested = kwargs.pop("output_support_sizes", None)
        requested = self.config.output_support_sizes if requested is None else requested
        if "pool_inputs" in kwargs:  # of a model within another, which has seen to everything
            return _with_whole_maps(self.config, forward(self, *args, **kwargs), kwargs["pool_inputs"])
        if self.reads_inputs:
            if not self.hands_keywords_down and "pool_inputs" not in (aside := _from_aside()):
                kwargs = {**aside, **kwargs}  # from the head that this model is in
            kwargs |= self.make_pool_inputs({**dict(zip(positional, args)), **kwargs})
            for name in (*pool_arguments, "whole_maps"):
                kwargs.pop(name, None)
        elif self.makes_maps and self.config.is_strided:
            kwargs["whole_maps"] = True  # for the base model
        if not requested or getattr(COLLECTED, "sizes", None) is not None:  # a head that contains this one has asked
            return _with_whole_maps(self.config, forward(self, *args, **kwargs), kwargs.get("pool_inputs"))
        return_dict = kwargs.pop("return_dict", None)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        collected: list[torch.Tensor] = []
        COLLECTED.sizes = collected
        try:
            result = forward(self, *args, return_dict=True, **kwargs)
        finally:
            COLLECTED.sizes = None
        if type(result) not in WITH_SUPPORT_SIZES:
            raise ValueError(f"{type(result).__name__} has no place for support_sizes; see with_support_sizes.")
        result = WITH_SUPPORT_SIZES[type(result)](**result, support_sizes=tuple(collected))
        return result if return_dict else result.to_tuple()

    # Code of its own, by which torch.compile counts recompilations: those of one class are not another's.
    own_code = wrapper.__code__.replace(co_qualname=forward.__qualname__)  # type: ignore[attr-defined]
    wrapper.__code__ = own_code  # type: ignore[attr-defined]
    wrapper.pool_arguments = pool_arguments  # type: ignore[attr-defined]
    # Without its name in the signature, Trainer would take a column out of the data.
    named += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in pool_arguments]

    @wraps(forward)
    def described(self, *args, **kwargs):
        return forward(self, *args, **kwargs)

    # One step away: what wraps a model's bound `forward` takes over the function's own attributes, and with an own
    # signature its `self`.
    described.__signature__ = signature.replace(parameters=[*named, rest])  # type: ignore[attr-defined]
    wrapper.__wrapped__ = described
    return wrapper


def _with_whole_maps(config: PreTrainedConfig, result: Any, inputs: PoolInputs | None) -> Any:
    """The output of an encoder whose hidden states are made to feature maps, each of as many tokens as the image has
    patches, and so with each token's state as often as it stands for one."""
    if inputs is None or not inputs.whole_maps or not inputs.reductions:
        return result
    if "last_hidden_state" not in result or result.hidden_states is None:
        return result
    levels, num_tokens = [0, *config.pool_levels()], result.last_hidden_state.shape[1]
    levels[-1] = 0 if config.pool_restore_layer is None else levels[-1]  # which its layer has restored
    result.hidden_states = tuple(
        repeat_tokens(states, inputs, inputs.reductions[level - 1], num_tokens) if level else states
        for level, states in zip(levels, result.hidden_states)
    )
    return result


def _sparing_pools(renaming: Any) -> Any:
    """A renaming of upstream's keys, that leaves those of the pools as they are where it would find itself in them."""
    if renaming.compiled_sources.search(".context_pool.conv.weight") is None:
        return renaming
    patterns = [rf"(?<!context_pool\.){pattern}" for pattern in renaming.source_patterns]
    return WeightRenaming(patterns, renaming.target_patterns)


class PooledModel(PreTrainedModel):
    """Mixed into the `PreTrainedModel` of an upstream family, so that every model of the family can pool.

    The family says by `pooled_classes` which of its own classes take the place of upstream's. A model of the family is
    then a class statement with two bases: the family's `PreTrainedModel` and upstream's model, whose `forward` it
    takes, see [`pooling_forward`].

    Raises:
        ValueError: the `pool_*` fields of the configuration do not fit; they may have been changed since it was made.
    """

    accepts_loss_kwargs = False  # else Trainer takes upstream's losses to divide by `num_items_in_batch`: they do not
    pool_arguments: ClassVar[tuple[str, ...]] = ()
    # Whether upstream's heads hand keywords to the base model and this hands them to its layers, see `past_upstream`.
    hands_keywords_down: ClassVar[bool] = True
    # Whether a head makes feature maps of hidden states, each of which then is of all tokens.
    makes_maps = False
    # Whether the weights of the predictors' last layers are drawn here: as small as most of upstream's families draw
    # them, so that sigma and the weights start near what the biases say. Some leave them at torch's larger ones.
    draws_projections: ClassVar[bool] = False
    pool_num_dims: ClassVar[int]  # of what the layers pool: 1 for sequences, 2 for grids

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        forward: Any = cls.forward
        if "forward" not in vars(cls) and not hasattr(forward, "pool_arguments") and forward is not nn.Module.forward:
            forward = forward if cls.hands_keywords_down else past_upstream(forward)
            cls.forward = pooling_forward(forward, cls.pool_arguments)
        # Checkpoints of earlier versions have other names for the weights; they are read as upstream reads them.
        upstream: Any = cls.__bases__[-1]
        names = {upstream.__name__: cls.__name__}
        if getattr(upstream, "config_class", None) is not None:
            names[upstream.config_class.model_type] = cls.config_class.model_type
        for theirs, own in names.items():
            if renamings := get_checkpoint_conversion_mapping(theirs):
                register_checkpoint_conversion_mapping(own, [*map(_sparing_pools, renamings)], overwrite=True)

    @classmethod
    def pooled_classes(cls) -> tuple[type[nn.Module], ...]:
        """The family's classes of models, layers and attentions, each of which has upstream's for its last base."""
        raise NotImplementedError

    @property
    def reads_inputs(self) -> bool:
        """Whether the model itself makes hidden states of its inputs, and with them its `pool_inputs`; else the base
        model in it does."""
        return self.base_model is self

    def post_init(self) -> None:
        """Upstream's, after the modules that upstream's constructor has built have been turned into the family's."""
        self.config.validate_context_pool()
        own: dict[type, Any] = {each.__bases__[-1]: each for each in self.pooled_classes()}
        for module in list(self.modules()):
            if isinstance(module, PreTrainedModel) and type(module) in own:
                own_class = own[type(module)]
                module.__class__ = own_class
                # Upstream keeps by the class, from the constructor on, what a model's modules record.
                PreTrainedModel.__init__(own_class.__new__(own_class), module.config)
                vars(module).pop("_no_split_modules", None)  # upstream's, over those of the class
                module.post_init()
        if self.reads_inputs:
            self.insert_pools(own)
        super().post_init()

    def insert_pools(self, own: dict[type, type[nn.Module]]) -> None:
        """Turns upstream's layers, in whichever list they are, into those of `own`, and gives them their pools."""
        for layers in [module for module in self.modules() if isinstance(module, nn.ModuleList)]:
            for index, layer in enumerate(layers):
                if type(layer) in own:
                    insert_pool(layer, index, self.config, self.pool_num_dims, own)

    def make_pool_inputs(self, arguments: dict[str, Any]) -> dict[str, PoolInputs]:
        """The keyword that the base model hands down to its layers, made from the arguments of its `forward`."""
        return {}

    def make_attention_mask(self, states: torch.Tensor, attention_mask: Any, places: torch.Tensor) -> Any:
        """Makes what the layers take as `attention_mask` where fewer tokens are kept; for a family whose layers differ
        in it a dict by layer type.

        Args:
            states: `(batch, kept tokens, 0)`, of the dtype and on the device of the hidden states.
            attention_mask: the model's own argument, made for the kept tokens: `(batch, kept tokens)`, boolean; of 4
                dimensions, where it was of 4; None: all are seen; or a dict of such.
            places: `(batch or 1, tokens)`, for each token the kept one that stands for it; the number of kept tokens
                for a token that attention does not see.
        """
        return create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)

    def make_position_embeddings(
        self,
        states: torch.Tensor,
        arguments: dict[str, Any],
        centres: Sequence[Callable[[torch.Tensor], torch.Tensor]],
    ) -> Sequence[Any] | None:
        """Makes what the layers take as `position_embeddings` where fewer tokens are kept: those of the centre of each
        group, which is the mean position of its tokens. Families with rotary positions override it; None: there are
        none.

        Args:
            states: `(batch, tokens, 0)`, of the dtype and on the device of the hidden states.
            arguments: those of the model's `forward`.
            centres: for each strided layer, in order, what makes of `(batch or 1, tokens, ...)` numbers, of images
                those of the patches alone, `(batch or 1, kept tokens, ...)`: see
                [`~cp_transformers.models.pool_inputs.means_of_kept`].

        Returns:
            First those of all tokens, or None for those that upstream hands down, then one for each of `centres`; of a
            family whose layers differ in it dicts by layer type.
        """
        return None

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Whether upstream's model can: upstream looks for the attention in the code of a model's own module."""
        models: Iterator[Any] = (each for each in cls.__mro__ if issubclass(each, PreTrainedModel))
        return next(each for each in models if not issubclass(each, PooledModel))._can_set_attn_implementation()

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """Upstream's, which of custom code passes over what owns no parameters: upstream's own `_init_weights` draws
        the weights of whole attentions. What is loaded is left alone by transformers' `initialization`."""
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PoolProjection):
            if self.draws_projections:
                init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.copy_(module.bias, module.initial_bias())
        elif isinstance(module, (FactoredConv, ContextRestore)):
            module.reset_parameters()
        elif isinstance(module, BaseContextPool) and module.gate is not None:
            init.zeros_(module.gate)

    def save_pretrained(self, *args, save_original_format: bool = False, **kwargs) -> None:
        """Upstream's, but under the names that the weights have in the model, by which Trainer resumes; upstream's
        default are those of earlier versions, where there are others."""
        super().save_pretrained(*args, save_original_format=save_original_format, **kwargs)


class PooledTextModel(PooledModel):
    """Mixed into the `PreTrainedModel` of a family of text encoders.

    By default the class token ([CLS] or <s>), the first valid token of a row, passes by the pooling as it is. The base
    model's `forward`, and with it every head's, takes upstream's arguments as an encoder, and two more:

    - `pool_mask`, `(batch, tokens)`, True where a token may be pooled. It is required with an `attention_mask` of
      another shape than this; the class token is then the first that it names. What a 2-D `attention_mask` masks is
      never pooled.
    - `pool_segments`, `(batch, tokens)`, integers, for rows into which several sequences are packed: the number of the
      sequence that a token belongs to, 0 at padding. Each sequence is pooled as if it stood alone; that attention
      keeps to it is for a 4-D `attention_mask` and `position_ids` to say. Rows that
      [`~transformers.DataCollatorWithFlattening`] has packed for flash attention say it by `cu_seq_lens_q` or
      `seq_idx`, or under flash attention, which splits them there itself, by `position_ids` that begin anew.

    Raises:
        ValueError: the configuration is a decoder's; in the forward pass, an `attention_mask` is of a shape that does
            not say which tokens may be pooled, or that upstream's modules do not take; or see [`PooledModel`].
    """

    pool_arguments = ("pool_mask", "pool_segments")
    pool_num_dims = 1
    # Whether upstream takes an attention mask of 4 dimensions, which keeps the sequences of packed rows apart.
    takes_4d_masks: ClassVar[bool] = True

    def post_init(self) -> None:
        if getattr(self.config, "is_decoder", False) or getattr(self.config, "add_cross_attention", False):
            raise ValueError(
                f"{type(self).__name__} is an encoder: pooling looks at both neighbours, so it would leak the future "
                "into a decoder. Set is_decoder and add_cross_attention to False."
            )
        super().post_init()

    def make_pool_inputs(self, arguments: dict[str, Any]) -> dict[str, PoolInputs]:
        for name in ("encoder_hidden_states", "past_key_values"):
            if arguments.get(name) is not None:
                raise ValueError(f"{type(self).__name__} is an encoder and takes no {name}.")
        input_ids, inputs_embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
        tokens = inputs_embeds if input_ids is None else input_ids
        if tokens is None:  # which upstream refuses
            return {}
        attention_mask = arguments.get("attention_mask")
        if not self.takes_4d_masks and getattr(attention_mask, "ndim", 2) != 2:
            raise ValueError(
                f"{type(self).__name__} takes an attention_mask of shape (batch, tokens) alone: give each sequence a "
                "row of its own, and pad it."
            )
        pool_mask = of_rows("pool_mask", arguments.get("pool_mask"), tokens)
        segments = of_rows("pool_segments", arguments.get("pool_segments"), tokens)
        strided = self.config.is_strided
        if segments is None and (segments := packed_segments(self.config, tokens, arguments)) is not None and strided:
            raise ValueError(
                "Rows that are packed for flash attention cannot be told to layers that keep fewer tokens "
                "(pool_strides): pad them, or pass pool_segments and a 4-D attention_mask."
            )
        masks: list[Any] = [] if segments is None else [segments != 0]
        if getattr(attention_mask, "ndim", None) == 2:
            masks.append(of_rows("attention_mask", attention_mask, tokens) != 0)
        elif attention_mask is not None and pool_mask is not None:
            masks.append(pool_mask.bool())
        elif attention_mask is not None and segments is None:
            raise ValueError(
                "With an attention_mask that is not of shape (batch, tokens), say which tokens may be pooled: pass "
                "pool_mask of that shape, True where a token is valid."
            )
        valid: torch.Tensor | None = reduce(and_, masks) if masks else None
        mask = valid if pool_mask is None else pool_mask.bool() if valid is None else valid & pool_mask.bool()
        inputs, num_kept = without_class_tokens(
            self.config, tokens, valid, mask, segments, others_pass=strided and pool_mask is not None
        )
        if strided:
            states = tokens.new_empty(*tokens.shape[:2], 0, dtype=self.dtype)
            counted = pool_mask is not None or segments is not None
            inputs = with_reductions(self, inputs, states, valid, arguments, None if counted else num_kept)
        return {"pool_inputs": inputs}


class PooledImageModel(PooledModel):
    """Mixed into the `PreTrainedModel` of a family of vision transformers.

    Patches pool their neighbours on the patch grid. The tokens before them, such as a class token, have no place there
    and pass by the pooling as they are. An `attention_mask` must be of shape `(batch, tokens)`, those tokens included;
    a patch where it is zero is not pooled.
    """

    pool_num_dims = 2
    takes_attention_mask: ClassVar[bool] = True  # whether upstream's models do

    @staticmethod
    def check_square(pixel_values: torch.Tensor | None) -> None:
        """Refuses images that are not square, whose pixels upstream's masked image modelling cannot restore."""
        if pixel_values is not None and pixel_values.shape[-2] != pixel_values.shape[-1]:
            raise ValueError(
                "Masked image modelling is for square images, of which upstream's decoder restores the pixels, not "
                f"for {pixel_values.shape[-2]} x {pixel_values.shape[-1]} ones."
            )

    @property
    def num_prefix_tokens(self) -> int:
        """The number of tokens before the patches."""
        return 1

    def grid_size(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """The (rows, columns) of the patches of such images."""
        side = self.config.patch_size
        height, width = (side, side) if isinstance(side, int) else side
        return pixel_values.shape[-2] // height, pixel_values.shape[-1] // width

    def make_pool_inputs(self, arguments: dict[str, Any]) -> dict[str, PoolInputs]:
        pixel_values, mask = arguments.get("pixel_values"), arguments.get("attention_mask")
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values.")
        if mask is not None and not self.takes_attention_mask:
            raise ValueError(f"{type(self).__name__} takes no attention_mask: all patches are seen and pooled.")
        if mask is not None and mask.ndim != 2:
            raise ValueError(
                f"{type(self).__name__} takes an attention_mask of shape (batch, tokens), which says of each patch "
                f"whether it may be pooled, not one with {mask.ndim} dimensions."
            )
        grid_size, prefix = self.grid_size(pixel_values), self.num_prefix_tokens
        attended = None if mask is None else mask.bool()
        inputs = PoolInputs(None if attended is None else attended[:, prefix:], grid_size=grid_size, prefix=prefix)
        if self.config.is_strided:
            size = pixel_values.shape[0], prefix + grid_size[0] * grid_size[1], 0
            states = pixel_values.new_empty(size, dtype=self.dtype)
            inputs = with_reductions(self, inputs, states, attended, arguments, num_kept=0)
            whole_maps = isinstance(self, BackboneMixin) or arguments.get("whole_maps", False)
            inputs = inputs._replace(whole_maps=whole_maps)
        return {"pool_inputs": inputs}


class PooledTowerModel(PooledImageModel):
    """Mixed into the `PreTrainedModel` of a family that is the image tower of two, see [`PooledImageModel`]; without
    an `attention_mask`, which upstream's towers do not take."""

    base_model_prefix = "vision_model"
    takes_attention_mask = False
