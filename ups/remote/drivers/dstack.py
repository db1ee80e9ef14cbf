"""dstack: machines rented from Vast.ai, Vultr and the other clouds that it knows.

A job is a dstack task whose run name is the job's id. dstack finds a machine under the price,
makes it, starts the job, makes another one after an interruption, and gives it back when the job
ends. Needs the extra `remote` and a server (`ups remote setup`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ups.errors import RemoteError
from ups.remote.driver import Handle, Machine, Offer, Plan, Status, wait_by_asking
from ups.remote.drivers import dstack_answers as answers
from ups.remote.drivers import dstack_audit as audit
from ups.remote.drivers import dstack_calls as calls
from ups.remote.drivers import dstack_task as task
from ups.remote.drivers.dstack_client import (
    ApplyRunPlanInput,
    Client,
    Run,
    bundle_archive,
    connect,
    translated,
)
from ups.remote.drivers.dstack_server import Server, ensure_server
from ups.remote.spec import JobSpec

_MAX_OFFERS = 200
_POLL_S = 2.0
_GONE_S = 10 * 60


class DstackDriver:
    """One server's project.

    Args:
        server: None for the user's own server or ours, which is started where it does not run.
        poll_s: Between two questions while something is waited for.
    """

    name = "dstack"
    is_paid = True

    def __init__(self, server: Server | None = None, *, poll_s: float = _POLL_S) -> None:
        self._server = server
        self._poll_s = poll_s

    def offers(self, spec: JobSpec) -> list[Offer]:
        """Machines that fit, cheapest first, price limit or not."""
        with self._client() as (client, project), translated("asking for offers"):
            return self._all_offers(client, project, spec)

    def plan(self, spec: JobSpec) -> Plan:
        """What would be submitted; changes nothing.

        Raises:
            UsageError: No price or no time limit.
        """
        content = task.configuration(spec)
        with self._client() as (client, project), translated("planning"):
            everything = self._all_offers(client, project, spec)
            planned = client.runs.get_plan(
                project, calls.run_spec(spec, content), max_offers=_MAX_OFFERS
            )
            fleets = {fleet.name for fleet in client.fleets.list(project)}
        offers = answers.offers_of(planned)
        warnings = calls.warnings(offers, spec, everything, set(content["fleets"]) <= fleets)
        return Plan(task.rendered(content), offers, answers.cheapest_of(everything), warnings)

    def launch(self, spec: JobSpec, bundle: Path, secrets: Mapping[str, str]) -> Handle:
        """Submit the job; a second call for the same id returns the first one's handle.

        Values of secrets go to the server, which keeps them encrypted until the job has ended.

        Raises:
            UsageError: No price or no time limit.
            RemoteError: No machine is offered under the price, or the server refuses.
        """
        task.configuration(spec)
        missing = [name for name in spec.secrets if not secrets.get(name)]
        if missing:
            raise RemoteError(f"no value for {', '.join(missing)}", hint=f"export {missing[0]}=...")
        if (handle := self.find(spec.id)) is not None:
            return handle
        self._refuse_without_offers(spec)
        with self._client() as (client, project):
            with translated("handing over secrets"):
                for name in spec.secrets:
                    key = task.secret_name(spec.id, name)
                    client.secrets.create_or_update(project, key, secrets[name])
            try:
                run = self._submit(client, project, spec, bundle)
            except RemoteError:
                if (handle := self.find(spec.id)) is not None:
                    return handle  # another launch of the same job was faster
                calls.forget_secrets(client, project, spec.id)
                raise
        return _handle(run, project)

    def find(self, job_id: str) -> Handle | None:
        """A job that was submitted, found by its id alone."""
        with self._client() as (client, project):
            run = calls.get_run(client, project, job_id)
        return None if run is None else _handle(run, project)

    def status(self, handle: Handle) -> Status:
        with self._client() as (client, project):
            run = calls.get_run(client, project, handle["run"])
            if run is None:
                return Status("unknown", reason="the dstack server does not know this job")
            found = answers.status_of(run)
            if found.has_ended:
                calls.forget_secrets(client, project, handle["run"])
        return found

    def logs(self, handle: Handle, *, follow: bool = False) -> Iterator[str]:
        """Lines of the job's output from its beginning, over all its machines."""
        with self._client() as (client, project):
            done: set[str] = set()
            while True:
                run = calls.get_run(client, project, handle["run"])
                if run is None:
                    return
                submissions = run.jobs[0].job_submissions if run.jobs else []
                for submission in submissions:
                    if str(submission.id) not in done:
                        yield from self._lines(
                            client, project, handle["run"], submission.id, follow
                        )
                        done.add(str(submission.id))
                if not follow or run.status.is_finished():
                    return
                time.sleep(self._poll_s)

    def wait(self, handle: Handle, *, timeout_s: float | int | None = None) -> Status:
        """Return when the job has ended, or after `timeout_s` with what is known then."""
        return wait_by_asking(lambda: self.status(handle), poll_s=self._poll_s, timeout_s=timeout_s)

    def stop(self, handle: Handle) -> None:
        """End the job, with half a minute for its checkpoint, and see its machine go.

        Raises:
            RemoteError: The machine is still there after ten minutes.
        """
        with self._client() as (client, project):
            run = calls.get_run(client, project, handle["run"])
            if run is not None and not run.status.is_finished():
                with translated("stopping"):
                    client.runs.stop(project, [handle["run"]], abort=False)
                run = self._until_finished(client, project, handle["run"], task.GRACE_S + 30)
                if run is not None and not run.status.is_finished():
                    with translated("aborting"):
                        client.runs.stop(project, [handle["run"]], abort=True)
                    run = self._until_finished(client, project, handle["run"], _GONE_S)
            if run is not None and run.status.is_finished():
                calls.forget_secrets(client, project, handle["run"])
            self._until_gone(client, project, handle["run"])

    def machines(self) -> list[Machine]:
        """Every machine that dstack has, and those that Vast.ai and Vultr bill besides."""
        with self._client() as (client, project):
            known = calls.machines(client, project)
            return known + audit.strays(client, project, known)

    def remove(self, machine: Machine) -> None:
        """Stop the job that is on it, and give the machine back."""
        if "cloud_id" in machine.details:
            with self._client() as (client, project):
                audit.give_back(client, project, machine)
            return
        if machine.job:
            self.stop({"engine": self.name, "run": machine.job})
        fleet, number = machine.details["fleet"], int(machine.details["number"])
        with self._client() as (client, project):

            def is_gone() -> bool:
                return all(each.name != machine.name for each in calls.machines(client, project))

            if not is_gone():
                with translated(f"removing {machine.name}"):
                    client.fleets.delete_instances(project, fleet, [number])
                self._until(is_gone, f"{machine.name} is still there")

    @contextmanager
    def _client(self) -> Iterator[tuple[Client, str]]:
        """A client of a server that runs, and its project.

        Asked for anew each time: a server that was killed meanwhile is started again.
        """
        server = self._server or ensure_server()
        with connect(server.url, server.token) as client:
            yield client, server.project

    def _submit(self, client: Client, project: str, spec: JobSpec, bundle: Path) -> Run:
        with translated("sending the bundle"):
            digest, archive = bundle_archive(bundle)
            sent = client.files.upload_archive(digest, archive)
        deadline = int(time.time() + float(spec.max_hours or 0) * 3600)
        content = task.configuration(spec, deadline)
        run_spec = calls.run_spec(spec, content, [{"id": str(sent.id), "path": task.FOLDER}])
        with translated("submitting"):
            return client.runs.apply_plan(project, ApplyRunPlanInput(run_spec=run_spec))

    def _all_offers(self, client: Client, project: str, spec: JobSpec) -> list[Offer]:
        run_spec = calls.run_spec(spec, task.offers_configuration(spec))
        answer = client.runs.get_plan(
            project, run_spec, max_offers=_MAX_OFFERS, for_offers_only=True
        )
        return answers.offers_of(answer)

    def _refuse_without_offers(self, spec: JobSpec) -> None:
        plan = self.plan(spec)
        if not any(offer.available for offer in plan.offers):
            raise RemoteError(f"dstack: {plan.warnings[0]}", hint=calls.remedy(plan, spec))

    def _lines(
        self, client: Client, project: str, run: str, submission: Any, follow: bool
    ) -> Iterator[str]:
        """Lines of one submission; with `follow` until it has ended."""
        seen, rest = 0, ""
        while True:
            ended = not follow or calls.has_ended(calls.get_run(client, project, run), submission)
            pieces = calls.log_text(client, project, run, submission)
            text = rest + "".join(pieces[seen:])
            seen = len(pieces)
            *lines, rest = text.replace("\r\n", "\n").split("\n")
            yield from lines
            if ended:
                if rest:
                    yield rest
                return
            time.sleep(self._poll_s)

    def _until_finished(
        self, client: Client, project: str, run_name: str, limit_s: float | int
    ) -> Run | None:
        end = time.monotonic() + limit_s
        while True:
            run = calls.get_run(client, project, run_name)
            if run is None or run.status.is_finished() or time.monotonic() > end:
                return run
            time.sleep(self._poll_s)

    def _until_gone(self, client: Client, project: str, job: str) -> None:
        def is_gone() -> bool:
            return all(machine.job != job for machine in calls.machines(client, project))

        self._until(is_gone, f"{job}: its machine is still there")

    def _until(self, is_true: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + _GONE_S
        while not is_true():
            if time.monotonic() > end:
                raise RemoteError(f"dstack: {otherwise}", hint="ups remote doctor")
            time.sleep(self._poll_s)


def _handle(run: Run, project: str) -> Handle:
    return {
        "engine": "dstack",
        "run": run.run_spec.run_name,
        "run_id": str(run.id),
        "project": project,
    }
