# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers mlm` on small models and texts: vocabulary, packed rows, masking, evaluation, files,
training."""

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from mlm_cases import (
    LONG,
    MAX_LENGTH,
    MODEL,
    POOLS,
    QUIET,
    TEXTS,
    TINY,
    TRAIN,
    encoded,
    make_data,
    make_tokenizer,
    make_trained,
    mlm,
    pieces,
    record_rows,
    results_of,
    sentences,
    tiny_sizes,
    weights,
    write,
)
from torch.testing import assert_close
from transformers import AutoModelForMaskedLM, AutoTokenizer

from cp_transformers import CPBertConfig, CPBertForMaskedLM
from cp_transformers.cli import main as cli
from cp_transformers.families import family_of, first_position
from cp_transformers.training import data_files, mlm as task
from cp_transformers.training.mlm import CONFIGS, IGNORED, SPECIAL_TOKENS, Collator, Masking, MlmArguments
from cp_transformers.training.rows import DrawnAnew


ROOT = Path(__file__).parents[2]

packed_or_not = pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
every_model_packed_or_not = pytest.mark.parametrize(
    ("model_type", "packed"), [*((name, True) for name in task.PACKED), *((name, False) for name in CONFIGS)]
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """See [`mlm_cases.make_data`]."""
    return make_data(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data, cache) -> Path:
    """See [`mlm_cases.make_trained`]."""
    return make_trained(data, tmp_path_factory.mktemp("trained") / "out")


@pytest.fixture
def seen(monkeypatch) -> dict[str, list[dict]]:
    """See [`mlm_cases.record_rows`]."""
    return record_rows(monkeypatch)


def same(first: list[dict], second: list[dict]) -> bool:
    """Whether two lists of rows hold the same tokens and labels."""
    return len(first) == len(second) and all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in zip(first, second)
    )


@torch.no_grad()
def by_hand(model, rows: list[dict]) -> dict[str, float]:
    """The metrics from the masked rows, one text and one token at a time."""
    loss, right, tokens = 0.0, 0, 0
    for row in rows:
        for place in pieces(row):
            logits = model.eval()(row["input_ids"][None, place]).logits[0].double()
            for scores, label in zip(logits, row["labels"][place].tolist()):
                if label != IGNORED:
                    loss += float(scores.logsumexp(0) - scores[label])
                    right += int(scores.argmax()) == label
                    tokens += 1
    return {"loss": loss / tokens, "perplexity": math.exp(loss / tokens), "accuracy": right / tokens, "tokens": tokens}


def fresh_model(model_type: str, tokenizer, **fields):
    torch.manual_seed(0)
    more = POOLS if family_of(model_type) else {}
    more = {**more, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = CONFIGS[model_type](**{**tiny_sizes(model_type), **more, **fields})
    return AutoModelForMaskedLM.from_config(config).eval()


# The vocabulary


def test_the_vocabulary_begins_with_the_special_tokens_and_covers_the_texts(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[token] for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert sorted(tokenizer.all_special_tokens) == sorted(SPECIAL_TOKENS)
    ids = [token for text in TEXTS["train"] for token in tokenizer(text, add_special_tokens=False).input_ids]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer("FILM").input_ids == tokenizer("film").input_ids


def test_files_take_the_place_of_the_data_set_that_a_configuration_names():
    assert MlmArguments(dataset_name="review-texts", train_file="mine.txt").dataset_name is None


@pytest.mark.parametrize("vocab_size", [70, 120])
def test_the_vocabulary_is_no_larger_than_asked_for(vocab_size):
    assert len(task.train_tokenizer(TEXTS["train"], vocab_size)) <= vocab_size


def test_a_vocabulary_without_room_for_the_letters_is_refused():
    with pytest.raises(ValueError, match="at least 63"):
        task.train_tokenizer(TEXTS["train"], 30)


def test_only_so_many_texts_make_the_vocabulary():
    texts = ["one two", "three"]
    assert task.train_tokenizer(texts, 90, max_texts=1).get_vocab() == task.train_tokenizer(texts[:1], 90).get_vocab()


def test_the_saved_tokenizer_is_the_one_that_was_trained(trained, tokenizer):
    saved = AutoTokenizer.from_pretrained(trained)
    assert saved.get_vocab() == tokenizer.get_vocab()
    assert saved(TEXTS["validation"]).input_ids == tokenizer(TEXTS["validation"]).input_ids


# Packing


def test_held_out_rows_are_the_same_however_many_processes_make_them(trained, tmp_path, seen):
    for workers in ("1", "2"):
        texts = make_data(tmp_path / f"texts-{workers}")  # files of their own, or the first rows would be found again
        more = ["--do_eval", "--model_name_or_path", trained, "--preprocessing_num_workers", workers]
        mlm(texts, tmp_path / workers, *more)
    half = len(seen["validation"]) // 2
    assert half and same(seen["validation"][:half], seen["validation"][half:])


@pytest.mark.parametrize("limit", [16, 64, None])
def test_the_tokenizer_of_a_checkpoint_keeps_its_limits(limit, data, trained, tmp_path, tokenizer):
    shutil.copytree(trained, tmp_path / "model")
    own = AutoTokenizer.from_pretrained(trained)
    own.model_max_length = 10**30 if limit is None else limit
    own.backend_tokenizer.enable_truncation(12)
    own.save_pretrained(tmp_path / "model")
    mlm(data, tmp_path / "out", *TRAIN, "--max_length", "32", "--model_name_or_path", tmp_path / "model")
    after = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert after.model_max_length == own.model_max_length and after.backend_tokenizer.truncation["max_length"] == 12


def test_a_new_model_s_tokenizer_ends_where_its_positions_end(data, trained, tmp_path):
    assert AutoTokenizer.from_pretrained(trained).model_max_length == TINY["max_position_embeddings"] > MAX_LENGTH
    more = ["--model_config", json.dumps({**TINY, "max_position_embeddings": 20}), "--tokenizer_name", trained]
    mlm(data, tmp_path / "out", *TRAIN, *more)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 20


@every_model_packed_or_not
def test_a_batch_gives_each_text_the_loss_that_it_has_alone(model_type, packed, tokenizer):
    model = fresh_model(model_type, tokenizer)
    rows = encoded(TEXTS["validation"], tokenizer, pack=packed)
    masking = Masking(tokenizer, 0.3)
    examples = [masking(row, index) for index, row in enumerate(rows)]
    assert len({len(example["input_ids"]) for example in examples}) > 1  # so that there is padding
    pools, first = family_of(model_type) is not None, first_position(model.config)
    batch = Collator(tokenizer, packed, pools=pools, first_position=first)(examples)
    assert ("pool_segments" in batch) == (packed and pools)
    valid = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each["labels"]) for each in examples], True).bool()
    assert (batch["labels"][~valid] == IGNORED).all() and (batch["input_ids"][~valid] == tokenizer.pad_token_id).all()
    with torch.no_grad():
        outputs = model(**batch)
    expected = by_hand(model, examples)
    assert float(outputs.loss) == pytest.approx(expected["loss"], abs=1e-5)
    scored = task.score_rows(outputs.logits, batch["labels"])
    for row, example in zip(scored.tolist(), examples):
        if row[2]:
            alone = by_hand(model, [example])
            wanted = [alone["loss"] * alone["tokens"], alone["accuracy"] * alone["tokens"], alone["tokens"]]
            assert row == pytest.approx(wanted, abs=1e-4)


def test_a_text_alone_in_its_row_is_the_same_packed_or_not(tokenizer):
    model = fresh_model("cp_bert", tokenizer)
    example = Masking(tokenizer, 0.3)(encoded([LONG], tokenizer)[0], 1)
    with torch.no_grad():
        one, other = (model(**Collator(tokenizer, packed, True)([example])).logits for packed in (True, False))
    assert_close(one, other, atol=1e-5, rtol=0)


# Masking


def long_row(tokens: int = 20_000) -> dict:
    """A row of one token after another, every tenth of which is special."""
    words = [-1 if index % 10 == 0 else index for index in range(tokens)]
    return {"input_ids": [5 + index % 50 for index in range(tokens)], "segments": [1] * tokens, "words": words}


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_as_many_tokens_are_masked_replaced_and_kept_as_in_bert(probability, tokenizer):
    row = long_row()
    masked, original = Masking(tokenizer, probability)(row, seed=1), torch.tensor(row["input_ids"])
    special, chosen = torch.tensor(row["words"]) < 0, masked["labels"] != IGNORED
    assert not chosen[special].any()
    assert torch.equal(masked["input_ids"][~chosen], original[~chosen])
    assert torch.equal(masked["labels"][chosen], original[chosen])
    assert chosen[~special].float().mean() == pytest.approx(probability, abs=0.02)
    ids, before = masked["input_ids"][chosen], original[chosen]
    is_mask, is_kept = ids == tokenizer.mask_token_id, ids == before
    assert is_mask.float().mean() == pytest.approx(0.8, abs=0.03)
    assert is_kept.float().mean() == pytest.approx(0.1, abs=0.03)
    replaced = ids[~is_mask & ~is_kept]
    assert len(replaced) / len(ids) == pytest.approx(0.1, abs=0.03)
    assert replaced.unique().numel() > len(tokenizer) / 2 and 0 <= replaced.min() and replaced.max() < len(tokenizer)


def test_rows_of_texts_mask_no_special_token(tokenizer):
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id}
    for whole_word_mask in (False, True):
        for index, row in enumerate(encoded(sentences(40, 3), tokenizer, whole_word_mask=whole_word_mask)):
            for seed in range(5):
                masked = Masking(tokenizer, 0.9)(row, 10 * index + seed)
                for before, after, label in zip(row["input_ids"], masked["input_ids"], masked["labels"]):
                    assert before not in special or (int(after) == before and label == IGNORED)


def words_of(row: dict, tokenizer) -> list[list[int]]:
    """The positions of each word of a row, from its tokens alone."""
    words: list[list[int]] = []
    for index, token in enumerate(tokenizer.convert_ids_to_tokens(row["input_ids"])):
        if token.startswith("##") and words and words[-1][-1] == index - 1:  # else it is the rest of a word cut in two
            words[-1].append(index)
        elif token not in SPECIAL_TOKENS:
            words.append([index])
    return words


def test_whole_words_are_masked_as_one_and_independently_of_each_other(tokenizer):
    masking, masks = Masking(tokenizer, 0.3), []
    rows = encoded([text.replace("is", "wasfilm") for text in sentences(60, 4)], tokenizer, whole_word_mask=True)
    apart = 0
    for index, row in enumerate(rows):
        words = words_of(row, tokenizer)
        for seed in range(20):
            chosen = masking(row, 100 * index + seed)["labels"] != IGNORED
            states = [{bool(chosen[position]) for position in word} for word in words]
            assert all(len(state) == 1 for state in states)
            masks += [state == {True} for state in states]
            apart += sum(one != other for one, other in pairwise(states))
    assert any(len(word) > 1 for row in rows for word in words_of(row, tokenizer))
    assert sum(masks) / len(masks) == pytest.approx(0.3, abs=0.03)
    assert apart / len(masks) == pytest.approx(2 * 0.3 * 0.7, abs=0.08)  # also across texts, and at punctuation


def test_whole_words_of_long_texts_are_masked(tokenizer):
    """A long text's later rows, and those of texts that are packed after them."""
    rows = encoded([LONG, "play"], tokenizer, whole_word_mask=True)
    masked = [Masking(tokenizer, 0.5)(row, index) for index, row in enumerate(rows)]
    chosen = sum(int((each["labels"] != IGNORED).sum()) for each in masked)
    assert 0 < chosen < sum(len(row["words"]) for row in rows)


