"""``python -m hesse``: the command, where its script is not on the path."""

from hesse._cli import main

main()
