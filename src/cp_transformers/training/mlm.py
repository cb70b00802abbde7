# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Masked language modelling (Devlin et al., "BERT", NAACL 2019) of CP and stock BERT, from scratch or going on from a
checkpoint, on any text.

The vocabulary is trained on the spot or given. Short texts are packed into rows, in which they neither attend to nor
pool each other. Which tokens are masked depends on the seed, the epoch and the row alone.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForMaskedLM,
    BertTokenizer,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from ..families import FAMILIES, configs_with, family_of, first_position, max_tokens
from .arguments import ArgumentParser, as_mapping, check_positive
from .data_files import HELD_OUT
from .loading import load_config, load_model, load_tokenizer, new_config
from .metrics import check_finite
from .rows import Drawn, DrawnAnew, Stream
from .run_folder import RunFolder
from .texts import check_files, encode, load_texts
from .trainer import TaskTrainer, check_metrics, only_logits


CONFIGS = configs_with("ForMaskedLM")
PACKED = [name for name in CONFIGS if FAMILIES[name.removeprefix("cp_")].takes_packed_rows]
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
IGNORED = -100  # the label of a token that is not predicted


@dataclass
class MlmArguments:
    """The options of the command besides transformers' TrainingArguments."""

    model_type: str = field(
        default=next(iter(CONFIGS)), metadata={"help": f"of a new model: one of {', '.join(CONFIGS)}"}
    )
    model_config: str = field(
        default="{}",
        metadata={"help": "of a new model: fields of its configuration, e.g. '{\"num_hidden_layers\": 2}'"},
    )
    pool_config: str = field(
        default="{}", metadata={"help": "the same, for the pool_ fields, which a stock model leaves out"}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "a checkpoint to go on from, or to evaluate, in place of a new model"}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "a checkpoint whose vocabulary to use; default: one trained on the texts"}
    )
    vocab_size: int = field(default=8000, metadata={"help": "of a vocabulary that is trained, at most"})
    dataset_name: str | None = field(
        default=None, metadata={"help": "texts on the Hub, or review-texts, those of a package"}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "its configuration"})
    train_file: str | None = field(
        default=None, metadata={"help": "in its place texts as .txt (one a line), .jsonl, .csv or .parquet"}
    )
    validation_file: str | None = field(
        default=None,
        metadata={"help": f"held-out texts, likewise; default: one in {HELD_OUT} of those of train_file"},
    )
    train_split: str = field(default="train", metadata={"help": "the split of dataset_name to train on"})
    validation_split: str = field(default="validation", metadata={"help": "the split of it to evaluate on"})
    text_column: str = field(default="text", metadata={"help": "the column of the texts"})
    streaming: bool = field(
        default=False,
        metadata={"help": "read the texts while training, those on the Hub from there; needs --max_steps"},
    )
    max_length: int = field(default=128, metadata={"help": "tokens in a row; longer texts are split"})
    pack: bool = field(default=True, metadata={"help": "whether several short texts share a row"})
    mlm_probability: float = field(default=0.15, metadata={"help": "with which a token or word is masked"})
    whole_word_mask: bool = field(default=False, metadata={"help": "mask whole words, not single tokens"})
    max_train_samples: int | None = field(default=None, metadata={"help": "train on the first of the texts alone"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "evaluate on the first of them alone"})
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "processes that make the rows"})
    pool_learning_rate: float | None = field(
        default=None, metadata={"help": "of the pooling modules; default: that of the rest"}
    )

    def __post_init__(self) -> None:
        if self.model_type not in CONFIGS:
            raise ValueError(f"model_type must be one of {', '.join(CONFIGS)}, not {self.model_type}.")
        for name in ("model_config", "pool_config"):
            as_mapping(name, getattr(self, name))
        if self.train_file or self.validation_file:  # in the place of a data set and its splits
            self.dataset_name = self.dataset_config_name = None
            self.train_split, self.validation_split = "train", "validation"
        elif not self.dataset_name:
            raise ValueError("Give the texts by --dataset_name, or by --train_file and --validation_file.")
        if self.max_length < 8:
            raise ValueError(f"max_length must be at least 8, not {self.max_length}.")
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"mlm_probability must be between 0 and 1, not {self.mlm_probability}.")
        check_positive(self, "vocab_size", "max_train_samples", "max_eval_samples", "pool_learning_rate")