def test_masks_depend_on_the_seed_the_epoch_and_the_row_alone(tokenizer):
    rows = [long_row(200)] * 3
    draw = Masking(tokenizer, 0.15)

    def drawn(seed, epoch, order=(0, 1, 2)):
        data = DrawnAnew(rows, draw, seed)
        data.set_epoch(epoch)
        found = {index: data[index] for index in order}
        return [found[index] for index in range(3)]

    first = drawn(1, 0)
    torch.manual_seed(99)
    assert same(drawn(1, 0, order=(2, 0, 1)), first)
    different = [*first, *drawn(1, 1), *drawn(2, 0), *drawn(0, 1)]
    assert len({tuple(each["labels"].tolist()) for each in different}) == len(different)


@pytest.mark.parametrize("workers", [[], ["--dataloader_num_workers", "1", "--dataloader_persistent_workers", "true"]])
def test_every_epoch_masks_anew_and_every_evaluation_the_same(workers, data, tmp_path, monkeypatch):
    """Seen in the losses of a model that does not learn."""
    epochs: dict[bool, list[list[int]]] = {True: [], False: []}
    forward = CPBertForMaskedLM.forward

    def recording(self, *args, labels=None, **kwargs):
        epochs[self.training].append(sorted(row.tolist() for row in labels))
        return forward(self, *args, labels=labels, **kwargs)

    monkeypatch.setattr(CPBertForMaskedLM, "forward", recording)
    more = ["--do_train", "--do_eval", "--num_train_epochs", "3", "--learning_rate", "0", "--save_strategy", "no"]
    more += ["--eval_strategy", "epoch", "--per_device_train_batch_size", "100", *workers]
    mlm(data, tmp_path / "out", *more)
    training, evaluations = epochs[True], epochs[False]
    assert len(training) == 3 and len({json.dumps(labels) for labels in training}) == 3
    size = len(evaluations) // 4
    assert size and len(evaluations) == 4 * size
    assert all(evaluations[size * turn : size * (turn + 1)] == evaluations[:size] for turn in range(4))


