"""The batch script of a job, and what sbatch is asked for.

Slurm starts the script again after a requeue, so it keeps account in files of the job's folder,
which is on a disk that all nodes see:

    number      Slurm's number of the job          attempts   how often it was started
    used_s      seconds of earlier attempts        stop       the user wants it to end
    ending      why it is being ended              exit_code  written last: it will not start again
    secrets     one half of the secrets, see `split`
"""

from __future__ import annotations

import math
import re
import secrets as randomness
import shlex
from collections.abc import Mapping, Sequence

from ups.errors import UsageError, did_you_mean
from ups.remote.drivers.ssh_host import OPTIONS as CONNECTION
from ups.remote.spec import EXIT_PREFLIGHT, EXIT_STOPPED, EXIT_TIME_LIMIT, JobSpec

KEY = "UPS_REMOTE_KEY"
"""Environment variable that holds the other half of the secrets."""
KEPT = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "SLURM_CONF", "USER")
"""Of the login environment, the job gets no more than these; a profile may add to them."""
OPTIONS = (
    "account", "constraint", "folder", "gres", "mem", "partition", "qos", "reservation", "setup",
    "time", *CONNECTION,
)  # fmt: skip
FOLDER = "~/.ups/jobs"
LOG = "log.txt"
INDEX = "@INDEX@"
GRACE_S = 120
_WARNING_S = 150
_MARGIN_S = 300
"""Between the job's own limit and Slurm's, where the partition allows it."""
_LEAST_S = 240
"""With less of the job's time left, starting once more is not worth it."""
_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@%+=&|~\-]+")
_PASSED_ON = ("account", "constraint", "mem", "qos", "reservation")

_SCRIPT = r"""
cd @FOLDER@ || exit @PREFLIGHT@
echo "$SLURM_JOB_ID" >number
attempt=$(($(cat attempts 2>/dev/null || echo 0) + 1)) used=$(cat used_s 2>/dev/null || echo 0)
echo "$attempt" >attempts
left=$((@LIMIT@ - used))
rm -f ending
ask= child=

end() { # exit code: the job is over, and nothing of its secrets stays
    rm -f secrets
    echo $((used + SECONDS)) >used_s
    echo "$1" >.exit_code && mv .exit_code exit_code
    exit "$1"
}
again() { # the job goes back to the queue, if there is time left to work
    [ $((left - SECONDS)) -lt @LEAST@ ] && end @TIME_LIMIT@
    echo $((used + SECONDS)) >used_s
    echo "ups: attempt $attempt has ended ($1), the job goes back to the queue"
    scontrol requeue "$SLURM_JOB_ID" && exit 0
    echo "error: Slurm does not take the job back: requeueing may be forbidden here" >&2
    end 8
}
tell() { # signal, reason
    ask="$1" asked=$SECONDS
    echo "$2" >ending
    [ -n "$child" ] && kill -"$1" "$child" 2>/dev/null
}
trap 'tell USR1 "end of the allocation"' USR1
why_now() {
    if [ $SECONDS -ge $((left - 5)) ]; then echo "time limit"
    elif [ $SECONDS -ge @ALLOCATED@ ]; then echo "end of the allocation"
    else echo terminated; fi
}
trap 'tell TERM "$(why_now)"' TERM
combine() { # two halves, hexadecimal
    local octet all= i
    for ((i = 0; i < ${#1}; i += 2)); do
        printf -v octet '\\x%02x' $((16#${1:i:2} ^ 16#${2:i:2}))
        all+="$octet"
    done
    printf %b "$all"
}

[ -f stop ] && end @STOPPED@
[ "$left" -le 0 ] && end @TIME_LIMIT@
@SETUP@
@ENVIRONMENT@
export UPS_REMOTE_DEADLINE=$(($(date +%s) + left))
if [ @HAS_SECRETS@ = 1 ]; then
    if [ ! -s secrets ] || [ -z "${@KEY@:-}" ]; then
        echo "error: the job's secrets are gone" >&2
        end @PREFLIGHT@
    fi
    eval "$(combine "$(<secrets)" "$@KEY@")"
fi
unset @KEY@ SLURM_EXPORT_ENV
bash run.sh </dev/null &
child=$!
[ -n "$ask" ] && kill -"$ask" "$child"
while kill -0 "$child" 2>/dev/null; do
    sleep 1 &
    wait $!
    if [ $((SECONDS % 30)) = 0 ]; then echo $((used + SECONDS)) >used_s; fi
    if [ -z "$ask" ] && [ $SECONDS -ge "$left" ]; then tell TERM "time limit"; fi
    if [ -n "$ask" ] && [ $SECONDS -ge $((asked + @GRACE@)) ]; then kill -KILL "$child"; fi
done
wait "$child"
code=$?
why=$(cat ending 2>/dev/null)
[ -f stop ] && end "$code"
case "$code:$why" in
    *:"time limit") [ "$code" = 0 ] && end 0; end @TIME_LIMIT@ ;;
    8:"end of the allocation" | 143:"end of the allocation" | 138:*) again "$why" ;;
    8:terminated | 143:terminated) echo $((used + SECONDS)) >used_s; exit 8 ;;
    8:*) [ "$attempt" -le @RETRIES@ ] && again "interrupted" ;;
esac
end "$code"
"""

