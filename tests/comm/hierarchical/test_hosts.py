"""Ranks are sorted by host whatever their order, and each host has an address for the others."""

from __future__ import annotations

import random

import pytest

from pyparallel.comm.hierarchical import Hosts
from pyparallel.comm.hierarchical.hosts import own_address


def test_every_rank_has_one_place_on_one_host(seed: int) -> None:
    choose = random.Random(seed)
    identities = [f"{choose.choice('abc')}/boot/1" for _ in range(choose.randint(1, 12))]
    hosts = Hosts.of(identities, list(range(100, 100 + len(identities))))
    for rank, identity in enumerate(identities):
        assert hosts.ranks[hosts.host_of[rank]][hosts.local_of[rank]] == rank
        assert hosts.name(rank) == identity[0]
        assert f"rank {rank} (process {100 + rank} on host {identity[0]})" == hosts.describe(rank)
    assert sorted(rank for members in hosts.ranks for rank in members) == list(
        range(len(identities))
    )
    assert list(hosts.leaders) == sorted(hosts.leaders)
    assert all(list(members) == sorted(members) for members in hosts.ranks)
    assert hosts.equal == (len({identities.count(identity) for identity in identities}) == 1)
    for root in range(len(identities)):
        representatives = hosts.representatives(root)
        assert representatives[hosts.host_of[root]] == root
        assert [hosts.host_of[rank] for rank in representatives] == list(range(len(hosts.ranks)))


def test_the_address_is_that_of_the_interface_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert own_address() == "127.0.0.1"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    with pytest.raises(ValueError, match="'nowhere0', which has no IPv4 address"):
        own_address()
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert own_address().count(".") == 3
