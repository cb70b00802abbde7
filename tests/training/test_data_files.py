# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Files of data that are read, and files of figures that are written."""

import math

import pytest

from cp_transformers.files import check_csv, rounded
from cp_transformers.training.data_files import load_file


def test_the_name_of_a_file_is_no_pattern(tmp_path):
    for name in ("d1", "d[1]", "d?", "d*"):
        (tmp_path / f"{name}.txt").write_text(f"of {name}\n")
    for name in ("d1", "d[1]", "d?", "d*"):
        assert load_file(tmp_path / f"{name}.txt")["text"] == [f"of {name}"]


def test_rows_with_more_fields_than_the_header_are_refused(tmp_path):
    (tmp_path / "shifted.csv").write_text("text,label\ngood film,pos,ann0\nbad film,neg,ann1\n")
    with pytest.raises(ValueError, match="header names 2 columns, and its first row has more fields"):
        load_file(tmp_path / "shifted.csv")
    (tmp_path / "quoted.csv").write_text('\ufefftext,label\n"good, warm",pos\nbad,neg\n', encoding="utf-8")
    assert load_file(tmp_path / "quoted.csv")["text"] == ["good, warm", "bad"]
    (tmp_path / "long.csv").write_text("text,label\n" + "good " * 40_000 + ",pos\n")
    assert len(load_file(tmp_path / "long.csv")["text"][0]) == 200_000


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("out.png", ValueError, "must end in .csv"),
        ("folder.csv", OSError, "Is a directory"),
        ("file/out.csv", OSError, "cannot be written"),
    ],
)
def test_where_figures_cannot_be_written_is_known_before_they_are_measured(name, error, message, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=message):
        check_csv(tmp_path / name)
    check_csv(tmp_path / "new" / "out.csv")
    assert [*(tmp_path / "new").iterdir()] == []


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0123456, 0.01235), (-98765.4321, -98770.0), (0.0, 0.0), (7, 7), (math.inf, math.inf)]
)
def test_figures_are_rounded_to_four_digits(value, expected):
    assert rounded(value) == expected
    assert math.isnan(rounded(math.nan))
