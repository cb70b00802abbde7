# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Distillation: a student learns from a teacher's soft labels (Hinton, Vinyals, Dean, 2015) and hidden states (Jiao et
al., "TinyBERT", 2020), so that a model that was cut to fewer layers, or keeps fewer tokens, recovers."""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from transformers import (
    AutoModel,
    DataCollatorWithPadding,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..families import max_tokens, tower_config
from .loading import load_tokenizer
from .trainer import TaskTrainer


# Before the names of a teacher's own inputs, where those are not the student's.
TEACHERS = "teacher_"


@dataclass
class DistillationArguments:
    """The options of distillation."""

    heading: ClassVar[str] = "learning from a teacher"

    teacher: str | None = field(
        default=None, metadata={"help": "a checkpoint to learn from, a folder or an id on the Hub"}
    )
    distillation_logits_weight: float = field(
        default=0.5,
        metadata={
            "help": "weight of the loss against the outputs of the teacher's head; the loss of labels, if there are "
            "any, has the rest"
        },
    )
    distillation_temperature: float = field(
        default=2.0, metadata={"help": "temperature that softens the outputs of both heads"}
    )
    distillation_hidden_weight: float = field(
        default=1.0, metadata={"help": "weight of the mean squared error against the teacher's hidden states"}
    )
    layer_map: list[str] = field(
        default_factory=list,
        metadata={
            "help": "which hidden state of the student learns from which of the teacher's, as student:teacher, where "
            "0 is the embeddings; default: all of the student's that have every token, spread evenly over the "
            "teacher's"
        },
    )

    def __post_init__(self) -> None:
        if not 0 <= self.distillation_logits_weight <= 1:
            raise ValueError(f"distillation_logits_weight must be from 0 to 1, not {self.distillation_logits_weight}.")
        if not self.distillation_temperature > 0:
            raise ValueError(f"distillation_temperature must be positive, not {self.distillation_temperature}.")
        for name in ("hidden", "embedding", "class_token"):  # the last two of a subclass
            weight = getattr(self, f"distillation_{name}_weight", None)
            if weight is not None and not weight >= 0:
                raise ValueError(f"distillation_{name}_weight must not be negative: {weight}.")


def make_layer_map(
    student: PreTrainedConfig, teacher: PreTrainedConfig, layer_map: Sequence[str] = ()
) -> list[tuple[int, int]]:
    """Pairs of hidden states, the student's and the teacher's, by their indices in `hidden_states`.

    Args:
        student: its configuration.
        teacher: its configuration.
        layer_map: the pairs as `student:teacher`; empty: each of the student's with the one at the same fraction of
            the teacher's depth, where both have every token.

    Raises:
        ValueError: a pair is not of this form, or one of its models has no such hidden state or has it for groups of
            tokens, or states that are paired have different widths.
    """
    depths = [len(widths_of(config)) - 1 for config in (student, teacher)]
    whole = [_of_every_token(config) for config in (student, teacher)]
    if layer_map:
        pairs = []
        for entry in layer_map:
            numbers = entry.split(":")
            if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
                raise ValueError(f"layer_map takes pairs of numbers such as 1:2, not {entry!r}.")
            pairs.append((int(numbers[0]), int(numbers[1])))
    else:
        pairs = [(index, round(index * depths[1] / depths[0])) for index in whole[0]]
        pairs = [pair for pair in pairs if pair[1] in whole[1]]
    for pair in pairs:
        for who, index, depth, named in zip(("student", "teacher"), pair, depths, whole):
            if index > depth:
                raise ValueError(f"layer_map has {pair[0]}:{pair[1]}, but the {who} has hidden states 0 to {depth}.")
            if index not in named:
                raise ValueError(
                    f"layer_map has {pair[0]}:{pair[1]}, but the {who}'s hidden state {index} is of groups of tokens; "
                    f"those of every token are {', '.join(map(str, named))}."
                )
        widths = widths_of(student)[pair[0]], widths_of(teacher)[pair[1]]
        if widths[0] != widths[1]:
            raise ValueError(
                f"The student's hidden state {pair[0]} has {widths[0]} channels and the teacher's {pair[1]} has "
                f"{widths[1]}; choose others with layer_map, or set distillation_hidden_weight to 0."
            )
    return pairs


def widths_of(config: PreTrainedConfig) -> list[int]:
    """The channels of each hidden state."""
    config = tower_config(config)
    if hasattr(config, "hidden_sizes"):
        return [config.embedding_size, *config.hidden_sizes]
    return [config.hidden_size] * (config.num_hidden_layers + 1)


def _of_every_token(config: PreTrainedConfig) -> list[int]:
    """The hidden states that have a row for each token of the input. Of a model that pools its tokens into groups
    (`pool_strides`) they are those up to the input of the layer that does, those after the layer that has the tokens
    back (`pool_restore_layer`), and the last."""
    depth = len(widths_of(config)) - 1
    strides = getattr(config, "pool_strides", None) or []
    first = next((layer for layer, stride in enumerate(strides) if stride > 1), depth)
    restored = getattr(config, "pool_restore_layer", None)
    after = depth if restored is None else min(restored + 1, depth)
    return [index for index in range(depth + 1) if index <= first or index >= after]


def check_shapes(
    student: PreTrainedConfig, teacher: PreTrainedConfig, name: str, layer_map: Sequence[str], size: tuple[int, int]
) -> None:
    """Refuses models of images whose hidden states cannot be compared, as those of other patches or tokens.

    Args:
        student, teacher: their configurations.
        name: the teacher's.
        layer_map: see [`make_layer_map`].
        size: (rows, columns) of the images.

    Raises:
        ValueError: hidden states that are paired have other shapes.
    """
    try:
        shapes = [_hidden_shapes(config, size) for config in (student, teacher)]
    except RuntimeError:  # a model that reads numbers from its tensors, which have none here
        return
    for ours, theirs in make_layer_map(student, teacher, layer_map):
        pair = shapes[0][ours], shapes[1][theirs]
        if pair[0] != pair[1]:
            raise ValueError(
                f"The student's hidden state {ours} has the shape {pair[0]}, and {theirs} of the teacher {name} has "
                f"{pair[1]}, by other patches or tokens; choose another teacher, or others with layer_map, or set "
                "distillation_hidden_weight to 0."
            )


def _hidden_shapes(config: PreTrainedConfig, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """The shape of each hidden state that an image has, without the batch."""
    with torch.device("meta"):
        config = tower_config(config)
        model = AutoModel.from_config(config).eval()
        outputs = model(pixel_values=torch.zeros(1, config.num_channels, *size), output_hidden_states=True)
    return [tuple(states.shape[1:]) for states in outputs.hidden_states]


def load_teacher_tokenizer(
    name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> PreTrainedTokenizerBase:
    """The tokenizer of a teacher of texts, which is to have the student's tokens.

    Args:
        name, config: the teacher's.
        tokenizer: the student's.
        max_length: the tokens of the longest texts.

    Raises:
        ValueError: it has another vocabulary, or the teacher has fewer positions than the texts have tokens.
        OSError: it cannot be read.
    """
    theirs = load_tokenizer(name)
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"The teacher {name} has another vocabulary than the model; it must be the same.")
    positions = max_tokens(config)  # of relative ones none
    if 0 < positions < max_length:
        raise ValueError(f"The teacher {name} has {positions} positions, fewer than max_length, {max_length}.")
    theirs.padding_side = tokenizer.padding_side
    return theirs


def same_tokens(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether it can be seen from two tokenizers themselves that they make the same tokens of every text."""
    if not (tokenizer.is_fast and other.is_fast):
        return False
    parts = [json.loads(each.backend_tokenizer.to_str()) for each in (tokenizer, other)]
    for each in parts:
        del each["truncation"], each["padding"]
    return parts[0] == parts[1]


