import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from layer_folding.bench_results import NetworkRecord
from layer_folding.errors import InputError
from layer_folding.trt_bench import onnx_header
from tests.trt_bench.conftest import save_convs


def test_reads_what_the_exporter_wrote(onnx_folder):
    assert onnx_header.read(onnx_folder / "deep.onnx") == NetworkRecord(
        depth=9, parameters=16880, macs=2394000, accuracy=0.875, precision="fp32"
    )
    assert onnx_header.read(onnx_folder / "shallow.onnx") == NetworkRecord()


@given(st.text(max_size=300))
def test_reads_any_text(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "x.onnx"
    model = onnx.ModelProto(ir_version=8, producer_name="somebody")
    helper.set_model_props(model, {"other": "1", "layer_folding.precision": text})
    onnx.save(model, path)
    assert onnx_header.read(path) == NetworkRecord(precision=text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("depth", "many"),
        ("macs", "1.5"),
        ("parameters", "-1"),
        ("accuracy", "nan"),
        ("accuracy", ""),
        ("macs", "9" * 30),
    ],
)
def test_refuses_what_is_no_number(tmp_path, name, text):
    path = save_convs(tmp_path / "x.onnx", 1, metadata={name: text})
    with pytest.raises(InputError, match=rf"x\.onnx: its metadata layer_folding\.{name} is .*; export it again"):
        onnx_header.read(path)


@given(st.data())
def test_a_cut_file_is_refused_or_lacks_something(onnx_folder, data):
    whole = (onnx_folder / "deep.onnx").read_bytes()
    path = onnx_folder / "cut.onnx"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        found, full = (onnx_header.read(each) for each in (path, onnx_folder / "deep.onnx"))
        assert found != full
        assert all(value in (None, getattr(full, name)) for name, value in vars(found).items())
    except InputError as error:
        assert str(error) == f"{path}: not an ONNX file, or cut off; export it again"


@given(st.binary(max_size=100))
def test_no_bytes_crash_it(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("noise") / "x.onnx"
    path.write_bytes(content)
    try:
        onnx_header.read(path)
    except InputError as error:
        assert "not an ONNX file" in str(error)
