# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The tasks that the models of an experiment are trained for and judged by: each has data, a head and metrics."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    set_seed,
)

from cp_transformers.checkpoints.conversion import convert_model, cut_layers, quiet
from cp_transformers.demo.comparison import make_trainer
from cp_transformers.demo.digits import LABEL_NAMES, encode, make_processor
from cp_transformers.families import family_of
from cp_transformers.training.digits import load_digits, load_small_digits
from cp_transformers.training.film_reviews import load_film_reviews, load_product_reviews, load_review_texts
from cp_transformers.training.metrics import Accuracy, Spearman
from cp_transformers.training.mlm import (
    IGNORED,
    Collator,
    Masking,
    MlmArguments,
    train_tokenizer,
)
from cp_transformers.training.packages import minilm_folder
from cp_transformers.training.recovery import RecoveryArguments, RecoveryTrainer, mean_scores
from cp_transformers.training.rows import Drawn
from cp_transformers.training.texts import encode as encode_texts

from .embeddings import Embeddings
from .photographs import Photographs
from .task import Metric, Run, Task


BATCH = 32
# Of the texts' task: the vocabulary, the longest text, and the fine-tuning.
VOCAB_SIZE = 4000
MAX_LENGTH = 64
FINE_TUNING_STEPS = 400
FINE_TUNING_RATE = 3e-4
# Of the pretrained models': the rate of their distillation, the pooling's in it, and in fine-tuning by default.
DISTILLATION_RATE = 5e-4
DISTILLATION_POOL_RATE = 1e-2
POOL_RATE = 1e-3


