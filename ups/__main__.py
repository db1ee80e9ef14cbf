"""`python -m ups`."""

from ups.cli.main import main

main()
