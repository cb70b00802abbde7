# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Models with rotary positions that keep fewer tokens: a group stands at the mean position of its tokens, and a local
window is counted in tokens."""

import math
from functools import partial

import pytest
import torch
from model_cases import CASES, NUM_CHANNELS, NUM_TOKENS, assert_same_outputs, text_inputs
from text_cases import run
from torch import nn
from torch.testing import assert_close
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    flash_attention_mask,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.dinov3_vit.modeling_dinov3_vit import (
    augment_patches_center_coordinates,
    get_patches_center_coordinates,
)

from cp_transformers.models import modeling_cp_modernbert
from cp_transformers.models.pool_inputs import means_of_kept, spans_of_kept
from cp_transformers.models.token_groups import group_means


TEXT, IMAGE = CASES["modernbert"][0], CASES["dinov3_vit"][0]
KINDS = ["full_attention", "sliding_attention"]
LOCAL = {"num_hidden_layers": 4, "layer_types": KINDS * 2, "local_attention": 6}  # 3 tokens on either side


class MeanPool(nn.Module):
    """In the place of a strided layer's pool: the plain mean of each group."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, hidden_states, mask=None, grid_size=None, segments=None, laid_out=False):
        groups = group_means(hidden_states.transpose(1, 2), mask, grid_size, self.stride).transpose(1, 2)
        return groups, groups.new_zeros(len(groups), 1, groups.shape[1])


def pooling_means(model):
    for layer in model.modules():
        if getattr(layer, "pool_placement", None) == "stride":
            layer.context_pool = MeanPool(layer.context_pool.stride)
    return model


def seen_by_layers(model, name, **inputs):
    """Collects what each attention is handed as `name`."""
    seen, attention = [], model.pooled_classes()[-1].__bases__[-1]
    hooks = [
        module.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs[name]), with_kwargs=True)
        for module in model.modules()
        if isinstance(module, attention)
    ]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    return seen


# --------------------------------------------------------------------------------------------- what is kept of tokens


def test_means_and_spans_are_those_of_the_tokens_that_count():
    places = torch.tensor([[0, 1, 1, 2, 3, 4], [4, 4, 0, 1, 1, 2]])  # four kept: those at 4 do not count
    numbers = torch.tensor([[0, 1, 2, 5, 7, 9]])
    assert means_of_kept(numbers, places, 4).tolist() == [[0, 1.5, 5, 7], [2, 6, 9, 0]]
    pairs = torch.stack([numbers, 2 * numbers], dim=-1)
    assert torch.equal(means_of_kept(pairs, places, 4)[..., 1], 2 * means_of_kept(numbers, places, 4))
    first, last = spans_of_kept(places, 4)
    assert first.tolist() == [[0, 1, 3, 4], [2, 3, 5, 6]] and last.tolist() == [[0, 2, 3, 4], [2, 4, 5, -1]]


# -------------------------------------------------------------------------------------------------------------- texts


def centres(length: int, stride: int, positions) -> list[float]:
    """The centres of the groups of `length` tokens, the first of which is the class token."""
    groups = [positions[begin : min(begin + stride, length)] for begin in range(1, length, stride)]
    return [positions[0], *(sum(group) / len(group) for group in groups)]


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("spread", [False, True], ids=["counted", "given"])
@pytest.mark.parametrize("strides", [[1, 2, 1, 1], [1, 3, 1, 1], [2, 2, 1, 1]], ids=str)
def test_a_group_has_upstream_s_rotary_embedding_of_its_centre(strides, spread, left):
    model, inputs = TEXT.model(**LOCAL, pool_strides=strides, pool_layers=[]), text_inputs(3)
    del inputs["token_type_ids"]
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    positions = torch.arange(NUM_TOKENS).expand(3, -1)
    if spread:  # every second position, from another one on in each row
        positions = 2 * positions + torch.tensor([[0], [5], [9]])
    starts = [NUM_TOKENS - length if left else 0 for length in lengths]
    inputs = {name: torch.stack([row.roll(at) for row, at in zip(each, starts)]) for name, each in inputs.items()}
    if spread:
        inputs["position_ids"] = positions
    seen = seen_by_layers(model, "position_embeddings", **inputs)
    for index, kind in enumerate(KINDS * 2):
        stride = math.prod(strides[: index + 1])
        for row, (length, at) in enumerate(zip(lengths, starts)):
            of_row = positions[row, at : at + length].tolist()
            points = centres(length, stride, of_row) if stride > 1 else of_row
            expected = model.rotary_emb(torch.zeros(1), torch.tensor([points]), kind)
            for actual, wanted in zip(seen[index], expected):
                actual = actual[row if len(actual) > 1 else 0]
                actual = actual[: len(points)] if stride > 1 else actual[at : at + length]
                assert_close(actual, wanted[0], rtol=0.0, atol=1e-6)


