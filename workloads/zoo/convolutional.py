"""Plain chains of convolutions: AlexNet (two forms) and VGG (for ImageNet and for CIFAR).

Their classifiers read the flattened image, so the parameters of the first fully connected layer grow with the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..layers import Layer
from .graph_builder import GraphBuilder, Norm, Tensor, input_image
from .model import Model, class_count, image_size

#: Filters per stage; a 2 x 2 pool ends each stage (Simonyan & Zisserman, table 1; columns D and E differ in depth).
_VGG_FILTERS = (64, 128, 256, 512, 512)
_VGG11_DEPTHS = (1, 1, 2, 2, 2)
_VGG16_DEPTHS = (2, 2, 3, 3, 3)
_VGG19_DEPTHS = (2, 2, 4, 4, 4)
_HIDDEN = 4096


def alexnet(*, filters: Sequence[int], padding: int, groups: int, image: int, classes: int) -> tuple[Layer, ...]:
    """AlexNet.

    Parameters
    ----------
    filters : of the five convolutions.
    padding : of the first convolution; the others keep the size.
    groups : of the second, fourth and fifth convolution (2 where the original divided them between two GPUs).
    """
    graph = GraphBuilder()
    plain = partial(graph.conv, bias=True, norm=None)
    x = plain("conv1", input_image(image), K=filters[0], R=11, stride=4, padding=padding)
    x = graph.pool("pool1", x, R=3, stride=2)
    x = plain("conv2", x, K=filters[1], R=5, groups=groups)
    x = graph.pool("pool2", x, R=3, stride=2)
    x = plain("conv3", x, K=filters[2], R=3)
    x = plain("conv4", x, K=filters[3], R=3, groups=groups)
    x = plain("conv5", x, K=filters[4], R=3, groups=groups)
    x = graph.pool("pool5", x, R=3, stride=2)
    _three_layer_classifier(graph, x, classes)
    return graph.layers


def vgg(*, depths: Sequence[int], image: int, classes: int) -> tuple[Layer, ...]:
    """VGG with biases and without batch normalisation; ``depths``: convolutions per stage."""
    graph = GraphBuilder()
    x = _vgg_stages(graph, input_image(image), depths, normalised=False)
    x = graph.pool(f"pool{len(depths) - 1}", x, R=2, stride=2)
    _three_layer_classifier(graph, x, classes)
    return graph.layers


def vgg_cifar(*, depths: Sequence[int], image: int, classes: int) -> tuple[Layer, ...]:
    """VGG for small images: batch normalisation, a mean for the last pool, one fully connected layer."""
    graph = GraphBuilder()
    x = _vgg_stages(graph, input_image(image), depths, normalised=True)
    x = graph.pool("avgpool", x, R=2, stride=2, kind="avg")
    graph.linear("classifier", x, classes)
    return graph.layers


def _vgg_stages(graph: GraphBuilder, x: Tensor, depths: Sequence[int], *, normalised: bool) -> Tensor:
    """All convolutions, with maximum pools between the stages."""
    norm: Norm | None = "after" if normalised else None
    number = 0
    for stage, (filters, depth) in enumerate(zip(_VGG_FILTERS, depths, strict=True)):
        if stage > 0:
            x = graph.pool(f"pool{stage - 1}", x, R=2, stride=2)
        for _ in range(depth):
            x = graph.conv(f"conv{number}", x, K=filters, R=3, bias=not normalised, norm=norm)
            number += 1
    return x


def _three_layer_classifier(graph: GraphBuilder, x: Tensor, classes: int) -> None:
    x = graph.linear("fc6", x, _HIDDEN, activation="relu")
    x = graph.linear("fc7", x, _HIDDEN, activation="relu")
    graph.linear("fc8", x, classes)


def _vgg_model(depths: Sequence[int]) -> Model:
    return Model(
        partial(vgg, depths=depths),
        "Simonyan & Zisserman, ICLR 2015; shapes and parameters as in torchvision and Keras",
        # fc6 grows with the square of the image; 512 pixels are half a billion weights
        {"image": image_size(224, highest=512), "classes": class_count(1000)},
    )


def _vgg_cifar_model(depths: Sequence[int]) -> Model:
    return Model(
        partial(vgg_cifar, depths=depths),
        "CIFAR form of Liu et al., Network Slimming, ICCV 2017",
        {"image": image_size(32, highest=512), "classes": class_count(10)},
    )


MODELS = {
    "alexnet": Model(
        partial(alexnet, filters=(64, 192, 384, 256, 256), padding=2, groups=1),
        "Krizhevsky, arXiv:1404.5997; shapes and parameters as in torchvision",
        {"image": image_size(224, lowest=63, highest=512), "classes": class_count(1000)},
    ),
    "alexnet_caffe": Model(
        partial(alexnet, filters=(96, 256, 384, 384, 256), padding=0, groups=2),
        "Krizhevsky et al., NIPS 2012, as Caffe's reference model and accelerator papers have it",
        {"image": image_size(227, lowest=67, highest=512), "classes": class_count(1000)},
    ),
    "vgg16": _vgg_model(_VGG16_DEPTHS),
    "vgg19": _vgg_model(_VGG19_DEPTHS),
    "vgg16_cifar": _vgg_cifar_model(_VGG16_DEPTHS),
    "vgg19_cifar": _vgg_cifar_model(_VGG19_DEPTHS),
}
#: Beyond the reference tables.
EXTRAS = {"vgg11": _vgg_model(_VGG11_DEPTHS)}
