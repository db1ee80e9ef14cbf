"""An experiment with its data opened: what every stage is built from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ups import registry
from ups.codec.grid import GridCodec, GridGeometry
from ups.config.schema import Experiment
from ups.data.store import TrajectoryStore
from ups.errors import DataError, UsageError
from ups.models.operator import TokenLayout
from ups.registry import DatasetCard


@dataclass
class Session:
    """An experiment with its data opened and its device chosen.

    Attributes:
        experiment: Resolved: `data.version` is the version that was opened.
    """

    experiment: Experiment
    store: TrajectoryStore
    card: DatasetCard
    device: torch.device


def open_session(experiment: Experiment) -> Session:
    """Open the data of an experiment and write down which version it is.

    Raises:
        DataError: There is no such dataset or version, or it cannot be stepped through.
        UsageError: The device does not exist.
    """
    card = registry.load_card(experiment.data.dataset)
    store = TrajectoryStore.open(experiment.data.dataset, experiment.data.version)
    if store.metadata.dt is None:
        raise DataError(f"{store.name}: one frame only; an operator in time cannot be trained")
    data = experiment.data.model_copy(update={"version": store.metadata.version})
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    resolved = experiment.model_copy(update={"data": data})
    return Session(resolved, store, card, find_device(experiment.device))


def find_device(name: str) -> torch.device:
    """'auto' is the first GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: '{name}' is not a device", hint="cpu, cuda, cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: no CUDA device here", hint="--set device=cpu, or ups doctor")
    return device


def geometry_of(store: TrajectoryStore) -> GridGeometry:
    """Where the store's grid points are."""
    return GridGeometry(
        space=store.space,
        origin=tuple(float(coord[0]) for coord in store.coords),
        spacing=tuple(float((c[-1] - c[0]) / (len(c) - 1)) for c in store.coords),
        periodic=store.metadata.periodic,
        fields=store.metadata.fields,
    )


def normalisation(card: DatasetCard, store: TrajectoryStore) -> tuple[list[float], list[float]]:
    """Shift and scale of each channel, by the card's rule, from the training split."""
    shift, scale = [], []
    for index, field in enumerate(card.fields):
        standard = field.normalisation == "standard"
        shift.append(float(store.statistics["mean"][index]) if standard else 0.0)
        size = float(store.statistics["std" if standard else "rms"][index])
        if size <= 0:
            raise DataError(
                f"{store.name}: field '{field.name}' is constant", hint="ups data audit"
            )
        scale.append(size)
    return shift, scale


def token_layout(session: Session, codec: GridCodec) -> TokenLayout:
    conserved = session.card.pde.conserved
    return TokenLayout(
        anchors=codec.anchors,
        periodic=codec.geometry.periodic,
        num_coefficients=codec.num_coefficients,
        points_per_token=codec.config.patch_size**codec.geometry.num_dims,
        conserved=tuple(name in conserved for name in codec.geometry.fields),
        num_parameters=len(session.card.parameters),
        dt=step_time(session),
    )


def step_time(session: Session) -> float:
    """The time that one operator step advances, in the card's unit."""
    assert session.store.metadata.dt is not None
    return session.store.metadata.dt * session.experiment.data.stride
