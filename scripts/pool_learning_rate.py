"""How the pooling modules' own learning rate matters when a converted checkpoint is fine-tuned.

Fine-tunes all-MiniLM-L6-v2, cut to four layers, on the demo's film reviews, without pooling and with it, for several
pooling learning rates and seeds, and writes the accuracy on the validation sentences and how far the gates have opened
to results/pool_learning_rate.csv. A run that is already in the file is not repeated, so it can be stopped at any time.

    python scripts/pool_learning_rate.py
"""

import argparse
import csv
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer, DataCollatorWithPadding

from cp_transformers.conversion import convert_model, cut_layers
from cp_transformers.tasks.comparison import make_trainer
from cp_transformers.tasks.demo_text import KEPT_LAYERS, POOL_CONFIG, load_stock, minilm_folder, tokenize
from cp_transformers.tasks.film_reviews import load_film_reviews


COLUMNS = ["model", "pool_learning_rate", "seed", "validation_accuracy", "mean_absolute_gate"]
# Of every run in the file, which is gone on with by the columns.
LEARNING_RATE, TRAIN_SAMPLES, EPOCHS = 1e-4, 2000, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("results/pool_learning_rate.csv"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pool-learning-rates", type=float, nargs="+", default=[1e-4, 1e-3, 1e-2])
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    data = tokenize(load_film_reviews(), tokenizer)
    data["train"] = data["train"].select(range(TRAIN_SAMPLES))
    runs = [
        (name, rate, seed)
        for seed in options.seeds
        for name, rates in {"BERT": [0.0], "CP-BERT": options.pool_learning_rates}.items()
        for rate in rates
    ]
    for name, rate, seed in runs:
        key = [name, str(rate), str(seed)]
        if key in [row[:3] for row in read(options.output)]:
            continue
        print(f"{name}, pooling learning rate {rate}, seed {seed}", flush=True)
        model = cut_layers(load_stock(minilm_folder(), seed), KEPT_LAYERS)
        if name == "CP-BERT":
            torch.manual_seed(seed)
            model = convert_model(model, **POOL_CONFIG)
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(
                model,
                data["train"],
                tokenizer,
                folder,
                epochs=EPOCHS,
                seed=seed,
                learning_rate=LEARNING_RATE,
                pool_learning_rate=rate or LEARNING_RATE,
                weight_decay=0.01,
                data_collator=DataCollatorWithPadding(tokenizer),
            )
            trainer.train()
            accuracy = trainer.evaluate(data["validation"])["eval_accuracy"]
        gates = [p.detach().abs().mean().item() for name, p in model.named_parameters() if name.endswith("pool.gate")]
        gate = f"{sum(gates) / len(gates):.4f}" if gates else ""
        append(options.output, [*key, f"{accuracy:.4f}", gate])


def read(path: Path) -> list[list[str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return list(csv.reader(stream))[1:]


def append(path: Path, row: list[str]) -> None:
    """One `write` a row, so that several processes can share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, row] if new else [row])


if __name__ == "__main__":
    main()
