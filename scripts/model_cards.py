# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Makes the four checkpoints whose cards are in model_cards/, and their cards.

Trains CP-ViT and CP-ResNet on the digits, and fine-tunes all-MiniLM-L6-v2, converted, with all six layers and cut to
four, on the film reviews. The checkpoints are left in --runs, their records in results/checkpoints, and their cards in
model_cards. It can be stopped at any time and goes on where it was.

    OMP_NUM_THREADS=1 python scripts/model_cards.py
"""

import argparse
import shutil
from pathlib import Path

from cp_transformers.checkpoints.conversion import convert_checkpoint
from cp_transformers.checkpoints.model_card import write_card
from cp_transformers.training import glue, imagenet
from cp_transformers.training.packages import minilm_folder


ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT, help="folder that gets model_cards and results/checkpoints"
    )
    parser.add_argument("--runs", type=Path, default=Path("out/checkpoints"), help="folder for the checkpoints")
    parser.add_argument("--max-steps", type=int, default=-1, help="train no longer than this")
    options = parser.parse_args()

    def arguments(config: str, name: str, *more: object) -> list[str]:
        given = ["--config", CONFIGS / config, "--output_dir", options.runs / name, *more]
        given += ["--max_steps", options.max_steps, "--resume_from_checkpoint", "last", "--use_cpu"]
        return [str(each) for each in given]

    for name, config in (("cp-vit-digits", "tiny.yaml"), ("cp-resnet-digits", "tiny_resnet.yaml")):
        imagenet.main(arguments(f"imagenet/{config}", name))
        write_card(options.runs / name, name, license="apache-2.0")
        keep(options.runs / name, options.output)

    for layers in (4, 6):
        name = f"cp-minilm-l{layers}-film-reviews"
        start = options.runs / f"cp-minilm-l{layers}"
        if not start.exists():
            convert_checkpoint(minilm_folder(), start, layers=f"first:{layers}")
        glue.main(arguments("glue/film_reviews.yaml", name, "--model_name_or_path", start))
        write_card(options.runs / name, name, base_model="sentence-transformers/all-MiniLM-L6-v2")
        keep(options.runs / name, options.output)


def keep(run: Path, output: Path) -> None:
    """Copies a run's card, and the record that its figures are from."""
    for folder in ("model_cards", "results/checkpoints"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "README.md", output / "model_cards" / f"{run.name}.md")
    shutil.copyfile(run / "training.json", output / "results" / "checkpoints" / f"{run.name}.json")


if __name__ == "__main__":
    main()
