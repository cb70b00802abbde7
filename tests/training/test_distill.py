# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers distill`: cut models that learn from the uncut ones, on texts and images without labels."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conversion_cases import SENTENCE_FILES, write_sentence_files
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    ResNetConfig,
    ResNetModel,
    Trainer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
    XLNetConfig,
    XLNetModel,
)

from cp_transformers import CPBertForSequenceClassification, CPBertModel, CPViTModel
from cp_transformers.checkpoints.conversion import convert_checkpoint, cut_layers
from cp_transformers.cli import main as cli
from cp_transformers.training import distill as distill_task
from cp_transformers.training.image_data import load_processor, resolve_preprocessing
from cp_transformers.training.metrics import rank_correlation
from cp_transformers.training.mlm import train_tokenizer
from cp_transformers.training.run_folder import last_checkpoint


CONFIG_FILES = sorted((Path(__file__).parents[2] / "configs" / "distill").glob("*.yaml"))
WORDS = "a film that is warm funny moving long dull and not good".split()
TEXTS = [" ".join(WORDS[(3 * start + 5 * index) % 12] for index in range(2 + start % 7)) for start in range(48)]
TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
QUIET = ["--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
TRAIN = ["--do_train", "--do_eval", "--max_steps", "12", "--learning_rate", "1e-2", "--save_strategy", "no"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> list[str]:
    """The options that name the training and the held-out texts."""
    folder = tmp_path_factory.mktemp("texts")
    options = []
    for split, part in {"train": TEXTS[:32], "validation": TEXTS[32:]}.items():
        (folder / f"{split}.txt").write_text("".join(f"{text}\n" for text in part))
        options += [f"--{split}_file", str(folder / f"{split}.txt")]
    return [*options, "--max_length", "16"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of images of no class, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split in ("train", "validation"):
        (folder / split).mkdir()
        for number in range(12):
            pixels = generator.integers(0, 256, (10, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{number}.png")
    (folder / "train" / "broken.png").write_bytes(b"no image")
    return folder


def save_bert(folder: Path, model_class: type, **fields) -> Path:
    tokenizer = train_tokenizer(TEXTS, vocab_size=120)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), pad_token_id=0, **{"max_position_embeddings": 16, **TINY, **STILL, **fields}
    )
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_vit(folder: Path, model_class: type, **fields) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(image_size=8, **{"patch_size": 4, **TINY, **STILL, **fields})
    model_class(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


def distill(model: Path, teacher: Path, output: Path, *more) -> dict:
    """Runs the command and returns its results."""
    options = ["--model_name_or_path", model, "--teacher", teacher, "--output_dir", output, *QUIET, *more]
    assert cli(["distill", *map(str, options)]) == 0
    return json.loads((output / "results.json").read_text())


def refusal(capsys, model: Path, teacher: Path, output: Path, *more) -> str:
    options = ["--model_name_or_path", model, "--teacher", teacher, "--output_dir", output, *QUIET, *more]
    assert cli(["distill", *map(str, options)]) == 1
    assert not list(output.glob("*.safetensors"))
    return capsys.readouterr().err


@pytest.mark.parametrize("pools", [True, False], ids=["cp", "stock"])
def test_a_cut_model_comes_nearer_to_the_uncut_one(pools, texts, tmp_path, capsys):
    teacher, student = save_bert(tmp_path / "teacher", BertModel), tmp_path / "student"
    before = (teacher / "model.safetensors").read_bytes()
    if pools:
        convert_checkpoint(teacher, student, layers=[0, 2])
    else:
        cut_layers(BertModel.from_pretrained(teacher), [0, 2]).save_pretrained(student)
        AutoTokenizer.from_pretrained(teacher).save_pretrained(student)
    results = distill(student, teacher, tmp_path / "out", *texts, *TRAIN)
    hidden = [results["metrics"][when]["hidden"] for when in ("before", "after")]
    assert hidden[1] < 0.7 * hidden[0]
    assert (results["layers"], results["rows"]) == (["0:0", "1:2", "2:3"], {"train": 32, "validation": 16})
    assert f"{hidden[0]:.4f} before, {hidden[1]:.4f} after" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert type(model) is (CPBertModel if pools else BertModel) and model.config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    assert (teacher / "model.safetensors").read_bytes() == before
    if pools:
        card = " ".join((tmp_path / "out" / "README.md").read_text().split())
        assert "Converted from a `BertModel`" in card
        assert "by distillation from local files named `teacher` without labels, on" in card


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_the_held_out_error_is_the_mean_over_all_tokens_whatever_the_batches(batch_size, texts, tmp_path):
    teacher = save_bert(tmp_path / "teacher", BertModel)
    convert_checkpoint(teacher, tmp_path / "student", layers=[1, 2])
    more = ["--do_eval", "--layer_map", "1:2", "2:3", "--per_device_eval_batch_size", batch_size]
    results = distill(tmp_path / "student", teacher, tmp_path / "out", *texts, *more)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    models = [AutoModel.from_pretrained(tmp_path / name).eval() for name in ("student", "teacher")]
    errors = []
    with torch.no_grad():
        for text in TEXTS[32:]:
            states = [model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True) for model in models]
            ours, theirs = (each.hidden_states for each in states)
            errors += [((ours[i] - theirs[j])[0] ** 2).mean(dim=-1) for i, j in [(1, 2), (2, 3)]]
    assert results["metrics"] == {"before": {"hidden": pytest.approx(torch.cat(errors).mean().item(), rel=1e-5)}}


@pytest.mark.parametrize(
    ("model_class", "auto_class"),
    [
        (BertForSequenceClassification, AutoModelForSequenceClassification),
        (BertForMaskedLM, AutoModelForMaskedLM),
    ],
)
def test_heads_of_the_same_kind_are_compared(model_class, auto_class, texts, tmp_path):
    teacher, student = save_bert(tmp_path / "teacher", model_class, num_labels=3), tmp_path / "student"
    convert_checkpoint(teacher, student)
    results = distill(student, teacher, tmp_path / "out", *texts, "--do_eval")
    scores = results["metrics"]["before"]  # nothing was cut
    assert scores["agreement"] == 1 and scores["hidden"] < 1e-10 and abs(scores["logits"]) < 1e-6

    convert_checkpoint(teacher, student, layers=[0], overwrite=True)
    more = ["--distillation_hidden_weight", "0", "--distillation_logits_weight", "1"]
    results = distill(student, teacher, tmp_path / "cut", *texts, *TRAIN, *more)
    before, after = results["metrics"]["before"], results["metrics"]["after"]
    assert after["logits"] < 0.7 * before["logits"] and after["agreement"] >= before["agreement"]
    assert results["layers"] == []
    # As reckoned by hand, text by text.
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    models = [auto_class.from_pretrained(folder).eval() for folder in (tmp_path / "cut", teacher)]
    agreed = []
    with torch.no_grad():
        for text in TEXTS[32:]:
            ours, theirs = (model(**tokenizer(text, return_tensors="pt")).logits[0] for model in models)
            agreed += (ours.argmax(-1) == theirs.argmax(-1)).float().flatten().tolist()
    assert after["agreement"] == pytest.approx(np.mean(agreed))


def test_labels_in_another_order_are_matched_by_name(texts, tmp_path, capsys):
    teacher = save_bert(tmp_path / "teacher", BertForSequenceClassification, id2label={0: "A", 1: "B", 2: "C"})
    student, order = shutil.copytree(teacher, tmp_path / "student"), [2, 0, 1]
    model = BertForSequenceClassification.from_pretrained(teacher)
    model.config.id2label, model.config.label2id = {0: "C", 1: "A", 2: "B"}, {"C": 0, "A": 1, "B": 2}
    for parameter in model.classifier.parameters():
        parameter.data = parameter.data[order].contiguous()
    model.save_pretrained(student)
    scores = distill(student, teacher, tmp_path / "out", *texts, "--do_eval")["metrics"]["before"]
    assert scores["agreement"] == 1 and abs(scores["logits"]) < 1e-6
    model.config.id2label, model.config.label2id = {0: "C", 1: "A", 2: "D"}, {"C": 0, "A": 1, "D": 2}
    model.save_pretrained(student)
    assert "was trained for other labels" in refusal(capsys, student, teacher, tmp_path / "no", *texts, "--do_eval")


def test_of_models_with_different_heads_the_hidden_states_are_compared_and_no_head_is_lost(texts, tmp_path, capsys):
    teacher = save_bert(tmp_path / "teacher", BertModel)
    classifier = save_bert(tmp_path / "classifier", BertForSequenceClassification, num_labels=2)
    convert_checkpoint(classifier, tmp_path / "student", layers=[0, 2])
    results = distill(tmp_path / "student", teacher, tmp_path / "out", *texts, *TRAIN)
    assert results["metrics"]["after"].keys() == {"hidden"}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert type(model) is CPBertForSequenceClassification
    head = load_file(classifier / "model.safetensors")["classifier.weight"]
    assert_close(model.classifier.weight.data, head, rtol=0.2, atol=0.01)  # it decays, and nothing else
    message = refusal(
        capsys, tmp_path / "student", teacher, tmp_path / "no", *texts, *TRAIN, "--distillation_hidden_weight", 0
    )
    assert "both need the same head" in message


def sentences(folder: Path, **pooling) -> Path:
    """A checkpoint of sentence-transformers, whose 1_Pooling/config.json has these fields."""
    write_sentence_files(save_bert(folder, BertModel))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **pooling}))
    return folder


