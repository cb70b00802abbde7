# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Classifiers of images among what their users have around them: image processors, pipelines and Trainer."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import context_pools, messages_of_transformers
from PIL import Image
from torch import nn
from transformers import (
    AutoImageProcessor,
    BeitForImageClassification,
    BeitImageProcessor,
    BeitImageProcessorPil,
    CLIPForImageClassification,
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    ConvNextImageProcessor,
    ConvNextImageProcessorPil,
    DeiTForImageClassification,
    DeiTImageProcessor,
    DeiTImageProcessorPil,
    PreTrainedModel,
    ResNetForImageClassification,
    SiglipForImageClassification,
    SiglipImageProcessor,
    SiglipImageProcessorPil,
    Trainer,
    TrainingArguments,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTImageProcessorPil,
    pipeline,
)

from cp_transformers import (
    CPBeitForImageClassification,
    CPCLIPForImageClassification,
    CPDeiTForImageClassification,
    CPResNetForImageClassification,
    CPSiglipForImageClassification,
    CPViTForImageClassification,
)


SIDE = 16  # of the images


@dataclass(frozen=True)
class Family:
    """A classifier with its stock counterpart and its image processors, those of torchvision and of PIL."""

    model_class: type[PreTrainedModel]
    stock_class: type[PreTrainedModel]
    processor_classes: dict[str, type]
    size: dict[str, int]
    sizes: dict[str, Any]
    cropped: bool = False

    def __str__(self) -> str:
        return self.model_class.__name__

    def model(self, **overrides) -> PreTrainedModel:
        """From a fixed seed, with gates far from where they start."""
        torch.manual_seed(0)
        config = self.model_class.config_class(**{"num_labels": 3, "pool_gate": True, **self.sizes, **overrides})
        model = self.model_class(config).eval()
        for pool in context_pools(model):
            nn.init.normal_(pool.gate)
        return model

    def stock_model(self) -> PreTrainedModel:
        sizes = {name: value for name, value in self.sizes.items() if not name.startswith("pool_")}
        config_class: Any = self.stock_class.config_class
        sizes = {"vision_config": sizes} if "vision_config" in config_class.sub_configs else sizes
        return self.stock_class(config_class(num_labels=3, **sizes))

    def processor(self, backend: str = "torchvision"):
        return self.processor_classes[backend](size=self.size, **({"crop_size": self.size} if self.cropped else {}))

    def save(self, model: PreTrainedModel, folder: Path) -> Path:
        model.save_pretrained(folder)
        self.processor().save_pretrained(folder)
        return folder


VIT_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": SIDE,
    "patch_size": 4,
    "pool_range": 0.5,
}

