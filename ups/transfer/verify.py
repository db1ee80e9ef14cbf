"""Reading back what is on a remote, and hashing it, without a copy on this disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ups.errors import RemoteError
from ups.transfer.artefacts import Found, look, missing_from
from ups.transfer.manifest import Manifest, Object, push_command
from ups.transfer.remotes import Remote


def verify_remote(
    found: Found, remote: Remote, progress: Callable[[int, int], object] = lambda done, total: None
) -> int:
    """Read back every object of an artefact.

    Args:
        progress: Called with (bytes read, bytes in all).

    Returns:
        Bytes read, all of them right.

    Raises:
        RemoteError: An object is missing or wrong; it and its local files are named.
    """
    manifest = found.manifest
    there = look(manifest.kind, manifest.name, manifest.identity16, remote)
    if lost := missing_from(there, manifest.objects):
        raise damaged(manifest, lost, remote, "not there, or of another size")
    sizes = {item.sha256: item.size for item in manifest.objects}
    wrong = set(wrong_objects(manifest.folder, sizes, remote, progress))
    if wrong:
        bad = [item for item in manifest.objects if item.sha256 in wrong]
        raise damaged(manifest, bad, remote, "its bytes have another sha256")
    return manifest.size


def wrong_objects(
    folder: str,
    sizes: Mapping[str, int],
    remote: Remote,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[str]:
    """Read back objects of an artefact; return those whose bytes are not what their name says."""
    total = sum(sizes.values())

    def tell(done: int, _: int) -> None:
        progress(min(done, total), total)

    found = remote.rclone().hashes(remote.path(f"{folder}/objects"), sizes, tell)
    return [name for name in sizes if found.get(name) != name]


def damaged(
    manifest: Manifest, objects: Sequence[Object], remote: Remote, what: str
) -> RemoteError:
    """The error about objects that are not what the manifest says."""
    first = objects[0]
    more = f"; {len(objects) - 1} more objects are wrong" if len(objects) > 1 else ""
    return RemoteError(
        f"{remote.describe()}: {manifest.folder}/objects/{first.sha256}: {what}; it holds "
        f"{first.describe()}{more}",
        hint=f"from a machine that has it: {push_command(manifest.kind, manifest.name)} --repair",
    )