_NODES_SCRIPT = r"""#!/bin/bash
# Written by ups. Runs a command on all nodes; a request to end reaches it as SIGUSR1, because
# srun kills its tasks at once when it is itself told to end.
srun @FLAGS@ "$@" &
child=$!
trap 'kill -USR1 "$child"' TERM USR1
while :; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || exit "$code"
done
"""
NODES = "nodes.sh"


def render(spec: JobSpec, folder: str, gres: str | None, limit_s: int | None) -> str:
    """The batch script; no secret is in it.

    Args:
        folder: The job's, absolute, on the disk that all nodes see.
        gres: What Slurm calls the GPUs of one node, `gpu:a100:2`; None without GPUs.
        limit_s: The longest that the partition allows; None where it sets no limit.
    Raises:
        UsageError: An option that this engine does not have, or a value with odd characters.
    """
    check_options(spec.options)
    total = math.ceil(spec.max_hours * 3600) if spec.max_hours else None
    allocated = _allocated_s(spec, total, limit_s)
    exported = [f"export {name}={shlex.quote(text)}" for name, text in spec.environment.items()]
    if spec.nodes > 1:
        exported.append(f"export UPS_REMOTE_LAUNCHER={shlex.quote(f'bash {folder}/{NODES}')}")
    values = {
        "@FOLDER@": shlex.quote(folder),
        "@SETUP@": spec.options.get("setup", ""),
        "@ENVIRONMENT@": "\n".join(exported),
        "@LIMIT@": str(total or 10**9),
        "@ALLOCATED@": str(max(0, (allocated or 10**9) - 5)),
        "@HAS_SECRETS@": "1" if spec.secrets else "0",
        "@KEY@": KEY,
        "@GRACE@": str(GRACE_S),
        "@LEAST@": str(_LEAST_S),
        "@RETRIES@": str(spec.retries),
        "@PREFLIGHT@": str(EXIT_PREFLIGHT),
        "@STOPPED@": str(EXIT_STOPPED),
        "@TIME_LIMIT@": str(EXIT_TIME_LIMIT),
    }
    text = _SCRIPT
    for mark, value in values.items():
        text = text.replace(mark, value)
    asked = "\n".join(f"#SBATCH {line}" for line in _directives(spec, folder, gres, allocated))
    return f"#!/bin/bash\n{asked}\n# Written by ups.{text}"


def render_nodes(spec: JobSpec) -> str:
    """What stands before the training on several nodes: one task for each of its processes.

    `ups train` finds its place among them by Slurm's own variables and meets on the first node.
    """
    tasks = spec.task.nproc
    flags = [f"--nodes={spec.nodes}", f"--ntasks={spec.nodes * tasks}",
             f"--ntasks-per-node={tasks}", f"--cpus-per-task={_cpus(spec)}", "--export=ALL",
             "--kill-on-bad-exit=1"]  # fmt: skip
    return _NODES_SCRIPT.replace("@FLAGS@", " ".join(flags))


