"""Frames around no DB: those that unpack to far more than is stored."""

from tests.fuzz.targets.frames import bomb, mutate

__all__ = ["bombs", "mutate"]


def bombs():
    """At the bound that a DB has, above it, and one that says less than it holds."""
    return [bomb(512), bomb(513), bomb(8192), bomb(2000, 1000), bomb(10, 1 << 62)]
