# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The configurations of every family: defaults, round trips, and what they refuse."""

import json
import warnings

import pytest
from huggingface_hub.errors import StrictDataclassError
from model_cases import MODELS, messages_of_transformers
from transformers import AutoConfig

from cp_transformers import CPBertConfig, CPBertModel
from cp_transformers.families import family_of


CONFIGS = {type(case.config()): case for case in MODELS}  # one case of each family

every_config = pytest.mark.parametrize("config_class", CONFIGS, ids=lambda config_class: config_class.__name__)

every_layered_config = pytest.mark.parametrize(
    "config_class",
    [config_class for config_class, case in CONFIGS.items() if case.has_layers],
    ids=lambda config_class: config_class.__name__,
)

DEFAULTS = {
    "pool_hidden_size": 64,
    "pool_kernel_size": 3,
    "pool_range": 0.1,
    "pool_num_heads": 1,
    "pool_max_offset": 0.0,
    "pool_gate": False,
    "pool_factored": False,
    "output_support_sizes": False,
}
OTHERS = {
    "pool_hidden_size": 7,
    "pool_kernel_size": 5,
    "pool_range": 0.2,
    "pool_num_heads": 2,
    "pool_max_offset": 1.5,
    "pool_gate": True,
    "pool_factored": True,
    "output_support_sizes": True,
}
LAYER_DEFAULTS = {
    **DEFAULTS,
    "pool_num_heads": 4,
    "pool_placement": "attention",
    "pool_layers": None,
    "pool_strides": None,
    "pool_restore_layer": None,
    "pool_implementation": "auto",
}
LAYER_OTHERS = {**OTHERS, "pool_placement": "block", "pool_layers": [0, 1], "pool_implementation": "linear"}
TEXT_DEFAULTS = {**LAYER_DEFAULTS, "pool_max_offset": 2.0, "pool_class_token": False}
PATCH_DEFAULTS = {**LAYER_DEFAULTS, "pool_hidden_size": 32, "pool_factored": True}
FEATURE_MAP_DEFAULTS = {
    **DEFAULTS,
    "pool_hidden_size": 8,
    "pool_factored": True,
    "pool_range": 0.3,
    "pool_stem": True,
    "pool_window": 7,
    "pool_global": False,
}
POOL_DEFAULTS, OTHER_VALUES = {}, {}
for config_class in CONFIGS:
    if family_of(config_class()).is_text:
        POOL_DEFAULTS[config_class] = TEXT_DEFAULTS
        OTHER_VALUES[config_class] = {**LAYER_OTHERS, "pool_class_token": True}
    elif family_of(config_class()).has_layers:
        POOL_DEFAULTS[config_class], OTHER_VALUES[config_class] = PATCH_DEFAULTS, LAYER_OTHERS
    else:
        POOL_DEFAULTS[config_class] = FEATURE_MAP_DEFAULTS
        OTHER_VALUES[config_class] = {**OTHERS, "pool_stem": False, "pool_window": 5, "pool_global": True}
BOTH = pytest.mark.parametrize("table", [POOL_DEFAULTS, OTHER_VALUES], ids=["defaults", "others"])


# -------------------------------------------------------------------------------------------------------- defaults


@every_config
def test_defaults_need_no_argument_and_say_nothing(config_class):
    with messages_of_transformers() as messages, warnings.catch_warnings():
        warnings.simplefilter("error")
        config_class()
    assert not messages


@every_config
def test_the_pooling_defaults_are_those_that_the_docs_give(config_class):
    config = config_class()
    assert {name: getattr(config, name) for name in POOL_DEFAULTS[config_class]} == POOL_DEFAULTS[config_class]


@every_config
def test_the_other_defaults_are_those_of_the_stock_config(config_class):
    stock = family_of(config_class()).stock_config_class().to_dict()
    ours = config_class().to_dict()
    assert stock.pop("model_type") != ours.pop("model_type")
    assert ours.pop("auto_map") and ours.pop("context_pool_version")
    assert not ours.pop("architectures") and not stock.pop("architectures")  # none, or an empty list
    assert ours == {**stock, **POOL_DEFAULTS[config_class]}


@every_config
def test_support_sizes_are_no_predictions(config_class):
    assert "support_sizes" in config_class.keys_to_ignore_at_inference


@every_config
def test_an_earlier_checkpoint_asks_for_support_sizes_by_another_name(config_class):
    config = config_class.from_dict({**config_class().to_dict(), "output_pool_sizes": True})
    assert config.output_support_sizes and "output_pool_sizes" not in config.to_dict()


# ----------------------------------------------------------------------------------------------------- round trips


