# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-BERT: what is text's own, and the libraries that its users train and serve it with."""

import copy
import inspect
import json
from pathlib import Path

import pytest
import torch
from model_cases import (
    BERT_MODELS,
    BERT_VARIANTS,
    LENGTHS,
    NUM_TOKENS,
    VOCABULARY_SIZE,
    ModelCase,
    aligned,
    assert_same_outputs,
    at_valid_tokens,
    context_pools,
    messages_of_transformers,
    over,
    tensors,
    text_inputs,
    token_labels,
)
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    DynamicCache,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cp_transformers import (
    CPBertConfig,
    CPBertForMaskedLM,
    CPBertForMultipleChoice,
    CPBertForPreTraining,
    CPBertForSequenceClassification,
    CPBertForTokenClassification,
    CPBertModel,
)


CASES = {case.model_class: case for case in BERT_MODELS}
BASE, MASKED_LM, CLASSIFIER = CASES[CPBertModel], CASES[CPBertForMaskedLM], CASES[CPBertForSequenceClassification]

every_bert = over(BERT_MODELS)
every_variant = pytest.mark.parametrize("variant", BERT_VARIANTS.values(), ids=BERT_VARIANTS)
every_one_row_bert = over([case for case in BERT_MODELS if case.inputs()["input_ids"].ndim == 2])
every_tied_bert = over([MASKED_LM, CASES[CPBertForPreTraining]])
# The others look at the first token, which left padding makes a padded one: so upstream.
every_bert_without_pooler = over([case for case in BERT_MODELS if case.model().base_model.pooler is None])


@torch.no_grad()
def run(model, inputs: dict[str, torch.Tensor], **kwargs):
    return model(**inputs, **kwargs)


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


@every_variant
@every_bert
def test_padding_on_the_right_changes_nothing(case, variant):
    model, inputs = case.model(**variant), case.inputs()
    expected = run(model, inputs, output_pool_sizes=True)
    padded = run(model, pad(inputs, right=9), output_pool_sizes=True)
    actual = trimmed(padded, like=expected)
    assert_same_outputs(at_valid_tokens(case, actual), at_valid_tokens(case, expected), atol=1e-5)


@every_variant
@every_bert
def test_an_example_is_the_same_alone_and_in_a_batch(case, variant):
    model, inputs = case.model(**variant), case.inputs()
    batch = run(model, inputs)
    for example in range(len(inputs["input_ids"])):
        single = run(model, alone(inputs, example))
        of_batch = [tensor[example : example + 1] for tensor in tensors(batch)]
        assert_same_outputs(trimmed(of_batch, like=single), single, atol=1e-5)


@every_variant
@every_one_row_bert
def test_an_example_without_padding_needs_no_mask(case, variant):
    model, inputs = case.model(**variant), alone(case.inputs(), 1)
    expected = run(model, inputs)
    del inputs["attention_mask"]
    assert_same_outputs(run(model, inputs), expected, atol=1e-6)


@every_variant
@every_bert_without_pooler
def test_padding_on_the_left_changes_nothing_at_equal_positions(case, variant):
    model, inputs = case.model(**variant), case.inputs()
    expected = run(model, inputs)
    padded = pad(inputs, left=9)
    positions = (torch.arange(NUM_TOKENS + 9) - 9).clamp(min=0).expand_as(padded["input_ids"])
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


@every_variant
@every_bert
def test_ids_at_padding_change_nothing(case, variant):
    model, inputs = case.model(**variant), case.inputs()
    expected = run(model, inputs, output_pool_sizes=True)
    poisoned = {**inputs, "input_ids": torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 98)}
    actual = run(model, poisoned, output_pool_sizes=True)
    assert_same_outputs(at_valid_tokens(case, actual), at_valid_tokens(case, expected), atol=1e-6)


@every_variant
@every_one_row_bert
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


# -------------------------------------------------------------------------------------------------- packed rows

PACKED = ((5, 4, 3), (12,), (2, 6))  # the lengths of the sequences in each row; the rest is padding


def packed_inputs() -> tuple[dict[str, torch.Tensor], list[tuple[int, slice]]]:
    """A batch of rows with several sequences in each, and where these are: (row, tokens)."""
    segments = torch.zeros(len(PACKED), NUM_TOKENS, dtype=torch.long)
    position_ids = torch.zeros_like(segments)
    places = []
    for row, lengths in enumerate(PACKED):
        for number, length in enumerate(lengths, start=1):
            place = slice(sum(lengths[: number - 1]), sum(lengths[:number]))
            segments[row, place], position_ids[row, place] = number, torch.arange(length)
            places.append((row, place))
    inputs = {
        "input_ids": text_inputs(3)["input_ids"].clamp(min=1),
        "attention_mask": (segments[:, :, None] == segments[:, None, :])[:, None],
        "position_ids": position_ids,
        "pool_segments": segments,
    }
    return inputs, places


