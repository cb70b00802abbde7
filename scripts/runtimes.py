# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Measures what other ways to run a model make of its accuracy and its speed.

Each model, stock and with pooling, runs in PyTorch as it is, compiled, with the dense and with the linear form of the
pooling, and as an ONNX graph in ONNX Runtime, in float32 and with its linear layers quantised to int8 (dynamically:
weights beforehand, activations as they come). The small models are trained first, on film reviews and the demo's
digits, and their accuracy is that on the validation examples; the models of usual size have random weights. Times are
ratios, round by round, to the same model in PyTorch as it is. Takes about 15 minutes on two cores; run it with nothing
else on the machine.

    python scripts/runtimes.py
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    ResNetConfig,
    ViTConfig,
)
from transformers.exporters import OnnxConfig, OnnxExporter, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

from cp_transformers import CPResNetConfig, CPViTConfig
from cp_transformers.benchmark.timing import environment, interleaved, ratio_to
from cp_transformers.checkpoints.conversion import convert_model, cut_layers
from cp_transformers.demo import digits as demo_digits
from cp_transformers.demo.comparison import make_trainer
from cp_transformers.files import rounded, write_csv
from cp_transformers.models.context_pool import ContextPool
from cp_transformers.training.digits import load_digits
from cp_transformers.training.film_reviews import load_film_reviews
from cp_transformers.training.packages import minilm_folder


