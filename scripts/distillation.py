"""What a teacher gives to a model that was cut to fewer layers, with pooling and without.

Fine-tunes all-MiniLM-L6-v2 on film reviews as the teacher; then the same model cut to four layers, stock and CP, alone
and with the teacher, for several seeds; and writes the accuracy on the validation sentences to
results/distillation.csv. It can be stopped at any time and goes on where it was.

    OMP_NUM_THREADS=1 python scripts/distillation.py
"""

import argparse
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

from cp_transformers.conversion import convert_checkpoint, cut_layers
from cp_transformers.files import new_checkpoint_folder, write_csv
from cp_transformers.tasks import glue
from cp_transformers.tasks.demo_text import KEPT_LAYERS, POOL_CONFIG, minilm_folder


CONFIG = Path(__file__).parents[1] / "configs" / "glue" / "film_reviews.yaml"
COLUMNS = ["model", "teacher", "seed", "validation_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("results/distillation.csv"))
    parser.add_argument("--runs", type=Path, default=Path("out/distillation"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--train-samples", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--only", nargs="+", help="run these alone, such as stock-teacher, and write no table")
    options = parser.parse_args()

    stock, cp, teacher = options.runs / "stock-l4", options.runs / "cp-l4", options.runs / "teacher"
    if not stock.exists():
        with new_checkpoint_folder(stock) as folder:
            cut_layers(AutoModel.from_pretrained(minilm_folder()), KEPT_LAYERS).save_pretrained(folder)
            AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    if not cp.exists():
        convert_checkpoint(stock, cp, **POOL_CONFIG)

    def accuracies(model: Path, output: Path, *more: str) -> dict[str, float]:
        """By seed."""
        arguments = [
            "--config",
            CONFIG,
            "--model_name_or_path",
            model,
            "--output_dir",
            output,
            "--save_strategy",
            "no",
        ]
        arguments += ["--max_train_samples", options.train_samples, "--num_train_epochs", options.epochs]
        arguments += ["--do_predict", "false", "--save_strategy", "no", "--resume_from_checkpoint", "last", *more]
        runs = glue.main([str(each) for each in arguments])["runs"]
        return {seed: run["validation"]["accuracy"] for seed, run in runs.items()}

    rows = [["BERT, 6 layers", "", *next(iter(accuracies(minilm_folder(), teacher).items()))]]
    seeds = ["--seeds", *map(str, options.seeds)]
    arms = {
        "stock": ("BERT, 4 layers", stock, ()),
        "stock-teacher": ("BERT, 4 layers", stock, ("--teacher", str(teacher))),
        "cp": ("CP-BERT, 4 layers", cp, ()),
        "cp-teacher": ("CP-BERT, 4 layers", cp, ("--teacher", str(teacher))),
    }
    for name, (title, model, more) in arms.items():
        if options.only is None or name in options.only:
            by_seed = accuracies(model, options.runs / name, *seeds, *more)
            rows += [[title, "BERT, 6 layers" if more else "", seed, value] for seed, value in by_seed.items()]
    if options.only is None:
        write_csv(options.output, COLUMNS, rows)


if __name__ == "__main__":
    main()
