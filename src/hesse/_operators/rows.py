"""Products of one term with many vectors, one a row."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from torch import Tensor

from hesse._autograd.gradients import owned
from hesse._base.space import Space, Splits
from hesse._linearize.chunks import Chunks, Rows
from hesse._operators.terms import Part, Term


def products_of_rows(
    chunks: Chunks,
    rows: Rows,
    part: Part,
    source: Splits,
    target: Space,
    transposed: bool,
    products: int,
    compared: set[Hashable],
    term: Term,
    key: Hashable,
) -> Iterable[Tensor]:
    """Products with the rows in turn, as many at once as ``chunks`` says.

    Args:
        chunks: how many go at once.
        rows: the vectors.
        part: which leaves of vectors and products.
        source: how a row is cut into leaves.
        target: the space of the products.
        transposed: whether the term's transpose is meant.
        products: how many are expected, which a trial of batches has to pay for itself with.
        compared: which keys and widths were compared with single products here.
        term: what is multiplied.
        key: tells the point's terms apart.
    """

    def multiply(vectors: Tensor) -> Tensor:
        batch = vectors.dim() - 1
        found = term.multiply(source.split(vectors), part, transposed=transposed, batched=batch == 1)
        joined = target.join(found, batch)
        return joined if len(found) > 1 else owned(joined, vectors)

    sizes = [one.batch_size for one in term.linearizations if one.batch_size is not None]
    price = sum(one.batch_price for one in term.linearizations)
    return chunks.pieces(
        multiply,
        rows,
        target.lengths,
        key=(key, part, transposed),
        compared=compared,
        fixed=min(sizes, default=None),
        pays=lambda seconds, past: max(products, past) * seconds >= price,
    )