# Evaluation


@every_model_packed_or_not
def test_metrics_are_those_counted_by_hand(model_type, packed, data, tmp_path, seen):
    more = ["--model_type", model_type, "--pack", packed, "--per_device_eval_batch_size", "3"]
    more += ["--model_config", json.dumps(tiny_sizes(model_type))]
    metrics = mlm(data, tmp_path / "out", *TRAIN, "--do_eval", *more)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert metrics == pytest.approx(by_hand(model, seen["validation"]), abs=1e-5, rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    results = results_of(tmp_path / "out")
    assert results["model"] == model.config.model_type == model_type
    assert results["rows"]["validation"] == len(seen["validation"])
    assert results["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_evaluation_depends_on_neither_the_seed_nor_the_batches(data, trained, tmp_path, seen):
    metrics = results_of(trained)["metrics"]
    evaluate = ["--do_eval", "--model_name_or_path", trained]
    first = None
    for number, size in ((1, 1), (2, 5), (42, 64)):
        more = ["--seed", number, "--per_device_eval_batch_size", size]
        output = tmp_path / str(number)
        assert mlm(data, output, *evaluate, *more) == pytest.approx(metrics, abs=1e-5, rel=1e-5)
        assert not (output / "model.safetensors").exists()
        first = first or list(seen["validation"])
        assert same(first, seen["validation"])
        seen["validation"].clear()


def test_a_probability_of_masking_holds_in_the_run(data, trained, tmp_path, seen):
    more = ["--do_eval", "--model_name_or_path", trained]
    few = mlm(data, tmp_path / "few", *more, "--mlm_probability", "0.1")["tokens"]
    many = mlm(data, tmp_path / "many", *more, "--mlm_probability", "0.8")["tokens"]
    rows = seen["validation"][: len(seen["validation"]) // 2]
    tokens = sum(len(row["labels"]) - 2 * int(row["segments"].max()) for row in rows)
    assert few < 0.25 * tokens and 0.65 * tokens < many < 0.95 * tokens


def test_only_the_first_texts_are_used_if_so_asked(data, tmp_path, seen):
    more = ["--max_train_samples", "3", "--max_eval_samples", "4", "--pack", "false", "--num_train_epochs", "1"]
    more += ["--max_steps", "-1", "--mlm_probability", "0.5"]
    mlm(data, tmp_path / "out", *TRAIN, "--do_eval", *more)
    assert results_of(tmp_path / "out")["rows"] == {"train": 3, "validation": 4}
    assert len(seen["train"]) == 3


# Files


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same(extension, data, trained, tmp_path):
    files = [write(tmp_path, split, TEXTS[split], extension, column="words") for split in TEXTS]
    more = ["--train_file", files[0], "--validation_file", files[1], "--text_column", "words"]
    assert mlm(data, tmp_path / "out", *TRAIN, "--do_eval", *more) == results_of(trained)["metrics"]
    assert_close(weights(tmp_path / "out"), weights(trained), rtol=0, atol=0)


def test_empty_lines_are_passed_over(data, trained, tmp_path):
    gaps = [line for text in TEXTS["train"] for line in (text, "", "   ")]
    more = ["--train_file", write(tmp_path, "gaps", gaps)]
    assert mlm(data, tmp_path / "out", *TRAIN, "--do_eval", *more) == results_of(trained)["metrics"]


@pytest.mark.parametrize("extension", ["txt", "jsonl", "csv"])
def test_words_that_pandas_takes_for_missing_are_texts(extension, data, tmp_path, seen):
    texts = ["null", "NA", "nan", "None", "play"]
    more = ["--do_train", "--do_eval", "--validation_file", write(tmp_path, "held", texts, extension)]
    mlm(data, tmp_path / "out", *TRAIN, *more, "--pack", "false", "--mlm_probability", "0.9")
    assert results_of(tmp_path / "out")["rows"]["validation"] == len(texts)


# Training


def test_what_can_be_learned_is_learned(data, tmp_path):
    held = write(tmp_path, "held", ["the story was running and the film is a play"] * 30)
    more = ["--train_file", held, "--validation_file", held, "--vocab_size", "100", "--max_length", "32"]
    more += ["--max_steps", "200", "--learning_rate", "1e-2"]
    metrics = mlm(data, tmp_path / "out", *TRAIN, "--do_eval", *more)
    assert metrics["accuracy"] > 0.7 and metrics["perplexity"] < 3


def test_the_same_seed_gives_the_same_model_and_another_another(data, trained, tmp_path):
    mlm(data, tmp_path / "same", *TRAIN)
    assert_close(weights(tmp_path / "same"), weights(trained), rtol=0, atol=0)
    mlm(data, tmp_path / "other", *TRAIN, "--seed", "7")
    name = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(weights(tmp_path / "other")[name], weights(trained)[name])


def test_training_alone_measures_nothing(data, tmp_path):
    assert cli(["mlm", "--train_file", str(data / "train.txt"), "--output_dir", str(tmp_path / "out"), *QUIET]) == 1
    more = [*QUIET, *MODEL, *TRAIN, "--output_dir", str(tmp_path / "out")]
    assert cli(["mlm", "--train_file", str(data / "train.txt"), *more]) == 0
    assert results_of(tmp_path / "out")["metrics"] == {} and (tmp_path / "out" / "model.safetensors").is_file()


def test_a_stock_model_leaves_the_pool_config_out(data, tmp_path, trained):
    more = ["--model_type", "bert", "--pool_config", '{"pool_no_such_field": 1}']
    mlm(data, tmp_path / "out", *TRAIN, "--do_eval", *more)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "bert" and not [name for name in config if name.startswith("pool_")]
    assert {name: config[name] for name in TINY} == TINY
    pooled = CPBertConfig.from_pretrained(trained).to_dict()
    assert {name: pooled[name] for name in {**TINY, **POOLS}} == {**TINY, **POOLS}
    assert pooled["vocab_size"] == config["vocab_size"] == results_of(trained)["vocabulary"]


@packed_or_not
def test_the_pool_learning_rate_moves_the_pooling_alone(packed, data, trained, tmp_path):
    more = ["--model_name_or_path", trained, "--learning_rate", "0", "--pool_learning_rate", "1e-2", "--pack", packed]
    mlm(data, tmp_path / "out", *TRAIN, *more)
    before, after = weights(trained), weights(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed == {name for name in before if "context_pool" in name}


def test_texts_are_read_while_training(data, tmp_path):
    more = ["--streaming", "--max_steps", "12", "--per_device_train_batch_size", "4"]  # more than an epoch
    metrics = mlm(data, tmp_path / "out", *TRAIN, "--do_eval", *more)
    assert math.isfinite(metrics["loss"]) and list(results_of(tmp_path / "out")["rows"]) == ["validation"]
    again = mlm(data, tmp_path / "again", *TRAIN, "--do_eval", *more)
    assert again == metrics


def test_nothing_but_what_is_streamed_is_downloaded(data, trained, tmp_path, monkeypatch):
    streamed, load_dataset = [], data_files.load_dataset
    evaluation = ["--do_eval", "--model_name_or_path", trained, "--max_eval_samples", "9"]
    options = [*QUIET, "--dataset_name", data, "--max_length", MAX_LENGTH, *evaluation]
    assert cli(["mlm", *map(str, options), "--output_dir", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(
        data_files,
        "load_dataset",
        lambda *args, **more: streamed.append(more["streaming"]) or load_dataset(*args, **more),
    )
    training = ["--do_train", "--max_steps", "1", "--learning_rate", "0", "--save_strategy", "no", "--streaming"]
    assert cli(["mlm", *map(str, options), *training, "--output_dir", str(tmp_path / "streamed")]) == 0
    assert streamed == [True, True]
    assert results_of(tmp_path / "streamed")["metrics"] == results_of(tmp_path / "whole")["metrics"]


def test_a_stream_may_end_in_empty_lines(data, tmp_path):
    texts = [*sentences(1000, 5, longest=1), "", ""]  # what is encoded at once ends before them
    more = ["--streaming", "--train_file", write(tmp_path, "train", texts), "--per_device_train_batch_size", "16"]
    mlm(data, tmp_path / "out", *TRAIN, *more, "--max_steps", "40")


def test_a_run_goes_on_from_a_checkpoint(data, trained, tmp_path):
    start = ["--model_name_or_path", trained]
    evaluated = mlm(data, tmp_path / "start", "--do_eval", *start)
    assert evaluated == pytest.approx(results_of(trained)["metrics"], abs=1e-5, rel=1e-5)
    still = mlm(data, tmp_path / "still", *TRAIN, "--do_eval", *start, "--learning_rate", "0", "--model_type", "bert")
    assert still == evaluated
    assert_close(weights(tmp_path / "still"), weights(trained), rtol=0, atol=0)
    other = write(tmp_path, "train", ["nothing of this was in the vocabulary before"] * 9)
    mlm(data, tmp_path / "on", *TRAIN, "--do_eval", *start, "--train_file", other)
    vocabularies = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (trained, tmp_path / "on")]
    assert vocabularies[0] == vocabularies[1]


def test_the_vocabulary_may_be_another_model_s(data, trained, tmp_path):
    other = write(tmp_path, "train", ["nothing of this was in the vocabulary before"] * 9)
    mlm(data, tmp_path / "out", *TRAIN, "--train_file", other, "--tokenizer_name", trained)
    vocabularies = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (trained, tmp_path / "out")]
    assert vocabularies[0] == vocabularies[1]


def test_the_output_is_fine_tuned_by_glue(trained, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 16), ("validation", 6)):
        labels = [index % 2 for index in range(count)]
        Dataset.from_dict({"words": sentences(count, 8), "label": labels}).to_json(str(folder / f"{split}.jsonl"))
    command = ["glue", "--text_columns", "words", "--data_dir", str(folder), "--model_name_or_path", str(trained)]
    command += ["--output_dir", str(tmp_path / "out"), *QUIET, *TRAIN, "--do_eval", "--learning_rate", "0"]
    command += ["--max_length", "32"]
    assert cli(command) == 0
    before, after = weights(trained), weights(tmp_path / "out")
    encoder = [name for name in before if name.startswith("bert.")]
    assert encoder and all(torch.equal(before[name], after[name]) for name in encoder)


def test_the_resolved_arguments_reproduce_the_run(data, trained, tmp_path):
    assert cli(["mlm", "--config", str(trained / "arguments.yaml"), "--output_dir", str(tmp_path / "out")]) == 0
    assert results_of(tmp_path / "out") == results_of(trained)
    assert_close(weights(tmp_path / "out"), weights(trained), rtol=0, atol=0)


CONFIG_FILES = sorted((ROOT / "configs" / "mlm").glob("*"))


def test_there_are_configurations():
    assert CONFIG_FILES and {path.suffix for path in CONFIG_FILES} == {".yaml"}


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_a_configuration_builds_its_model_and_runs(path, tmp_path, monkeypatch):
    content = yaml.safe_load(path.read_text())
    assert content["output_dir"].endswith(f"/{path.stem}")
    config_class = CONFIGS[content.get("model_type", "cp_bert")]
    fields = {**content.get("model_config", {}), **content.get("pool_config", {})}
    assert fields.keys() <= config_class().to_dict().keys()
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config_class(**fields))
    assert model.config.max_position_embeddings >= content.get("max_length", 128)

    def load(name, config_name, split, streaming=False, **_):
        held_out = split == content.get("validation_split", "validation")
        texts = Dataset.from_dict({content.get("text_column", "text"): TEXTS["validation" if held_out else "train"]})
        return texts.to_iterable_dataset() if streaming else texts

    monkeypatch.setattr("cp_transformers.training.texts.load_by_name", load)
    heads = content.get("pool_config", {}).get("pool_num_heads", 1)
    small = {**TINY, "hidden_size": 8 * math.lcm(heads, 2), "max_position_embeddings": 512}
    more = [*QUIET, *TRAIN, "--output_dir", str(tmp_path / "out"), "--model_config", json.dumps({**fields, **small})]
    more += ["--max_steps", "1", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1"]
    more += ["--bf16", "false", "--fp16", "false", "--dataloader_num_workers", "0", "--eval_strategy", "no"]
    more += ["--model_type", config_class.model_type, "--torch_compile", "false"]
    assert cli(["mlm", "--config", str(path), *more]) == 0
    assert math.isfinite(results_of(tmp_path / "out")["metrics"]["loss"])
