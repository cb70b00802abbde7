# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The tasks that the models of experiments are trained for and judged by, and the arms of every experiment."""

import csv
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from experiment_cases import CONFIGS, ROOT, experiment_of
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoTokenizer

from cp_transformers.demo.dinov2_small import DINOV2_SMALL
from cp_transformers.demo.image import last_hidden_states
from cp_transformers.demo.text import embed
from cp_transformers.training.mlm import Collator, Masking
from cp_transformers.training.packages import minilm_folder
from cp_transformers.training.rows import Drawn
from experiments import (
    embeddings as experiment_embeddings,
    grids as experiments,
    kept_tokens,
    photographs as experiment_photographs,
    tasks as experiment_tasks,
)
from experiments.embeddings import Embeddings
from experiments.grids import Cell, Experiment
from experiments.photographs import Photographs
from experiments.tasks import (
    BATCH,
    TASKS,
    MaskedTokens,
    MeanClassifier,
    in_batches,
    masked_token_loss,
)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def narrow_minilm(tmp_path_factory) -> Path:
    """A model of MiniLM's vocabulary and depth, which trains in a tenth of the time."""
    folder = tmp_path_factory.mktemp("minilm")
    config = AutoConfig.from_pretrained(minilm_folder(), hidden_size=48, intermediate_size=96, initializer_range=0.2)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return folder


@pytest.fixture
def with_narrow_minilm(narrow_minilm, monkeypatch):
    for module in (experiment_tasks, experiment_embeddings):
        monkeypatch.setattr(module, "minilm_folder", lambda: narrow_minilm)
    Embeddings.data.cache_clear()
    Embeddings.reference.cache_clear()
    yield
    Embeddings.data.cache_clear()
    Embeddings.reference.cache_clear()


