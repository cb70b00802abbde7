# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers mlm` on small models and texts: what its tests share."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file

from cp_transformers.cli import main as cli
from cp_transformers.training import mlm as task
from cp_transformers.training.rows import Drawn
from cp_transformers.training.texts import encode


WORDS = ["a", "film", "the", "story", "is", "and", "it", "was", "running", "play", "unbelievable", "quickly", "Odd"]
ENDS = [".", "!", "?!", "", ", no", " (bad)"]
MAX_LENGTH = 16

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TINY |= {"max_position_embeddings": 40, "initializer_range": 0.3}
POOLS = {"pool_num_heads": 2, "pool_max_offset": 2.0, "pool_range": 0.5}
QUIET = ["--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
MODEL = ["--model_config", json.dumps(TINY), "--pool_config", json.dumps(POOLS), "--vocab_size", "120"]
MODEL += ["--max_length", str(MAX_LENGTH)]
TRAIN = ["--do_train", "--max_steps", "2", "--learning_rate", "1e-2", "--save_strategy", "no"]


def tiny_sizes(model_type: str) -> dict[str, Any]:
    """`TINY`, as far as the configurations of the type have the fields."""
    config = task.CONFIGS[model_type]()
    return {name: value for name, value in {**TINY, "hidden_dim": 24}.items() if hasattr(config, name)}


def sentences(count: int, seed: int, longest: int = 6) -> list[str]:
    generator = random.Random(seed)
    lengths = [generator.randint(1, longest) for _ in range(count)]
    return [" ".join(generator.choices(WORDS, k=length)) + generator.choice(ENDS) for length in lengths]


LONG = " ".join(sentences(12, seed=7))  # several rows
TEXTS = {"train": [*sentences(40, seed=1), LONG], "validation": [*sentences(23, seed=2), LONG]}


def write(folder: Path, name: str, texts: list[str], extension: str = "txt", column: str = "text") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{extension}"
    if extension == "txt":
        path.write_text("".join(text + "\n" for text in texts))
    else:
        data = Dataset.from_dict({"number": list(range(len(texts))), column: texts})
        {"jsonl": data.to_json, "csv": data.to_csv, "parquet": data.to_parquet}[extension](str(path))
    return path


def make_data(folder: Path) -> Path:
    """A folder with the texts of both splits."""
    for split, texts in TEXTS.items():
        write(folder, split, texts)
    return folder


def make_tokenizer():
    return task.train_tokenizer(TEXTS["train"], vocab_size=120)


def encoded(texts: list[str], tokenizer, **fields) -> list[dict]:
    """The rows of these texts; `fields` are options of `mlm`."""
    arguments = task.MlmArguments(train_file="texts.txt", **{"max_length": MAX_LENGTH, **fields})
    return list(encode(Dataset.from_dict({"text": texts}), arguments, tokenizer))


def pieces(row: dict) -> list[slice]:
    """Where each text of a row is."""
    lengths = Counter(segment for segment in list(map(int, row["segments"])) if segment)
    ends = [sum(lengths[number] for number in range(1, last + 1)) for last in range(1, len(lengths) + 1)]
    return [slice(start, stop) for start, stop in zip([0, *ends], ends)]


def options(data: Path, output: Path, *more) -> list[str]:
    paths = ["--train_file", data / "train.txt", "--validation_file", data / "validation.txt", "--output_dir", output]
    return [str(each) for each in (*paths, *QUIET, *MODEL, *more)]


def results_of(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def mlm(data: Path, output: Path, *more) -> dict:
    """Runs the command and returns its metrics."""
    assert cli(["mlm", *options(data, output, *more)]) == 0
    return results_of(output)["metrics"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def make_trained(data: Path, folder: Path) -> Path:
    """The output of a run that trained and evaluated."""
    mlm(data, folder, *TRAIN, "--do_eval")
    return folder


def record_rows(monkeypatch) -> dict[str, list[dict]]:
    """The rows that models were given, in order, by whether in training."""
    rows: dict[str, list[dict]] = {"train": [], "validation": []}

    def record(name, into):
        make = getattr(task, name)

        def recording(*args):
            examples = make(*args)
            if isinstance(examples, Drawn):
                draw = examples.draw

                def recorded(row, seed):
                    into.append(draw(row, seed))
                    return into[-1]

                examples.draw = recorded
            return examples

        monkeypatch.setattr(task, name, recording)

    record("_to_train", rows["train"])
    record("_to_evaluate", rows["validation"])
    return rows


def refusal(capsys, args: list[str]) -> str:
    """The one line in which a command is refused."""
    capsys.readouterr()
    assert cli(["mlm", *args]) == 1
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert lines[-1].startswith("cp-transformers: ") and "Traceback" not in printed.err, printed.err
    return lines[-1]
