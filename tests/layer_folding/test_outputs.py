import errno
import os
import tempfile

import pytest

from layer_folding import outputs
from layer_folding.errors import InputError
from layer_folding.outputs import output_file, output_folder


def refused(path, kind, inputs=()) -> str:
    with pytest.raises(InputError) as caught:
        output_file("-o", path, kind, inputs)
    assert str(caught.value).startswith(f"-o {path}: ")
    return str(caught.value)


def test_a_new_name_an_old_result_and_an_empty_file_are_taken(tmp_path):
    path = tmp_path / "made" / "importance.csv"
    assert output_file("-o", path, outputs.IMPORTANCE_TABLE) == path and not path.parent.exists()
    path.parent.mkdir()
    for content in ("activations,cross entropy\na b,0.5\n", ""):
        path.write_text(content)
        assert output_file("-o", path, outputs.IMPORTANCE_TABLE) == path
        assert path.read_text() == content


def test_nothing_of_another_kind_is_overwritten(tmp_path):
    for name in ("original.safetensors", "x.onnx", "x", "x.CSV"):
        assert "is no name for a table of importances" in refused(tmp_path / name, outputs.IMPORTANCE_TABLE)
    (tmp_path / "folder.csv").mkdir()
    assert "is no name for" in refused(tmp_path / "folder.csv", outputs.LATENCY_TABLE)
    (tmp_path / "latency.csv").write_text("st,end,time,stdev\n0,1,0.5,0.1\n")
    assert "is there and is no table of importances" in refused(tmp_path / "latency.csv", outputs.IMPORTANCE_TABLE)
    (tmp_path / "plan.json").write_text('{\n  "schema": 3,\n  "conditions": {}\n}\n')
    assert "is there and is no bench.json" in refused(tmp_path / "plan.json", outputs.BENCH)
    output_file("-o", tmp_path / "plan.json", outputs.PLAN)
    (tmp_path / "index.html").write_text("<!doctype html>\n<html><head><title>My pages</title></head></html>\n")
    assert "is there and is no page of layer-folding" in refused(tmp_path / "index.html", outputs.PAGE)
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    assert "is there and is no picture of layer-folding" in refused(tmp_path / "photo.png", outputs.PICTURE)
    os.mkfifo(tmp_path / "pipe.csv")
    assert "is there and is no" in refused(tmp_path / "pipe.csv", outputs.LATENCY_TABLE)


def test_an_input_is_not_overwritten_under_any_name(tmp_path):
    table = tmp_path / "latency.csv"
    table.write_text("st,end,time,stdev\n")
    (tmp_path / "link.csv").symlink_to(table)
    for name in ("latency.csv", "link.csv"):
        assert "is what the command reads" in refused(tmp_path / name, outputs.LATENCY_TABLE, [table])
    output_file("-o", tmp_path / "other.csv", outputs.LATENCY_TABLE, [table, tmp_path / "none.csv"])


def test_a_place_that_takes_no_files_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    assert "file is no folder; give another name" in refused(tmp_path / "file" / "a" / "x.csv", outputs.LATENCY_TABLE)
    with pytest.raises(InputError, match="file is no folder; give another name"):
        output_folder("-o", tmp_path / "file")

    def full(dir: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\); name a folder"):
        output_folder("-o", tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
