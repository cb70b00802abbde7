# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Checkpoints that may come from anybody: fetched, checked before they are loaded, and compared by what they compute.

No code of theirs is run, and nothing is unpickled: weights are read from safetensors alone.
"""

import hashlib
import inspect
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch.func import functional_call
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..families import FAMILIES, family_of, max_tokens
from ..files import SENTENCE_MODULE, write_json


logger = logging.get_logger(__name__)

# What a checkpoint holds besides the model, as far as it is there.
PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "preprocessor_config.json",
)
# And what sentence-transformers adds to them: how an embedding is made of hidden states. Its modules have folders.
SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
SENTENCE_MODULE_FILES = ("config.json", "model.safetensors")
# Of both, what to ask the Hub for.
PROCESSOR_PATTERNS = (*PROCESSOR_FILES, *SENTENCE_FILES, *(f"[0-9]*_*/{name}" for name in SENTENCE_MODULE_FILES))
# The records of how it was made, by `convert` and by the tasks.
RECORDS = ("conversion.json", "training.json")
# What transformers would take from a configuration: weights of another name (outside the folder, or pickled) or in
# another form, and modules of another name.
REFUSED_FIELDS = ("transformers_weights", "quantization_config", "auto_models")
# Files that may hold weights as pickle, and those of Trainer's among them that do not.
PICKLES = ("*.bin", "*.pt", "*.pth")
OF_RUNS = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
# As safetensors name them; of others the bits would be taken for numbers of the parameter's type.
DTYPES = {"F64", "F32", "F16", "BF16", "I64"}
# Options of every `from_pretrained` on a checkpoint that may come from anybody.
UNTRUSTED = {"trust_remote_code": False, "use_safetensors": True}
# The files that tell the class of a tokenizer or image processor, and the fields that do, there or in the model's
# configuration.
CLASS_FIELDS = {
    "tokenizer_config.json": ("tokenizer_class",),
    "preprocessor_config.json": ("image_processor_type", "feature_extractor_type"),
}
# Where a configuration names modules that `trust_remote_code` would run.
CODE_FIELDS = ("auto_map", "custom_pipelines")


class CheckpointError(ValueError):
    """A checkpoint cannot be used for what was asked; the message says why and what to do about it."""


@contextmanager
def hub_errors(repo: str | os.PathLike, revision: str | None = None) -> Iterator[None]:
    """Turns what can go wrong between here and the Hub into a [`CheckpointError`] of one sentence."""
    try:
        yield
    except HFValidationError as error:
        raise CheckpointError(f"{repo} is neither a folder nor the id of a model on the Hub.") from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is gated: ask for access on its page, then log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no revision {revision}.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repo} is neither a folder nor a model on the Hub that you may read; if it is private, log in with "
            "`hf auth login`."
        ) from error
    except LocalTokenNotFoundError as error:
        raise CheckpointError("There is no Hub token: log in with `hf auth login`, or set HF_TOKEN.") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{repo} is no folder, and the Hub cannot be reached; check the name, or the network connection."
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{repo} lacks a file that is needed: {first_line(error)}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        reasons = {
            401: "the token is not valid: log in again with `hf auth login`",
            403: "the token does not allow it: it must be one that can write there",
            409: "it was changed at the same time; try again",
            412: "it was changed at the same time; try again",
        }
        verb, hint = ("failed", "; try again later") if status >= 500 or status == 429 else ("refused it", "")
        said = error.server_message or first_line(error)
        raise CheckpointError(f"{repo}: {reasons.get(status, f'the Hub {verb} ({said}){hint}')}.") from error
    except (HTTPError, RuntimeError) as error:  # the latter: a file that could not be uploaded, after several tries
        raise CheckpointError(f"{repo}: the connection to the Hub broke ({first_line(error)}); try again.") from error


def fetch(source: str | os.PathLike, revision: str | None = None) -> tuple[Path, str | None]:
    """A local folder that holds the source, and the commit where it comes from the Hub.

    Raises:
        CheckpointError: it cannot be had, or has arrived with other bytes than it was sent with.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise CheckpointError(f"--revision is for models on the Hub, but {source} is a folder; leave it out.")
        return Path(source), None
    patterns = [CONFIG_NAME, "README.md", "model*.safetensors", SAFE_WEIGHTS_INDEX_NAME, *RECORDS, *PROCESSOR_PATTERNS]
    try:
        with hub_errors(source, revision):
            folder = Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))
    except OSError as error:
        raise CheckpointError(f"{source} could not be downloaded from the Hub: {first_line(error)}") from error
    for file in (path for path in folder.rglob("*") if path.is_symlink()):
        _check_digest(file, str(source))
    if not any(folder.glob("model*.safetensors")):
        raise CheckpointError(
            f"{source} has no weights as safetensors; pickled ones are never loaded here, because loading them can "
            "run any code."
        )
    return folder, folder.name


