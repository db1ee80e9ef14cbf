"""The README of an exported model: what it is, and code that calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROLLOUT = """\
    encode, step, decode = load("encode"), load("step"), load("decode")
    tokens = encode(torch.from_numpy(example["fields"]))
    history = tokens[:, None].repeat(1, {history}, 1, 1)  # true frames where there are some
    frames = []
    for _ in range({steps}):
        tokens = step(history, parameters{context})
        history = torch.cat([history[:, 1:], tokens[:, None]], 1)
        frames.append(decode(tokens))
    rollout = torch.stack(frames, 1)  # (batch, time, {space}, field)
"""

_SOLUTION = """\
    solve, decode = load("solve"), load("decode")
    rollout = decode(solve(context, parameters{noise}))[:, None]  # (batch, 1, {space}, field)
"""

_CONTEXT = """\
    context = load("encode_inputs")(torch.from_numpy(example["inputs"]))
"""

_CODE = """\
import numpy as np
import torch


def load(name):
    return torch.export.load(f"{{name}}.pt2").module()


example = np.load("example.npz")
parameters = torch.from_numpy(example["parameters"])  # physical values, float64
with torch.no_grad():
{body}
difference = (rollout - torch.from_numpy(example["rollout"])).abs().max()
print(f"{{rollout.shape[1]}} frames, at most {{difference:.1e}} from the run's own")
"""

_PAGE = """\
# {title}

{about}, exported by `torch.export` from run
`{run}` (stage {stage}, checkpoint `{checkpoint}`), trained on {dataset} {dataset_version}.
Needs torch (made with {torch_version}) and nothing else.

{programs}

Every axis without a number may have any size. Values are physical, channels last, float32 unless
said otherwise; tokens are what the programs exchange. The programs run on the CPU; another device
takes `torch.export.passes.move_to_device_pass`.

- fields: {fields}
{inputs}- parameters, in this order: {parameters}
- grid: {grid}
{time}
When this was made, {steps} predicted frame(s) differed from the run's own by at most
{difference:.1e} of their RMS; {tolerance:g} was allowed.

```python
{code}```
"""


def readme(about: Mapping[str, Any]) -> str:
    """The page, from the content of model.json."""
    steady = about["dt"] is None
    return _PAGE.format(
        title=f"{about['task']}: a surrogate model",
        about="Codec and solver of a steady problem" if steady else "Codec and time stepper",
        checkpoint=about["checkpoint_sha256"][:12],
        programs="\n".join(_table(about["programs"])),
        fields=", ".join(_quantity(one) for one in about["fields"]),
        inputs=_inputs(about["inputs"]),
        parameters="; ".join(map(_parameter, about["parameters"])) or "none",
        grid="; ".join(map(_axis, about["axes"])),
        time="" if steady else f"- one step is {about['dt']:g}{_unit(about['time_unit'])}\n",
        steps=about["check"]["steps"],
        difference=about["check"]["difference"],
        tolerance=about["check"]["tolerance"],
        code=_code(about),
        **{key: about[key] for key in
           ("run", "stage", "dataset", "dataset_version", "torch_version")},
    )  # fmt: skip


def _code(about: Mapping[str, Any]) -> str:
    space = ", ".join(axis["name"] for axis in about["axes"])
    context = bool(about["inputs"])
    if about["dt"] is None:
        takes = [one["name"] for one in about["programs"]["solve"]["takes"]]
        noise = ', torch.from_numpy(example["noise"])' if "noise" in takes else ""
        body = _SOLUTION.format(space=space, noise=noise)
    else:
        body = _ROLLOUT.format(
            history=about["history"], steps=about["check"]["steps"], space=space,
            context=", context" if context else "",
        )  # fmt: skip
    return _CODE.format(body=(_CONTEXT if context else "") + body.rstrip("\n"))


def _table(programs: Mapping[str, Any]) -> list[str]:
    lines = ["| file | takes | what it does |", "|---|---|---|"]
    for one in programs.values():
        takes = "; ".join(_argument(argument) for argument in one["takes"])
        lines.append(f"| `{one['file']}` | {takes} | {one['about']} |")
    return lines


def _argument(argument: Mapping[str, Any]) -> str:
    pairs = zip(argument["axes"], argument["shape"], strict=True)
    shape = ", ".join(axis if axis == size else f"{axis} {size}" for axis, size in pairs)
    kind = "" if argument["dtype"] == "float32" else f" {argument['dtype']}"
    return f"{argument['name']} ({shape}){kind}"


def _inputs(inputs: list[dict[str, Any]]) -> str:
    if not inputs:
        return ""
    return f"- given with a problem: {', '.join(_quantity(one) for one in inputs)}\n"


def _quantity(one: Mapping[str, Any]) -> str:
    return f"`{one['name']}`{_unit(one['unit'], '({})')}"


def _parameter(one: Mapping[str, Any]) -> str:
    low, high = one["range"]
    return f"`{one['name']}`{_unit(one['unit'], '({})')}, {low:g} to {high:g} ({one['scale']})"


def _axis(axis: Mapping[str, Any]) -> str:
    end = axis["origin"] + (axis["points"] - 1) * axis["spacing"]
    wraps = ", periodic" if axis["periodic"] else ""
    unit = _unit(axis["unit"])
    return (
        f"`{axis['name']}` {axis['points']} points from {axis['origin']:g} to {end:g}{unit}{wraps}"
    )


def _unit(unit: str, form: str = "{}") -> str:
    return "" if unit == "1" else " " + form.format(unit)
