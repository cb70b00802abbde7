# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The demo on real weights and real text: a sentence encoder made faster in three ways, at two thirds of the cost.

Takes the weights of all-MiniLM-L6-v2. Leaves out two of its layers, or keeps every second token from its third layer
on, by the mean of each pair or by ContextPool; lets each learn the full model's embeddings of review sentences for the
same number of steps; and shows what each costs, and how far it is from the full model on sentences from the news.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.conversion import convert_checkpoint
from ..checkpoints.processors import copy_processor
from ..inspection import inspect_pools
from ..training.film_reviews import load_film_reviews, load_news, load_review_texts
from ..training.metrics import rank_correlation
from ..training.packages import minilm_folder
from .comparison import (
    QUICK,
    aligned,
    beside_recorded,
    check_positive,
    draw_against_cost,
    faster_models,
    learn,
    milliseconds,
    paired_difference,
    write_results,
)


FULL, CUT, MEANS, POOL = "all layers and tokens", "4 of the layers", "means of pairs", "ContextPool of pairs"
KEPT_LAYERS = [0, 2, 3, 5]
HALVED_BEFORE = 2
BATCH = 32
MAX_TRAIN_TOKENS, MAX_TOKENS = 48, 64
SENTENCE = "It is not funny, it is not moving, and it is far too long."
# What results/demo_text.json holds, which no package brings.
RECORDED: dict[str, Any] = {
    "settings": {"seed": 0, "steps": 200, "learning_rate": 0.0002, "pool_learning_rate": 0.001},
    "error": {
        "all layers and tokens": 3.534555435180664e-08,
        "4 of the layers": 0.10983581727743148,
        "means of pairs": 0.06961256092786788,
        "ContextPool of pairs": 0.05187640392780304,
    },
    "torch": "2.14.1+cu130",
}
FILES = "results.json, error.png, and the checkpoints cp-minilm-halved (converted) and cp-minilm-distilled (trained)"