def _check_digest(file: Path, source: str) -> None:
    """Compares a file in huggingface_hub's cache with its digest, by which it is named there; huggingface_hub itself
    compares its size alone. A file that differs is removed."""
    blob = file.resolve()
    digest = {64: sha256, 40: blob_id}.get(len(blob.name))
    if digest is not None and digest(blob) != blob.name:
        blob.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        raise CheckpointError(
            f"{file.name} of {source} was damaged on its way from the Hub and has been removed; try again."
        )


@contextmanager
def reading(what: str | os.PathLike) -> Iterator[None]:
    """Turns whatever transformers raises over a checkpoint's files, which may be of any kind if they hold nonsense,
    into a [`CheckpointError`] of one sentence."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise CheckpointError(f"{what} needs code of its own, which is not run here.") from error
        reason = first_line(error.__cause__ or error)
        raise CheckpointError(f"{what} cannot be loaded ({type(error).__name__}: {reason}).") from error


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: it is not there.
        CheckpointError: it is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: {first_line(error)}") from error


def read_model_type(folder: Path) -> str:
    """The `model_type` of a checkpoint, whose configuration asks for nothing that it should not.

    Raises:
        CheckpointError: it has no configuration, or no valid one, or is an adapter.
    """
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} holds an adapter; merge it into its model first (merge_and_unload).")
    try:
        config = read_json(folder / CONFIG_NAME)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json.") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str):
        found = "no model_type" if model_type is None else f"its model_type is {model_type}"
        raise CheckpointError(f"{folder / CONFIG_NAME} is not a model's configuration ({found}).")
    for field in REFUSED_FIELDS:
        if config.get(field) is not None:
            raise CheckpointError(f"{folder / CONFIG_NAME} sets {field}, which is not followed here; remove it.")
    named = config.get("architectures")
    if named is not None and not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise CheckpointError(f'{folder / CONFIG_NAME} is not valid: "architectures" must be a list of names.')
    dtype = config.get("dtype", config.get("torch_dtype"))
    if dtype not in (None, "float32", "float16", "bfloat16", "float64"):
        raise CheckpointError(f"{folder / CONFIG_NAME} is not valid: its dtype is {dtype}.")
    return model_type


def check_tokenizer(folder: Path) -> None:
    """Refuses a tokenizer's configuration that leads out of its folder.

    Raises:
        CheckpointError: it does, or is damaged.
    """
    file = folder / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    names = config.get("fast_tokenizer_files") if isinstance(config, dict) else None
    for name in names if isinstance(names, list) else []:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{file} names {name}, which is not a file beside it.")


def forget_code(config: PreTrainedConfig) -> None:
    """Takes the modules that a stranger's configuration names out of it, so that they are not named again where it is
    saved. What this package's configurations name is their own family."""
    for field in CODE_FIELDS:
        if not (field == "auto_map" and family_of(config) is not None and type(config).is_family()):
            vars(config).pop(field, None)


