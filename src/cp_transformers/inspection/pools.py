# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Records what each pool of a model does with one input, as arrays: weights, sizes, offsets, and what pools what."""

import html
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.context_pool import BaseContextPool, ContextPool, pooling_weights
from ..models.feature_map_pool import GlobalContextPool, WindowedContextPool, windowed_pooling_weights
from ..models.modeling_context_pool import PooledLayer
from ..models.pool_inputs import PoolInputs, Reduction, repeat_tokens


# Of `p`, in all pools together: 400 MB in float32.
MAX_NUMBERS = 100_000_000


@dataclass(frozen=True, eq=False, repr=False)
class Pool:
    """One pooling module and one input. Its pools are as many as the tokens that come out of it, and each gathers the
    tokens that come in; neither counts the tokens that are not pooled, such as class tokens and padding.

    Attributes:
        name: such as "layer 2", counted from 0 as in the configuration; of a ConvNet "stem" or "last map".
        stride: tokens that come in for each that comes out, along each dimension.
        window: the side of the window that a pool sees of a feature map. None: all that comes in.
        weights: `(heads, tokens in)`, the logarithm of each token's weight in anybody's pool.
        sigma: `(heads, pools)`, each pool's width in positions of what comes in. None: each sees all of it alike.
        offsets: `(heads, pools, 1)`, or `(heads, pools, 2)` (rows, columns) on a grid, from the token, or from the
            mean position of those that it stands for, to the centre of the pool. None: it does not move.
        p: `(heads, pools, tokens in)`, what enters each pool, with sums of one; with a `window` `(heads, pools,
            window * window)`, row by row, around the position `stride` times the pool's own. See also [`row`].
        grid_in, grid_out: (rows, columns) of what comes in and out, row by row. None: it is a text.
        token_in: `(tokens,)`, for each token or patch of the model's input the one that stands for it in what comes
            in; -1 where it is not pooled. None for feature maps, of which the input has other positions.
        token_out: `(tokens,)`, likewise the pool that stands for it.
        gate: `(heads,)`, the mean of the gate's absolute values. None: there is none, and the pool alone counts.
        is_untrained: whether the predictor's last biases are what they are drawn with.
    """

    name: str
    stride: int
    window: int | None
    weights: np.ndarray
    sigma: np.ndarray | None
    offsets: np.ndarray | None
    p: np.ndarray
    grid_in: tuple[int, int] | None
    grid_out: tuple[int, int] | None
    token_in: np.ndarray | None
    token_out: np.ndarray | None
    gate: np.ndarray | None
    is_untrained: bool

    @property
    def num_heads(self) -> int:
        return self.p.shape[0]

    @property
    def num_pools(self) -> int:
        return self.p.shape[1]

    @property
    def shares(self) -> np.ndarray:
        """`(heads, tokens in)`, how often each token's weight is the mean of all."""
        shares = np.exp(self.weights - self.weights.max(axis=1, keepdims=True))
        return shares / shares.mean(axis=1, keepdims=True)

    def row(self, pool: int, head: int | None = None) -> np.ndarray:
        """`(tokens in,)`, what has entered a pool: of one head, or the mean of the heads."""
        row = self.p[:, pool].mean(axis=0) if head is None else self.p[head, pool]
        if self.window is None:
            return row
        whole = np.zeros(self.weights.shape[1], row.dtype)
        indices, inside = self.window_indices(pool)
        whole[indices[inside]] = row[inside]
        return whole

    def window_indices(self, pool: int) -> tuple[np.ndarray, np.ndarray]:
        """`(window * window,)` twice: the index of each position of a pool's window in what comes in, and whether it
        is inside of that."""
        assert self.window is not None and self.grid_in is not None and self.grid_out is not None
        steps = np.arange(self.window) - self.window // 2
        down, across = (self.stride * place + steps for place in divmod(pool, self.grid_out[1]))
        rows, columns = self.grid_in
        inside = ((down >= 0) & (down < rows))[:, None] & (across >= 0) & (across < columns)
        return (down[:, None] * columns + across).ravel(), inside.ravel()

    def members(self, pool: int) -> np.ndarray:
        """The indices of what comes in that a pool stands for: of a text or a grid the token itself, or its group."""
        if self.grid_in is None or self.grid_out is None:
            assert self.token_in is not None and self.token_out is not None
            return np.unique(self.token_in[self.token_out == pool])
        indices = np.arange(self.grid_in[0] * self.grid_in[1]).reshape(self.grid_in)
        row, column = (self.stride * place for place in divmod(pool, self.grid_out[1]))
        return indices[row : row + self.stride, column : column + self.stride].ravel()

    def apart(self) -> np.ndarray:
        """`(pools,)`, from 0 to 1: the part of each, a mean of the heads, that is not the mean of what it stands for;
        of a token that stands for itself, what comes from others."""
        found = []
        for pool in range(self.num_pools):
            own = self.row(pool)[self.members(pool)]
            found.append(1 - np.minimum(own, 1 / len(own)).sum())
        return np.array(found)

    def __repr__(self) -> str:
        return f"Pool({self.name!r}, {self.num_heads} heads, {self.num_pools} pools of {self.weights.shape[1]})"


