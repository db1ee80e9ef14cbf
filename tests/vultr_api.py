"""A stand-in for the Vultr API v2: plans, VPCs and instances, as its documentation says.

Plans are public, everything else needs the key as a bearer token. Instances are `pending` with
address 0.0.0.0, then `active`. Giving back answers 204 without a body.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from http_stand_in import Answer, Request, StandIn

HOST = "https://api.vultr.com"


def plan(name: str, kind: str, price: float, **more: Any) -> dict[str, Any]:
    """One plan as `/v2/plans` lists it; memory in MB, disk in GB, price in $ an hour."""
    return {
        "id": name, "vcpu_count": 12, "ram": 122880, "disk": 1400, "bandwidth": 10240,
        "monthly_cost": 730 * price, "hourly_cost": price, "type": kind, "disk_count": 1,
        "locations": ["ewr", "fra"], "deploy_ondemand": True, **more,
    }  # fmt: skip


PLANS = (
    plan("vcg-a100-12c-120g-80vram", "vcg", 1.85, gpu_vram_gb=80, gpu_type="NVIDIA_A100"),
    plan(
        "vcg-a40-24c-120g-48vram", "vcg", 1.10, vcpu_count=24, gpu_vram_gb=48, gpu_type="NVIDIA_A40"
    ),
    plan("vc2-4c-8gb", "vc2", 0.06, vcpu_count=4, ram=8192, disk=160, locations=["ewr"]),
)
METAL_PLANS = (
    {"id": "vbm-112c-2048gb-8-h100-gpu", "cpu_count": 112, "cpu_threads": 224, "ram": 2064384,
     "disk": 960, "hourly_cost": 23.92, "type": "SSD", "locations": ["sea"],
     "deploy_ondemand": True},
)  # fmt: skip


def _always(content: dict[str, Any]) -> Callable[[Request], Answer]:
    return lambda request: (200, content)


class VultrApi(StandIn):
    """Instances are `pending` for `pending_polls` looks at them.

    Attributes:
        instances: Those that are rented now, by id.
    """

    def __init__(self, key: str, *, pending_polls: int = 1) -> None:
        super().__init__(key)
        self.instances: dict[str, dict[str, Any]] = {}
        self.vpcs: list[dict[str, Any]] = []
        self.pending_polls = pending_polls
        self._numbers = itertools.count(1)
        for path, content, is_open in (
            (r"/v2/ssh-keys", {"ssh_keys": []}, False),
            (r"/v2/plans", {"plans": list(PLANS)}, True),
            (r"/v2/plans-metal", {"plans_metal": list(METAL_PLANS)}, True),
            (r"/v2/regions", {"regions": [{"id": "ewr"}]}, False),
            (r"/v2/regions/\w+/availability", {"available_plans": []}, False),
            (r"/v2/bare-metals", {"bare_metals": []}, False),
        ):
            self.route("GET", path, _always(content), is_open=is_open)
        self.route("GET", r"/v2/vpcs", lambda request: (200, {"vpcs": self.vpcs}))
        self.route("POST", r"/v2/vpcs", self._add_vpc)
        self.route("POST", r"/v2/instances", self._rent)
        self.route("GET", r"/v2/instances", self._list)
        self.route("GET", r"/v2/instances/([\w-]+)", self._show)
        self.route("DELETE", r"/v2/instances/([\w-]+)", self._give_back)

    def _add_vpc(self, request: Request) -> Answer:
        vpc = {"id": f"vpc-{len(self.vpcs)}", "region": request.body["region"],
               "description": request.body["description"], "v4_subnet": "10.1.96.0",
               "v4_subnet_mask": 20}  # fmt: skip
        self.vpcs.append(vpc)
        return 201, {"vpc": vpc}

    def _rent(self, request: Request) -> Answer:
        number = f"cb676a46-66fd-4dfb-b839-{next(self._numbers):012d}"
        self.instances[number] = {
            "id": number, "label": request.body["label"], "plan": request.body["plan"],
            "region": request.body["region"], "status": "pending", "main_ip": "0.0.0.0",
            "internal_ip": "", "power_status": "running", "looks": 0,
            "date_created": "2026-11-21T12:00:00+00:00",
        }  # fmt: skip
        return 202, {"instance": self.instances[number]}

    def _list(self, request: Request) -> Answer:
        return 200, {"instances": list(self.instances.values()), "meta": {"total": 0}}

    def _show(self, request: Request, number: str) -> Answer:
        instance = self.instances.get(number)
        if instance is None:
            return 404, {"error": "Invalid instance.", "status": 404}
        instance["looks"] += 1
        if instance["looks"] > self.pending_polls:
            instance |= {"status": "active", "main_ip": "127.0.0.1", "internal_ip": "10.1.96.3"}
        return 200, {"instance": instance}

    def _give_back(self, request: Request, number: str) -> Answer:
        if self.instances.pop(number, None) is None:
            return 404, {"error": "Invalid instance.", "status": 404}
        return 204, None