def copy_files(source: Path, folder: Path, names: Iterable[str]) -> None:
    """Copies those of the files that are there, unless they are links out of the source's folder (into
    huggingface_hub's cache they may lead).

    Raises:
        CheckpointError: there is such a link, or one that leads nowhere.
    """
    if source.resolve() == folder.resolve():
        return
    for name in names:
        if (source / name).is_symlink() and not (source / name).exists():
            raise CheckpointError(f"{source / name} is a link that leads nowhere; fetch the source again.")
        if not (source / name).is_file():
            continue
        real = (source / name).resolve()
        if not any(real.is_relative_to(Path(root).resolve()) for root in (source, HF_HUB_CACHE)):
            raise CheckpointError(
                f"{source / name} is a link to {real}, outside the folder; put the file in its place."
            )
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(real, folder / name)


def copy_processor(source: Path, folder: Path) -> list[str]:
    """Copies the files of a tokenizer or image processor, and those of sentence-transformers, to the folder of a model
    of this package. They name the class also where in the source the model's type told it, since transformers alone
    does not know the types of ours; and no modules that `trust_remote_code` would run, which are not copied, or lie in
    somebody else's repository.

    Returns:
        The files' names.

    Raises:
        CheckpointError: one is a link out of the source's folder, or is damaged.
    """
    copy_files(source, folder, PROCESSOR_FILES)
    copy_sentence_files(source, folder)
    for file in (folder / name for name in CLASS_FIELDS):
        content = read_json(file) if file.is_file() else {}
        if isinstance(content, dict) and content.pop("auto_map", None) is not None:
            write_json(file, content)
    if any((folder / name).is_file() for name in PROCESSOR_FILES):
        config = read_json(folder / CONFIG_NAME)
        name, class_name = _processor_of_type(config["model_type"])
        content, fields = read_json(folder / name) if (folder / name).is_file() else {}, CLASS_FIELDS[name]
        if isinstance(content, dict) and not any(each.get(field) for each in (content, config) for field in fields):
            write_json(folder / name, {**content, fields[0]: class_name})
    names = [*PROCESSOR_FILES, *_sentence_files(folder)]
    return [name for name in names if (folder / name).is_file()]


def copy_sentence_files(source: Path, folder: Path) -> None:
    """Copies what makes an embedding of a model's hidden states in sentence-transformers, and how long a text may be
    there. The log says so where there is something of it that cannot be copied, since it would be code or a pickle.

    Raises:
        CheckpointError: one is a link out of the source's folder, or is damaged.
    """
    names = _sentence_files(source)
    copy_files(source, folder, names)
    if not names and (source / "modules.json").is_file():
        logger.warning(f"{source} has modules that are not sentence-transformers' own, which are not copied.")
    parts = sorted({Path(name).parent for name in names} - {Path()})
    if left := [f"{part}/{file.name}" for part in parts for file in (source / part).glob("*.bin")]:
        logger.warning(f"{source} has weights of modules as pickle, which are not copied: {some(left)}.")


def _processor_of_type(model_type: str) -> tuple[str, str]:
    """The file that tells a processor's class, and the class that the Auto classes have for a type of one of the
    families, CP or stock."""
    family = family_of(model_type) or FAMILIES.get(model_type)
    if family is None:
        raise ValueError(f"{model_type} is not a model type of this package.")
    return f"{'tokenizer' if family.is_text else 'preprocessor'}_config.json", family.processor


def _sentence_files(folder: Path) -> list[str]:
    """Those of sentence-transformers that may be there; none, where they name modules that are not its own."""
    try:
        modules = read_json(folder / "modules.json")
    except FileNotFoundError:
        return []
    paths = []
    for module in modules if isinstance(modules, list) else [None]:
        kind, path = (str(module.get(field)) for field in ("type", "path")) if isinstance(module, dict) else ("", "")
        if not kind.startswith("sentence_transformers.") or not re.fullmatch(f"({SENTENCE_MODULE})?", path):
            return []
        paths += [f"{path}/{name}" for name in SENTENCE_MODULE_FILES] if path else []
    return [*SENTENCE_FILES, *paths]