def embed(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """`(batch, channels)`, each sentence's embedding as sentence-transformers makes it: the mean of the last hidden
    states of its tokens, of norm 1."""
    mask = inputs["attention_mask"][..., None]
    sums = (model(**inputs).last_hidden_state * mask).sum(dim=1)
    return F.normalize(sums / mask.sum(dim=1), dim=-1)


class Sentences:
    """Token ids of sentences, of their own lengths."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int):
        self.tokenizer = tokenizer
        self.input_ids = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]

    def batches(self, steps: int, seed: int) -> list[list[int]]:
        """The indices of batches in random order, whose sentences are of about the same length: padding costs time."""
        generator = torch.Generator().manual_seed(seed)
        passes = -(-steps * BATCH // len(self.input_ids))
        order = torch.cat([torch.randperm(len(self.input_ids), generator=generator) for _ in range(passes)]).tolist()
        batches = []
        for start in range(0, steps * BATCH, 32 * BATCH):
            chunk = sorted(order[start : min(start + 32 * BATCH, steps * BATCH)], key=lambda i: len(self.input_ids[i]))
            batches += [chunk[index : index + BATCH] for index in range(0, len(chunk), BATCH)]
        return [batches[index] for index in torch.randperm(steps, generator=generator).tolist()]

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        return dict(self.tokenizer.pad({"input_ids": [self.input_ids[i] for i in indices]}, return_tensors="pt"))

    @torch.no_grad()
    def embeddings(self, model: PreTrainedModel, chosen: Sequence[int] | None = None) -> torch.Tensor:
        """`(sentences, channels)` of all sentences, or of those with the numbers `chosen`, in their order. Batches are
        of like lengths."""
        chosen = range(len(self.input_ids)) if chosen is None else chosen
        order = sorted(range(len(chosen)), key=lambda place: len(self.input_ids[chosen[place]]))
        parts = [
            embed(model, self.batch([chosen[place] for place in order[start : start + 64]]))
            for start in range(0, len(order), 64)
        ]
        return torch.cat(parts)[torch.tensor(order).argsort()]


def classified_right(
    train: torch.Tensor, labels: Sequence[float], test: torch.Tensor, truth: Sequence[float]
) -> np.ndarray:
    """Which of the test sentences a logistic regression on the embeddings of the training ones gets right."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000).fit(train, labels).predict(test) == np.asarray(truth)


def run(
    output: str | os.PathLike,
    *,
    seed: int = 0,
    steps: int = 200,
    learning_rate: float = 2e-4,
    pool_learning_rate: float = 1e-3,
    quick: bool = False,
) -> dict[str, Any]:
    """Runs the demo and writes `results.json`, `error.png` and two checkpoints to `output`.

    Args:
        output: a folder; what an earlier run left there is replaced.
        seed: of the pooling and the order of the texts.
        steps: of training, for each model, on batches of 32 texts.
        learning_rate: of the pretrained weights.
        pool_learning_rate: of the pooling.
        quick: a run of under a minute on a handful of sentences that only shows that everything works.

    Returns:
        What is written to `results.json`.

    Raises:
        ImportError: the `demo` extra is not installed.
        OSError: the data cannot be fetched, or `output` cannot be written.
        ValueError: an argument is out of its range.
    """
    import matplotlib  # noqa: F401  (before any work, so that a missing extra is found now)
    import sklearn  # noqa: F401

    rates = {"learning_rate": learning_rate, "pool_learning_rate": pool_learning_rate}
    check_positive({"steps": steps, **rates})
    steps = min(steps, 4) if quick else steps
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)

    source = minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(source)
    films = {name: part[: 200 if quick else 2000] for name, part in load_film_reviews().items()}
    train = Sentences(load_review_texts()["train"]["text"], tokenizer, MAX_TRAIN_TOKENS)
    news = Sentences(load_news()["text"][: 100 if quick else 1000], tokenizer, MAX_TOKENS)
    reviews = {name: Sentences(films[name]["sentence"], tokenizer, MAX_TOKENS) for name in ("train", "test")}

    print("Converting all-MiniLM-L6-v2 ...", flush=True)
    record = convert_checkpoint(source, output / "cp-minilm-halved", halve_before=[HALVED_BEFORE], overwrite=True)
    difference = record["parity"]["max_abs_difference"]
    print(f"  largest difference of any output from the source's, with all tokens, in float32: {difference}")

    full = AutoModel.from_pretrained(source).eval()
    batches = train.batches(steps, seed)
    print(f"Embedding {steps * BATCH} review sentences with all layers and tokens ...", flush=True)
    with torch.no_grad():
        targets = [embed(full, train.batch(indices)) for indices in batches]

    def loss(model: Any, step: int) -> torch.Tensor:
        return (1 - (embed(model, train.batch(batches[step])) * targets[step]).sum(dim=-1)).mean()

    models: dict[str, PreTrainedModel] = {FULL: full}
    seconds = {FULL: 0.0}
    ways = faster_models(full, KEPT_LAYERS, HALVED_BEFORE, seed)
    for name, make in zip((CUT, MEANS, POOL), ways):
        print(f"Training: {name} ...", flush=True)
        models[name] = make()
        seconds[name] = learn(name, models[name], loss, steps=steps, **rates)

    print("Measuring ...", flush=True)
    batch = news.batch(range(BATCH))
    times = milliseconds(models, batch, rounds=3 if quick else 20)
    arms: list[dict[str, Any]] = []
    errors: dict[str, np.ndarray] = {}
    reference = news.embeddings(full)
    for name, model in models.items():
        embeddings = news.embeddings(model)
        errors[name] = 1 - (embeddings * reference).sum(dim=-1).clamp(max=1).double().numpy()
        right = classified_right(
            reviews["train"].embeddings(model),
            films["train"]["label"],
            reviews["test"].embeddings(model),
            films["test"]["label"],
        )
        arms.append(
            {
                "model": name,
                "parameters": model.num_parameters(),
                "milliseconds_a_batch": times[name],
                "time_to_full": times[name] / times[FULL],
                "error": float(errors[name].mean()),
                "error_standard_error": float(errors[name].std(ddof=1) / len(errors[name]) ** 0.5),
                "rho": rank_correlation(embeddings.numpy(), reference.numpy()),
                "accuracy": float(right.mean()),
                "accuracy_standard_error": float(right.std(ddof=1) / len(right) ** 0.5),
                "training_seconds": seconds[name],
            }
        )
    gain, gain_error = paired_difference(errors[MEANS], errors[POOL])

    checkpoint = output / "cp-minilm-distilled"
    models[POOL].save_pretrained(checkpoint)
    copy_processor(source, checkpoint)
    loaded = AutoModel.from_pretrained(checkpoint)

    results = {
        "quick": quick,
        "parity": difference,
        "arms": arms,
        "gain_over_means": gain,
        "gain_standard_error": gain_error,
        "batch": list(batch["input_ids"].shape),
        "threads": torch.get_num_threads(),
        "sentence": SENTENCE,
        "pooled": pooled_tokens(loaded, tokenizer, SENTENCE),
        "settings": {
            "seed": seed,
            "steps": steps,
            "train_texts": len(train.input_ids),
            "news": len(reference),
            "film_reviews": {name: len(part.input_ids) for name, part in reviews.items()},
            **rates,
        },
    }
    draw_against_cost(
        results,
        output / "error.png",
        title=f"all-MiniLM-L6-v2, {steps} steps of distillation",
        label="1 - cosine to the full model, news",
        cost_label=f"a batch of {BATCH}",
        metric="error",
        scale=1,
    )
    write_results(results, output)
    return results


