"""How random histories are run: the same ones each time in CI, new ones in `make soak`."""

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

HISTORIES = os.environ.get("VAULTIK_HISTORIES")
"""How many of each kind `make soak` asks for."""


def run_histories(machine, *, examples, steps):
    """Run so many histories of so many steps at most."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(HISTORIES or examples),
            stateful_step_count=steps,
            deadline=None,
            derandomize=HISTORIES is None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