@pytest.mark.parametrize("kernel_size", [3, 5])
@every_variant
@over([BASE, MASKED_LM, CASES[CPBertForTokenClassification]])
def test_a_packed_sequence_gives_what_it_gives_alone(case, variant, kernel_size):
    model = case.model(**variant, pool_kernel_size=kernel_size)
    inputs, places = packed_inputs()
    packed = run(model, inputs, output_pool_sizes=True)
    for row, place in places:
        alone = run(model, {"input_ids": inputs["input_ids"][row : row + 1, place]}, output_pool_sizes=True)
        assert_same_outputs(packed[0][row : row + 1, place], alone[0], atol=1e-5)
        for sizes, sizes_alone in zip(packed.pool_sizes, alone.pool_sizes, strict=True):
            assert_same_outputs(sizes[row : row + 1, :, place], sizes_alone, atol=1e-5)


@every_variant
def test_a_packed_sequence_does_not_reach_another(variant):
    model, (inputs, places) = MASKED_LM.model(**variant), packed_inputs()
    logits = run(model, inputs).logits
    for row, place in places:
        changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
        changed["input_ids"][row, place] = 98 - changed["input_ids"][row, place] % 90
        others = inputs["pool_segments"] != 0
        others[row, place] = False
        assert_same_outputs(run(model, changed).logits[others], logits[others], atol=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@every_variant
def test_a_training_step_on_packed_rows_is_that_on_their_sequences(variant, checkpointing):
    model = MASKED_LM.model(**variant, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    inputs, places = packed_inputs()
    labels = token_labels(VOCABULARY_SIZE)
    labels[(inputs["pool_segments"] == 0) | (torch.arange(3 * NUM_TOKENS).view(3, -1) % 4 == 0)] = -100

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    alone = 0.0
    for row, place in places:
        own = labels[row : row + 1, place]
        alone = alone + model(inputs["input_ids"][row : row + 1, place], labels=own).loss * (own != -100).sum()
    expected = gradients(alone / (labels != -100).sum())
    if checkpointing:
        model.activation_checkpointing_enable()
    torch.testing.assert_close(gradients(model(**inputs, labels=labels).loss), expected, rtol=1e-4, atol=1e-6)


def test_positions_that_all_rows_share_are_no_packing():
    model = MASKED_LM.model()
    inputs = {"input_ids": packed_inputs()[0]["input_ids"], "position_ids": torch.arange(NUM_TOKENS)[None]}
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")(**inputs).logits
    assert_same_outputs(compiled, run(model, {"input_ids": inputs["input_ids"]}).logits, atol=1e-6)


@pytest.mark.parametrize("said", ["cu_seq_lens_q", "seq_idx", "position_ids"])
@every_variant
def test_rows_that_are_packed_for_flash_attention_are_pooled_by_sequence(variant, said, monkeypatch):
    model, sequences = BASE.model(**variant), [[2, 11, 12, 13, 3], [2, 41, 42, 43, 44, 45, 3]]
    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    batch = collator([{"input_ids": each} for each in sequences])
    segments = torch.tensor([[1] * 5 + [2] * 7])
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", said)}
    within = (segments[:, :, None] == segments[:, None, :])[:, None]  # flash attention's own, made by hand

    def attention(module, query, key, value, attention_mask, **kwargs):
        return sdpa_attention_forward(module, query, key, value, within, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "within", attention)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, "within", lambda *args, **kwargs: None)
    model.set_attn_implementation("within")
    packed = run(model, inputs)[0]
    model.set_attn_implementation("sdpa")
    alone = torch.cat([run(model, {"input_ids": torch.tensor([each])})[0] for each in sequences], dim=1)
    assert_same_outputs(packed, alone, atol=1e-5)


def test_positions_that_do_not_begin_anew_and_those_of_masked_rows_are_no_segments():
    model, ids = BASE.model(**BERT_VARIANTS["plain"]), text_inputs(1)["input_ids"]
    length = ids.shape[1]
    for positions, mask in ((range(3, length + 3), None), ([*range(4), *range(length - 4)], torch.ones_like(ids))):
        inputs = {"input_ids": ids, "position_ids": torch.tensor([list(positions)]), "attention_mask": mask}
        ones = torch.ones_like(ids)
        assert_same_outputs(run(model, inputs), run(model, inputs, pool_segments=ones), atol=1e-5)


@every_one_row_bert
def test_trainer_finds_the_columns_of_the_pooling(case, tmp_path):
    training = Trainer(case.model(), TrainingArguments(tmp_path, use_cpu=True, report_to="none"))
    training._set_signature_columns_if_needed()
    assert {"pool_mask", "pool_segments", "attention_mask", "position_ids"} <= {*training._signature_columns}
    assert "kwargs" in inspect.signature(case.model_class.forward).parameters


@every_variant
def test_segments_of_ones_are_none(variant):
    model, inputs = MASKED_LM.model(**variant), {"input_ids": text_inputs(3)["input_ids"].clamp(min=1)}
    ones = torch.ones_like(inputs["input_ids"])
    assert_same_outputs(run(model, inputs, pool_segments=ones), run(model, inputs), atol=1e-5)


@every_variant
def test_packed_rows_are_pooled_where_weights_are_fetched_for_each_module(variant, tmp_path):
    model, (inputs, _) = BASE.model(**variant), packed_inputs()
    model.save_pretrained(tmp_path / "model")
    places = {"embeddings": "cpu", "encoder": "disk", "pooler": "cpu"}
    offloaded = CPBertModel.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload")
    assert_same_outputs(run(offloaded.eval(), inputs)[0], run(model, inputs)[0], atol=1e-5)


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


@every_one_row_bert
def test_a_4d_mask_without_a_pool_mask_is_refused(case):
    inputs = case.inputs()
    inputs["attention_mask"] = full_mask(inputs["attention_mask"])
    with pytest.raises(ValueError, match="pass pool_mask of that shape"):
        case.model()(**inputs)


@every_one_row_bert
def test_a_pool_mask_overrules_the_attention_mask(case):
    model, inputs = case.model(), case.inputs()
    everything = torch.ones_like(inputs["attention_mask"])
    sizes = run(model, inputs, pool_mask=everything, output_pool_sizes=True).pool_sizes
    assert all(layer[..., 1:].all() and not layer[..., 0].any() for layer in sizes)


@every_variant
def test_which_token_is_the_class_token_is_not_for_the_pool_mask_to_say(variant):
    model, ids = BASE.model(**variant), text_inputs(2)["input_ids"].clamp(min=1)
    inner = torch.ones_like(ids)
    inner[:, 0] = inner[:, -1] = 0
    expected = run(model, {"input_ids": ids}, attention_mask=torch.ones_like(ids), pool_mask=inner)
    assert_same_outputs(run(model, {"input_ids": ids}, pool_mask=inner), expected)


def test_choices_have_masks_of_their_own():
    case = CASES[CPBertForMultipleChoice]
    model, inputs = case.model(), case.inputs()
    expected = run(model, inputs, output_pool_sizes=True)
    inputs["pool_mask"] = inputs["attention_mask"]
    assert_same_outputs(run(model, inputs, output_pool_sizes=True), expected)
    inputs["pool_segments"] = inputs.pop("pool_mask")
    assert_same_outputs(run(model, inputs, output_pool_sizes=True).logits, expected.logits, atol=1e-5)


@pytest.mark.parametrize("name", ["attention_mask", "pool_mask", "pool_segments"])
def test_a_mask_of_another_shape_is_refused_by_its_name_and_shape(name):
    ids = text_inputs(2)["input_ids"]
    with pytest.raises(ValueError, match=rf"{name} must be of shape \(2, {ids.shape[1]}\), not \(2, 3\)"):
        BASE.model()(ids, **{name: torch.ones(2, 3, dtype=torch.long)})


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
@every_bert
def test_a_mask_of_another_dtype_gives_the_same_outputs(case, dtype):
    model, inputs = case.model(), case.inputs()
    expected = run(model, inputs)
    inputs["attention_mask"] = inputs["attention_mask"].to(dtype)
    assert_same_outputs(run(model, inputs), expected)


# ---------------------------------------------------------------------------------------------- what is not offered


@pytest.mark.parametrize("flags", [{"is_decoder": True}, {"is_decoder": True, "add_cross_attention": True}], ids=str)
@every_bert
def test_a_decoder_is_refused(case, flags):
    with pytest.raises(ValueError, match="Set is_decoder and add_cross_attention to False"):
        case.model_class(case.config(**flags))


@pytest.mark.parametrize(
    "refused",
    [{"encoder_hidden_states": torch.zeros(3, 4, 32)}, {"past_key_values": DynamicCache()}],
    ids=lambda refused: next(iter(refused)),
)
@every_bert
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
    for layer in model.base_model.encoder.layer:
        layer.attention.self.value.weight.zero_()


@every_bert
def test_pooling_the_attention_leaves_the_residual_stream_alone(case):
    model, inputs = case.model(pool_range=0.5), case.inputs()
    silence_attention(model)
    expected = run(model, inputs)
    change_pools(model)
    assert_same_outputs(run(model, inputs), expected)


@every_bert
def test_pooling_the_block_pools_the_residual_stream(case):
    model, inputs = case.model(pool_range=0.5, pool_placement="block", pool_class_token=True), case.inputs()
    silence_attention(model)
    expected = run(model, inputs)
    change_pools(model)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(tensors(run(model, inputs)), tensors(expected)))