def run(arguments: MlmArguments, training: TrainingArguments) -> dict[str, Any]:
    """Trains and evaluates as `training.do_train` and `do_eval` say, and writes the model with its tokenizer, the
    resolved arguments and `results.json` to `training.output_dir`.

    Returns:
        The content of `results.json`: of the held-out texts the mean loss of the masked tokens (`loss`, in nats),
        its exponential (`perplexity`), the fraction predicted rightly (`accuracy`), and their number (`tokens`). The
        same tokens are masked in every evaluation of the same texts with the same vocabulary, so that models can be
        compared.

    Raises:
        ValueError: an argument, the data or the checkpoint is not what is needed.
        FileExistsError: `output_dir` has the results of another run.
        OSError: something cannot be read or written.
    """
    run_folder = RunFolder(training, arguments)
    _check(arguments, training)
    run_folder.check()
    _check_model(arguments)
    if (found := run_folder.find_results()) is not None:
        return found
    with training.main_process_first():  # the others then find what it has cached
        texts = load_texts(arguments, training)
    training = run_folder.go_on()
    training.remove_unused_columns = False  # the collator needs them
    tokenizer = make_tokenizer(arguments, training, texts.get("train"))
    set_seed(training.seed)
    model = make_model(arguments, tokenizer)
    run_folder.prepare(model)

    with training.main_process_first():
        # With several processes packed rows are others, and of those held out the masked tokens are to stay the same.
        alone = replace(arguments, preprocessing_num_workers=None)
        rows = {
            split: encode(data, arguments if split == "train" else alone, tokenizer) for split, data in texts.items()
        }
    masking = Masking(tokenizer, arguments.mlm_probability)
    evaluated = _to_evaluate(rows["validation"], masking) if "validation" in rows else None
    trainer = TaskTrainer(
        model,
        training,
        data_collator=Collator(
            tokenizer,
            arguments.pack,
            pools=family_of(model.config) is not None,
            first_position=first_position(model.config),
        ),
        train_dataset=_to_train(rows["train"], masking, training.seed) if training.do_train else None,
        eval_dataset=evaluated,
        processing_class=tokenizer,
        preprocess_logits_for_metrics=score_rows,
        compute_metrics=sum_scores,
        pool_learning_rate=arguments.pool_learning_rate,
        source=arguments.model_name_or_path,
    )
    # The loss of a batch is a mean over its masked tokens, which Trainer would take for a sum over all batches'.
    trainer.model_accepts_loss_kwargs = False
    if training.do_train:
        trainer.train_and_save()
    metrics = {}
    if training.do_eval:
        measured = trainer.evaluate()
        metrics = {name: measured[f"eval_{name}"] for name in ("loss", "perplexity", "accuracy", "tokens")}
    results = {
        "model": arguments.model_name_or_path or model.config.model_type,
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "rows": {split: len(data) for split, data in rows.items() if isinstance(data, Dataset)},
        "metrics": metrics,
    }
    figures = [
        {"split": arguments.validation_split, "metric": name, "name": name, "value": metrics[name]}
        for name in ("perplexity", "accuracy", "loss")
        if metrics
    ]
    return run_folder.finish(results, figures)


def _check(arguments: MlmArguments, training: TrainingArguments) -> None:
    """Refuses what can be known to be wrong before anything is loaded.

    Raises:
        ValueError, FileNotFoundError: see [`run`].
    """
    if not (training.do_train or training.do_eval):
        raise ValueError("There is nothing to do: give --do_train or --do_eval.")
    if not (training.do_train or arguments.model_name_or_path):
        raise ValueError("A new model has nothing to evaluate: give --do_train, or --model_name_or_path.")
    if arguments.streaming and training.do_train and training.max_steps <= 0:
        raise ValueError("Texts that are streamed have no known number: say how long to train with --max_steps.")
    check_files(arguments, training)
    if training.do_predict:
        raise ValueError("A language model has nothing to predict here: leave out --do_predict.")
    check_metrics(training, ("loss", "perplexity", "accuracy"))


def _check_model(arguments: MlmArguments) -> None:
    """Refuses a model that the rows do not fit, by its configuration.

    Raises:
        ValueError: it has fewer positions than the rows, or takes no packed ones; or there is no such model.
    """
    if arguments.model_name_or_path is not None:
        config = load_config(arguments.model_name_or_path, AutoModelForMaskedLM)
    else:
        config = new_config(CONFIGS, arguments)
    _check_positions(config, arguments)
    if arguments.pack and config.model_type not in PACKED:
        raise ValueError(f"Rows are packed for {', '.join(PACKED)}, not {config.model_type}: give --pack false.")