@pytest.fixture(scope="module")
def taught_sentences(texts, tmp_path_factory) -> tuple[Path, dict]:
    """A folder with a `student` of sentence-transformers, its `teacher` and what it has become, `out`; and the
    results of that run, in which six rows at most had their similarities compared."""
    folder = tmp_path_factory.mktemp("sentences")
    convert_checkpoint(sentences(folder / "teacher", pooling_mode="mean"), folder / "student", layers=[0, 2])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cp_transformers.training.recovery.RHO_ROWS", 6)
        more = [*texts, *TRAIN, "--per_device_eval_batch_size", 4]
        return folder, distill(folder / "student", folder / "teacher", folder / "out", *more)


def test_a_checkpoint_of_sentence_transformers_learns_its_embedding_and_nothing_else(taught_sentences):
    folder, results = taught_sentences
    assert (results["learned"], results["layers"]) == ({"embedding": 1.0}, [])
    before, after = (results["metrics"][when] for when in ("before", "after"))
    assert before.keys() == after.keys() == {"embedding", "rho"}
    assert after["embedding"] < 0.7 * before["embedding"] and after["rho"] > before["rho"]
    record = json.loads((folder / "out" / "training.json").read_text())
    assert [each["name"] for each in record["evaluations"]] == [
        "embedding against the teacher",
        "rho against the teacher",
    ]
    card = (folder / "out" / "README.md").read_text()
    assert f"{after['embedding']:.4g}"[:5] in card and "rho against the teacher" in card


