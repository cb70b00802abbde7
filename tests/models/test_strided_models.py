# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Models that keep fewer tokens, as far as the shared tests of every variant do not reach: several strided layers, and
tokens that are restored before a later layer."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from model_cases import CASES, LAYERED_MODELS, NUM_TOKENS, assert_same_outputs, layers_on_disk, over, text_inputs
from text_cases import BASE, CLASSIFIER, MASKED_LM, run
from torch.nn.attention.flex_attention import create_block_mask
from transformers import AutoModel, BertModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cp_transformers import CPBeitBackbone, CPDinov2Backbone, CPDINOv3ViTBackbone, convert_checkpoint
from cp_transformers.checkpoints.conversion import CheckpointError, convert_model, main
from cp_transformers.models.pool_inputs import ContextRestore
from cp_transformers.models.token_groups import in_groups
from cp_transformers.training.optimizer import param_groups


# Of a model of four layers: how many tokens each layer sees of `NUM_TOKENS`, of which the first is the class token.
STRIDED = {
    "once": ({"pool_strides": [1, 2, 1, 1], "pool_layers": []}, [12, 7, 7, 7]),
    "twice": ({"pool_strides": [1, 2, 2, 1], "pool_layers": [0, 3]}, [12, 7, 4, 4]),
    "by_three": ({"pool_strides": [1, 3, 1, 1], "pool_placement": "block"}, [12, 5, 5, 5]),
    "restored": ({"pool_strides": [2, 1, 2, 1], "pool_restore_layer": 3, "pool_layers": [0, 3]}, [7, 7, 4, 12]),
    "class_token": ({"pool_strides": [1, 2, 2, 1], "pool_layers": [], "pool_class_token": True}, [12, 6, 3, 3]),
    "last": ({"pool_strides": [1, 1, 1, 2], "pool_layers": []}, [12, 12, 12, 7]),
}
every_kind = pytest.mark.parametrize(("fields", "lengths"), STRIDED.values(), ids=STRIDED)
# Families whose layers are told of positions or masks in other ways.
LOCAL = CASES["modernbert"][0]
every_way = over([BASE, LOCAL])
GATHERED = dict(list(STRIDED.items())[1:5])
BARE_TRANSFORMERS = [cases[0] for cases in CASES.values() if cases[0].has_layers]
REFUSING = [case for case in BARE_TRANSFORMERS if case.config().strides_refused is not None]


def strided(case, **fields):
    """A model whose predictors tell tokens apart, and whose local attention, if any, sees some of them."""
    window = {"local_attention": 6} if case is LOCAL else {}
    model = case.model(**{"num_hidden_layers": 4, **window, **fields})
    for pool in (module for module in model.modules() if hasattr(module, "proj") and hasattr(module, "conv")):
        torch.nn.init.normal_(pool.proj.weight, std=0.5)
    return model


