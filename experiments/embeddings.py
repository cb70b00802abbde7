# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""A sentence encoder made faster: all-MiniLM-L6-v2 with fewer layers or fewer tokens, taught its own embeddings."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from datasets import disable_progress_bars
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, set_seed

from cp_transformers.demo.comparison import learn
from cp_transformers.demo.text import (
    MAX_TOKENS,
    MAX_TRAIN_TOKENS,
    Sentences,
    classified_right,
    embed,
)
from cp_transformers.training.film_reviews import (
    load_film_reviews,
    load_news,
    load_product_reviews,
    load_review_texts,
)
from cp_transformers.training.metrics import Spearman, rank_correlation
from cp_transformers.training.packages import minilm_folder

from .task import Metric, Run, Task, made_faster


POOL_RATE = 1e-3
# Sentences from the news: which of them the models are judged on.
NEWS = {"validation": slice(0, 1000), "test": slice(1000, 3000)}
FILM_REVIEWS = 2000
TIMED = 256


class Embeddings(Task):
    """all-MiniLM-L6-v2 with some of its `layers`, or with fewer tokens by `halve_before` or `pool_strides`.

    Each arm learns the full model's embeddings of review sentences, but for those with `distilled: false`; the loss is
    1 - cosine. What it then reaches is measured on sentences from the news, and by linear models on its embeddings of
    review sentences that it has not been taught.
    """

    unit = "sentences"
    head = AutoModel
    metrics = (
        Metric("error", "1 - cosine", decimals=4, lower_is_better=True),
        Metric("rho", "rho", decimals=3),
        Metric("neighbours", "same neighbour, %", 100),
        Metric("film_reviews", "film reviews, %", 100),
        Metric("product_reviews", "product ratings, 100 rho", 100),
    )
    config = {}

    def prepare(self) -> None:
        minilm_folder()
        load_film_reviews()

    def make_model(self, options: Mapping[str, Any], head: Any) -> PreTrainedModel:
        return made_faster(head.from_pretrained(minilm_folder()), options)

    def inputs(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        ids = torch.arange(5, 5 + MAX_TOKENS)[None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def workload(self, model: PreTrainedModel) -> Callable[[], Any]:
        """Embedding sentences from the news in batches of like lengths."""
        return partial(self.data()["news"]["test"].embeddings, model, range(TIMED))

    def examples(self, number: int) -> list[dict[str, torch.Tensor]]:
        return [self.data()["news"]["validation"].batch([index]) for index in range(number)]

    @staticmethod
    @lru_cache(maxsize=1)
    def data() -> dict[str, Any]:
        """The full model, the sentences as token ids, and a place for its embeddings of those to learn from."""
        disable_progress_bars()
        tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
        full = AutoModel.from_pretrained(minilm_folder()).eval()
        films, products = load_film_reviews(), load_product_reviews()
        held_out = {*products["validation"]["sentence"], *products["test"]["sentence"]}
        texts = [text for text in load_review_texts()["train"]["text"] if text not in held_out]
        train = Sentences(texts, tokenizer, MAX_TRAIN_TOKENS)
        news = {name: Sentences(load_news()["text"][part], tokenizer, MAX_TOKENS) for name, part in NEWS.items()}

        return {
            "tokenizer": tokenizer,
            "full": full,
            "texts": texts,
            "train": train,
            "targets": torch.full((len(texts), full.config.hidden_size), torch.nan),  # until they are needed
            "news": news,
            "film_reviews": {
                name: (Sentences(part["sentence"][:FILM_REVIEWS], tokenizer, MAX_TOKENS), part["label"][:FILM_REVIEWS])
                for name, part in films.items()
            },
            "product_reviews": {
                name: (Sentences(part["sentence"][:], tokenizer, MAX_TOKENS), part["rating"][:])
                for name, part in products.items()
            },
        }

    def targets(self, chosen: np.ndarray) -> torch.Tensor:
        """`(sentences, channels)`, what is to be learned of the texts with the numbers `chosen`."""
        data = self.data()
        known = data["targets"]
        if missing := [index for index in chosen.tolist() if known[index].isnan().any()]:
            known[missing] = data["train"].embeddings(data["full"], missing)
        return known[torch.from_numpy(chosen)]

    @staticmethod
    @lru_cache(maxsize=2)
    def reference(split: str, number: int) -> torch.Tensor:
        """`(sentences, channels)`, the full model's embeddings of the first `number` sentences from the news."""
        data = Embeddings.data()
        return data["news"][split].embeddings(data["full"], range(number))

    def run(self, run: Run) -> tuple[PreTrainedModel, dict[str, float | None]]:
        model = self.train(run)
        return model, self.measure(model, run)

    def train(self, run: Run) -> PreTrainedModel:
        """A model of the arm that has been taught, unless it is not to be."""
        set_seed(run.seed)
        model, data = run.make_model(self.head).eval(), self.data()
        if not run.options.get("distilled", True):
            return model
        chosen = run.choose(len(data["texts"]))
        train = Sentences([data["texts"][index] for index in chosen], data["tokenizer"], MAX_TRAIN_TOKENS)
        targets, batches = self.targets(chosen), train.batches(run.steps, run.seed)

        def loss(student: Any, step: int) -> torch.Tensor:
            embeddings = embed(student, train.batch(batches[step]))
            return (1 - (embeddings * targets[batches[step]]).sum(dim=-1)).mean()

        learn(None, model, loss, steps=run.steps, learning_rate=run.learning_rate, pool_learning_rate=POOL_RATE)
        return model

    def measure(self, model: PreTrainedModel, run: Run) -> dict[str, float | None]:
        data = self.data()

        def embedded(sentences: Sentences, labels: Sequence[float] = ()) -> tuple[torch.Tensor, Sequence[float]]:
            chosen = range(len(sentences.input_ids))[: run.held_out]
            return sentences.embeddings(model, chosen), labels[: run.held_out]

        embeddings, _ = embedded(data["news"][run.split])
        reference = self.reference(run.split, len(embeddings))
        films, products = (
            (*embedded(*data[which]["train"]), *embedded(*data[which][run.split]))
            for which in ("film_reviews", "product_reviews")
        )
        return {
            "error": float(1 - (embeddings * reference).sum(dim=-1).mean()),
            "rho": rank_correlation(embeddings.numpy(), reference.numpy()),
            "neighbours": float((nearest(embeddings) == nearest(reference)).double().mean()),
            "film_reviews": float(classified_right(*films).mean()),
            "product_reviews": rating_correlation(*products),
        }


def nearest(embeddings: torch.Tensor) -> torch.Tensor:
    """`(sentences,)`, of each the number of the other that is most similar, from embeddings of norm 1."""
    return (embeddings @ embeddings.T).fill_diagonal_(-1).argmax(dim=1)


def rating_correlation(train: torch.Tensor, ratings: Any, test: torch.Tensor, truth: Any) -> float:
    """Spearman's rho of the test sentences' ratings and those that a ridge regression on the embeddings predicts."""
    from sklearn.linear_model import Ridge

    predicted = Ridge().fit(train, ratings).predict(test)
    return float(Spearman().score(np.asarray(predicted), np.asarray(truth)))