@every_variant
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


@every_bert
def test_embeddings_give_what_their_ids_give(case):
    model, inputs = case.model(), case.inputs()
    expected = run(model, inputs)
    embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert_same_outputs(run(model, inputs, inputs_embeds=embeddings), expected)


@every_bert
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


@every_bert
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


@every_bert
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


# ------------------------------------------------------------------------------------------ tokenizer and pipelines

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat dog sat ran on mat who ? ##s".split()


@pytest.fixture
def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def saved(case: ModelCase, tokenizer, folder: Path) -> str:
    case.model(vocab_size=len(WORDS)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_auto_tokenizer_finds_the_tokenizer_by_the_model_type(tmp_path):
    CPBertConfig().save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer) is BertTokenizer
    assert tokenizer.tokenize("The cats sat") == ["the", "cat", "##s", "sat"]


@pytest.mark.parametrize(
    ("task", "model_class", "text"),
    [
        ("text-classification", CPBertForSequenceClassification, "the cats sat"),
        ("token-classification", CPBertForTokenClassification, "the cats sat"),
        ("fill-mask", CPBertForMaskedLM, "the [MASK] sat"),
        ("feature-extraction", CPBertModel, "the cats sat"),
    ],
)
def test_pipelines_load_a_folder_and_say_nothing(task, model_class, text, tokenizer, tmp_path):
    folder = saved(CASES[model_class], tokenizer, tmp_path)
    with messages_of_transformers() as messages:
        process = pipeline(task, model=folder)
        assert type(process.model) is model_class and process(text)
    assert not messages


