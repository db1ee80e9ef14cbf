"""Slurm: a job is one batch job whose name is the job's id.

Works without an accounting database and survives a client that is lost at any point: what Slurm
forgets after some minutes, files in the job's folder remember. docs/remote-slurm.md is for users.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ups.errors import RemoteError, UsageError
from ups.remote.driver import Handle, Machine, Offer, Plan, Status, wait_by_asking
from ups.remote.drivers import slurm_answers as answers
from ups.remote.drivers import slurm_script as script
from ups.remote.drivers.slurm_login import Answer, Login
from ups.remote.spec import JobSpec

_POLL_S = 2.0
_CHUNK = 4 * 2**20
_FORGOTTEN = "Invalid job id"
_KEPT = ("exit_code", "stop", "used_s", "attempts", "ending", "number")

_FIND = (
    'number=$(squeue -h -u "$(id -un)" -n "$2" -o %A) || exit 1; '
    'if [ -z "$number" ] && [ -s "$1/number" ]; then number=$(cat "$1/number"); fi; '
    'printf %s "$number" | head -n 1'
)
# One client at a time, where the disk knows locks; a job that is there is not submitted again.
_SUBMIT = f"""
cd "$1" || exit 1
umask 077
IFS= read -r half
IFS= read -r {script.KEY}
exec 9>.lock
flock -w 60 9 2>/dev/null
number=$({{ {_FIND}; }}) || exit 1
if [ -z "$number" ]; then
    if [ -n "$half" ]; then printf %s "$half" >secrets; fi
    export {script.KEY}
    number=$(sbatch --parsable --export="$3" job.sh) || {{ rm -f secrets; exit 1; }}
    number=${{number%%;*}}
    echo "$number" >number
fi
echo "$number"
"""
_STATUS = """
if cd "$1" 2>/dev/null; then
    echo "folder here"
    for name in @KEPT@; do if [ -f "$name" ]; then echo "$name $(head -n 1 "$name")"; fi; done
fi
echo
scontrol show job -o "$2"
""".replace("@KEPT@", " ".join(_KEPT))
_STOP = """
if cd "$1" 2>/dev/null; then : >stop; fi
case "$(squeue -h -j "$2" -o %T 2>/dev/null)" in
    RUNNING) scancel --batch --signal=TERM "$2" ;;
    *) scancel "$2" ;;
