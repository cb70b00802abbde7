# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Distillation without labels: a model learns the hidden states, embeddings, class tokens and outputs of its teacher,
and is evaluated by how far it is from them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import EvalPrediction, PreTrainedConfig
from transformers.utils import ModelOutput

from ..families import tower_config
from .distillation import (
    DistillationArguments,
    DistillationTrainer,
    class_token,
    cosine_distance,
    hidden_state_loss,
    mean_token,
    soft_label_loss,
)
from .image_data import as_pair
from .metrics import check_finite, rank_correlation


# The metrics by their names, with what each measures.
SCORES = {
    "hidden": "mean squared error of hidden states",
    "embedding": "1 - cosine of the embeddings",
    "class_token": "1 - cosine of the class tokens",
    "rho": "rank correlation of similarities",
    "logits": "divergence of the outputs",
    "agreement": "same largest output",
}
# Metrics that come with a loss of another name.
COMES_WITH = {"rho": "embedding", "agreement": "logits"}
# How last hidden states become an embedding, by the names of sentence-transformers.
EMBED = {"mean": mean_token, "cls": class_token}
# Of the held-out rows, the first so many have their similarities compared: their pairs are two millions.
RHO_ROWS = 2000


@dataclass
class RecoveryArguments(DistillationArguments):
    """The options of distillation without labels."""

    distillation_hidden_weight: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "weight of the mean squared error against the teacher's hidden states; default: 1, or 0 for a "
            "checkpoint of sentence-transformers, unless its distillation_embedding_weight is 0"
        },
    )
    distillation_embedding_weight: float | None = field(
        default=None,
        metadata={
            "help": "weight of 1 - cosine of the student's and the teacher's embeddings, each the mean of the last "
            "hidden states of a text's tokens or an image's patches, or for a checkpoint of sentence-transformers "
            "what its 1_Pooling/config.json says, the mean or the class token; default: 1 for such a checkpoint, "
            "else 0"
        },
    )
    distillation_class_token_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of 1 - cosine of the student's and the teacher's last hidden states of the class token, "
            "a text's first token"
        },
    )

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the losses that are learned, by the names of their metrics."""
        given = {name: getattr(self, f"distillation_{name}_weight", None) for name in SCORES}
        return {name: float(weight) for name, weight in given.items() if weight}


class RecoveryTrainer(DistillationTrainer):
    """Learns embeddings and class tokens as well, and evaluates by what it learns from, over all tokens of all
    examples.

    Args:
        embed: makes the embeddings of last hidden states, one of [`EMBED`].
    """

    distillation: RecoveryArguments

    def __init__(self, *args: Any, embed: Callable = mean_token, **kwargs: Any):
        super().__init__(*args, **kwargs)
        vectors = {"embedding": embed, "class_token": class_token}
        self.vectors = {name: make for name, make in vectors.items() if name in self.distillation.weights}
        self.output_hidden_states = bool(self.layer_map or self.vectors)
        self.evaluated = 0

    def state_loss(self, outputs: Any, taught: Any, inputs: dict[str, Any]) -> torch.Tensor | float:
        """The weighted losses of hidden states, embeddings and class tokens, summed."""
        loss = super().state_loss(outputs, taught, inputs)
        for name, pair in self.compared_vectors(outputs, taught, inputs).items():
            loss = loss + self.distillation.weights[name] * cosine_distance(*pair).mean()
        return loss

    def compared_vectors(
        self, outputs: Any, taught: Any, inputs: dict[str, Any]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The student's and the teacher's embeddings and class tokens, as far as they are learned."""
        if not self.vectors:
            return {}
        bare = "last_hidden_state" in outputs and "last_hidden_state" in taught  # without a head, both
        mask, pixels, sides = inputs.get("attention_mask"), inputs.get("pixel_values"), []
        for each, model in ((outputs, self.model), (taught, self.teacher)):
            states = each.last_hidden_state if bare else each.hidden_states[-1]
            sides.append((states, mask, _patches(model.config, pixels)))  # type: ignore[union-attr]
        return {name: (embed(*sides[0]), embed(*sides[1])) for name, embed in self.vectors.items()}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.evaluated = 0
        return super().evaluate(*args, **kwargs)

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor | None, Any, torch.Tensor]:
        """A row an example: hidden loss times tokens, tokens, logits' loss times rows, agreements, rows, losses of the
        embedding and the class token, 1. And, where embeddings are learned, the first of the student's and the
        teacher's."""
        inputs = self._prepare_inputs(inputs)
        readable = inputs.pop("readable", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs, output_hidden_states=self.output_hidden_states)
            taught = self.teach(inputs)
        examples = range(len(next(iter(inputs.values()))))
        scores = [self._score(_one(outputs, index), _one(taught, index), _one(inputs, index)) for index in examples]
        values = torch.tensor(scores, dtype=torch.float64, device=self.args.device)
        vectors = self.compared_vectors(outputs, taught, inputs)
        for column, name in enumerate(("embedding", "class_token"), start=5):
            if name in vectors:
                values[:, column] = cosine_distance(*vectors[name]).double()
        if readable is not None:
            values[~readable] = 0
        predictions: Any = values
        if "embedding" in vectors:
            kept = len(values) if self.evaluated < RHO_ROWS else 0
            predictions = (values, *(each[:kept] for each in vectors["embedding"]))
            self.evaluated += len(values) * self.args.world_size
        return None, predictions, values  # as labels as well, without which Trainer computes no metrics

    def _score(self, outputs: ModelOutput, taught: ModelOutput, inputs: ModelOutput) -> list[float]:
        mask = inputs.get("attention_mask")
        tokens, hidden, rows, soft, agreed = 1.0 if mask is None else float(mask.sum()), 0.0, 0, 0.0, 0.0
        if self.layer_map:
            hidden = float(hidden_state_loss(outputs.hidden_states, taught.hidden_states, self.layer_map, mask))
        if self.distillation.distillation_logits_weight:
            ours, theirs = self.compared_logits(outputs, taught, mask)
            rows, soft = len(ours), float(soft_label_loss(ours, theirs, self.distillation.distillation_temperature))
            agreed = float((ours.argmax(-1) == theirs.argmax(-1)).sum())
        return [hidden * tokens, tokens, soft * rows, agreed, rows, 0.0, 0.0, 1.0]