def test_a_pipeline_gives_the_models_probabilities(tokenizer, tmp_path):
    classify = pipeline("text-classification", model=saved(CLASSIFIER, tokenizer, tmp_path), top_k=None)
    logits = run(classify.model, tokenizer("the cat sat", return_tensors="pt")).logits
    scores = {entry["label"]: entry["score"] for entry in classify(["the cat sat"])[0]}
    expected = logits.softmax(-1)[0]
    assert scores == pytest.approx({f"LABEL_{index}": score for index, score in enumerate(expected.tolist())})


def test_a_pipeline_gives_the_same_in_batches(tokenizer, tmp_path):
    classify = pipeline("text-classification", model=saved(CLASSIFIER, tokenizer, tmp_path), top_k=None)
    texts = ["the cat sat on the mat", "who ran ?", "dogs"]
    for batched, single in zip(classify(texts, batch_size=3), [classify([text])[0] for text in texts]):
        assert [entry["label"] for entry in batched] == [entry["label"] for entry in single]
        assert [entry["score"] for entry in batched] == pytest.approx([entry["score"] for entry in single], abs=1e-5)


# ------------------------------------------------------------------------------------------------------------ LoRA


# peft 0.21 asks for a property that transformers 5.23 has renamed.
third_party_warning = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def lora_model(base=None):
    options = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=4, lora_alpha=8, lora_dropout=0.0)
    return get_peft_model(base or CLASSIFIER.model(pool_range=0.5), options).eval()


def lora_steps(model) -> list[float]:
    inputs, labels = CLASSIFIER.inputs(), CLASSIFIER.labels()
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.02)
    losses = []
    for _ in range(8):
        loss = model(**inputs, **labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@third_party_warning
def test_lora_on_every_linear_layer_starts_where_the_model_stood():
    base = CLASSIFIER.model(pool_range=0.5, pool_num_heads=2, pool_max_offset=2.0)
    expected = run(base, CLASSIFIER.inputs())
    options = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=4)
    model = get_peft_model(copy.deepcopy(base), options).eval()
    assert any(".context_pool.proj.lora_" in name for name, _ in model.named_parameters())
    assert_same_outputs(run(model, CLASSIFIER.inputs()), expected, atol=1e-6)


@third_party_warning
def test_lora_trains():
    losses = lora_steps(lora_model())
    assert losses[-1] < 0.5 * losses[0]


