# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Promises of every model that reads texts."""

import pytest
import torch
from model_cases import (
    NUM_TOKENS,
    VOCABULARY_SIZE,
    aligned,
    assert_same_outputs,
    at_valid_tokens,
    context_pools,
    over,
    tensors,
    text_inputs,
)
from text_cases import (
    BASE,
    CLASSIFIER,
    MASKED_LM,
    OF_BERT,
    ONE_ROW_TEXTS,
    TEXTS,
    every_one_row_text,
    every_text,
    every_unstrided_variant,
    every_variant,
    over_every_variant,
    run,
)
from torch import nn
from transformers import DynamicCache

from cp_transformers import CPBertForSequenceClassification
from cp_transformers.families import first_position
from cp_transformers.models.modeling_context_pool import PooledAttention


every_tied_bert = over([MASKED_LM, OF_BERT["ForPreTraining"]])
# The others look at the first token, which left padding makes a padded one: so upstream.
TEXTS_OF_ALL_TOKENS = [case for case in TEXTS if str(case).endswith(("LM", "TokenClassification", "Answering"))]


# --------------------------------------------------------------------------------------------------------- padding


def pad(inputs: dict[str, torch.Tensor], left: int = 0, right: int = 0) -> dict[str, torch.Tensor]:
    return {name: nn.functional.pad(tensor, (left, right)) for name, tensor in inputs.items()}


def alone(inputs: dict[str, torch.Tensor], example: int) -> dict[str, torch.Tensor]:
    """One example of the batch, without the padding that all of its rows have."""
    length = int(inputs["attention_mask"][example].sum(-1).max())
    return {name: tensor[example : example + 1, ..., :length] for name, tensor in inputs.items()}


def trimmed(outputs, like) -> list[torch.Tensor]:
    """The tensors of `outputs` cut to the shapes of those of `like`, as values of padded tokens may be left."""
    shapes = [tensor.shape for tensor in tensors(like)]
    return [tensor[tuple(map(slice, shape))] for tensor, shape in zip(tensors(outputs), shapes)]


@over_every_variant(TEXTS)
def test_padding_on_the_right_changes_nothing(case, variant):
    model, inputs = case.model(**variant), case.inputs()
    expected = run(model, inputs, output_support_sizes=True)
    padded = run(model, pad(inputs, right=9), output_support_sizes=True)
    actual = trimmed(padded, like=expected)
    assert_same_outputs(at_valid_tokens(case, actual), at_valid_tokens(case, expected), atol=1e-5)


@over_every_variant(TEXTS)
def test_an_example_is_the_same_alone_and_in_a_batch(case, variant):
    model, inputs = case.model(**variant), case.inputs()
    batch = run(model, inputs)
    for example in range(len(inputs["input_ids"])):
        single = run(model, alone(inputs, example))
        of_batch = [tensor[example : example + 1] for tensor in tensors(batch)]
        assert_same_outputs(trimmed(of_batch, like=single), single, atol=1e-5)


@over_every_variant(ONE_ROW_TEXTS)
def test_an_example_without_padding_needs_no_mask(case, variant):
    model, inputs = case.model(**variant), alone(case.inputs(), 1)
    expected = run(model, inputs)
    del inputs["attention_mask"]
    assert_same_outputs(run(model, inputs), expected, atol=1e-6)


@over_every_variant(TEXTS_OF_ALL_TOKENS)
def test_padding_on_the_left_changes_nothing_at_equal_positions(case, variant):
    model, inputs = case.model(**variant), case.inputs()
    expected = run(model, inputs)
    padded = pad(inputs, left=9)
    positions = (torch.arange(NUM_TOKENS + 9) - 9).clamp(min=0).expand_as(padded["input_ids"])
    positions = positions + first_position(model.config)
    actual = [tensor[:, 9:] for tensor in tensors(run(model, padded, position_ids=positions))]
    assert_same_outputs(at_valid_tokens(case, actual), at_valid_tokens(case, expected), atol=1e-5)


