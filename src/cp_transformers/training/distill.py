# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Recovery: a model that was cut to fewer layers, or keeps fewer tokens, learns from the whole one on texts or images
without labels, by the losses of [`distillation`][cp_transformers.training.distillation]."""

import copy
import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    DataCollatorWithPadding,
    PreTrainedConfig,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from ..checkpoints.processors import sentence_pooling
from ..checkpoints.reading import fetch
from ..families import auto_class_of, max_tokens, tower_config
from .arguments import ArgumentParser, check_positive
from .data_files import HELD_OUT
from .distillation import (
    load_teacher_tokenizer,
    make_layer_map,
    match_outputs,
    same_tokens,
    widths_of,
)
from .image_data import (
    Augmentation,
    CorruptImage,
    DrawImage,
    Preprocessing,
    TrainingImages,
    decode,
    load_folder,
    load_images,
    load_processor,
    normalization,
    resolve_preprocessing,
)
from .image_training import CorruptImages, load_teacher
from .loading import load_config, load_model, load_tokenizer
from .mlm import MlmArguments
from .recovery import COMES_WITH, EMBED, SCORES, RecoveryArguments, RecoveryTrainer, mean_scores
from .run_folder import RunFolder
from .texts import check_files, encode, load_texts
from .trainer import check_metrics


# Heads that give logits, by the end of their classes' names.
WITH_LOGITS = (
    "ImageClassification",
    "MaskedLM",
    "NextSentencePrediction",
    "SequenceClassification",
    "TokenClassification",
)


@dataclass
class DistillArguments:
    """The options of the command besides [`RecoveryArguments`] and transformers' TrainingArguments."""

    model_name_or_path: str = field(metadata={"help": "the checkpoint that learns, such as `convert` writes"})
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "texts or images on the Hub, or those of a package: review-texts, digits"},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "its configuration"})
    train_file: str | None = field(
        default=None, metadata={"help": "in its place texts as .txt (one a line), .jsonl, .csv or .parquet"}
    )
    validation_file: str | None = field(
        default=None,
        metadata={"help": f"held-out texts, likewise; default: one in {HELD_OUT} of those of train_file"},
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "in its place images in folders train/ and validation/ (or val/)"}
    )
    train_split: str = field(default="train", metadata={"help": "the split of dataset_name to train on"})
    validation_split: str = field(default="validation", metadata={"help": "the split of it to evaluate on"})
    text_column: str = field(default="text", metadata={"help": "the column of the texts"})
    image_column: str | None = field(default=None, metadata={"help": "default: image, jpg, ..., whichever is there"})
    max_length: int = field(default=128, metadata={"help": "tokens in a row; longer texts are split"})
    crop_min_scale: float = field(default=1.0, metadata={"help": "smallest area of a random crop; 1: no crop"})
    flip: float = field(default=0.0, metadata={"help": "probability of a horizontal flip"})
    max_train_samples: int | None = field(default=None, metadata={"help": "train on so many of them alone"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "evaluate on so many of them alone"})
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "processes that make the rows"})
    pool_learning_rate: float | None = field(
        default=None, metadata={"help": "of the pooling modules; default: that of the rest"}
    )

    def __post_init__(self) -> None:
        given = [self.dataset_name, self.train_file or self.validation_file, self.data_dir]
        if sum(each is not None for each in given) != 1:
            raise ValueError("Give the data by one of --dataset_name, --data_dir, or --train_file/--validation_file.")
        if self.dataset_name is None:  # files have no other splits
            self.train_split, self.validation_split = "train", "validation"
        for name in ("crop_min_scale", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}.")
        check_positive(
            self, "crop_min_scale", "max_length", "max_train_samples", "max_eval_samples", "pool_learning_rate"
        )

    def text_arguments(self) -> MlmArguments:
        """The options of the texts, as the functions of [`mlm`][cp_transformers.training.mlm] take them."""
        names = {each.name for each in dataclasses.fields(MlmArguments)}
        return MlmArguments(pack=False, **{name: value for name, value in vars(self).items() if name in names})


@dataclass
class _Data:
    """The data of a modality, texts or images, with its processing and its teacher."""

    processing: Any
    collator: Callable
    teacher: dict[str, Any]  # what DistillationTrainer takes besides a Trainer's arguments
    train: Any = None
    validation: Any = None


