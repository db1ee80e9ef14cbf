"""A stand-in for the Vast.ai API: the requests that renting takes, as its documentation says.

Offers: POST /api/v0/bundles/ (filters by field and operator), no key. Rent: PUT /api/v0/asks/ID/.
See: GET /api/v0/instances/[ID/]. Give back: DELETE /api/v0/instances/ID/. Key: bearer token.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from http_stand_in import Answer, Request, StandIn

HOST = "https://console.vast.ai"


def offer(number: int, gpu: str, price: float, *, gpus: int = 1, gpu_ram: int = 81920,
          min_bid: float | None = None, **more: Any) -> dict[str, Any]:  # fmt: skip
    """One machine as `bundles` lists it; memory in MB, storage in $ per GB and month."""
    return {
        "id": number, "ask_contract_id": number, "machine_id": 10 * number, "host_id": 7,
        "gpu_name": gpu, "num_gpus": gpus, "gpu_ram": gpu_ram, "gpu_frac": 1.0,
        "cpu_cores": 32, "cpu_cores_effective": 16.0, "cpu_ram": 128000, "cpu_arch": "amd64",
        "disk_space": 500.0, "storage_cost": 0.1, "dph_base": price, "dph_total": price,
        "min_bid": min_bid, "geolocation": "Iceland, IS", "reliability2": 0.995,
        "inet_down": 900.0, "inet_up": 800.0, "direct_port_count": 20, "verified": True,
        "cuda_max_good": 12.9, "compute_cap": 800, "score": 300.0, "rentable": True,
        "rented": False, "datacenter": False, **more,
    }  # fmt: skip


OFFERS = (
    offer(101, "A100 SXM4", 1.40, min_bid=0.70),
    offer(102, "A100 PCIE", 0.95),
    offer(103, "RTX 4090", 0.35, gpu_ram=24564),
    offer(104, "H100 SXM", 2.60),
    offer(105, "A100 SXM4", 2.70, gpus=2),
)


class VastApi(StandIn):
    """Machines are `loading` for `loading_polls` looks at them, then `running` at `host:port`.

    Attributes:
        instances: Those that are rented now, by number.
    """

    def __init__(self, key: str, *, loading_polls: int = 1) -> None:
        super().__init__(key)
        self.instances: dict[int, dict[str, Any]] = {}
        self.offers = list(OFFERS)
        self.loading_polls = loading_polls
        self.host, self.port = "127.0.0.1", 1
        self.on_rent: Callable[[dict[str, Any]], object] = lambda body: None
        self._numbers = itertools.count(9001)
        self.route("POST", r"/api/v0/bundles/", self._bundles, is_open=True)
        self.route("PUT", r"/api/v0/asks/(\d+)/", self._rent)
        self.route("GET", r"/api/v[01]/instances/", self._list)
        self.route("GET", r"/api/v0/instances/(\d+)/", self._show)
        self.route("DELETE", r"/api/v0/instances/(\d+)/", self._give_back)

    def _bundles(self, request: Request) -> Answer:
        fits = [each for each in self.offers if _fits(each, request.body)]
        for key, direction in reversed(request.body.get("order", [])):
            fits.sort(key=lambda each: each[key], reverse=direction == "desc")
        return 200, {"offers": fits}

    def _rent(self, request: Request, number: str) -> Answer:
        found = [each for each in self.offers if each["id"] == int(number)]
        if not found:
            return 404, {"success": False, "error": "no_such_ask", "msg": "no such ask"}
        contract = next(self._numbers)
        self.on_rent(request.body)
        self.instances[contract] = {
            "id": contract, "machine_id": found[0]["machine_id"], "label": request.body["label"],
            "actual_status": "loading", "intended_status": "running", "cur_state": "running",
            "next_state": "running", "status_msg": "pulling image", "looks": 0,
            "gpu_name": found[0]["gpu_name"], "dph_total": found[0]["dph_total"],
            "image_uuid": request.body["image"], "public_ipaddr": None, "ports": None,
        }  # fmt: skip
        return 200, {"success": True, "new_contract": contract}

    def _list(self, request: Request) -> Answer:
        return 200, {"instances": list(self.instances.values())}

    def _show(self, request: Request, number: str) -> Answer:
        instance = self.instances.get(int(number))
        if instance is None:
            return 200, {"instances": None}
        instance["looks"] += 1
        if instance["looks"] > self.loading_polls:
            instance |= {
                "actual_status": "running", "public_ipaddr": f"{self.host} ",
                "ports": {"10022/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(self.port)}]},
            }  # fmt: skip
        return 200, {"instances": instance}

    def _give_back(self, request: Request, number: str) -> Answer:
        if self.instances.pop(int(number), None) is None:
            return 404, {"success": False, "error": "no_such_instance", "msg": "not found"}
        return 200, {"success": True}


def _fits(offer: dict[str, Any], filters: dict[str, Any]) -> bool:
    tests = {
        "eq": lambda a, b: a == b, "lt": lambda a, b: a < b, "lte": lambda a, b: a <= b,
        "gt": lambda a, b: a > b, "gte": lambda a, b: a >= b, "in": lambda a, b: a in b,
    }  # fmt: skip
    return all(
        tests[operator](offer[key], value)
        for key, limits in filters.items()
        if isinstance(limits, dict) and key in offer
        for operator, value in limits.items()
    )
