"""Networks of packages that people deploy, whole and unmodified: from scanning to a file that runs; random weights."""

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import layer_folding as lf
from layer_folding.fold.graph.comparing import relative, tensors_in
from layer_folding.fold.graph.tracing import trace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def yolo(name: str) -> nn.Module:
    tasks = pytest.importorskip("ultralytics.nn.tasks", reason="needs ultralytics")
    kinds = {"cls": tasks.ClassificationModel, "seg": tasks.SegmentationModel, "pose": tasks.PoseModel}
    return kinds.get(name.partition("-")[2], tasks.DetectionModel)(f"{name}.yaml", verbose=False)


def for_a_file(model: nn.Module) -> nn.Module:
    """A YOLO that gives boxes and scores alone, as the exporter of ultralytics has it: no features for its loss."""
    model.model[-1].export = True
    return model


def transformer(name: str, **settings: object) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    kind = "ForSemanticSegmentation" if name == "Segformer" else "ForImageClassification"
    return getattr(transformers, name + kind)(getattr(transformers, f"{name}Config")(**settings))


def segmenter(name: str) -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch", reason="needs segmentation_models_pytorch")
    return getattr(smp, name)("resnet18", encoder_weights=None)


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "True")
    torch.manual_seed(0)


def varied(model: nn.Module) -> nn.Module:
    """Statistics as training would leave them: with those of a fresh network, values vanish on the way."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 128, 128))
    return model.eval()


def finite(output: object) -> list[Tensor]:
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "make",
    [
        lambda: for_a_file(yolo("yolov8n")),
        lambda: for_a_file(yolo("yolo11n")),
        lambda: varied(transformer("MobileNetV2", depth_multiplier=0.35)),
        lambda: varied(transformer("ResNet", layer_type="basic", hidden_sizes=[16, 32, 48, 64], depths=[2, 2, 2, 2])),
    ],
    ids=["yolov8n", "yolo11n", "MobileNetV2", "ResNet"],
)
def test_from_scanning_to_a_file_in_three_precisions(make, tmp_path):
    model, example = make().eval(), torch.rand(1, 3, 64, 64)
    assert lf.scan(model, example).candidates
    gated = lf.linearize(model, example)
    assert relative(gated(example), model(example)) <= 1e-4
    gates = lf.gates(gated)
    rate = torch.optim.SGD([gate.alpha for gate in gates.values()], lr=0.1)
    loss = sum(values.square().mean() for values in finite(gated(example))) + lf.depth_penalty(gated)
    loss.backward()
    rate.step()
    with torch.no_grad():
        for gate in list(gates.values())[::2]:
            gate.alpha.fill_(1)
    hard, _ = lf.hoist_padding(lf.harden(gated).eval(), example)
    result = lf.fold(hard.eval(), example)
    assert result.folded and result.max_error <= 1e-9
    assert lf.depth(result.model, example) < lf.depth(model, example)
    images = torch.rand(4, 3, 64, 64)
    for precision in ("fp32", "fp16", "int8"):
        path = tmp_path / f"{precision}.onnx"
        lf.export(result.model, example, path, precision=precision, images=images)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {"input": images.numpy()})
        assert len(outputs) == len(list(tensors_in(result.model(images))))


@pytest.mark.parametrize(
    ("make", "is_baked"),
    [
        (lambda: yolo("yolov8n-cls"), False),
        (lambda: yolo("yolov8n-seg"), False),
        (lambda: yolo("yolo11n-pose"), False),
        (lambda: yolo("yolo12n"), False),
        (lambda: yolo("yolo26n"), False),
        (lambda: transformer("RegNet", depths=[1, 1, 1, 1]), False),
        (lambda: transformer("ConvNext", depths=[1, 1, 1, 1]), False),
        (lambda: transformer("Segformer", depths=[1, 1, 1, 1]), False),
        (lambda: transformer("ViT", num_hidden_layers=2, image_size=64), True),
        (lambda: segmenter("Unet"), False),
        (lambda: segmenter("FPN"), False),
    ],
    ids=["v8n-cls", "v8n-seg", "11n-pose", "12n", "26n", "RegNet", "ConvNeXt", "SegFormer", "ViT", "Unet", "FPN"],
)
def test_the_graph_is_the_network(make, is_baked):
    model, other = make().eval(), torch.rand(2, 3, 96, 64)
    graph = trace(model, torch.rand(1, 3, 64, 64), share_weights=True)
    with torch.no_grad():
        if is_baked:
            with pytest.raises(lf.InputError, match=r"it was traced for .*64 on axis 2"):
                graph(other)
        else:
            assert relative(graph(other), model(other)) <= 1e-4