def make_tokenizer(arguments: MlmArguments, training: TrainingArguments, texts: Any) -> PreTrainedTokenizerBase:
    """The given vocabulary, or that of a run which goes on, or one that is trained on the texts.

    Raises:
        OSError: the given one cannot be read.
        ValueError: it has no token for masking, or no words where they are to be masked.
    """
    output = Path(training.output_dir)
    name = arguments.tokenizer_name or arguments.model_name_or_path
    if name is None and training.resume_from_checkpoint is not None and (output / "tokenizer.json").is_file():
        name = str(output)
    if name is None:
        with training.main_process_first(local=False):
            if training.process_index == 0:
                train_tokenizer((row["text"] for row in texts), arguments.vocab_size).save_pretrained(output)
            tokenizer = load_tokenizer(output)
    else:
        try:
            tokenizer = load_tokenizer(name)
        except (OSError, ValueError) as error:
            raise OSError(f"{name} has no tokenizer that can be read; choose another --tokenizer_name.") from error
    if tokenizer.mask_token_id is None:
        raise ValueError(f"The tokenizer of {name} has no mask token; choose another --tokenizer_name.")
    if arguments.whole_word_mask and not tokenizer.is_fast:
        raise ValueError(f"The tokenizer of {name} does not tell words apart: leave out --whole_word_mask.")
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_texts: int = 100_000) -> BertTokenizer:
    """BERT's tokenizer, in lower case, with a WordPiece vocabulary trained on the first `max_texts` texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    kept = list(itertools.islice(texts, max_texts))
    characters: Counter[str] = Counter()
    for text in kept:
        characters.update(tokenizer.normalizer.normalize_str(text))
    frequent = sorted(characters, key=lambda character: (-characters[character], character))[:1000]
    alphabet = sorted(character for character in frequent if not character.isspace())
    smallest = len(SPECIAL_TOKENS) + 2 * len(alphabet)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size must be at least {smallest} for the characters of these texts, not {vocab_size}."
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        # The trainer numbers what is inside words in the order of a hash map, and breaks ties by the numbers: unless
        # they are given to it, each run has another vocabulary.
        special_tokens=[*SPECIAL_TOKENS, *(f"##{character}" for character in alphabet)],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(kept, trainer)
    return BertTokenizer(vocab=tokenizer.get_vocab())


def make_model(arguments: MlmArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The checkpoint, or a new model.

    Raises:
        ValueError: it has fewer tokens than the tokenizer, or fewer positions than the rows.
        OSError: the checkpoint cannot be read.
    """
    if arguments.model_name_or_path is not None:
        config = load_config(arguments.model_name_or_path, AutoModelForMaskedLM)
        _check_fit(config, arguments, tokenizer)
        return load_model(arguments.model_name_or_path, AutoModelForMaskedLM, config=config)
    config = new_config(CONFIGS, arguments, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    _check_fit(config, arguments, tokenizer)
    tokenizer.model_max_length = max_tokens(config)  # that of another model is not this one's
    return AutoModelForMaskedLM.from_config(config)


def _check_fit(config: Any, arguments: MlmArguments, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a model with fewer tokens than the tokenizer, or with fewer positions than the rows."""
    if config.vocab_size < len(tokenizer):
        raise ValueError(f"The model has {config.vocab_size} tokens and the tokenizer {len(tokenizer)}.")
    _check_positions(config, arguments)


def _check_positions(config: Any, arguments: MlmArguments) -> None:
    """Refuses a model with fewer positions than the rows."""
    if 0 < max_tokens(config) < arguments.max_length:
        raise ValueError(
            f"The model has {max_tokens(config)} positions, fewer than max_length, {arguments.max_length}."
        )


class Masking:
    """Chooses what is to be predicted: each word with the given probability. Of the tokens of chosen words 80 % are
    masked, 10 % replaced by any token and 10 % kept, as in BERT."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, probability: float):
        self.mask_token, self.num_tokens, self.probability = tokenizer.mask_token_id, len(tokenizer), probability

    def __call__(self, row: dict[str, list[int]], seed: int) -> dict[str, torch.Tensor]:
        """A row's tensors `input_ids`, `labels` (-100 where nothing is predicted) and `segments`, each `(tokens,)`."""
        generator = torch.Generator().manual_seed(seed)
        tokens, words = torch.tensor(row["input_ids"]), torch.tensor(row["words"])
        draws = torch.rand(len(words), generator=generator)
        chosen = (draws[words.clamp(min=0)] < self.probability) & (words >= 0)
        fate = torch.rand(len(tokens), generator=generator)
        others = torch.randint(self.num_tokens, tokens.shape, generator=generator)
        changed = torch.where(fate < 0.8, self.mask_token, torch.where(fate < 0.9, others, tokens))
        return {
            "input_ids": torch.where(chosen, changed, tokens),
            "labels": torch.where(chosen, tokens, IGNORED),
            "segments": torch.tensor(row["segments"]),
        }


@dataclass
class Collator:
    """Pads rows to the longest of the batch.

    Packed rows get a 4-D `attention_mask` by which each text attends to itself alone, `position_ids` that start anew
    in each, from `first_position` on, and, for a model that pools, `pool_segments`.
    """

    tokenizer: PreTrainedTokenizerBase
    pack: bool
    pools: bool = False
    first_position: int = 0

    def __call__(self, examples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        def padded(name: str, value: int) -> torch.Tensor:
            return pad_sequence([example[name] for example in examples], batch_first=True, padding_value=value)

        segments = padded("segments", 0)
        batch = {"input_ids": padded("input_ids", self.tokenizer.pad_token_id), "labels": padded("labels", IGNORED)}
        if not self.pack:
            return {**batch, "attention_mask": (segments != 0).long()}
        # Padding attends to itself, so that no row of the softmax is empty.
        batch["attention_mask"] = (segments[:, :, None] == segments[:, None, :])[:, None]
        index = torch.arange(segments.shape[1]).expand_as(segments)
        starts = torch.ones_like(segments, dtype=torch.bool)
        starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
        batch["position_ids"] = self.first_position + index - torch.where(starts, index, 0).cummax(dim=1).values
        return {**batch, "pool_segments": segments} if self.pools else batch


def _to_train(rows: Dataset | IterableDataset, masking: Masking, seed: int) -> Any:
    if isinstance(rows, IterableDataset):
        return Stream(rows.shuffle(seed=seed, buffer_size=10_000), masking, seed)
    return DrawnAnew(rows, masking, seed)


def _to_evaluate(rows: Dataset, masking: Masking) -> Drawn:
    """Masked in one way for ever: neither the run's seed nor the epoch has a part in it.

    Raises:
        ValueError: nothing is masked, so that there is nothing to measure.
    """
    masked = Drawn(rows, masking, seed=0)
    if not any((masked[index]["labels"] != IGNORED).any() for index in range(len(masked))):
        raise ValueError("No token of the held-out texts is masked: there are too few of them.")
    return masked


def score_rows(outputs: torch.Tensor | tuple, labels: torch.Tensor) -> torch.Tensor:
    """Three numbers for each row: the sum of the losses of its masked tokens, how many of them are predicted rightly,
    and how many there are.

    Args:
        outputs: logits, `(rows, tokens, vocabulary)`, alone or the first of several outputs.
        labels: `(rows, tokens)`.

    Returns:
        `(rows, 3)`.
    """
    logits, masked = only_logits(outputs, labels), labels != IGNORED
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    right = (logits.argmax(dim=-1) == labels) & masked
    return torch.stack([losses.sum(dim=1), right.sum(dim=1).float(), masked.sum(dim=1).float()], dim=1)


def sum_scores(prediction: EvalPrediction) -> dict[str, float]:
    """The metrics over all masked tokens, each of the same weight."""
    loss, right, tokens = prediction.predictions.astype("float64").sum(axis=0).tolist()
    mean = loss / tokens
    check_finite(mean)
    return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "accuracy": right / tokens, "tokens": int(tokens)}


def report(results: dict[str, Any]) -> str:
    """The results in one line."""
    metrics = results["metrics"]
    return (
        f"{results['model']}, {results['parameters'] / 1e6:.1f} M parameters: perplexity {metrics['perplexity']:.2f} "
        f"(loss {metrics['loss']:.4f}), {100 * metrics['accuracy']:.2f} % right, of {metrics['tokens']} masked tokens"
    )


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """The command `cp-transformers mlm`, and scripts/run_mlm.py; returns what [`run`] returns."""
    parser = ArgumentParser(
        [MlmArguments, TrainingArguments],
        prog="cp-transformers mlm",
        description="Train CP or stock BERT as a masked language model, from scratch or from a checkpoint.",
    )
    arguments, training = parser.parse(args)
    results = run(arguments, training)
    if training.process_index == 0:
        if results["metrics"]:
            print("\n" + report(results))
        print(f"\nWritten to {training.output_dir}.")
    return results
