# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Checkpoints for others: exported so that they need no package, and pushed to the Hub."""

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from ..families import family_of
from ..files import new_checkpoint_folder
from .model_card import carry_records, read_config, renew_card, write_card
from .parity import build_options, check_written, load_and_compare_keys, parity, quiet
from .processors import copy_processor
from .reading import (
    PROCESSOR_FILES,
    PROCESSOR_PATTERNS,
    RECORDS,
    UNTRUSTED,
    CheckpointError,
    blob_id,
    copy_files,
    first_line,
    forget_code,
    hub_errors,
    reading,
    sha256,
    shortened_list,
    weight_files,
)


# The files of an export, besides its modules.
WRITTEN = ["model*.safetensors", SAFE_WEIGHTS_INDEX_NAME, *PROCESSOR_PATTERNS, *RECORDS, ".eval_results/*.yaml"]


@dataclass(frozen=True)
class Pushed:
    """The result of a push.

    Attributes:
        url: where to look at it: the repository, its branch or the pull request.
        commit: the commit that holds it, for `revision=`.
        files: the paths that were checked there.
        private: whether the repository is.
    """

    url: str
    commit: str
    files: tuple[str, ...]
    private: bool


def load_checkpoint(folder: str | os.PathLike) -> PreTrainedModel:
    """The model in a folder of this package's, in the class that its configuration names, in evaluation mode.

    Raises:
        CheckpointError: it is no such checkpoint, or its weights are not exactly those of the class.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder.")
    config, class_name = read_config(folder)
    weight_files(folder)
    family: Any = family_of(config)
    model_class = getattr(family.modeling, class_name)
    with quiet(), reading(f"{folder} as {class_name}"):
        model, missing, unexpected = load_and_compare_keys(model_class, folder, config)
    forget_code(model.config)
    for kind, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            raise CheckpointError(
                f"The weights in {folder} are not those of {class_name}: {kind} {shortened_list(keys)}."
            )
    return model


def export_checkpoint(
    source: PreTrainedModel | str | os.PathLike,
    output: str | os.PathLike,
    *,
    processing_class: Any = None,
    name: str | None = None,
    overwrite: bool = False,
) -> PreTrainedModel:
    """Writes a checkpoint that works with transformers alone: the weights, the configuration with an `auto_map` for
    every Auto class of the family, the modules that it names, the tokenizer or image processor, and the card.

    Of a folder's other files (a run's arguments, results, optimiser and checkpoints) none is taken over. What has been
    written is loaded from the modules that were written with it, and must compute exactly what the source does.

    Args:
        source: a model of this package, or the folder of one: converted, or that of a run.
        output: the folder to write.
        processing_class: a tokenizer or image processor to save with it; default: the files of the source's folder.
        name: what the card calls it, for example its id on the Hub; default: the name of the folder.
        overwrite: replace a checkpoint that stands at `output`.

    Returns:
        The model.

    Raises:
        CheckpointError: the source is no checkpoint of this package, or is damaged, or its outputs are not finite.
        FileExistsError: see [`~cp_transformers.files.new_checkpoint_folder`].
        OSError: the output cannot be written.
    """
    origin = Path(source) if isinstance(source, (str, os.PathLike)) else None
    if origin is not None and origin.resolve() == Path(output).resolve():
        raise CheckpointError(f"{output} is the source itself; choose another output.")
    family = family_of(getattr(source, "config", ""))
    if origin is None and (family is None or type(source) not in family.models.values()):
        raise CheckpointError(
            f"{type(source).__name__} is not one of this package's models: convert it, or merge its adapters, first; "
            "or load it without trust_remote_code, if it was loaded with that."
        )
    with new_checkpoint_folder(output, overwrite) as folder, quiet():
        model: Any = source if origin is None else load_checkpoint(origin)
        try:
            model.save_pretrained(folder)
        except safetensors.SafetensorError as error:  # a full disk
            raise OSError(f"The weights cannot be written ({first_line(error)}).") from error
        if processing_class is not None:
            processing_class.save_pretrained(folder)
        name = name or Path(output).resolve().name
        if origin is None:
            write_card(folder, name)
        else:
            if processing_class is None:
                copy_processor(origin, folder)
            copy_files(origin, folder, ["README.md"])
            carry_records(origin, folder)
            renew_card(folder, name)
        was_training = model.training
        try:
            _check_self_contained(folder, model)
        finally:
            model.train(was_training)
        check_written(folder, model)
    return model


def push_checkpoint(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
) -> Pushed:
    """Pushes an export ([`export_checkpoint`]) of a checkpoint to the Hub, in one commit, and checks what has arrived.

    Everything is checked before anything is sent. What has been sent before, by a push that broke off, is not sent
    again. The token is huggingface_hub's: HF_TOKEN, or that of `hf auth login`.

    Args:
        folder: the checkpoint.
        repo_id: `user/name` or `organisation/name`, or `name` for the token's own; it is made if there is none.
        private: of a new repository; default: True. Of one that exists it is not changed: it must be as asked for.
        revision: the branch to push to, made if there is none; default: main.
        create_pr: open a pull request in place of pushing to the branch.

    Raises:
        CheckpointError: the checkpoint is not whole, the Hub refuses, cannot be reached, or breaks off, or what it has
            is not what was sent; or there is nothing to send in a pull request.
        OSError: there is no room for the export.
    """
    if create_pr and revision is not None:
        raise CheckpointError("A pull request is to main: leave out --revision, or --create-pr.")
    repo_id = check_target(repo_id, anybodys=create_pr)
    api = HfApi(library_name="cp_transformers")
    with tempfile.TemporaryDirectory() as work:
        export = Path(work) / "export"
        model = export_checkpoint(folder, export, name=repo_id)
        with hub_errors(repo_id, revision):
            if api.repo_exists(repo_id):
                is_private = bool(api.model_info(repo_id).private)
                if private is not None and private != is_private:
                    raise CheckpointError(
                        f"{repo_id} exists and is {'public' if private else 'private'}; change that in its settings, "
                        "or push to another."
                    )
            else:
                is_private = private is not False
                api.create_repo(repo_id, private=is_private, exist_ok=True)
            if revision is not None and not create_pr:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=export,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or f"Push {type(model).__name__}",
                delete_patterns=WRITTEN,  # of an earlier push, which this one has not
            )
            if create_pr and commit.pr_url is None:
                raise CheckpointError(f"{repo_id} holds exactly this already; no pull request was opened.")
            files = _check_arrived(api, repo_id, commit.oid, export)
    url = commit.pr_url or str(commit.repo_url) + (f"/tree/{revision}" if revision is not None else "")
    return Pushed(url, commit.oid, files, is_private)


def check_target(repo_id: str, anybodys: bool = False) -> str:
    """The full name of a repository that the token may push to, as far as its account's name can tell.

    Args:
        repo_id: `user/name`, or `name` for the token's own.
        anybodys: a pull request, for which it may be anybody's.

    Raises:
        CheckpointError: it is no name, or somebody else's, or there is no token, or the Hub cannot be reached.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise CheckpointError(f"{repo_id} must be of the form user/name: {first_line(error)}") from error
    if get_token() is None:
        raise CheckpointError("There is no Hub token: log in with `hf auth login`, or set HF_TOKEN.")
    with hub_errors(repo_id):
        account = HfApi().whoami()
    owner, _, name = repo_id.rpartition("/")
    own = [account["name"], *(each["name"] for each in account.get("orgs", []))]
    if owner and owner not in own and not anybodys:
        raise CheckpointError(f"{repo_id}: the token is of {own[0]}, who is not {owner} and no member of it.")
    return f"{owner or own[0]}/{name}"


