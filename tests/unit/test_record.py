"""What the processes of a run tell the first one, for as long as it lasts."""

import os
import traceback

from vaultik.tasks.build import _RAISED
from vaultik.tasks.process import Record


def test_its_memory_is_given_back():
    record = Record()
    try:
        for number in range(50):
            for _ in range(200):
                record.write({"notice": "x" * 400, "number": number})
            assert [event["number"] for event in record.take()] == [number] * 200
        assert os.fstat(record._fd).st_size > 4_000_000
        assert os.fstat(record._fd).st_blocks * 512 < 2_500_000
    finally:
        record.close()


def test_of_a_traceback_only_the_class_is_told():
    for message in ("no", "no\nsecret: word", "", "secret\n\nTraceback (most recent call last):\nsecret: x"):
        try:
            raise ValueError(message)
        except ValueError:
            assert _RAISED.findall(traceback.format_exc())[-1] == "ValueError"