@every_variant
def test_padding_on_the_left_changes_no_state_at_equal_positions(variant):
    model, inputs = BASE.model(**variant), BASE.inputs()
    expected = run(model, inputs).last_hidden_state
    padded = pad(inputs, left=9)
    positions = (torch.arange(NUM_TOKENS + 9) - 9).clamp(min=0).expand_as(padded["input_ids"])
    actual = run(model, padded, position_ids=positions).last_hidden_state[:, 9:]
    assert_same_outputs(at_valid_tokens(BASE, actual), at_valid_tokens(BASE, expected), atol=1e-5)


@over_every_variant(TEXTS)
def test_ids_at_padding_change_nothing(case, variant):
    model, inputs = case.model(**variant), case.inputs()
    expected = run(model, inputs, output_support_sizes=True)
    poisoned = {**inputs, "input_ids": torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 98)}
    actual = run(model, poisoned, output_support_sizes=True)
    assert_same_outputs(at_valid_tokens(case, actual), at_valid_tokens(case, expected), atol=1e-6)


@over_every_variant(ONE_ROW_TEXTS)
def test_an_entirely_padded_example_leaves_the_others_alone_and_all_finite(case, variant):
    model, inputs = case.model(**variant), case.inputs()
    expected = run(model, inputs)
    inputs["attention_mask"][2] = 0
    outputs = run(model, inputs)
    assert all(tensor.isfinite().all() for tensor in tensors(outputs))
    valid = inputs["attention_mask"].bool()
    found, expected = (
        [tensor[valid] if tensor.shape[:2] == valid.shape else tensor[:2] for tensor in tensors(each)]
        for each in (outputs, expected)
    )
    assert_same_outputs(found, expected, atol=1e-5)


@pytest.mark.parametrize("placement", ["attention", "block"])
def test_the_gradient_of_an_entirely_padded_example_is_bounded(placement):
    norms = []
    for rows in (2, 3):
        model, inputs = CLASSIFIER.model(pool_placement=placement), CLASSIFIER.inputs()
        inputs = {name: each[:rows].clone() for name, each in inputs.items()}
        inputs["attention_mask"][2:] = 0
        model(**inputs, labels=torch.tensor([0, 1, 1])[:rows]).loss.backward()
        norms.append(torch.stack([each.grad.norm() for each in model.parameters() if each.grad is not None]).norm())
    assert norms[1] < 10 * norms[0]


# ----------------------------------------------------------------------------------------------------------- masks


def full_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """The additive `(batch, 1, tokens, tokens)` form of a 2-D mask."""
    lowest = torch.finfo(torch.float32).min
    return (lowest * (1.0 - attention_mask[:, None, None].float())).expand(-1, -1, NUM_TOKENS, -1)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@every_variant
@over([BASE, CLASSIFIER])
def test_a_4d_mask_with_a_pool_mask_is_the_2d_mask(case, variant, attn_implementation):
    model, inputs = case.model(**variant, attn_implementation=attn_implementation), case.inputs()
    expected = run(model, inputs)
    attention_mask = inputs.pop("attention_mask")
    actual = run(model, inputs, attention_mask=full_mask(attention_mask), pool_mask=attention_mask)
    assert_same_outputs(at_valid_tokens(case, actual), at_valid_tokens(case, expected), atol=1e-5)


@every_one_row_text
def test_a_4d_mask_without_a_pool_mask_is_refused(case):
    inputs = case.inputs()
    inputs["attention_mask"] = full_mask(inputs["attention_mask"])
    refusal = "pass pool_mask of that shape" if case.model_class.takes_4d_masks else "give each sequence a row"
    with pytest.raises(ValueError, match=refusal):
        case.model()(**inputs)