@third_party_warning
def test_lora_trains_its_own_parameters_and_the_head_alone():
    model = lora_model()
    lora_steps(model)
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning and all(".lora_" in name or ".classifier.modules_to_save." in name for name in learning)
    assert any(".query.lora_" in name for name in learning) and any(".value.lora_" in name for name in learning)


@third_party_warning
def test_a_lora_adapter_is_reloaded_as_it_was_saved(tmp_path):
    base = CLASSIFIER.model(pool_range=0.5)
    model = lora_model(copy.deepcopy(base))
    lora_steps(model)
    model.save_pretrained(tmp_path)
    reloaded = aligned(PeftModel.from_pretrained(base, tmp_path).eval())
    assert_same_outputs(run(reloaded, CLASSIFIER.inputs()), run(model, CLASSIFIER.inputs()))


@third_party_warning
def test_a_merged_lora_model_has_the_same_outputs():
    model = lora_model()
    lora_steps(model)
    expected = run(model, CLASSIFIER.inputs())
    merged = model.merge_and_unload()
    assert type(merged) is CPBertForSequenceClassification
    assert_same_outputs(run(merged, CLASSIFIER.inputs()), expected, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- Trainer


def toy_data() -> list[dict]:
    """Sequences of all lengths, with labels that can be learnt by heart."""
    inputs = text_inputs(12)
    return [
        {"input_ids": ids[:length].tolist(), "attention_mask": [1] * length, "label": example % 3}
        for example, (ids, length) in enumerate(zip(inputs["input_ids"], LENGTHS * 4))
    ]


def trainer(folder: Path, tokenizer, compute_metrics=None, config=(), **arguments) -> Trainer:
    """A classifier from a fixed seed, with the default callbacks."""
    torch.manual_seed(0)
    return Trainer(
        CLASSIFIER.model(pool_range=0.5, **dict(config)),
        TrainingArguments(
            folder,
            **{
                "use_cpu": True,
                "seed": 0,
                "max_steps": 12,
                "learning_rate": 1e-2,
                "per_device_train_batch_size": 6,
                "save_strategy": "no",
                "logging_steps": 1,
                "disable_tqdm": True,
                **arguments,
            },
        ),
        train_dataset=toy_data(),
        eval_dataset=toy_data(),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
    )


def test_trainer_learns(tmp_path, tokenizer):
    training = trainer(tmp_path, tokenizer, max_steps=40)
    training.train()
    losses = [entry["loss"] for entry in training.state.log_history if "loss" in entry]
    assert len(losses) == 40 and losses[-1] < 0.3 * losses[0]


def test_trainer_resumes_to_the_same_weights(tmp_path, tokenizer):
    training = trainer(tmp_path, tokenizer, save_strategy="steps", save_steps=6)
    training.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-6"]
    resumed = trainer(tmp_path / "resumed", tokenizer)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert resumed.state.global_step == 12
    torch.testing.assert_close(resumed.model.state_dict(), training.model.state_dict(), rtol=0.0, atol=0.0)


def test_a_checkpoint_of_trainer_is_a_model(tmp_path, tokenizer):
    training = trainer(tmp_path, tokenizer, max_steps=2, save_strategy="steps", save_steps=2)
    training.train()
    model = CLASSIFIER.auto_class.from_pretrained(tmp_path / "checkpoint-2")
    assert_same_outputs(run(model, CLASSIFIER.inputs()), run(training.model.eval(), CLASSIFIER.inputs()))


def test_trainer_evaluates_the_same_with_pool_sizes_in_the_config(tmp_path, tokenizer):
    predictions = []

    def compute_metrics(prediction):
        predictions.append(prediction.predictions)
        return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}

    metrics = [
        trainer(tmp_path, tokenizer, compute_metrics, config={"output_pool_sizes": output_pool_sizes}).evaluate()
        for output_pool_sizes in (False, True)
    ]
    assert predictions[0].shape == predictions[1].shape == (12, 3)
    assert (predictions[0] == predictions[1]).all()
    for name in ("eval_loss", "eval_accuracy"):
        assert metrics[0][name] == metrics[1][name]


def test_trainer_learns_the_same_with_gradient_checkpointing(tmp_path, tokenizer):
    plain = trainer(tmp_path, tokenizer, max_steps=2)
    plain.train()
    checkpointed = trainer(tmp_path, tokenizer, max_steps=2, activation_checkpointing=True)
    checkpointed.train()
    torch.testing.assert_close(checkpointed.model.state_dict(), plain.model.state_dict(), rtol=0.0, atol=1e-6)