def test_a_student_without_a_limit_of_positions_learns(texts, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(save_bert(tmp_path / "bert", BertModel))
    config = XLNetConfig(vocab_size=len(tokenizer), d_model=16, n_layer=2, n_head=2, d_inner=16, pad_token_id=0)
    for seed, name in enumerate(("teacher", "student")):
        torch.manual_seed(seed)
        XLNetModel(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    results = distill(tmp_path / "student", tmp_path / "teacher", tmp_path / "out", *texts, *TRAIN)
    before, after = (results["metrics"][when]["hidden"] for when in ("before", "after"))
    assert after < before


def test_a_model_that_has_diverged_has_no_results(texts, tmp_path, capsys):
    teacher = save_bert(tmp_path / "teacher", BertModel)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0, 2])
    more = ["--model_name_or_path", tmp_path / "student", "--teacher", teacher, "--output_dir", tmp_path / "out"]
    assert cli(["distill", *map(str, [*more, *QUIET, *texts, *TRAIN, "--learning_rate", "1e30"])]) == 1
    assert "its training has diverged" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_held_out_embeddings_are_compared_text_by_text(taught_sentences):
    folder, results = taught_sentences
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    embeddings = []
    for name in ("out", "teacher"):
        model = AutoModel.from_pretrained(folder / name).eval()
        with torch.no_grad():
            states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS[32:]]
        embeddings.append(torch.stack([each.mean(dim=0) for each in states]))
    expected = 1 - torch.nn.functional.cosine_similarity(*embeddings).mean().item()
    assert results["metrics"]["after"]["embedding"] == pytest.approx(expected, abs=1e-6)
    rho = rank_correlation(*(each[:6].numpy() for each in embeddings))
    assert results["metrics"]["after"]["rho"] == pytest.approx(rho, abs=0.02)  # near cosines may change places


