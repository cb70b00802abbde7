# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The table of families: that each row is right and whole, and that nothing else knows a family."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from model_cases import CASES, every_model
from torch import nn
from transformers import AutoImageProcessor

import cp_transformers
from cp_transformers import families
from cp_transformers.families import FAMILIES, configs_with, family_of, first_position, max_tokens


SOURCE = Path(families.__file__).parent
every_row = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
# What a decoder needs, which pooling cannot be.
CAUSAL = ("ForCausalLM", "LMHeadModel")


@every_row
def test_the_package_exports_every_public_class(family):
    models = [model for models in family.auto_models.values() for model in models]
    bases = {base for model in models for base in model.__mro__ if base.__name__.endswith("PreTrainedModel")}
    own = [each for each in bases if each.__module__ == family.modeling.__name__]
    expected = [family.config_class, *models, *own]
    assert len(own) == 1 and [each.__name__ for each in expected if each.__name__ not in cp_transformers.__all__] == []


@every_row
def test_names_are_upstream_s_with_a_prefix(family):
    assert family.config_class.__name__ == f"CP{family.stock_config_class.__name__}"
    assert family.config_class.model_type == f"cp_{family.model_type}"
    assert (
        FAMILIES[family.model_type]
        is family
        is family_of(family.config_class())
        is family_of(f"cp_{family.model_type}")
    )
    assert family_of(family.stock_config_class()) is None
    for name, model in family.models.items():
        assert model.__name__ == f"CP{name}" and getattr(transformers, name) is model.__bases__[-1]
        assert model.config_class is family.config_class


@every_row
def test_every_head_that_upstream_has_is_there(family):
    upstream = sys.modules[next(iter(family.models.values())).__bases__[-1].__module__]
    models = {name for name in upstream.__all__ if "PreTrained" not in name and "Layer" not in name}
    models = {name for name in models if not name.endswith(CAUSAL)}
    # without the other of two towers, and both together
    reads = next(iter(family.models.values())).main_input_name
    assert set(family.models) == {name for name in models if getattr(upstream, name).main_input_name == reads}


@every_row
def test_the_auto_classes_are_those_that_upstream_s_models_have(family):
    for name in dir(transformers):
        mapping = (
            getattr(getattr(transformers, name), "_model_mapping", None) if name.startswith("AutoModel") else None
        )
        stock = None if mapping is None else mapping.get(family.stock_config_class, None)
        several = stock if isinstance(stock, tuple) else (stock,)
        if stock is not None and not several[0].__name__.endswith(CAUSAL):
            own = family.auto_models[getattr(transformers, name)]
            # that of bare models gives those with a projection besides
            assert tuple(each.__bases__[-1] for each in own if "Projection" not in each.__name__) == several
            registered = getattr(transformers, name)._model_mapping[family.config_class]
            assert registered == (own if len(own) > 1 else own[0])


@every_row
def test_of_several_models_an_auto_class_gives_the_first_by_default(family):
    configs = {case.model_class: case.config() for case in CASES[family.model_type]}
    for auto_class, models in family.auto_models.items():
        config = configs[models[0]]
        assert type(auto_class.from_config(config)) is models[0]


@every_row
def test_the_processor_is_the_one_that_upstream_s_auto_class_gives(family, tmp_path):
    processor = getattr(transformers, family.processor)
    if family.is_text:
        mapping = transformers.models.auto.tokenization_auto.TOKENIZER_MAPPING
        assert mapping[family.stock_config_class] is processor is mapping[family.config_class]
        return
    mapping = transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING
    if family.stock_config_class in mapping:  # those with registers name theirs in the checkpoint alone
        assert mapping[family.stock_config_class] == mapping[family.config_class]
    assert processor in mapping[family.config_class].values()
    family.config_class().save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is processor


