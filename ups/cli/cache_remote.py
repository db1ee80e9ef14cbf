"""`ups cache list --from` and `ups cache verify --from`: caches on a remote, without copying."""

from __future__ import annotations

from typing import Any

from ups.cli import _output
from ups.errors import RemoteError


def list_there(dataset: str | None, source: str, *, as_json: bool) -> None:
    """Print the caches that a remote has; only manifests are read."""
    from ups.cache.remote import all_caches_on
    from ups.transfer.remotes import find_remote

    remote = find_remote(source)
    rows = [_row(found) for found in all_caches_on(remote, dataset)]
    if as_json:
        _output.print_json(rows)
        return
    if not rows:
        _output.summary(
            "cache", f"none{f' of {dataset}' if dataset else ''} on {remote.describe()}"
        )
        return
    _output.print_table(
        f"Caches on {remote.describe()}",
        ["data", ">size", ">age", "state", "dtype", "splits", "codec~"],
        [[f"{row['dataset']}/{row['version']}", _output.size(row["size_bytes"]),
          _output.age(row["age_s"]), "deprecated" if row["deprecated"] is not None else "ok",
          row["dtype"], ",".join(row["splits"]) or "-",
          f"{row['codec']}-{row['fingerprint'][:6]}"] for row in rows],
    )  # fmt: skip


def _row(found: Any) -> dict[str, Any]:
    from ups.cache.pulling import identity_in

    identity = identity_in(found)
    return {
        "dataset": identity.dataset, "version": identity.version, "codec": identity.codec,
        "fingerprint": identity.fingerprint, "dtype": identity.dtype,
        "splits": found.manifest.labels.get("splits", []), "size_bytes": found.manifest.size,
        "age_s": found.listing.age_s, "deprecated": found.deprecated,
        "place": found.place.partition("/manifest-")[0],
    }  # fmt: skip


def verify_there(dataset: str | None, source: str) -> None:
    """Read back every byte of the caches on a remote; nothing is stored."""
    from ups.cache.remote import all_caches_on
    from ups.cli.data_download import ByteBars
    from ups.transfer.remotes import find_remote
    from ups.transfer.verify import verify_remote

    remote = find_remote(source)
    broken: list[RemoteError] = []
    for found in all_caches_on(remote, dataset):
        name = found.manifest.name
        try:
            with ByteBars() as bars:
                verify_remote(found, remote, lambda done, total: bars("verify", done, total))
        except RemoteError as error:
            broken.append(error)
            _output.summary("broken", str(error))
        else:
            _output.summary("ok", f"{name}: {_output.size(found.manifest.size)}")
    if broken:
        raise RemoteError(
            f"{len(broken)} caches on {remote.describe()} are broken", hint=broken[0].hint
        )
