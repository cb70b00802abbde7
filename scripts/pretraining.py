"""Masked language modelling from scratch, stock and CP, and what each is worth on a task.

Pretrains BERT and CP-BERT by configs/mlm/tiny.yaml, fine-tunes each on film reviews by configs/glue/film_reviews.yaml
for several seeds, and writes the perplexity of held-out text and the accuracy on the validation sentences to
results/pretraining.csv. It can be stopped at any time and goes on where it was.

    OMP_NUM_THREADS=1 python scripts/pretraining.py
"""

import argparse
import json
from pathlib import Path

import yaml

from cp_transformers.files import write_csv
from cp_transformers.tasks import glue, mlm


MLM_CONFIG = Path(__file__).parents[1] / "configs" / "mlm" / "tiny.yaml"
GLUE_CONFIG = Path(__file__).parents[1] / "configs" / "glue" / "film_reviews.yaml"
MODELS = {
    "bert-2": ("BERT, 2 layers", "bert", {"num_hidden_layers": 2}),
    "bert-4": ("BERT, 4 layers", "bert", {"num_hidden_layers": 4}),
    "cp_bert-2": ("CP-BERT, 2 layers", "cp_bert", {"num_hidden_layers": 2, "pool_class_token": True}),
}
COLUMNS = ["model", "parameters", "loss", "perplexity", "masked_accuracy", "seed", "film_review_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("results/pretraining.csv"))
    parser.add_argument("--runs", type=Path, default=Path("out/pretraining"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the fine-tuning")
    parser.add_argument("--only", nargs="+", choices=MODELS, help="run these alone, and write no table")
    options = parser.parse_args()

    sizes = yaml.safe_load(MLM_CONFIG.read_text())["model_config"]
    rows = []
    for name, (title, model_type, changed) in MODELS.items():
        if options.only is not None and name not in options.only:
            continue
        pretrained = str(options.runs / name)
        size = json.dumps({**sizes, **changed})
        model = ["--model_type", model_type, "--model_config", size, "--output_dir", pretrained]
        results = mlm.main(["--config", str(MLM_CONFIG), *model, "--resume_from_checkpoint", "last"])
        measured = [results["metrics"][metric] for metric in ("loss", "perplexity", "accuracy")]
        model = ["--model_name_or_path", pretrained, "--output_dir", f"{pretrained}-film-reviews"]
        model += ["--seeds", *map(str, options.seeds), "--resume_from_checkpoint", "last"]
        runs = glue.main(["--config", str(GLUE_CONFIG), *model])["runs"]
        for seed, run in runs.items():
            rows.append([title, results["parameters"], *measured, seed, run["validation"]["accuracy"]])
    if options.only is None:
        write_csv(options.output, COLUMNS, rows)


if __name__ == "__main__":
    main()
