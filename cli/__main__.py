"""`python -m cli` is `peftbench`."""

from cli.main import main

main()