def _check_self_contained(folder: Path, model: PreTrainedModel) -> None:
    """Loads an export by the modules in it, and compares every output with that of the model."""
    reference = f"{type(model).__module__.rpartition('.')[2]}.{type(model).__name__}"
    model_class: Any = get_class_from_dynamic_module(reference, folder, local_files_only=True)
    attention = model.config._attn_implementation
    options = {"attn_implementation": attention, **UNTRUSTED, **build_options(model)}
    exported = model_class.from_pretrained(folder, **options).to(model.device)
    difference = parity(model, exported)
    if difference != 0.0:  # or NaN
        raise CheckpointError(
            f"The outputs of {type(model).__name__} are not finite, or differ from those of its export, by "
            f"{difference}; nothing was written. If they are finite, please report this."
        )


def _check_arrived(api: HfApi, repo_id: str, commit: str, folder: Path) -> tuple[str, ...]:
    """Compares the digests of a commit's files with those of the folder that was pushed."""
    paths = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    there = {info.path: info for info in api.get_paths_info(repo_id, paths, revision=commit)}
    for path in paths:
        info: Any = there.get(path)
        if info is None:
            raise CheckpointError(f"{repo_id} lacks {path}, which was pushed; push again.")
        content = folder / path
        same = info.lfs.sha256 == sha256(content) if info.lfs is not None else info.blob_id == blob_id(content)
        if not same:
            raise CheckpointError(f"{repo_id} has another {path} than was pushed; push again.")
    return tuple(paths)


def export(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers export`."""
    parser = argparse.ArgumentParser(
        prog="cp-transformers export",
        description="Write a checkpoint that works with transformers alone (trust_remote_code=True), and check that "
        "it computes what its source does.",
        allow_abbrev=False,
    )
    parser.add_argument("source", help="a CP checkpoint's folder: converted, or that of a run")
    parser.add_argument("output", help="the folder to write, whole or not at all")
    parser.add_argument("--name", help="what its card calls it, for example its id on the Hub (default: the folder's)")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that stands at OUTPUT")
    options = parser.parse_args(args)
    model = export_checkpoint(options.source, options.output, name=options.name, overwrite=options.overwrite)
    print(f"{options.source} -> {options.output} ({type(model).__name__}); the export computes exactly the same.")
    if not any((Path(options.output) / name).is_file() for name in PROCESSOR_FILES):
        print("The source has no tokenizer or image processor; none was copied.")


def push(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers push`."""
    parser = argparse.ArgumentParser(
        prog="cp-transformers push",
        description="Check a checkpoint and push it to the Hub, so that it works with transformers alone.",
        epilog="The Hub token is taken from the environment (HF_TOKEN) or from `hf auth login`.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", help="a CP checkpoint's folder: converted, exported, or that of a run")
    parser.add_argument(
        "repo", help="user/name, organisation/name, or name for your own; created if it does not exist"
    )
    parser.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        help="whether a new repository is private (default: it is); refuse to push to one that is otherwise",
    )
    parser.add_argument("--revision", help="the branch to push to, created if it does not exist (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    parser.add_argument("--message", dest="commit_message", help="the commit's message")
    options = vars(parser.parse_args(args))
    pushed = push_checkpoint(options.pop("folder"), options.pop("repo"), **options)
    visibility = "private" if pushed.private else "public"
    print(f"{pushed.url} ({visibility})\n{len(pushed.files)} files uploaded and verified; commit {pushed.commit}")
