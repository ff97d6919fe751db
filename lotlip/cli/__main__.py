"""`python -m lotlip.cli`."""

from lotlip.cli import main

main()
