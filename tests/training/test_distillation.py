# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Distillation: its losses, the layers that it pairs, and the Trainer that uses them."""

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
)

from cp_transformers import CPBertConfig, CPBertForSequenceClassification
from cp_transformers.training.distillation import (
    DistillationArguments,
    DistillationTrainer,
    class_token,
    cosine_distance,
    hidden_state_loss,
    make_layer_map,
    mean_token,
    soft_label_loss,
)
from cp_transformers.training.metrics import rank_correlation
from cp_transformers.training.recovery import RecoveryArguments, RecoveryTrainer, mean_scores


TINY = {"vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
TINY |= {"max_position_embeddings": 12, "initializer_range": 0.3}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


# Soft labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_soft_label_loss_is_the_divergence_from_the_teacher(temperature):
    student, teacher = 3 * torch.randn(2, 5, 4).double()
    total = 0.0
    for ours, theirs in zip((student / temperature).tolist(), (teacher / temperature).tolist()):
        p = [math.exp(value) / sum(map(math.exp, theirs)) for value in theirs]
        q = [math.exp(value) / sum(map(math.exp, ours)) for value in ours]
        total += sum(a * math.log(a / b) for a, b in zip(p, q))
    expected = temperature**2 * total / len(student)
    assert float(soft_label_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("labels", [1, 3])
def test_equal_outputs_have_no_loss_and_no_gradient(labels):
    student = torch.randn(4, labels).requires_grad_()
    loss = soft_label_loss(student, student.detach().clone(), 2.0)
    loss.backward()
    assert abs(float(loss.detach())) < 1e-6 and float(student.grad.abs().max()) < 1e-6


def test_a_number_added_to_all_outputs_changes_nothing():
    student, teacher = torch.randn(2, 4, 3)
    loss = soft_label_loss(student, teacher, 2.0)
    torch.testing.assert_close(soft_label_loss(student + torch.randn(4, 1), teacher - 5.0, 2.0), loss)


def test_the_loss_falls_on_the_student_s_side():
    """The divergence of the teacher from the student would be another number: it is not symmetric."""
    student, teacher = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[4.0, 0.0, -4.0]])
    entropy = torch.distributions.Categorical(logits=teacher).entropy()
    expected = math.log(3) - float(entropy)
    assert float(soft_label_loss(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-5)


def test_a_high_temperature_gives_the_squared_error_of_the_centred_outputs():
    student, teacher = torch.randn(2, 6, 5)
    difference = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    expected = (difference**2).sum(-1).mean() / (2 * 5)
    torch.testing.assert_close(soft_label_loss(student, teacher, 100.0), expected, rtol=0.05, atol=1e-3)


def test_the_gradient_keeps_its_size_at_any_temperature():
    sizes = []
    for temperature in (1.0, 10.0, 50.0):
        student, teacher = 0.1 * torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
        student.requires_grad_()
        soft_label_loss(student, teacher, temperature).backward()
        sizes.append(float(student.grad.norm()))
    assert sizes == pytest.approx([sizes[0]] * 3, rel=0.1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_numbers_on_a_scale_are_learned_by_their_squared_error(temperature):
    student, teacher = torch.randn(2, 7, 1)
    expected = sum((a - b) ** 2 for a, b in zip(student[:, 0].tolist(), teacher[:, 0].tolist())) / 7
    assert float(soft_label_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-5)


def test_losses_of_half_precision_are_computed_in_single():
    student, teacher = torch.randn(2, 4, 3).to(torch.bfloat16)
    states = [torch.randn(2, 3, 4).to(torch.bfloat16) for _ in range(2)]
    assert soft_label_loss(student, teacher, 2.0).dtype == torch.float32
    assert hidden_state_loss(states[:1], states[1:], [(0, 0)]).dtype == torch.float32


# Hidden states


def states(count: int, *shape: int) -> list[torch.Tensor]:
    return [torch.randn(shape) for _ in range(count)]


def test_the_hidden_state_loss_is_the_mean_squared_error_over_layers_tokens_and_channels():
    student, teacher = states(3, 2, 5, 4), states(5, 2, 5, 4)
    pairs = [(0, 0), (1, 3), (2, 4)]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    layers = []
    for ours, theirs in pairs:
        errors = []
        for row in range(2):
            for token in range(5):
                if mask[row, token]:
                    difference = student[ours][row, token] - teacher[theirs][row, token]
                    errors += [float(value) ** 2 for value in difference]
        layers.append(sum(errors) / len(errors))
    assert float(hidden_state_loss(student, teacher, pairs, mask)) == pytest.approx(sum(layers) / 3, rel=1e-5)
    assert float(hidden_state_loss(student, teacher, pairs, mask.bool())) == pytest.approx(sum(layers) / 3, rel=1e-5)


def test_without_a_mask_every_token_counts():
    student, teacher = states(2, 2, 5, 4), states(2, 2, 5, 4)
    pairs = [(0, 0), (1, 1)]
    whole = hidden_state_loss(student, teacher, pairs, torch.ones(2, 5))
    torch.testing.assert_close(hidden_state_loss(student, teacher, pairs), whole)
    assert not torch.allclose(
        hidden_state_loss(student, teacher, pairs, torch.tensor([[1] * 5, [1] + [0] * 4])), whole
    )


@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
@pytest.mark.parametrize("padding", [float("nan"), float("inf"), 1e30])
def test_padding_has_no_influence(padding, whose):
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    student, teacher = states(2, 2, 4, 3), states(2, 2, 4, 3)

    def value_and_gradients(filled: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        def fill(each: torch.Tensor, which: str) -> torch.Tensor:
            return each.masked_fill(mask[..., None] == 0, filled if whose in (which, "both") else 0.0)

        ours = [fill(each, "student").requires_grad_() for each in student]
        loss = hidden_state_loss(ours, [fill(each, "teacher") for each in teacher], [(0, 1), (1, 0)], mask)
        loss.backward()
        return loss.detach(), [each.grad for each in ours]

    found, expected = value_and_gradients(padding), value_and_gradients(0.0)
    assert torch.equal(found[0], expected[0])
    for one, other in zip(found[1], expected[1]):
        assert torch.equal(one, other) and float(one[mask == 0].abs().max()) == 0.0


def test_feature_maps_are_compared_by_their_mean_squared_error():
    student, teacher = states(2, 2, 3, 4, 5), states(2, 2, 3, 4, 5)
    expected = (((student[0] - teacher[0]) ** 2).sum() + ((student[1] - teacher[1]) ** 2).sum()) / (2 * 120)
    torch.testing.assert_close(hidden_state_loss(student, teacher, [(0, 0), (1, 1)]), expected)


# Embeddings and class tokens


def test_an_embedding_is_the_mean_of_valid_tokens_of_patches_or_of_a_map():
    tokens = torch.randn(2, 5, 3)
    assert_close = torch.testing.assert_close
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert_close(mean_token(tokens, mask), torch.stack([tokens[0].mean(0), tokens[1, :2].mean(0)]))
    assert_close(mean_token(tokens), tokens.mean(1))
    assert_close(mean_token(tokens, patches=3), tokens[:, 2:].mean(1))  # behind a class token and a register
    assert_close(mean_token(tokens[..., None]), tokens[..., None].mean((2, 3)))
    assert_close(class_token(tokens), tokens[:, 0])


@pytest.mark.parametrize("embed", [mean_token, class_token])
@pytest.mark.parametrize("padding", [0.0, float("nan"), 1e30])
@pytest.mark.parametrize("left", [0, 2])
def test_padding_on_either_side_changes_no_embedding_and_gets_no_gradient(embed, left, padding):
    tokens = torch.randn(1, 3, 4)
    padded = torch.full((1, 7, 4), padding)
    padded[:, left : left + 3] = tokens
    mask = torch.zeros(1, 7, dtype=torch.long)
    mask[:, left : left + 3] = 1
    padded.requires_grad_()
    found = embed(padded, mask)
    torch.testing.assert_close(found, embed(tokens, torch.ones(1, 3)))
    cosine_distance(found, torch.randn(1, 4)).sum().backward()
    assert float(padded.grad[mask == 0].abs().max()) == 0 and float(padded.grad.abs().max()) > 0


def test_the_distance_of_vectors_depends_on_their_angle_alone():
    student, teacher = torch.tensor([[2.0, 0.0]] * 4), torch.tensor([[5.0, 0.0], [0.0, 0.1], [-3.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(cosine_distance(student, teacher), torch.tensor([0.0, 1.0, 2.0, 1 - 0.5**0.5]))


def test_the_rank_correlation_is_that_of_the_cosines_of_all_pairs():
    student, teacher = np.random.default_rng(0).normal(size=(2, 7, 5))
    pairs = [(first, second) for first in range(7) for second in range(first)]
    cosines = [
        [each[a] @ each[b] / np.linalg.norm(each[a]) / np.linalg.norm(each[b]) for a, b in pairs]
        for each in (student, teacher)
    ]
    assert rank_correlation(student, teacher) == pytest.approx(spearmanr(*cosines).statistic)
    assert rank_correlation(3 * teacher, teacher) == pytest.approx(1)
    angles = np.array([0.0, 0.1, 0.5, 1.4])
    narrow, wide = (np.stack([np.cos(each), np.sin(each)], axis=1) for each in (angles, 2 * angles))
    assert rank_correlation(narrow, wide) == pytest.approx(1)  # the angles of all pairs have the same order


# Layers


def bert(layers: int, **more) -> BertConfig:
    return BertConfig(**{**TINY, "num_hidden_layers": layers, **more})


@pytest.mark.parametrize("teacher", range(1, 13))
@pytest.mark.parametrize("student", range(1, 13))
def test_by_default_all_hidden_states_are_spread_evenly(student, teacher):
    pairs = make_layer_map(bert(student), bert(teacher))
    ours, theirs = map(list, zip(*pairs))
    assert ours == list(range(student + 1)) and theirs == sorted(theirs)
    assert theirs[0] == 0 and theirs[-1] == teacher
    assert all(abs(index / student - other / teacher) <= 0.5 / teacher + 1e-9 for index, other in pairs)
    if student == teacher:
        assert theirs == ours
    if teacher % student == 0:
        assert theirs == list(range(0, teacher + 1, teacher // student))


def test_the_pairs_that_are_given_are_taken():
    assert make_layer_map(bert(2), bert(4), ["2:4", "0:1"]) == [(2, 4), (0, 1)]


@pytest.mark.parametrize(
    ("restored", "named", "default"),
    [(None, [0, 1, 4], [(0, 0), (1, 2), (4, 8)]), (2, [0, 1, 3, 4], [(0, 0), (1, 2), (3, 6), (4, 8)])],
)
def test_states_of_groups_of_tokens_are_not_compared(restored, named, default):
    student = bert(4, pool_strides=[1, 2, 1, 1], pool_restore_layer=restored)
    assert make_layer_map(student, bert(8)) == default
    assert make_layer_map(student, bert(8), ["4:8"]) == [(4, 8)]
    listed = ", ".join(map(str, named))
    for pair, models, who in (("2:3", (student, bert(8)), "student"), ("3:2", (bert(8), student), "teacher")):
        with pytest.raises(ValueError, match=f"{pair}, but the {who}'s hidden state 2 is of groups .* are {listed}"):
            make_layer_map(*models, [pair])
    assert {theirs for _, theirs in make_layer_map(bert(8), student)} == {*named}
    assert make_layer_map(bert(4, pool_strides=None), bert(8)) == make_layer_map(bert(4), bert(8))


def test_configurations_of_every_family_are_understood():
    sizes = {"hidden_size": 16, "num_attention_heads": 2}
    vit = [ViTConfig(num_hidden_layers=layers, **sizes) for layers in (2, 4)]
    assert make_layer_map(*vit) == [(0, 0), (1, 2), (2, 4)]
    assert make_layer_map(CPBertConfig(**{**TINY, "num_hidden_layers": 2}), bert(4)) == [(0, 0), (1, 2), (2, 4)]
    maps = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
    assert make_layer_map(maps, maps) == [(0, 0), (1, 1), (2, 2)]


def test_only_the_widths_of_paired_feature_maps_must_agree():
    student = ResNetConfig(embedding_size=4, hidden_sizes=[6, 8], depths=[1, 1])
    teacher = ResNetConfig(embedding_size=4, hidden_sizes=[8, 16, 8], depths=[1, 1, 1])
    assert make_layer_map(student, teacher, ["0:0", "2:1", "2:3"]) == [(0, 0), (2, 1), (2, 3)]
    with pytest.raises(ValueError, match=r"student's hidden state 1 has 6 channels and the teacher's 2 has 16"):
        make_layer_map(student, teacher, ["0:0", "1:2"])
    with pytest.raises(ValueError, match="distillation_hidden_weight to 0"):
        make_layer_map(student, teacher)


def test_another_width_is_refused():
    with pytest.raises(ValueError, match="student's hidden state 0 has 16 channels and the teacher's 0 has 32"):
        make_layer_map(bert(2), bert(2, hidden_size=32))


@pytest.mark.parametrize("entry", ["1", "1:", ":1", "1:2:3", "a:1", "-1:1", "1.0:1", "", "1 : 2", "1-2"])
def test_what_is_no_pair_is_refused(entry):
    with pytest.raises(ValueError, match=r"layer_map takes pairs of numbers such as 1:2, not "):
        make_layer_map(bert(2), bert(2), ["0:0", entry])


@pytest.mark.parametrize(("entry", "who", "depth"), [("3:0", "student", 2), ("0:5", "teacher", 4)])
def test_a_layer_that_is_not_there_is_refused(entry, who, depth):
    with pytest.raises(ValueError, match=f"layer_map has {entry}, but the {who} has hidden states 0 to {depth}"):
        make_layer_map(bert(2), bert(4), [entry])
    assert make_layer_map(bert(2), bert(4), ["2:4"]) == [(2, 4)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("distillation_logits_weight", -0.1),
        ("distillation_logits_weight", 1.1),
        ("distillation_logits_weight", math.nan),
        ("distillation_temperature", 0.0),
        ("distillation_temperature", -1.0),
        ("distillation_temperature", math.nan),
        ("distillation_hidden_weight", -1.0),
        ("distillation_hidden_weight", math.nan),
        ("distillation_embedding_weight", -1.0),
        ("distillation_class_token_weight", math.nan),
    ],
)
def test_weights_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        RecoveryArguments(**{name: value})
    if name in {each.name for each in dataclasses.fields(DistillationArguments)}:
        with pytest.raises(ValueError, match=name):
            DistillationArguments(**{name: value})


# The Trainer


class Examples(Dataset):
    """Texts of the same length, or of lengths that differ, with labels."""

    def __init__(self, count: int, padded: bool = False, labels: int = 2):
        generator = torch.Generator().manual_seed(1)
        self.rows = []
        for index in range(count):
            length = 4 + index % 4 if padded else 8
            ids = torch.randint(1, 30, (8,), generator=generator)
            mask = (torch.arange(8) < length).long()
            label = torch.tensor(index % labels) if labels > 1 else torch.rand((), generator=generator)
            self.rows.append({"input_ids": ids * mask, "attention_mask": mask, "labels": label})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def classifier(layers: int = 2, seed: int = 0, model_class: type = BertForSequenceClassification, **more):
    torch.manual_seed(seed)
    return model_class(model_class.config_class(**{**TINY, "num_hidden_layers": layers, **STILL, **more}))


def teacher_of(seed: int = 7, **more) -> BertForSequenceClassification:
    return classifier(4, seed, **more)


def make_trainer(folder, student, data, trainer_class: type = DistillationTrainer, extra=None, **more):
    training = {"max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "max_grad_norm": 0.0}
    training |= {"optim": "sgd", "lr_scheduler_type": "constant", "use_cpu": True, "report_to": "none"}
    training |= {"save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 3, **more}
    args = TrainingArguments(str(folder), **training)
    return trainer_class(student, args, train_dataset=data, eval_dataset=data, **(extra or {}))


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def largest_change(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    return max(float((before[name] - after[name]).abs().max()) for name in before)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("model_class", [BertForSequenceClassification, CPBertForSequenceClassification])
def test_without_a_teacher_it_is_a_plain_trainer(model_class, accumulation, tmp_path):
    data = Examples(16, padded=True)
    trained, losses = [], []
    for trainer_class in (Trainer, DistillationTrainer):
        student = classifier(2, 0, model_class, hidden_dropout_prob=0.1)
        options = {"gradient_accumulation_steps": accumulation, "optim": "adamw_torch"}
        trainer = make_trainer(tmp_path, student, data, trainer_class, **options)
        if trainer_class is Trainer:
            trainer.model_accepts_loss_kwargs = False
        losses.append((trainer.train().training_loss, trainer.evaluate()["eval_loss"]))
        trained.append(state(student))
    assert losses[0] == losses[1]
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_the_loss_is_the_weighted_sum_of_its_parts(tmp_path):
    data, student, teacher = Examples(6, padded=True, labels=3), classifier(num_labels=3), teacher_of(num_labels=3)
    options = DistillationArguments(
        distillation_logits_weight=0.3, distillation_temperature=3.0, distillation_hidden_weight=0.7
    )
    trainer = make_trainer(tmp_path, student, data, extra={"teacher": teacher, "distillation": options})
    batch = {name: torch.stack([row[name] for row in data.rows]) for name in data.rows[0]}
    given = {name: tensor.clone() for name, tensor in batch.items()}
    found, outputs = trainer.compute_loss(student.train(), batch, return_outputs=True)
    assert batch.keys() == given.keys() and all(torch.equal(batch[name], given[name]) for name in given)
    ours = student(**given, output_hidden_states=True)
    theirs = teacher(given["input_ids"], given["attention_mask"], output_hidden_states=True)
    hard = torch.nn.functional.cross_entropy(ours.logits, given["labels"])
    soft = soft_label_loss(ours.logits, theirs.logits, 3.0)
    pairs = [(0, 0), (1, 2), (2, 4)]
    hidden = hidden_state_loss(ours.hidden_states, theirs.hidden_states, pairs, given["attention_mask"])
    torch.testing.assert_close(found, 0.7 * hard + 0.3 * soft + 0.7 * hidden)
    torch.testing.assert_close(outputs["logits"], ours.logits)
    assert trainer.compute_loss(student, given) == found


def test_the_teacher_is_left_as_it_is(tmp_path):
    teacher = teacher_of(hidden_dropout_prob=0.5).train()
    before = state(teacher)
    student = classifier()
    start = state(student)
    make_trainer(tmp_path, student, Examples(8), extra={"teacher": teacher}).train()
    after = teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in teacher.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert largest_change(start, state(student)) > 0


def test_the_teacher_s_dropout_is_off(tmp_path):
    trained = []
    for dropout in (0.0, 0.5):
        student = classifier()
        teacher = teacher_of(hidden_dropout_prob=dropout).train()
        make_trainer(tmp_path, student, Examples(8), extra={"teacher": teacher}).train()
        trained.append(state(student))
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_what_is_saved_is_the_student_alone(tmp_path):
    student = classifier()
    trainer = make_trainer(tmp_path / "out", student, Examples(8), extra={"teacher": teacher_of()})
    trainer.train()
    trainer.save_model()
    saved = BertForSequenceClassification.from_pretrained(tmp_path / "out").state_dict()
    assert saved.keys() == state(student).keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in state(student).items())


def test_evaluation_measures_the_plain_loss(tmp_path):
    data, student = Examples(8, padded=True), classifier()
    trainer = make_trainer(tmp_path, student, data, extra={"teacher": teacher_of()}, per_device_eval_batch_size=8)
    measured = trainer.evaluate()["eval_loss"]
    batch = {name: torch.stack([row[name] for row in data.rows]) for name in data.rows[0]}
    with torch.no_grad():
        expected = float(student.eval()(**batch).loss)
    assert measured == pytest.approx(expected, rel=1e-5)
    student.train()
    assert float(trainer.compute_loss(student, batch).detach()) > expected + 0.01


@pytest.mark.parametrize("labels", [1, 3])
def test_accumulated_batches_are_one_of_their_size(labels, tmp_path):
    data, trained = Examples(16, labels=labels), []
    start = state(classifier(num_labels=labels))
    for size, accumulation in ((8, 1), (4, 2)):
        student = classifier(num_labels=labels)
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        make_trainer(tmp_path, student, data, extra={"teacher": teacher_of(num_labels=labels)}, **options).train()
        trained.append(state(student))
    assert largest_change(trained[0], trained[1]) < 1e-5
    assert largest_change(start, trained[0]) > 1e-3


def test_the_teacher_s_labels_may_be_in_another_order(tmp_path):
    order = [2, 0, 1]  # of the student's labels among the teacher's outputs
    data, trained = Examples(12, labels=3), []
    for permuted in (False, True, None):
        student, teacher = classifier(num_labels=3), teacher_of(num_labels=3)
        if permuted is not False:
            head = teacher.classifier
            with torch.no_grad():
                for tensor in (head.weight, head.bias):
                    tensor[order] = tensor.clone()  # output order[i] is now the old output i
        extra = {"teacher": teacher, "teacher_labels": order if permuted else None}
        make_trainer(tmp_path, student, data, extra=extra).train()
        trained.append(state(student))
    assert largest_change(trained[0], trained[1]) < 1e-6
    assert largest_change(trained[0], trained[2]) > 1e-4  # or the order could not be seen


def test_without_a_logits_weight_the_student_copies_a_headless_teacher(tmp_path):
    torch.manual_seed(5)
    teacher = BertModel(BertConfig(**{**TINY, "num_hidden_layers": 2, **STILL}))
    data, student = Examples(8, padded=True), classifier(2, 0)
    batch = {name: torch.stack([row[name] for row in data.rows]) for name in ("input_ids", "attention_mask")}
    pairs = [(0, 0), (1, 1), (2, 2)]

    def difference() -> float:
        with torch.no_grad():
            ours, theirs = (each.eval()(**batch, output_hidden_states=True) for each in (student, teacher))
        return float(hidden_state_loss(ours.hidden_states, theirs.hidden_states, pairs, batch["attention_mask"]))

    before = difference()
    options = DistillationArguments(distillation_logits_weight=0.0, distillation_hidden_weight=10.0)
    extra = {"teacher": teacher, "distillation": options}
    steps = {"max_steps": 80, "optim": "adamw_torch", "per_device_train_batch_size": 8}
    make_trainer(tmp_path, student, data, extra=extra, **steps).train()
    assert difference() < 0.2 * before


def test_without_a_hidden_weight_the_teacher_may_have_another_width(tmp_path):
    options = DistillationArguments(distillation_logits_weight=1.0, distillation_hidden_weight=0.0)
    teacher = teacher_of(hidden_size=32)
    data, student = Examples(8), classifier()
    trainer = make_trainer(tmp_path, student, data, extra={"teacher": teacher, "distillation": options})
    batch = {name: torch.stack([row[name] for row in data.rows]) for name in data.rows[0]}
    # The labels have no weight then.
    flipped = {**batch, "labels": 1 - batch["labels"]}
    assert torch.equal(trainer.compute_loss(student.train(), batch), trainer.compute_loss(student, flipped))
    with pytest.raises(ValueError, match="channels"):
        make_trainer(tmp_path, classifier(), data, extra={"teacher": teacher})


def test_the_layers_that_are_given_are_the_ones_that_learn(tmp_path):
    """A student that learns from its embeddings alone: nothing above them moves."""
    teacher, student = teacher_of(), classifier()
    options = DistillationArguments(distillation_logits_weight=0.0, distillation_hidden_weight=1.0, layer_map=["0:0"])
    trainer = make_trainer(tmp_path, student, Examples(8), extra={"teacher": teacher, "distillation": options})
    batch = {name: torch.stack([row[name] for row in Examples(8).rows]) for name in Examples(8).rows[0]}
    hidden = trainer.compute_loss(student.train(), batch) - student(**batch).loss
    hidden.backward()
    above = [each.grad for name, each in student.named_parameters() if "embeddings" not in name]
    assert all(each is None or float(each.abs().max()) < 1e-6 for each in above)
    assert float(student.bert.embeddings.word_embeddings.weight.grad.abs().max()) > 1e-4


class FewerTokens(BertModel):
    """A model with states of groups of tokens behind its first layer, and with all tokens at its end."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        states = list(outputs.hidden_states)
        states[2:-1] = [each[:, ::2] for each in states[2:-1]]
        outputs.hidden_states = tuple(states)
        return outputs


@pytest.mark.parametrize("headed", [False, True], ids=["bare teacher", "teacher with a head"])
def test_a_student_that_keeps_fewer_tokens_learns_all_that_has_every_token(headed, tmp_path):
    student = classifier(3, 0, FewerTokens, pool_strides=[1, 2, 1], pool_restore_layer=None)
    teacher = classifier(6, 7, BertForSequenceClassification if headed else BertModel)
    weights = {"hidden": 0.5, "embedding": 2.0, "class_token": 3.0}
    options = RecoveryArguments(
        distillation_logits_weight=0.0, **{f"distillation_{name}_weight": value for name, value in weights.items()}
    )
    extra = {"teacher": teacher, "distillation": options}
    data = Examples(6, padded=True)
    batch = {name: torch.stack([row[name] for row in data.rows]) for name in ("input_ids", "attention_mask")}
    trainer = make_trainer(tmp_path, student, data, RecoveryTrainer, extra, remove_unused_columns=False)
    found = trainer.compute_loss(student.train(), batch)
    mask = batch["attention_mask"]
    states = [each(**batch, output_hidden_states=True).hidden_states for each in (student, teacher)]
    last = [each[-1] for each in states]
    expected = 0.5 * hidden_state_loss(*states, [(0, 0), (1, 2), (3, 6)], mask)
    expected += 2 * cosine_distance(*(mean_token(each, mask) for each in last)).mean()
    expected += 3 * cosine_distance(*(each[:, 0] for each in last)).mean()
    torch.testing.assert_close(found, expected)
    trainer.compute_metrics = partial(mean_scores, distillation=options)
    scores = trainer.evaluate([{name: row[name] for name in batch} for row in data.rows])
    assert scores["eval_loss"] == pytest.approx(sum(weights[name] * scores[f"eval_{name}"] for name in weights))
    assert scores["eval_loss"] == pytest.approx(float(found.detach()), rel=1e-4)


def test_feature_maps_are_learned_too(tmp_path):
    class Images(Dataset):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            generator = torch.Generator().manual_seed(index)
            return {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": torch.tensor(index % 2)}

    def resnet(seed: int, depths: list[int]) -> ResNetForImageClassification:
        torch.manual_seed(seed)
        return ResNetForImageClassification(ResNetConfig(embedding_size=4, hidden_sizes=[8, 12], depths=depths))

    student, teacher = resnet(0, [1, 1]), resnet(1, [2, 2])
    before = state(teacher)
    trainer = make_trainer(tmp_path, student, Images(), extra={"teacher": teacher})
    assert math.isfinite(trainer.train().training_loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())  # statistics, too
