"""Many tridiagonal systems at once, on any device, by cyclic reduction."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def solve_tridiagonal(
    lower: Float[Tensor, "*batch n"],
    diagonal: Float[Tensor, "*batch n"],
    upper: Float[Tensor, "*batch n"],
    right: Float[Tensor, "*batch n"],
) -> Float[Tensor, "*batch n"]:
    """Solve lower_i x_(i-1) + diagonal_i x_i + upper_i x_(i+1) = right_i.

    The unknowns of every other row are eliminated, then half of the rest, and so on: O(n) work in
    O(log n) whole-array operations, where elimination row by row would need n. There is no
    pivoting: the matrix must be diagonally dominant by rows, |diagonal| > |lower| + |upper|,
    which every level of the reduction inherits.

    Args:
        lower: Its first entry is ignored.
        upper: Its last entry is ignored.
    Source:
        Buzbee, Golub and Nielson 1970, SIAM J. Numer. Anal. 7(4), 627.
    """
    lower, upper = lower.clone(), upper.clone()
    lower[..., 0] = 0
    upper[..., -1] = 0
    return _reduce(lower / diagonal, upper / diagonal, right / diagonal)


def _reduce(lower: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    """Solve for rows divided by their diagonal; only the rows with odd numbers go a level down."""
    count = right.shape[-1]
    if count == 1:
        return right
    if count % 2 == 0:  # a row x = 0 that nothing refers to gives every odd row two neighbours
        lower, upper, right = (F.pad(rows, (0, 1)) for rows in (lower, upper, right))
    a, c = lower[..., 1::2], upper[..., 1::2]
    inverse = 1 / (1 - a * upper[..., :-1:2] - c * lower[..., 2::2])
    odd = _reduce(
        -a * lower[..., :-1:2] * inverse,
        -c * upper[..., 2::2] * inverse,
        (right[..., 1::2] - a * right[..., :-1:2] - c * right[..., 2::2]) * inverse,
    )
    solved = right.clone()
    solved[..., 1::2] = odd
    solved[..., 2::2] -= lower[..., 2::2] * odd
    solved[..., :-1:2] -= upper[..., :-1:2] * odd
    return solved[..., :count]