def sentence_pooling(folder: Path) -> str | None:
    """How a checkpoint of sentence-transformers makes an embedding of its hidden states: `mean` of the tokens, `cls`
    (the class token) or another of its modes, several joined by "and"; None for any other checkpoint.

    Raises:
        CheckpointError: a file is damaged.
    """
    modules = read_json(folder / "modules.json") if _sentence_files(folder) else []
    path = next((each["path"] for each in modules if each["type"].endswith(".Pooling")), None)
    if path is None or not (folder / path / CONFIG_NAME).is_file():
        return None
    options = read_json(folder / path / CONFIG_NAME)
    # Version 6 has the names of the modes in one field, earlier ones a switch for each, such as `mean_tokens`.
    prefix = "pooling_mode_"
    switched = [name.removeprefix(prefix) for name in options if name.startswith(prefix) and options[name]]
    modes = options.get("pooling_mode") or [name.split("_token")[0] for name in switched] or "mean"
    return modes if isinstance(modes, str) else " and ".join(modes)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, each of which can be opened.

    Raises:
        CheckpointError: the weights are missing, incomplete, damaged, outside the folder, or pickled.
    """
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        names = [SAFE_WEIGHTS_NAME]
    elif index.is_file():
        content = read_json(index)
        content = content if isinstance(content, dict) else {}
        weight_map = content.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map or not isinstance(content.get("metadata", {}), dict):
            raise CheckpointError(f"{index} is corrupted; fetch the source again.")
        names = sorted(set(map(str, weight_map.values())))
    elif pickles := sorted({path.name for pattern in PICKLES for path in folder.glob(pattern)} - OF_RUNS):
        raise CheckpointError(
            f"{folder} has its weights only as pickle ({pickles[0]}), which is never loaded here, because loading it "
            "can run any code; save the model as safetensors first."
        )
    else:
        raise CheckpointError(f"{folder} is not a checkpoint: it has no model.safetensors.")
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {name}, which is not a safetensors file beside it.")
        try:
            with safetensors.safe_open(folder / name, framework="pt") as tensors:
                dtypes = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder} is incomplete: {name} is missing; fetch the source again.") from error
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{folder / name} is truncated or corrupted ({first_line(error)}); fetch the source again."
            ) from error
        if other := sorted(dtypes - DTYPES):
            raise CheckpointError(f"{folder / name} has weights of type {other[0]}, which are not those of a model.")
    return [folder / name for name in names]


def example_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Seeded inputs for a model: token ids of mixed lengths, padded on the right; or images, of the size that its
    configuration names where it does, and for masked image modelling masked patches."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        size, stride = getattr(config, "image_size", (96, 64)), getattr(config, "encoder_stride", None)
        height, width = (size, size) if isinstance(size, int) else size
        inputs = {"pixel_values": torch.randn(2, config.num_channels, height, width, generator=generator)}
        # Upstream's loss divides the sizes, so that they must be numbers there.
        if type(model).__name__.endswith("ForMaskedImageModeling") and size == height and stride == config.patch_size:
            num_patches = (size // stride) ** 2
            inputs["bool_masked_pos"] = torch.rand(2, num_patches, generator=generator) < 0.5
        return inputs
    longest = min(64, max_tokens(config))
    lengths = torch.tensor([longest, max(1, longest // 2), max(1, longest // 8), 1])
    input_ids = torch.randint(config.vocab_size, (len(lengths), longest), generator=generator)
    attention_mask = (torch.arange(longest) < lengths[:, None]).long()
    if config.pad_token_id is not None:
        input_ids = input_ids.masked_fill(attention_mask == 0, config.pad_token_id)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if type(model).__name__.endswith("ForMultipleChoice"):
        inputs = {name: tensor.unflatten(0, (2, 2)) for name, tensor in inputs.items()}  # two examples, two choices
    return inputs


@torch.no_grad()
def parity(model: PreTrainedModel, other: PreTrainedModel) -> float:
    """The largest absolute difference between any outputs of the two models, hidden states included, on the same
    seeded inputs ([`example_inputs`]); NaN if there is one among the outputs. Both are put into evaluation mode, and
    are otherwise left as they are."""
    inputs = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in example_inputs(model).items()
    }
    pairs = zip(*(list(_tensors(_aligned_outputs(each, inputs))) for each in (model, other)), strict=True)
    differences = [(a.double() - b.double()).abs().max().item() for a, b in pairs]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


@torch.no_grad()
def distances(model: PreTrainedModel, other: PreTrainedModel) -> dict[str, float]:
    """How far the last hidden states of two models are from one another, as 1 - cosine, on the inputs of [`parity`]:
    the mean over all `tokens`, and over the examples of the `mean` of their tokens."""
    inputs = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in example_inputs(model).items()
    }
    ours, theirs = (
        each.eval()(**inputs, output_hidden_states=True, return_dict=True).hidden_states[-1].double()
        for each in (model, other)
    )
    mask = inputs.get("attention_mask", ours.new_ones(ours.shape[:2])).reshape(ours.shape[:2]).double()
    our_mean, their_mean = ((states * mask[..., None]).sum(dim=1) for states in (ours, theirs))
    tokens = ((1 - F.cosine_similarity(ours, theirs, dim=-1)) * mask).sum() / mask.sum()
    return {"tokens": tokens.item(), "mean": (1 - F.cosine_similarity(our_mean, their_mean, dim=-1)).mean().item()}


def _aligned_outputs(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> tuple:
    """With each tensor of the model in new memory. Loaded weights stay where they lie in their file, and on some
    processors a product's last bit depends on how its operands are aligned: equal weights then give equal outputs."""
    tensors = {name: each.clone() for name, each in (*model.named_parameters(), *model.named_buffers())}
    asked = {**inputs, "output_hidden_states": True, "return_dict": True}
    return functional_call(model.eval(), tensors, (), asked).to_tuple()