def pooled_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentence: str
) -> list[list[tuple[str, float]]]:
    """For each token that is kept of a sentence, the tokens of which it has pooled a tenth or more, with their
    weights, the largest first."""
    inspection = inspect_pools(model, tokenizer(sentence, return_tensors="pt"), tokenizer)
    pool = next(pool for pool in inspection.pools if pool.stride > 1)
    assert inspection.tokens is not None and pool.token_in is not None
    tokens = [token for token, index in zip(inspection.tokens, pool.token_in) if index >= 0]
    rows = [pool.row(index) for index in range(pool.num_pools)]
    return [
        [
            (tokens[index], round(float(row[index]), 2))
            for index in np.argsort(-row, kind="stable")
            if row[index] >= 0.1
        ]
        for row in rows
    ]


def report(results: dict[str, Any]) -> str:
    """The results as text: the table, what was measured, and what the tokens that are kept of one sentence have
    pooled."""
    settings, full = results["settings"], results["arms"][0]["milliseconds_a_batch"]
    header = ["model", "parameters", "ms/batch", "speed", "1 - cosine", "rho", "film reviews"]
    rows = [
        [
            row["model"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['milliseconds_a_batch']:.1f}",
            f"{full / row['milliseconds_a_batch']:.2f}x",
            f"{row['error']:.3f}",
            f"{row['rho']:.3f}",
            f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_standard_error']:.1f} %",
        ]
        for row in results["arms"]
    ]
    gain, error = results["gain_over_means"], results["gain_standard_error"]
    reviews = settings["film_reviews"]
    lines = [
        *aligned(header, rows),
        "",
        f"1 - cosine to the full model's embeddings, and Spearman's rho of all pairs' similarities to its, on "
        f"{settings['news']:,}",
        "sentences from the news, none of which was trained on. Film reviews: accuracy of a logistic regression on",
        f"the embeddings of {reviews['train']:,} sentences, for {reviews['test']:,} others (± is one standard error).",
        f"ContextPool is nearer than the means by {gain:.4f} ± {error:.4f} (paired over the sentences).",
        f"One seed; each learned for {settings['steps']} steps of {BATCH} of {settings['train_texts']:,} review "
        f"sentences. Times: median",
        f"forward pass, {results['batch'][0]} sentences of up to {results['batch'][1]} tokens, threads: "
        f"{results['threads']}.",
        "",
    ]
    if results["quick"]:
        lines += QUICK
    lines += [f"What each token that is kept of this sentence has pooled: {results['sentence']}"]
    lines += ["  " + ", ".join(f"{token} {weight:.2f}" for token, weight in row) for row in results["pooled"]]
    return "\n".join([*lines, *beside_recorded(results, RECORDED, "error", "{:.4f}")])
