"""Which snapshots are looked at, of all that there are, and what is said of the others."""

import pytest

from tests.support.world import DAY, World
from vaultik import signing
from vaultik.core.identity import Identity, generate
from vaultik.errors import IntegrityError, NoMatchingIdentityError, SelectionError, SignatureError
from vaultik.look.find import find
from vaultik.look.snapshots import choose
from vaultik.look.wanted import parse_wanted


@pytest.fixture
def world(tmp_path):
    """Two hosts with two snapshots each."""
    with World(tmp_path / "world").clocks() as world:
        for host in (world.add_host(), world.add_host()):
            for day in range(2):
                host.write(f"of day {day}", 1000)
                host.backup()
                world.pass_time(DAY)
        yield world


def ids(world, host=None):
    return sorted(s["id"] for s in world.snapshots.values() if host is None or s["host"].number == host)


def test_all_of_a_host(world):
    store = world.open_store()
    choice = choose(store, [world.identity])
    assert sorted(found.name.snapshot for found in choice.chosen) == ids(world)
    for number in (0, 1):
        choice = choose(store, [world.identity], host=f"host{number}")
        assert [found.name.snapshot for found in choice.chosen] == ids(world, number)
        source = choice.chosen[0].source8
        assert choose(store, [world.identity], host=source).chosen == choice.chosen
    with pytest.raises(SelectionError, match="no snapshot of host 'host2'"):
        choose(store, [world.identity], host="host2")


def test_those_that_are_named_once_each_in_their_order(world):
    first, *_, last = ids(world)
    choice = choose(world.open_store(), [world.identity], [last, first, last])
    assert [found.name.snapshot for found in choice.chosen] == [last, first]


def test_none_that_the_identity_opens(world):
    with pytest.raises(NoMatchingIdentityError, match="opens none of these"):
        choose(world.open_store(), [Identity(generate()[0])])


def test_what_nobody_signed(world, tmp_path):
    signers = tmp_path / "signers"
    signers.write_text("host0 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2Z5Gxu1kHmJzEDpuPyBwCPVvn3jm7wNZMjMvMGa2ZC\n")
    with pytest.raises(SignatureError):
        choose(world.open_store(), [world.identity], signers=signing.load_signers(signers))


@pytest.mark.parametrize("suffix", [".manifest.zst.age", ".sqlite.zst.age"])
def test_one_that_is_damaged_costs_itself(world, suffix):
    wanted = parse_wanted([b"of day *"])
    bad, *good = ids(world, 0)
    (key,) = [key for key in world.objects if bad in key and key.endswith(suffix)]
    data, at = world.objects[key]
    world.objects[key] = (data[:-1] + bytes([data[-1] ^ 1]), at)
    store = world.open_store()
    choice = choose(store, [world.identity], host="host0")
    found = list(find(store, [world.identity], choice.chosen, wanted, damaged=choice.damaged.append))
    assert {s for history in found for version in history.versions for s in version.snapshots} == set(good)
    (reason,) = choice.damaged
    assert bad in str(reason)
    with pytest.raises(IntegrityError, match=bad):
        named = choose(store, [world.identity], [bad, *good], signers=[] if "manifest" in suffix else None)
        list(find(store, [world.identity], named.chosen, wanted))
