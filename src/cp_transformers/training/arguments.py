# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""One way to configure every task: a YAML file, `--config FILE`, and a command line that overrides it.

On top of transformers' HfArgumentParser, in the manner of TRL's parser: every field of the dataclasses is a key of the
file and an option of the command line, and what stands in the file is taken as if it stood on the command line.
"""

import argparse
import dataclasses
import enum
import json
import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..files import write_whole


# What pushing does here, which is not what it does in Trainer.
PUSH_HELP = {
    "push_to_hub": "push a CP model when its run is finished, as `cp-transformers push` does",
    "hub_model_id": "where to: user/name, or name for your own (default: the name of output_dir)",
    "hub_private_repo": "whether a new repository is private (default: it is); one that exists must be so, if given",
    "hub_revision": "the branch to push to, created if it does not exist (default: main)",
    "hub_strategy": "not used: the push comes at the end",
    "hub_always_push": "not used: the push comes at the end",
    "hub_token": "refused, since Trainer would write it to output_dir: set HF_TOKEN, or log in with `hf auth login`",
}


# What takes the place of an option that is not given, and how YAML may write what is switched on or off.
NULL = "tag:yaml.org,2002:null"
SWITCHES = {"on": "true", "off": "false"}


# Ways to name the data, of which a run takes one.
DATA_OPTIONS = (("dataset_name", "dataset_config_name"), ("data_dir",), ("train_file", "validation_file"))


class Loader(yaml.SafeLoader):
    """With null, true, false and decimal numbers, as in JSON, besides texts: YAML 1.1 also has dates, octal numbers,
    those to the base of 60, which make the pair 1:2 one, and yes, no, on and off, but no 3e-5."""

    yaml_implicit_resolvers: dict[str, list] = {}


for tag, pattern, first in (
    ("null", r"(~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"[-+]?(0|[1-9]\d*)", list("-+0123456789")),
    ("float", r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?", list("-+.0123456789")),
    ("merge", "<<", ["<"]),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"{pattern}$"), first)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """With the defaults of the options that have one, where their help does not say it already."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.nargs == 0 or action.default in (None, "", "{}", {}, []) or "default" in (action.help or "")
        return action.help if told else super()._get_help_string(action)


# Of Trainer's options, those that --help shows; --help-all shows every one.
FIRST = """
output_dir do_train do_eval do_predict num_train_epochs max_steps learning_rate per_device_train_batch_size
per_device_eval_batch_size gradient_accumulation_steps warmup_steps weight_decay seed eval_strategy save_strategy
logging_steps resume_from_checkpoint bf16 use_cpu report_to push_to_hub hub_model_id hub_private_repo
""".split()


class HelpAll(argparse.Action):
    """As `--help`, with all of Trainer's options."""

    def __call__(self, parser: Any, *args: Any) -> None:
        print(parser.format_help(every=True), end="")
        parser.exit()


