"""A W&B project in a folder: what `ups.transfer.wandb_service.Service` promises, and no more."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ups.transfer.wandb_service import Parcel, Posted, Service, Version


@dataclass
class FakeProject(Service):
    """Versions are folders; aliases move to the newest; `lacks` says what it has no artifact of."""

    folder: Path
    parcels: list[Parcel] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    queues: str = ""

    def versions(self, type_name: str, collection: str | None = None) -> list[Version]:
        return [
            Version(f"{parcel.collection}:v{index}", json.loads(json.dumps(dict(parcel.metadata))),
                    1e9 + index)
            for index, parcel in enumerate(self.parcels)
            if parcel.type == type_name and collection in (None, parcel.collection)
        ]  # fmt: skip

    def fetch(self, version: Version, name: str, into: Path) -> Path:
        self.fetched.append(name)
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(self.path(version.address, name), target))

    def post(self, parcel: Parcel, folder: Path) -> Posted:
        if self.queues:
            return Posted(folder / "offline-run-1", self.queues)
        address = f"{parcel.collection}:v{len(self.parcels)}"
        for name, path in parcel.files.items():
            target = self.path(address, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        self.parcels.append(parcel)
        known = {f"{one.collection}:{alias}" for one in self.parcels for alias in one.aliases}
        return Posted(unused=tuple(name for name, _ in parcel.uses if name not in known))

    def path(self, address: str, name: str) -> Path:
        return self.folder / address / name