def run(arguments: DistillArguments, training: TrainingArguments, distillation: RecoveryArguments) -> dict[str, Any]:
    """Trains and evaluates as `training.do_train` and `do_eval` say, and writes the model with its tokenizer or image
    processor, the resolved arguments and `results.json` to `training.output_dir`.

    The loss is the sum of those that have a weight in `distillation`: of hidden states, embeddings, class tokens and,
    where both models have the same kind of head, of its outputs. Labels have no part in it.

    Returns:
        The content of `results.json`: the losses that are learned, with their weights (`learned`), and what they
        are on the held-out part `before` and `after` training: `hidden`, the mean squared error over layers, tokens
        and channels; `embedding` and `class_token`, 1 - cosine; of embeddings also `rho`, Spearman's correlation of
        the student's and the teacher's similarities (cosines) of all pairs of the first 2,000 rows; of heads `logits`,
        their divergence, and `agreement`, how often their largest outputs are the same.

    Raises:
        ValueError: an argument, the data or a checkpoint is not what is needed, or the models do not fit each other.
        FileExistsError: `output_dir` has the results of another run.
        OSError: something cannot be read or written.
        ImportError: a package that is needed is not installed.
    """
    run_folder = RunFolder(training, arguments, distillation)
    _check(arguments, training, distillation)
    run_folder.check()
    if (found := run_folder.find_results()) is not None:
        return found
    config = load_config(arguments.model_name_or_path, AutoModel)
    teacher_config = load_config(str(distillation.teacher), AutoModel)
    compared, pooling = _compared(arguments.model_name_or_path, config, teacher_config, distillation)
    measured = [name for name in SCORES if COMES_WITH.get(name, name) in compared.weights]
    check_metrics(training, ("loss", *measured))
    with training.main_process_first():  # the others then find what it has cached
        load = _load_images if hasattr(tower_config(config), "num_channels") else _load_texts
        data = load(arguments, training, compared, config)
    training = run_folder.go_on()
    training.remove_unused_columns = False
    set_seed(training.seed)
    model = load_model(arguments.model_name_or_path, auto_class_of(_head(config)))
    run_folder.prepare(model)
    trainer = RecoveryTrainer(
        model,
        training,
        data_collator=data.collator,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=data.processing,
        compute_metrics=partial(mean_scores, distillation=compared),
        embed=EMBED[pooling],
        pool_learning_rate=arguments.pool_learning_rate,
        source=arguments.model_name_or_path,
        **data.teacher,
    )

    def evaluate() -> dict[str, float]:
        # Of what Trainer does in half precision to the model nothing is to stay.
        weights = copy.deepcopy(model.state_dict()) if training.bf16_full_eval or training.fp16_full_eval else None
        measured = trainer.evaluate()
        if weights is not None:
            model.float().load_state_dict(weights)
        return {name: measured[f"eval_{name}"] for name in SCORES if f"eval_{name}" in measured}

    metrics = {"before": evaluate()} if training.do_eval else {}
    if training.do_train:
        trainer.train_and_save()
        if training.do_eval:
            metrics["after"] = evaluate()
    results = {
        "model": arguments.model_name_or_path,
        "teacher": distillation.teacher,
        "parameters": model.num_parameters(),
        "learned": compared.weights,
        "layers": [f"{ours}:{theirs}" for ours, theirs in trainer.layer_map],
        "rows": {name: len(rows) for name in ("train", "validation") if (rows := getattr(data, name)) is not None},
        "metrics": metrics,
    }
    figures = [
        {
            "split": arguments.validation_split,
            "metric": "agreement" if name in ("agreement", "rho") else "loss",
            "name": f"{name.replace('_', ' ')} against the teacher",
            "value": value,
        }
        for name, value in metrics.get("after", {}).items()
    ]
    return run_folder.finish(results, figures)


def _check(arguments: DistillArguments, training: TrainingArguments, distillation: RecoveryArguments) -> None:
    """Refuses what can be known to be wrong before anything is loaded.

    Raises:
        ValueError, FileNotFoundError: see [`run`].
    """
    if not (training.do_train or training.do_eval):
        raise ValueError("There is nothing to do: give --do_train or --do_eval.")
    if distillation.teacher is None:
        raise ValueError("Give the model to learn from, the uncut one, by --teacher.")
    if training.do_train and Path(distillation.teacher).resolve() == Path(arguments.model_name_or_path).resolve():
        raise ValueError(
            f"{distillation.teacher} cannot teach itself anything: give the model that it was made of by --teacher."
        )
    check_files(arguments, training)
    if training.do_predict:
        raise ValueError("There is nothing to predict without labels: leave out --do_predict.")
    if training.label_smoothing_factor:
        raise ValueError("There are no labels to smooth: leave out --label_smoothing_factor.")


