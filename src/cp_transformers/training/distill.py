# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Recovery: a model that was cut to fewer layers, or keeps fewer tokens, learns from the whole one on texts or images
without labels, by the losses of [`distillation`][cp_transformers.training.distillation]."""

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedConfig,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.utils import ModelOutput

from ..checkpoints.reading import fetch, sentence_pooling
from ..families import auto_class_of, max_tokens
from .arguments import ArgumentParser
from .distillation import (
    DistillationArguments,
    DistillationTrainer,
    class_token,
    cosine_distance,
    hidden_state_loss,
    load_teacher_tokenizer,
    make_layer_map,
    match_outputs,
    mean_token,
    same_tokens,
    soft_label_loss,
    widths_of,
)
from .image_data import (
    Augmentation,
    CorruptImage,
    DrawImage,
    Preprocessing,
    TrainingImages,
    as_pair,
    decode,
    load_folder,
    load_images,
    load_processor,
    normalization,
    resolve_preprocessing,
)
from .image_training import CorruptImages, load_teacher
from .metrics import rank_correlation
from .mlm import MlmArguments, check_files, encode, load_texts
from .records import finish, prepare, push
from .runs import (
    HELD_OUT,
    BestCallback,
    EpochCallback,
    asked_for,
    check_metrics,
    check_output,
    check_positive,
    finished,
    for_trainer,
    load_config,
    load_model,
    load_tokenizer,
    resume,
    start_output,
)


# The metrics, and what they are.
SCORES = {
    "hidden": "mean squared error of hidden states",
    "embedding": "1 - cosine of the embeddings",
    "class_token": "1 - cosine of the class tokens",
    "rho": "rank correlation of similarities",
    "logits": "divergence of the outputs",
    "agreement": "same largest output",
}
# Metrics that come with a loss of another name.
COMES_WITH = {"rho": "embedding", "agreement": "logits"}
# How last hidden states become an embedding, by the names of sentence-transformers.
EMBED = {"mean": mean_token, "cls": class_token}
# Of the held-out rows, the first so many have their similarities compared: their pairs are two millions.
RHO_ROWS = 2000
# Heads that give logits, by the end of their classes' names.
WITH_LOGITS = (
    "ImageClassification",
    "MaskedLM",
    "NextSentencePrediction",
    "SequenceClassification",
    "TokenClassification",
)


@dataclass
class RecoveryArguments(DistillationArguments):
    """The options of distillation without labels."""

    distillation_hidden_weight: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "weight of the mean squared error against the teacher's hidden states; default: 1, or 0 for a "
            "checkpoint of sentence-transformers, unless its distillation_embedding_weight is 0"
        },
    )
    distillation_embedding_weight: float | None = field(
        default=None,
        metadata={
            "help": "weight of 1 - cosine of the student's and the teacher's embeddings, each the mean of the last "
            "hidden states of a text's tokens or an image's patches, or for a checkpoint of sentence-transformers "
            "what its 1_Pooling/config.json says, the mean or the class token; default: 1 for such a checkpoint, "
            "else 0"
        },
    )
    distillation_class_token_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of 1 - cosine of the student's and the teacher's last hidden states of the class token, "
            "a text's first token"
        },
    )

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the losses that are learned, by the names of their metrics."""
        given = {name: getattr(self, f"distillation_{name}_weight", None) for name in SCORES}
        return {name: float(weight) for name, weight in given.items() if weight}


@dataclass
class DistillArguments:
    """What a run needs besides [`RecoveryArguments`] and transformers' TrainingArguments."""

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

    def of_texts(self) -> MlmArguments:
        """The same for what reads texts."""
        names = {each.name for each in dataclasses.fields(MlmArguments)}
        return MlmArguments(pack=False, **{name: value for name, value in vars(self).items() if name in names})


