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
    #: One level of a product run densely.
    AnyDense = DenseProduct | Bf16Product


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
    found = dense_for(product, weights, level, dense=dense, threads=threads)
    return call_of(found, level, x=x, out=out, threads=threads, **common)


def dense_for(product: AnyProduct, weights: NestedWeights, level: int, *, dense: Dense, threads: int = 1) -> AnyDense:
    """What runs a level of ``product`` densely: it holds the level's weights once more, for any number of calls."""
    if dense.fmt == "bfloat16":
        from .reduced.bf16_product import Bf16Product

        places = (product.layer, weights, product.source, product.target)
        return Bf16Product(*places, vectors=dense.vectors, dense=level, threads=threads)
    return DenseProduct(product, weights, level, vectors=dense.vectors, threads=threads)


def call_of(found: AnyDense, level: int, *, x: Floats, out: Floats, threads: int = 1, **common: Any) -> Call:
    """The call of a dense ``level`` with scratch memory of its own; ``common``: bias, clamp, residual."""
    works: list[Any] = [found.new_work() for _ in range(threads)]
    if isinstance(found, DenseProduct):
        return found.call(x, out, works=works, **common)
    return found.call(x, out, level=level, works=works, **common)
