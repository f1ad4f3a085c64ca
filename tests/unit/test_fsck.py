"""`HubHost.fsck`: what a host learns of its own hub, and what it may mend."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

import pytest

import shmhub
from tests.support.hub_file import SLOT_META, Header

CONFIG = shmhub.HubConfig(
    size_classes=[shmhub.SizeClass(1024, 8, 8), shmhub.SizeClass(16384, 4, 4)],
    max_peers=4,
    ring_capacity=16,
)


@pytest.fixture
def host() -> Iterator[shmhub.HubHost]:
    with shmhub.HubHost.create(config=CONFIG) as made:
        yield made


@pytest.fixture
def header(host: shmhub.HubHost) -> Iterator[Header]:
    with Header(host.fileno()) as opened:
        yield opened


def slot_at(header: Header, size_class: int, index: int) -> int:
    regions = {region.name: region for region in header.regions(1)}
    return regions[f"slots of class {size_class}"].start + index * SLOT_META


def write_ctl(area: mmap.mmap, at: int, *, gen: int, state: int, owner: int) -> None:
    struct.pack_into("<Q", area, at, gen << 32 | state << 16 | owner)


def test_a_sound_hub_is_clean(host: shmhub.HubHost) -> None:
    report = host.fsck()
    assert report.clean
    assert (report.findings, report.found, report.slots) == ((), 0, 12)
    assert not report.live
    assert host.fsck(repair=True).found == 0


def test_a_slot_of_nobody_is_found_said_and_freed(host: shmhub.HubHost, header: Header) -> None:
    write_ctl(header.map, slot_at(header, 0, 5), gen=9, state=77, owner=3)
    report = host.fsck()
    [finding] = report.findings
    assert (finding.kind, finding.size_class, finding.slot) == ("state", 0, 5)
    assert "state 77" in finding.found
    assert str(finding).startswith("slot 0:5: ctl: state 77")
    assert (report.clean, report.left) == (False, 1)
    report = host.fsck(repair=True)
    assert [one.repaired for one in report.findings] == [True]
    assert (report.clean, report.repaired, report.left) == (True, 1, 0)
    assert host.fsck().found == 0


def test_what_the_host_holds_is_told_from_what_only_seems_to_be_its(
    host: shmhub.HubHost, header: Header
) -> None:
    with shmhub.HubHostTransport(host) as transport:
        held = transport.alloc(1000)
        assert host.fsck().found == 0
        stray = (held.reference[1] + 1) % 8
        write_ctl(header.map, slot_at(header, 0, stray), gen=3, state=1, owner=0)
        report = host.fsck(repair=True)
        [finding] = report.findings
        assert (finding.kind, finding.slot) == ("stray", -1), "which one is not known"
        assert report.left == 1
        held.write(b"mine")
        held.release()
        report = host.fsck(repair=True)
        assert [(one.kind, one.slot) for one in report.findings] == [("stray", stray)]
        assert report.clean
        slots = [transport.alloc_nowait(1000) for _ in range(8)]
        assert {slot.capacity for slot in slots} == {1024}
        for slot in slots:
            slot.release()


def test_a_frame_of_a_dead_plugin_is_held(host: shmhub.HubHost) -> None:
    """A view pins its slot, and fsck knows of it."""
    with shmhub.HubHostTransport(host) as transport:
        slot = transport.alloc(5000)
        view = memoryview(slot)
        slot.release()
        assert host.fsck(repair=True).found == 0
        view[:3] = b"abc"
        assert host.statistics().size_classes[1].owned == 1
        view.release()
        assert host.statistics().size_classes[1].owned == 0


def test_free_lists_are_made_anew(host: shmhub.HubHost, header: Header) -> None:
    for index in range(8):
        struct.pack_into("<I", header.map, slot_at(header, 0, index) + 8, 0xFFFFFFFF)
    report = host.fsck(repair=True)
    assert {one.kind for one in report.findings} == {"out_of_range"}
    assert report.clean
    assert (report.off_list, report.misplaced) == (0, 0)


def test_a_broken_header_is_written_again(host: shmhub.HubHost, header: Header) -> None:
    header.map[:8] = bytes(8)
    assert [one.kind for one in host.fsck().findings] == ["header"]
    assert host.fsck(repair=True).clean
    info = host.add_peer()
    shmhub.HubPeer.open(f"/proc/self/fd/{host.fileno()}", info.peer_id).close()


def test_a_closed_hub_has_no_fsck() -> None:
    host = shmhub.HubHost.create(config=CONFIG)
    host.close()
    with pytest.raises(shmhub.HubClosedError):
        host.fsck()
