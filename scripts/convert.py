"""`cp-transformers convert`, for those who run scripts."""

import sys

from cp_transformers.cli import run


sys.exit(run("cp_transformers.checkpoints.conversion"))