def on_the_left(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rolls the rows so that they are padded on the left, each token at its position."""
    lengths = inputs["attention_mask"].sum(dim=1)
    shifted = {
        name: torch.stack([row.roll(NUM_TOKENS - int(length)) for row, length in zip(each, lengths)])
        for name, each in inputs.items()
    }
    return {**shifted, "position_ids": (shifted["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)}


@every_kind
@every_way
def test_padding_on_either_side_and_the_batch_change_nothing(case, fields, lengths):
    model, inputs = strided(case, **fields).double(), case.inputs()  # of rounding errors much is made
    left, right = on_the_left(inputs), inputs
    found = {name: run(model, each).last_hidden_state for name, each in (("left", left), ("right", right))}
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1)):
        alone = run(model, {name: each[row : row + 1, :length] for name, each in inputs.items()}).last_hidden_state
        assert_same_outputs(found["right"][row : row + 1, :length], alone, atol=1e-9)
        assert_same_outputs(found["left"][row : row + 1, NUM_TOKENS - length :], alone, atol=1e-9)


@every_kind
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_a_4d_mask_of_either_kind_is_the_2d_mask(fields, lengths, attn_implementation):
    model, inputs = strided(BASE, **fields, attn_implementation=attn_implementation), text_inputs(3)
    valid = inputs["attention_mask"].bool()
    expected = run(model, inputs).last_hidden_state[valid]
    seen = valid[:, None, None].expand(-1, -1, NUM_TOKENS, -1)
    masks = [torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)]
    if attn_implementation == "sdpa":
        masks += [seen, valid[:, None, None]]
    for mask in masks:
        actual = run(model, {**inputs, "attention_mask": mask, "pool_mask": valid}).last_hidden_state[valid]
        assert_same_outputs(actual, expected, atol=1e-5)


@every_kind
def test_each_layer_sees_the_tokens_that_are_left(fields, lengths):
    model = strided(BASE, **fields, attn_implementation="eager")
    outputs = run(model, text_inputs(3), output_hidden_states=True, output_attentions=True, output_support_sizes=True)
    assert [attention.shape[-1] for attention in outputs.attentions] == lengths
    for attention in outputs.attentions:
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))
    assert [states.shape[1] for states in outputs.hidden_states] == [NUM_TOKENS, *lengths[:-1], NUM_TOKENS]
    strides, layers = fields["pool_strides"], fields.get("pool_layers", range(4))
    pooling = [index for index, stride in enumerate(strides) if stride > 1 or index in layers]
    assert [sizes.shape[-1] for sizes in outputs.support_sizes] == [lengths[index] for index in pooling]
    # Of the first strided layer exactly those groups have a size of which a token is valid.
    sizes, stride = next(
        (each, strides[index]) for each, index in zip(outputs.support_sizes, pooling) if strides[index] > 1
    )
    kept = 0 if model.config.pool_class_token else 1
    for row, length in zip(sizes, text_inputs(3)["attention_mask"].sum(dim=1).tolist()):
        has_size = torch.arange(sizes.shape[-1]) < kept + math.ceil((length - kept) / stride)
        has_size[:kept] = False
        assert torch.equal(row != 0, has_size.expand_as(row))


def test_at_the_start_the_tokens_of_a_group_come_out_alike():
    model = BASE.fresh_model(pool_strides=[1, 2], pool_layers=[])
    states = run(model, {"input_ids": text_inputs(1)["input_ids"][:, :11]}).last_hidden_state[:, 1:]
    assert torch.equal(states[:, ::2], states[:, 1::2])
    assert not torch.equal(states[:, :-2:2], states[:, 2::2])


def test_at_the_start_a_strided_model_is_one_of_the_means_of_pairs():
    model = BASE.fresh_model(pool_strides=[2, 1], pool_layers=[])
    for pool in (module for module in model.modules() if hasattr(module, "proj")):
        torch.nn.init.zeros_(pool.proj.weight)
    inputs = {"input_ids": text_inputs(1)["input_ids"][:, :11]}
    seen = []
    model.encoder.layer[0].attention.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    run(model, inputs)
    with torch.no_grad():
        states = model.embeddings(inputs["input_ids"])
    means = in_groups(states[:, 1:].transpose(1, 2), None, 2).mean(dim=-1).transpose(1, 2)
    assert torch.equal(seen[0][:, :1], states[:, :1])
    assert (seen[0][:, 1:] - means).norm() < 0.05 * means.norm()


@every_way
def test_what_is_seen_and_not_pooled_is_kept(case):
    model, inputs = strided(case, **STRIDED["twice"][0], attn_implementation="eager"), case.inputs()
    pool_mask = inputs["attention_mask"].bool() & (torch.arange(NUM_TOKENS) != 4)
    lengths = [
        attention.shape[-1]
        for attention in run(model, {**inputs, "pool_mask": pool_mask}, output_attentions=True).attentions
    ]
    assert lengths == [12, 2 + 6, 2 + 3, 2 + 3]  # the class token and this one
    before = run(model, {**inputs, "pool_mask": pool_mask}).last_hidden_state
    left = on_the_left({**inputs, "pool_mask": pool_mask.long()})
    left = {**left, "pool_mask": left["pool_mask"].bool()}
    after = run(model, left).last_hidden_state
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1)):
        assert_same_outputs(after[row, NUM_TOKENS - length :], before[row, :length], atol=1e-5)


@pytest.mark.parametrize("fields", [each[0] for each in GATHERED.values()], ids=GATHERED)
@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not_reentrant"])
@every_way
def test_gradient_checkpointing_changes_no_gradient(case, fields, use_reentrant):
    model = strided(case, **fields, **case.no_dropout).train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        model.zero_grad()
        model(**case.inputs()).last_hidden_state.square().sum().backward()
        found.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    assert any(".context_restore." in name for name in found[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@over([case for case in BARE_TRANSFORMERS if case not in REFUSING])
def test_a_strided_model_is_the_same_compiled_exported_and_offloaded(case, tmp_path, fresh_compiler):
    model, inputs = strided(case, pool_strides=[1, 2, 1, 1], pool_layers=[]), case.inputs()
    expected = run(model, inputs)[0]
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_same_outputs(run(compiled, inputs)[0], expected, atol=1e-6)
    shapes = {name: dict.fromkeys(range(each.ndim), torch.export.Dim.AUTO) for name, each in inputs.items()}
    exported = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=shapes).module()
    smaller = case.smaller(inputs)
    assert_same_outputs(exported(**smaller)[0], run(model, smaller)[0], atol=1e-5)

    model.save_pretrained(tmp_path / "model")
    offloaded = case.model_class.from_pretrained(
        tmp_path / "model", device_map=layers_on_disk(model), offload_folder=tmp_path / "offload"
    )
    assert_same_outputs(run(offloaded, inputs)[0], expected, atol=1e-6)


BACKBONES = (CPDinov2Backbone, CPDINOv3ViTBackbone, CPBeitBackbone)


@over([case for case in LAYERED_MODELS if case.model_class in BACKBONES])
def test_the_feature_maps_of_a_backbone_keep_their_sizes(case):
    model = strided(case, pool_strides=[1, 2, 1, 1], pool_layers=[], out_features=["stage1", "stage2", "stage4"])
    height, width = (size // 2 for size in case.inputs()["pixel_values"].shape[-2:])
    maps = run(model, case.inputs()).feature_maps
    assert [tuple(each.shape[-2:]) for each in maps] == [(height, width)] * 3
    one = maps[1][..., : height // 2 * 2, : width // 2 * 2].unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
    assert torch.equal(one, one[..., :1, :, :1].expand_as(one))  # each patch has what its group has


def test_layers_whose_classes_are_made_anew_as_fsdp_does_give_the_same():
    model, inputs = strided(BASE, **STRIDED["restored"][0]), text_inputs(3)
    expected = run(model, inputs)
    for layer in model.encoder.layer:
        layer.__class__ = type("Sharded", (type("Mixin", (), {}), type(layer)), {})
    assert_same_outputs(run(model, inputs), expected)


def test_the_map_of_restored_tokens_learns_at_the_rate_of_the_pooling():
    model = CLASSIFIER.model(pool_strides=[1, 2], pool_layers=[])
    restoring = [module for module in model.modules() if isinstance(module, ContextRestore)]
    rates = {id(each): group["lr"] for group in param_groups(model, 1e-5, 1e-3) for each in group["params"]}
    assert len(restoring) == 1 and {rates[id(each)] for each in restoring[0].parameters()} == {1e-3}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pool_strides": [1, 2, 1]}, "must be 2 numbers"),
        ({"pool_strides": [0, 2]}, "from 1 on"),
        ({"pool_strides": [1, 1.5]}, "pool_strides"),
        ({"pool_restore_layer": 1}, "behind all layers"),
        ({"pool_strides": [1, 2], "pool_restore_layer": 1}, "behind all layers"),
        ({"pool_strides": [2, 1], "pool_restore_layer": 2}, "behind all layers"),
    ],
    ids=str,
)
def test_strides_that_do_not_fit_are_refused(fields, words):
    with pytest.raises((StrictDataclassError, ValueError), match=words):
        BASE.config(**fields)


@over(REFUSING)
def test_families_that_cannot_keep_fewer_tokens_say_so_before_any_work(case, tmp_path):
    refusal = case.config(pool_strides=[1, 1]).strides_refused
    for fields in ({"pool_strides": [1, 2]}, {"pool_strides": [3]}):
        with pytest.raises((StrictDataclassError, ValueError), match=refusal):
            case.config(**fields)
    config = case.config()
    config.pool_strides = [2, 1]
    with pytest.raises(ValueError, match=refusal):
        case.model_class(config)
    case.stock_config(architectures=[case.stock_class.__name__]).save_pretrained(tmp_path / "source")  # no weights
    for options in ({"halve_before": "1"}, {"pool_strides": "1,2"}):
        with pytest.raises(CheckpointError, match=f"^{refusal}$"):
            convert_checkpoint(tmp_path / "source", tmp_path / "fast", **options)


def test_attention_is_told_no_positions_of_tokens_that_are_gone(monkeypatch):
    seen = []

    def attention(module, query, key, value, attention_mask, position_ids=None, **kwargs):
        seen.append((query.shape[2], None if position_ids is None else position_ids.shape[-1]))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "told", attention)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, "told", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model = BASE.model(pool_strides=[1, 2], pool_layers=[])
    model.set_attn_implementation("told")
    run(model, {**text_inputs(3), "position_ids": torch.arange(NUM_TOKENS).expand(3, -1)})
    assert seen == [(NUM_TOKENS, NUM_TOKENS), (7, None)]


def test_masks_of_which_no_smaller_one_can_be_made_are_refused():
    model, inputs = BASE.model(pool_strides=[1, 2]), text_inputs(3)
    block_mask = create_block_mask(lambda b, h, q, k: q >= 0, None, None, NUM_TOKENS, NUM_TOKENS, device="cpu")
    with pytest.raises(ValueError, match="must be a tensor of 2 or 4 dimensions"):
        run(model, {**inputs, "attention_mask": block_mask, "pool_mask": inputs["attention_mask"]})
    with pytest.raises(ValueError, match="packed for flash attention"):
        run(model, {"input_ids": inputs["input_ids"][:1]}, cu_seq_lens_q=torch.tensor([0, 5, NUM_TOKENS]))


# ------------------------------------------------------------------------------------------------------- conversion


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    BertModel(BASE.stock_config(num_hidden_layers=4)).save_pretrained(folder)
    return folder


def test_conversion_checks_the_weights_with_all_tokens_and_records_the_start(source, tmp_path):
    record = convert_checkpoint(source, tmp_path / "fast", halve_before="1,2")
    assert record["parity"]["max_abs_difference"] == 0.0
    assert record["pool_config"]["pool_strides"] == [1, 2, 2, 1] and record["pool_config"]["pool_layers"] == []
    assert 0 < record["start"]["mean"] < record["start"]["tokens"] < 2
    card = (tmp_path / "fast" / "README.md").read_text()
    assert f"{record['start']['tokens']:.3f}" in card and f"{record['start']['mean']:.3f}" in card
    model = AutoModel.from_pretrained(tmp_path / "fast")
    assert model.config.pool_strides == [1, 2, 2, 1]
    assert run(model.eval(), text_inputs(3)).last_hidden_state.shape[1] == NUM_TOKENS


def test_parity_sees_weights_that_are_not_the_source_s(source, tmp_path, monkeypatch):
    def spoilt(*args, **kwargs):
        model = convert_model(*args, **kwargs)
        torch.nn.init.normal_(model.embeddings.LayerNorm.bias)
        return model

    monkeypatch.setattr("cp_transformers.checkpoints.conversion.convert_model", spoilt)
    with pytest.raises(CheckpointError, match="differ from the source's"):
        convert_checkpoint(source, tmp_path / "fast", halve_before=[1])
    assert not (tmp_path / "fast").exists()


def test_pools_of_other_layers_are_those_that_are_named(source):
    model = convert_model(BertModel.from_pretrained(source), pool_strides="1,3,1,1", pool_layers=[0, 1])
    placements = [layer.pool_placement for layer in model.encoder.layer]
    assert placements == ["attention", "stride", None, None]


def test_the_command_says_what_is_equal_how_far_the_start_is_and_what_comes_next(source, tmp_path, capsys):
    main([str(source), str(tmp_path / "fast"), "--pool-strides", "1,2,1,1", "--pool-restore-layer", "3"])
    said = capsys.readouterr().out
    assert "with all tokens: 0.0" in said and "one token is kept of 2 before layer 1;" in said
    assert "cp-transformers distill --teacher" in said
    assert AutoModel.from_pretrained(tmp_path / "fast").config.pool_restore_layer == 3


def test_no_pooling_and_strides_together_are_refused(source, tmp_path):
    with pytest.raises(CheckpointError, match="--no-pool inserts no pooling"):
        main([str(source), str(tmp_path / "fast"), "--no-pool", "--halve-before", "1"])
    assert not (tmp_path / "fast").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"halve_before": "7"}, "There is no layer 7"),
        ({"halve_before": [1], "pool_strides": [1, 2, 1, 1]}, "either the strides"),
        ({"pool_strides": [1, 1, 1, 1]}, "no stride is above 1"),
        ({"pool_strides": "1;2"}, "one stride a layer"),
        ({"halve_before": [1], "pool_range": 0.5}, "pool_range would have no effect"),
        ({"halve_before": [1], "pool_gate": False, "pool_placement": "block"}, "pool_placement, pool_gate would"),
        ({"pool_strides": "1,0,1,1"}, "a stride is at least 1"),
        ({"pool_strides": [1, 2]}, "must be 4 numbers"),
        ({"halve_before": [1], "pool_restore_layer": 1}, "behind all layers"),
    ],
    ids=str,
)
def test_what_cannot_be_strided_is_refused(options, words, source, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        convert_checkpoint(source, tmp_path / "fast", **options)
    assert not (tmp_path / "fast").exists()


def test_a_head_of_every_kind_gives_what_the_input_asks_for():
    outputs = run(MASKED_LM.model(pool_strides=[2, 1]), text_inputs(3))
    assert outputs.logits.shape[:2] == (3, NUM_TOKENS)
