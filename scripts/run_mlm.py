"""`cp-transformers mlm`, for torchrun and accelerate."""

import sys

from cp_transformers.cli import run


sys.exit(run("cp_transformers.training.mlm"))