esac
"""
_LOGS = 'tail -c "+$2" "$1" 2>/dev/null | head -c "$3"; true'


class SlurmDriver:
    """One cluster.

    Args:
        options: `host`, `user`, `port`, `identity` of the login node, none for this machine;
            `folder` for the folders of jobs, on a disk that all nodes see.
        poll_s: Between two questions while something is waited for.
    """

    name = "slurm"
    is_paid = False

    def __init__(
        self, options: Mapping[str, str] | None = None, *, poll_s: float = _POLL_S
    ) -> None:
        given = dict(options or {})
        script.check_options(given)
        self._login = Login.of(given)
        self._folder = given.get("folder", script.FOLDER)
        self._poll_s = poll_s

    def offers(self, spec: JobSpec) -> list[Offer]:
        """Kinds of nodes that fit, those that are free first."""
        return [each.offer() for each in answers.choose(self._nodes(), spec)]

    def plan(self, spec: JobSpec) -> Plan:
        """The batch script; changes nothing.

        Raises:
            UsageError: An option that this engine does not have.
        """
        nodes = self._nodes()
        fitting = answers.choose(nodes, spec)
        offers = [each.offer() for each in fitting]
        warnings = [] if fitting else [_nothing_fits(spec, nodes)]
        if fitting and fitting[0].usable < spec.nodes:
            warnings.append(f"partition {fitting[0].partition}: no node is free, the job will wait")
        if "mem" not in spec.options:
            warnings.append("no --option mem=...: the job gets the cluster's default memory")
        return Plan(self._rendered(spec, fitting), offers, offers[0] if offers else None, warnings)

    def launch(self, spec: JobSpec, bundle: Path, secrets: Mapping[str, str]) -> Handle:
        """Submit the job; a second call for the same id returns the first one's handle.

        Half of the secrets goes into a file of mode 0600, the other into the job's environment.

        Raises:
            UsageError: An option that this engine does not have.
            RemoteError: No node fits, a secret has no value, or Slurm refuses.
        """
        missing = [name for name in spec.secrets if not secrets.get(name)]
        if missing:
            raise RemoteError(f"no value for {', '.join(missing)}", hint=f"export {missing[0]}=...")
        if (handle := self.find(spec.id)) is not None:
            return handle
        nodes = self._nodes()
        fitting = answers.choose(nodes, spec)
        if not fitting:
            raise RemoteError(_nothing_fits(spec, nodes), hint=f"sinfo on {self._login.where}")
        extra = {"job.sh": self._rendered(spec, fitting).encode()}
        if spec.nodes > 1:
            extra[script.NODES] = script.render_nodes(spec).encode()
        folder = self._job_folder(spec.id)
        self._login.send(bundle, folder, extra)
        halves = script.split({name: secrets[name] for name in spec.secrets})
        exported = ",".join((*script.KEPT, script.KEY))
        answer = self._login.run(
            _SUBMIT, [folder, spec.id, exported], given="".join(f"{h}\n" for h in halves).encode()
        )
        number = answer.text.strip()
        if answer.code or not number.isdecimal():
            raise self._refused("the job was not taken", answer)
        return self._handle(spec.id, number)

    def find(self, job_id: str) -> Handle | None:
        """A job that was submitted, found by its id alone."""
        answer = self._login.run(_FIND, [self._job_folder(job_id), job_id])
        if answer.code:
            raise self._refused("squeue", answer)
        number = answer.text.strip()
        return self._handle(job_id, number) if number else None

    def status(self, handle: Handle) -> Status:
        """By Slurm while it remembers the job, and by the job's own files afterwards."""
        answer = self._login.run(_STATUS, [str(handle["folder"]), str(handle["number"])])
        files, _, told = answer.text.partition("\n\n" if answer.text[:1] != "\n" else "\n")
        lines = [line.partition(" ") for line in files.splitlines()]
        kept = {name: value for name, _, value in lines}
        job = answers.fields_of(told)
        if job.get("JobName", handle["job"]) != handle["job"]:
            job = {}  # Slurm counts from the beginning again after a new installation
        if not job and answer.code and _FORGOTTEN not in answer.err and "exit_code" not in kept:
            raise self._refused("scontrol", answer)
        found = answers.status_of(kept, job)
        if found.has_ended:
            self._login.run('rm -f "$1/secrets"', [str(handle["folder"])])
        return found

    def logs(self, handle: Handle, *, follow: bool = False) -> Iterator[str]:
        """Lines of the job's output from its beginning, over all its attempts."""
        path, at, rest = f"{handle['folder']}/{script.LOG}", 1, b""
        while True:
            has_ended = not follow or self.status(handle).has_ended
            while more := self._login.run(_LOGS, [path, str(at), str(_CHUNK)]).out:
                at += len(more)
                *lines, rest = (rest + more).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if has_ended:
                if rest:
                    yield rest.decode(errors="replace")
                return
            time.sleep(self._poll_s)

    def wait(self, handle: Handle, *, timeout_s: float | None = None) -> Status:
        """Return when the job has ended, or after `timeout_s` with what is known then."""
        return wait_by_asking(lambda: self.status(handle), poll_s=self._poll_s, timeout_s=timeout_s)

    def stop(self, handle: Handle) -> None:
        """End the job: it has two minutes for its checkpoint and push, then it is killed.

        Raises:
            RemoteError: Slurm still has it after that.
        """
        if self.status(handle).has_ended:
            return
        where = [str(handle["folder"]), str(handle["number"])]
        self._login.run(_STOP, where)
        if self.wait(handle, timeout_s=script.GRACE_S + 20.0).has_ended:
            return
        self._login.run('scancel "$1"', where[1:])
        if not self.wait(handle, timeout_s=float(script.GRACE_S)).has_ended:
            raise RemoteError(
                f"Slurm's job {where[1]} does not end", hint=f"scontrol show job {where[1]}"
            )

    def machines(self) -> list[Machine]:
        """Our jobs in the queue, waiting or running, known here or not."""
        answer = self._login.run(answers.QUEUE)
        if answer.code:
            raise self._refused("squeue", answer)
        return answers.machines_of(answer.text)

    def remove(self, machine: Machine) -> None:
        """Cancel one of Slurm's jobs at once, without time for a checkpoint."""
        folder = self._job_folder(machine.job) if machine.job else ""
        mark = 'if [ -n "$2" ] && cd "$2" 2>/dev/null; then : >stop; rm -f secrets; fi; '
        answer = self._login.run(f'{mark}scancel "$1"', [machine.name, folder])
        if answer.code:
            raise self._refused("scancel", answer)
        end = time.monotonic() + script.GRACE_S
        while any(each.name == machine.name for each in self.machines()):
            if time.monotonic() > end:
                raise RemoteError(
                    f"Slurm's job {machine.name} is still there",
                    hint=f"scontrol show job {machine.name}",
                )
            time.sleep(self._poll_s)

    def _nodes(self) -> list[answers.Nodes]:
        answer = self._login.run(answers.PARTITIONS)
        if answer.code:
            raise self._refused("sinfo", answer)
        return answers.nodes_of(answer.text)

    def _rendered(self, spec: JobSpec, fitting: list[answers.Nodes]) -> str:
        best = fitting[0] if fitting else None
        options = dict(spec.options)
        if best is not None:
            options.setdefault("partition", best.partition)
        gres = options.get("gres")
        if gres is None and not spec.gpu.is_any:
            kind = best.gres if best is not None else f"gpu:{(spec.gpu.name or '').lower()}"
            gres = f"{kind.rstrip(':')}:{spec.gpu.count}"
        chosen = spec.model_copy(update={"options": options})
        limit = best.limit_s if best is not None else None
        return script.render(chosen, self._job_folder(spec.id), gres, limit)

    def _job_folder(self, job_id: str) -> str:
        if self._folder.startswith("~/"):
            answer = self._login.run('printf %s "$HOME"')
            self._folder = f"{answer.text.strip()}/{self._folder[2:]}"
        if not self._folder.startswith("/"):
            raise UsageError(f"slurm: option folder: {self._folder} is not absolute")
        return f"{self._folder.rstrip('/')}/{job_id}"

    def _handle(self, job_id: str, number: str) -> Handle:
        return {"engine": "slurm", "job": job_id, "number": number, "where": self._login.where,
                "folder": self._job_folder(job_id)}  # fmt: skip

    def _refused(self, what: str, answer: Answer) -> RemoteError:
        return RemoteError(
            f"Slurm on {self._login.where}: {what}: {answer.complaint}",
            hint="sinfo and squeue there say more",
        )


def _nothing_fits(spec: JobSpec, nodes: list[answers.Nodes]) -> str:
    kinds = sorted({f"{n.gpu or 'gpu'}:{n.gpus} in {n.partition}" for n in nodes if n.gpus})
    partition = spec.options.get("partition")
    if partition and all(each.partition != partition for each in nodes):
        names = ", ".join(sorted({each.partition for each in nodes})) or "none"
        return f"no partition {partition}; there are: {names}"
    return (
        f"no {spec.nodes} nodes with {spec.gpu}" if spec.nodes > 1 else f"no node with {spec.gpu}"
    ) + f"; there are: {', '.join(kinds) or 'no GPUs'}"
