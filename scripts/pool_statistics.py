"""What the pools of an experiment's trained models do; see `--help`."""

import sys

from cp_transformers.cli import run


if __name__ == "__main__":
    sys.exit(run("cp_transformers.tasks.pool_statistics"))