class Images(Task):
    """Classification of digits."""

    unit = "images"
    head = AutoModelForImageClassification
    metrics = (Metric("accuracy", "accuracy, %", 100),)
    config = LABEL_NAMES

    def prepare(self) -> None:
        load_digits()

    def inputs(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        example = self.data()["validation"][0]
        return {"pixel_values": example["pixel_values"][None], "labels": torch.tensor([example["labels"]])}

    def examples(self, number: int) -> list[dict[str, torch.Tensor]]:
        return [{"pixel_values": each["pixel_values"][None]} for each in self.data()["validation"][:number]]

    @staticmethod
    @lru_cache(maxsize=1)
    def data() -> dict[str, list[dict[str, Any]]]:
        """Each split as tensors."""
        disable_progress_bars()
        return {name: encode(split, make_processor()) for name, split in load_digits().items()}

    def run(self, run: Run) -> tuple[PreTrainedModel, dict[str, float | None]]:
        data = self.data()
        train = [data["train"][index] for index in run.choose(len(data["train"]))]
        set_seed(run.seed)
        model = run.make_model(self.head)
        with training(model, train, run) as trainer:
            return model, {"accuracy": trainer.evaluate(data[run.split][: run.held_out])["eval_accuracy"]}


class SmallImages(Images):
    """Handwritten digits of 8 x 8 pixels in one channel."""

    def prepare(self) -> None:
        load_small_digits()

    @staticmethod
    @lru_cache(maxsize=1)
    def data() -> dict[str, list[dict[str, Any]]]:
        def tensors(split: Dataset) -> list[dict[str, Any]]:
            pixels = torch.tensor(split["pixels"], dtype=torch.float32).unsqueeze(1) / 8 - 1
            return [{"pixel_values": each, "labels": label} for each, label in zip(pixels, split["label"])]

        return {name: tensors(split) for name, split in load_small_digits().items()}


class Texts(Task):
    """Masked language modelling on review sentences, with a vocabulary of their own; and, of the runs that count, the
    accuracy on film reviews after a fine-tuning of the whole model."""

    unit = "sentences"
    head = AutoModelForMaskedLM
    metrics: tuple[Metric, ...] = (
        Metric("loss", "masked-token loss", decimals=3, lower_is_better=True),
        Metric("film_reviews", "film reviews, %", 100),
    )
    config = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0}

    def prepare(self) -> None:
        load_film_reviews()

    def inputs(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        ids = torch.arange(5, 5 + MAX_LENGTH)[None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def examples(self, number: int) -> list[dict[str, torch.Tensor]]:
        return [{"input_ids": torch.tensor([row["input_ids"]])} for row in self.data()["texts"]["validation"][:number]]

    @staticmethod
    @lru_cache(maxsize=1)
    def data() -> dict[str, Any]:
        disable_progress_bars()
        texts, films = load_review_texts(), load_film_reviews()
        tokenizer = train_tokenizer(texts["train"]["text"], VOCAB_SIZE)
        arguments = MlmArguments(dataset_name="review-texts", max_length=MAX_LENGTH, pack=False)

        def encode_films(split: Dataset) -> list[dict[str, Any]]:
            ids = tokenizer(split["sentence"][:], truncation=True, max_length=MAX_LENGTH)["input_ids"]
            return [{"input_ids": each, "labels": label} for each, label in zip(ids, split["label"])]

        texts["test"] = films["test"].select_columns("sentence").rename_column("sentence", "text")
        return {
            "tokenizer": tokenizer,
            "texts": {name: encode_texts(split, arguments, tokenizer).to_list() for name, split in texts.items()},
            "films": {name: encode_films(split) for name, split in films.items()},
        }

    def run(self, run: Run) -> tuple[PreTrainedModel, dict[str, float | None]]:
        data = self.data()
        tokenizer = data["tokenizer"]
        masking, collator = Masking(tokenizer, 0.15), Collator(tokenizer, pack=False)
        rows = [data["texts"]["train"][index] for index in run.choose(len(data["texts"]["train"]))]
        train = Drawn(in_batches(rows, run.steps, run.seed), masking, run.seed)
        set_seed(run.seed)
        model = run.make_model(self.head)
        with training(MaskedTokens(model), train, run, collator):
            loss = masked_token_loss(model, Drawn(data["texts"][run.split][: run.held_out], masking, seed=0), collator)
        accuracy = None if run.split == "validation" else self.fine_tune(model, run)
        return model, {"loss": loss, "film_reviews": accuracy}

    def fine_tune(self, pretrained: PreTrainedModel, run: Run, by_mean: bool = False) -> float:
        data = self.data()
        steps = min(run.steps, FINE_TUNING_STEPS)
        set_seed(run.seed)
        model: Any = run.make_model(self.head if by_mean else AutoModelForSequenceClassification)
        model = MeanClassifier(model.base_model) if by_mean else model
        missing, _ = model.base_model.load_state_dict(pretrained.base_model.state_dict(), strict=False)
        if any("pooler" not in name for name in missing):
            raise RuntimeError(f"The pretrained model lacks what the classifier has: {', '.join(missing)}.")
        fine_tuning = replace(run, steps=steps, learning_rate=FINE_TUNING_RATE)
        train = in_batches(data["films"]["train"], steps, run.seed)
        with training(model, train, fine_tuning, DataCollatorWithPadding(data["tokenizer"])) as trainer:
            return trainer.evaluate(data["films"][run.split][: run.held_out])["eval_accuracy"]


class TextsByMean(Texts):
    """[`Texts`], fine-tuned a second time with a classifier of the mean of the tokens, instead of the model's own."""

    metrics = (*Texts.metrics, Metric("film_reviews_by_mean", "film reviews by the mean, %", 100))

    def run(self, run: Run) -> tuple[PreTrainedModel, dict[str, float | None]]:
        model, figures = super().run(run)
        accuracy = None if run.split == "validation" else self.fine_tune(model, run, by_mean=True)
        return model, {**figures, "film_reviews_by_mean": accuracy}


class Pretrained(Task):
    """Recovery of all-MiniLM-L6-v2, cut to fewer `layers`, with pooling in arms whose `model_type` is of a CP model.

    First the model learns from the uncut one, on review sentences, for `distillation` times the steps of fine-tuning
    (0: not at all). Then it is fine-tuned twice from there: on film reviews and on the ratings of products. An arm may
    have a `pool_learning_rate`, which is otherwise 1e-2 in distillation and 1e-3 in fine-tuning, and for the gates a
    `gate_learning_rate` of their own.
    """

    unit = "sentences"
    head = AutoModelForSequenceClassification
    metrics = (
        Metric("film_reviews", "film reviews, %", 100),
        Metric("product_reviews", "product ratings, 100 rho", 100),
        Metric("hidden", "error of hidden states", decimals=4, lower_is_better=True),
    )
    config = {}

    def prepare(self) -> None:
        minilm_folder()
        load_film_reviews()

    def make_model(self, options: Mapping[str, Any], head: Any) -> PreTrainedModel:
        training = ("distillation", "pool_learning_rate", "gate_learning_rate")
        options = {name: options[name] for name in options if name not in training}
        with quiet():  # the head is expected to be missing
            model = cut_layers(head.from_pretrained(minilm_folder()), options.pop("layers"))
        return convert_model(model, **options) if family_of(options.pop("model_type")) is not None else model

    def inputs(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        return {**Texts().inputs(model), "labels": torch.tensor([1])}

    def examples(self, number: int) -> list[dict[str, torch.Tensor]]:
        rows = self.data()["film_reviews"]["validation"][:number]
        return [{"input_ids": torch.tensor([row["input_ids"]])} for row in rows]

    @staticmethod
    @lru_cache(maxsize=1)
    def data() -> dict[str, Any]:
        disable_progress_bars()
        tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
        texts, films, products = load_review_texts()["train"]["text"], load_film_reviews(), load_product_reviews()
        held_out = {*products["validation"]["sentence"], *products["test"]["sentence"]}

        def rows(sentences: Sequence[str], labels: Sequence[Any] | None = None) -> list[dict[str, Any]]:
            encoded = tokenizer(list(sentences), truncation=True, max_length=MAX_LENGTH)["input_ids"]
            return [
                {"input_ids": ids} | ({} if labels is None else {"labels": labels[index]})
                for index, ids in enumerate(encoded)
            ]

        return {
            "tokenizer": tokenizer,
            "texts": rows([text for text in texts if text not in held_out]),
            "film_reviews": {name: rows(part["sentence"], part["label"]) for name, part in films.items()},
            "product_reviews": {name: rows(part["sentence"], part["rating"]) for name, part in products.items()},
        }

    def run(self, run: Run) -> tuple[PreTrainedModel, dict[str, float | None]]:
        set_seed(run.seed)
        student = run.make_model(AutoModel)
        figures = {"hidden": self.distil(student, run) if run.options["distillation"] else None}
        for name in ("film_reviews", "product_reviews"):
            model, figures[name] = self.fine_tune(student, name, run)
        return model, figures

    @staticmethod
    def pool_rates(run: Run, default: float) -> dict[str, float | None]:
        gate = run.options.get("gate_learning_rate")
        return {"pool_learning_rate": run.options.get("pool_learning_rate", default), "gate_learning_rate": gate}

    def distil(self, student: PreTrainedModel, run: Run) -> float:
        """The error of the hidden states on held-out sentences."""
        data = self.data()
        teacher = AutoModel.from_pretrained(minilm_folder())
        options = RecoveryArguments(distillation_logits_weight=0.0, distillation_hidden_weight=1.0)
        teacher_options = {"teacher": teacher, "distillation": options}
        steps = run.options["distillation"] * run.steps
        distillation = replace(run, steps=steps, learning_rate=DISTILLATION_RATE)
        rows = [{"input_ids": row["input_ids"]} for row in data["film_reviews"][run.split][: run.held_out]]
        with training(
            student,
            in_batches(data["texts"], steps, run.seed),
            distillation,
            DataCollatorWithPadding(data["tokenizer"]),
            **self.pool_rates(run, DISTILLATION_POOL_RATE),
            trainer_class=partial(RecoveryTrainer, **teacher_options),
            metrics=partial(mean_scores, distillation=options),
        ) as trainer:
            return trainer.evaluate(rows)["eval_hidden"]

    def fine_tune(self, student: PreTrainedModel, name: str, run: Run) -> tuple[PreTrainedModel, float]:
        data, rows = self.data(), self.data()[name]
        set_seed(run.seed)
        model = run.make_model(self.head)
        if name == "product_reviews":  # numbers on a scale
            model.config.num_labels = model.num_labels = 1
            model.classifier = nn.Linear(model.config.hidden_size, 1)
        model.base_model.load_state_dict(student.state_dict())
        chosen = [rows["train"][index] for index in run.choose(len(rows["train"]))]
        with training(
            model,
            in_batches(chosen, run.steps, run.seed),
            run,
            DataCollatorWithPadding(data["tokenizer"]),
            **self.pool_rates(run, POOL_RATE),
        ) as trainer:
            prediction = trainer.predict(rows[run.split][: run.held_out])
        scored, metric = (
            (prediction.predictions.argmax(-1), Accuracy())
            if name == "film_reviews"
            else (prediction.predictions[:, 0], Spearman())
        )
        measured = metric.compute(predictions=scored, references=prediction.label_ids) or {}
        return model, next(iter(measured.values()))


TASKS: dict[str, Task] = {
    "images": Images(),
    "small_images": SmallImages(),
    "texts": Texts(),
    "texts_by_mean": TextsByMean(),
    "pretrained": Pretrained(),
    "embeddings": Embeddings(),
    "photographs": Photographs(),
}


@contextmanager
def training(
    model: nn.Module,
    train: Sequence[Any] | Drawn,
    run: Run,
    collator: Callable | None = None,
    pool_learning_rate: float | None = None,
    gate_learning_rate: float | None = None,
    **options: Any,
) -> Iterator[Trainer]:
    """A Trainer that has trained `model`: with a collator in the order of `train`, else in the seed's."""
    set_seed(run.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            model,
            train,
            None,
            folder,
            max_steps=run.steps,
            seed=run.seed,
            learning_rate=run.learning_rate,
            pool_learning_rate=pool_learning_rate,
            gate_learning_rate=gate_learning_rate,
            weight_decay=0.05,
            data_collator=collator,
            train_sampling_strategy="random" if collator is None else "sequential",
            **options,
        )
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        trainer.train()
        yield trainer


def in_batches(rows: Sequence[dict[str, Any]], steps: int, seed: int) -> list[dict[str, Any]]:
    """The rows, over and over, as many as `steps` take; each batch of rows of like length, so that little of it is
    padding.

    Raises:
        ValueError: there are not enough of them for one batch.
    """
    if len(rows) < BATCH:
        raise ValueError(f"A batch takes {BATCH} training examples, more than {len(rows)}.")
    generator = np.random.default_rng(seed)
    batches: list[np.ndarray] = []
    while len(batches) < steps:
        order = generator.permutation(len(rows))
        for start in range(0, len(order), 20 * BATCH):
            chunk = sorted(order[start : start + 20 * BATCH], key=lambda index: len(rows[index]["input_ids"]))
            whole = [chunk[first : first + BATCH] for first in range(0, len(chunk) - BATCH + 1, BATCH)]
            batches += [np.array(whole[index]) for index in generator.permutation(len(whole))]
    return [rows[index] for batch in batches[:steps] for index in batch]


class MaskedTokens(nn.Module):
    """The loss of a masked language model, from the logits of the masked tokens alone: those of all tokens, which
    upstream computes, take more time than a few narrow layers.

    Args:
        model: one of transformers' `...ForMaskedLM`, or this package's.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, reduction: str = "mean"
    ) -> dict[str, torch.Tensor]:
        """`labels` are -100 where nothing is predicted; all are `(batch, tokens)`."""
        masked = labels != IGNORED
        hidden = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask)[0][masked]
        logits = self.model.cls(hidden) if hasattr(self.model, "cls") else self.model.lm_head(hidden)
        return {"loss": nn.functional.cross_entropy(logits, labels[masked], reduction=reduction)}


class MeanClassifier(nn.Module):
    """BERT's pooler and classifier of two labels, of the mean of the tokens' last states in the place of the first's.

    Args:
        model: without a head. Of a Longformer no token attends to all.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.base_model = model
        width = model.config.hidden_size
        self.pooler, self.dropout, self.classifier = nn.Linear(width, width), nn.Dropout(0.1), nn.Linear(width, 2)
        for linear in (self.pooler, self.classifier):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` are `(batch, tokens)`, `labels` `(batch,)`; the logits `(batch, 2)`."""
        hidden = self.base_model(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask[..., None].to(hidden)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        logits = self.classifier(self.dropout(self.pooler(mean).tanh()))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@torch.no_grad()
def masked_token_loss(model: PreTrainedModel, rows: Drawn, collator: Collator) -> float:
    """The mean over all masked tokens, in nats."""
    scored, loss, tokens = MaskedTokens(model).eval(), 0.0, 0
    for batch in DataLoader(rows, BATCH, collate_fn=collator):
        batch = {name: each.to(model.device) for name, each in batch.items()}
        loss += float(scored(**batch, reduction="sum")["loss"])
        tokens += int((batch["labels"] != IGNORED).sum())
    return loss / tokens
