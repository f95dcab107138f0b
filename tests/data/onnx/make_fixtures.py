"""Writes the ONNX fixtures beside this file: small networks with seeded weights, exported from PyTorch (needs torch, onnx
and, for the "dynamo" files, onnxscript). Run it from any folder; equal versions write equal models.

Each covers what a builder of graphs does differently: batch normalisation in the file or folded, weights as initializers
or external, attention in small operators, symbolic dimensions, recurrent operators.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent
SEED = 7


class Residual(nn.Module):
    """Convolutions with batch normalisation, a residual sum, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 16, (3, 1), stride=(2, 1), padding=(1, 0))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        x = torch.max_pool2d(x, 2)
        x = torch.nn.functional.silu(self.conv3(x))
        return self.fc(x.mean((2, 3)))


class Mobile(nn.Module):
    """Depthwise and grouped convolutions, ReLU6, squeeze and excitation, channel shuffle, a convolution of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.grouped = nn.Conv2d(8, 16, 1, groups=2)
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.along = nn.Conv1d(16, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.stem(x))))
        x = self.grouped(x)
        x = x.reshape(x.shape[0], 2, 8, x.shape[2], x.shape[3]).transpose(1, 2).flatten(1, 2)
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.along(x.flatten(2))


class Decoder(nn.Module):
    """Transposed convolutions, plain and grouped, interpolation, concatenation, asymmetric padding."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.grouped = nn.ConvTranspose2d(4, 8, 2, stride=2, groups=2)
        self.smooth = nn.Conv2d(14, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        wide = nn.functional.interpolate(x, scale_factor=4.0, mode="nearest")
        y = self.grouped(torch.relu(self.bn(self.up(x))))
        return self.smooth(nn.functional.pad(torch.cat([wide, y], 1), (0, 1, 0, 1)))


class Encoder(nn.Module):
    """Two transformer encoder layers with an embedding in front, attention written out by the exporter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, activation="gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens)))


class Recurrent(nn.Module):
    """A recurrent layer in front of a classifier of the last step."""

    def __init__(self, layer: nn.LSTM | nn.GRU, features: int) -> None:
        super().__init__()
        self.layer = layer
        self.fc = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(x)[0][-1])


def _settled(model: nn.Module) -> nn.Module:
    """Running statistics and affine parameters that folding can get wrong, a third of the weights exactly zero."""
    generator = torch.Generator().manual_seed(SEED)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
            module.weight.data = torch.rand(module.num_features, generator=generator) + 0.5
            module.bias.data = torch.randn(module.num_features, generator=generator) * 0.1
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= torch.rand(parameter.shape, generator=generator) > 1 / 3
        else:  # equal parameters would be stored once
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.05
    return model.eval()


def _export(name: str, model: nn.Module, example: Tensor, **options: object) -> None:
    settings = {"dynamo": False, "do_constant_folding": True, "input_names": ["x"], "output_names": ["y"], **options}
    path = FOLDER / f"{name}.onnx"
    torch.onnx.export(_settled(model), (example,), path, **settings)
    written = onnx.load(path, load_external_data=False)
    for part in (written, written.graph, *written.graph.node, *written.graph.value_info, *written.graph.input):
        part.ClearField("metadata_props")  # stack traces of the exporting machine
        part.ClearField("doc_string")
    path.write_bytes(written.SerializeToString(deterministic=True))


def main() -> None:
    """Write all fixtures."""
    torch.manual_seed(SEED)
    image = torch.rand(1, 3, 16, 16)
    keep_bn = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    _export("residual_bn", Residual(), image, opset_version=11, **keep_bn)
    _export("residual_dynamo", Residual(), image, dynamo=True, external_data=False, optimize=True)
    _export("residual_external", Residual(), image, dynamo=True, external_data=True)
    _export("mobile", Mobile(), image, opset_version=13, dynamic_axes={"x": {0: "batch", 2: "height", 3: "width"}})
    _export("decoder", Decoder(), torch.rand(1, 6, 5, 7), opset_version=17)
    tokens = torch.arange(9)[None] % 20
    _export("encoder", Encoder(), tokens, opset_version=14, dynamic_axes={"x": {0: "batch", 1: "tokens"}})
    _export("encoder_dynamo", Encoder(), tokens, dynamo=True, external_data=False)
    steps = torch.rand(6, 1, 10)
    _export("lstm", Recurrent(nn.LSTM(10, 8, bidirectional=True), 16), steps, opset_version=9)
    _export("gru", Recurrent(nn.GRU(10, 8), 8), steps, opset_version=17)


if __name__ == "__main__":
    main()
