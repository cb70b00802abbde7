# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers glue` on small models and files: what its tests share."""

import json
import random
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from cp_transformers import CPBertConfig, CPBertModel
from cp_transformers.cli import main as cli


ROOT = Path(__file__).parents[1]
COLUMNS = {
    "cola": ["sentence"],
    "sst2": ["sentence"],
    "mrpc": ["sentence1", "sentence2"],
    "stsb": ["sentence1", "sentence2"],
    "qqp": ["question1", "question2"],
    "mnli": ["premise", "hypothesis"],
    "qnli": ["question", "sentence"],
    "rte": ["sentence1", "sentence2"],
    "wnli": ["sentence1", "sentence2"],
    "ax": ["premise", "hypothesis"],
}
LABELS = {
    "cola": ["unacceptable", "acceptable"],
    "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "stsb": None,
    "qqp": ["not_duplicate", "duplicate"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["entailment", "not_entailment"],
    "wnli": ["not_entailment", "entailment"],
    "ax": ["entailment", "neutral", "contradiction"],
}
METRICS = {
    "cola": ["matthews"],
    "sst2": ["accuracy"],
    "mrpc": ["accuracy", "f1"],
    "stsb": ["pearson", "spearman"],
    "qqp": ["accuracy", "f1"],
    "mnli": ["accuracy"],
    "qnli": ["accuracy"],
    "rte": ["accuracy"],
    "wnli": ["accuracy"],
}
SERVER_FILES = {
    "cola": ["CoLA"],
    "sst2": ["SST-2"],
    "mrpc": ["MRPC"],
    "stsb": ["STS-B"],
    "qqp": ["QQP"],
    "mnli": ["MNLI-m", "MNLI-mm"],
    "qnli": ["QNLI"],
    "rte": ["RTE"],
    "wnli": ["WNLI"],
    "ax": ["AX"],
}
SAID_IN_WORDS = ["mnli", "ax", "qnli", "rte"]
SPLITS = {"train": 24, "validation": 12, "test": 6}
MNLI_SPLITS = {"train": 24, "validation_matched": 12, "validation_mismatched": 12}
MNLI_SPLITS |= {"test_matched": 6, "test_mismatched": 6}

DECIDING = ["bad", "good", "odd", "three", "four", "five"]  # the word of each label
FILLING = ["a", "film", "the", "story", "is", "and", "it", "was"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *DECIDING, *FILLING]

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TINY |= {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40}
QUIET = ["--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
TRAIN = ["--do_train", "--max_steps", "2", "--learning_rate", "1e-3", "--save_strategy", "no"]
ALL = [*TRAIN, "--do_eval", "--do_predict"]


def rows(task: str, split: str, count: int) -> list[dict]:
    """Examples in the columns of `task`, where a word decides the label; without labels in test splits."""
    examples = []
    for index in range(count):
        generator = random.Random(f"{split} {index}")
        labels = LABELS[task]
        label = generator.randrange(len(labels) if labels else len(DECIDING))
        texts = [generator.choices(FILLING, k=generator.randint(2, 7)) for _ in COLUMNS[task]]
        texts[-1].insert(generator.randrange(3), DECIDING[label])
        known = -1 if split.startswith("test") else label if labels else label * 0.9
        examples.append({**dict(zip(COLUMNS[task], map(" ".join, texts))), "label": known, "idx": index})
    return examples


def write(folder: Path, split: str, examples: list[dict], extension: str = "jsonl", features=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data, path = Dataset.from_list(examples, features=features), folder / f"{split}.{extension}"
    {"jsonl": data.to_json, "csv": data.to_csv, "parquet": data.to_parquet}[extension](str(path))
    return path


def write_task(folder: Path, task: str, extension: str = "jsonl") -> Path:
    splits = {"mnli": MNLI_SPLITS, "ax": {"test": 6}}.get(task, SPLITS)
    for split, count in splits.items():
        write(folder, split, rows(task, split, count), extension)
    return folder


def save_model(folder: Path, model_class: type = CPBertModel, labels: list[str] | None = None, **options) -> Path:
    """A checkpoint with large random weights, so that its predictions differ, and its tokenizer."""
    if model_class in (BertModel, BertForSequenceClassification):
        config = BertConfig(**{**TINY, "initializer_range": 0.5, **options})
    else:
        config = CPBertConfig(**{**TINY, "pool_gate": True, "initializer_range": 0.5, **options})
    if labels is not None:
        config.num_labels = len(labels)
        config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def make_material(folder: Path) -> Path:
    """A folder with the data of every task, under its name, and the checkpoints without heads `cp` and `stock`."""
    for task in LABELS:
        write_task(folder / task, task)
    save_model(folder / "cp", CPBertModel)
    save_model(folder / "stock", BertModel)
    return folder


def options(task: str, model: Path, data: Path, output: Path, *more) -> list[str]:
    paths = ["--model_name_or_path", model, "--data_dir", data, "--output_dir", output]
    return [str(each) for each in ("--task", task, *paths, *QUIET, *more)]


def results_of(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def glue(task: str, model: Path, data: Path, output: Path, *more) -> dict:
    """Runs the command and returns its metrics."""
    assert cli(["glue", *options(task, model, data, output, *more)]) == 0
    return results_of(output)["metrics"]


def predictions(output: Path, name: str) -> list[str]:
    """A prediction file's second column; the first must number the rows."""
    header, *lines = (output / "predictions" / f"{name}.tsv").read_text().splitlines()
    assert header == "index\tprediction"
    indices, values = zip(*(line.split("\t") for line in lines))
    assert list(indices) == [str(index) for index in range(len(lines))]
    return list(values)


def by_hand(model: Path, task: str, examples: list[dict]) -> torch.Tensor:
    """Logits of a saved model, one example at a time."""
    network, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(model),
        AutoTokenizer.from_pretrained(model),
    )
    with torch.no_grad():
        encoded = [tokenizer(*(row[column] for column in COLUMNS[task]), return_tensors="pt") for row in examples]
        return torch.cat([network.eval()(**each).logits for each in encoded])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal_weights(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(capsys, output: Path, args: list[str]) -> str:
    """The one line in which a command is refused, before there is an output folder."""
    capsys.readouterr()
    assert cli(["glue", *args]) == 1
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert lines[-1].startswith("cp-transformers: ") and "Traceback" not in printed.err, printed.err
    assert not output.exists()
    return lines[-1]