def test_restored_tokens_have_upstream_s_embeddings_again():
    model = TEXT.model(**LOCAL, pool_strides=[1, 2, 1, 1], pool_restore_layer=3)
    seen = seen_by_layers(model, "position_embeddings", **TEXT.inputs())
    assert [cos.shape[1] for cos, _ in seen] == [12, 7, 7, 12]
    assert seen[3][0] is not seen[1][0] and torch.equal(
        seen[3][0], model.rotary_emb(torch.zeros(1), torch.arange(NUM_TOKENS)[None], KINDS[1])[0]
    )


def duplicated(ids: torch.Tensor, stride: int) -> dict[str, torch.Tensor]:
    """Rows in which each token but the first stands `stride` times, each time at one position."""
    positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
    each = {"input_ids": ids, "position_ids": positions}
    return {
        name: torch.cat([rows[:, :1], rows[:, 1:].repeat_interleave(stride, dim=1)], dim=1)
        for name, rows in each.items()
    }


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("stride", [2, 3])
def test_groups_of_equal_tokens_are_the_stock_model_s_tokens(stride, attn_implementation):
    sizes = {"num_hidden_layers": 4, "layer_types": KINDS * 2, "attn_implementation": attn_implementation}
    strides = {"pool_strides": [stride, 1, 1, 1], "pool_layers": []}
    model = pooling_means(TEXT.fresh_model(**sizes, local_attention=2 * 2 * stride, **strides))
    stock = TEXT.stock_class(TEXT.stock_config(**sizes, local_attention=2 * 2)).eval()
    stock.load_state_dict(model.state_dict(), strict=False)
    ids = text_inputs(3)["input_ids"].clamp(min=1)
    actual = run(model, duplicated(ids, stride)).last_hidden_state
    assert_same_outputs(actual[:, [0, *range(1, actual.shape[1], stride)]], run(stock, {"input_ids": ids})[0], 1e-5)


# -------------------------------------------------------------------------------------------------- the local window


def brute_force(places, num_kept: int, window: int) -> torch.Tensor:
    """`(kept, kept)`: whether any token of the one is near any token of the other."""
    tokens = [[token for token, place in enumerate(places) if place == kept] for kept in range(num_kept)]
    return torch.tensor(
        [[any(abs(i - j) <= window for i in these for j in those) for those in tokens] for these in tokens]
    )


