"""Small PyTorch models of the families that the exporter must handle. Imports torch: only for tests that need it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    """Convolutions, batch normalisation, pooling, a residual sum, depthwise, squeeze-and-excite, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, 2, 2)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(12)
        self.short = nn.Conv2d(8, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, 2, 1), nn.Conv2d(2, 12, 1)
        self.down = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.norm(self.stem(x))))
        x = functional.relu(self.norm1(self.conv1(x)) + self.short(x), inplace=True)
        x = functional.relu6(self.depthwise(x))
        gate = functional.silu(self.squeeze(functional.adaptive_avg_pool2d(x, 1)))
        x = self.down(x * torch.sigmoid(self.excite(gate)))
        x = torch.cat([x, functional.gelu(x)], 1)
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Plain(nn.Module):
    """Two convolutions and a classifier with flattening, small enough to be kept as a test file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, bias=False)
        self.fc = nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(torch.relu(self.norm1(self.conv1(x))), 2)
        return self.fc(torch.relu(self.conv2(x)).flatten(1))


class Recurrent(nn.Module):
    """Two bidirectional LSTM layers, a GRU, a plain recurrence, a classifier of the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(12, 5, batch_first=True)
        self.rnn = nn.RNN(5, 4, batch_first=True, nonlinearity="relu")
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(self.gru(self.lstm(x)[0])[0])[0][:, -1])


class Products(nn.Module):
    """Matrix products of every spelling: parameters right, left and batched, activations, index sums."""

    def __init__(self) -> None:
        super().__init__()
        self.right, self.left = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(3, 7))
        self.heads, self.bias = nn.Parameter(torch.randn(2, 5, 4)), nn.Parameter(torch.randn(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (1, 7, 8)
        y = torch.addmm(self.bias, x[0], self.right)  # (7, 5)
        y = torch.matmul(self.left, y)  # (3, 5)
        z = torch.matmul(y.expand(2, 3, 5), self.heads)  # (2, 3, 4)
        z = torch.einsum("hik,hjk->hij", z, z)
        return torch.bmm(z, z)


class Odd(nn.Module):
    """Convolutions that no single stride or padding states: one dimension, uneven sides, transposed, three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(3, 4, 5, stride=2, padding=2)
        self.uneven = nn.Conv2d(4, 6, (1, 7), padding=(0, 3))
        self.strided = nn.Conv2d(6, 4, 3, stride=(1, 2), padding=1, groups=2)
        self.same = nn.Conv2d(4, 4, 4, padding="same")
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
        self.solid = nn.Conv3d(2, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (1, 3, 20)
        x = self.line(x).reshape(1, 4, 2, 5)
        x = self.up(self.same(self.strided(self.uneven(x))))
        return self.solid(x.reshape(1, 2, 3, x.shape[2], x.shape[3]))
