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
)
from ups.cli._app import group

app = group("Get datasets, convert, audit, look at, measure and prune them.")
app.command("list")(data_cards.list_datasets)
app.command("info")(data_cards.info)
app.command("generate")(data_generate.generate)
app.command("download")(data_download.download)
app.command("convert")(data_convert.convert)
app.command("audit")(data_convert.audit)
app.command("show")(data_show.show)
app.command("bench")(data_bench.bench)
app.command("du")(data_disk.du)
app.command("prune")(data_disk.prune)
