"""Which solver makes which dataset. Each is imported when it is asked for."""

from __future__ import annotations

from ups.data.generate.base import PointSolver, Solver
from ups.registry import GeneratorKind


def grid_solver(kind: GeneratorKind) -> Solver:
    """The solver of a dataset on a grid.

    Raises:
        ValueError: `kind` is not on a grid, or unknown.
    """
    match kind:
        case "advection1d":
            from ups.data.generate import advection1d

            return advection1d.solve
        case "burgers1d":
            from ups.data.generate import burgers1d

            return burgers1d.solve
        case "reaction_diffusion1d":
            from ups.data.generate import reaction_diffusion1d

            return reaction_diffusion1d.solve
        case "diffusion_sorption1d":
            from ups.data.generate import diffusion_sorption1d

            return diffusion_sorption1d.solve
        case "reaction_diffusion2d":
            from ups.data.generate import reaction_diffusion2d

            return reaction_diffusion2d.solve
        case "shallow_water2d":
            from ups.data.generate import shallow_water2d

            return shallow_water2d.solve
        case "darcy2d":
            from ups.data.generate import darcy2d

            return darcy2d.solve
        case "allen_cahn2d":
            from ups.data.generate import allen_cahn2d

            return allen_cahn2d.solve
        case "cahn_hilliard2d":
            from ups.data.generate import cahn_hilliard2d

            return cahn_hilliard2d.solve
        case _:
            raise ValueError(f"{kind}: no solver on a grid")


def point_solver(kind: GeneratorKind) -> PointSolver:
    """The solver of a dataset on meshes or of particles.

    Raises:
        ValueError: `kind` is on a grid, or unknown.
    """
    match kind:
        case "darcy2d_mesh":
            from ups.data.generate import darcy2d_mesh

            return darcy2d_mesh.solve
        case "navier_stokes_mesh":
            from ups.data.generate import navier_stokes_mesh

            return navier_stokes_mesh.solve
        case "particles_advect":
            from ups.data.generate import particles_advect

            return particles_advect.solve
        case "granular_contacts":
            from ups.data.generate import granular_contacts

            return granular_contacts.solve
        case _:
            raise ValueError(f"{kind}: no solver on meshes or of particles")