@every_config
@BOTH
def test_a_config_is_the_same_after_json(config_class, table):
    config = config_class(**table[config_class])
    assert config_class.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()


@every_config
@BOTH
def test_a_config_is_the_same_after_saving(config_class, table, tmp_path):
    config = config_class(**table[config_class])
    config.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).to_dict() == config.to_dict()


@every_config
def test_saving_a_reloaded_config_writes_the_same_file(config_class, tmp_path):
    config_class(**OTHER_VALUES[config_class]).save_pretrained(tmp_path / "first")
    config_class.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second"))
    assert first == second


@every_config
def test_the_file_holds_every_pooling_field(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)  # so that a later version with other defaults reads it as it was
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved[name] for name in POOL_DEFAULTS[config_class]} == POOL_DEFAULTS[config_class]


@every_config
def test_auto_config_loads_what_was_saved(config_class, tmp_path):
    config = config_class(**OTHER_VALUES[config_class])
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is config_class and loaded.to_json_string() == config.to_json_string()


@every_config
def test_loading_takes_other_values(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)
    loaded = config_class.from_pretrained(tmp_path, **OTHER_VALUES[config_class])
    assert {name: getattr(loaded, name) for name in OTHER_VALUES[config_class]} == OTHER_VALUES[config_class]


@every_layered_config
def test_a_tuple_of_layers_becomes_a_list(config_class):
    assert config_class(pool_layers=(0, 1)).pool_layers == [0, 1]


@every_layered_config
def test_a_list_of_layers_is_copied(config_class):
    layers = [0, 1]
    config = config_class(pool_layers=layers)
    layers.append(1)
    assert config.pool_layers == [0, 1]


@every_config
def test_whole_numbers_are_taken_for_lengths(config_class):
    config = config_class(pool_range=1, pool_max_offset=2)
    assert (config.pool_range, config.pool_max_offset) == (1, 2)


# ---------------------------------------------------------------------------------------------------------- labels


@every_config
def test_a_number_of_labels_names_them(config_class):
    config = config_class(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


@every_config
def test_names_of_labels_count_them(config_class):
    names = {0: "bad", 1: "fair", 2: "good"}
    assert config_class(id2label=names, label2id={name: index for index, name in names.items()}).num_labels == 3


@every_config
def test_a_new_number_of_labels_renames_them(config_class):
    config = config_class(num_labels=3)
    config.num_labels = 4
    assert len(config.id2label) == len(config.label2id) == 4


@every_config
def test_labels_are_the_same_after_saving(config_class, tmp_path):
    names = {0: "bad", 1: "fair", 2: "good"}
    config_class(id2label=names).save_pretrained(tmp_path)
    loaded = config_class.from_pretrained(tmp_path)
    assert loaded.id2label == names and loaded.num_labels == 3


# --------------------------------------------------------------------------------------------------- what is refused


@every_config
@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("pool_hidden_size", 0, "must be at least 1, not 0"),
        ("pool_hidden_size", -4, "must be at least 1, not -4"),
        ("pool_kernel_size", 2, "must be odd and positive, not 2"),
        ("pool_kernel_size", 0, "must be odd and positive, not 0"),
        ("pool_kernel_size", -3, "must be odd and positive, not -3"),
        ("pool_range", 0, "must be positive and finite, not 0"),
        ("pool_range", -0.1, "must be positive and finite, not -0.1"),
        ("pool_range", float("inf"), "must be positive and finite, not inf"),
        ("pool_range", float("nan"), "must be positive and finite, not nan"),
        ("pool_num_heads", 0, "must be at least 1, not 0"),
        ("pool_max_offset", -1, "must be zero or positive and finite, not -1"),
        ("pool_max_offset", float("inf"), "must be zero or positive and finite, not inf"),
        ("pool_max_offset", float("nan"), "must be zero or positive and finite, not nan"),
    ],
)
def test_a_value_out_of_range_is_refused(config_class, field, value, advice):
    with pytest.raises(StrictDataclassError, match=rf"{field}.*{advice}"):
        config_class(**{field: value})


@every_layered_config
@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("pool_num_heads", 5, r"\(5\) must divide hidden_size \(\d+\)"),
        ("pool_placement", "mlp", 'must be "attention" or "block", not "mlp"'),
        ("pool_placement", "", 'must be "attention" or "block", not ""'),
        ("pool_layers", [99], r"names \[99\], but the layers are 0 to \d+; use None"),
        ("pool_layers", [-1, 0], r"names \[-1\], but the layers are 0 to \d+; use None"),
        ("pool_layers", [3, 1, 3], r"names a layer twice: \[3, 1, 3\]"),
    ],
)
def test_a_value_out_of_range_is_refused_in_layers(config_class, field, value, advice):
    with pytest.raises(StrictDataclassError, match=rf"{field}.*{advice}"):
        config_class(**{field: value})


