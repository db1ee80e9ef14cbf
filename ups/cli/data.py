"""`ups data`: getting data in; one file for each pair of commands that belong together."""

from __future__ import annotations

from ups.cli import (
    data_bench,
    data_cards,
    data_convert,
    data_disk,
    data_download,
    data_generate,
    data_show,
    data_travel,
)
from ups.cli._app import group

app = group("Get datasets, convert, audit, look at, share, measure and prune them.")
for name, command, summary in (
    ("list", data_cards.list_datasets, "All datasets, and what is here."),
    ("info", data_cards.info, "A dataset's card, statistics and files."),
    ("generate", data_generate.generate, "Solve the PDE here."),
    ("download", data_download.download, "Fetch published originals."),
    ("convert", data_convert.convert, "Raw files into a store."),
    ("audit", data_convert.audit, "Look for what is wrong."),
    ("show", data_show.show, "Draw a trajectory."),
    ("pull", data_travel.pull, "Fetch versions from a remote."),
    ("push", data_travel.push, "Send a version to a remote."),
    ("publish", data_travel.publish, "Audit, push, verify, and enter into the card."),
    ("deprecate", data_travel.deprecate, "Mark a version on a remote."),
    ("bench", data_bench.bench, "Measure how fast training reads."),
    ("du", data_disk.du, "What uses the disk."),
    ("prune", data_disk.prune, "Remove what may go."),
):
    app.command(name, short_help=summary)(command)