@dataclass
class TaughtCollator:
    """Pads rows of tokens to the longest of the batch; and so the teacher's own inputs, which its tokenizer has made
    of the same texts, in the columns whose names begin with `teacher_`."""

    tokenizer: PreTrainedTokenizerBase
    teacher_tokenizer: PreTrainedTokenizerBase | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {**DataCollatorWithPadding(self.tokenizer)([_students(row) for row in rows])}
        theirs = [_teachers(row) for row in rows]
        if self.teacher_tokenizer is not None and theirs[0]:
            padded = DataCollatorWithPadding(self.teacher_tokenizer)(theirs)
            batch |= {f"{TEACHERS}{name}": value for name, value in padded.items()}
        return batch


def _students(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if not name.startswith(TEACHERS)}


def _teachers(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(TEACHERS): value for name, value in inputs.items() if name.startswith(TEACHERS)}


def soft_label_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """The divergence of the student's outputs from the teacher's, averaged over the batch.

    Args:
        student: logits, `(batch, labels)`; with a single label they are numbers, and the loss is their squared error.
        teacher: likewise.
        temperature: both are divided by it; the loss is multiplied by its square, so that its gradient keeps its size.
    """
    student, teacher = student.float(), teacher.float()
    if student.shape[-1] == 1:
        return F.mse_loss(student, teacher)
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        log_target=True,
        reduction="batchmean",
    )
    return temperature**2 * divergence