def _head(config: PreTrainedConfig) -> str:
    """The end of the name of a checkpoint's class; nothing where it has no head."""
    name = (config.architectures or [""])[0]
    return name.rpartition("For")[2] if "For" in name else ""


def _compared(
    name: str, config: PreTrainedConfig, teacher: PreTrainedConfig, distillation: RecoveryArguments
) -> tuple[RecoveryArguments, str]:
    """The options with their defaults for the student of this name, less the loss of outputs that cannot be compared;
    and how its embedding is made, a key of [`EMBED`].

    Raises:
        ValueError: there is nothing to compare, or it cannot be.
    """
    pooling = theirs = None
    if distillation.distillation_embedding_weight != 0:
        pooling, theirs = (sentence_pooling(fetch(each)[0]) for each in (name, str(distillation.teacher)))
    if pooling is not None and pooling not in EMBED:
        raise ValueError(
            f"{name} makes its embedding by {pooling} of the tokens, and mean or cls alone can be learned: give "
            "--distillation_embedding_weight 0, and it learns the hidden states."
        )
    if pooling is not None and theirs not in (None, pooling):
        raise ValueError(
            f"The teacher {distillation.teacher} makes its embedding by {theirs} of the tokens, and {name} by "
            f"{pooling}: give --distillation_embedding_weight 0, and the model learns the hidden states."
        )
    is_sentence_encoder = float(pooling is not None)
    defaults = {
        "distillation_embedding_weight": is_sentence_encoder,
        "distillation_hidden_weight": 1 - is_sentence_encoder,
    }
    filled: dict[str, Any] = {each: value for each, value in defaults.items() if getattr(distillation, each) is None}
    heads = {_head(config), _head(teacher)}
    if len(heads) > 1 or not heads <= {*WITH_LOGITS}:
        filled["distillation_logits_weight"] = 0.0
    distillation = replace(distillation, **filled)
    if distillation.layer_map and not distillation.distillation_hidden_weight:
        raise ValueError(
            "layer_map would have no effect, since distillation_hidden_weight is 0, the default for a checkpoint of "
            "sentence-transformers: give --distillation_hidden_weight, or leave out --layer_map."
        )
    if not distillation.weights:
        raise ValueError(
            "There is nothing to learn: distillation_hidden_weight, distillation_embedding_weight and "
            "distillation_class_token_weight are 0, and the two models have no outputs that could be compared: both "
            f"need the same head, one of {', '.join(WITH_LOGITS)}, and distillation_logits_weight must not be 0."
        )
    vectors = {"embedding", "class_token"} & distillation.weights.keys()
    widths = [widths_of(each)[-1] for each in (config, teacher)] if vectors else []
    if len({*widths}) > 1:
        raise ValueError(
            f"The model's last hidden state has {widths[0]} channels and the teacher's has {widths[1]}: neither "
            "embeddings nor class tokens can be compared; choose another teacher."
        )
    return distillation, pooling or "mean"


def _load_texts(
    arguments: DistillArguments,
    training: TrainingArguments,
    distillation: RecoveryArguments,
    config: PreTrainedConfig,
) -> _Data:
    name, teacher = arguments.model_name_or_path, str(distillation.teacher)
    if arguments.data_dir is not None:
        raise ValueError(f"{name} reads texts: give them by --train_file and --validation_file, or --dataset_name.")
    if 0 < max_tokens(config) < arguments.max_length:
        raise ValueError(
            f"{name} has {max_tokens(config)} positions, fewer than --max_length, {arguments.max_length}."
        )
    tokenizer = load_tokenizer(name)
    teacher_config = load_config(teacher, AutoModel)
    theirs = load_teacher_tokenizer(teacher, teacher_config, tokenizer, arguments.max_length)
    if distillation.distillation_hidden_weight:
        make_layer_map(config, teacher_config, distillation.layer_map)
    head = _head(config) if distillation.distillation_logits_weight else ""
    labels = match_outputs(config, teacher_config, teacher) if head not in ("", "MaskedLM") else None
    options = {"distillation": distillation, "teacher_labels": labels}
    text_arguments = arguments.text_arguments()
    rows = {}
    for split, texts in load_texts(text_arguments, training).items():
        rows[split] = encode(texts, text_arguments, tokenizer).select_columns("input_ids")
        taught = rows[split] if same_tokens(tokenizer, theirs) else encode(texts, text_arguments, theirs)
        if len(taught) != len(rows[split]) or any(
            a != b for a, b in zip(rows[split]["input_ids"], taught["input_ids"])
        ):
            raise ValueError(
                f"The tokenizer of the teacher {teacher} makes other tokens of the texts than the model's."
            )
    options["teacher"] = load_model(teacher, auto_class_of(head))
    return _Data(tokenizer, DataCollatorWithPadding(tokenizer), options, **rows)


