"""The point codec as a whole, its learned parts, and what it promises to other rooms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scattered import mesh, particles, relative_error, smooth, waves

from ups.codec.anchors import AnchorGrid
from ups.codec.cloud import merged
from ups.codec.messages import MessagePassing, Reading
from ups.codec.points import PointCodec, PointGeometry
from ups.config.models import PointCodecConfig
from ups.errors import ConfigError, DataError

SQUARE = PointGeometry(
    bounds=((0.0, 1.0), (0.0, 1.0)), periodic=(False, False), fields=("u", "v"), inputs=("a",),
    kind="mesh", num_tags=1,
)  # fmt: skip
TORUS = PointGeometry(
    bounds=((0.0, 1.0), (0.0, 1.0)), periodic=(True, True), fields=("u",), inputs=(),
    kind="particles",
)  # fmt: skip


def codec_for(place=SQUARE, *, random=False, **options):
    """A small codec; `random` makes its learned parts do something."""
    options = {"anchors": (5, 5), "width": 16, "supernodes": 24, "neighbours": 5, **options}
    torch.manual_seed(0)
    codec = PointCodec(PointCodecConfig(**{"learned": True, **options}), place).eval()
    if random:
        for name, weight in codec.named_parameters():
            if "out" in name:
                torch.nn.init.normal_(weight, std=0.5)
    return codec


def test_what_is_learned_starts_at_nothing():
    cloud = mesh(per_axis=9)
    values = smooth(cloud.coords)
    learned, linear = codec_for(), codec_for(learned=False)
    assert not list(linear.parameters())
    torch.testing.assert_close(learned(values, cloud), linear(values, cloud))
    assert relative_error(learned(values, cloud), values) < 0.01
    moved = codec_for(random=True)
    assert not torch.allclose(moved.encode(values, cloud), linear.encode(values, cloud), atol=0.1)


@pytest.mark.parametrize("learned", [False, True])
def test_order_of_nodes_changes_nothing(learned):
    cloud, codec = mesh(per_axis=9), codec_for(random=True, learned=learned)
    order = torch.randperm(81, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    shuffled = replace(
        cloud, coords=cloud.coords[order], volumes=cloud.volumes[order],
        normals=cloud.normals[order], tags=cloud.tags[order], edges=place[cloud.edges].flip(0),
    )  # fmt: skip
    values = smooth(cloud.coords)
    torch.testing.assert_close(
        codec.encode(values[order], shuffled), codec.encode(values, cloud), rtol=1e-3, atol=1e-4
    )


def test_fields_move_from_one_mesh_to_another():
    codec = codec_for(learned=False, anchors=(8, 8))
    a, b = mesh(0, per_axis=25), mesh(1, per_axis=31)
    tokens = codec.encode(smooth(a.coords), a)
    found = codec.decode(tokens, b.coords, b.sample)
    assert relative_error(found, smooth(b.coords)) < 2e-3
    other = codec.encode(smooth(b.coords), b)
    assert relative_error(other[..., :2], tokens[..., :2]) < 2e-3


@pytest.mark.parametrize("geometry", [True, False])
def test_samples_of_a_ragged_batch_equal_one_by_one(geometry):
    parts = [mesh(0, per_axis=4), mesh(1, per_axis=9), mesh(2, per_axis=7)]
    codec = codec_for(random=True, geometry=geometry)
    values = [smooth(part.coords) * (row + 1) for row, part in enumerate(parts)]
    batch = merged(parts)
    tokens = codec.encode(torch.cat(values), batch)
    assert tokens.shape == (3, 25, 12)
    found = codec.decode(tokens, batch.coords, batch.sample).split(batch.counts.tolist())
    for row, (part, own) in enumerate(zip(parts, values, strict=True)):
        alone = codec.encode(own, part)
        torch.testing.assert_close(tokens[row], alone[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            found[row], codec.decode(alone, part.coords, part.sample), rtol=1e-3, atol=1e-4
        )


def test_frames_of_a_resting_mesh_equal_one_by_one():
    codec, cloud = codec_for(random=True), mesh(per_axis=8)
    frames = torch.stack([smooth(cloud.coords) * size for size in (1.0, 2.0, 0.1)])
    plan = codec.prepare(cloud)
    tokens = codec.encode_frames(frames, plan)
    for frame, one in zip(frames, tokens, strict=True):
        torch.testing.assert_close(one, codec.encode(frame, cloud)[0], rtol=1e-4, atol=1e-5)
    queries = cloud.coords[:10]
    together = codec.decode_frames(tokens, queries)
    sample = torch.arange(3).repeat_interleave(10)
    torch.testing.assert_close(
        together.flatten(0, 1), codec.decode(tokens, queries.repeat(3, 1), sample)
    )
    with pytest.raises(ValueError, match="found 2 meshes"):
        codec.encode_frames(torch.cat([frames, frames], 1), merged([cloud, cloud]))


def test_chunks_change_nothing(monkeypatch):
    codec, cloud = codec_for(random=True), mesh(per_axis=8)
    frames = torch.stack([smooth(cloud.coords) * size for size in (1.0, 2.0, 0.1)])
    tokens = codec.encode_frames(frames, cloud)
    whole = codec.decode_frames(tokens, cloud.coords)
    monkeypatch.setattr("ups.codec.points._MAX_ELEMENTS", 2000)
    torch.testing.assert_close(codec.encode_frames(frames, cloud), tokens)
    torch.testing.assert_close(codec.decode_frames(tokens, cloud.coords), whole)


def test_learned_parts_scale_with_the_field():
    codec, cloud = codec_for(random=True), mesh(per_axis=8)
    values = smooth(cloud.coords)
    small, large = codec(values, cloud), codec(100 * values, cloud)
    torch.testing.assert_close(large, 100 * small, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("learned", [False, True])
def test_nothing_changes_when_nodes_move_by_a_side_of_a_periodic_box(learned):
    codec, cloud = codec_for(TORUS, random=True, learned=learned), particles(number=120)
    turns = torch.randint(-1, 2, cloud.coords.shape, generator=torch.Generator().manual_seed(0))
    moved = replace(cloud, coords=cloud.coords + turns)
    values = waves(cloud.coords)
    tokens = codec.encode(values, cloud)
    torch.testing.assert_close(codec.encode(values, moved), tokens, rtol=0, atol=2e-3)
    here = codec.decode(tokens, cloud.coords, cloud.sample)
    there = codec.decode(tokens, moved.coords, cloud.sample)
    torch.testing.assert_close(there, here, rtol=0, atol=1e-3)


def test_messages_travel_along_edges_one_per_step():
    torch.manual_seed(0)
    steps = [MessagePassing(8, 2) for _ in range(2)]
    line = torch.tensor([[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2]])
    way = torch.ones(6, 2)
    nodes = torch.randn(1, 4, 8)
    changed = nodes.clone()
    changed[:, 0] += torch.arange(8)
    for step in steps:
        nodes, changed = step(nodes, line, way), step(changed, line, way)
    moved = (nodes - changed).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [True, True, True, False]


def test_tokens_depend_on_edges_and_geometry():
    codec, cloud = codec_for(random=True), mesh(per_axis=8)
    values = smooth(cloud.coords)
    tokens = codec.encode(values, cloud)
    for changed in (
        replace(cloud, edges=cloud.edges[::2]),
        replace(cloud, tags=1 - cloud.tags),
        replace(cloud, normals=-cloud.normals),
    ):
        assert not torch.allclose(codec.encode(values, changed), tokens, atol=1e-4)
    blind = codec_for(random=True, geometry=False)
    assert torch.equal(
        blind.encode(values, cloud), blind.encode(values, replace(cloud, tags=1 - cloud.tags))
    )


def test_reading_leaves_out_what_is_not_there():
    torch.manual_seed(0)
    read = Reading(8, 2)
    sources, way = torch.randn(1, 3, 8), torch.randn(1, 3, 2)
    index = torch.tensor([[0, 1, 2]])
    found = torch.tensor([[True, True, False]])
    two = read(sources, index[:, :2], found[:, :2], way[:, :2])
    torch.testing.assert_close(read(sources, index, found, way), two)
    faded = torch.tensor([[0.5, 0.5, 0.0]])
    torch.testing.assert_close(read(sources, index, torch.ones_like(found), way, faded), two)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("anchors", [(2,), (6, 5), (1, 3), (4, 3, 5)])
def test_nearest_anchors_are_the_nearest(anchors, periodic):
    dims = len(anchors)
    grid = AnchorGrid(anchors, ((0.0, 1.0),) * dims, (periodic,) * dims)
    coords = torch.rand(100, dims, generator=torch.Generator().manual_seed(0))
    near = grid.nearest(coords, 3)
    assert near.index.shape[1] == min(3, grid.num_anchors)
    steps = (coords[:, None] - grid.centres().float()) * torch.tensor(anchors)
    if periodic:
        steps -= (steps / torch.tensor(anchors)).round() * torch.tensor(anchors)
    expected = steps.norm(dim=-1).sort(1).values[:, : near.index.shape[1]]
    torch.testing.assert_close(near.relative.norm(dim=-1), expected, rtol=1e-4, atol=1e-5)
    assert (near.closeness[:, 0] > 0).all()


def test_decoded_values_do_not_jump_where_the_nearest_anchors_change():
    codec = codec_for(random=True)
    tokens = torch.randn(1, 25, 12, generator=torch.Generator().manual_seed(0))
    line = torch.stack([torch.linspace(0.01, 0.99, 20001), torch.full((20001,), 0.37)], 1)
    found = codec.decode_frames(tokens, line)[0]
    steps = (found[1:] - found[:-1]).abs().max()
    assert steps < 1e-2 * (found.max() - found.min())


def test_gradients_with_respect_to_coordinates_and_tokens():
    codec = codec_for(TORUS, random=True, anchors=(3, 3), degree=1).double()
    generator = torch.Generator().manual_seed(0)
    coords = torch.rand(3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    tokens = torch.randn(1, 9, 3, generator=generator, dtype=torch.float64).requires_grad_()
    sample = torch.zeros(3, dtype=torch.int64)
    assert torch.autograd.gradcheck(
        lambda t, x: codec.decode(t, x, sample), (tokens, coords), nondet_tol=1e-10
    )
    cloud = particles(number=40)
    values = torch.randn(40, 1, generator=generator, dtype=torch.float64).requires_grad_()
    codec.encode(values, cloud).square().sum().backward()
    assert values.grad is not None
    assert all(w.grad is not None for w in codec.encoder.parameters())


def test_three_dimensions():
    geometry = replace(
        SQUARE, bounds=((0.0, 1.0),) * 3, periodic=(False,) * 3, kind="mesh", fields=("u", "v")
    )
    codec, cloud = codec_for(geometry, anchors=(4, 4, 4)), mesh(per_axis=8, dims=3)
    values = smooth(cloud.coords)
    assert relative_error(codec(values, cloud), values) < 5e-3
    context = codec.context(values[:, :1], cloud)
    assert context.shape == (1, 64, codec.context_dim)


def test_the_residual_can_be_trained():
    torch.manual_seed(0)
    codec, cloud = codec_for(anchors=(3, 3), degree=1), mesh(per_axis=9)
    values = torch.sin(9 * cloud.coords)
    plan = codec.prepare(cloud)
    optimizer = torch.optim.Adam(codec.parameters(), 6e-3)
    first = relative_error(codec(values, plan), values)
    for _ in range(50):
        loss = (codec(values, plan) - values).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert relative_error(codec(values, plan), values) < 0.7 * first


def test_units_are_physical_at_both_ends():
    cloud = mesh(per_axis=9)
    plain, scaled = codec_for(learned=False), codec_for(learned=False)
    scaled.set_normalisation([3.0, -1.0], [10.0, 0.1])
    values = smooth(cloud.coords)
    physical = values * torch.tensor([10.0, 0.1]) + torch.tensor([3.0, -1.0])
    torch.testing.assert_close(scaled.encode(physical, cloud), plain.encode(values, cloud))
    assert relative_error(scaled(physical, cloud), physical) < 0.01


def test_fields_seen_by_their_logarithm():
    codec = codec_for(replace(SQUARE, transforms=("none", "log")), learned=False)
    cloud = mesh(per_axis=12)
    values = torch.stack([cloud.coords[:, 0], (6 * smooth(cloud.coords)[:, 0]).exp()], 1)
    codec.fit([(values, cloud), (values, cloud)])
    assert codec.compression == pytest.approx(144 * 2 / (25 * 12))
    log = values[:, 1].log()
    assert float(codec.shift[1]) == pytest.approx(float(log.mean()), rel=1e-4)
    assert relative_error(codec(values, cloud)[:, 1], values[:, 1]) < 0.05
    assert (codec(values, cloud)[:, 1] > 0).all()
    with pytest.raises(DataError, match="'v': -1 has no logarithm"):
        codec.fit([(torch.full((144, 2), -1.0), cloud)])
    with pytest.raises(ValueError, match="no batches"):
        codec.fit([])


def test_context_holds_inputs_density_and_boundary():
    codec, cloud = codec_for(learned=False, degree=1), mesh(per_axis=20)
    codec.set_input_normalisation([1.0], [2.0])
    inputs = 1 + 2 * cloud.coords[:, :1]
    context = codec.context(inputs, cloud)
    assert context.shape == (1, 25, codec.context_dim)
    local_mean, slope, density = context[0, :, 0], context[0, :, 1:3], context[0, :, 3]
    anchors = codec.grid.centres().float()
    torch.testing.assert_close(local_mean, anchors[:, 0], rtol=0, atol=1e-3)
    assert (slope[:, 1].abs() > 10 * slope[:, 0].abs()).all()
    torch.testing.assert_close(density, torch.ones(25), rtol=0, atol=0.15)
    boundary, inside = context[0, :, 6], context[0, :, -1]
    middle = (anchors - 0.5).abs().amax(1) < 0.3
    assert (boundary[middle] == 0).all()
    assert (boundary[~middle] > 0.5).all()
    torch.testing.assert_close(inside, torch.ones(25), rtol=0, atol=0.02)
    assert codec_for(TORUS).context(None, particles()).shape == (1, 25, 3)
    with pytest.raises(ValueError, match="0 inputs, expected 1"):
        codec.context(None, cloud)


def test_fingerprint_knows_weights_options_and_geometry():
    one, same = codec_for(), codec_for()
    assert one.fingerprint() == same.fingerprint()
    seen = {one.fingerprint(), codec_for(ridge=0.1).fingerprint()}
    seen.add(codec_for(replace(SQUARE, fields=("u", "w"))).fingerprint())
    seen.add(codec_for(random=True).fingerprint())
    same.set_normalisation([0.0, 0.0], [1.0, 2.0])
    seen.add(same.fingerprint())
    assert len(seen) == 5
    assert codec_for(gate=0.5).fingerprint() == one.fingerprint()


def test_what_others_rely_on():
    codec = codec_for()
    assert codec.label == "points12_2d_25tok"
    assert (codec.num_tokens, codec.latent_dim, codec.num_fields) == (25, 12, 2)
    assert codec.separable
    assert not codec.is_invertible
    assert codec.weights is None
    assert codec.points_per_token == 1
    assert codec.compression == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="2 dimensions") as found:
        codec_for(anchors=(4, 4, 4))
    assert found.value.hint == "--set 'codec.anchors=[16,16]'"
    codec, cloud = codec_for(), mesh(per_axis=5)
    with pytest.raises(ValueError, match=r"shape \(25, 3\), expected \(25, 2\)"):
        codec.encode(torch.zeros(25, 3), cloud)
    with pytest.raises(DataError, match="boundary tag 2, the codec knows 0 to 1"):
        codec.encode(smooth(cloud.coords), replace(cloud, tags=2 * cloud.tags))
    with pytest.raises(DataError, match="nodes in 3 dimensions"):
        codec.encode(torch.zeros(64, 2), mesh(per_axis=4, dims=3))


def test_values_may_come_in_double_precision():
    cloud, codec = mesh(per_axis=9), codec_for(learned=False).double()
    values = smooth(cloud.coords).double()
    assert codec(values, cloud).dtype == torch.float64
    assert np.isfinite(relative_error(codec(values, cloud), values))