@every_model
def test_the_layers_are_found_in_stock_and_cp_models(case):
    family = family_of(case.config())
    for model in (case.stock_class(case.stock_config()), case.fresh_model()):
        found = family.layers(model)
        assert (found is not None) == family.has_layers
        if found is not None:
            name, layers = found
            assert model.get_submodule(name) is layers and isinstance(layers, nn.ModuleList)
            assert len(layers) == case.config().num_hidden_layers
            assert {type(layer).__name__.removeprefix("CP") for layer in layers} == {family.layer_class.__name__}


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.is_text])
def test_a_text_model_takes_as_many_tokens_as_the_table_says(model_type):
    case = CASES[model_type][0]
    for model in (case.fresh_model(), case.stock_class(case.stock_config()).eval()):
        positions = max_tokens(model.config)
        ids = torch.full((1, positions + 1), 5)
        model(ids[:, 1:])
        if not hasattr(model.embeddings, "position_embeddings"):  # rotary ones have no last position
            continue
        with pytest.raises((IndexError, RuntimeError)):
            model(ids)
        of_first = model.embeddings.position_embeddings.weight.requires_grad_()
        model.zero_grad()
        model(ids[:, :1])[0].square().sum().backward()
        assert of_first.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [first_position(model.config)]


def test_only_pretraining_with_masked_words_among_its_heads_stands_for_them_all():
    names = {model_type: family.pretraining_model for model_type, family in FAMILIES.items()}
    assert {model_type: name for model_type, name in names.items() if name} == {"bert": "BertForPreTraining"}


def test_configs_with_a_head_are_cp_and_stock_ones():
    found = configs_with("ForMaskedImageModeling")
    assert found == {
        "cp_vit": families.CPViTConfig,
        "vit": transformers.ViTConfig,
        "cp_deit": families.CPDeiTConfig,
        "deit": transformers.DeiTConfig,
        "cp_beit": families.CPBeitConfig,
        "beit": transformers.BeitConfig,
    }


def test_of_an_image_tower_the_stock_classifier_takes_the_configuration_of_both_towers():
    assert {"cp_clip_vision_model", "cp_siglip_vision_model"} < configs_with("ForImageClassification").keys()
    assert not {"clip_vision_model", "siglip_vision_model"} & configs_with("ForImageClassification").keys()


def test_a_model_of_relative_positions_has_none():
    assert max_tokens(transformers.T5Config()) <= 0 and max_tokens(transformers.XLNetConfig()) <= 0


# What may know a family: its own files and the table; and the names of all, which the package exports.
KNOWING = ("modeling_cp_", "configuration_cp_", "families", "__init__")
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if not path.stem.startswith(KNOWING)]
PREFIXES = {family.stock_config_class.__name__.removesuffix("Config") for family in FAMILIES.values()}
TYPES = {model_type for family in FAMILIES.values() for model_type in (family.model_type, f"cp_{family.model_type}")}
# Files that show particular models to people, as a user's script would: there the types are arguments.
SHOWING = {"demo_digits", "dinov2_small"}


def is_of_a_family(name: str) -> bool:
    """Whether it is the name of a configuration or model of one, of upstream or ours."""
    ends = ("Config", "Model", "Layer", "Attention", "Backbone")
    return name.removeprefix("CP").startswith(tuple(PREFIXES)) and (name.endswith(ends) or "For" in name)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_no_other_file_knows_a_family(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            assert not module.startswith("transformers.models.") and "ing_cp_" not in module
            assert not [alias.name for alias in node.names if is_of_a_family(alias.name)]
        if isinstance(node, ast.Attribute):
            assert not is_of_a_family(node.attr)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.stem not in SHOWING:
            assert node.value not in TYPES
        if isinstance(node, ast.Compare):
            compared = [each.value for each in (node.left, *node.comparators) if isinstance(each, ast.Constant)]
            parts = {each.lower() for each in PREFIXES} | {"vit"}
            assert not [each for each in compared if isinstance(each, str) and each.lower() in parts]


def test_the_search_for_names_finds_them():
    for name in ("BertConfig", "CPViTModel", "ResNetForImageClassification", "Dinov2Backbone", "BertLayer"):
        assert is_of_a_family(name)
    for name in ("BertTokenizer", "ViTImageProcessorPil", "AutoModel", "PreTrainedConfig", "BertNormalizer"):
        assert not is_of_a_family(name)


@pytest.mark.slow
def test_conversion_is_a_function_of_the_package_in_a_fresh_process():
    code = (
        "from cp_transformers import convert_checkpoint, convert_model\n"
        "from transformers import RobertaConfig, RobertaModel\n"
        "sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)\n"
        "print(type(convert_model(RobertaModel(RobertaConfig(**sizes)))).__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["CPRobertaModel"]