def _patches(config: PreTrainedConfig, pixels: torch.Tensor | None) -> int:
    """The number of patches that a model makes of images; 0 where it makes none."""
    config = tower_config(config)
    if pixels is None or getattr(config, "patch_size", None) is None:
        return 0
    return math.prod(side // edge for side, edge in zip(pixels.shape[-2:], as_pair(config.patch_size)))


def _one(batch: Mapping[str, Any], index: int) -> ModelOutput:
    """An example of a batch, as a batch."""
    one = slice(index, index + 1)
    return ModelOutput(
        {
            name: value[one] if isinstance(value, torch.Tensor) else tuple(each[one] for each in value)
            for name, value in batch.items()
            if name in ("logits", "hidden_states", "attention_mask")
        }
    )


def mean_scores(prediction: EvalPrediction, distillation: RecoveryArguments) -> dict[str, float]:
    """The scores over all tokens, rows of logits or examples, each with the same weight. Scores that are not learned
    are left out. The loss is that of training."""
    values, *embeddings = prediction.predictions if distillation.weights.get("embedding") else [prediction.predictions]
    hidden, tokens, soft, agreed, rows, embedding, first, examples = values.sum(axis=0).tolist()
    if not examples:
        raise ValueError("None of the held-out images can be read.")
    check_finite(values)
    sums = {"hidden": (hidden, tokens), "logits": (soft, rows)}
    sums |= {"embedding": (embedding, examples), "class_token": (first, examples)}
    weights = distillation.weights
    scores = {name: sums[name][0] / sums[name][1] for name in weights}
    loss = sum(weights[name] * score for name, score in scores.items())
    if embeddings:
        readable = values[: len(embeddings[0]), -1] > 0
        scores["rho"] = rank_correlation(*(each[readable][:RHO_ROWS] for each in embeddings))
    if "logits" in scores:
        scores["agreement"] = agreed / rows
    return {"loss": loss, **scores}
