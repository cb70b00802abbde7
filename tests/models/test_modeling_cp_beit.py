# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-BEiT, as far as the shared tests do not reach: its relative position bias, its mask token, its feature maps, and
checkpoints of earlier versions of transformers."""

import pytest
import torch
from conversion_cases import tiny_stock
from huggingface_hub.errors import StrictDataclassError
from model_cases import CASES, assert_same_outputs, over
from safetensors.torch import load_file
from transformers import BeitConfig, BeitModel

from cp_transformers import CPBeitConfig, CPBeitForSemanticSegmentation
from cp_transformers.checkpoints.conversion import CheckpointError, convert_model, cut_layers, parity
from cp_transformers.cli import main as cli


BASE, *HEADS = CASES["beit"]
SEGMENTATION = next(case for case in HEADS if case.model_class is CPBeitForSemanticSegmentation)
RELATIVE = ("use_relative_position_bias", "use_shared_relative_position_bias")


@torch.no_grad()
def run(model, case, **kwargs):
    return model.eval()(**case.inputs(), **kwargs)


@pytest.mark.parametrize("bias", RELATIVE)
@pytest.mark.parametrize("shape", [(10, 8), (8, 12)], ids=str)
def test_a_relative_position_bias_is_upstream_s_whatever_the_shape_of_the_image(bias, shape):
    stock = BeitModel(BASE.stock_config(**{bias: True})).eval()
    for name, parameter in stock.named_parameters():
        if "bias_table" in name:
            torch.nn.init.normal_(parameter)
    pixel_values = torch.randn(2, 3, *shape)
    expected = stock(pixel_values).last_hidden_state
    other = BeitModel(BASE.stock_config(**{bias: True})).eval()
    other.load_state_dict(stock.state_dict() | {k: v for k, v in other.state_dict().items() if "bias_table" in k})
    assert not torch.allclose(other(pixel_values).last_hidden_state, expected)  # the bias counts
    assert torch.equal(convert_model(stock)(pixel_values).last_hidden_state, expected)


@pytest.mark.parametrize("bias", RELATIVE)
def test_with_a_relative_position_bias_no_token_can_be_dropped(bias, tmp_path, capsys):
    words = "a relative position bias cannot keep fewer tokens"
    with pytest.raises(StrictDataclassError, match="validate_context_pool") as error:
        CPBeitConfig(pool_strides=[2] + [1] * 11, **{bias: True})
    assert words in str(error.value.__cause__)
    assert CPBeitConfig(pool_strides=[1] * 12, **{bias: True}).strides_refused is not None
    assert CPBeitConfig(pool_strides=[2] + [1] * 11).strides_refused is None
    BeitModel(BeitConfig(**BASE.stock_config(**{bias: True}).to_dict())).save_pretrained(tmp_path / "source")
    for option in ("--halve-before=1", "--pool-strides=1,2"):
        assert cli(["convert", str(tmp_path / "source"), str(tmp_path / "cp"), option]) == 1
        assert words in capsys.readouterr().err and not (tmp_path / "cp").exists()


def test_patches_can_be_masked_only_by_a_mask_token():
    with pytest.raises(ValueError, match="set use_mask_token to True"):
        run(BASE.model(use_mask_token=False), BASE, bool_masked_pos=torch.ones(3, 20, dtype=torch.bool))


def test_the_feature_maps_of_a_segmentation_are_whole_where_tokens_are_dropped():
    case, fields = SEGMENTATION, SEGMENTATION.variants["strided"]
    model = case.model(**fields)
    states = run(model, case, output_hidden_states=True).hidden_states
    assert {each.shape[1] for each in states} == {1 + 5 * 4}
    # Of the model alone they have the lengths that its layers see.
    assert [each.shape[1] for each in run(model.beit, BASE, output_hidden_states=True).hidden_states] == [21, 7, 7, 21]
    one = states[1][:, 1:].unflatten(1, (5, 4))[:, :4].unflatten(2, (2, 2)).unflatten(1, (2, 2))
    assert torch.equal(one, one[:, :, :1, :, :1].expand_as(one))  # each patch has what its group has


def test_layers_that_feature_maps_are_made_of_are_not_left_out():
    stock = tiny_stock("BeitForSemanticSegmentation")
    assert parity(stock, convert_model(stock, layers=[0, 1, 2, 3], pool_num_heads=2)) == 0.0
    for cut in (cut_layers, convert_model):
        with pytest.raises(CheckpointError, match=r"feature maps of several layers \(stem, .*keep all layers"):
            cut(stock, [0, 1, 3])


@over(CASES["beit"])
@pytest.mark.parametrize("cp", [False, True], ids=["stock", "cp"])
def test_checkpoints_with_the_names_of_earlier_versions_load(case, cp, tmp_path):
    model = case.model() if cp else case.stock_class(case.stock_config()).eval()
    model.save_pretrained(tmp_path, save_original_format=True)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert names != model.state_dict().keys() and any("attention.attention.query" in name for name in names)
    loaded, info = case.model_class.from_pretrained(
        tmp_path, config=case.config(pool_gate=not cp), output_loading_info=True
    )
    assert not info["unexpected_keys"] and all(".context_pool." in name for name in info["missing_keys"])
    assert not (cp and info["missing_keys"])
    assert_same_outputs(run(loaded, case), run(model, case), atol=1e-6)