@every_one_row_text
def test_what_the_attention_mask_masks_is_not_pooled_whatever_else_is_given(case):
    model, inputs = case.model(**case.variants["heads"]), case.inputs()
    expected = run(model, inputs, output_support_sizes=True)
    ones = torch.ones_like(inputs["attention_mask"])
    rows, tokens = ones.shape
    inputs["input_ids"][inputs["attention_mask"] == 0] = 7  # would be seen in a pool
    given = [{"pool_mask": ones}, {"pool_segments": ones}, {"seq_idx": ones - 1}]
    if rows == 1:
        given.append({"cu_seq_lens_q": torch.tensor([0, tokens], dtype=torch.int32)})
    for more in given:
        actual = run(model, inputs, output_support_sizes=True, **more)
        assert_same_outputs(at_valid_tokens(case, actual), at_valid_tokens(case, expected), atol=1e-5)


@every_variant
def test_which_token_is_the_class_token_is_not_for_the_pool_mask_to_say(variant):
    model, ids = BASE.model(**variant), text_inputs(2)["input_ids"].clamp(min=1)
    inner = torch.ones_like(ids)
    inner[:, 0] = inner[:, -1] = 0
    expected = run(model, {"input_ids": ids}, attention_mask=torch.ones_like(ids), pool_mask=inner)
    assert_same_outputs(run(model, {"input_ids": ids}, pool_mask=inner), expected)


def test_choices_have_masks_of_their_own():
    case = OF_BERT["ForMultipleChoice"]
    model, inputs = case.model(), case.inputs()
    expected = run(model, inputs, output_support_sizes=True)
    inputs["pool_mask"] = inputs["attention_mask"]
    assert_same_outputs(run(model, inputs, output_support_sizes=True), expected)
    inputs["pool_segments"] = inputs.pop("pool_mask")
    assert_same_outputs(run(model, inputs, output_support_sizes=True).logits, expected.logits, atol=1e-5)


@pytest.mark.parametrize("name", ["attention_mask", "pool_mask", "pool_segments"])
def test_a_mask_of_another_shape_is_refused_by_its_name_and_shape(name):
    ids = text_inputs(2)["input_ids"]
    with pytest.raises(ValueError, match=rf"{name} must be of shape \(2, {ids.shape[1]}\), not \(2, 3\)"):
        BASE.model()(ids, **{name: torch.ones(2, 3, dtype=torch.long)})


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
@every_text
def test_a_mask_of_another_dtype_gives_the_same_outputs(case, dtype):
    model, inputs = case.model(), case.inputs()
    expected = run(model, inputs)
    inputs["attention_mask"] = inputs["attention_mask"].to(dtype)
    if (str(case), dtype) == ("CPModernBertForMultipleChoice", torch.bool):  # nor does upstream's own take it
        for each in (model, case.stock_class(case.stock_config())):
            with pytest.raises(RuntimeError, match="argmax"):
                run(each, inputs)
        return
    assert_same_outputs(run(model, inputs), expected)


# ---------------------------------------------------------------------------------------------- what is not offered


@pytest.mark.parametrize("flags", [{"is_decoder": True}, {"is_decoder": True, "add_cross_attention": True}], ids=str)
@every_text
def test_a_decoder_is_refused(case, flags):
    with pytest.raises(ValueError, match="Set is_decoder and add_cross_attention to False"):
        case.model_class(case.config(**flags))


@pytest.mark.parametrize(
    "refused",
    [{"encoder_hidden_states": torch.zeros(3, 4, 32)}, {"past_key_values": DynamicCache()}],
    ids=lambda refused: next(iter(refused)),
)
@every_text
def test_what_only_a_decoder_takes_is_refused(case, refused):
    with pytest.raises(ValueError, match=f"takes no {next(iter(refused))}"):
        case.model()(**case.inputs(), **refused)


# ------------------------------------------------------------------------------------------------------- placement


@torch.no_grad()
def change_pools(model) -> None:
    for pool in context_pools(model):
        nn.init.normal_(pool.proj.weight)
        nn.init.normal_(pool.proj.bias)


