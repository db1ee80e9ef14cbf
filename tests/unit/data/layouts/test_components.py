"""Names of vector components in raw files."""

from __future__ import annotations

import pytest

from ups.data.layouts.components import by_array, split_component
from ups.errors import ConfigError
from ups.registry import FieldSpec


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("velocity[0]", ("velocity", 0)),
        ("velocity[12]", ("velocity", 12)),
        ("density", ("density", None)),
        ("t0_fields/density", ("t0_fields/density", None)),
    ],
)
def test_a_name_is_split_into_array_and_index(name, expected):
    assert split_component(name) == expected


@pytest.mark.parametrize("name", ["", "v[", "v[]", "v[-1]", "v[x]", "[0]", "v[0]w", "v[0][1]"])
def test_a_name_with_other_brackets_is_refused(name):
    with pytest.raises(ConfigError, match="neither a name nor a name with an index"):
        split_component(name)


def test_components_of_one_array_are_gathered_with_their_channels():
    fields = [
        FieldSpec(name="vy", description="", raw="v[1]"),
        FieldSpec(name="s", description=""),
        FieldSpec(name="vx", description="", raw="v[0]"),
    ]
    assert by_array(fields) == {"v": [(0, 1), (2, 0)], "s": [(1, None)]}
