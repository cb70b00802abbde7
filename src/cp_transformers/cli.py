# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Runs a command of `cp-transformers` with errors as sentences, see [`~cp_transformers_cli.main`]."""

import importlib
import sys
from collections.abc import Sequence

from safetensors import SafetensorError

from cp_transformers_cli import fail, main


__all__ = ["end_together", "main", "run"]


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
        return fail(str(error))
    except (SafetensorError, RuntimeError) as error:
        # How safetensors and torch say that they cannot write a file.
        if not isinstance(error, SafetensorError) and "inline_container" not in str(error):
            raise
        return fail(f"a checkpoint could not be read or written; is the disk full? ({str(error).splitlines()[0]})")
    return 0


def end_together() -> None:
    """Waits for the other processes of a run: one that ends by itself may crash in ending, and the launcher then stops
    the one that still writes the results."""
    distributed = sys.modules.get("torch.distributed")  # not imported for commands that do without
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