def test_the_embedding_is_made_as_the_checkpoint_says(taught_sentences, texts, tmp_path, capsys):
    folder, evaluates = taught_sentences[0], [*texts, "--do_eval"]
    older = sentences(tmp_path / "older", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    more = [*evaluates, "--distillation_class_token_weight", "2"]
    results = distill(folder / "student", folder / "teacher", tmp_path / "mean", *more)
    means = results["metrics"]["before"]
    assert results["learned"] == {"embedding": 1.0, "class_token": 2.0}
    assert means["embedding"] != pytest.approx(means["class_token"], rel=0.01)
    student = shutil.copytree(folder / "student", tmp_path / "student")
    shutil.copy(older / "1_Pooling" / "config.json", student / "1_Pooling" / "config.json")
    by_class_token = distill(student, older, tmp_path / "cls", *evaluates)["metrics"]["before"]
    assert by_class_token["embedding"] == pytest.approx(means["class_token"], rel=1e-5)

    message = refusal(capsys, student, folder / "teacher", tmp_path / "no", *evaluates)
    assert "teacher makes its embedding by mean of the tokens" in message and "student by cls" in message
    (student / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["max", "mean"]}))
    message = refusal(capsys, student, older, tmp_path / "no", *evaluates)
    assert "student makes its embedding by max and mean of the tokens, and mean or cls alone can be learned" in message
    message = refusal(
        capsys, folder / "student", folder / "teacher", tmp_path / "no", *evaluates, "--layer_map", "1:1"
    )
    assert "layer_map would have no effect" in message
    results = distill(student, older, tmp_path / "out", *evaluates, "--distillation_embedding_weight", "0")
    assert results["learned"] == {"hidden": 1.0}


@pytest.mark.parametrize("augmented", [False, True])
def test_images_need_no_classes(augmented, images, tmp_path):
    teacher = save_vit(tmp_path / "teacher", ViTModel)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0, 2])
    more = ["--distillation_embedding_weight", "1", "--distillation_class_token_weight", "0.5"]
    if augmented:
        more = ["--crop_min_scale", "0.5", "--flip", "0.5"]
    results = distill(tmp_path / "student", teacher, tmp_path / "out", "--data_dir", images, *TRAIN, *more)
    before, after = (results["metrics"][when] for when in ("before", "after"))
    assert before.keys() == ({"hidden"} if augmented else {"hidden", "embedding", "rho", "class_token"})
    assert all(after[name] < value for name, value in before.items() if name != "rho")
    if not augmented:
        models = [AutoModel.from_pretrained(each).eval() for each in (tmp_path / "out", teacher)]
        preprocess = resolve_preprocessing(load_processor(teacher))
        pixels = torch.stack([preprocess(Image.open(each)) for each in (images / "validation").glob("*.png")])
        with torch.no_grad():
            ours, theirs = (model(pixel_values=pixels).last_hidden_state for model in models)
        parts = {
            "embedding": [each[:, 1:].mean(1) for each in (ours, theirs)],
            "class_token": [ours[:, 0], theirs[:, 0]],
        }
        for name, pair in parts.items():
            cosines = torch.nn.functional.cosine_similarity(*pair)
            assert after[name] == pytest.approx(1 - cosines.mean().item(), abs=1e-5)
    assert results["rows"] == {"train": 13, "validation": 12}
    assert "broken.png" in (tmp_path / "out" / "corrupt_images.txt").read_text()
    assert type(AutoModel.from_pretrained(tmp_path / "out")) is CPViTModel
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


