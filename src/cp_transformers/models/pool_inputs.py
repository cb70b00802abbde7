# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""A batch tells the pools which tokens are pooled, and which are kept where the pooling is strided."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils.generic import is_flash_attention_requested

from .context_pool import ContextPool
from .linear_pool import can_be_read, is_traced
from .token_groups import group_grid, lay_out, number_runs, repeat_groups, take, valid_groups


if TYPE_CHECKING:
    from .modeling_context_pool import PooledModel


class PoolInputs(NamedTuple):
    """A batch, as far as it concerns the pools. A token that is not to be pooled passes by every pool as it is.

    Attributes:
        mask: `(batch, tokens - prefix)`, boolean, True where a token is pooled and enters pools. None: all are.
        segments: `(batch, tokens - prefix)`, integers: the number of the sequence, each a run of tokens, that a token
            of a packed row belongs to. None: a row is one sequence.
        grid_size: (rows, columns) of an image's patches. None: the tokens are a text's.
        prefix: the number of tokens at the start of every row that are not pooled, such as class tokens.
        reductions: what each strided layer keeps, in order.
        unreduced: where the tokens wait from the first strided layer on until they are restored.
        whole_maps: whether all hidden states are to be of all tokens, as a backbone makes feature maps of them.
        position_embeddings: what layers take in the place of the position embeddings that upstream hands down, which
            are those of all tokens; by layer type where that is a dict. None: upstream's.
    """

    mask: torch.Tensor | None = None
    segments: torch.Tensor | None = None
    grid_size: tuple[int, int] | None = None
    prefix: int = 0
    reductions: tuple["Reduction", ...] = ()
    unreduced: "Unreduced | None" = None
    whole_maps: bool = False
    position_embeddings: Any = None


class Reduction(NamedTuple):
    """How a strided layer makes few tokens of many: first those that are not pooled, then one of each group.

    Attributes:
        inputs: what the pools of the kept tokens are told.
        attention_mask: which of the kept tokens attention sees, in the form that layers take; by layer type where it
            is a dict.
        kept: `(batch, inputs.prefix)`, the indices of the tokens that are not pooled. None: the first ones.
        source: `(batch, places)`, the indices of the tokens that the pool gets. None: all behind the first ones.
        mask, segments: of those, see [`~cp_transformers.models.token_groups.Layout`].
        slots: `(batch, tokens)`, for each token of the model's input the kept one that stands for it. None: it
            follows from `stride`.
        stride: the positions of the model's input that a group stands for, along each dimension.
    """

    inputs: PoolInputs
    attention_mask: Any
    kept: torch.Tensor | None
    source: torch.Tensor | None
    mask: torch.Tensor | None
    segments: torch.Tensor | None
    slots: torch.Tensor | None
    stride: int


class Unreduced:
    """Holds tokens until they are restored; of a class of its own, since accelerate's hooks copy lists and dicts."""

    states: torch.Tensor | None = None


def with_reductions(
    model: "PooledModel",
    inputs: PoolInputs,
    states: torch.Tensor,
    attended: torch.Tensor | None,
    arguments: dict[str, Any],
    num_kept: int | None = None,
) -> PoolInputs:
    """`inputs` with what the strided layers of `model` keep.

    Args:
        states: `(batch, tokens, 0)`, of the dtype and on the device of the hidden states.
        attended: `(batch, tokens)`, boolean, True where attention sees a token. None: it sees all.
        arguments: those of the model's `forward`.
        num_kept: how many tokens of a row are not pooled, at the most; None: to be counted.

    Raises:
        ValueError: from an attention mask of this form that of fewer tokens cannot be made.
    """
    reductions: list[Reduction] = []
    centres: list[Callable[[torch.Tensor], torch.Tensor]] = []
    slots: torch.Tensor | None = None
    total, regular, attended_before = 1, True, attended
    given, whole = arguments.get("attention_mask"), states
    start = 0 if inputs.grid_size is None else inputs.prefix  # of the tokens that have positions
    for stride in model.config.pool_strides or ():
        if stride == 1:
            continue
        current = reductions[-1].inputs if reductions else inputs
        reduction, goes, attended, states = _reduce(
            current, stride, states, attended, num_kept if slots is None else 0
        )
        slots = goes if slots is None else goes.expand(slots.shape[0], -1).gather(1, slots)
        regular = regular and reduction.kept is None and reduction.source is None
        total *= stride
        num_tokens = states.shape[1]
        # The tokens that attention does not see go where nobody looks.
        places = slots if attended_before is None else torch.where(attended_before, slots, num_tokens)
        seen = _reduced_masks(given, places, num_tokens, attended)
        mask = model.make_attention_mask(states, seen, places)
        reductions.append(reduction._replace(attention_mask=mask, slots=None if regular else slots, stride=total))
        centres.append(partial(means_of_kept, places=places[:, start:] - start, num_kept=num_tokens - start))
    if not reductions:
        return inputs
    embeddings = model.make_position_embeddings(whole, arguments, centres)
    if embeddings is not None:
        inputs = inputs._replace(position_embeddings=embeddings[0])
        reductions = [
            each._replace(inputs=each.inputs._replace(position_embeddings=own))
            for each, own in zip(reductions, embeddings[1:])
        ]
    return inputs._replace(reductions=tuple(reductions), unreduced=Unreduced())


