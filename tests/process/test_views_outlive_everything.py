"""Views, arrays and unpickled arrays stay readable after release, close and death.

Their slot comes back when they die, and not before.
"""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import PATIENCE
from tests.support.stage import Link, Stage, small

SIZE = 100_000


def _memoryview(frame: Any) -> Any:
    return memoryview(frame)


def _payload(frame: Any) -> Any:
    return frame.payload


def _slice(frame: Any) -> Any:
    return frame.payload[:]


def _ndarray(frame: Any) -> Any:
    return np.frombuffer(frame, dtype=np.uint8)


def _array_of_payload(frame: Any) -> Any:
    return np.asarray(frame.payload)[::1]


def _unpickled_array(frame: Any) -> Any:
    """As codecs do it: the array's data is an out-of-band buffer in the slot."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(np.arange(SIZE, dtype=np.uint8), 5, buffer_callback=buffers.append)
    return pickle.loads(head, buffers=[frame.payload])


EXPORTS = [_memoryview, _payload, _slice, _ndarray, _array_of_payload, _unpickled_array]


def _release(frame: Any, link: Link, host: shmhub.HubHost) -> None:
    frame.release()


def _close_transport(frame: Any, link: Link, host: shmhub.HubHost) -> None:
    link.transport.close()


def _close_host(frame: Any, link: Link, host: shmhub.HubHost) -> None:
    link.transport.close()
    host.close()


def _kill_the_sender(frame: Any, link: Link, host: shmhub.HubHost) -> None:
    link.kill()
    with pytest.raises(shmhub.PeerGoneError):
        link.transport.recv(timeout=PATIENCE)


def _everything(frame: Any, link: Link, host: shmhub.HubHost) -> None:
    frame.release()
    _kill_the_sender(frame, link, host)
    _close_host(frame, link, host)


ENDS = [_release, _close_transport, _close_host, _kill_the_sender, _everything]


@pytest.mark.parametrize("end", ENDS, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("export", EXPORTS, ids=lambda f: f.__name__.strip("_"))
def test_a_view_stays_readable_and_unchanged(
    stage: Stage, export: Callable[[Any], Any], end: Callable[..., None]
) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    link.agent.call("send", count=1, size=SIZE, sender=6, first=42)
    frame = link.transport.recv(timeout=PATIENCE)
    view = export(frame)
    end(frame, link, host)
    del frame
    gc.collect()
    if not host.closed:
        assert counts.total(host, "owned") == 1
        _stir(link)
    assert patterns.check(view, sender=6, sequence=42).length == SIZE
    del view
    gc.collect()
    if not host.closed:
        counts.wait_all_free(host)


def _stir(link: Link) -> None:
    """Uses every slot that can be had, so that one given back too early would be overwritten."""
    if link.transport.closed:
        return
    taken = []
    while True:
        try:
            slot = link.transport.alloc_nowait(SIZE)
        except shmhub.SlotsExhaustedError:
            break
        except shmhub.PeerGoneError:
            break
        slot.write(b"\xee" * SIZE)
        taken.append(slot)
    for slot in taken:
        slot.release()


def test_the_slot_comes_back_with_the_last_of_several_views(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    link.agent.call("send", count=1, size=SIZE)
    frame = link.transport.recv(timeout=PATIENCE)
    views = [memoryview(frame), np.frombuffer(frame, np.uint8), frame.payload[10:20]]
    frame.release()
    frame.release()
    del frame
    while views:
        assert counts.total(host, "owned") == 1
        views.pop()
        gc.collect()
    counts.wait_all_free(host)


def test_releasing_the_view_first_is_the_same(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    link.agent.call("send", count=1, size=SIZE)
    with link.transport.recv(timeout=PATIENCE) as frame:
        view = memoryview(frame)
        view.release()
        assert counts.total(host, "owned") == 1
    counts.wait_all_free(host)


def test_a_dropped_frame_frees_its_slot_at_once(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    link.agent.call("send", count=3, size=SIZE)
    for _ in range(3):
        frame = link.transport.recv(timeout=PATIENCE)
        assert len(frame) == SIZE
        del frame
    assert counts.total(host, "owned") == 0


def test_a_released_frame_cannot_be_used(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    link.agent.call("send", count=1, size=SIZE)
    frame = link.transport.recv(timeout=PATIENCE)
    frame.release()
    for use in (
        lambda: frame.payload,
        lambda: bytes(frame),
        lambda: memoryview(frame),
        lambda: link.transport.send(frame),
    ):
        with pytest.raises((shmhub.ShmhubError, ValueError, BufferError)):
            use()


def test_an_array_filled_in_a_slot_arrives_without_a_copy(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    slot = link.transport.alloc(SIZE)
    array = np.frombuffer(slot, dtype=np.uint8)
    array[:] = np.frombuffer(patterns.make(SIZE, 2, 3), dtype=np.uint8)
    with pytest.raises(BufferError) as refused:
        link.transport.send(slot)
    assert "view" in str(refused.value)
    del array
    gc.collect()
    link.transport.send(slot)
    with pytest.raises((shmhub.ShmhubError, ValueError)):
        slot.write(b"no longer ours")
    slot.release()
    received = link.agent.call("recv", timeout=10)[0]
    assert (received["sender"], received["sequence"]) == (2, 3)
    counts.wait_all_free(host)


def test_a_frame_with_a_live_view_is_passed_on_as_a_copy(stage: Stage) -> None:
    """The slot itself must not move: the view would show what its next owner writes."""
    host = stage.host(small())
    first, second = stage.peer(host), stage.peer(host, writable=True)
    first.agent.call("send", count=1, size=SIZE)
    frame = first.transport.recv(timeout=PATIENCE)
    view = memoryview(frame)
    second.transport.send(frame)
    key = second.agent.call("recv", timeout=10, hold=True)[0]["key"]
    assert counts.total(host, "owned") == 2
    second.agent.call("release", keys=[key])
    _stir(second)
    patterns.check(view, sequence=0)
    view.release()
    with pytest.raises(ValueError, match="sent"):
        second.transport.send(frame)
    counts.wait_all_free(host)


def test_payloads_are_read_only_unless_asked_for(stage: Stage) -> None:
    host = stage.host(small())
    link, open_link = stage.peer(host), stage.peer(host, writable=True)
    link.agent.call("send", count=1, size=SIZE)
    open_link.agent.call("send", count=1, size=SIZE)
    with link.transport.recv(timeout=PATIENCE) as frame:
        assert frame.payload.readonly
        with pytest.raises(TypeError):
            frame.payload[0] = 1
        assert not np.frombuffer(frame, np.uint8).flags.writeable
        gc.collect()
    with open_link.transport.recv(timeout=PATIENCE) as frame:
        frame.payload[0] = 1
        assert frame.payload[0] == 1


def test_views_of_the_peer_outlive_its_transport_and_the_host(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    link.transport.send(patterns.make(SIZE, 0, 1))
    key = link.agent.call("recv", timeout=10, hold=True)[0]["key"]
    link.agent.call("close_transport")
    link.agent.call("close_peer")
    assert link.agent.call("check_held", key=key, sequence=1) == SIZE
    host.close()
    assert link.agent.call("check_held", key=key, sequence=1) == SIZE
    link.agent.call("release")
    link.agent.leave()


def test_views_at_interpreter_exit_do_no_harm(stage: Stage) -> None:
    """The program ends with frames, views and slots alive, nothing closed."""
    for executed in (False, True):
        host = stage.host(small())
        link = stage.peer(host, executed=executed)
        link.transport.send(patterns.make(SIZE, 0, 1))
        link.agent.call("end_with_everything_open")
        assert link.agent.child.wait() == 0, link.agent.child.read_stderr()
        assert link.agent.child.read_stderr() == ""
        counts.wait_all_free(host)
