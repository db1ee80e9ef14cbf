"""Every check of the audit of meshes and particles fails on a store that was damaged that way."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr
from point_samples import make_card, sample, write

from ups.data.audit import worst
from ups.data.auditing.mesh_checks import signed_volumes
from ups.data.auditing.points import audit_points
from ups.data.conversion.plan import Recipe
from ups.data.conversion.points import convert_points
from ups.data.points import PointStore, point_store_path


def convert(folder, kind, given, **options):
    card = make_card(kind, **options.pop("card", {}))
    raw = write(folder / "raw" / f"{kind}.h5", given, card, **options)
    return card, convert_points(card, [raw], recipe=Recipe(exclude_invalid=True)).store


@pytest.fixture(scope="module", params=["mesh", "particles"])
def original(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPS_HOME", str(folder))
        given = [sample(seed, request.param) for seed in range(10)]
        return convert(folder, request.param, given)


@pytest.fixture
def made(original):
    """(card, a copy of the store, the copy opened by zarr for damaging)"""
    card, store = original
    path = point_store_path(card.key, "full")
    shutil.copytree(store.path, path)
    return card, path, zarr.open_group(str(path), mode="r+")


def verdicts(path, card):
    return {f.check: (f.verdict, f.detail) for f in audit_points(PointStore(path), card)}


def test_a_whole_store_passes(made):
    card, path, _ = made
    seen = []
    findings = audit_points(PointStore(path), card, lambda *now: seen.append(now))
    assert {finding.verdict for finding in findings} == {"ok", "note"}
    assert worst(findings) == "note"
    assert [f.detail for f in findings if f.check == "known issue"] == ["tiny: It is tiny. None."]
    assert seen[-1] == (10, 10)
    checks = {finding.check for finding in findings}
    assert ("cells" in checks) == (card.discretisation.kind == "mesh")


def rows_of(path, trajectory):
    store = PointStore(path)
    first = int(store.node_counts[:trajectory].sum()) * store.num_frames
    return first, first + store.num_nodes(trajectory) * store.num_frames


def flip(path, group):
    first, _ = rows_of(path, 4)
    group["fields"][first, 0] = group["fields"][first, 0] + 1e-3


def nan(path, group):
    first, _ = rows_of(path, 4)
    group["fields"][first, 0] = np.nan


def zero_frame(path, group):
    first, _ = rows_of(path, 4)
    nodes = PointStore(path).num_nodes(4)
    group["fields"][first + nodes : first + 2 * nodes] = 0


def flat_frame(path, group):
    first, _ = rows_of(path, 4)
    nodes = PointStore(path).num_nodes(4)
    group["fields"][first + nodes : first + 2 * nodes] = 0.5


def constant_field(path, group):
    first, last = rows_of(path, 4)
    group["fields"][first:last, 0] = 2.0


def negative(path, group):
    first, _ = rows_of(path, 4)
    group["fields"][first, 1] = -1.0


def far_away(path, group):
    group["coords"][3, 0] = 7.0


def no_position(path, group):
    group["coords"][3, 0] = np.nan


def uneven_times(path, group):
    group["time"][2] = 0.9


def falling_times(path, group):
    group["time"][2] = 9.0


def other_sum(path, group):
    group.attrs["metadata"] = {**group.attrs["metadata"], "data_sha256": "0" * 64}


def other_splits(path, group):
    group["split"][0] = 2


def leak(path, group):
    group["group"][0] = int(group["group"][9])


def statistic(path, group):
    group["statistics/std"][1] = 9.0


def input_statistic(path, group):
    group["input_statistics/mean"][0] = 9.0


def parameter(path, group):
    group["parameters"][5, 0] = 3.0


def other_place(path, group):
    group["place"][3] = 77


def one_way(path, group):
    group["edges"][0] = group["edges"][1]


def lost_end(path, group):
    group["edges"][0] = (0, 4000)


def loop(path, group):
    group["edges"][0] = (2, 2)


@pytest.mark.parametrize(
    ("damage", "check", "verdict", "detail"),
    [
        (flip, "bytes", "fail", "sha256 differs in trajectory 4"),
        (other_sum, "bytes", "fail", "recorded sha256"),
        (other_place, "bytes", "fail", "parameters, splits or statistics have changed"),
        (nan, "finite", "fail", "trajectory 4"),
        (zero_frame, "zero frames", "fail", "trajectory 4"),
        (flat_frame, "constant", "warn", "trajectory 4"),
        (constant_field, "constant", "fail", "never changes in trajectory 4"),
        (negative, "positivity", "fail", "rho is not positive in trajectory 4"),
        (far_away, "coordinates", None, "lengths outside"),
        (no_position, "coordinates", "fail", "outside"),
        (uneven_times, "times", "fail", "recorded dt"),
        (falling_times, "times", "fail", "does not rise"),
        (other_splits, "split record", "fail", "recorded hash"),
        (leak, "leaks", "fail", "train and test share groups"),
        (statistic, "statistics", "fail", "stored std"),
        (input_statistic, "statistics", "fail", "stored input mean"),
        (parameter, "parameters", "warn", "nu is in"),
        (one_way, "edges", "fail", "trajectory 0"),
        (lost_end, "edges", "fail", "nodes that are not there in trajectory 0"),
        (loop, "edges", "fail", "from a node to itself in trajectory 0"),
    ],
)
def test_damage_is_found(made, damage, check, verdict, detail):
    card, path, group = made
    damage(path, group)
    found = verdicts(path, card)
    expected = verdict or ("warn" if any(card.periodic) else "fail")
    assert found[check][0] == expected, found[check]
    assert detail in found[check][1]


def test_edges_of_a_pair_that_is_none_are_found(made):
    card, path, group = made
    store = PointStore(path)
    edges = store.edges(0, 0)
    known = set(map(tuple, edges.tolist()))
    nodes = range(store.num_nodes(0))
    a, b = next((a, b) for a in nodes for b in nodes if a < b and (a, b) not in known)
    c, d = edges[0].tolist()
    values = edges.copy()
    values[(values == (c, d)).all(1)] = (a, b)
    values[(values == (d, c)).all(1)] = (b, a)
    group["edges"][: len(values)] = values
    verdict, detail = verdicts(path, card)["edges"]
    assert verdict == "fail"
    assert "edges that are not those" in detail


def test_node_counts_are_compared_with_the_card(made):
    card, path, _ = made
    smaller = card.discretisation.model_copy(update={"nodes": (8, 12)})
    found = verdicts(path, card.model_copy(update={"discretisation": smaller}))
    assert found["nodes"][0] == "warn"
    assert "the card says 8 to 12" in found["nodes"][1]


def bad_mesh(kind):
    """A mesh that is sound but for one thing, by name."""
    given = sample(3)
    cells, coords = given.cells.copy(), given.coords.copy()
    if kind == "turned":
        cells[0] = cells[0][::-1]
    elif kind == "flat":
        coords[cells[0]] = coords[cells[0][0]] + np.outer([0, 1, 2], [0.01, 0.01])
    elif kind == "loose":
        extra = np.asarray([[0.5, 0.5]], np.float32)
        return replace(
            given,
            coords=np.concatenate([coords, extra]),
            fields=np.concatenate([given.fields, given.fields[:, :1]], axis=1),
            inputs=np.concatenate([given.inputs, given.inputs[:1]]),
            tags=np.append(given.tags, np.uint8(0)),
        )
    return replace(given, cells=cells, coords=coords)


@pytest.mark.parametrize(
    ("kind", "verdict", "detail"),
    [
        ("turned", "warn", "cells of both orientations in trajectory 2"),
        ("flat", "fail", "cells without volume in trajectory 2"),
        ("loose", "warn", "nodes of no cell in trajectory 2"),
    ],
)
def test_bad_cells_are_found(tmp_path, kind, verdict, detail):
    given = [sample(seed) for seed in range(8)]
    given[2] = bad_mesh(kind)
    card, store = convert(tmp_path, "mesh", given)
    found = verdicts(store.path, card)
    assert found["cells"] == (verdict, detail)


def test_cells_that_name_other_nodes_are_found(tmp_path):
    card, store = convert(tmp_path, "mesh", [sample(seed) for seed in range(8)])
    zarr.open_group(str(store.path), mode="r+")["cells"][0, 0] = 4000
    found = verdicts(store.path, card)
    assert found["cells"][0] == "fail"
    assert "not there in trajectory 0" in found["cells"][1]


def test_the_volume_of_a_simplex_is_known():
    triangle = np.asarray([[[0, 0], [2, 0], [0, 3]]], float)
    assert signed_volumes(triangle) == pytest.approx([3.0])
    assert signed_volumes(triangle[:, ::-1]) == pytest.approx([-3.0])
    corner = np.asarray([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]], float)
    assert signed_volumes(corner) == pytest.approx([1 / 6])


def test_equal_trajectories_across_splits_are_a_leak_and_in_one_a_note(tmp_path):
    given = [sample(seed) for seed in range(10)]
    given[9] = given[0]
    card, store = convert(tmp_path, "mesh", given, nu=0.5)
    assert store.splits[9] == 2
    found = verdicts(store.path, card)
    assert found["duplicates"][0] == "fail"
    assert found["leaks"][0] == "fail"
    train = store.split("train")
    given[9] = sample(9)
    given[train[1]] = given[train[0]]
    card, store = convert(tmp_path, "mesh", given, nu=0.5, card={"key": "other_mesh"})
    found = verdicts(store.path, card)
    assert found["duplicates"][0] == "note"
    assert found["leaks"][0] == "ok"


def test_a_shared_start_is_a_leak_even_if_the_rest_differs(tmp_path):
    given = [sample(seed, "particles") for seed in range(10)]
    fields = given[0].fields.copy()
    fields[1:] += 0.25
    given[9] = replace(given[0], fields=fields)
    card, store = convert(tmp_path, "particles", given)
    found = verdicts(store.path, card)
    assert found["duplicates"][0] == "ok"
    assert "0 (" in found["leaks"][1]
    assert "9 (test) start from the same state" in found["leaks"][1]


def test_a_shared_coefficient_of_a_static_problem_is_a_leak(tmp_path):
    given = [sample(seed, frames=1) for seed in range(10)]
    given[9] = replace(given[0], fields=given[0].fields + np.float32(0.5))
    card, store = convert(tmp_path, "mesh", given, nu=0.5)
    found = verdicts(store.path, card)
    assert found["leaks"][0] == "fail"
    assert "coefficient" in found["leaks"][1]


def test_excluded_values_are_a_warning(tmp_path):
    given = [sample(seed) for seed in range(8)]
    fields = given[2].fields.copy()
    fields[1, 2] = np.inf
    given[2] = replace(given[2], fields=fields)
    card, store = convert(tmp_path, "mesh", given)
    assert store.metadata.excluded == (2,)
    found = verdicts(store.path, card)
    assert found["finite"] == ("warn", "NaN in trajectory 2, excluded from all splits")
    assert found["statistics"][0] == "ok"
    assert found["split record"][0] == "ok"
