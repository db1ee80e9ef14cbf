"""What a launch would do and cost, before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ups.config.schema import Experiment
from ups.errors import RemoteError, UpsError, UsageError
from ups.remote.driver import Driver, Offer, Plan
from ups.remote.estimates import Estimate, estimate, known_speeds
from ups.remote.needs import Transfer, transfers
from ups.remote.spec import JobSpec
from ups.transfer.remotes import Remote


@dataclass(frozen=True)
class Outlook:
    """What is known before a launch; nothing has been changed.

    Attributes:
        transfers: Empty where the remote did not answer; then a warning says so.
        warnings: One line each, of the engine, the remote and the data.
    """

    spec: JobSpec
    plan: Plan
    estimate: Estimate
    transfers: Sequence[Transfer]
    warnings: Sequence[str]

    @property
    def offer(self) -> Offer | None:
        """The machine that would be taken."""
        return next((one for one in self.plan.offers if one.available), None)

    @property
    def likely_cost(self) -> float | None:
        """US dollars: the estimated hours at the price of the offer."""
        hours, offer = self.estimate.hours, self.offer
        if hours is None or offer is None:
            return None
        return hours * offer.price * self.spec.nodes

    def to_dict(self) -> dict[str, Any]:
        """Plain values without secrets, for the record and for --json."""
        offer = self.offer
        return {
            "price": None if offer is None else offer.price,
            "hours": self.estimate.hours,
            "hours_quality": self.estimate.quality,
            "hours_source": self.estimate.sources,
            "likely_cost": self.likely_cost,
            "worst_cost": self.spec.worst_cost,
        }


def check_limits(spec: JobSpec, driver: Driver) -> None:
    """Refuse to spend money without a price and a time limit.

    Raises:
        UsageError: Names the option that is missing.
    """
    if not driver.is_paid:
        return
    missing = [
        option for option, value in
        (("--max-price", spec.max_price), ("--max-hours", spec.max_hours)) if value is None
    ]  # fmt: skip
    if missing:
        raise UsageError(
            f"{spec.engine} rents machines: {' and '.join(missing)} must be given",
            hint="ups remote launch ... --max-price 1.5 --max-hours 6 (dollars an hour of one "
            "machine, hours)",
        )


def look_ahead(spec: JobSpec, experiment: Experiment, driver: Driver, remote: Remote) -> Outlook:
    """Ask engine, remote and earlier runs, all at once; changes nothing.

    Raises:
        UsageError: A paid engine, and no price or time limit.
        RemoteError: The engine does not answer. A remote that does not is a warning.
    """
    check_limits(spec, driver)
    with ThreadPoolExecutor(3) as pool:
        planning = pool.submit(driver.plan, spec)
        listing = pool.submit(transfers, spec, experiment, remote)
        measured = pool.submit(known_speeds, experiment.name, remote)
        plan = planning.result()
        travels, problem = _or_problem(listing)
        hours = estimate(experiment, spec.task.stages, spec.gpu, measured.result())
    warnings = [*plan.warnings, *problem, *(one.problem for one in travels if one.problem)]
    return Outlook(spec, plan, hours, travels, warnings)


def check_offer(outlook: Outlook) -> None:
    """Refuse a launch for which there is no machine.

    Raises:
        RemoteError: Names the cheapest machine that there is.
    """
    if outlook.offer is not None:
        return
    spec, cheapest = outlook.spec, outlook.plan.cheapest
    limit = spec.max_price
    if cheapest is None or limit is None or cheapest.price <= limit:
        reason = next(iter(outlook.plan.warnings), f"no machine with {spec.gpu}")
        hint = f"ups remote offers --gpu '{spec.gpu}'"
        raise RemoteError(f"{spec.engine}: {reason}", hint=hint)
    raise RemoteError(
        f"{spec.engine}: no machine with {spec.gpu} under ${limit:g}/h; the cheapest is "
        f"${cheapest.price:.2f}/h ({cheapest.gpu or 'no GPU'}, {cheapest.backend} "
        f"{cheapest.region})",
        hint=f"--max-price {1.05 * cheapest.price:.2f}",
    )


def _or_problem(listing: Future[list[Transfer]]) -> tuple[list[Transfer], list[str]]:
    try:
        return listing.result(), []
    except UpsError as error:
        return [], [f"what has to be fetched is not known: {error}"]
