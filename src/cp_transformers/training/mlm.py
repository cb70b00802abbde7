# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Masked language modelling (Devlin et al., "BERT", NAACL 2019) of CP and stock BERT, from scratch or going on from a
checkpoint, on any text.

The vocabulary is trained on the spot or given. Short texts are packed into rows, in which they neither attend to nor
pool each other. Which tokens are masked depends on the seed, the epoch and the row alone.
"""

import copy
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, IterableDataset, List, Value
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
from transformers.utils import logging

from ..families import configs_with, family_of, first_position, max_tokens
from .arguments import ArgumentParser, as_mapping, resolve
from .data_files import load_by_name, load_file
from .records import finish, prepare, push
from .runs import (
    HELD_OUT,
    BestCallback,
    Drawn,
    DrawnAnew,
    EpochCallback,
    Stream,
    TaskTrainer,
    asked_for,
    check_finite,
    check_metrics,
    check_output,
    check_positive,
    finished,
    for_trainer,
    holds_out,
    load_config,
    load_model,
    load_tokenizer,
    new_config,
    only_logits,
    resume,
    start_output,
)


CONFIGS = configs_with("ForMaskedLM")
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
IGNORED = -100  # the label of a token that is not predicted

logger = logging.get_logger(__name__)


@dataclass
class MlmArguments:
    """What a run needs besides transformers' TrainingArguments."""

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
        What is written to `results.json`: of the held-out texts the mean loss of the masked tokens (`loss`, in nats),
        its exponential (`perplexity`), the fraction predicted rightly (`accuracy`), and their number (`tokens`). The
        same tokens are masked in every evaluation of the same texts with the same vocabulary, so that models can be
        compared.

    Raises:
        ValueError: an argument, the data or the checkpoint is not what is needed.
        FileExistsError: `output_dir` has the results of another run.
        OSError: something cannot be read or written.
    """
    _check(arguments, training)
    output = Path(training.output_dir)
    asked = asked_for(training, arguments)
    if training.resume_from_checkpoint == "last" and (results := finished(output / "results.json", asked)):
        push(training)
        return results
    with training.main_process_first():  # the others then find what it has cached
        texts = load_texts(arguments, training)
    training = start_output(training, arguments)
    training.remove_unused_columns = False  # the collator needs them
    resume(training, output)
    tokenizer = make_tokenizer(arguments, training, texts.get("train"))
    set_seed(training.seed)
    model = make_model(arguments, tokenizer)
    prepare(training, model, arguments.model_name_or_path)

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
        for_trainer(training),
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
        callbacks=[EpochCallback(), BestCallback()],
    )
    # The loss of a batch is a mean over its masked tokens, which Trainer would take for a sum over all batches'.
    trainer.model_accepts_loss_kwargs = False
    if training.do_train:
        trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()
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
        "asked": asked,
    }
    figures = [
        {"split": arguments.validation_split, "metric": name, "name": name, "value": metrics[name]}
        for name in ("perplexity", "accuracy", "loss")
        if metrics
    ]
    finish(training, arguments, results, figures, arguments.model_name_or_path)
    return results


def _check(arguments: MlmArguments, training: TrainingArguments) -> None:
    """What can be known to be wrong before anything is loaded."""
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
    check_output(training, arguments)
    if arguments.model_name_or_path is not None:
        config = load_config(arguments.model_name_or_path, AutoModelForMaskedLM)
    else:
        config = new_config(CONFIGS, arguments)
    _check_positions(config, arguments)
    if arguments.pack and config.model_type not in CONFIGS:
        raise ValueError(f"Rows are packed for {', '.join(CONFIGS)}, not {config.model_type}: give --pack false.")


def check_files(arguments: Any, training: TrainingArguments) -> None:
    """Refuses files of texts that are not there, or not given where nothing else is.

    Raises:
        ValueError, FileNotFoundError: see above.
    """
    for file in (arguments.train_file, arguments.validation_file):
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"There is no file {file}.")
    if arguments.train_file is None and arguments.validation_file is None:
        return
    if training.do_train and arguments.train_file is None:
        raise ValueError("Give the texts to train on by --train_file.")
    if training.do_eval and arguments.validation_file is None and not training.do_train:
        raise ValueError("Give the texts to evaluate on by --validation_file.")


def load_texts(arguments: MlmArguments, training: TrainingArguments) -> dict[str, Dataset | IterableDataset]:
    """The texts of the splits that the run needs, `train` and `validation`, in a column `text`. Where there is one
    file for both, one text in [`HELD_OUT`] of it is for `validation`.

    Raises:
        ValueError: a split has no texts.
        OSError: they cannot be read.
    """
    texts = {}
    needed = {"train": training.do_train, "validation": training.do_eval or training.eval_strategy != "no"}
    from_one = holds_out(resolve(arguments, training))
    for split in (split for split, does in needed.items() if does):
        file = arguments.train_file if from_one else getattr(arguments, f"{split}_file")
        data, where = _read_texts(arguments, split, file)
        if from_one:
            data = data.filter(partial(_is_held_out, held_out=split == "validation"), input_columns="text")
        limit = arguments.max_train_samples if split == "train" else arguments.max_eval_samples
        if limit is not None:
            data = data.take(limit) if isinstance(data, IterableDataset) else data.select(range(min(limit, len(data))))
        if split == "validation" and isinstance(data, IterableDataset):
            data = Dataset.from_dict({"text": [row["text"] for row in data]}, Features({"text": Value("string")}))
        texts[split] = data.filter(_is_text, input_columns="text")
        if isinstance(data, Dataset):
            _report(where, len(data), len(texts[split]), from_one, split, training.process_index == 0)
    return texts


def _read_texts(arguments: MlmArguments, split: str, file: str | None) -> tuple[Dataset | IterableDataset, str]:
    """The texts of a file, or else of a split of the data set, and where they are from.

    Raises:
        ValueError: there is no such column, or it has other things than texts.
        OSError: they cannot be read.
    """
    if file is not None:
        data, where = load_file(file), file
        if arguments.streaming and split == "train":
            data = data.to_iterable_dataset()
    else:
        name = getattr(arguments, f"{split}_split")
        data = load_by_name(
            str(arguments.dataset_name),
            arguments.dataset_config_name,
            name,
            streaming=arguments.streaming,  # of both, or all splits would be downloaded for the one
            instead="--train_file and --validation_file",
        )
        where = f"{name} of {arguments.dataset_name}"
    columns, column = data.column_names or [], arguments.text_column
    if columns and column not in columns:
        raise ValueError(f"{where} has no column {column}; its columns are {', '.join(columns)}.")
    kind = getattr((data.features or {}).get(column), "dtype", "string")
    if kind not in ("string", "large_string", "null"):
        raise ValueError(f"Column {column} of {where} has no texts, but {kind}; choose another --text_column.")
    data = data.select_columns(column)
    return data if column == "text" else data.rename_column(column, "text"), where


def _report(where: str, rows: int, texts: int, from_one: bool, split: str, aloud: bool) -> None:
    """Says how many rows are left out, since they have no text (the empty lines of a .txt file are no rows), and how
    many are held out.

    Raises:
        ValueError: there is no text at all.
    """
    if not texts:
        few = "too few texts to hold some out: give others by --validation_file" if from_one else "no text"
        raise ValueError(f"{where} has {few}.")
    if aloud and texts < rows and not where.endswith(".txt"):
        logger.warning(f"{rows - texts} of {rows} rows of {where} have no text, and are left out.")
    if aloud and from_one and split == "validation":
        logger.warning(f"{texts} texts of {where} are held out; give others by --validation_file.")


def _is_held_out(text: Any, held_out: bool) -> bool:
    """Whether a text is one of those held out, or, if they are not wanted, of the others. Equal texts are together."""
    digest = hashlib.blake2b(str(text).strip().encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return (int.from_bytes(digest, "big") % HELD_OUT == 0) == held_out


def _is_text(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())


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
    if config.vocab_size < len(tokenizer):
        raise ValueError(f"The model has {config.vocab_size} tokens and the tokenizer {len(tokenizer)}.")
    _check_positions(config, arguments)


def _check_positions(config: Any, arguments: MlmArguments) -> None:
    if max_tokens(config) < arguments.max_length:
        raise ValueError(
            f"The model has {max_tokens(config)} positions, fewer than max_length, {arguments.max_length}."
        )


def encode(data: Dataset | IterableDataset, arguments: MlmArguments, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Rows of at most `max_length` tokens: `input_ids`, `segments` (the number of the text in its row, from 1) and
    `words` (the number of the word in its row, -1 for special tokens; each token is its own unless whole words are to
    be masked)."""

    # Not `arguments`: what is encoded is found again in the cache unless one of these has changed. And a copy of the
    # tokenizer: how one was called is saved with it.
    max_length, packed, whole_words = arguments.max_length, arguments.pack, arguments.whole_word_mask
    tokenizer = copy.deepcopy(tokenizer)

    def encode_batch(batch: dict[str, list]) -> dict[str, list]:
        columns: dict[str, list] = {"input_ids": [], "segments": [], "words": []}
        if not batch["text"]:
            return columns
        encoded = tokenizer(batch["text"], truncation=False, return_special_tokens_mask=True, verbose=False)
        pieces = []
        for index, (ids, special) in enumerate(zip(encoded["input_ids"], encoded["special_tokens_mask"])):
            words = encoded.word_ids(index) if whole_words else range(len(ids))
            pieces += split_text(ids, [-1 if each else word for each, word in zip(special, words)], max_length)
        rows = pack(pieces, max_length) if packed else [[piece] for piece in pieces]
        for row in rows:
            columns["input_ids"].append([token for ids, _ in row for token in ids])
            columns["segments"].append([number for number, (ids, _) in enumerate(row, start=1) for _ in ids])
            before, joined = 0, []
            for _, words in row:
                joined += [word if word < 0 else word + before for word in words]
                before += max(words) + 1
            columns["words"].append(joined)
        return columns

    small = {"input_ids": List(Value("int32")), "segments": List(Value("int16")), "words": List(Value("int16"))}
    options = {} if isinstance(data, IterableDataset) else {"num_proc": arguments.preprocessing_num_workers}
    return data.map(encode_batch, batched=True, remove_columns="text", features=Features(small), **options)


