"""How fast vaultik is: beside restic, borg and the plain tools, and by itself as what it backs up grows.

Ratios within one run are what counts; machines are noisy.
"""