@torch.no_grad()
def silence_attention(model) -> None:
    """Values of zero: attention adds a constant to the residual stream, whatever it attends to."""
    (attention,) = (each.__bases__[-1] for each in model.pooled_classes() if issubclass(each, PooledAttention))
    for module in [module for module in model.modules() if isinstance(module, attention)]:
        for linear in [each for each in module.children() if isinstance(each, nn.Linear)]:
            linear.weight.zero_()


@every_text
def test_pooling_the_attention_leaves_the_residual_stream_alone(case):
    model, inputs = case.model(pool_range=0.5), case.inputs()
    silence_attention(model)
    expected = run(model, inputs)
    change_pools(model)
    assert_same_outputs(run(model, inputs), expected)


@every_text
def test_pooling_the_block_pools_the_residual_stream(case):
    model, inputs = case.model(pool_range=0.5, pool_placement="block", pool_class_token=True), case.inputs()
    silence_attention(model)
    expected = run(model, inputs)
    change_pools(model)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(tensors(run(model, inputs)), tensors(expected)))


@every_unstrided_variant
def test_attention_sees_pooled_tokens_and_the_block_its_own(variant):
    model, inputs = BASE.model(**variant), BASE.inputs()
    seen = {}
    layer = model.encoder.layer[1]
    layer.register_forward_pre_hook(lambda module, args: seen.update(layer=args[0]))
    layer.attention.self.query.register_forward_pre_hook(lambda module, args: seen.update(query=args[0]))
    layer.attention.output.register_forward_pre_hook(lambda module, args: seen.update(residual=args[1]))
    run(model, inputs)
    with torch.no_grad():
        (pool,) = context_pools(layer)
        start = 0 if model.config.pool_class_token else 1
        pooled, _ = pool(seen["layer"][:, start:], mask=inputs["attention_mask"][:, start:])
        pooled = torch.cat([seen["layer"][:, :start], pooled], dim=1)
    assert torch.equal(seen["query"], pooled)
    assert torch.equal(seen["residual"], pooled if model.config.pool_placement == "block" else seen["layer"])


# ------------------------------------------------------------------------------------------------------- embeddings


# Upstream's hand what is given as `inputs_embeds` to their layers as it is, without positions.
PAST_EMBEDDINGS = ("CPEsm",)


@every_text
def test_embeddings_give_what_their_ids_give(case):
    model, inputs = case.model(), case.inputs()
    expected = run(model, inputs)
    past = str(case).startswith(PAST_EMBEDDINGS)
    embed = model.base_model.embeddings if past else model.get_input_embeddings()
    embeddings = embed(inputs.pop("input_ids"))
    actual = run(model, inputs, inputs_embeds=embeddings)
    assert_same_outputs(at_valid_tokens(case, actual), at_valid_tokens(case, expected), atol=1e-6)


@every_text
def test_more_embeddings_leave_the_outputs_as_they_were(case):
    model, inputs = case.model(), case.inputs()
    expected = run(model, inputs)
    model.resize_token_embeddings(VOCABULARY_SIZE + 6, mean_resizing=False)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == VOCABULARY_SIZE + 6
    actual = trimmed(run(model, inputs), like=expected)
    assert_same_outputs(actual, expected, atol=1e-6)


@every_tied_bert
def test_more_embeddings_resize_the_decoder_and_its_bias(case):
    model = case.model()
    model.resize_token_embeddings(VOCABULARY_SIZE + 6)
    decoder = model.get_output_embeddings()
    assert decoder.weight is model.get_input_embeddings().weight
    assert decoder.bias is model.cls.predictions.bias and decoder.bias.shape == (VOCABULARY_SIZE + 6,)
    assert model(**case.inputs(), **case.labels()).loss.isfinite()


