"""Grids of small models trained from scratch; see configs/experiments and `--help`."""

import sys

from cp_transformers.cli import run


if __name__ == "__main__":
    sys.exit(run("cp_transformers.tasks.experiments"))
