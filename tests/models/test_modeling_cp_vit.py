# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-ViT: what is images' own in a transformer, and the libraries that its users train and serve it with."""

import copy
import math
import warnings

import pytest
import torch
from datasets import Dataset
from model_cases import losses_of_steps
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTModel,
    default_data_collator,
)

from cp_transformers import (
    ContextPool,
    CPViTForImageClassification,
    CPViTForMaskedImageModeling,
    CPViTModel,
)


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": 12,
    "patch_size": 3,
    "encoder_stride": 3,
    "initializer_range": 0.05,
    "num_labels": 3,
}

# The pools reach far (pool_range), so that pooling is seen on so few patches.
VARIANTS = {
    "plain": {"pool_range": 0.5},
    "heads": {"pool_range": 0.5, "pool_num_heads": 2, "pool_max_offset": 2.0, "pool_gate": True},
    "block": {"pool_range": 0.5, "pool_placement": "block"},
}
CLASSES = [CPViTModel, CPViTForImageClassification, CPViTForMaskedImageModeling]
HEADS = CLASSES[1:]

every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
every_class = pytest.mark.parametrize("model_class", CLASSES)
every_head = pytest.mark.parametrize("model_class", HEADS)
every_placement = pytest.mark.parametrize("placement", ["attention", "block"])


def context_pools(model: nn.Module) -> list[ContextPool]:
    return [module for module in model.modules() if isinstance(module, ContextPool)]


def random_model(model_class=CPViTModel, **overrides):
    """A model in evaluation mode, whose pools and gates are far from where they start."""
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**{**SIZES, **overrides})).eval()
    for pool in context_pools(model):
        for parameter in (pool.proj.weight, pool.proj.bias, pool.gate):
            if parameter is not None:
                nn.init.normal_(parameter)
    return model