FAMILIES = [
    Family(
        CPViTForImageClassification,
        ViTForImageClassification,
        {"torchvision": ViTImageProcessor, "pil": ViTImageProcessorPil},
        size={"height": SIDE, "width": SIDE},
        sizes=VIT_SIZES,
    ),
    Family(
        CPDeiTForImageClassification,
        DeiTForImageClassification,
        {"torchvision": DeiTImageProcessor, "pil": DeiTImageProcessorPil},
        size={"height": SIDE, "width": SIDE},
        sizes=VIT_SIZES,
        cropped=True,
    ),
    Family(
        CPBeitForImageClassification,
        BeitForImageClassification,
        {"torchvision": BeitImageProcessor, "pil": BeitImageProcessorPil},
        size={"height": SIDE, "width": SIDE},
        sizes={**VIT_SIZES, "use_relative_position_bias": True},
        cropped=True,
    ),
    Family(
        CPCLIPForImageClassification,
        CLIPForImageClassification,
        {"torchvision": CLIPImageProcessor, "pil": CLIPImageProcessorPil},
        size={"height": SIDE, "width": SIDE},
        sizes=VIT_SIZES,
        cropped=True,
    ),
    Family(
        CPSiglipForImageClassification,
        SiglipForImageClassification,
        {"torchvision": SiglipImageProcessor, "pil": SiglipImageProcessorPil},
        size={"height": SIDE, "width": SIDE},
        sizes=VIT_SIZES,
    ),
    Family(
        CPResNetForImageClassification,
        ResNetForImageClassification,
        {"torchvision": ConvNextImageProcessor, "pil": ConvNextImageProcessorPil},
        size={"shortest_edge": SIDE},
        sizes={"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 1], "pool_global": True},
    ),
]

every_family = pytest.mark.parametrize("family", FAMILIES, ids=str)


def photographs(number: int = 4) -> list[Image.Image]:
    pixels = torch.randint(256, (number, 20, 18, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return [Image.fromarray(image.numpy()) for image in pixels]


# ---------------------------------------------------------------------------------------------------------- losses


def images(number: int = 3) -> torch.Tensor:
    return torch.randn(number, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("told", [True, False], ids=["told", "by_the_labels"])
@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        ("regression", 1, torch.tensor([0.5, 1.0, -1.0])),
        ("single_label_classification", 3, torch.tensor([0, 1, 2])),
        ("multi_label_classification", 3, torch.eye(3)),
    ],
    ids=["regression", "single_label", "multi_label"],
)
@every_family
def test_a_loss_for_every_problem_type(family, problem_type, num_labels, labels, told):
    loss_of = {
        "regression": lambda logits: ((logits[:, 0] - labels) ** 2).mean(),
        "single_label_classification": lambda logits: -logits.log_softmax(-1)[torch.arange(3), labels].mean(),
        "multi_label_classification": lambda logits: -nn.functional.logsigmoid(logits * (2 * labels - 1)).mean(),
    }
    model = family.model(num_labels=num_labels, **({"problem_type": problem_type} if told else {}))
    with torch.no_grad():
        outputs = model(images(), labels=labels)
    torch.testing.assert_close(outputs.loss, loss_of[problem_type](outputs.logits))
    assert model.config.problem_type == problem_type


@every_family
def test_another_number_of_labels_is_refused_on_loading(family, tmp_path):
    family.model().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        family.model_class.from_pretrained(tmp_path, num_labels=5)


@every_family
def test_another_number_of_labels_initialises_the_classifier_alone_where_asked(family, tmp_path):
    saved = family.model()
    saved.save_pretrained(tmp_path)
    model = family.model_class.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    with torch.no_grad():
        assert model.eval()(images()).logits.shape == (3, 5)
    torch.testing.assert_close(model.base_model.state_dict(), saved.base_model.state_dict(), rtol=0.0, atol=0.0)


# ------------------------------------------------------------------------------------------------ image processors


def forget_the_processor_type(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    options = json.loads(path.read_text())
    del options["image_processor_type"]
    path.write_text(json.dumps(options))


@pytest.mark.parametrize("by", ["processor_type", "model_type"])
@pytest.mark.parametrize("backend", [None, "torchvision", "pil"], ids=str)
@every_family
def test_auto_image_processor_finds_the_image_processor(family, backend, by, tmp_path):
    family.save(family.model(), tmp_path)
    if by == "model_type":
        forget_the_processor_type(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, **({"backend": backend} if backend else {}))
    assert type(processor) is family.processor_classes[backend or "torchvision"]
    assert processor(photographs(), return_tensors="pt").pixel_values.shape == (4, 3, SIDE, SIDE)


@pytest.mark.slow
@every_family
def test_without_torchvision_pipelines_use_the_pil_processor(family, tmp_path):
    family.save(family.model(), tmp_path)
    photographs()[0].save(tmp_path / "photograph.png")
    program = f"""
import sys
sys.modules["torchvision"] = None  # as if it were not installed
import cp_transformers
from transformers import pipeline
classify = pipeline("image-classification", {str(tmp_path)!r})
print(type(classify.image_processor).__name__, len(classify({str(tmp_path / "photograph.png")!r})))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [family.processor_classes["pil"].__name__, "3"]
    assert "torchvision" not in result.stderr  # nor is it asked for


# ------------------------------------------------------------------------------------------------------- pipelines


def saved_pipeline(family: Family, folder: Path, **overrides):
    return pipeline("image-classification", str(family.save(family.model(**overrides), folder)))


def scores(entries: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in entries}


with_and_without_support_sizes = pytest.mark.parametrize(
    "output_support_sizes", [False, True], ids="support_sizes={}".format
)


@with_and_without_support_sizes
@every_family
def test_a_pipeline_gives_the_models_probabilities(family, output_support_sizes, tmp_path):
    classify = saved_pipeline(family, tmp_path, output_support_sizes=output_support_sizes)
    assert type(classify.model) is family.model_class
    with torch.no_grad():
        probabilities = classify.model(**family.processor()(photographs(), return_tensors="pt")).logits.softmax(-1)
    assert (probabilities[0] - probabilities[1]).abs().max() > 1e-4
    for entries, expected in zip(classify(photographs()), probabilities.tolist(), strict=True):
        expected_scores = {f"LABEL_{index}": score for index, score in enumerate(expected)}
        assert scores(entries) == pytest.approx(expected_scores, abs=1e-5)


@every_family
def test_a_pipeline_gives_the_same_in_batches(family, tmp_path):
    classify = saved_pipeline(family, tmp_path)
    singles = [classify(photograph) for photograph in photographs()]
    for batched, single in zip(classify(photographs(), batch_size=3), singles, strict=True):
        assert scores(batched) == pytest.approx(scores(single), abs=1e-5)


@every_family
def test_a_pipeline_says_no_more_than_one_of_the_stock_model(family, tmp_path):
    said = []
    for model in (family.model(), family.stock_model()):
        folder = family.save(model, tmp_path / model.config.model_type)
        with messages_of_transformers() as messages:
            pipeline("image-classification", str(folder))(photographs(), batch_size=2)
        said.append(messages)
    assert set(said[0]) <= set(said[1])


# --------------------------------------------------------------------------------------------------------- Trainer


def toy_data() -> list[dict]:
    """Noisy images, of which one corner is bright in a colour of its own: their class."""
    pixel_values = 0.3 * images(64)
    near, far = slice(SIDE // 2), slice(SIDE // 2, SIDE)
    corners = [(near, near), (near, far), (far, near)]
    for index in range(64):
        pixel_values[index][index % 3, *corners[index % 3]] += 2.0
    return [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(pixel_values)]


def trainer(family: Family, folder: Path, compute_metrics=None, config=(), **arguments) -> Trainer:
    """A classifier from a fixed seed, with the default callbacks."""
    return Trainer(
        family.model(**dict(config)),
        TrainingArguments(
            folder,
            **{
                "use_cpu": True,
                "seed": 0,
                "max_steps": 12,
                "learning_rate": 5e-3,
                "per_device_train_batch_size": 16,
                "per_device_eval_batch_size": 24,
                "save_strategy": "no",
                "logging_steps": 1,
                "disable_tqdm": True,
                **arguments,
            },
        ),
        train_dataset=toy_data(),
        eval_dataset=toy_data(),
        compute_metrics=compute_metrics,
    )


@every_family
def test_trainer_learns(family, tmp_path):
    training = trainer(family, tmp_path, max_steps=40)
    training.train()
    losses = [entry["loss"] for entry in training.state.log_history if "loss" in entry]
    assert len(losses) == 40 and max(losses[-4:]) < 0.3 * losses[0]


@every_family
def test_trainer_resumes_to_the_same_weights(family, tmp_path):
    """Stock ViT does not, in transformers 5.23: it saves its weights under names that Trainer does not find again."""
    training = trainer(family, tmp_path, save_strategy="steps", save_steps=8)
    training.train()
    resumed = trainer(family, tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert resumed.state.global_step == 12
    torch.testing.assert_close(resumed.model.state_dict(), training.model.state_dict(), rtol=0.0, atol=0.0)


@every_family
def test_accumulated_gradients_are_those_of_a_larger_batch(family, tmp_path):
    """Those of stock ResNet and BERT are not, in transformers 5.23: they are added up and not divided."""
    options = {"max_steps": 2, "optim": "sgd", "max_grad_norm": 0.0, "seed": 0}
    whole = trainer(family, tmp_path / "whole", per_device_train_batch_size=16, **options)
    parts = trainer(
        family, tmp_path / "parts", per_device_train_batch_size=8, gradient_accumulation_steps=2, **options
    )
    for each in (whole, parts):
        each.model.eval()  # batch normalisation would see other batches
        each.model.train = lambda mode=True, model=each.model: model
        each.train()
    # DeiT's class token starts at zero, where its gradient is in the thousands, and then is a large one.
    torch.testing.assert_close(parts.model.state_dict(), whole.model.state_dict(), rtol=1e-6, atol=1e-6)


@every_family
def test_trainer_evaluates_the_same_with_support_sizes_in_the_config(family, tmp_path):
    predictions = []

    def compute_metrics(prediction):
        predictions.append(prediction.predictions)
        return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}

    metrics = [
        trainer(family, tmp_path, compute_metrics, config={"output_support_sizes": output_support_sizes}).evaluate()
        for output_support_sizes in (False, True)
    ]
    assert predictions[0].shape == predictions[1].shape == (64, 3)
    assert (predictions[0] == predictions[1]).all()
    for name in ("eval_loss", "eval_accuracy"):
        assert metrics[0][name] == metrics[1][name]


@with_and_without_support_sizes
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["saved_tensors", "reentrant"])
@every_family
def test_trainer_learns_the_same_with_gradient_checkpointing(family, use_reentrant, output_support_sizes, tmp_path):
    # AdamW would make steps of one length of what rounding leaves of gradients that are zero.
    options: dict[str, Any] = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.1}
    plain = trainer(family, tmp_path, **options)
    plain.train()
    options |= {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": use_reentrant}}
    config = {"output_support_sizes": output_support_sizes}
    checkpointed = trainer(family, tmp_path, config=config, **options)
    checkpointed.train()
    assert checkpointed.model.is_activation_checkpointing
    torch.testing.assert_close(checkpointed.model.state_dict(), plain.model.state_dict(), rtol=0.0, atol=1e-6)
