"""The products that a plan chooses: of any kind and format, called alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....workloads.layers import Layer
from ....workloads.nesting import NestedWeights
from .dense_product import DenseProduct
from .planes import Floats, PlaneLayout
from .product import Choice, Dense, Product
from .team import Call

if TYPE_CHECKING:  # products of reduced formats are loaded where one is chosen: their kernels' modules take a while
    from .reduced.bf16_product import Bf16Product
    from .reduced.coded_product import CodedProduct
    from .reduced.half_product import HalfProduct

    #: A product at every level, called as ``product.Product`` is.
    AnyProduct = Product | CodedProduct | HalfProduct | Bf16Product


def product_for(
    layer: Layer,
    weights: NestedWeights,
    source: PlaneLayout,
    target: PlaneLayout,
    *,
    choice: Choice,
    threads: int = 1,
) -> AnyProduct:
    """The product of a choice.

    Raises
    ------
    InputError
        if the weights lack what the choice relies on, see the products.
    """
    places = (layer, weights, source, target)
    if choice.kind == "coded":
        from .reduced.coded_product import CodedProduct

        return CodedProduct(*places, vectors=choice.vectors, threads=threads)
    if choice.kind == "half":
        from .reduced.half_product import HalfProduct

        return HalfProduct(*places, vectors=choice.vectors, threads=threads)
    if choice.kind == "bfloat16":
        from .reduced.bf16_product import Bf16Product

        return Bf16Product(*places, vectors=choice.vectors, threads=threads)
    return Product(*places, choice=choice, threads=threads)


def dense_call(
    product: AnyProduct,
    weights: NestedWeights,
    level: int,
    *,
    dense: Dense,
    x: Floats,
    out: Floats,
    threads: int = 1,
    **common: Any,
) -> Call:
    """The call that runs a level of ``product`` densely, from its planes; ``common``: bias, clamp, residual."""
    if dense.fmt == "bfloat16":
        from .reduced.bf16_product import Bf16Product

        words = Bf16Product(
            product.layer, weights, product.source, product.target, vectors=dense.vectors, dense=level, threads=threads
        )
        return words.call(x, out, level=level, works=[words.new_work() for _ in range(threads)], **common)
    floats = DenseProduct(product, weights, level, vectors=dense.vectors, threads=threads)
    return floats.call(x, out, works=[floats.new_work() for _ in range(threads)], **common)
