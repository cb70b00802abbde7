# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The command line: `cp-transformers <command>`.

It is no part of the package `cp_transformers`, whose import registers the models and, for that, takes seconds to load
PyTorch and transformers: help, the version and slips of the hand are answered before.
"""

import sys
from collections.abc import Sequence
from importlib import import_module


# command -> (the module and its function, if that is not main(), what it does)
COMMANDS = {
    "demo": ("cp_transformers.demo.command", "make pretrained models faster on real text or images, and compare"),
    "glue": ("cp_transformers.training.glue", "fine-tune, evaluate and predict on GLUE, or on sentences of your own"),
    "imagenet": ("cp_transformers.training.imagenet", "evaluate, fine-tune and train on ImageNet or other images"),
    "mlm": ("cp_transformers.training.mlm", "train CP or stock BERT as a masked language model"),
    "distill": ("cp_transformers.training.distill", "let a cut or halved model learn from the whole one"),
    "convert": ("cp_transformers.checkpoints.conversion", "turn a pretrained checkpoint into its ContextPool variant"),
    "inspect": ("cp_transformers.inspection.command", "show on a page what a model pools"),
    "export": ("cp_transformers.checkpoints.hub:export", "write a CP checkpoint that works with transformers alone"),
    "push": ("cp_transformers.checkpoints.hub:push", "check a CP checkpoint and push it to the Hub"),
    "benchmark": (
        "cp_transformers.benchmark.command",
        "measure what pooling costs, or how fast checkpoints are",
    ),
    "card": ("cp_transformers.checkpoints.model_card", "write a CP checkpoint's model card"),
}
# Of commands whose options are told without loading what models need, the modules that have their parsers.
PARSERS = {"convert": "cp_transformers_cli.convert", "inspect": "cp_transformers_cli.inspection"}


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0, or 1 after an error that the user can do something about."""
    args = sys.argv[1:] if args is None else list(args)
    if args == ["--version"]:
        from importlib.metadata import version

        print(version("cp-transformers"))
        return 0
    if not args or args[0] in ("-h", "--help"):
        print("usage: cp-transformers <command> [options]\n\ncommands:")
        for name, (_, text) in COMMANDS.items():
            print(f"  {name:<10}{text}")
        print("\nHelp on a command: cp-transformers <command> --help; the version: cp-transformers --version")
        return 0
    if args[0] not in COMMANDS:
        return fail(f"there is no command {args[0]}; the commands are {', '.join(COMMANDS)}")
    if args[0] in PARSERS:
        import_module(PARSERS[args[0]]).make_parser().parse_args(args[1:])
    from cp_transformers.cli import run

    return run(COMMANDS[args[0]][0], args[1:])


def fail(message: str) -> int:
    """Prints an error, and returns the exit status that stands for it."""
    print(f"cp-transformers: {message}", file=sys.stderr)
    return 1
