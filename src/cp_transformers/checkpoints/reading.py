# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Checkpoints that may come from anybody: fetched, and checked before they are loaded.

No code of theirs is run, and nothing is unpickled: weights are read from safetensors alone.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
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
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..families import family_of


logger = logging.get_logger(__name__)

# The files of a tokenizer or image processor, of which a checkpoint has a few.
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
# Where transformers keeps the image processor of two towers beside their tokenizer, in a field.
PROCESSOR_CONFIG, IMAGE_PROCESSOR = "processor_config.json", "image_processor"
# sentence-transformers adds how an embedding is made of hidden states. Its modules have folders.
SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
SENTENCE_MODULE_FILES = ("config.json", "model.safetensors")
# The patterns of all, by which the Hub is asked for them.
PROCESSOR_PATTERNS = (
    *PROCESSOR_FILES,
    PROCESSOR_CONFIG,
    *SENTENCE_FILES,
    *(f"[0-9]*_*/{name}" for name in SENTENCE_MODULE_FILES),
)
# The records of how a checkpoint was made, by `convert` and by the training commands.
RECORDS = ("conversion.json", "training.json")
# Fields by which transformers would load weights of another name (outside the folder, or pickled) or in another form,
# and modules of another name.
REFUSED_FIELDS = ("transformers_weights", "quantization_config", "auto_models")
# Files that may hold weights as pickle, and those of Trainer's among them that do not.
PICKLES = ("*.bin", "*.pt", "*.pth")
TRAINER_FILES = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
# As safetensors name them; of others the bits would be taken for numbers of the parameter's type.
DTYPES = {"F64", "F32", "F16", "BF16", "I64"}
# Options of every `from_pretrained` on a checkpoint that may come from anybody.
UNTRUSTED = {"trust_remote_code": False, "use_safetensors": True}
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
    """A local folder that holds the source, and the source's commit if it comes from the Hub.

    Raises:
        CheckpointError: the source cannot be had, or has arrived with other bytes than it was sent with.
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
    """The content of a JSON file.

    Raises:
        FileNotFoundError: the file is not there.
        CheckpointError: the file is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: {first_line(error)}") from error


def read_model_type(folder: Path) -> str:
    """The `model_type` of a checkpoint, whose configuration is checked to ask for nothing that is refused here.

    Raises:
        CheckpointError: the checkpoint has no configuration, or no valid one, or is an adapter.
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
        CheckpointError: the configuration does, or is damaged.
    """
    file = folder / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    names = config.get("fast_tokenizer_files") if isinstance(config, dict) else None
    for name in names if isinstance(names, list) else []:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{file} names {name}, which is not a file beside it.")


def forget_code(config: PreTrainedConfig) -> None:
    """Removes the modules that a stranger's configuration names, so that a save does not name them again. The
    configurations of this package name their own family, and keep it."""
    for field in CODE_FIELDS:
        if not (field == "auto_map" and family_of(config) is not None and type(config).is_family()):
            vars(config).pop(field, None)


def copy_files(source: Path, folder: Path, names: Iterable[str]) -> None:
    """Copies those of the named files that the source has. Links may lead into huggingface_hub's cache, but not to any
    other place outside the source.

    Raises:
        CheckpointError: a link leads outside the source, or nowhere.
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
    elif pickles := sorted({path.name for pattern in PICKLES for path in folder.glob(pattern)} - TRAINER_FILES):
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


def sha256(file: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def blob_id(file: Path) -> str:
    """The name that git, and with it the Hub, has for a file's content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def shortened_list(names: Sequence[str]) -> str:
    """The first three names, and how many more there are, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message; for an error without a message the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