def hidden_state_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    layer_map: Sequence[tuple[int, int]],
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean squared error of the student's hidden states against the teacher's, over layers, tokens and channels.

    Args:
        student: tokens, `(batch, tokens, channels)` each, or feature maps, `(batch, channels, rows, columns)` each.
        teacher: likewise.
        layer_map: pairs of indices, the student's and the teacher's.
        mask: `(batch, tokens)`, 1 or True where a token is valid, for tokens only. None: all are.
    """
    errors = []
    for ours, theirs in layer_map:
        pair = student[ours].float(), teacher[theirs].float()
        # What padding holds, NaN included, is left out before it can reach a gradient.
        errors.append(F.mse_loss(*(pair if mask is None else (states[mask.bool()] for states in pair))))
    return torch.stack(errors).mean()


def mean_token(states: torch.Tensor, mask: torch.Tensor | None = None, patches: int = 0) -> torch.Tensor:
    """The mean of a text's valid tokens or of an image's patches, `(batch, channels)`.

    Args:
        states: tokens, `(batch, tokens, channels)`, or a feature map, `(batch, channels, rows, columns)`.
        mask: `(batch, tokens)`, 1 or True where a token is valid. None: all are.
        patches: the number of an image's patches, behind its class and register tokens; 0: all tokens are patches.
    """
    states = states.float()
    if states.dim() == 4:
        return states.mean(dim=(2, 3))
    if mask is None:
        return states[:, -patches:].mean(dim=1)
    valid = mask.bool()[..., None]
    return states.masked_fill(~valid, 0.0).sum(dim=1) / valid.sum(dim=1)


def class_token(states: torch.Tensor, mask: torch.Tensor | None = None, patches: int = 0) -> torch.Tensor:
    """A text's first valid token or an image's class token, `(batch, channels)`, of what [`mean_token`] takes."""
    if mask is None:
        return states[:, 0]
    return states[torch.arange(len(states), device=states.device), mask.int().argmax(dim=1)]


def cosine_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """1 - cosine of each pair of vectors, `(batch,)`, from `(batch, channels)`."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)


def match_outputs(student: PreTrainedConfig, teacher: PreTrainedConfig, name: str) -> list[int] | None:
    """For each label of the student, its number among the teacher's outputs; None: they are in the same order.

    Raises:
        ValueError: the teacher, whose `name` the message gives, was trained for other labels.
    """
    ours, theirs = ([config.id2label[index] for index in range(config.num_labels)] for config in (student, teacher))
    if theirs == ours:
        return None
    if len(set(theirs)) < len(theirs) or sorted(theirs) != sorted(ours):
        raise ValueError(f"The teacher {name} was trained for other labels than the model.")
    return [theirs.index(label) for label in ours]