COLUMNS = """
model weights runtime accuracy same_prediction largest_difference megabytes ratio lower_quartile upper_quartile rounds
threads torch machine
""".split()
BATCH, TOKENS, LONG = 40, 64, 512  # of the film reviews; all are padded alike, for compiled models
SEED = 0
Batch = dict[str, torch.Tensor]
Run = Callable[[Batch], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("results/runtimes.csv"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few examples: it shows only that everything works")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for part in (text_models, digit_models, usual_models):
        for name, weights, model, batches in part(options.quick):
            torch.compiler.reset()
            rows += measure(name, weights, model.eval(), batches, options)
    write_csv(options.output, COLUMNS, ([row.get(column, "") for column in COLUMNS] for row in rows))


def text_models(quick: bool) -> Iterator[tuple[str, str, PreTrainedModel, list[Batch]]]:
    """MiniLM cut to four layers, without pooling and with it, fine-tuned on film reviews."""
    source = minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(source)
    data = load_film_reviews().map(
        lambda batch: {**tokenizer(batch["sentence"], truncation=True, max_length=128)},
        batched=True,
        remove_columns=["sentence", "rating"],
    )
    data["train"] = data["train"].select(range(64 if quick else 2000))
    if quick:
        data["validation"] = data["validation"].select(range(2 * BATCH))
    sentences = data["validation"][:]
    # Long texts: 24 sentences of one label each, so long that pooling in linear time is another computation.
    texts: dict[str, list] = {"input_ids": [], "label": []}
    for label in (0, 1):
        own = [ids[1:-1] for ids, each in zip(sentences["input_ids"], sentences["label"]) if each == label]
        for start in range(0, len(own), 24):
            words = [word for ids in own[start : start + 24] for word in ids]
            texts["input_ids"].append([tokenizer.cls_token_id, *words[: LONG - 2], tokenizer.sep_token_id])
            texts["label"].append(label)
    arguments = {"padding": "max_length", "return_tensors": "pt"}
    short = {"input_ids": [ids[:TOKENS] for ids in sentences["input_ids"]], "label": sentences["label"]}
    examples = {
        f"{TOKENS} tokens": split(tokenizer.pad(short, max_length=TOKENS, **arguments), BATCH),
        f"{LONG} tokens": split(tokenizer.pad(texts, max_length=LONG, **arguments), 4),
    }
    torch.manual_seed(SEED)
    cut = cut_layers(AutoModelForSequenceClassification.from_pretrained(source, num_labels=2), [0, 1, 2, 3])
    for name, model in {"BERT": cut, "CP-BERT": convert_model(cut)}.items():
        train(model, data["train"], tokenizer, 1.0, 1e-4, 0.01, data_collator=DataCollatorWithPadding(tokenizer))
        for length, batches in examples.items():
            yield f"{name}, 4 layers, {length}", "fine-tuned on 2,000 film reviews", model, batches


def digit_models(quick: bool) -> Iterator[tuple[str, str, PreTrainedModel, list[Batch]]]:
    """Some of the demo's models of digits, trained as there."""
    digits, processor = load_digits(), demo_digits.make_processor()
    train_set = demo_digits.encode(digits["train"].select(range(64 if quick else 600)), processor)
    validation = demo_digits.encode(digits["validation"].select(range(2 * BATCH if quick else 1000)), processor)
    batches = {
        "pixel_values": torch.stack([example["pixel_values"] for example in validation]),
        "label": torch.tensor([example["labels"] for example in validation]),
    }
    for name in ("ViT, 2 layers", "CP-ViT, 2 layers", "ResNet", "CP-ResNet"):
        model = demo_digits.make_model(name, SEED)
        train(model, train_set, processor, 1.0 if quick else 60.0, 1e-3, 0.05)
        yield name, "trained on 600 digits", model, split(batches, BATCH)


def usual_models(quick: bool) -> Iterator[tuple[str, str, PreTrainedModel, list[Batch]]]:
    """Models of usual size, on two images of 224 x 224 pixels."""
    layers = 1 if quick else 12
    small = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": layers}
    depths = [1, 1, 1, 1] if quick else [3, 4, 6, 3]
    pixel_values = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(SEED))
    for name, config in {
        "ViT-S/16": ViTConfig(**small),
        "CP-ViT-S/16": CPViTConfig(**small),
        "ResNet-50": ResNetConfig(depths=depths),
        "CP-ResNet-50": CPResNetConfig(depths=depths),
    }.items():
        torch.manual_seed(SEED)
        yield name, "random", AutoModelForImageClassification.from_config(config), [{"pixel_values": pixel_values}]


def train(
    model: PreTrainedModel, data: Any, processing: Any, epochs: float, rate: float, weight_decay: float, **more: Any
) -> None:
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(
            model,
            data,
            processing,
            folder,
            epochs=epochs,
            seed=SEED,
            learning_rate=rate,
            pool_learning_rate=1e-3,
            weight_decay=weight_decay,
            **more,
        ).train()


def split(examples: Batch, size: int) -> list[Batch]:
    """Into batches of this size; what is left over is left out."""
    number = len(examples["label"]) // size
    return [{name: tensor[size * i : size * (i + 1)] for name, tensor in examples.items()} for i in range(number)]


def measure(
    name: str, weights: str, model: PreTrainedModel, batches: list[Batch], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each way to run the model."""
    labels = np.concatenate([batch.get("label", torch.tensor([])).numpy() for batch in batches])
    batches = [{key: value for key, value in batch.items() if key != "label"} for batch in batches]
    with tempfile.TemporaryDirectory() as folder:
        runs, sizes = runtimes(model, batches[0], Path(folder), options.threads)
        logits = {runtime: np.concatenate([run(batch) for batch in batches]) for runtime, run in runs.items()}
        calls = {runtime: partial(run, batches[0]) for runtime, run in runs.items()}
        seconds = interleaved(calls, rounds=2 if options.quick else 31, warm_up=3)
    plain, rows = logits["PyTorch"], []
    for runtime, values in logits.items():
        row = {
            "model": name,
            "weights": weights,
            "runtime": runtime,
            "accuracy": float((values.argmax(-1) == labels).mean()) if len(labels) else "",
            "same_prediction": float((values.argmax(-1) == plain.argmax(-1)).mean()) if len(labels) else "",
            "largest_difference": float(np.abs(values - plain).max() / np.abs(plain).max()),
            "megabytes": sizes[runtime] / 2**20,
            **ratio_to(seconds[runtime], seconds["PyTorch"]),
            "rounds": len(seconds[runtime]),
            **environment(options.threads),
        }
        rows.append({column: rounded(value) for column, value in row.items()})
        print(*(f"{row[column]:.3g}" if isinstance(row[column], float) else row[column] for column in COLUMNS[:-3]))
    return rows


def runtimes(
    model: PreTrainedModel, example: Batch, folder: Path, threads: int
) -> tuple[dict[str, Run], dict[str, int]]:
    """The ways to run the model, by name, and how many bytes its weights take."""
    compiled = torch.compile(model, fullgraph=True)
    runs: dict[str, Run] = {"PyTorch": partial(run_torch, model), "PyTorch, compiled": partial(run_torch, compiled)}
    if hasattr(model.config, "pool_implementation"):
        for implementation in ("dense", "linear"):
            runs[f"PyTorch, {implementation} pooling"] = partial(run_pooling, model, implementation)
    sizes = dict.fromkeys(runs, sum(weight.nbytes for weight in model.parameters()))
    int8 = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul"], per_channel=True))
    for runtime, quantizer in {"ONNX Runtime": None, "ONNX Runtime, int8": int8}.items():
        path = folder / runtime
        OnnxExporter().export(model, example, OnnxConfig(dynamic=True, quantizer=quantizer)).save_pretrained(path)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        # Its threads would go on waiting in a loop, and slow down whatever runs next.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(path / "model.onnx", settings, providers=["CPUExecutionProvider"])
        runs[runtime] = partial(run_session, session)
        sizes[runtime] = sum(file.stat().st_size for file in path.glob("model.onnx*"))
    return runs, sizes


@torch.no_grad()
def run_torch(model: Callable, batch: Batch) -> np.ndarray:
    return model(**batch).logits.numpy()


def run_pooling(model: PreTrainedModel, implementation: str, batch: Batch) -> np.ndarray:
    pools = [module for module in model.modules() if isinstance(module, ContextPool)]
    before = [pool.pool_implementation for pool in pools]
    for pool in pools:
        pool.pool_implementation = implementation
    try:
        return run_torch(model, batch)
    finally:
        for pool, its_own in zip(pools, before):
            pool.pool_implementation = its_own


def run_session(session: onnxruntime.InferenceSession, batch: Batch) -> np.ndarray:
    return session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]


if __name__ == "__main__":
    main()
