# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""CP-BERT in the libraries that its users train and serve it with: pipelines, LoRA, Trainer."""

import copy
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from model_cases import (
    CASES,
    LENGTHS,
    ModelCase,
    aligned,
    assert_same_outputs,
    losses_of_steps,
    messages_of_transformers,
    text_inputs,
)
from peft import LoraConfig, PeftModel, get_peft_model
from text_cases import CLASSIFIER, run
from transformers import AutoTokenizer, BertTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments, pipeline

from cp_transformers import (
    CPBertConfig,
    CPBertForMaskedLM,
    CPBertForSequenceClassification,
    CPBertForTokenClassification,
    CPBertModel,
)


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
    folder = saved(next(case for case in CASES["bert"] if case.model_class is model_class), tokenizer, tmp_path)
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
    return losses_of_steps(model, **CLASSIFIER.inputs(), **CLASSIFIER.labels())


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


def test_trainer_evaluates_the_same_with_support_sizes_in_the_config(tmp_path, tokenizer):
    predictions = []

    def compute_metrics(prediction):
        predictions.append(prediction.predictions)
        return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}

    metrics = [
        trainer(tmp_path, tokenizer, compute_metrics, config={"output_support_sizes": output_support_sizes}).evaluate()
        for output_support_sizes in (False, True)
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


@pytest.mark.parametrize(("tasks", "found"), [("text-classification", True), (None, False)])
def test_trainer_s_own_card_has_results_with_the_task_s_name(tasks, found, tmp_path, tokenizer):
    def compute_metrics(prediction):
        return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}

    training = trainer(tmp_path, tokenizer, compute_metrics, max_steps=1)
    training.train()
    training.evaluate()
    training.create_model_card(tasks=tasks, dataset="films", dataset_tags="films")
    results = ModelCard.load(tmp_path / "README.md").data.eval_results or []
    assert [each.metric_name for each in results] == (["Accuracy"] if found else [])