def test_digits_come_from_a_package_and_classifiers_are_compared(tmp_path):
    teacher = save_vit(tmp_path / "teacher", ViTForImageClassification, num_labels=10)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0, 2])
    more = ["--dataset_name", "digits", "--max_train_samples", 24, "--max_eval_samples", 20]
    more += ["--distillation_class_token_weight", 1]
    results = distill(tmp_path / "student", teacher, tmp_path / "out", *more, *TRAIN)
    assert results["rows"] == {"train": 24, "validation": 20}
    assert results["metrics"]["after"].keys() == {"hidden", "class_token", "logits", "agreement"}


@pytest.mark.parametrize("more", [[], ["--flip", "0.5"]])
def test_images_can_be_sent_to_workers_that_are_not_forked(more, images, tmp_path, monkeypatch):
    teacher = save_vit(tmp_path / "teacher", ViTModel)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0, 2])
    sent = []

    def pickled(self, *args, **kwargs):
        sent.extend(
            pickle.loads(pickle.dumps(data))[0]["pixel_values"] for data in (self.train_dataset, self.eval_dataset)
        )

    monkeypatch.setattr(Trainer, "train", pickled)
    distill(tmp_path / "student", teacher, tmp_path / "out", "--data_dir", images, *TRAIN, *more)
    assert [each.shape for each in sent] == [(3, 8, 8)] * 2


def test_a_held_out_image_that_cannot_be_read_is_left_out(images, tmp_path):
    teacher = save_vit(tmp_path / "teacher", ViTForImageClassification, num_labels=3)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0, 2])
    shutil.copytree(images, tmp_path / "images")
    more = ["--data_dir", tmp_path / "images", "--do_eval", "--distillation_embedding_weight", "1"]
    found = []
    for name in ("whole", "broken"):
        results = distill(tmp_path / "student", teacher, tmp_path / name, *more)
        found.append(results["metrics"]["before"])
        (tmp_path / "images" / "validation" / "00.png").write_bytes(b"no image")
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert "00.png" in (tmp_path / "broken" / "corrupt_images.txt").read_text()
    for file in (tmp_path / "images" / "validation").iterdir():
        file.write_bytes(b"no image")
    options = ["--model_name_or_path", tmp_path / "student", "--teacher", teacher, "--output_dir", tmp_path / "none"]
    assert cli(["distill", *map(str, [*options, *QUIET, "--data_dir", tmp_path / "images", "--do_eval"])]) == 1


@pytest.mark.parametrize(
    ("name", "auto_class"),
    [
        ("RoFormerForMaskedLM", AutoModelForMaskedLM),
        ("RoFormerModel", AutoModel),
        ("BertForSequenceClassification", AutoModelForSequenceClassification),
        ("BertModel", AutoModel),
        ("DeiTForImageClassificationWithTeacher", AutoModelForImageClassification),
    ],
)
def test_a_head_is_what_comes_after_the_last_for(name, auto_class):
    assert distill_task.auto_class_of(distill_task._head(BertConfig(architectures=[name]))) is auto_class


def test_evaluations_leave_the_training_as_it_is_and_no_text_out(texts, tmp_path):
    teacher = save_bert(tmp_path / "teacher", BertModel)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0, 2])
    plain = [*texts, *TRAIN, "--per_device_eval_batch_size", "5"]
    more = [*plain, "--bf16_full_eval", "true"]
    whole, half = (
        distill(tmp_path / "student", teacher, tmp_path / name, *options)
        for name, options in {"whole": plain, "half": more}.items()
    )
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    assert_close(ours, theirs, rtol=0, atol=0)  # dtypes, too
    assert whole["metrics"]["before"] != half["metrics"]["before"]
    dropped = distill(tmp_path / "student", teacher, tmp_path / "drop", *plain, "--dataloader_drop_last", "true")
    assert dropped["metrics"]["before"] == whole["metrics"]["before"]