def split_text(ids: list[int], words: list[int], max_length: int) -> list[tuple[list[int], list[int]]]:
    """The pieces of a text, of at most `max_length` tokens, each with the special tokens around the text; none of its
    tokens is lost.

    They are cut here: tokenizers that are written in Python give the first piece alone, and tokenizers 0.23.1 and
    0.23.2 lose some of the others.

    Args:
        ids: of the whole text's tokens.
        words: the numbers of their words, -1 for special tokens; those of each piece are counted from 0.
    """
    inside = [place for place, word in enumerate(words) if word >= 0]
    if not inside:
        return []
    start, end = inside[0], inside[-1] + 1
    room = max_length - start - (len(ids) - end)
    pieces = []
    for place in range(start, end, room):
        chosen = slice(place, min(place + room, end))
        first = min((word for word in words[chosen] if word >= 0), default=0)
        numbers = [word if word < 0 else word - first for word in words[chosen]]
        pieces.append((ids[:start] + ids[chosen] + ids[end:], words[:start] + numbers + words[end:]))
    return pieces


def pack(pieces: Sequence[tuple[list[int], list[int]]], max_length: int) -> list[list[tuple[list[int], list[int]]]]:
    """Puts each piece into the first row that has room for it."""
    rows: list[list[tuple[list[int], list[int]]]] = []
    room: list[int] = []
    for piece in pieces:
        length = len(piece[0])
        place = next((index for index, left in enumerate(room) if left >= length), None)
        if place is None:
            rows.append([])
            room.append(max_length)
            place = len(rows) - 1
        rows[place].append(piece)
        room[place] -= length
    return rows


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
    """Of each row the sum of the losses of its masked tokens, how many it predicts rightly, and how many there are:
    `(rows, 3)` from logits, `(rows, tokens, vocabulary)`, and labels, `(rows, tokens)`."""
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
