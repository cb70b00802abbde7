# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The configuration by YAML file and command line."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from transformers import TrainingArguments

from cp_transformers.training.arguments import FIRST, ArgumentParser, resolve, save_options
from cp_transformers.training.distillation import DistillationArguments


@dataclass
class TaskArguments:
    task: str = field(metadata={"help": "required"})
    seeds: list[int] = field(default_factory=lambda: [1])
    rate: float | None = None
    flag: bool = False
    layers: list[str] = field(default_factory=list)


def parse(text: str, tmp_path: Path, *args: str) -> tuple[TaskArguments, TrainingArguments]:
    """Parses a file of this text, and these options after it."""
    (tmp_path / "config.yaml").write_text(text)
    parser = ArgumentParser([TaskArguments, TrainingArguments])
    return parser.parse(["--config", str(tmp_path / "config.yaml"), *args])


def test_a_file_sets_fields_of_every_dataclass(tmp_path):
    task, training = parse(
        "task: sst2\nseeds: [3, 4]\nflag: true\nmax_steps: 7\nlr_scheduler_kwargs: {a: 1}", tmp_path
    )
    assert task == TaskArguments("sst2", [3, 4], None, True)
    assert (training.max_steps, training.lr_scheduler_kwargs) == (7, {"a": 1})


def test_a_pair_is_no_number_to_the_base_of_60(tmp_path):
    task, training = parse("task: 1:2\nseeds: []\nmax_steps: 070", tmp_path)
    assert (task.task, task.seeds, training.max_steps) == ("1:2", [1], 70)


def test_the_precision_of_accelerate_launch_is_that_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert parse("task: a", tmp_path)[1].bf16 is True
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert parse("task: a", tmp_path)[1].bf16 is False
    assert parse("task: a\nbf16: true\nuse_cpu: true", tmp_path)[1].bf16 is True


def test_a_no_that_yaml_takes_for_a_boolean_is_one(tmp_path):
    _, training = parse("task: a\nsave_strategy: no\neval_strategy: 'no'", tmp_path)
    assert (training.save_strategy, training.eval_strategy) == ("no", "no")


