"""`python -m vaultik`: the same as the command `vaultik`."""

from vaultik.cli.main import main

main()
