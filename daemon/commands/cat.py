"""The command cat: print one content as it is."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from daemon import reach, routes
from daemon.answers import CatRequest
from daemon.commands.options import describe
from store.errors import DizzyError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.cli import Console


def define_cat(parser: ArgumentParser) -> None:
    """Define `dizzyd cat`."""
    describe(
        parser,
        "Print one content by path or by its BLAKE3 hash, from disk, history or a peer.",
        "dizzyd cat ~/Photos/list.txt",
        "dizzyd cat af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262 > copy",
    )
    parser.add_argument("path_or_hash", metavar="PATH|HASH", help="a path, or 64 hex digits")


def run_cat(arguments: Namespace, console: Console) -> int:
    """Copy the content to stdout, byte for byte."""
    try:
        directory = os.getcwd()  # noqa: PTH109 - a str, as the request wants it
    except FileNotFoundError as cause:
        raise DizzyError("working directory", "is gone", hint="cd to another one") from cause
    asked = CatRequest(path_or_hash=arguments.path_or_hash, cwd=directory)
    output = sys.stdout.buffer
    for piece in reach.follow(console.home, routes.CAT, asked):
        output.write(piece)
    output.flush()
    return 0