@dataclass(frozen=True, eq=False, repr=False)
class Inspection:
    """A record of what a model's pools do with one input. As the last value of a notebook's cell it shows itself.

    Attributes:
        model: the model's name.
        pools: in the model's order.
        tokens: of a text, without padding. None: it is an image.
        picture: `(rows, columns, 3)`, 0 to 255, what the model sees of an image. None: it is a text.
    """

    model: str
    pools: tuple[Pool, ...]
    tokens: tuple[str, ...] | None = None
    picture: np.ndarray | None = None

    def to_html(self) -> str:
        """A page that shows it, in one file."""
        from .page import make_page

        return make_page([self])

    def _repr_html_(self) -> str:
        # A document of its own, so that neither its styles nor its scripts meet the notebook's.
        page = html.escape(self.to_html())
        return f'<iframe srcdoc="{page}" title="What {html.escape(self.model)} pools" ' + (
            'sandbox="allow-scripts" style="width: 100%; height: 640px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        what = f"{len(self.tokens)} tokens" if self.tokens is not None else "an image"
        return f"Inspection({self.model!r}, {what}, pools: {', '.join(pool.name for pool in self.pools)})"


class Prediction(NamedTuple):
    """The numbers that a pool has predicted, the shape of the hidden states, and the arguments of its `predict`."""

    numbers: Any
    shape: torch.Size
    arguments: dict[str, Any]


@contextmanager
def recorded_pools(model: nn.Module) -> Iterator[dict[BaseContextPool, list[Prediction]]]:
    """While the block runs, what each pool predicts is kept."""
    pools = [module for module in model.modules() if isinstance(module, BaseContextPool)]
    records: dict[BaseContextPool, list[Prediction]] = {pool: [] for pool in pools}

    def recorder(pool: Any) -> Any:
        def predict(hidden_states: torch.Tensor, **arguments: Any) -> Any:
            numbers = type(pool).predict(pool, hidden_states, **arguments)
            records[pool].append(Prediction(numbers, hidden_states.shape, arguments))
            return numbers

        return predict

    try:
        for pool in pools:
            pool.predict = recorder(pool)
        yield records
    finally:
        for pool in pools:
            del pool.predict


@torch.no_grad()
def inspect_pools(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], processor: Any = None) -> Inspection:
    """Records what every pool of a model does with one text or image.

    Args:
        model: a model of this package, with any head; it is run in evaluation mode.
        inputs: what the model takes, in a batch of one, such as `tokenizer(text, return_tensors="pt")`.
        processor: its tokenizer, which names the tokens, or its image processor, which tells the colours. None: the
            tokens are shown as numbers, and the picture's colours from its smallest value to its largest.

    Raises:
        ValueError: the model does not pool, there is not one input, or its `p` would be more numbers than
            [`MAX_NUMBERS`].
    """
    names = _pool_names(model)
    if not names:
        raise ValueError(
            f"{type(model).__name__} does not pool: convert it first (cp-transformers convert), with layers that do."
        )
    inputs = _on_cpu(dict(inputs))
    given = _one_input(model, inputs)
    records, told = _run(model, inputs)
    _check_numbers(names, records)
    pools = []
    for pool, (name, layer) in names.items():
        if not (predictions := records[pool]):
            continue  # a backbone computes no more stages than it is asked for
        if layer is None:
            pools.append(_of_feature_map(name, pool, _on_cpu(predictions[-1])))
        else:
            pools.append(_of_tokens(name, pool, layer, _on_cpu(predictions[-1]), told[0], inputs, given))
    title = Path(getattr(model.config, "name_or_path", "") or type(model).__name__).name
    if model.main_input_name == "pixel_values":
        return Inspection(title, tuple(pools), picture=_picture(given[0], processor, model, told))
    return Inspection(title, tuple(pools), tokens=_tokens(inputs, given, processor))