@every_text
def test_a_resized_model_is_reloaded_as_it_was_saved(case, tmp_path):
    model, inputs = case.model(), case.inputs()
    model.resize_token_embeddings(VOCABULARY_SIZE + 6)
    model.save_pretrained(tmp_path)
    reloaded = aligned(case.model_class.from_pretrained(tmp_path))
    assert_same_outputs(run(reloaded, inputs), run(model, inputs))


@every_tied_bert
def test_the_decoder_is_tied_to_the_embeddings(case):
    model = case.fresh_model()
    predictions = model.cls.predictions
    assert predictions.decoder.weight is model.get_input_embeddings().weight
    assert predictions.decoder.bias is predictions.bias


@every_tied_bert
def test_the_decoder_is_tied_after_loading(case, tmp_path):
    case.fresh_model().save_pretrained(tmp_path)
    model = case.model_class.from_pretrained(tmp_path)
    assert model.cls.predictions.decoder.weight is model.get_input_embeddings().weight
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias


@every_tied_bert
def test_the_decoder_is_its_own_where_the_config_unties_it(case, tmp_path):
    model = case.model(tie_word_embeddings=False)
    nn.init.normal_(model.cls.predictions.decoder.weight)
    model.save_pretrained(tmp_path)
    reloaded = aligned(case.model_class.from_pretrained(tmp_path))
    assert reloaded.cls.predictions.decoder.weight is not reloaded.get_input_embeddings().weight
    assert_same_outputs(run(reloaded, case.inputs()), run(model, case.inputs()))


@every_text
def test_a_chunked_feed_forward_gives_the_same_outputs(case):
    model, inputs = case.model(), case.inputs()
    chunked = case.model(chunk_size_feed_forward=4)
    chunked.load_state_dict(model.state_dict())
    assert_same_outputs(run(chunked, inputs), run(model, inputs), atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        ("regression", 1, torch.tensor([0.5, 1.0, -1.0])),
        ("regression", 3, torch.rand(3, 3)),
        ("single_label_classification", 3, torch.tensor([0, 1, 2])),
        ("multi_label_classification", 3, torch.eye(3)),
    ],
    ids=["regression", "regressions", "single_label", "multi_label"],
)
def test_a_loss_for_every_problem_type(problem_type, num_labels, labels):
    loss_of = {
        "regression": lambda logits: nn.functional.mse_loss(logits.view(labels.shape), labels),
        "single_label_classification": lambda logits: nn.functional.cross_entropy(logits, labels),
        "multi_label_classification": lambda logits: nn.functional.binary_cross_entropy_with_logits(logits, labels),
    }
    model = CLASSIFIER.model(problem_type=problem_type, num_labels=num_labels)
    outputs = run(model, CLASSIFIER.inputs(), labels=labels)
    torch.testing.assert_close(outputs.loss, loss_of[problem_type](outputs.logits))


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type"),
    [
        (1, torch.tensor([0.5, 1.0, -1.0]), "regression"),
        (3, torch.tensor([0, 1, 2]), "single_label_classification"),
        (3, torch.eye(3), "multi_label_classification"),
    ],
    ids=["regression", "single_label", "multi_label"],
)
def test_labels_tell_the_problem_type(num_labels, labels, problem_type):
    model = CLASSIFIER.model(num_labels=num_labels)
    run(model, CLASSIFIER.inputs(), labels=labels)
    assert model.config.problem_type == problem_type


def test_another_number_of_labels_is_refused_on_loading(tmp_path):
    CLASSIFIER.model().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        CPBertForSequenceClassification.from_pretrained(tmp_path, num_labels=5)


def test_another_number_of_labels_initialises_the_classifier_alone_where_asked(tmp_path):
    saved = CLASSIFIER.model()
    saved.save_pretrained(tmp_path)
    model = CPBertForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape == (5, 32)
    torch.testing.assert_close(model.bert.state_dict(), saved.bert.state_dict(), rtol=0.0, atol=0.0)