def _tensors(output: Any) -> Iterable[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    else:
        for part in output:
            yield from _tensors(part)


def load_comparing(
    model_class: Any, folder: Path, config: PreTrainedConfig
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """A checkpoint's model, what the class has and the weights lack, and what they hold that it has not. A bare model
    is made without a pooler where the weights have none, as those of DINO, and with a mask token where they have one.
    """
    options: dict[str, bool] = {}
    for _ in range(2):
        model, info = model_class.from_pretrained(
            folder, config=config, output_loading_info=True, **UNTRUSTED, **options
        )
        missing, unexpected = (sorted(info[f"{kind}_keys"]) for kind in ("missing", "unexpected"))
        if any(key.startswith("pooler.") for key in missing) and _takes(model_class, "add_pooling_layer"):
            options["add_pooling_layer"] = False
        if "embeddings.mask_token" in unexpected and _takes(model_class, "use_mask_token"):
            options["use_mask_token"] = True
        if not options:
            break
    return model, missing, unexpected


def made_with(model: PreTrainedModel) -> dict[str, bool]:
    """What a bare model was made with, besides its configuration."""
    options = {}
    if getattr(model, "pooler", model) is None and _takes(type(model), "add_pooling_layer"):
        options["add_pooling_layer"] = False
    masks = getattr(getattr(model, "embeddings", None), "mask_token", None) is not None
    if masks and _takes(type(model), "use_mask_token"):
        options["use_mask_token"] = True
    return options


def _takes(model_class: type[PreTrainedModel], option: str) -> bool:
    """Whether the constructor of a model, stock or CP, takes an option besides the configuration."""
    constructors = [vars(each)["__init__"] for each in model_class.__mro__ if "__init__" in vars(each)]
    return any(option in inspect.signature(each).parameters for each in constructors)


def check_written(folder: Path, model: PreTrainedModel) -> None:
    """Loads what was written of a model and compares every tensor.

    Raises:
        CheckpointError: it differs.
    """
    loaded, info = type(model).from_pretrained(folder, output_loading_info=True, **made_with(model))
    expected = model.state_dict()
    same = all(torch.equal(tensor, expected[key].cpu()) for key, tensor in loaded.state_dict().items())
    if not same or any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise CheckpointError(f"What was written cannot be loaded as it was saved ({info}); nothing was kept.")


def sha256(file: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def blob_id(file: Path) -> str:
    """The name that git, and with it the Hub, has for a file's content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def some(names: Sequence[str]) -> str:
    """The first three of the names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def first_line(error: BaseException) -> str:
    """Of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' report on the keys of a checkpoint, for those who check the keys themselves."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