def _load_images(
    arguments: DistillArguments,
    training: TrainingArguments,
    distillation: RecoveryArguments,
    config: PreTrainedConfig,
) -> _Data:
    name = arguments.model_name_or_path
    if arguments.train_file is not None or arguments.validation_file is not None:
        raise ValueError(f"{name} reads images: give them by --data_dir or --dataset_name.")
    if training.do_train and training.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
        raise ValueError("Images have no lengths to sort them by: leave out --train_sampling_strategy.")
    processor = load_processor(name)
    preprocess = resolve_preprocessing(processor)
    augment: Callable = Unchanged(preprocess)
    if arguments.crop_min_scale < 1 or arguments.flip:
        sizes = preprocess.image_size, arguments.crop_min_scale, arguments.flip
        augment = Augmentation(*sizes, 0, 0.0, *normalization(processor), preprocess.interpolation)
    report = CorruptImages(Path(training.output_dir) / "corrupt_images.txt")

    def load(split: str, limit: int | None) -> Any:
        if arguments.data_dir is not None:
            rows = load_folder(arguments.data_dir, split, labelled=False).rows
        else:
            where = arguments.dataset_config_name, getattr(arguments, f"{split}_split")
            rows = load_images(
                str(arguments.dataset_name), *where, image_column=arguments.image_column, labelled=False
            ).rows
        return rows.shuffle(seed=0).select(range(min(limit or len(rows), len(rows))))

    data = _Data(processor, default_data_collator, {})
    if training.do_train:
        data.train = TrainingImages(
            load("train", arguments.max_train_samples), DrawImage(augment), training.seed, report
        )
    if training.do_eval or training.eval_strategy != "no":
        data.validation = HeldOutImages(load("validation", arguments.max_eval_samples), preprocess, report)
    data.teacher = load_teacher(distillation, config, preprocess)
    models = {name: config, str(distillation.teacher): data.teacher["teacher"].config}
    if distillation.distillation_class_token_weight:
        for each, model_config in models.items():
            _check_class_token(each, model_config)
    return data


def _check_class_token(name: str, config: PreTrainedConfig) -> None:
    """Refuses a model of images that has no class token.

    Raises:
        ValueError: the model has no class token.
    """
    with torch.device("meta"):
        model = AutoModel.from_config(tower_config(config))
    if not any(re.search("cls_token|class_token|class_embedding", each) for each, _ in model.named_parameters()):
        raise ValueError(f"{name} has no class token: leave out --distillation_class_token_weight.")


@dataclass
class Unchanged:
    """Preprocesses images where no augmentation is drawn, with the call of an [`Augmentation`]."""

    preprocess: Callable[[Any], torch.Tensor]

    def __call__(self, image: Any, seed: int) -> torch.Tensor:
        return self.preprocess(image)


class HeldOutImages(torch.utils.data.Dataset):
    """Images without labels; one that cannot be read is not `readable`, and [`RecoveryTrainer`] leaves it out."""

    def __init__(self, rows: Any, preprocess: Preprocessing, report: Callable[[str], None]):
        self.rows, self.preprocess, self.report = rows, preprocess, report

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return {"pixel_values": self.preprocess(decode(self.rows[index]["image"])), "readable": True}
        except CorruptImage as error:
            self.report(str(error))
            return {"pixel_values": torch.zeros(3, *self.preprocess.image_size), "readable": False}


def report(results: dict[str, Any]) -> str:
    """The held-out scores before and after training, as lines."""
    lines = [f"{results['model']} against {results['teacher']}, held-out:"]
    for name in SCORES:
        values = [f"{metrics[name]:.4f} {when}" for when, metrics in results["metrics"].items() if name in metrics]
        if values:
            lines.append(f"  {SCORES[name]:<40}{', '.join(values)}")
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """The command `cp-transformers distill`, and scripts/run_distill.py; returns what [`run`] returns."""
    parser = ArgumentParser(
        [DistillArguments, RecoveryArguments, TrainingArguments],
        prog="cp-transformers distill",
        description="Let a model that was cut to fewer layers, or keeps fewer tokens, learn from the whole one, on "
        "texts or images without labels.",
    )
    arguments, distillation, training = parser.parse(args)
    results = run(arguments, training, distillation)
    if training.process_index == 0:
        if results["metrics"]:
            print("\n" + report(results))
        print(f"\nWritten to {training.output_dir}.")
    return results
