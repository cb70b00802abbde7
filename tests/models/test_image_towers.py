# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The image towers of CLIP and SigLIP: two towers are converted to that of the images, heads are configured by it
alone, and the tasks take two towers for the one."""

import json

import pytest
import torch
from conversion_cases import tiny_stock
from model_cases import CASES, context_pools, images, over
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipVisionModel,
)

from cp_transformers import CPCLIPVisionConfig, CPCLIPVisionModelWithProjection, CPSiglipVisionModel
from cp_transformers.benchmark.checkpoints import load, make_inputs
from cp_transformers.checkpoints.conversion import convert_checkpoint, convert_model, cut_layers, parity
from cp_transformers.cli import main as cli
from cp_transformers.training.distillation import check_shapes, make_layer_map
from cp_transformers.training.loading import draw_new_head, fixed_image_size, load_config, load_model


VISION = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 40}
TEXT = {**VISION, "num_hidden_layers": 1, "vocab_size": 50, "max_position_embeddings": 8}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SQUARE = {"image_size": 8, "patch_size": 2}
TOWERS = {
    "clip": (CLIPModel, CLIPConfig, CLIPVisionModel, CPCLIPVisionModelWithProjection, CLIPImageProcessor),
    "siglip": (SiglipModel, SiglipConfig, SiglipVisionModel, CPSiglipVisionModel, SiglipImageProcessor),
}
every_pair = pytest.mark.parametrize("kind", TOWERS)
CLASSIFIERS = [case for name in ("clip_vision_model", "siglip_vision_model") for case in CASES[name] if case.labels]
BARE = [CASES["clip_vision_model"][0], CASES["siglip_vision_model"][0]]


def both_towers(kind: str, folder=None):
    model_class, config_class, *_ = TOWERS[kind]
    fields = {"projection_dim": 24} if kind == "clip" else {}
    torch.manual_seed(0)
    model = model_class(config_class(text_config=TEXT, vision_config={**VISION, **SQUARE}, **fields)).eval()
    if folder is not None:
        model.save_pretrained(folder)
    return model


def pictures() -> torch.Tensor:
    return images(8, 8)


@torch.no_grad()
def embedding(model):
    """Embeds images by two towers, or by the image tower with its projection."""
    if hasattr(model, "get_image_features"):
        return model.get_image_features(pictures()).pooler_output
    outputs = model.eval()(pictures())
    return outputs.image_embeds if "image_embeds" in outputs else outputs.pooler_output


@every_pair
def test_of_two_towers_that_of_the_images_is_converted(kind, tmp_path, capsys):
    stock = both_towers(kind, tmp_path / "source")
    assert cli(["convert", str(tmp_path / "source"), str(tmp_path / "cp"), "--dtype", "float32"]) == 0
    said = capsys.readouterr().out
    assert "the image tower alone was converted" in said and "does not use it: logit_" in said and "0.0, from" in said
    model = AutoModel.from_pretrained(tmp_path / "cp")
    assert type(model) is TOWERS[kind][3]
    torch.testing.assert_close(embedding(model), embedding(stock), rtol=0.0, atol=1e-6)
    config = json.loads((tmp_path / "cp" / "config.json").read_text())
    assert "text_config" not in config and "vision_config" not in config
    assert not [
        name for name in load_file(tmp_path / "cp" / "model.safetensors") if name.startswith(("text_", "logit_"))
    ]
    record = json.loads((tmp_path / "cp" / "conversion.json").read_text())
    assert "text_model" in record["left_out"] and record["parity"]["max_abs_difference"] == 0.0


@every_pair
def test_layers_and_tokens_of_the_image_tower_are_dropped(kind, tmp_path):
    both_towers(kind, tmp_path / "source")
    record = convert_checkpoint(tmp_path / "source", tmp_path / "cp", layers="first:3", halve_before="1")
    assert (record["layers"], record["source_layers"]) == ([0, 1, 2], 4)
    model = AutoModel.from_pretrained(tmp_path / "cp")
    assert model.config.num_hidden_layers == 3 and model.config.pool_strides == [1, 2, 1]
    assert embedding(model).isfinite().all()


@every_pair
def test_the_image_processor_of_both_towers_comes_along(kind, tmp_path):
    both_towers(kind, tmp_path / "source")
    *_, processor_class = TOWERS[kind]
    size = {"height": 8, "width": 8}
    processor = processor_class(size=size, image_mean=[0.1, 0.2, 0.3], crop_size=size)
    (tmp_path / "source" / "processor_config.json").write_text(
        json.dumps({"processor_class": f"{kind}Processor", "image_processor": processor.to_dict()})
    )
    record = convert_checkpoint(tmp_path / "source", tmp_path / "cp")
    assert record["processor_files"] == ["preprocessor_config.json"]
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "cp")
    assert type(loaded) is processor_class and list(loaded.image_mean) == [0.1, 0.2, 0.3]


@every_pair
def test_the_tower_of_a_stock_checkpoint_of_two_loads(kind, tmp_path):
    """As upstream's does; what is not of the tower is left."""
    stock = both_towers(kind, tmp_path)
    own = TOWERS[kind][3]
    fields = {"projection_dim": 24} if kind == "clip" else {}  # which upstream takes from the tower's configuration
    model = own.from_pretrained(tmp_path, pool_gate=True, **fields)
    torch.testing.assert_close(embedding(model), embedding(stock), rtol=0.0, atol=1e-6)


