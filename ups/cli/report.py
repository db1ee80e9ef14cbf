"""`ups report`: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ups import paths
from ups.cli import _output
from ups.errors import UsageError


def report(
    run: Annotated[
        str | None,
        typer.Argument(help="Folder, name/id or name of a run.", show_default="the newest"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file.", show_default="report.html in the run's folder")
    ] = None,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Print it to a PDF beside it as well; needs Chromium.")
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Write one page with all that was judged of a run; it asks for no other file and no network.

    It is made from the run's files: what ups eval kept. ups eval writes it as well; this writes it
    again, beside newer entries of the leaderboard.
    """
    from ups import runs

    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: expected a name that ends in .html")
    folder = runs.find_run(run, with_stage=None)
    from ups.evaluation.reporting import pdf as printing
    from ups.pipeline.pages import write_run_page

    if pdf:
        printing.find_browser()  # before any work
    page = write_run_page(folder, out)
    _output.summary("report", f"{paths.display(page)}, {_output.size(page.stat().st_size)}")
    if pdf:
        printed = printing.write_pdf(page, page.with_suffix(".pdf"))
        _output.summary("pdf", f"{paths.display(printed)}, {_output.size(printed.stat().st_size)}")
    if open_it:
        typer.launch(page.resolve().as_uri())
