"""The command ``hesse`` and its subcommands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hesse._base.pages import keep_memory
from hesse._base.version import __version__
from hesse._cli.check import check
from hesse._cli.env import env
from hesse._cli.spectrum import spectrum
from hesse._cli.vhp import vhp

# An error of hesse's own prints as Python prints it; those of users are reported by hesse._cli.failures.
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.command()(check)
app.command()(vhp)
app.command()(spectrum)
app.command()(env)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hesse {__version__}")
        raise typer.Exit


@app.callback()
def describe(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Exact products with Hessians of any PyTorch program.

    A problem file is a Python file, say problem.py, with a function problem():

      import hesse, torch

      def problem():
          return hesse.Problem(func=lambda x: (x**4).sum(), inputs=torch.ones(3))

    Then:

      hesse check problem.py

      hesse vhp problem.py

      hesse spectrum problem.py --out report
    """


def main() -> None:
    """Run the command with the words that it was called with."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show ᵀ gets a question mark, and not a UnicodeEncodeError.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    with keep_memory():
        app(prog_name="hesse")