@pytest.mark.parametrize("given", [[], ["--metric_for_best_model", "hidden"]], ids=["loss", "hidden"])
def test_the_best_checkpoint_is_the_nearest_to_the_teacher(given, texts, tmp_path):
    teacher = save_bert(tmp_path / "teacher", BertForMaskedLM)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0, 2])
    wild = ["--do_train", "--do_eval", "--num_train_epochs", "3", "--learning_rate", "1", "--load_best_model_at_end"]
    wild += ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--distillation_hidden_weight", "2.0"]
    after = distill(tmp_path / "student", teacher, tmp_path / "out", *texts, *wild, *given)["metrics"]["after"]
    state = json.loads((Path(last_checkpoint(tmp_path / "out")) / "trainer_state.json").read_text())
    measured = [each for each in state["log_history"] if "eval_loss" in each]
    for each in measured:  # by the weights of training
        assert each["eval_loss"] == pytest.approx(2 * each["eval_hidden"] + 0.5 * each["eval_logits"])
    metric = "eval_hidden" if given else "eval_loss"
    best = min(measured, key=lambda each: each[metric])
    assert len({each[metric] for each in measured}) == 3
    assert after["hidden"] == pytest.approx(best["eval_hidden"]) and "loss" not in after


def test_feature_maps_are_learned_as_well(images, tmp_path, capsys):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(tmp_path / "teacher")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "teacher")
    convert_checkpoint(tmp_path / "teacher", tmp_path / "student")
    given = [tmp_path / "student", tmp_path / "teacher", tmp_path / "out", "--data_dir", images, "--do_eval"]
    message = refusal(capsys, *given, "--distillation_class_token_weight", 1)
    assert "student has no class token: leave out --distillation_class_token_weight" in message
    results = distill(*given, "--distillation_embedding_weight", 1)
    assert results["metrics"]["before"]["hidden"] < 1e-10 and abs(results["metrics"]["before"]["embedding"]) < 1e-6


def test_a_teacher_that_is_given_other_inputs_than_its_own_is_refused(texts, images, tmp_path, capsys):
    model = save_bert(tmp_path / "model", BertModel)
    for name in ("cased", "spelled"):
        shutil.copytree(model, tmp_path / name)
        file = tmp_path / name / "tokenizer_config.json"
        otherwise = {"do_lower_case": False} if name == "cased" else {"strip_accents": False}  # to no effect here
        file.write_text(json.dumps({**json.loads(file.read_text()), **otherwise}))
    upper = tmp_path / "upper.txt"
    upper.write_text("A FILM\na Film\n")
    more = ["--train_file", upper, "--do_train", "--max_steps", "1", "--max_length", "16"]
    message = refusal(capsys, model, tmp_path / "cased", tmp_path / "out", *more)
    assert "cased makes other tokens of the texts than the model's" in message
    distill(model, tmp_path / "spelled", tmp_path / "spelled-out", *more)
    short = save_bert(tmp_path / "short", BertModel, max_position_embeddings=8)
    assert "has 8 positions, fewer than max_length, 16" in refusal(capsys, model, short, tmp_path / "out", *more)
    vit, other = save_vit(tmp_path / "vit", ViTModel), save_vit(tmp_path / "patches", ViTModel, patch_size=2)
    message = refusal(capsys, vit, other, tmp_path / "out", "--data_dir", images, *TRAIN)
    assert "0 has the shape (5, 16)" in message and "has (17, 16), by other patches or tokens" in message


def test_a_model_does_not_teach_itself(texts, tmp_path, capsys):
    model = save_bert(tmp_path / "model", BertModel)
    again = tmp_path / "model" / ".." / "model"
    assert "cannot teach itself anything" in refusal(capsys, model, again, tmp_path / "out", *texts, *TRAIN)