def render_array(
    name: str,
    command: Sequence[str],
    count: int | None,
    *,
    log: str,
    asked: Mapping[str, str],
    at_once: int | None = None,
    after: str | None = None,
    done: str | None = None,
) -> str:
    """A script for `count` like jobs; `INDEX` in its words is each one's number.

    Args:
        count: None for a single job without a number.
        log: File of their output; `%a` in it is the number.
        asked: Of sbatch: partition, cpus-per-task, mem, time, ...
        at_once: How many may run together.
        after: Number of a job that must end well first. The job is removed if it does not.
        done: File that is made when the command has ended well.
    Raises:
        UsageError: A value with odd characters.
    """
    lines = [f"--job-name={name}", "--comment=ups-array", "--requeue", "--open-mode=append",
             f"--output={log}", *(f"--{key}={value}" for key, value in asked.items())]  # fmt: skip
    if count is not None:
        lines.append(f"--array=1-{count}" + (f"%{at_once}" if at_once else ""))
    if after:
        lines += [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"]
    for line in lines:
        _check("sbatch", line)
    text = " ".join(
        "$SLURM_ARRAY_TASK_ID".join(shlex.quote(part) if part else "" for part in word.split(INDEX))
        if INDEX in word
        else shlex.quote(word)
        for word in command
    )
    if done:
        text += f" && touch {shlex.quote(done)}"
    asked_for = "\n".join(f"#SBATCH {line}" for line in lines)
    return f"#!/bin/bash\n{asked_for}\n# Written by ups.\nunset SLURM_EXPORT_ENV\n{text}\n"


def split(values: Mapping[str, str]) -> tuple[str, str]:
    """Two halves of some secrets, hexadecimal; each alone is noise.

    A job that Slurm may start again needs its secrets as long as it lives, and neither a file on a
    shared disk nor the environment that slurmctld keeps in its state files should hold them. So
    the one half goes there and the other half here; with one of them deleted, the other is noise.
    """
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
    plain = text.encode()
    pad = randomness.token_bytes(len(plain))
    return pad.hex(), bytes(a ^ b for a, b in zip(plain, pad, strict=True)).hex()


def check_options(options: Mapping[str, str]) -> None:
    """Raise `UsageError` for an option that Slurm's engine does not have, or an odd value."""
    for option, value in options.items():
        if option not in OPTIONS:
            raise UsageError(
                f"slurm: unknown option '{option}'{did_you_mean(option, OPTIONS)}",
                hint=f"options: {', '.join(OPTIONS)}",
            )
        if option == "setup":
            if not value.isprintable():
                raise UsageError("slurm: option setup: one line of shell, please")
        else:
            _check(f"option {option}", value)


def _check(what: str, value: str) -> None:
    if not _PLAIN.fullmatch(value):
        raise UsageError(f"slurm: {what}: {value!r} has characters that Slurm would misread")


def _allocated_s(spec: JobSpec, total: int | None, limit_s: int | None) -> int | None:
    """Of one attempt: the shortest of what the user, the job and the partition allow."""
    wanted = [total and total + _MARGIN_S, limit_s]
    if given := spec.options.get("time"):
        wanted.append(duration_s(given))
    return min((each for each in wanted if each is not None), default=None)


def duration_s(text: str) -> int | None:
    """Slurm's `days-hours:minutes:seconds`, `hours:minutes:seconds`, `minutes`; None unlimited.

    Raises:
        UsageError: It is none of these.
    """
    if text.lower() in ("infinite", "unlimited", "n/a"):
        return None
    days, dash, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        found = int(days or 0) * 86400
    except ValueError:
        raise UsageError(f"slurm: {text!r} is no time: use hours:minutes:seconds") from None
    scales = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1, 0)
    return found + sum(part * scale for part, scale in zip(parts, scales, strict=False))


def _directives(spec: JobSpec, folder: str, gres: str | None, allocated: int | None) -> list[str]:
    tasks = spec.task.nproc if spec.nodes > 1 else 1
    lines = [f"--job-name={spec.id}", f"--comment=ups:{spec.project}", f"--chdir={folder}",
             f"--output={folder}/{LOG}", "--open-mode=append", "--requeue",
             f"--signal=B:USR1@{_WARNING_S}", f"--nodes={spec.nodes}",
             f"--ntasks-per-node={tasks}", f"--cpus-per-task={_cpus(spec)}"]  # fmt: skip
    if gres:
        lines.append(f"--gres={gres}")
    if allocated is not None:
        lines.append(f"--time={max(1, math.ceil(allocated / 60))}")
    if partition := spec.options.get("partition"):
        lines.append(f"--partition={partition}")
    lines += [f"--{each}={spec.options[each]}" for each in _PASSED_ON if each in spec.options]
    for line in lines:
        _check("sbatch", line)
    return lines


def _cpus(spec: JobSpec) -> int:
    """Of one task."""
    return max(1, (spec.cpus or 1) // (spec.task.nproc if spec.nodes > 1 else 1))