@dataclass
class _Data:
    """What a modality gives to the run."""

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
        What is written to `results.json`: the losses that are learned, with their weights (`learned`), and what they
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
    _check(arguments, training, distillation)
    output = Path(training.output_dir)
    asked = asked_for(training, arguments, distillation)
    if training.resume_from_checkpoint == "last" and (results := finished(output / "results.json", asked)):
        push(training)
        return results
    config = load_config(arguments.model_name_or_path, AutoModel)
    teacher_config = load_config(str(distillation.teacher), AutoModel)
    compared, pooling = _compared(arguments.model_name_or_path, config, teacher_config, distillation)
    measured = [name for name in SCORES if COMES_WITH.get(name, name) in compared.weights]
    check_metrics(training, ("loss", *measured))
    with training.main_process_first():  # the others then find what it has cached
        load = _load_images if hasattr(config, "num_channels") else _load_texts
        data = load(arguments, training, compared, config)
    training = start_output(training, arguments, distillation)
    training.remove_unused_columns = False
    resume(training, output)
    set_seed(training.seed)
    model = load_model(arguments.model_name_or_path, auto_class_of(_head(config)))
    prepare(training, model, arguments.model_name_or_path)
    trainer = RecoveryTrainer(
        model,
        for_trainer(training),
        data_collator=data.collator,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=data.processing,
        compute_metrics=partial(mean_scores, distillation=compared),
        embed=EMBED[pooling],
        pool_learning_rate=arguments.pool_learning_rate,
        source=arguments.model_name_or_path,
        callbacks=[EpochCallback(), BestCallback()],
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
        trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()
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
        "asked": asked,
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
    finish(training, arguments, results, figures, arguments.model_name_or_path, teacher=distillation.teacher)
    return results


def _check(arguments: DistillArguments, training: TrainingArguments, distillation: RecoveryArguments) -> None:
    """What can be known to be wrong before anything is loaded."""
    if not (training.do_train or training.do_eval):
        raise ValueError("There is nothing to do: give --do_train or --do_eval.")
    if distillation.teacher is None:
        raise ValueError("Give the model to learn from, the uncut one, by --teacher.")
    check_files(arguments, training)
    if training.do_predict:
        raise ValueError("There is nothing to predict without labels: leave out --do_predict.")
    if training.label_smoothing_factor:
        raise ValueError("There are no labels to smooth: leave out --label_smoothing_factor.")
    check_output(training, arguments, distillation)


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
    of_sentences = float(pooling is not None)
    defaults = {"distillation_embedding_weight": of_sentences, "distillation_hidden_weight": 1 - of_sentences}
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
    if max_tokens(config) < arguments.max_length:
        raise ValueError(f"{name} has {max_tokens(config)} positions, fewer than --max_length.")
    tokenizer = load_tokenizer(name)
    teacher_config = load_config(teacher, AutoModel)
    theirs = load_teacher_tokenizer(teacher, teacher_config, tokenizer, arguments.max_length)
    if distillation.distillation_hidden_weight:
        make_layer_map(config, teacher_config, distillation.layer_map)
    head = _head(config) if distillation.distillation_logits_weight else ""
    labels = match_outputs(config, teacher_config, teacher) if head not in ("", "MaskedLM") else None
    options = {"distillation": distillation, "teacher_labels": labels}
    of_texts = arguments.of_texts()
    rows = {}
    for split, texts in load_texts(of_texts, training).items():
        rows[split] = encode(texts, of_texts, tokenizer).select_columns("input_ids")
        taught = rows[split] if same_tokens(tokenizer, theirs) else encode(texts, of_texts, theirs)
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
        for each, of_model in models.items():
            _check_class_token(each, of_model)
    return data


def _check_class_token(name: str, config: PreTrainedConfig) -> None:
    """Refuses a model of images that has no class token.

    Raises:
        ValueError: it has none.
    """
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    if not any(re.search("cls_token|class_token|class_embedding", each) for each, _ in model.named_parameters()):
        raise ValueError(f"{name} has no class token: leave out --distillation_class_token_weight.")


@dataclass
class Unchanged:
    """What takes the place of an [`Augmentation`] where nothing is drawn."""

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


class RecoveryTrainer(DistillationTrainer):
    """Learns embeddings and class tokens as well, and evaluates by what it learns from, over all tokens of all
    examples.

    Args:
        embed: makes the embeddings of last hidden states, one of [`EMBED`].
    """

    distillation: RecoveryArguments

    def __init__(self, *args: Any, embed: Callable = mean_token, **kwargs: Any):
        super().__init__(*args, **kwargs)
        vectors = {"embedding": embed, "class_token": class_token}
        self.vectors = {name: make for name, make in vectors.items() if name in self.distillation.weights}
        self.output_hidden_states = bool(self.layer_map or self.vectors)
        self.evaluated = 0

    def state_loss(self, outputs: Any, taught: Any, inputs: dict[str, Any]) -> torch.Tensor | float:
        """With the weighted losses of the embeddings and class tokens."""
        loss = super().state_loss(outputs, taught, inputs)
        for name, pair in self.compared_vectors(outputs, taught, inputs).items():
            loss = loss + self.distillation.weights[name] * cosine_distance(*pair).mean()
        return loss

    def compared_vectors(
        self, outputs: Any, taught: Any, inputs: dict[str, Any]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The student's and the teacher's embeddings and class tokens, as far as they are learned."""
        if not self.vectors:
            return {}
        bare = "last_hidden_state" in outputs and "last_hidden_state" in taught  # without a head, both
        mask, pixels, sides = inputs.get("attention_mask"), inputs.get("pixel_values"), []
        for each, model in ((outputs, self.model), (taught, self.teacher)):
            states = each.last_hidden_state if bare else each.hidden_states[-1]
            sides.append((states, mask, _patches(model.config, pixels)))  # type: ignore[union-attr]
        return {name: (embed(*sides[0]), embed(*sides[1])) for name, embed in self.vectors.items()}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.evaluated = 0
        return super().evaluate(*args, **kwargs)

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor | None, Any, torch.Tensor]:
        """A row an example: hidden loss times tokens, tokens, logits' loss times rows, agreements, rows, losses of the
        embedding and the class token, 1. And, where embeddings are learned, the first of the student's and the
        teacher's."""
        inputs = self._prepare_inputs(inputs)
        readable = inputs.pop("readable", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs, output_hidden_states=self.output_hidden_states)
            taught = self.teach(inputs)
        examples = range(len(next(iter(inputs.values()))))
        scores = [self._score(_one(outputs, index), _one(taught, index), _one(inputs, index)) for index in examples]
        values = torch.tensor(scores, dtype=torch.float64, device=self.args.device)
        vectors = self.compared_vectors(outputs, taught, inputs)
        for column, name in enumerate(("embedding", "class_token"), start=5):
            if name in vectors:
                values[:, column] = cosine_distance(*vectors[name]).double()
        if readable is not None:
            values[~readable] = 0
        predictions: Any = values
        if "embedding" in vectors:
            kept = len(values) if self.evaluated < RHO_ROWS else 0
            predictions = (values, *(each[:kept] for each in vectors["embedding"]))
            self.evaluated += len(values) * self.args.world_size
        return None, predictions, values  # as labels as well, without which Trainer computes no metrics

    def _score(self, outputs: ModelOutput, taught: ModelOutput, inputs: ModelOutput) -> list[float]:
        mask = inputs.get("attention_mask")
        tokens, hidden, rows, soft, agreed = 1.0 if mask is None else float(mask.sum()), 0.0, 0, 0.0, 0.0
        if self.layer_map:
            hidden = float(hidden_state_loss(outputs.hidden_states, taught.hidden_states, self.layer_map, mask))
        if self.distillation.distillation_logits_weight:
            ours, theirs = self.compared_logits(outputs, taught, mask)
            rows, soft = len(ours), float(soft_label_loss(ours, theirs, self.distillation.distillation_temperature))
            agreed = float((ours.argmax(-1) == theirs.argmax(-1)).sum())
        return [hidden * tokens, tokens, soft * rows, agreed, rows, 0.0, 0.0, 1.0]


def _patches(config: PreTrainedConfig, pixels: torch.Tensor | None) -> int:
    """The number of patches that a model makes of images; 0 where it makes none."""
    if pixels is None or getattr(config, "patch_size", None) is None:
        return 0
    return math.prod(side // edge for side, edge in zip(pixels.shape[-2:], as_pair(config.patch_size)))


def _one(batch: Mapping[str, Any], index: int) -> ModelOutput:
    """An example of a batch, as a batch."""
    one = slice(index, index + 1)
    return ModelOutput(
        {
            name: value[one] if isinstance(value, torch.Tensor) else tuple(each[one] for each in value)
            for name, value in batch.items()
            if name in ("logits", "hidden_states", "attention_mask")
        }
    )


def mean_scores(prediction: EvalPrediction, distillation: RecoveryArguments) -> dict[str, float]:
    """Of all tokens, rows of logits or examples, each with the same weight; what is not learned is left out. The loss
    is that of training."""
    values, *embeddings = prediction.predictions if distillation.weights.get("embedding") else [prediction.predictions]
    hidden, tokens, soft, agreed, rows, embedding, first, examples = values.sum(axis=0).tolist()
    if not examples:
        raise ValueError("None of the held-out images can be read.")
    sums = {"hidden": (hidden, tokens), "logits": (soft, rows)}
    sums |= {"embedding": (embedding, examples), "class_token": (first, examples)}
    weights = distillation.weights
    scores = {name: sums[name][0] / sums[name][1] for name in weights}
    loss = sum(weights[name] * score for name, score in scores.items())
    if embeddings:
        readable = values[: len(embeddings[0]), -1] > 0
        scores["rho"] = rank_correlation(*(each[readable][:RHO_ROWS] for each in embeddings))
    if "logits" in scores:
        scores["agreement"] = agreed / rows
    return {"loss": loss, **scores}


def report(results: dict[str, Any]) -> str:
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