@over(BARE)
def test_checkpoints_with_the_names_of_earlier_versions_load(case, tmp_path):
    model = case.model()
    model.save_pretrained(tmp_path)
    weights = {f"vision_model.{name}": each for name, each in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = case.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(embedding(loaded), embedding(model))


@over(CLASSIFIERS)
def test_a_classifier_is_configured_by_its_tower(case, tmp_path):
    stock = case.stock_class(case.stock_config(id2label={0: "cat", 1: "dog", 2: "bird"}, num_hidden_layers=4)).eval()
    stock.save_pretrained(tmp_path / "source")
    for name, options in {"cp": {}, "cut": {"layers": [3, 1]}, "stock": {"layers": [3, 1], "pool_layers": []}}.items():
        convert_checkpoint(tmp_path / "source", tmp_path / name, **options)
        model = AutoModelForImageClassification.from_pretrained(tmp_path / name).eval()
        assert type(model) is (case.stock_class if name == "stock" else case.model_class)
        assert model.config.id2label == {0: "cat", 1: "dog", 2: "bird"}
        assert parity(cut_layers(stock, options.get("layers", range(4))), model) == 0.0
    assert "text_config" not in json.loads((tmp_path / "cp" / "config.json").read_text())


def test_a_configuration_is_its_own_tower_s():
    config = CPCLIPVisionConfig(pool_gate=True)
    assert config.vision_config is config and "vision_config" not in config.to_dict()


@over(BARE)
def test_an_attention_mask_is_refused(case):
    with pytest.raises(ValueError, match="takes no attention_mask"):
        case.model()(**case.inputs(), attention_mask=torch.ones(3, 17))


@over(BARE)
def test_images_of_another_shape_are_pooled_on_their_own_grid(case):
    model = case.model(pool_strides=[1, 2])
    with torch.no_grad():
        outputs = model(images(12, 6), interpolate_pos_encoding=True, output_support_sizes=True)
    assert [tuple(sizes.shape[2:]) for sizes in outputs.support_sizes] == [(6, 3), (3, 2)]
    assert outputs.last_hidden_state.shape[1] == model.num_prefix_tokens + 18


def test_a_siglip_without_its_head_converts():
    stock = SiglipVisionModel(CASES["siglip_vision_model"][0].stock_config(vision_use_head=False))
    converted = convert_model(stock, pool_num_heads=2)
    assert parity(stock, converted) == 0.0 and converted(pictures()).pooler_output is None


# What the tasks make of them


@every_pair
def test_a_teacher_of_two_towers_is_that_of_the_images(kind, tmp_path):
    stock = both_towers(kind, tmp_path / "source")
    convert_checkpoint(tmp_path / "source", tmp_path / "cp", layers=[0, 2])
    config, student = (load_config(str(tmp_path / name), AutoModel) for name in ("source", "cp"))
    teacher = load_model(str(tmp_path / "source"), AutoModel)
    assert type(teacher) is TOWERS[kind][2]
    states = teacher(pictures()).last_hidden_state
    torch.testing.assert_close(states, stock.vision_model(pictures()).last_hidden_state)
    assert make_layer_map(student, config) == [(0, 0), (1, 2), (2, 4)]
    check_shapes(student, config, "the teacher", [], (8, 8))
    measured = load(str(tmp_path / "source"))
    assert type(measured) is TOWERS[kind][2] and make_inputs(measured, 2, None)["pixel_values"].shape == (2, 3, 8, 8)


@over(CLASSIFIERS)
@pytest.mark.parametrize("cp", [False, True], ids=["stock", "cp"])
def test_a_new_head_leaves_the_tower_as_it_was(case, cp):
    model = case.model() if cp else case.stock_class(case.stock_config())
    assert fixed_image_size(model) == 8
    before = {name: each.clone() for name, each in model.state_dict().items()}
    changed = {name for name, each in draw_new_head(model).state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {"classifier.weight"}


@pytest.mark.parametrize("name", ["CLIPForImageClassification", "SiglipForImageClassification"])
def test_the_weights_of_whole_attentions_are_drawn_as_upstream_draws_them(name):
    """Which of custom code transformers passes over."""
    torch.manual_seed(0)
    stock = tiny_stock(name)
    case = next(case for case in CLASSIFIERS if case.stock_class.__name__ == name)
    ours = case.fresh_model(num_hidden_layers=4)
    theirs, ours = (
        {key: each.std() for key, each in model.state_dict().items() if "self_attn" in key and key.endswith("weight")}
        for model in (stock, ours)
    )
    assert theirs.keys() == {key for key in ours if ".context_pool." not in key}
    for key, std in theirs.items():
        torch.testing.assert_close(ours[key], std, rtol=0.15, atol=0.0)


def test_pools_of_a_siglip_start_near_what_their_biases_say():
    for pool in context_pools(CASES["siglip_vision_model"][0].fresh_model(hidden_size=64)):
        assert pool.proj.weight.std() < 0.03
