# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The command line: `cp-transformers <command>`."""

import importlib
import sys
from collections.abc import Sequence

from safetensors import SafetensorError

from . import __version__


# command -> (the module and its function, if that is not main(), what it does)
COMMANDS = {
    "demo": ("cp_transformers.tasks.demo", "train CP and stock models on real text or images, and compare them"),
    "glue": ("cp_transformers.tasks.glue", "fine-tune, evaluate and predict on GLUE, or on sentences of your own"),
    "imagenet": ("cp_transformers.tasks.imagenet", "evaluate, fine-tune and train on ImageNet or other images"),
    "mlm": ("cp_transformers.tasks.mlm", "train CP or stock BERT as a masked language model"),
    "distill": ("cp_transformers.tasks.distill", "let a model that was cut to fewer layers learn from the uncut one"),
    "convert": ("cp_transformers.conversion", "turn a pretrained checkpoint into its ContextPool variant"),
    "export": ("cp_transformers.hub:export", "write a CP checkpoint that works with transformers alone"),
    "push": ("cp_transformers.hub:push", "check a CP checkpoint and push it to the Hub"),
    "benchmark": ("cp_transformers.benchmark", "measure what pooling costs, side by side with stock blocks"),
    "card": ("cp_transformers.model_card", "write a CP checkpoint's model card"),
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0, or 1 after an error that the user can do something about."""
    args = sys.argv[1:] if args is None else list(args)
    if args == ["--version"]:
        print(__version__)
        return 0
    if not args or args[0] in ("-h", "--help"):
        print("usage: cp-transformers <command> [options]\n\ncommands:")
        for name, (_, text) in COMMANDS.items():
            print(f"  {name:<10}{text}")
        print("\nHelp on a command: cp-transformers <command> --help; the version: cp-transformers --version")
        return 0
    if args[0] not in COMMANDS:
        return _fail(f"there is no command {args[0]}; the commands are {', '.join(COMMANDS)}")
    return run(COMMANDS[args[0]][0], args[1:])


def run(target: str, args: Sequence[str] | None = None) -> int:
    """Runs a module's `main`, or the function `module:function`, with errors as sentences instead of tracebacks; for
    `scripts/` as well."""
    module, _, function = target.partition(":")
    try:
        getattr(importlib.import_module(module), function or "main")(args)
        end_together()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        return _fail(str(error))
    except (SafetensorError, RuntimeError) as error:
        # How safetensors and torch say that they cannot write a file.
        if not isinstance(error, SafetensorError) and "inline_container" not in str(error):
            raise
        return _fail(f"a checkpoint could not be read or written; is the disk full? ({str(error).splitlines()[0]})")
    return 0


def end_together() -> None:
    """Waits for the other processes of a run: one that ends by itself may crash in ending, and the launcher then stops
    the one that still writes the results."""
    distributed = sys.modules.get("torch.distributed")  # not imported for commands that do without
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _fail(message: str) -> int:
    print(f"cp-transformers: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
