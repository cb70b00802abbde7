# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Metrics for `evaluate` that need no network: `evaluate.load` fetches each metric's script from the Hub."""

from collections.abc import Sequence

import datasets
import evaluate


class Accuracy(evaluate.Metric):
    """The fraction of predictions that equal their references: `{"accuracy": float}`, from integer labels."""

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="The fraction of predictions that equal their references.",
            citation="",
            inputs_description="predictions and references: integer labels",
            features=datasets.Features({"predictions": label, "references": label}),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": sum(p == r for p, r in zip(predictions, references)) / len(references)}
