"""Transport, reaction, diffusion and phase separation: terms as the cards state them."""

from __future__ import annotations

import torch

from ups.data.generate.diffusion_sorption1d import Medium
from ups.physics.derivatives import Condition
from ups.physics.equations import Balance, BoundaryTable, Equation, Frames
from ups.physics.grids import UniformGrid

_MEDIUM = Medium()
_FITZHUGH_NAGUMO = {"du": 1e-3, "dv": 5e-3, "k": 5e-3}


def _advection(f: Frames) -> list[Balance]:
    return [Balance(f.fields["u"], (f.parameters["beta"] * f.slope("u", 0),))]


def _burgers(f: Frames) -> list[Balance]:
    u = f.fields["u"]
    spread = f.parameters["nu"] / torch.pi * f.slope("u", 0, 2)
    return [Balance(u, (f.slope(u.square() / 2, 0), -spread))]


def _fisher(f: Frames) -> list[Balance]:
    u = f.fields["u"]
    growth = f.parameters["rho"] * u * (1 - u)
    return [Balance(u, (-f.parameters["nu"] * f.laplacian("u"), -growth))]


def _fitzhugh_nagumo(f: Frames) -> list[Balance]:
    u, v, c = f.fields["u"], f.fields["v"], _FITZHUGH_NAGUMO
    return [
        Balance(u, (-c["du"] * f.laplacian("u"), -u, u**3 + c["k"], v)),
        Balance(v, (-c["dv"] * f.laplacian("v"), -u, v)),
    ]


def _sorption(f: Frames) -> list[Balance]:
    """As theta(u)_t = D u_xx, theta' = R: what the medium holds, dissolved and sorbed."""
    held, _ = _MEDIUM.stored(f.fields["u"])
    return [Balance(held, (-_MEDIUM.diffusion * f.slope("u", 0, 2),))]


def _sorption_ends(grid: UniformGrid) -> BoundaryTable:
    film = _MEDIUM.film
    return {
        "u": {
            "dirichlet": Condition(slope=film, right=_MEDIUM.inflow),
            "robin": Condition(slope=_MEDIUM.diffusion + film),
        }
    }


def _allen_cahn(f: Frames) -> list[Balance]:
    u = f.fields["u"]
    return [Balance(u, (-f.parameters["epsilon"].square() * f.laplacian("u"), -u, u**3))]


def _cahn_hilliard(f: Frames) -> list[Balance]:
    u, mobility = f.fields["u"], f.parameters["mobility"]
    stiffness = f.parameters["epsilon"].square() * f.laplacian("u")
    return [
        Balance(
            u,
            (-mobility * f.laplacian(u**3), mobility * f.laplacian(u),
             mobility * f.laplacian(stiffness)),
        )
    ]  # fmt: skip


def _darcy(f: Frames) -> list[Balance]:
    """Finite volumes with arithmetic means of the coefficient on faces, inside the square.

    The discretisation that the published solutions satisfy: the coefficient jumps, so the
    derivatives of the strong form do not exist everywhere.
    """
    u, nu = f.fields["u"], f.inputs["nu"]
    terms = []
    for axis, spacing in enumerate(f.grid.spacing):
        dim = axis - f.grid.num_dims
        size = u.shape[dim]
        faces = (nu.narrow(dim, 1, size - 1) + nu.narrow(dim, 0, size - 1)) / 2
        inflow = (faces * u.diff(dim=dim)).diff(dim=dim) / spacing**2
        terms.append(-_inside(inflow, but=dim, dims=f.grid.num_dims))
    return [Balance(None, (*terms, -f.parameters["beta"].expand_as(terms[0])))]


def _inside(values: torch.Tensor, *, but: int, dims: int) -> torch.Tensor:
    """Without the outermost cells of all space axes but one."""
    for dim in range(-dims, 0):
        if dim != but:
            values = values.narrow(dim, 1, values.shape[dim] - 2)
    return values


def _darcy_ends(grid: UniformGrid) -> BoundaryTable:
    """Zero in ghost cells, as far outside of the square as the first point lies inside."""
    return {"u": {"dirichlet": Condition(slope=grid.gaps[0][0])}}


SCALAR_EQUATIONS = (
    Equation("u_t + beta u_x = 0", _advection, ("u",), ("beta",)),
    Equation("u_t + (u^2/2)_x = (nu/pi) u_xx", _burgers, ("u",), ("nu",), scheme=4),
    Equation(
        "u_t = nu u_xx + rho u (1 - u)", _fisher, ("u",), ("nu", "rho"),
        caveat="PDEBench's published files do not satisfy it; those of `ups data generate` do",
    ),
    Equation(
        "u_t = Du lap u + u - u^3 - k - v, v_t = Dv lap v + u - v", _fitzhugh_nagumo, ("u", "v"),
        scheme=2,
    ),
    Equation(
        "u_t = D / R(u) u_xx, R(u) = 1 + (1 - phi) / phi rho_s k n u^(n - 1)", _sorption, ("u",),
        ends=_sorption_ends, scheme=4,
    ),
    Equation("u_t = epsilon^2 lap u + u - u^3", _allen_cahn, ("u",), ("epsilon",)),
    Equation(
        "u_t = M lap(u^3 - u - epsilon^2 lap u)", _cahn_hilliard, ("u",), ("epsilon", "mobility")
    ),
    Equation(
        "-div(nu grad u) = beta", _darcy, ("u",), ("beta",), ends=_darcy_ends, is_steady=True,
        caveat="a quarter of PDEBench's published solutions is not converged (residual about 0.1)",
    ),
)  # fmt: skip
