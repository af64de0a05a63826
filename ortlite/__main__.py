"""`python -m ortlite`: the same as the `ortlite` command."""

from ortlite.cli import main

main(prog_name="ortlite")
