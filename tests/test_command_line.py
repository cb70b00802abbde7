# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The command line before any command runs: quick answers, and help that is true and in order."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cp_transformers
from cp_transformers.families import FAMILIES
from cp_transformers.models.configuration_context_pool import LayerPoolConfigMixin, TextPoolConfigMixin
from cp_transformers_cli import COMMANDS
from cp_transformers_cli.convert import DEFAULTS, model_types


# Runs main() where nothing that takes long to load can be loaded.
LIGHT = """
import sys
sys.modules.update(dict.fromkeys(["cp_transformers", "torch", "transformers", "datasets", "numpy"]))
from cp_transformers_cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        ([], 0, "convert   turn a pretrained checkpoint"),
        (["--help"], 0, "convert   turn a pretrained checkpoint"),
        (["--version"], 0, cp_transformers.__version__),
        (["convret", "a", "b"], 1, "there is no command convret; the commands are demo, glue"),
        (["convert", "--help"], 0, "--no-pool "),
        (["convert", "a", "b", "--lyers", "1"], 2, "unrecognized arguments: --lyers 1"),
        (["convert", "a"], 2, "the following arguments are required: output"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_needs_no_model_is_answered_without_loading_what_models_need(args, status, words):
    """Which takes seconds."""
    result = subprocess.run([sys.executable, "-c", LIGHT, *args], capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    assert words in result.stdout + result.stderr


def test_the_console_script_begins_outside_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"cp-transformers": "cp_transformers_cli:main"}


def test_every_command_is_there():
    for target, _ in COMMANDS.values():
        module, _, function = target.partition(":")
        __import__(module)
        assert callable(getattr(sys.modules[module], function or "main"))


def test_convert_names_the_model_types_of_the_table():
    assert model_types() == sorted(each for family in FAMILIES.values() for each in family.source_types)
    assert {"clip", "clip_vision_model", "xlm-roberta"} < {*model_types()}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_convert_tells_the_defaults_that_the_configurations_have(family):
    config = family.config_class()
    kinds = {"texts": TextPoolConfigMixin, "patches": LayerPoolConfigMixin}
    kind = next((name for name, mixin in kinds.items() if isinstance(config, mixin)), "ConvNets")
    for field, told in DEFAULTS.items():
        assert ({kind, "all"} & told.keys() != set()) == hasattr(config, field)
        if hasattr(config, field):
            value = getattr(config, field)
            assert told.get(kind, told.get("all")) == ("all" if value is None else value)
