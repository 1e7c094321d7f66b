"""What the machine that runs the tests has set for boto3 is none of their business, and nothing but loopback is asked."""

import os

import pytest
from botocore.retries.standard import ExponentialBackoff


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)


@pytest.fixture
def pauses(monkeypatch):
    """The longest pause that botocore could have made before each further try; none is made."""
    longest = []
    delay_amount = ExponentialBackoff.delay_amount

    def note(self, context):
        self._random = lambda: 1.0
        longest.append(delay_amount(self, context))
        return 0

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", note)
    return longest