@pytest.mark.parametrize("strides", [[1, 2, 1, 1], [1, 3, 1, 1], [2, 2, 1, 1]], ids=str)
def test_the_window_of_groups_is_of_whatever_is_in_a_token_s_window(strides):
    model = TEXT.model(**LOCAL, pool_strides=strides, pool_layers=[], attn_implementation="eager")
    inputs = {"input_ids": torch.arange(1, 31)[None]}
    stride = math.prod(strides)
    attention = run(model, inputs, output_attentions=True).attentions[3]
    kept = attention.shape[-1]
    expected = brute_force([0, *(1 + token // stride for token in range(29))], kept, window=3)
    assert torch.equal(attention[0, 0] > 0, expected)
    distance = (torch.arange(kept)[:, None] - torch.arange(kept)).abs()
    assert torch.equal(expected, distance <= math.ceil(3 / stride))
    assert [layer.attn.sliding_window for layer in model.layers] == [
        None, 1 + math.ceil(3 / math.prod(strides[:2])), None, 1 + math.ceil(3 / stride)
    ]  # fmt: skip


def test_a_token_that_is_kept_apart_sees_the_groups_around_it():
    model = TEXT.model(**LOCAL, pool_strides=[1, 2, 1, 1], pool_layers=[], attn_implementation="eager")
    inputs = {"input_ids": torch.arange(1, 31)[None], "pool_mask": torch.arange(30)[None] != 20}
    attention = run(model, inputs, output_attentions=True).attentions[3]
    places = [0, *(2 + token // 2 for token in range(29))]
    places[20] = 1
    assert torch.equal(attention[0, 0] > 0, brute_force(places, attention.shape[-1], window=3))


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_upstream_s_masks_by_layer_type_are_the_2d_mask(attn_implementation):
    fields = {"pool_strides": [1, 2, 1, 1], "pool_layers": [], "attn_implementation": attn_implementation}
    model, inputs = TEXT.model(**LOCAL, **fields), TEXT.inputs()
    valid = inputs["attention_mask"].bool()
    of_model = (model.config, torch.zeros(3, NUM_TOKENS, 1), inputs["attention_mask"])
    makers = (create_bidirectional_mask, create_bidirectional_sliding_window_mask)
    masks = {kind: make(*of_model) for kind, make in zip(KINDS, makers)}
    actual = run(model, {**inputs, "attention_mask": masks, "pool_mask": valid}).last_hidden_state
    assert_same_outputs(actual[valid], run(model, inputs).last_hidden_state[valid], atol=1e-5)
    wide = TEXT.model(**{**LOCAL, "local_attention": 128}, **fields)
    wide.load_state_dict(model.state_dict())
    assert not torch.allclose(run(wide, inputs).last_hidden_state[valid], actual[valid], atol=1e-3)


@pytest.mark.parametrize("stride", [2, 3])
def test_sequences_that_are_packed_into_a_row_are_as_if_each_stood_alone(stride):
    model = TEXT.model(**LOCAL, pool_strides=[1, stride, 1, 1], pool_restore_layer=3)
    ids, lengths = torch.arange(1, 21)[None], [9, 4, 7]
    segments = torch.repeat_interleave(torch.tensor([1, 2, 3]), torch.tensor(lengths))[None]
    position_ids = torch.cat([torch.arange(length) for length in lengths])[None]
    together = (segments[:, None] == segments[..., None])[:, None]
    near = (torch.arange(20)[:, None] - torch.arange(20)).abs() <= 3
    masks = dict(zip(KINDS, (together, together & near)))
    packed = {"input_ids": ids, "position_ids": position_ids, "pool_segments": segments, "attention_mask": masks}
    actual = run(model, packed).last_hidden_state.split(lengths, dim=1)
    for states, each in zip(actual, ids.split(lengths, dim=1)):
        assert_same_outputs(states, run(model, {"input_ids": each}).last_hidden_state, atol=1e-5)


def by_index(module, query, key, value, attention_mask, scaling, sliding_window=None, **kwargs):
    """Attention as flash attention's: a 2-D mask, and a window that counts keys, the own included."""
    index = torch.arange(query.shape[2])
    seen = torch.ones(len(query), 1, len(index), len(index), dtype=torch.bool)
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None].bool()
    if sliding_window is not None:
        seen = seen & ((index[:, None] - index).abs() <= sliding_window - 1)
    logits = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen, torch.finfo(query.dtype).min)
    return (logits.softmax(dim=-1) @ value).transpose(1, 2).contiguous(), None


@pytest.mark.parametrize("strides", [[1, 1, 1, 1], [1, 2, 1, 1], [1, 2, 2, 1], [1, 3, 1, 1]], ids=str)
def test_flash_attention_s_window_is_that_of_the_masks(strides, monkeypatch):
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "by_index", by_index)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "by_index", flash_attention_mask)
    model, inputs = TEXT.model(**LOCAL, pool_strides=strides), TEXT.inputs()
    valid = inputs["attention_mask"].bool()
    expected = run(model, inputs).last_hidden_state[valid]
    model.set_attn_implementation("by_index")
    assert_same_outputs(run(model, inputs).last_hidden_state[valid], expected, atol=1e-5)


def test_tokens_that_are_kept_apart_are_refused_under_flash_attention(monkeypatch):
    monkeypatch.setattr(modeling_cp_modernbert, "is_flash_attention_requested", lambda config: True)
    model = TEXT.model(**LOCAL, pool_strides=[1, 2, 1, 1])
    with pytest.raises(ValueError, match="with pool_mask need not be neighbours: leave it out"):
        run(model, {**TEXT.inputs(), "pool_mask": TEXT.inputs()["attention_mask"].bool()})


# ------------------------------------------------------------------------------------------------------------- images


def patches_to_image(patches: torch.Tensor) -> torch.Tensor:
    """From `(batch, rows, columns, channels, 2, 2)` to `(batch, channels, height, width)`."""
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


@pytest.mark.parametrize("grid", [(2, 2), (4, 3), (1, 2)], ids=str)
@pytest.mark.parametrize("stride", [2, 3])
def test_groups_of_equal_patches_are_the_stock_model_s_patches(stride, grid):
    """On small grids, too, where the angles of neighbours are half a turn and more apart."""
    strides = {"pool_strides": [stride, 1], "pool_layers": []}
    model = pooling_means(IMAGE.fresh_model(**strides))
    stock = IMAGE.stock_class(IMAGE.stock_config()).eval()
    stock.load_state_dict(model.state_dict(), strict=False)
    patches = torch.randn(3, *grid, NUM_CHANNELS, 2, 2)
    larger = patches.repeat_interleave(stride, dim=1).repeat_interleave(stride, dim=2)
    actual = run(model, {"pixel_values": patches_to_image(larger)}).last_hidden_state
    expected = run(stock, {"pixel_values": patches_to_image(patches)}).last_hidden_state
    assert_same_outputs(actual[:, :3], expected[:, :3], atol=1e-5)  # the class token and the registers
    whole = actual[:, 3:].unflatten(1, (grid[0] * stride, grid[1] * stride))
    assert_same_outputs(whole[:, ::stride, ::stride].flatten(1, 2), expected[:, 3:], atol=1e-5)


def group_coordinates(rows: int, columns: int, stride: int) -> torch.Tensor:
    """`(groups, 2)`, the mean of each group's upstream coordinates, the last groups of fewer patches."""
    whole = get_patches_center_coordinates(rows, columns, dtype=torch.float32, device=torch.device("cpu"))
    whole = whole.unflatten(0, (rows, columns))
    groups = [
        whole[down : down + stride, across : across + stride].flatten(0, 1).mean(dim=0)
        for down in range(0, rows, stride)
        for across in range(0, columns, stride)
    ]
    return torch.stack(groups)


def embedded(coordinates: torch.Tensor, inv_freq: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.cat([2 * math.pi * each[:, None] * inv_freq for each in coordinates.unbind(dim=1)], dim=1)
    return torch.cat([angles, angles], dim=1).cos(), torch.cat([angles, angles], dim=1).sin()


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("size", [(10, 8), (6, 14)], ids=str)
def test_a_group_of_patches_stands_at_the_mean_of_their_coordinates(size, stride):
    model = IMAGE.model(num_hidden_layers=4, pool_strides=[1, stride, 1, 1], pool_layers=[], pool_restore_layer=3)
    inputs = {"pixel_values": torch.randn(2, NUM_CHANNELS, *size)}
    seen = seen_by_layers(model, "position_embeddings", **inputs)
    expected = embedded(group_coordinates(size[0] // 2, size[1] // 2, stride), model.rope_embeddings.inv_freq)
    for each in seen[1:3]:
        assert_close([part.flatten(0, 1) for part in each], list(expected), rtol=0.0, atol=1e-5)
    for each in (seen[0], seen[3]):
        assert_same_outputs(each, model.rope_embeddings(inputs["pixel_values"]))


def test_in_training_groups_and_patches_see_what_is_drawn_once():
    drawn = {"pos_embed_shift": 0.3, "pos_embed_jitter": 1.5, "pos_embed_rescale": 2.0}
    model = IMAGE.model(num_hidden_layers=4, pool_strides=[1, 2, 2, 1], pool_restore_layer=3, **drawn).train()
    inputs = {"pixel_values": torch.randn(2, NUM_CHANNELS, 10, 8)}
    torch.manual_seed(5)
    seen = seen_by_layers(model, "position_embeddings", **inputs)
    augment = partial(augment_patches_center_coordinates, shift=0.3, jitter=1.5, rescale=2.0)
    for level, stride in enumerate((1, 2, 4, 1)):
        torch.manual_seed(5)
        # What is drawn is a shift and a scale, and so does to a mean what it does to each.
        expected = embedded(augment(group_coordinates(5, 4, stride)), model.rope_embeddings.inv_freq)
        assert_close([part.squeeze(0) for part in seen[level]], list(expected), rtol=0.0, atol=1e-5)
    torch.manual_seed(6)
    assert not torch.allclose(seen_by_layers(model, "position_embeddings", **inputs)[1][0], seen[1][0], atol=1e-2)


def test_an_attention_mask_of_images_is_refused_where_upstream_takes_none():
    with pytest.raises(ValueError, match="CPDINOv3ViTModel takes no attention_mask"):
        run(IMAGE.model(), {**IMAGE.inputs(), "attention_mask": torch.ones(3, 23)})


# ----------------------------------------------------------------------------------------------------- initialisation


def test_weights_of_a_new_modernbert_are_drawn_at_upstream_s_scales():
    fields = {"hidden_size": 64, "intermediate_size": 96, "initializer_range": 0.02, "vocab_size": 200}
    case = next(each for each in CASES["modernbert"] if str(each) == "CPModernBertForMaskedLM")
    fresh, stock = case.fresh_model(**fields), case.stock_class(case.stock_config(**fields))
    loaded = case.model_class.from_pretrained(None, config=case.config(**fields), state_dict={})
    for name, expected in stock.named_parameters():
        for model in (fresh, loaded):
            actual = model.get_parameter(name)
            if expected.std() > 0:
                assert actual.std().item() == pytest.approx(expected.std().item(), rel=0.1), name
                assert actual.abs().max() <= 2 * 0.02  # of a normal distribution, cut at two standard deviations