def test_texts_are_held_out_of_a_file_that_is_alone(texts, tmp_path, caplog):
    lines = [f"{text} {number}" for number, text in enumerate(TEXTS * 4)]
    (tmp_path / "all.txt").write_text("".join(f"{line}\n" for line in [*lines, *lines]))
    more = ["--train_file", tmp_path / "all.txt", "--max_length", "32", *TRAIN, "--max_steps", "2"]
    teacher = save_bert(tmp_path / "teacher", BertModel, max_position_embeddings=32)
    student = shutil.copytree(teacher, tmp_path / "student")
    with caplog.at_level("WARNING"):
        results = distill(student, teacher, tmp_path / "out", *more)
    held_out, trained = results["rows"]["validation"], results["rows"]["train"]
    assert held_out + trained == 2 * len(lines) and 0.01 < held_out / (2 * len(lines)) < 0.1
    assert f"{held_out} texts of {tmp_path / 'all.txt'} are held out" in caplog.text
    everything = distill(student, teacher, tmp_path / "all", *more, "--do_eval", "false")
    assert everything["rows"] == {"train": 2 * len(lines)}
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["data"]["held_out"] == "one text in 20 of all.txt"


def test_what_sentence_transformers_needs_is_kept(texts, tmp_path):
    teacher = save_bert(tmp_path / "teacher", BertModel)
    write_sentence_files(teacher)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0, 2])
    more = [*texts, *TRAIN, "--save_strategy", "steps", "--save_steps", "2", "--max_steps", "2"]
    results = distill(tmp_path / "student", teacher, tmp_path / "out", *more)
    assert results["learned"] == {"embedding": 1.0}
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-2"):
        for name in SENTENCE_FILES:
            assert (folder / name).read_bytes() == (teacher / name).read_bytes()
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert model.max_seq_length == 3 and np.linalg.norm(model.encode(["a film"])) == pytest.approx(1)


def test_a_run_goes_on_whatever_it_has_derived_from_its_options(texts, tmp_path):
    teacher = save_bert(tmp_path / "teacher", BertForMaskedLM)
    more = ["--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "epoch"]
    more += ["--lr_scheduler_type", "reduce_lr_on_plateau", "--metric_for_best_model", "agreement"]
    student = shutil.copytree(teacher, tmp_path / "student")
    first = distill(student, teacher, tmp_path / "out", *texts, *TRAIN, *more)
    (tmp_path / "out" / "results.json").unlink()  # as if it had been killed before its end
    shutil.rmtree(tmp_path / "out" / "checkpoint-2")
    more += ["--resume_from_checkpoint", "last"]
    assert distill(student, teacher, tmp_path / "out", *texts, *TRAIN, *more) == first


def test_a_run_that_is_interrupted_goes_on_as_if_it_had_not_been(texts, tmp_path, monkeypatch, capsys):
    teacher = save_bert(tmp_path / "teacher", BertModel, hidden_dropout_prob=0.1)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0, 2])
    more = [*TRAIN, "--save_strategy", "steps", "--save_steps", "2", "--per_device_train_batch_size", "5"]
    more += ["--distillation_embedding_weight", "1", "--distillation_class_token_weight", "1"]
    whole = distill(tmp_path / "student", teacher, tmp_path / "whole", *texts, *more)
    step = Trainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 9:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    output = tmp_path / "out"
    options = ["--model_name_or_path", tmp_path / "student", "--teacher", teacher, "--output_dir", output, *QUIET]
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "training_step", interrupted)
        assert cli(["distill", *map(str, [*options, *texts, *more])]) == 130
    assert not (output / "results.json").exists()
    more += ["--resume_from_checkpoint", "last"]
    others = [*texts, *more, "--distillation_embedding_weight", "2"]
    assert "distillation_embedding_weight is 2.0, but it was 1.0" in refusal(
        capsys, tmp_path / "student", teacher, output, *others
    )
    resumed = distill(tmp_path / "student", teacher, output, *texts, *more)
    assert resumed["metrics"]["after"] == pytest.approx(whole["metrics"]["after"], rel=1e-4)
    assert resumed["metrics"]["before"] == whole["metrics"]["before"]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "whole"))
    assert_close(ours, theirs, rtol=0, atol=1e-6)

    written = (output / "model.safetensors").stat().st_mtime_ns
    assert distill(tmp_path / "student", teacher, output, *texts, *more) == resumed  # it is finished
    assert (output / "model.safetensors").stat().st_mtime_ns == written


