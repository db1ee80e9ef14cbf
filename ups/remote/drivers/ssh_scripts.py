"""What the ssh engine runs on a host: bash, with arguments, no secret in any of it.

A job's folder is ~/.ups/jobs/<id>, readable by its user only:

    bundle/     what was sent; the agent's status.json
    started     a folder, made by whoever starts the job: it is started once
    pid         session, start time in ticks, boot id: a number that another process has by now, or
                had before a restart of the machine, is not our job
    log         everything it prints
    stopped     somebody asked it to stop
    exit-code   how it ended
"""

from __future__ import annotations

from ups.remote.spec import EXIT_TIME_LIMIT

_COMMON = r"""
jobs="$HOME/.ups/jobs"
boot() { cat /proc/sys/kernel/random/boot_id; }
fields_of() { # process: its /proc stat from the state on, one word each
    local line
    read -r line 2>/dev/null <"/proc/$1/stat" || return 1
    echo "${line##*) }"
}
start_of() { set -- $(fields_of "$1"); [ "${1:-Z}" != Z ] && echo "${20}"; }
members() { # session: its processes
    local path pid words
    for path in /proc/[0-9]*; do
        pid="${path#/proc/}"
        words=($(fields_of "$pid")) || continue
        if [ "${words[3]:-}" = "$1" ] && [ "${words[0]}" != Z ]; then echo "$pid"; fi
    done
}
is_alive() { # job's folder: whether its session leader runs
    local pid start booted
    read -r pid start booted 2>/dev/null <"$1/pid" || return 1
    [ "$booted" = "$(boot)" ] && [ "$(start_of "$pid")" = "$start" ]
}
"""

SEND = """
umask 077
mkdir -p "$HOME/.ups/jobs/$1/bundle" && tar -xf - -C "$HOME/.ups/jobs/$1/bundle" --no-same-owner
"""

START = (
    _COMMON
    + r"""
umask 077
cd "$jobs/$1" || exit 1
given="$(cat)"
case "$given" in *"# complete") ;; *) echo "the connection broke" >&2; exit 1 ;; esac
mkdir started 2>/dev/null || exit 0
eval "$given"
unset given
if [ -n "$2" ]; then export UPS_REMOTE_DEADLINE=$(($(date +%s) + $2)); fi
setsid bash bundle/keeper.sh </dev/null >log 2>&1 &
for _ in {1..50}; do
    if [ -f pid ]; then exit 0; fi
    sleep 0.1
done
echo "the job did not start: $(tail -n 1 log)" >&2
exit 1
"""
)
"""Arguments: job, seconds until the deadline or nothing. Standard input: exports."""

KEEPER = (
    _COMMON
    + r"""
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
date +%s >began
echo "$$ $(start_of $$) $(boot)" >pid.new && mv pid.new pid
guard=()
if [ -n "${UPS_REMOTE_DEADLINE:-}" ]; then
    guard=(timeout --signal=TERM --kill-after=30 $((UPS_REMOTE_DEADLINE - $(date +%s))))
fi
"${guard[@]}" bash bundle/run.sh &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM
while :; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break
done
trap '' TERM
if [ -n "${UPS_REMOTE_DEADLINE:-}" ] && [ "$(date +%s)" -ge "$UPS_REMOTE_DEADLINE" ]; then
    case "$code" in 124 | 137) code=@TIME_LIMIT@ ;; esac
fi
for pid in $(members $$); do
    if [ "$pid" != $$ ]; then kill -KILL "$pid" 2>/dev/null; fi
done
echo "$code" >exit-code.new && mv exit-code.new exit-code
"""
).replace("@TIME_LIMIT@", str(EXIT_TIME_LIMIT))
"""The session's leader: starts run.sh, passes TERM on, leaves nobody behind, keeps the code."""

STATUS = (
    _COMMON
    + r"""
cd "$jobs/$1" 2>/dev/null && [ -d started ] || { echo "state none"; exit 0; }
echo "state started"
echo "machine $(hostname)"
echo "now $(date +%s)"
if [ -f began ]; then echo "began $(cat began)"; fi
if [ -f stopped ]; then echo "stopped yes"; fi
if is_alive .; then echo "alive yes"; fi
if [ -f exit-code ]; then
    echo "code $(cat exit-code)"
    echo "ended $(stat -c %Y exit-code)"
    echo "error $(grep '^error: ' log | tail -n 1 | cut -c8-)"
fi
if read -r _ _ booted 2>/dev/null <pid && [ "$booted" != "$(boot)" ]; then echo "restarted yes"; fi
if [ -f bundle/status.json ]; then echo "agent $(tr -d '\n' <bundle/status.json)"; fi
"""
)

ASK = (
    _COMMON
    + r"""
cd "$jobs/$1" 2>/dev/null || exit 0
if [ ! -f exit-code ] && is_alive .; then
    touch stopped
    read -r pid _ <pid
    kill -TERM "$pid"
fi
"""
)

KILL = (
    _COMMON
    + r"""
cd "$jobs/$1" 2>/dev/null || exit 0
read -r pid _ booted 2>/dev/null <pid || exit 0
if [ "$booted" = "$(boot)" ] && { is_alive . || [ ! -d "/proc/$pid" ]; }; then
    for each in $(members "$pid"); do kill -KILL "$each" 2>/dev/null; done
fi
if [ ! -f exit-code ]; then echo 137 >exit-code; fi
"""
)

LOG = r"""
cd "$HOME/.ups/jobs/$1" 2>/dev/null || exit 0
read -r pid _ 2>/dev/null <pid || pid=0
if [ "$3" = follow ] && [ ! -f exit-code ]; then
    exec tail -c "+$2" -f -s 0.3 --pid="$pid" log
fi
exec tail -c "+$2" log
"""
"""Arguments: job, first byte from 1 on, `follow` or nothing."""

JOBS = (
    _COMMON
    + r"""
for folder in "$jobs"/*/; do
    folder="${folder%/}"
    if [ -d "$folder/started" ] && [ ! -f "$folder/exit-code" ] && is_alive "$folder"; then
        echo "${folder##*/} $(($(date +%s) - $(cat "$folder/began")))"
    fi
done
"""
)

MACHINE = r"""
echo "name $(hostname)"
echo "cpus $(nproc)"
echo "memory_kb $(awk '/^MemTotal/ {print $2}' /proc/meminfo)"
echo "disk_kb $(df -Pk "$HOME" | awk 'NR == 2 {print $4}')"
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=memory.total,name --format=csv,noheader,nounits | sed 's/^/gpu /'
fi
exit 0
"""