class ArgumentParser(HfArgumentParser):
    """Parses `--config FILE` and options into dataclasses.

    Raises:
        ValueError: an option or a key of the file is unknown (the message names the nearest), has a value of the wrong
            type, or is missing; or the file is not a YAML mapping.
        OSError: the file cannot be read.
    """

    def __init__(self, dataclass_types: Sequence[type], **kwargs: Any):
        super().__init__(
            dataclass_types,
            allow_abbrev=False,
            parents=[self._config_parser()],
            formatter_class=HelpFormatter,
            usage="%(prog)s [--config FILE] [options]",
            **kwargs,
        )
        self.add_argument(
            "--help-all", action=HelpAll, nargs=0, default=argparse.SUPPRESS, help="show all of Trainer's options, too"
        )
        for name, option in self._option_string_actions.items():
            if name.startswith("--no_") and name.replace("--no_", "--") in self._option_string_actions:
                option.help = f"sets {name.replace('--no_', '--')} to false"
        if resume := self._option_string_actions.get("--resume_from_checkpoint"):
            resume.help = "last: go on with the run in output_dir, from its last checkpoint; or a checkpoint's folder"
        for name, text in PUSH_HELP.items():
            if option := self._option_string_actions.get(f"--{name}"):
                option.help = text

    @staticmethod
    def _config_parser() -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        text = "YAML file with any of these options; those on the command line win"
        parser.add_argument("--config", metavar="FILE", help=text)
        return parser

    def format_help(self, every: bool = False) -> str:
        """The command's own options first, under headings, then those of Trainer's that are asked for most, or `every`
        one."""
        trainer = "Trainer's options" if every else "the first of Trainer's options (--help-all shows every one)"
        sections = {"help": ["help", "help_all"], "a file of options": ["config"]}
        for each in self.dataclass_types:
            names = [field.name for field in dataclasses.fields(each)]
            if issubclass(each, TrainingArguments):
                sections[trainer] = names if every else [name for name in FIRST if name in names]
            else:
                sections[getattr(each, "heading", f"options of {self.prog}")] = names
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        for heading, names in sections.items():
            formatter.start_section(heading)
            formatter.add_arguments([option for name in names for option in self._actions if option.dest == name])
            formatter.end_section()
        return formatter.format_help()

    def parse(self, args: Sequence[str] | None = None) -> tuple[Any, ...]:
        """The dataclasses, in the order in which their types were given."""
        known, rest = self._config_parser().parse_known_args(args)
        from_file = [] if known.config is None else _without_other_data(self._read(Path(known.config)), rest)
        *parsed, unknown = self.parse_args_into_dataclasses(
            [*from_file, *rest], return_remaining_strings=True, look_for_args_file=False
        )
        if unknown:
            name = unknown[0].split("=")[0]
            self.error(f"there is no option {name}{self._nearest(name.lstrip('-'))}")
        for each in parsed:
            if isinstance(each, TrainingArguments):  # which takes that of `accelerate launch`, but does not say so
                each.bf16, each.fp16 = (each.mixed_precision == name for name in ("bf16", "fp16"))
        return tuple(parsed[: len(list(self.dataclass_types))])

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help lists the options)")

    def _read(self, path: Path) -> list[str]:
        """The file as options of a command line."""
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}, which --config names.")
        loader = Loader("")
        try:
            root = yaml.compose(path.read_text(encoding="utf-8"), Loader)
            if pairs := isinstance(root, yaml.MappingNode):
                loader.flatten_mapping(root)
                values = [(_text_of(key, loader), value, _text_of(value, loader)) for key, value in root.value]
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        if not pairs:
            raise ValueError(f"{path} must hold a mapping, one `option: value` a line.")
        options: list[str] = []
        for name, node, value in values:
            option = self._option_string_actions.get(f"--{name}")
            if option is None or name in ("config", "help"):
                self.error(f"{path}: there is no option {name}{self._nearest(name)}")
            if isinstance(value, list):
                options += [f"--{name}", *value] if value else []
            elif node.tag != NULL:  # as if the line were not there
                value = SWITCHES.get(value, value) if option.type is string_to_bool else value
                options.append(f"--{name}={value}")
        return options

    def _nearest(self, name: str) -> str:
        names = {field.name for each in self.dataclass_types for field in dataclasses.fields(each)}
        close = get_close_matches(name.replace("-", "_"), names, n=1)
        return f"; did you mean {close[0]}?" if close else ""


def _text_of(node: yaml.Node, loader: Loader) -> Any:
    """A value of a file as it stands there, whatever YAML takes it for: of a list those in it, and what is deeper as
    JSON."""
    if isinstance(node, yaml.ScalarNode):
        return node.value
    if isinstance(node, yaml.SequenceNode) and all(isinstance(each, yaml.ScalarNode) for each in node.value):
        return [each.value for each in node.value]
    return json.dumps(loader.construct_document(node))


def as_mapping(name: str, text: str) -> dict[str, Any]:
    """An option's value that is a mapping, in JSON, as `--config` hands those of the file on.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, not {value!r}.")
    return value


def _without_other_data(from_file: Sequence[str], command_line: Sequence[str]) -> list[str]:
    """The options of a file without those that name other data than the command line does."""
    given = {_option_name(each) for each in command_line if each.startswith("--")}
    others = [names for names in DATA_OPTIONS if not given & set(names)]
    if len(others) == len(DATA_OPTIONS):
        return list(from_file)
    left_out = {name for names in others for name in names}
    return [option for option in from_file if _option_name(option) not in left_out]


def _option_name(argument: str) -> str:
    """The name of an option, which may be written with hyphens as with underscores."""
    return argument.partition("=")[0].removeprefix("--").replace("-", "_")


def resolve(*parsed: Any) -> dict[str, Any]:
    """The values of all options that have one, as YAML has them; tokens are left out."""
    values: dict[str, Any] = {}
    for each in parsed:
        fields = each.to_dict() if isinstance(each, TrainingArguments) else dataclasses.asdict(each)
        values.update({name: _plain(value) for name, value in fields.items() if value not in (None, [])})
    secret_or_of_the_machine = [name for name in values if name == "local_rank" or name.endswith("_token")]
    for name in secret_or_of_the_machine:
        del values[name]
    return values


def save_options(path: str | os.PathLike, options: dict[str, Any]) -> None:
    """Writes resolved options as a YAML file, which [`ArgumentParser`] reads."""
    write_whole(path, yaml.safe_dump(options, sort_keys=False))


def check_positive(arguments: Any, *names: str) -> None:
    """Raises a ValueError that names the first of these fields that is set and not positive."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, not {value}.")


def _plain(value: Any) -> Any:
    """`value` as YAML has it."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
