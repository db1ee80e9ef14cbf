"""run.sh: what every engine starts on a machine. Makes or reuses the environment, then the agent.

Packages are in `$UPS_ENVIRONMENTS/<hash of requirements.lock and Python>`, by default below
~/.ups/environments, and the code of ups in a folder of its own in there, by the hash of its wheel.
So a changed line of ups costs seconds on a machine that has run a job before, and nothing is
installed twice, not even by two jobs that start at once.
"""

from __future__ import annotations

import shlex

from ups.remote.spec import EXIT_PREFLIGHT

_INSTALL_LIMIT = "45m"

_SCRIPT = r"""#!/usr/bin/env bash
# Written by ups. Makes or reuses the job's environment, then starts the job's agent.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
wheel=@WHEEL@

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit @PREFLIGHT@
}

find_python() {
    local name
    for name in ${UPS_PYTHON:+"$UPS_PYTHON"} python3.13 python3.12 python3.11 python3 python; do
        if command -v "$name" >/dev/null &&
            "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

short_hash() { sha256sum | cut -c1-16; }

install() {
    echo "UPS-EVENT {\"event\": \"install\", \"environment\": \"$environment\"}"
    "$python" -m venv --clear "$environment" ||
        fail "python -m venv failed" "install python3-venv, or name another Python: UPS_PYTHON"
    timeout @LIMIT@ "$environment/bin/python" -m pip install --quiet --no-input \
        --disable-pip-version-check -r requirements.lock ||
        fail "the packages of requirements.lock could not be installed" \
            "see pip's message above; is the package index reachable, and the disk large enough?"
    touch "$environment/ready"
}

unpack() {
    local temporary="$code.$$"
    rm -rf "$temporary"
    "$environment/bin/python" -m zipfile -e "$wheel" "$temporary" ||
        fail "$wheel could not be unpacked" "df -h $environments"
    mv -T "$temporary" "$code" 2>/dev/null || rm -rf "$temporary"
}

python="$(find_python)" ||
    fail "there is no Python 3.11 or newer" "install one, or name it: UPS_PYTHON=/path/to/python3"
environments="${UPS_ENVIRONMENTS:-$HOME/.ups/environments}"
version="$("$python" -c 'import platform as p; print(p.python_version(), p.machine())')"
environment="$environments/$({ cat requirements.lock; echo "$version"; } | short_hash)"
mkdir -p "$environments" || fail "$environments cannot be made" "set UPS_ENVIRONMENTS"
if [ ! -f "$environment/ready" ]; then
    exec 9>"$environment.lock"
    if command -v flock >/dev/null; then flock 9; fi
    if [ ! -f "$environment/ready" ]; then install; fi
    exec 9>&-
fi
code="$environment/ups-$(short_hash <"$wheel")"
if [ ! -d "$code" ]; then unpack; fi
touch "$code"
find "$environment" -maxdepth 1 -name 'ups-*' -mtime +60 -exec rm -rf {} + || true

export PATH="$environment/bin:$PATH" PYTHONPATH="$code" PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1
exec "$environment/bin/python" -m ups.remote.agent job.json
"""


def render(wheel: str) -> str:
    """The script for a bundle whose wheel has this name; it exits as the job does.

    Exit code 14 says that the environment could not be made.
    """
    values = {
        "@WHEEL@": shlex.quote(wheel),
        "@PREFLIGHT@": str(EXIT_PREFLIGHT),
        "@LIMIT@": _INSTALL_LIMIT,
    }
    text = _SCRIPT
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text
