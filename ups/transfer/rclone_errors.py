"""What rclone says when it fails, in one line that a person can act on."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ups.errors import DataError, RemoteError, UpsError
from ups.transfer.rclone_process import Outcome

_SECRET = re.compile(r"(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|PASS|CREDENTIALS)$")

# (what rclone says, what is meant, what helps); the first that matches counts. {remote}: its name.
_CHECK = "ups remotes check {remote}"
_CLOCK = "set this machine's clock, e.g. timedatectl set-ntp true; then " + _CHECK
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (r"RequestTimeTooSkewed|request time and the (current|server'?s) time|RequestExpired",
     "the clock of this machine and the server's differ by too much", _CLOCK),
    (r"InvalidAccessKeyId|access key id you provided does not exist|InvalidClientTokenId",
     "the server does not know the key id",
     "check the variable that holds it (ups remotes list); then " + _CHECK),
    (r"SignatureDoesNotMatch|InvalidSignature|AuthorizationHeaderMalformed",
     "the secret does not belong to the key id, or the region is wrong",
     "check the variables that hold them (ups remotes list); then " + _CHECK),
    (r"ExpiredToken|InvalidToken|token has expired", "the session token is not valid any more",
     "get new credentials; then " + _CHECK),
    (r"NoSuchBucket|bucket does not exist|directory not found", "the bucket does not exist",
     "check its name and region (ups remotes list), or make it where it is hosted"),
    (r"invalid_grant|could not find default credentials|oauth2: ",
     "the Google credentials are missing or not valid",
     "set GOOGLE_APPLICATION_CREDENTIALS to a service account's file"),
    (r"AccessDenied|StatusCode: 403|StatusCode: 401|googleapi: Error 40[13]|Unauthorized",
     "access is denied", "check that the key may read and write there; " + _CHECK),
    (r"SlowDown|ServiceUnavailable|TooManyRequests|StatusCode: (429|503)|Reduce your request rate",
     "the server is too busy and asks to slow down",
     "try again in a few minutes; RCLONE_TPSLIMIT=10 sends fewer requests"),
    (r"no such host|server misbehaving|Temporary failure in name resolution",
     "the server's name cannot be resolved",
     "check the endpoint (ups remotes list) and the network"),
    (r"knownhosts: key is unknown", "the SSH server's key is not in the known hosts",
     "ssh-keyscan -p PORT HOST >> ~/.ssh/known_hosts, after comparing the key"),
    (r"knownhosts: key mismatch", "the SSH server's key is not the known one",
     "make sure that it is the right server before you replace the key in known_hosts"),
    (r"ssh: handshake failed|unable to authenticate|ssh: no key found",
     "the SSH server refuses the key", "check user and --key-file, or start an ssh-agent"),
    (r"connection refused", "nothing listens at the endpoint",
     "check the endpoint (ups remotes list); " + _CHECK),
    (r"x509|tls: |server gave HTTP response to HTTPS client",
     "no secure connection to the endpoint", "check the endpoint and its certificate"),
    (r"i/o timeout|context deadline exceeded|Client\.Timeout|no route to host|network is unreach",
     "the server does not answer", "check endpoint and network; " + _CHECK),
    (r"connection reset|broken pipe|unexpected EOF|closed network connection|: EOF",
     "the connection broke", "run the same command again: it goes on where it stopped"),
    (r"didn't find section in config file", "rclone's own config does not know it",
     "rclone listremotes"),
    (r"unable to decrypt configuration|Couldn't decrypt|decrypt config",
     "rclone's own config is encrypted", "set RCLONE_CONFIG_PASS or RCLONE_PASSWORD_COMMAND"),
    (r"permission denied|operation not permitted|read-only file system",
     "no permission there", "check with: ls -ld"),
)  # fmt: skip
_FULL_DISK = re.compile(r"no space left on device|file too (large|big)|disk quota exceeded", re.I)
_NOISE = re.compile(
    r"^(Attempt \d+/\d+ failed|Failed to \w+|error in ListJSON|.*last error was)", re.I
)


def redact(text: str, environment: Mapping[str, str]) -> str:
    """`text` with the values of secrets replaced by stars, whatever their length."""
    secrets = {value for name, value in environment.items() if value and _SECRET.search(name)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def explain(
    outcome: Outcome, environment: Mapping[str, str], *, remote: str, doing: str
) -> UpsError:
    """The error for a process that failed.

    Args:
        remote: The remote's name as the user knows it.
        doing: What failed, e.g. `writing x`.
    Returns:
        DataError where a download fills this machine's disk, RemoteError otherwise.
    """
    said = redact(" | ".join(outcome.errors), environment)
    where = f"remote {remote}: {doing}"
    if _FULL_DISK.search(said):
        return _full(where, here=doing.startswith("downloading"))
    for pattern, meaning, hint in _KNOWN:
        if re.search(pattern, said, re.I):
            return RemoteError(f"{where}: {meaning}", hint=hint.format(remote=remote))
    check = _CHECK.format(remote=remote)
    if outcome.stalled:
        what = "the server does not answer: nothing has moved for a while"
        return RemoteError(f"{where}: {what}", hint=f"check endpoint and network; {check}")
    if outcome.code < 0:
        return RemoteError(f"{where}: rclone was ended by signal {-outcome.code}", hint=check)
    first = next((text for text in outcome.errors if not _NOISE.match(text)), "")
    told = redact(" ".join((first or " ".join(outcome.errors[-1:])).split()), environment)
    return RemoteError(f"{where}: rclone failed with exit code {outcome.code}: {told}", hint=check)


def _full(where: str, *, here: bool) -> UpsError:
    if here:
        return DataError(
            f"{where}: the disk is full, or the limit of a file's size is reached",
            hint="free some space (df -h), or set UPS_HOME to a larger disk; run it again",
        )
    return RemoteError(
        f"{where}: the disk there is full, or the limit of a file's size is reached",
        hint="free some space there; run it again",
    )
