"""Processes that share a piece of work: which one this is, and how they exchange results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Crew:
    """This process among those that work together.

    Attributes:
        rank: 0 writes what is written once.
        gather: Lists of all processes -> the lists one after the other, on every process.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[list[Any]], list[Any]] = list