TEXTS = [
    "1.10",
    "20231101.10",
    "on",
    "No",
    "y",
    "true",
    "010",
    "0x1F",
    "1_000",
    "1:30:00",
    "2024-01-01",
    ".inf",
    "3e-5",
]
TEXTS += ["+5", "~/out", "NaN", "1.", "null_", "2001-12-14t21:59:43.10-05:00"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_what_stands_in_the_file_as_on_the_command_line(text, tmp_path):
    task, training = parse(f"task: {text}\nrun_name: '{text}'\nlayers: [{text}, '{text}']", tmp_path)
    assert (task.task, training.run_name, task.layers) == (text, text, [text, text])
    parser = ArgumentParser([TaskArguments, TrainingArguments])
    again, _ = parser.parse(["--task", text, "--layers", text, text])
    assert again == task


@pytest.mark.parametrize("written", ["true", "True", "yes", "on"])
def test_a_switch_may_be_written_as_yaml_writes_it(written, tmp_path):
    assert parse(f"task: a\nflag: {written}", tmp_path)[0].flag is True
    off = {"true": "false", "True": "False", "yes": "no", "on": "off"}[written]
    assert parse(f"task: a\nflag: {off}", tmp_path, "--use_cpu")[0].flag is False


def test_a_mapping_has_the_types_of_json(tmp_path):
    text = "{a: 1e-5, b: 010, c: 2024-01-01, d: on, e: true, f: ~, g: 1:30, h: -3, i: '1', 0: [x, 1.5], j: .5}"
    for task in (f"task: {text}", f"task: [{text}]"):
        read = json.loads(parse(task, tmp_path)[0].task)
        assert (read[0] if isinstance(read, list) else read) == {
            "a": 1e-5,
            "b": "010",
            "c": "2024-01-01",
            "d": "on",
            "e": True,
            "f": None,
            "g": "1:30",
            "h": -3,
            "i": "1",
            "0": ["x", 1.5],
            "j": 0.5,
        }


def test_anchors_and_merged_mappings_are_followed(tmp_path):
    task, training = parse("task: &name 1.10\nrun_name: *name\nlayers: &both [a, b]\nseeds: [4]", tmp_path)
    assert (task.task, training.run_name, task.layers, task.seeds) == ("1.10", "1.10", ["a", "b"], [4])
    assert parse("<<: {task: b, rate: 2}\nrate: 3", tmp_path)[0] == TaskArguments("b", rate=3.0)


@pytest.mark.parametrize("number", ["3e-5", "0.00003", "3.0e-5"])
def test_numbers_are_numbers_however_they_are_written(number, tmp_path):
    _, training = parse(f"task: a\nlearning_rate: {number}", tmp_path)
    assert training.learning_rate == 3e-5


def test_a_number_may_be_negative(tmp_path):
    assert parse("task: a\nrate: -1e-3", tmp_path)[0].rate == -1e-3


def test_the_command_line_wins(tmp_path):
    task, training = parse(
        "task: a\nlearning_rate: 1e-3\nflag: true", tmp_path, "--learning_rate", "2e-3", "--flag=false"
    )
    assert (training.learning_rate, task.flag) == (2e-3, False)


@dataclass
class DataArguments:
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    data_dir: str | None = None
    train_file: str | None = None
    validation_file: str | None = None


@pytest.mark.parametrize(
    ("in_the_file", "on_the_command_line", "expected"),
    [
        ("dataset_name: a\ndataset_config_name: b", ["--train_file", "c"], DataArguments(train_file="c")),
        ("dataset_name: a", ["--data_dir=c"], DataArguments(data_dir="c")),
        ("train_file: a", ["--dataset-name", "c"], DataArguments(dataset_name="c")),
        ("train-file: a", ["--data_dir", "c"], DataArguments(data_dir="c")),
        ("train_file: a\nvalidation_file: b", ["--dataset_name", "c"], DataArguments(dataset_name="c")),
        ("train_file: a", ["--validation_file", "c"], DataArguments(train_file="a", validation_file="c")),
        ("dataset_name: a\ndataset_config_name: b", ["--max_steps", "1"], DataArguments("a", "b")),
    ],
)
def test_data_of_the_command_line_take_the_place_of_those_of_the_file(
    in_the_file, on_the_command_line, expected, tmp_path
):
    (tmp_path / "config.yaml").write_text(in_the_file)
    parser = ArgumentParser([DataArguments, TrainingArguments])
    data, _ = parser.parse(["--config", str(tmp_path / "config.yaml"), *on_the_command_line])
    assert data == expected


def test_the_place_of_the_file_among_the_options_does_not_matter(tmp_path):
    (tmp_path / "config.yaml").write_text("rate: 1")
    parser = ArgumentParser([TaskArguments, TrainingArguments])
    task, _ = parser.parse(["--rate", "2", "--task", "a", "--config", str(tmp_path / "config.yaml")])
    assert task.rate == 2


def test_null_is_as_if_the_line_were_not_there(tmp_path):
    assert parse("task: a\nrate: null\nmax_steps: null", tmp_path)[1].max_steps == TrainingArguments().max_steps


def test_without_a_file_the_command_line_is_all():
    task, _ = ArgumentParser([TaskArguments, TrainingArguments]).parse(["--task", "a", "--seeds", "5", "6"])
    assert task.seeds == [5, 6]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: a\nlearning_rat: 1", r"config.yaml: there is no option learning_rat; did you mean learning_rate\?"),
        ("task: a\nxyzzy: 1", r"config.yaml: there is no option xyzzy \("),
        ("task: a\nconfig: other.yaml", "there is no option config"),
        ("task: a\nlearning_rate: fast", "learning_rate.*invalid float value: 'fast'"),
        ("task: a\nseeds: [1, x]", "seeds: invalid int value: 'x'"),
        ("task: a\nflag: perhaps", "flag"),
        ("rate: 1", "required: --task"),
        ("- task", "must hold a mapping"),
        ("task: [", "config.yaml is not valid YAML"),
        ("task: &a {b: *a}", "config.yaml is not valid YAML"),
        ("task: {b: !!timestamp 2024-01-01}", "config.yaml is not valid YAML"),
        ("task: a\nno: 1", "there is no option no"),
        ("task: a\n2024: 1", "there is no option 2024"),
        ("task: a\neval_strategy: off", "eval_strategy.*invalid choice: 'off'"),
        ("", "must hold a mapping"),
    ],
)
def test_a_wrong_file_gives_one_sentence(text, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        parse(text, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--learning-rat", "1"], r"there is no option --learning-rat; did you mean learning_rate\?"),
        (["--max_steps", "many"], "max_steps.*invalid int value: 'many'"),
        (["--seed"], "seed.*expected one argument"),
        (["--learn", "1"], "there is no option --learn"),
    ],
)
def test_a_wrong_option_gives_one_sentence(args, words):
    with pytest.raises(ValueError, match=words):
        ArgumentParser([TaskArguments, TrainingArguments]).parse(["--task", "a", *args])