def images(height: int = 12, width: int = 12, batch: int = 3, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def run(model, *args, **kwargs):
    return model(*args, **kwargs)


def main_output(outputs) -> torch.Tensor:
    """The last hidden state, the logits or the restored pixels."""
    return next(
        outputs[name] for name in ("logits", "reconstruction", "last_hidden_state") if outputs.get(name) is not None
    )


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def shapes(outputs) -> list[tuple[int, ...]]:
    return [tuple(sizes.shape) for sizes in outputs.support_sizes]


# ------------------------------------------------------------------------------------------------- the class token


def seen_by_first_layer(model, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns what the first layer is given, and what its queries, keys and values are computed from."""
    seen, layer = {}, model.layers[0]
    projections = {name: getattr(layer.attention, f"{name}_proj") for name in "qkv"}
    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0]}))
        for name, module in {"layer": layer, **projections}.items()
    ]
    run(model, pixel_values)
    for hook in hooks:
        hook.remove()
    return seen


@every_variant
def test_attention_sees_the_class_token_as_the_stock_model_would(variant):
    model = random_model(**variant)
    seen = seen_by_first_layer(model, images())
    with torch.no_grad():
        stock = model.layers[0].layernorm_before(seen["layer"])
    for name in "qkv":
        assert torch.equal(seen[name][:, 0], stock[:, 0])


@every_variant
def test_attention_sees_pooled_patches(variant):
    model = random_model(**variant)
    seen = seen_by_first_layer(model, images())
    layer = model.layers[0]
    (pool,) = context_pools(layer)
    with torch.no_grad():
        if model.config.pool_placement == "block":
            expected = layer.layernorm_before(pool(seen["layer"][:, 1:], grid_size=(4, 4))[0])
        else:
            expected, _ = pool(layer.layernorm_before(seen["layer"])[:, 1:], grid_size=(4, 4))
        assert difference(expected, layer.layernorm_before(seen["layer"])[:, 1:]) > 0.1
    for name in "qkv":
        torch.testing.assert_close(seen[name][:, 1:], expected, rtol=0.0, atol=1e-6)


@every_variant
def test_patches_do_not_pool_the_class_token(variant):
    model = random_model(**variant)
    before = seen_by_first_layer(model, images())["q"]
    nn.init.normal_(model.embeddings.cls_token)
    after = seen_by_first_layer(model, images())["q"]
    assert torch.equal(after[:, 1:], before[:, 1:]) and difference(after[:, 0], before[:, 0]) > 0.1


@every_placement
def test_the_residual_stream_is_pooled_by_the_block_placement_alone(placement):
    model = random_model(pool_range=0.5, pool_placement=placement)
    nn.init.zeros_(model.layers[0].attention.o_proj.weight)  # attention adds a constant, whatever it attends to
    streams = []
    model.layers[0].layernorm_after.register_forward_pre_hook(lambda module, args: streams.append(args[0]))
    run(model, images())
    for pool in context_pools(model):
        nn.init.normal_(pool.proj.weight)
    run(model, images())
    assert torch.equal(streams[0][:, 0], streams[1][:, 0])
    if placement == "block":
        assert difference(streams[0][:, 1:], streams[1][:, 1:]) > 1e-3
    else:
        assert torch.equal(streams[0], streams[1])


@every_placement
def test_only_the_named_layers_pool(placement):
    model = random_model(pool_placement=placement, pool_layers=[1])
    assert [len(context_pools(layer)) for layer in model.layers] == [0, 1]
    assert shapes(run(model, images(), output_support_sizes=True)) == [(3, 4, 4, 4)]


# ----------------------------------------------------------------------------------------------------- support sizes


@every_placement
@every_class
def test_support_sizes_are_a_map_for_each_layer_and_head(model_class, placement):
    model = random_model(model_class, pool_num_heads=2, pool_placement=placement)
    outputs = run(model, images(), output_support_sizes=True)
    assert shapes(outputs) == [(3, 2, 4, 4)] * 2
    assert all(sizes.dtype is torch.float32 and sizes.min() > 0 for sizes in outputs.support_sizes)


@pytest.mark.parametrize("model_class", CLASSES[:2])
def test_support_sizes_of_a_non_square_image_are_rows_by_columns(model_class):
    model = random_model(model_class, image_size=[12, 18], pool_num_heads=2)
    assert shapes(run(model, images(12, 18), output_support_sizes=True)) == [(3, 2, 4, 6)] * 2


@every_class
def test_support_sizes_change_no_other_output(model_class):
    model = random_model(model_class, pool_range=0.5)
    with_sizes = run(model, images(), output_support_sizes=True)
    assert torch.equal(main_output(with_sizes), main_output(run(model, images())))


def test_support_sizes_are_what_the_pools_predict():
    model = random_model(image_size=[12, 18], pool_num_heads=2)
    returned = []
    for pool in context_pools(model):
        pool.register_forward_hook(lambda module, args, output: returned.append(output[1]))
    outputs = run(model, images(12, 18), output_support_sizes=True)
    for sizes, of_pool in zip(outputs.support_sizes, returned, strict=True):
        assert torch.equal(sizes.flatten(2), of_pool)


def test_support_sizes_follow_the_longer_side_of_the_grid():
    model = random_model(image_size=[12, 18], pool_range=0.5)
    for pool in context_pools(model):
        nn.init.zeros_(pool.proj.weight)
        nn.init.zeros_(pool.proj.bias)
    for sizes in run(model, images(12, 18), output_support_sizes=True).support_sizes:
        torch.testing.assert_close(sizes, torch.full_like(sizes, 0.5 * 6 * 0.5))


@pytest.mark.parametrize(("row", "column"), [(1, 4), (3, 0), (0, 5)])
def test_the_map_of_support_sizes_lies_as_the_image_does(row, column):
    # A kernel of one patch and no positions: one bright patch is the one place where the first layer predicts another.
    model = random_model(image_size=[12, 18], pool_kernel_size=1, pool_range=0.5)
    nn.init.zeros_(model.embeddings.position_embeddings)
    pixel_values = torch.zeros(1, 3, 12, 18)
    pixel_values[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = torch.randn(3, 3, 3)
    sizes = run(model, pixel_values, output_support_sizes=True).support_sizes[0][0, 0]
    others = torch.ones(4, 6, dtype=torch.bool)
    others[row, column] = False
    assert (sizes[row, column] - sizes[others]).abs().min() > 1e-2
    torch.testing.assert_close(sizes[others], sizes[others][0].expand(23))


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (-1, 0), (0, -1)])
def test_patches_pool_their_neighbours_in_the_image(down, right):
    model = random_model(image_size=[12, 18], pool_num_heads=1, pool_max_offset=1.0)
    (pool,) = context_pools(model.layers[0])
    nn.init.zeros_(pool.proj.weight)
    with torch.no_grad():  # as narrow as can be, one patch off
        pool.proj.bias.copy_(torch.tensor([0.0, -100.0, 100.0 * down, 100.0 * right]))
    seen = seen_by_first_layer(model, images(12, 18))
    with torch.no_grad():
        stock = model.layers[0].layernorm_before(seen["layer"])[:, 1:].unflatten(1, (4, 6))
    pooled = seen["q"][:, 1:].unflatten(1, (4, 6))
    rows, columns = slice(max(-down, 0), 4 - max(down, 0)), slice(max(-right, 0), 6 - max(right, 0))
    expected = stock.roll((-down, -right), dims=(1, 2))[:, rows, columns]
    torch.testing.assert_close(pooled[:, rows, columns], expected, rtol=0.0, atol=1e-5)


# ------------------------------------------------------------------------------------------- image sizes and patches


@pytest.mark.parametrize(
    ("image_size", "patch_size", "grid"),
    [
        ([12, 18], 3, (4, 6)),
        ((18, 12), 3, (6, 4)),
        (12, [3, 3], (4, 4)),
        (12, (3, 2), (4, 6)),
        ([12, 18], [2, 3], (6, 6)),
        ([13, 11], 2, (6, 5)),  # a rest that no patch holds
    ],
    ids=str,
)
@every_variant
def test_sizes_of_images_and_patches_of_all_forms(variant, image_size, patch_size, grid):
    height, width = (12, 12) if image_size == 12 else image_size
    model = random_model(image_size=image_size, patch_size=patch_size, **variant)
    outputs = run(model, images(height, width), output_support_sizes=True)
    assert outputs.last_hidden_state.shape == (3, 1 + math.prod(grid), 32)
    assert shapes(outputs) == [(3, model.config.pool_num_heads, *grid)] * 2


@pytest.mark.parametrize(("image_size", "patch_size"), [([12, 18], 3), ((12, 18), (2, 3))], ids=str)
def test_a_model_for_other_sizes_is_reloaded_as_it_was_saved(image_size, patch_size, tmp_path):
    model = random_model(CPViTForImageClassification, image_size=image_size, patch_size=patch_size, pool_range=0.5)
    model.save_pretrained(tmp_path)
    reloaded = CPViTForImageClassification.from_pretrained(tmp_path)
    expected, actual = (run(each, images(12, 18), output_support_sizes=True) for each in (model, reloaded))
    assert torch.equal(actual.logits, expected.logits) and shapes(actual) == shapes(expected)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (24, 18), (12, 21), (12, 48), (6, 6)])
@pytest.mark.parametrize("model_class", CLASSES[:2])
def test_other_sizes_of_images_are_pooled_on_their_own_grid(model_class, height, width):
    model = random_model(model_class, pool_range=0.5, pool_num_heads=2)
    outputs = run(model, images(height, width), interpolate_pos_encoding=True, output_support_sizes=True)
    assert shapes(outputs) == [(3, 2, height // 3, width // 3)] * 2
    assert main_output(outputs).isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(24, 24), (24, 18), (6, 9)])
def test_interpolated_positions_are_those_of_the_stock_model(height, width):
    stock = ViTModel(ViTConfig(**SIZES)).eval()
    model = random_model(pool_range=0.5, pool_gate=True)
    for pool in context_pools(model):
        nn.init.zeros_(pool.gate)
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected and all(".context_pool." in name for name in missing)
    expected, actual = (run(each, images(height, width), interpolate_pos_encoding=True) for each in (stock, model))
    assert torch.equal(actual.last_hidden_state, expected.last_hidden_state)


@every_variant
@every_class
def test_interpolation_changes_nothing_at_the_size_of_the_config(model_class, variant):
    model = random_model(model_class, **variant)
    plain, interpolated = (run(model, images(), interpolate_pos_encoding=flag) for flag in (False, True))
    assert torch.equal(main_output(interpolated), main_output(plain))


def test_masked_image_modelling_restores_a_larger_image():
    model = random_model(CPViTForMaskedImageModeling, pool_range=0.5)
    outputs = run(model, images(24, 24), interpolate_pos_encoding=True, output_support_sizes=True)
    assert outputs.reconstruction.shape == (3, 3, 24, 24) and shapes(outputs) == [(3, 4, 8, 8)] * 2


@pytest.mark.parametrize(("height", "width"), [(24, 24), (18, 18)])
@every_class
def test_another_size_without_interpolation_is_refused(model_class, height, width):
    with pytest.raises(ValueError, match=rf"Input image size \({height}\*{width}\) doesn't match model \(12\*12\)"):
        random_model(model_class)(images(height, width))


def test_the_sides_of_an_image_may_not_be_swapped():
    with pytest.raises(ValueError, match=r"Input image size \(18\*12\) doesn't match model \(12\*18\)"):
        random_model(image_size=[12, 18])(images(18, 12))


# -------------------------------------------------------------------------------------------- channels and arguments


@pytest.mark.parametrize("channels", [1, 5])
@every_class
def test_images_of_any_number_of_channels(model_class, channels):
    model = random_model(model_class, num_channels=channels, pool_range=0.5)
    outputs = run(model, images(channels=channels))
    assert main_output(outputs).isfinite().all()
    if model_class is CPViTForMaskedImageModeling:
        assert outputs.reconstruction.shape == (3, channels, 12, 12)


@every_class
def test_another_number_of_channels_is_refused(model_class):
    with pytest.raises(ValueError, match="Expected 3 but got 1"):
        random_model(model_class)(images(channels=1))


@every_class
def test_missing_pixel_values_are_asked_for(model_class):
    with pytest.raises(ValueError, match="You have to specify pixel_values"):
        random_model(model_class)()


@every_class
def test_no_attention_mask_is_none(model_class):
    model = random_model(model_class, pool_range=0.5)
    expected = run(model, images())
    assert torch.equal(main_output(run(model, images(), attention_mask=None)), main_output(expected))


@every_variant
@every_class
def test_an_image_is_the_same_alone_and_in_a_batch(model_class, variant):
    model, batch = random_model(model_class, **variant).double(), images(batch=4).double()
    expected = run(model, batch, output_support_sizes=True)
    for index in range(4):
        alone = run(model, batch[index : index + 1], output_support_sizes=True)
        for one, all_of_them in zip(
            (main_output(alone), *alone.support_sizes), (main_output(expected), *expected.support_sizes), strict=True
        ):
            torch.testing.assert_close(one, all_of_them[index : index + 1], rtol=0.0, atol=1e-10)


@every_placement
def test_masked_patches_reach_no_other_token_and_have_no_size(placement):
    model = random_model(pool_placement=placement, pool_range=0.5, pool_gate=True)
    attention_mask = torch.ones(3, 17, dtype=torch.long)
    attention_mask[1, 9:] = 0  # the class token, then two of four rows of patches
    pixel_values = images()
    changed = pixel_values.clone()
    changed[1, :, 6:] = 7.0
    before, after = (
        run(model, each, attention_mask=attention_mask, output_support_sizes=True) for each in (pixel_values, changed)
    )
    valid = attention_mask.bool()
    assert torch.equal(before.last_hidden_state[valid], after.last_hidden_state[valid])
    assert difference(before.last_hidden_state, run(model, pixel_values).last_hidden_state) > 1e-3
    for sizes in before.support_sizes:
        assert not sizes[1, :, 2:].any() and sizes[1, :, :2].all() and sizes[0].all()


def test_an_attention_mask_of_ones_is_none():
    model = random_model(pool_range=0.5)
    masked = run(model, images(), attention_mask=torch.ones(3, 17)).last_hidden_state
    torch.testing.assert_close(masked, run(model, images()).last_hidden_state)


def test_an_attention_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"of shape \(batch, tokens\).*not one with 4 dimensions"):
        run(random_model(), images(), attention_mask=torch.ones(3, 1, 17, 17))


# ------------------------------------------------------------------------------------------ masked image modelling


def masked_positions() -> torch.Tensor:
    return (torch.arange(48) % 3 == 0).view(3, 16)


def masked_pixels() -> torch.Tensor:
    """`(batch, 1, height, width)`, True in the masked patches."""
    return masked_positions().view(3, 1, 4, 4).repeat_interleave(3, 2).repeat_interleave(3, 3)


@every_variant
def test_pixels_of_masked_patches_change_nothing(variant):
    model = random_model(CPViTForMaskedImageModeling, **variant)
    pixel_values, mask = images(), masked_positions()
    expected = run(model, pixel_values, bool_masked_pos=mask, output_support_sizes=True)
    repainted = torch.where(masked_pixels(), torch.randn_like(pixel_values), pixel_values)
    actual = run(model, repainted, bool_masked_pos=mask, output_support_sizes=True)
    assert torch.equal(actual.reconstruction, expected.reconstruction)
    assert all(torch.equal(a, b) for a, b in zip(actual.support_sizes, expected.support_sizes, strict=True))
    assert difference(run(model, repainted).reconstruction, run(model, pixel_values).reconstruction) > 1e-2


@every_variant
def test_the_mask_token_stands_in_for_masked_patches(variant):
    model = random_model(CPViTForMaskedImageModeling, **variant)
    outputs = []
    for init in (nn.init.zeros_, nn.init.normal_):
        init(model.vit.embeddings.mask_token)
        outputs.append([run(model, images(), bool_masked_pos=mask) for mask in (masked_positions(), None)])
    (zeros, zeros_unmasked), (other, other_unmasked) = outputs
    assert torch.equal(zeros_unmasked.reconstruction, other_unmasked.reconstruction)
    assert difference(zeros.reconstruction, other.reconstruction) > 1e-2


def test_the_loss_is_the_mean_difference_of_the_masked_pixels():
    model = random_model(CPViTForMaskedImageModeling, pool_range=0.5)
    pixel_values = images()
    outputs = run(model, pixel_values, bool_masked_pos=masked_positions())
    differences = (outputs.reconstruction - pixel_values).abs()[masked_pixels().expand_as(pixel_values)]
    torch.testing.assert_close(outputs.loss, differences.mean())


def test_trainer_finds_the_columns_of_masked_image_modelling(tmp_path):
    rows = [{"pixel_values": each, "bool_masked_pos": mask} for each, mask in zip(images(), masked_positions())]
    options = {"max_steps": 2, "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    trainer = Trainer(
        random_model(CPViTForMaskedImageModeling),
        TrainingArguments(tmp_path, **options),
        train_dataset=Dataset.from_list([{name: each.tolist() for name, each in row.items()} for row in rows]),
        data_collator=default_data_collator,
    )
    assert math.isfinite(trainer.train().training_loss)


@pytest.mark.parametrize(("height", "width"), [(12, 24), (24, 12), (18, 18)])
def test_a_traced_model_takes_other_sizes_of_images(height, width):
    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = random_model(CPViTForImageClassification, pool_range=0.5)

        def forward(self, pixel_values):
            return self.model(pixel_values, interpolate_pos_encoding=True).logits

    model, pixel_values = Logits().requires_grad_(False), torch.randn(2, 3, height, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, images())
    torch.testing.assert_close(traced(pixel_values), model(pixel_values))


def test_without_a_mask_there_is_no_loss():
    outputs = run(random_model(CPViTForMaskedImageModeling), images())
    assert outputs.loss is None and outputs.reconstruction.shape == (3, 3, 12, 12)


@pytest.mark.parametrize("by", ["position", "keyword"])
@pytest.mark.parametrize(("height", "width"), [(12, 18), (18, 12), (12, 48)])
def test_masked_image_modelling_of_a_non_square_image_is_refused(height, width, by):
    model = random_model(CPViTForMaskedImageModeling, image_size=[height, width])
    with pytest.raises(ValueError, match=f"for square images, .* not for {height} x {width} ones"):
        model(images(height, width)) if by == "position" else model(pixel_values=images(height, width))


def test_masking_asks_for_a_stride_of_the_patches_size():
    model = random_model(CPViTForMaskedImageModeling, encoder_stride=2)
    with pytest.raises(ValueError, match="`patch_size` must be equal to `encoder_stride`"):
        model(images(), bool_masked_pos=masked_positions())


# ---------------------------------------------------------------------------------------------------------- losses


def test_the_logits_are_those_of_the_class_token():
    model = random_model(CPViTForImageClassification, pool_range=0.5)
    states = run(model.vit, images()).last_hidden_state
    with torch.no_grad():
        assert torch.equal(run(model, images()).logits, model.classifier(states[:, 0]))


# ------------------------------------------------------------------------------------------------------------ LoRA

# peft 0.21 asks for a property that transformers 5.23 has renamed.
third_party_warning = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def lora_model(base=None):
    options = LoraConfig(
        target_modules="all-linear", modules_to_save=["classifier"], r=4, lora_alpha=8, lora_dropout=0.0
    )
    return get_peft_model(base or random_model(CPViTForImageClassification, **VARIANTS["heads"]), options).eval()


def lora_steps(model) -> list[float]:
    return losses_of_steps(model, pixel_values=images(), labels=torch.tensor([0, 1, 2]))


@third_party_warning
def test_lora_on_every_linear_layer_starts_where_the_model_stood():
    base = random_model(CPViTForImageClassification, **VARIANTS["heads"])
    expected = run(base, images()).logits
    model = lora_model(copy.deepcopy(base))
    assert any(".context_pool.proj.lora_" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(run(model, pixel_values=images()).logits, expected, rtol=0.0, atol=1e-6)


@third_party_warning
def test_lora_trains_its_own_parameters_and_the_head_alone():
    model = lora_model()
    losses = lora_steps(model)
    assert losses[-1] < 0.5 * losses[0]
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(".lora_" in name or ".classifier.modules_to_save." in name for name in learning)
    assert any(".q_proj.lora_" in name for name in learning)
    assert any(".context_pool.proj.lora_" in name for name in learning)


@third_party_warning
def test_a_lora_adapter_is_reloaded_as_it_was_saved(tmp_path):
    base = random_model(CPViTForImageClassification, **VARIANTS["heads"])
    model = lora_model(copy.deepcopy(base))
    lora_steps(model)
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(run(reloaded, pixel_values=images()).logits, run(model, pixel_values=images()).logits)


def test_accumulated_gradients_of_labels_that_are_several_are_those_of_the_whole_batch(tmp_path):
    generator, norms = torch.Generator().manual_seed(0), []
    data = [
        {"pixel_values": torch.randn(3, 12, 12, generator=generator), "labels": torch.tensor([1.0, 0.0, index % 2])}
        for index in range(8)
    ]
    for size in (8, 2):
        model = random_model(CPViTForImageClassification, num_labels=3, hidden_dropout_prob=0.0)
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            max_grad_norm=1e9,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        trainer = Trainer(model, arguments, train_dataset=data)
        trainer.train()
        norms += [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