class DistillationTrainer(TaskTrainer):
    """A Trainer that adds the losses of distillation while it trains, or, for inputs without labels, has them alone;
    without a teacher, a plain one.

    Args:
        teacher: a model with the student's inputs, or, where there are any, those that begin with `teacher_`, see
            [`TaughtCollator`], and with outputs in the order of the student's labels; or a model without a head, where
            `distillation.distillation_logits_weight` is 0. Its parameters are left as they are.
        distillation: the options.
        teacher_labels: for each label of the student, its number among the teacher's outputs; None: the same.
    """

    def __init__(
        self,
        *args: Any,
        teacher: PreTrainedModel | None = None,
        distillation: DistillationArguments | None = None,
        teacher_labels: Sequence[int] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        # Every loss here is the mean over a batch. Trainer takes BERT's for one that is divided by the number of
        # items in all accumulated batches, since its forward takes any keyword.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self.teacher = teacher
        if teacher is None:
            return
        self.distillation = distillation or DistillationArguments()
        self.teacher_labels = None if teacher_labels is None else list(teacher_labels)
        self.layer_map = []
        if self.distillation.distillation_hidden_weight:
            self.layer_map = make_layer_map(self.model.config, teacher.config, self.distillation.layer_map)
        self.output_hidden_states = bool(self.layer_map)
        teacher.eval().requires_grad_(False).to(self.args.device)

    def _set_signature_columns_if_needed(self) -> None:
        """Adds the columns that are the teacher's, which Trainer would take out."""
        super()._set_signature_columns_if_needed()
        columns = getattr(self.train_dataset, "column_names", None) or []
        self._signature_columns += [name for name in columns if name.startswith(TEACHERS)]

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        all_inputs, inputs = inputs, _students(inputs)
        labelled = "labels" in inputs
        if self.teacher is None or (labelled and not model.training):
            return super().compute_loss(model, inputs, return_outputs=return_outputs)
        options, mask = self.distillation, inputs.get("attention_mask")
        arguments = {**inputs, "output_hidden_states": self.output_hidden_states}
        loss: Any = 0.0
        if labelled:
            loss, outputs = super().compute_loss(model, arguments, return_outputs=True)
        else:
            outputs = model(**arguments)
        taught = self.teach(all_inputs)
        weight = options.distillation_logits_weight
        if weight > 0:
            soft = soft_label_loss(*self.compared_logits(outputs, taught, mask), options.distillation_temperature)
            loss = (1 - weight) * loss + weight * soft
        loss = loss + self.state_loss(outputs, taught, inputs)
        return (loss, outputs) if return_outputs else loss

    def state_loss(self, outputs: Any, taught: Any, inputs: dict[str, Any]) -> torch.Tensor | float:
        """The weighted loss of the hidden states; 0 where none are compared."""
        if not self.layer_map:
            return 0.0
        mask = inputs.get("attention_mask")
        hidden = hidden_state_loss(outputs.hidden_states, taught.hidden_states, self.layer_map, mask)
        return self.distillation.distillation_hidden_weight * hidden

    @torch.no_grad()
    def teach(self, inputs: dict[str, Any]) -> Any:
        """The teacher's outputs."""
        shared = {name: value for name, value in inputs.items() if name != "labels"}
        if own := _teachers(inputs):
            accepted = inspect.signature(self.teacher.forward).parameters  # type: ignore[union-attr]
            shared = {name: value for name, value in own.items() if name in accepted}
        with self.accelerator.autocast():
            return self.teacher(**shared, output_hidden_states=self.output_hidden_states)  # type: ignore[misc]

    def compared_logits(
        self, outputs: Any, taught: Any, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The student's and the teacher's, `(rows, labels)` with the labels in the student's order; a row is an
        example, or, where each token has logits, a token that `mask`, `(batch, tokens)`, does not leave out."""
        ours, theirs = outputs.logits, taught.logits
        if self.teacher_labels is not None:
            theirs = theirs[..., self.teacher_labels]
        if ours.dim() == 3:
            chosen = torch.ones(ours.shape[:2], dtype=torch.bool, device=ours.device) if mask is None else mask.bool()
            ours, theirs = ours[chosen], theirs[chosen]
        return ours, theirs