@pytest.fixture
def with_narrow_dinov2(monkeypatch):
    """A model of DINOv2-small's depth and patches, and noise in the place of photographs."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 240, 240, 3), dtype=np.uint8)
    images = [PIL.Image.fromarray(each) for each in noise]
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "image_size": 140, "initializer_range": 0.2}
    monkeypatch.setattr(experiment_photographs, "DINOV2_SMALL", {**DINOV2_SMALL, **sizes})
    monkeypatch.setattr(experiment_photographs, "load_photographs", lambda: {"train": images[:7], "test": images[7:]})
    monkeypatch.setattr(experiment_photographs, "CROPS", {"train": 64, "validation": 8, "test": 8})
    monkeypatch.setattr(Photographs, "load_weights", lambda self: None)
    cached = Photographs.full, Photographs.crops, Photographs.known_targets
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_arm_of_an_experiment_trains(name, with_narrow_minilm):
    experiment = Experiment.read(CONFIGS[name])
    for arm in experiment.arms:
        torch.manual_seed(0)
        model = experiments.make_model(experiment, arm)
        outputs = model(**TASKS[experiment.task].inputs(model))
        (outputs["loss"] if "loss" in outputs else outputs["last_hidden_state"].sum()).backward()
        # Sentence embeddings are means of the last hidden states, and not what BERT's pooler makes of the first.
        pooler = () if "loss" in outputs else ("pooler.dense.weight", "pooler.dense.bias")
        unused = [name for name, each in model.named_parameters() if each.grad is None and name not in pooler]
        # Longformer has weights of its own for tokens that attend to all, of which there are none here.
        assert [name for name in unused if "_global" not in name] == []


def test_batches_are_of_like_length_and_use_all_rows_alike():
    lengths = torch.randint(3, 60, (700,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [{"input_ids": [0] * length, "number": number} for number, length in enumerate(lengths)]
    train = in_batches(rows, 42, seed=1)
    assert train == in_batches(rows, 42, seed=1) != in_batches(rows, 42, seed=2)
    assert len(train) == 42 * BATCH
    batches = [train[first : first + BATCH] for first in range(0, len(train), BATCH)]
    spreads = [max(wide) - min(wide) for wide in ([len(row["input_ids"]) for row in batch] for batch in batches)]
    assert sum(spreads) / len(spreads) < 10
    seen = [[row["number"] for batch in part for row in batch] for part in (batches[:21], batches[21:])]
    for part in seen:  # a pass over the rows, less what fills no batch
        assert len({*part}) == len(part) == 21 * BATCH
    with pytest.raises(ValueError, match="32 training examples, more than 31"):
        in_batches(rows[:31], 1, seed=0)


def test_the_masked_token_loss_is_that_of_the_whole_split():
    data = TASKS["texts"].data()
    tokenizer, rows = data["tokenizer"], Drawn(data["texts"]["test"][:40], Masking(data["tokenizer"], 0.15), seed=0)
    experiment = experiment_of("texts")
    torch.manual_seed(0)
    model = experiments.make_model(experiment, "CP-BERT, 1 layer").eval()
    collator = Collator(tokenizer, pack=False, pools=False)
    with torch.no_grad():  # upstream's loss is the mean over the masked tokens of one batch
        expected = model(**collator([rows[index] for index in range(40)])).loss.item()
    assert masked_token_loss(model, rows, collator) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arm", ["BERT, 2 layers", "CP-BERT, 2 layers", "Longformer, 2 layers, window of 8"])
def test_the_loss_of_masked_tokens_alone_is_upstream_s(arm):
    experiment = experiment_of("texts_alternatives")
    torch.manual_seed(0)
    model = experiments.make_model(experiment, arm).eval()
    inputs = {"input_ids": torch.randint(5, 4000, (3, 16)), "attention_mask": torch.ones(3, 16, dtype=torch.long)}
    inputs["attention_mask"][1, 9:] = 0
    inputs["labels"] = torch.where(torch.rand(3, 16) < 0.3, inputs["input_ids"], -100)
    losses = [module(**inputs)["loss"] for module in (model, MaskedTokens(model))]
    assert_close(losses[1], losses[0])
    ours, theirs = (torch.autograd.grad(loss, model.get_input_embeddings().weight)[0] for loss in reversed(losses))
    assert_close(ours, theirs)


@pytest.mark.parametrize("arm", ["BERT, 2 layers", "CP-BERT, 2 layers", "Longformer, 2 layers, window of 8"])
def test_the_classifier_of_the_mean_takes_all_valid_tokens_and_no_others(arm):
    experiment = experiment_of("texts_alternatives")
    torch.manual_seed(0)
    model = MeanClassifier(experiments.make_model(experiment, arm).base_model).eval()
    ids, mask, labels = torch.randint(5, 4000, (2, 16)), torch.ones(2, 16, dtype=torch.long), torch.tensor([0, 1])
    mask[:, 9:] = 0
    outputs, alone = model(ids, mask, labels), model(ids[:, :9], mask[:, :9], labels)
    assert_close(outputs["logits"], alone["logits"])
    assert_close(outputs["loss"], torch.nn.functional.cross_entropy(outputs["logits"], labels))
    states = model.base_model(input_ids=ids[:, :9], attention_mask=mask[:, :9])[0]
    assert_close(outputs["logits"], model.classifier(model.pooler(states.mean(dim=1)).tanh()))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_quick_run_gives_every_figure(name, with_narrow_minilm):
    experiment = experiments.quick(experiment_of(name))
    metrics = TASKS[experiment.task].metrics
    for stage in ("search", "test"):
        figures = experiments.run_cell(experiment, Cell(stage, [*experiment.arms][-1], 64, 0.001, 1))
        known = metrics if stage == "test" else metrics[:1]
        assert all(figures[metric.name] is not None for metric in known)
        assert figures["parameters"] > 0 and figures["gflops"] > 0


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("MiniLM, 2 layers, not distilled", [(2, {2e-3})] * 2),
        ("MiniLM, 2 layers", [(4, {5e-4}), *[(2, {2e-3})] * 2]),
        ("CP-MiniLM, 2 layers", [(4, {5e-4, 1e-2}), *[(2, {2e-3, 1e-3})] * 2]),
        ("CP-MiniLM, 4 layers, not distilled, pooling's rate 0.01", [(2, {2e-3, 1e-2})] * 2),
        (
            "CP-MiniLM, 2 layers, pooling the block, with a rate of the gates",
            [(4, {5e-4, 1e-3, 1e-2}), *[(2, {2e-3, 1e-3, 1e-2})] * 2],
        ),
    ],
)
def test_each_part_of_a_pretrained_run_has_its_steps_and_its_rates(monkeypatch, with_narrow_minilm, arm, expected):
    taken, training = [], experiment_tasks.training

    @contextmanager
    def counted(*args, **options):
        with training(*args, **options) as trainer:
            rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
            taken.append((trainer.state.global_step, rates))
            yield trainer

    monkeypatch.setattr(experiment_tasks, "training", counted)
    experiment = experiments.quick(experiment_of("pretrained"))
    experiments.run_cell(experiment, Cell("test", arm, 64, 0.002, 1))
    assert taken == expected


def test_embeddings_are_learned_and_compared_with_the_full_model_s(with_narrow_minilm):
    experiment = replace(experiments.quick(experiment_of("embeddings")), steps=20)
    arms = {arm: {**options, "distilled": False} for arm, options in experiment.arms.items()}
    untaught = replace(experiment, arms=arms)

    def errors(arm: str) -> list[float]:
        cell = Cell("test", arm, 64, 2e-4, 1)
        return [experiments.run_cell(each, cell)["error"] for each in (experiment, untaught)]

    assert errors("all layers and tokens") == pytest.approx([0, 0], abs=1e-6)
    after, before = errors("4 layers")
    assert 0 < after < 0.5 * before
    # Of random weights halves of the tokens say as much as all: there is little to learn.
    after, before = errors("ContextPool")
    assert 0 < after < 0.01 and 0 < before < 0.01 and after != before


def test_features_of_photographs_are_learned_and_compared_with_the_full_model_s(with_narrow_dinov2):
    experiment = replace(experiments.quick(experiment_of("photographs")), steps=20)
    arms = {arm: {**options, "distilled": False} for arm, options in experiment.arms.items()}
    untaught = replace(experiment, arms=arms)

    def found(arm: str, of: Experiment = experiment) -> dict[str, float]:
        return experiments.run_cell(of, Cell("test", arm, 64, 3e-3, 1))

    whole = found("all layers and patches")
    assert [whole[name] for name in ("error", "class_token", "squares", "patches")] == pytest.approx([0] * 4, abs=1e-5)
    after, before = found("6 layers"), found("6 layers", untaught)
    assert 0 < after["error"] < 0.5 * before["error"]
    assert after["error"] == pytest.approx((after["class_token"] + after["squares"]) / 2)
    assert 0 <= after["digits"] <= 1
    # Of random weights and noise a quarter of the patches says nearly as much as all: there is little to learn.
    after, before = found("ContextPool"), found("ContextPool", untaught)
    assert 0 < after["error"] < 0.3 and 0 < before["error"] < 0.3 and after["error"] != before["error"]


def test_the_features_of_the_teacher_are_computed_once_and_where_they_are_needed(with_narrow_dinov2):
    task = TASKS["photographs"]
    targets = task.targets("train", [5, 2])
    assert {*task.known_targets("train")} == {2, 5}
    assert_close(targets, last_hidden_states(task.full(), task.crops()["train"][[5, 2]]))
    assert_close(task.targets("train", [2, 7])[0], targets[1])


def test_the_shares_of_all_tokens_are_a_half_on_average(with_narrow_minilm, tmp_path):
    output = tmp_path / "kept.csv"
    kept_tokens.main(["--output", str(output), "--examples", "40", "--steps", "2"])
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert kept_tokens.OTHERS in {row["token"] for row in rows}
    shares, counts = ([float(row[name]) for row in rows] for name in ("share", "occurrences"))
    assert shares == sorted(shares, reverse=True)
    assert np.average(shares, weights=counts) == pytest.approx(0.5, abs=1e-3)


def test_the_embeddings_of_the_teacher_are_computed_where_they_are_needed(with_narrow_minilm):
    task = TASKS["embeddings"]
    chosen = np.array([5, 2, 9])
    targets = task.targets(chosen)
    data = task.data()
    assert (~data["targets"].isnan().any(dim=1)).nonzero().flatten().tolist() == [2, 5, 9]
    one = data["train"].batch([9])
    assert_close(targets[2:], embed(data["full"], one).detach())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_models_of_the_results_are_those_of_today(name):
    # What an arm does not say is the default of this version, which may have changed since it was run.
    experiment = experiment_of(name)
    task = TASKS[experiment.task]
    results = experiments.read_results(experiment, ROOT / "results" / f"{name}.csv")
    for arm, row in {cell.arm: row for cell, row in results.items()}.items():
        model = experiments.make_model(experiment, arm)
        # Of the pretrained ones, the rows are of the model that was fine-tuned last, which has another head.
        assert model.num_parameters() == pytest.approx(row["parameters"], rel=1e-4), arm
        assert experiments.gflops(model, task) == pytest.approx(row["gflops"], rel=1e-4), arm