@every_layered_config
def test_a_width_that_attention_cannot_split_is_refused_where_upstream_refuses_it(config_class):
    def is_refused(some_class):
        try:
            some_class(hidden_size=37, num_attention_heads=4)
        except StrictDataclassError:
            return True
        return False

    assert is_refused(config_class) == is_refused(config_class.__bases__[-1])


@every_config
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pool_hidden_size", 8.0),
        ("pool_hidden_size", True),
        ("pool_hidden_size", None),
        ("pool_kernel_size", "3"),
        ("pool_range", "0.1"),
        ("pool_range", True),
        ("pool_range", None),
        ("pool_num_heads", 2.0),
        ("pool_max_offset", "2"),
        ("pool_max_offset", None),
        ("pool_gate", 1),
        ("pool_gate", "yes"),
        ("pool_gate", None),
        ("output_support_sizes", 1),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(config_class, field, value):
    with pytest.raises(StrictDataclassError, match=rf"field '{field}'"):
        config_class(**{field: value})


@every_layered_config
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pool_placement", None),
        ("pool_placement", 1),
        ("pool_layers", 1),
        ("pool_layers", "all"),
        ("pool_layers", {0, 1}),
        ("pool_layers", [0.0]),
        ("pool_layers", [True]),
        ("pool_layers", ["0"]),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_in_layers(config_class, field, value):
    with pytest.raises(StrictDataclassError, match=rf"field '{field}'"):
        config_class(**{field: value})


@every_config
def test_a_value_of_the_wrong_type_is_refused_when_assigned(config_class):
    config = config_class()
    for field in POOL_DEFAULTS[config_class]:
        with pytest.raises(StrictDataclassError, match=field):
            setattr(config, field, object())


@every_layered_config
def test_a_value_out_of_range_is_refused_on_saving(config_class, tmp_path):
    config = config_class()
    config.pool_placement = "mlp"
    with pytest.raises(StrictDataclassError, match="pool_placement"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


@every_config
@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("pool_rang", "pool_range"),
        ("pool_head", "pool_num_heads"),
        ("pool_offset", "pool_max_offset"),
        ("pool_gated", "pool_gate"),
        ("pool_kernel", "pool_kernel_size"),
    ],
)
def test_a_misspelt_pooling_field_is_refused_with_the_nearest_name(config_class, name, nearest):
    with pytest.raises(ValueError, match=f"{config_class.__name__}.* no field {name}; did you mean {nearest}"):
        config_class(**{name: 1})


@every_config
def test_a_pooling_field_like_no_other_is_refused_with_all_names(config_class):
    fields = [name for name in POOL_DEFAULTS[config_class] if name.startswith("pool_")]
    with pytest.raises(ValueError, match=f"no field pool_xyzzy_42; the fields are .*{', '.join(fields)}"):
        config_class(pool_xyzzy_42=1)


@every_config
def test_a_file_of_a_later_version_is_refused(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pool_dilations": [1, 2]}))
    with pytest.raises(ValueError, match="of this version has no field pool_dilations"):
        config_class.from_pretrained(tmp_path)


@every_config
def test_what_is_given_on_loading_is_checked_as_well(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no field pool_rangee; did you mean pool_range"):
        AutoConfig.from_pretrained(tmp_path, pool_rangee=0.5)
    with pytest.raises(ValueError, match="pool_range must be positive and finite, not -1"):
        AutoConfig.from_pretrained(tmp_path, pool_range=-1.0)


@every_config
def test_other_unknown_names_are_taken_as_upstream_does(config_class):
    config = config_class(anything="kept", pooler_hidden_size=3, attn_implementation="eager", is_decoder=False)
    assert (config.anything, config.pooler_hidden_size) == ("kept", 3)


def test_no_layer_is_a_choice_of_layers():
    assert CPBertConfig(pool_layers=[]).pool_layers == []


def test_the_repr_shows_upstreams_fields_and_the_poolings():
    shown = repr(CPBertConfig(hidden_size=96, pool_num_heads=2))
    assert '"hidden_size": 96' in shown and '"pool_num_heads": 2' in shown


def test_a_field_that_was_spoilt_later_is_refused_by_the_model():
    config = CPBertConfig(num_hidden_layers=1)
    config.pool_placement = "mlp"
    with pytest.raises(ValueError, match="pool_placement"):
        CPBertModel(config)
