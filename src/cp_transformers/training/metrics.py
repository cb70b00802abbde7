# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Metrics for `evaluate` that need no network: `evaluate.load` fetches each metric's script from the Hub."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np


class _Metric(evaluate.Metric, ABC):
    """A metric of one number, under the name of its class in lower case; subclasses define `score`."""

    dtype = "int64"
    citation = ""

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.dtype)
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation=self.citation,
            inputs_description=f"predictions and references: {self.dtype}",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        return {type(self).__name__.lower(): float(self.score(np.asarray(predictions), np.asarray(references)))}

    @abstractmethod
    def score(self, predictions: np.ndarray, references: np.ndarray) -> float:
        """The number, of one-dimensional arrays of equal length."""


class Accuracy(_Metric):
    """The fraction of predictions that equal their references, from integer labels."""

    def score(self, predictions: np.ndarray, references: np.ndarray) -> float:
        return (predictions == references).mean()


class F1(_Metric):
    """The harmonic mean of precision and recall of label 1, from labels 0 and 1; 0 where neither is defined."""

    def score(self, predictions: np.ndarray, references: np.ndarray) -> float:
        positives = (predictions == 1).sum() + (references == 1).sum()
        return 2 * ((predictions == 1) & (references == 1)).sum() / positives if positives else 0.0


class Matthews(_Metric):
    """Matthews' correlation coefficient of integer labels, for two or more of them; 0 where it is not defined."""

    citation = "J. Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004."

    def score(self, predictions: np.ndarray, references: np.ndarray) -> float:
        labels = np.union1d(predictions, references)
        guessed, true = predictions[:, None] == labels, references[:, None] == labels
        covariance = np.cov(guessed.T, true.T, bias=True).reshape(2 * len(labels), -1)
        blocks = covariance[: len(labels)], covariance[len(labels) :]
        variances = np.trace(blocks[0][:, : len(labels)]) * np.trace(blocks[1][:, len(labels) :])
        return np.trace(blocks[0][:, len(labels) :]) / np.sqrt(variances) if variances > 0 else 0.0


class Pearson(_Metric):
    """Pearson's correlation of numbers; 0 where it is not defined, as for constant predictions."""

    dtype = "float32"

    def score(self, predictions: np.ndarray, references: np.ndarray) -> float:
        x, y = (values.astype("float64") - values.mean(dtype="float64") for values in (predictions, references))
        norm = np.sqrt((x @ x) * (y @ y))
        return x @ y / norm if norm > 0 else 0.0


class Spearman(Pearson):
    """Spearman's correlation of numbers, Pearson's of their ranks, where equal numbers share their mean rank."""

    def score(self, predictions: np.ndarray, references: np.ndarray) -> float:
        return super().score(_ranks(predictions), _ranks(references))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def rank_correlation(student: np.ndarray, teacher: np.ndarray) -> float:
    """Spearman's rho of the student's and the teacher's similarities, the cosines of all pairs of their embeddings,
    `(rows, channels)` each; 0 where there are no two pairs to compare."""
    similarities = []
    for each in (student, teacher):
        unit = each / np.linalg.norm(each, axis=-1, keepdims=True).clip(1e-12)
        similarities.append((unit @ unit.T)[np.triu_indices(len(unit), k=1)])
    return Spearman().score(*similarities) if len(similarities[0]) else 0.0


def check_finite(values: Any) -> None:
    """Raises a ValueError where a number of an evaluation is not finite: of NaNs the largest would be an answer."""
    if not np.isfinite(values).all():
        raise ValueError(
            "The model's outputs are not finite numbers: its training has diverged. Start anew with a lower "
            "--learning_rate, or without fp16."
        )