def test_a_file_that_is_not_there_is_an_error():
    with pytest.raises(FileNotFoundError):
        ArgumentParser([TaskArguments, TrainingArguments]).parse(["--config", "no_such_file.yaml"])


def test_saved_arguments_are_read_as_they_were(tmp_path):
    text = "task: a\nlearning_rate: 3e-5\nlr_scheduler_kwargs: {a: 1}\neval_strategy: epoch\nuse_cpu: true"
    task, training = parse(text, tmp_path, "--output_dir", str(tmp_path / "out"))
    save_options(tmp_path / "saved.yaml", resolve(task, training))
    again = ArgumentParser([TaskArguments, TrainingArguments]).parse(["--config", str(tmp_path / "saved.yaml")])
    assert again[0] == task and again[1].to_dict() == training.to_dict()


def test_tokens_are_not_saved(tmp_path):
    task, training = parse("task: a", tmp_path, "--hub_token", "hf_secret")
    save_options(tmp_path / "saved.yaml", resolve(task, training))
    saved = (tmp_path / "saved.yaml").read_text()
    assert "hf_secret" not in saved and "hub_token" not in saved


def test_the_help_says_first_how_to_configure_a_run_and_of_each_option_what_it_does():
    text = " ".join(ArgumentParser([TaskArguments, TrainingArguments]).format_help(every=True).split())
    assert text.startswith("usage: ") and "[--config FILE] [options]" in text[:80]
    assert text.index("--config FILE YAML") < text.index("--task TASK")
    assert "--no-dataloader-pin-memory sets --dataloader_pin_memory to false --" in text
    assert "default: None" not in text


def shown(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as ended:
        ArgumentParser([TaskArguments, DistillationArguments, TrainingArguments], prog="task").parse(args)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_help_has_the_command_s_own_options_first_under_headings(capsys):
    text = shown(capsys, "--help")
    headings = ["a file of options:", "options of task:", "learning from a teacher:", "the first of Trainer's options"]
    places = [text.index(f"\n{heading}") for heading in headings]
    assert places == sorted(places)
    sections = [text[start:end] for start, end in zip(places, [*places[1:], None])]
    for section, option in zip(sections, ("--config FILE", "--seeds SEEDS", "--teacher TEACHER", "--output_dir")):
        assert [part for part in sections if f"\n  {option}" in part] == [section]
    assert len(text.splitlines()) < 150


def test_trainer_s_other_options_are_behind_help_all(capsys):
    few, every = shown(capsys, "--help"), shown(capsys, "--task", "a", "--help-all")
    assert "--help-all" in few and "--ddp_bucket_cap_mb" not in few
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(FIRST) <= fields
    for name in fields | {"seeds", "flag", "teacher", "config"}:
        assert f"--{name}" in every
    for name in FIRST:
        assert f"  --{name} " in few or f"  --{name}, " in few