def _reduce(
    inputs: PoolInputs, stride: int, states: torch.Tensor, attended: torch.Tensor | None, num_kept: int | None
) -> tuple[Reduction, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Works out which of its tokens a strided layer keeps.

    Returns:
        The reduction, without `slots` and `attention_mask`; for each token the kept one that stands for it; which of
        the kept ones attention sees; and their `states`, see [`with_reductions`].
    """
    batch_size, num_tokens = states.shape[:2]
    mask, segments, grid_size, start = inputs[:4]
    prefix, kept = start, None
    others = None if attended is None else attended[:, :start]
    apart = None if mask is None or start or num_kept == 0 else ~mask if attended is None else attended & ~mask
    index = torch.arange(num_tokens, device=states.device)[None]
    if apart is not None:  # the tokens that are not pooled may be anywhere
        count = apart.sum(dim=1, keepdim=True)
        prefix = int(count.max()) if num_kept is None else num_kept
        target = torch.where(apart, apart.cumsum(dim=1) - 1, prefix)  # the pooled ones go where nobody looks
        kept = index.new_zeros(batch_size, prefix + 1).scatter(1, target, index.expand(batch_size, -1))[:, :prefix]
        others = torch.arange(prefix, device=states.device) < count
    layout = lay_out(mask, segments, stride) if grid_size is None else None
    if layout is not None:
        mask, segments = layout.mask, layout.segments

    rows, columns = group_grid(grid_size, num_tokens - start if mask is None else mask.shape[1], stride)
    groups = None if mask is None else valid_groups(mask, grid_size, stride)
    if grid_size is None:
        goes = (index - start if layout is None else F.pad(layout.places, (start, 0))) // stride
    else:
        across = torch.arange(columns, device=states.device).repeat_interleave(stride)[: grid_size[1]]
        down = torch.arange(rows, device=states.device).repeat_interleave(stride)[: grid_size[0]]
        goes = F.pad((down[:, None] * columns + across).flatten(), (start, 0))[None]
    goes = torch.where(index < start, index, prefix + goes)
    if apart is not None:
        goes = torch.where(apart, apart.cumsum(dim=1) - 1, goes)

    if others is not None or groups is not None:
        size = batch_size, prefix + rows * columns
        attended = torch.ones(size, dtype=torch.bool, device=states.device)
        if others is not None:
            attended = torch.cat([others, attended[:, prefix:]], dim=1)
        if groups is not None:
            attended = torch.cat([attended[:, :prefix], groups], dim=1)
    fewer = PoolInputs(
        groups,
        None if segments is None else segments[:, ::stride],
        None if grid_size is None else (rows, columns),
        prefix,
    )
    source = None if layout is None else layout.source + start
    reduction = Reduction(fewer, None, kept, source, mask, segments, None, stride)
    return reduction, goes, attended, states.new_empty(batch_size, prefix + rows * columns, 0)


def _reduced_masks(given: Any, places: torch.Tensor, num_kept: int, attended: torch.Tensor | None) -> Any:
    """Reduces a model's `attention_mask`, or a dict with one a layer type, to the tokens that are kept: it becomes
    `attended`, `(batch, kept tokens)`, where it says no more than which tokens are seen."""
    if isinstance(given, dict):
        return {name: _reduced_masks(mask, places, num_kept, attended) for name, mask in given.items()}
    if given is None or getattr(given, "ndim", 0) == 2:
        return attended
    return _reduced_mask(given, places, num_kept)


def _reduced_mask(mask: Any, places: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Reduces a mask `(batch or 1, heads or 1, queries or 1, keys)`, boolean or added to the logits, to the tokens
    that are kept: each sees whatever any of the tokens sees that it stands for, by their `places`, and is seen
    likewise."""
    if not isinstance(mask, torch.Tensor) or mask.ndim != 4:
        raise ValueError(
            "Where layers keep fewer tokens (pool_strides), an attention_mask must be a tensor of 2 or 4 dimensions, "
            f"not {type(mask).__name__}."
        )
    is_boolean = mask.dtype == torch.bool
    numbers = mask.to(torch.uint8) if is_boolean else mask
    lowest = 0 if is_boolean else torch.finfo(mask.dtype).min
    for dim in (-1, -2):
        if numbers.shape[dim] > 1:
            numbers = numbers.transpose(dim, -1).expand(max(places.shape[0], numbers.shape[0]), -1, -1, -1)
            fewer = numbers.new_full((*numbers.shape[:-1], num_kept + 1), lowest)
            fewer = fewer.scatter_reduce(-1, places[:, None, None].expand(numbers.shape), numbers, "amax")
            numbers = fewer[..., :num_kept].transpose(dim, -1)
    return numbers.bool() if is_boolean else numbers


def means_of_kept(numbers: torch.Tensor, places: torch.Tensor, num_kept: int) -> torch.Tensor:
    """The mean of numbers of tokens over those that a kept one stands for; of their positions it is the centre.

    Args:
        numbers: `(batch or 1, tokens, ...)`, of any real dtype.
        places: `(batch or 1, tokens)`, for each token the kept one that stands for it; `num_kept` for a token that is
            not counted.
        num_kept: how many are kept.

    Returns:
        `(batch or 1, num_kept, ...)`, float32; zero for what stands for no token.
    """
    numbers = numbers.float().expand(max(numbers.shape[0], places.shape[0]), *numbers.shape[1:])
    index = places.reshape(*places.shape, *[1] * (numbers.ndim - 2)).expand(numbers.shape)
    sums = numbers.new_zeros(numbers.shape[0], num_kept + 1, *numbers.shape[2:])
    counts = sums.scatter_add(1, index, torch.ones_like(numbers))
    return (sums.scatter_add(1, index, numbers) / counts.clamp(min=1))[:, :num_kept]


def token_positions(states: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """The positions, `(batch or 1, tokens)`, of a text's tokens, of which there are as many as in `states`: the
    `position_ids` among a model's arguments, or else 0, 1, 2, ..."""
    position_ids: torch.Tensor | None = arguments.get("position_ids")
    return torch.arange(states.shape[1], device=states.device)[None] if position_ids is None else position_ids


def spans_of_kept(places: torch.Tensor, num_kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the last of the tokens that a kept one stands for, each `(batch or 1, num_kept)`, from `places` as
    in [`means_of_kept`]; of one that stands for none they are beyond the ends, the last before the first."""
    num_tokens = places.shape[1]
    index = torch.arange(num_tokens, device=places.device).expand_as(places)
    shape = places.shape[0], num_kept + 1
    first = index.new_full(shape, num_tokens).scatter_reduce(1, places, index, "amin")
    last = index.new_full(shape, -1).scatter_reduce(1, places, index, "amax")
    return first[:, :num_kept], last[:, :num_kept]


def reduce_tokens(
    context_pool: ContextPool, hidden_states: torch.Tensor, inputs: PoolInputs, reduction: Reduction
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pools `(batch, tokens, channels)` into the tokens that a strided layer keeps; also gives sigma, `(batch, heads,
    groups)`."""
    prefix = reduction.inputs.prefix
    others = hidden_states[:, :prefix] if reduction.kept is None else take(hidden_states, reduction.kept)
    source = reduction.source
    pooled = hidden_states[:, inputs.prefix :] if source is None else take(hidden_states, source)
    groups, sigma = context_pool(
        pooled, mask=reduction.mask, grid_size=inputs.grid_size, segments=reduction.segments, laid_out=True
    )
    return (torch.cat([others, groups], dim=1) if prefix else groups), sigma


class ContextRestore(nn.Linear):
    """The map, zero at the start, of what tokens were before they became fewer, which they get back on restoring."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def restore_tokens(
    context_restore: nn.Module, hidden_states: torch.Tensor, before: torch.Tensor, inputs: PoolInputs
) -> torch.Tensor:
    """All tokens, of those that were kept: each gets what stands for it and, if it was pooled, a map of what it was.

    Args:
        context_restore: the map.
        hidden_states: `(batch, kept tokens, channels)`.
        before: `(batch, tokens, channels)`, what came into the first strided layer.
        inputs: what the model was told of the batch.

    Returns:
        `(batch, tokens, channels)`.
    """
    reduction, prefix = inputs.reductions[-1], inputs.prefix
    whole = repeat_tokens(hidden_states, inputs, reduction, before.shape[1])
    if reduction.slots is None:
        own = context_restore(before[:, prefix:])
        return whole + (F.pad(own, (0, 0, prefix, 0)) if prefix else own)
    is_kept = reduction.slots < reduction.inputs.prefix
    return whole + context_restore(before).masked_fill(is_kept[..., None], 0.0)


def repeat_tokens(
    hidden_states: torch.Tensor, inputs: PoolInputs, reduction: Reduction, num_tokens: int
) -> torch.Tensor:
    """From `(batch, kept tokens, channels)` to `(batch, tokens, channels)`: each token gets what stands for it."""
    if reduction.slots is not None:
        return take(hidden_states, reduction.slots)
    prefix = inputs.prefix
    groups = repeat_groups(hidden_states[:, prefix:], num_tokens - prefix, inputs.grid_size, reduction.stride)
    return torch.cat([hidden_states[:, :prefix], groups], dim=1) if prefix else groups


def of_rows(name: str, given: torch.Tensor | None, tokens: torch.Tensor) -> torch.Tensor | None:
    """A mask or segments as `(batch, tokens)`, also where they are given as `(batch, choices, tokens)`."""
    rows = given.flatten(0, 1) if given is not None and given.ndim == 3 else given
    if rows is not None and rows.shape != tokens.shape[:2]:
        raise ValueError(f"{name} must be of shape {tuple(tokens.shape[:2])}, not {tuple(rows.shape)}.")
    return rows


def packed_segments(config: PreTrainedConfig, tokens: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor | None:
    """The segments, `(batch, tokens)`, of rows that [`~transformers.DataCollatorWithFlattening`] has packed, by what
    it gives, see [`PooledTextModel`]; of others None."""
    if (numbers := arguments.get("seq_idx")) is not None:
        return numbers + 1
    if (bounds := arguments.get("cu_seq_lens_q")) is not None:
        positions = torch.arange(tokens.shape[1], device=bounds.device)
        return torch.searchsorted(bounds[1:].contiguous(), positions, right=True)[None] + 1
    position_ids: Any = arguments.get("position_ids")
    alone = position_ids is not None and position_ids.shape == tokens.shape[:2] and tokens.shape[0] == 1
    if not alone or arguments.get("attention_mask") is not None or not is_flash_attention_requested(config):
        return None
    begins = F.pad(position_ids[:, 1:] <= position_ids[:, :-1], (1, 0), value=True)
    return begins.cumsum(dim=1) if is_traced(begins) or begins[:, 1:].any() else None


def class_tokens(valid: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
    """`(batch, tokens)`, True at the first `valid` token of each row, or of each of its segments, which are runs of
    tokens."""
    if segments is None:
        return valid & (valid.cumsum(dim=1) == 1)
    run = number_runs(segments)
    num_tokens = run.shape[1]
    index = torch.arange(num_tokens, device=run.device).expand_as(run)
    candidates = torch.where(valid, index, num_tokens)
    first = torch.full_like(index, num_tokens).scatter_reduce(1, run, candidates, "amin")
    return valid & (index == first.gather(1, run))


def without_class_tokens(
    config: PreTrainedConfig,
    tokens: torch.Tensor,
    valid: torch.Tensor | None,
    mask: torch.Tensor | None,
    segments: torch.Tensor | None,
    others_pass: bool,
) -> tuple[PoolInputs, int]:
    """Leaves the class tokens out of the tokens of a text that are pooled, and counts them a row.

    Args:
        tokens: the ids or embeddings, of which the shape is asked.
        valid, mask, segments: `(batch, tokens)`, see [`PooledTextModel`]; the class token is the first valid one.
        others_pass: whether it must be known of each token if attention sees it and the pools do not.
    """
    if config.pool_class_token:
        return PoolInputs(mask, segments), 0
    # Where the class token is the first of every row a slice does, and nothing need be copied to make it zero.
    first = valid is None or (can_be_read(valid) and bool(valid[:, 0].all()))
    if first and segments is None and tokens.shape[1] > 1 and not is_traced(tokens) and not others_pass:
        return PoolInputs(None if mask is None else mask[:, 1:], prefix=1), 1
    valid = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if valid is None else valid
    others = ~class_tokens(valid, segments)
    return PoolInputs(others if mask is None else mask & others, segments), 1