def _one_input(model: PreTrainedModel, inputs: Mapping[str, Any]) -> torch.Tensor:
    """The text's ids or embeddings, or the image's pixels, of which there must be one."""
    name = model.main_input_name
    given = next((inputs[each] for each in (name, "inputs_embeds") if inputs.get(each) is not None), None)
    of_choices = name in inputs and name == "input_ids" and given is not None and given.ndim != 2
    if given is None or given.shape[0] != 1 or of_choices:
        shape = "nothing" if given is None else tuple(given.shape)
        raise ValueError(f"Pools are inspected one input at a time: {name} must be of one text or image, not {shape}.")
    return given


def _run(
    model: PreTrainedModel, inputs: Mapping[str, Any]
) -> tuple[dict[BaseContextPool, list[Prediction]], list[PoolInputs]]:
    """Runs a model, and returns what its pools predict and what its first layer is told of the batch."""
    told: list[PoolInputs] = []

    def remember(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        told.append(_on_cpu(kwargs["pool_inputs"]))

    first = next((module for module in model.modules() if isinstance(module, PooledLayer)), None)
    hook = None if first is None else first.register_forward_pre_hook(remember, with_kwargs=True)
    was_training = model.training
    try:
        with recorded_pools(model.eval()) as records:
            model(**{name: _on(value, model) for name, value in inputs.items()})
    finally:
        model.train(was_training)
        if hook is not None:
            hook.remove()
    return records, told


def _on(value: Any, model: PreTrainedModel) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(model.device, model.dtype if value.is_floating_point() else None)


def _on_cpu(value: Any) -> Any:
    """A tensor, and those in tuples and dictionaries, in the CPU's memory."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _on_cpu(each) for name, each in value.items()}
    if isinstance(value, tuple):
        parts = [_on_cpu(each) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _pool_names(model: nn.Module) -> dict[BaseContextPool, tuple[str, PooledLayer | None]]:
    """For each pool its name and, where it pools tokens, the layer before or in which it does."""
    names: dict[BaseContextPool, tuple[str, PooledLayer | None]] = {}
    for path, module in model.named_modules():
        if isinstance(module, PooledLayer):
            number = next(part for part in reversed(path.split(".")) if part.isdigit())
            names |= {
                pool: (f"layer {number}", module) for pool in module.modules() if isinstance(pool, BaseContextPool)
            }
        elif isinstance(module, WindowedContextPool):
            names[module] = ("stem", None)
        elif isinstance(module, GlobalContextPool):
            names[module] = ("last map", None)
    return names


def _check_numbers(names: Mapping[Any, tuple[str, Any]], records: Mapping[Any, list[Prediction]]) -> None:
    total = 0
    for pool, predictions in records.items():
        if predictions and isinstance(pool, ContextPool):
            weights, sigma = predictions[-1].numbers[:2]
            seen = weights[0, 0].numel() if not isinstance(pool, WindowedContextPool) else pool.window**2
            total += sigma.numel() * seen
    if total > MAX_NUMBERS:
        raise ValueError(
            f"What the pools gather here are {total / 1e6:,.0f} million numbers, more than the "
            f"{MAX_NUMBERS / 1e6:,.0f} million that can be held: give a shorter text or a smaller image."
        )


def _of_tokens(
    name: str,
    module: Any,
    layer: PooledLayer,
    prediction: Prediction,
    told: PoolInputs,
    inputs: Mapping[str, Any],
    given: torch.Tensor,
) -> Pool:
    """The pool of a layer, whose tokens are those of the model's input, or stand for groups of them."""
    weights, sigma, offsets = prediction.numbers
    mask, grid_size, segments = (prediction.arguments.get(key) for key in ("mask", "grid_size", "segments"))
    p = pooling_weights(weights, sigma, offsets, mask, grid_size, segments, module.stride)[0]
    level = layer.pool_level
    level_in = level - 1 if module.stride > 1 else level
    num_tokens = given.shape[1] if given.ndim < 4 else _num_tokens(told)
    token_in, token_out = (_standing(told, each, num_tokens) for each in (level_in, level))
    grid_out = grid_size if module.stride == 1 else told.reductions[level - 1].inputs.grid_size
    if grid_size is None:
        attended = inputs.get("attention_mask")
        if attended is not None and attended.ndim == 2:
            visible = attended[0].bool()
            token_in, token_out = token_in[visible], token_out[visible]
        columns, rows = (each[each >= 0].unique() for each in (token_in, token_out))
        token_in, token_out = (
            torch.where(each >= 0, torch.searchsorted(some, each.contiguous()), -1)
            for each, some in ((token_in, columns), (token_out, rows))
        )
        if module.stride > 1:
            columns = _places(
                columns, told.reductions[level - 1], told.reductions[level - 2].inputs if level > 1 else told
            )
        weights, p = weights[:, :, columns], p[:, rows][:, :, columns]
        sigma, offsets = sigma[:, :, rows], None if offsets is None else offsets[:, :, rows]
    else:
        token_in, token_out = (each[told.prefix :] for each in (token_in, token_out))
        if mask is not None and module.stride == 1:
            p, sigma = p * mask[0][:, None], sigma * mask[:, None]
    return Pool(
        name,
        module.stride,
        None,
        _array(weights[0]),
        _array(sigma[0]),
        None if offsets is None else _array(offsets[0]),
        _array(p),
        grid_size,
        grid_out,
        token_in.numpy(),
        token_out.numpy(),
        _gate(module),
        _is_untrained(module),
    )


def _num_tokens(told: PoolInputs) -> int:
    assert told.grid_size is not None
    return told.prefix + told.grid_size[0] * told.grid_size[1]


def _standing(told: PoolInputs, level: int, num_tokens: int) -> torch.Tensor:
    """`(tokens,)`: for each token of the model's input, which of the pooled tokens stands for it behind the first
    `level` strided layers; -1 where it is not pooled."""
    pooled = torch.arange(num_tokens) >= told.prefix
    if told.mask is not None:
        pooled[told.prefix :] &= told.mask[0].bool()
    if level == 0:
        return torch.where(pooled, torch.arange(num_tokens) - told.prefix, -1)
    reduction = told.reductions[level - 1]
    prefix, grid_size = reduction.inputs.prefix, reduction.inputs.grid_size
    count = prefix + (num_tokens if grid_size is None else grid_size[0] * grid_size[1])
    index = torch.arange(count)[None, :, None]
    standing = repeat_tokens(index, told, reduction, num_tokens)[0, :, 0]
    return torch.where(pooled & (standing >= prefix), standing - prefix, -1)


def _places(indices: torch.Tensor, reduction: Reduction, given: PoolInputs) -> torch.Tensor:
    """Where a strided layer lays the tokens of these indices, see [`~cp_transformers.models.token_groups.lay_out`]."""
    if reduction.source is None:
        return indices
    source = reduction.source[0] - given.prefix
    places = torch.arange(len(source))
    if reduction.mask is not None:
        source, places = source[reduction.mask[0]], places[reduction.mask[0]]
    order = source.argsort()
    return places[order][torch.searchsorted(source[order], indices)]


def _of_feature_map(name: str, module: Any, prediction: Prediction) -> Pool:
    """The pool of a ConvNet's feature map: of windows, or of the whole map."""
    rows, columns = grid_in = prediction.shape[2], prediction.shape[3]
    gate, is_untrained = _gate(module), _is_untrained(module)
    if isinstance(module, GlobalContextPool):
        weights = prediction.numbers[0]
        p = weights.softmax(dim=-1)[:, None]
        whole, stride = (1, 1), max(rows, columns)
        return Pool(
            name, stride, None, _array(weights), None, None, _array(p), grid_in, whole, None, None, gate, is_untrained
        )
    weights, sigma, offsets = prediction.numbers
    p = windowed_pooling_weights(weights, sigma, offsets, window=module.window, stride=module.window_stride)[0]
    return Pool(
        name,
        module.window_stride,
        module.window,
        _array(weights[0].flatten(1)),
        _array(sigma[0].flatten(1)),
        None if offsets is None else _array(offsets[0].flatten(1, 2)),
        _array(p.flatten(2).transpose(1, 2)),
        grid_in,
        (sigma.shape[2], sigma.shape[3]),
        None,
        None,
        gate,
        is_untrained,
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


def _gate(module: Any) -> np.ndarray | None:
    if module.gate is None:
        return None
    return _array(module.gate.detach().abs().unflatten(0, (module.pool_num_heads, -1)).mean(dim=1))


def _is_untrained(module: Any) -> bool:
    bias = module.proj.bias
    return bias is not None and torch.equal(bias.cpu(), module.proj.initial_bias().to(bias.dtype))


def _tokens(inputs: Mapping[str, Any], given: torch.Tensor, processor: Any) -> tuple[str, ...]:
    """A text's tokens as a reader would have them; without a tokenizer, or ids, their numbers."""
    indices = torch.arange(given.shape[1])
    attended = inputs.get("attention_mask")
    if attended is not None and attended.ndim == 2:
        indices = indices[attended[0].bool()]
    if "input_ids" not in inputs:
        return tuple(map(str, indices.tolist()))
    ids = inputs["input_ids"][0, indices].tolist()
    if processor is None:
        return tuple(map(str, ids))
    names = processor.convert_ids_to_tokens(ids)
    return tuple(_readable(processor.decode([number]).strip(), name) for number, name in zip(ids, names))


def _readable(decoded: str, name: str) -> str:
    """A token alone; by its name in the vocabulary where it is but white space, or a part of a character."""
    return name if not decoded or "\ufffd" in decoded else decoded


def _picture(pixels: torch.Tensor, processor: Any, model: PreTrainedModel, told: list[PoolInputs]) -> np.ndarray:
    """`(rows, columns, 3)`, 0 to 255, that part of an image's pixels, `(channels, rows, columns)`, which the model
    sees: a rest that makes no whole patch is cut off."""
    pixels = pixels.float()
    if told and told[0].grid_size is not None:
        size: Any = model.config.patch_size
        height, width = (size, size) if isinstance(size, int) else size
        rows, columns = told[0].grid_size
        pixels = pixels[:, : rows * height, : columns * width]
    if getattr(processor, "do_normalize", False):
        mean, std = (torch.tensor(each)[:, None, None] for each in (processor.image_mean, processor.image_std))
        pixels = pixels * std + mean
    else:
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-12)
    if len(pixels) != 3:
        pixels = pixels.mean(dim=0).expand(3, -1, -1)
    return (255 * pixels.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