def test_what_cannot_be_is_refused_before_any_work(texts, images, tmp_path, capsys):
    teacher = save_bert(tmp_path / "teacher", BertModel)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0])
    student, output = tmp_path / "student", tmp_path / "out"

    def refused(*more, model: Path = student, source: Path = teacher) -> str:
        return refusal(capsys, model, source, output, *more)

    assert "There is nothing to do" in refused(*texts)
    assert "by one of --dataset_name, --data_dir" in refused("--do_eval")
    assert "Give the texts to train on by --train_file" in refused("--do_train", *texts[2:])
    assert "reads texts" in refused("--do_eval", "--data_dir", images)
    assert "has 16 positions, fewer than --max_length, 17." in refused("--do_eval", *texts, "--max_length", 17)
    assert "There is no file" in refused("--do_eval", "--validation_file", tmp_path / "none.txt")
    assert "flip must be from 0 to 1" in refused("--do_eval", *texts, "--flip", 2)
    assert "leave out --do_predict" in refused("--do_eval", "--do_predict", *texts)
    best = ["--metric_for_best_model", "logits"]
    assert "no metric logits for metric_for_best_model; there are loss, hidden." in refused("--do_eval", *texts, *best)
    wide = save_bert(tmp_path / "wide", BertModel, hidden_size=32)
    assert "has 16 channels and the teacher's 0 has 32" in refused("--do_eval", *texts, source=wide)
    more = [*texts, "--distillation_hidden_weight", 0, "--distillation_embedding_weight", 1]
    assert "has 16 channels and the teacher's has 32" in refused("--do_eval", *more, source=wide)
    assert "There is nothing to learn" in refused("--do_eval", *texts, "--distillation_hidden_weight", 0)
    assert "class_token_weight must not be negative" in refused(*texts, "--distillation_class_token_weight", -1)
    other = shutil.copytree(teacher, tmp_path / "other")
    train_tokenizer(["something else altogether"], vocab_size=60).save_pretrained(other)
    assert "has another vocabulary" in refused("--do_eval", *texts, source=other)
    vit = save_vit(tmp_path / "vit", ViTModel)
    by_length = ["--do_train", "--data_dir", images, "--train_sampling_strategy", "group_by_length"]
    assert "Images have no lengths" in refused(*by_length, model=vit, source=shutil.copytree(vit, tmp_path / "vit_2"))
    assert "reads images" in refused("--do_eval", *texts, model=vit, source=vit)
    assert not output.exists()
    options = ["--model_name_or_path", student, "--output_dir", output, "--do_eval", *texts]
    assert cli(["distill", *map(str, options)]) == 1
    assert "the uncut one, by --teacher" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_a_configuration_runs(path, texts, images, tmp_path):
    content = yaml.safe_load(path.read_text())
    assert content["output_dir"].endswith(f"/{path.stem}")
    is_images = path.stem == "imagenet"
    save = save_vit if is_images else save_bert
    teacher = save(tmp_path / "teacher", ViTModel if is_images else BertModel, **({} if is_images else LONG))
    if not is_images:
        write_sentence_files(teacher)
    convert_checkpoint(teacher, tmp_path / "student", layers=[0, 2])
    content.pop("dataset_name"), content.pop("dataset_config_name", None)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    data = ["--data_dir", images] if is_images else texts[:4]
    more = ["--max_steps", 1, "--per_device_train_batch_size", 2, "--bf16", "false", "--dataloader_num_workers", 0]
    more += ["--preprocessing_num_workers", 1]
    results = distill(
        tmp_path / "student", teacher, tmp_path / "out", "--config", tmp_path / "config.yaml", *data, *more
    )
    assert results["metrics"].keys() == {"before", "after"}
    assert results["learned"] == {"embedding" if path.stem == "halved_minilm" else "hidden": 1.0}


LONG = {"max_position_embeddings": 128}
