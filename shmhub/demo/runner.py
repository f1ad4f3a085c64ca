"""The host's side of the demo: start the plugins, keep them fed, survive their deaths.

One thread, one `HubHostTransport`. What is in flight is bounded, so the hub never fills up and
nobody waits for slots that only others who wait could free:

* a plugin has few jobs, and fewer large ones (`Plugin.has_room_for`);
* all jobs in flight together may take `BUDGET` bytes of the hub, or be one single larger job;
* answers are read as they come, and each becomes a digest at once.

When a plugin dies, everything that it published arrives first. Then the hub tells which messages
it never received; the rest of what was in flight may have run. All of it is sent again, to a new
process in its place.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from shmhub import (
    Frame,
    HubHost,
    HubHostTransport,
    HubTimeoutError,
    PayloadTooLargeError,
    PeerGoneError,
    ShmhubError,
    Slot,
    SlotsExhaustedError,
    WouldBlockError,
)
from shmhub.demo import jobs
from shmhub.demo.crew import LARGE, SIGKILLED, DemoFailed, Plugin
from shmhub.demo.jobs import LAST, Kind, Method, Outcome, Status
from shmhub.demo.killing import KillPlan
from shmhub.demo.tally import KindTally, Tally, Task

__all__ = ["Runner"]

BUDGET: Final = 64 << 20

MAX_LOSSES: Final = 20
"""A job that so many plugins died with is given up: it may be what kills them."""
TICK: Final = 1.0
STALL: Final = 180.0
"""Seconds without any message after which something must be wrong."""


class Runner:
    """Runs `tasks` over `host` once: `with Runner(...) as runner: runner.run()`.

    `tick` is called about once a second and after each result with the number of finished tasks;
    `say` with news worth a line.
    """

    def __init__(
        self,
        host: HubHost,
        tasks: Iterable[Task],
        kills: KillPlan,
        tally: Tally,
        tick: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        self._host = host
        self._kills = kills
        self._tally = tally
        self._tick = tick
        self._say = say
        self._transport = HubHostTransport(host)
        self._ids = itertools.count(1)
        self._finished = 0
        self._total = 0
        self._stopped = False
        # The plugin whose next job does not fit yet: the others' small ones may not keep it out.
        self._held_for: Plugin | None = None
        self._plugins: dict[Kind, Plugin] = {}
        for task in tasks:
            kind = task.source.kind
            plugin = self._plugins.setdefault(kind, Plugin(kind))
            plugin.waiting.append(task)
            self._total += 1

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Until every task has an outcome or was skipped. Raises `DemoFailed`."""
        for kind, plugin in self._plugins.items():
            self._tally.kinds[kind] = KindTally()
            plugin.start(self._host)
        heard = time.monotonic()
        while self._unfinished():
            self._feed()
            if not self._unfinished():
                break
            if self._receive():
                heard = time.monotonic()
            elif time.monotonic() - heard > STALL:
                raise DemoFailed(f"nothing heard from any plugin for {STALL:.0f} s")
            self._tick(self._finished)
        for kind, plugin in self._plugins.items():
            self._tally.kinds[kind].seconds = plugin.seconds
        self._note_statistics()

    def _unfinished(self) -> bool:
        """Is a file without result, or a death on its way that nobody has told of yet?"""
        dying = any(plugin.killed for plugin in self._plugins.values())
        return dying or self._finished < self._total

    def _receive(self) -> bool:
        """Handle one message or one death, if there is one within a second."""
        try:
            frame = self._transport.recv(timeout=TICK)
        except HubTimeoutError:
            return False
        except PeerGoneError as gone:
            self._lost(gone)
        else:
            with frame:
                self._handle(frame)
        return True

    # -- sending ---------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Send what may be sent."""
        for plugin in self._plugins.values():
            while plugin.ready and plugin.waiting and self._admits(plugin, plugin.waiting[0]):
                if not self._send(plugin, plugin.waiting[0]):
                    break

    def _admits(self, plugin: Plugin, task: Task) -> bool:
        if self._held_for not in (None, plugin) or not plugin.has_room_for(task):
            return False
        others = sum(
            other.cost for one in self._plugins.values() for other in one.in_flight.values()
        )
        fits = not others or others + task.cost <= BUDGET
        self._held_for = None if fits else plugin
        return fits

    def _send(self, plugin: Plugin, task: Task) -> bool:
        """Read a task's file straight into the hub and send it. False: try again later."""
        try:
            payload = self._read(task)
        except SlotsExhaustedError:
            return False
        except PayloadTooLargeError as error:
            raise DemoFailed(f"{task.source.path}: {error}") from error
        except ShmhubError:  # some are an OSError as well, but none is the file's
            raise
        except OSError as error:
            plugin.waiting.popleft()
            self._skip(task, error.strerror or str(error))
            return True
        number = next(self._ids)
        size_class = payload.size_class if isinstance(payload, Slot) else None
        try:
            self._transport.send_nowait(
                payload,
                to=plugin.peer_id,
                channel=plugin.kind,
                method=task.method,
                message_id=number,
            )
        except (PeerGoneError, WouldBlockError):
            return False  # the death is told by the next receive, room by the next answer
        finally:
            if isinstance(payload, Slot):
                payload.release()  # of no effect once it was sent
        plugin.waiting.popleft()
        self._sent(plugin, task, number, size_class, task.read)
        return True

    def _read(self, task: Task) -> Slot | bytes:
        with task.source.path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= jobs.INLINE_MAX:
                small = file.read(jobs.INLINE_MAX)
                task.read, task.read_digest = len(small), jobs.digest(small)
                return small
            slot = self._alloc(size)
            try:
                with memoryview(slot) as view:
                    task.read = _read_into(file, view)
                    task.read_digest = jobs.digest(view[: task.read])
                slot.resize(task.read)
            except BaseException:
                slot.release()
                raise
            return slot

    def _alloc(self, size: int) -> Slot:
        if any(plugin.in_flight for plugin in self._plugins.values()):
            return self._transport.alloc_nowait(size)
        # No answer will free anything: what is not free now is on its way back from a dead plugin.
        return self._transport.alloc(size, timeout=STALL)

    def _sent(
        self, plugin: Plugin, task: Task, number: int, size_class: int | None, size: int
    ) -> None:
        task.started = False
        plugin.sent(number, task)
        self._tally.of_class(size_class).sent += 1
        self._tally.largest_payload = max(self._tally.largest_payload, size)

    # -- receiving -------------------------------------------------------------------------------

    def _handle(self, frame: Frame) -> None:
        plugin = self._plugin_of(frame.peer_id)
        size_class = jobs.size_class_of(frame.flags)
        self._tally.of_class(size_class).received += 1
        self._tally.largest_payload = max(self._tally.largest_payload, len(frame))
        if len(frame) > LARGE:
            self._note_statistics()
        if frame.method == Method.HELLO:
            self._greet(plugin, bytes(frame))
            return
        task = plugin.in_flight.get(frame.message_id)
        if task is None or frame.channel != plugin.kind or frame.method != task.method:
            raise DemoFailed(f"an answer to no question: {_labels(frame)}")
        status = jobs.status_of(frame.flags)
        if status == Status.STARTED:
            self._begun(plugin, task)
        elif status == Status.DONE and task.method != LAST[plugin.kind]:
            self._pass_on(plugin, task, frame)
        else:
            self._finish(plugin, task, frame, status)

    def _plugin_of(self, peer_id: int | None) -> Plugin:
        for plugin in self._plugins.values():
            if plugin.peer_id == peer_id:
                return plugin
        raise DemoFailed(f"a message of peer {peer_id}, whom nobody started")

    def _greet(self, plugin: Plugin, payload: bytes) -> None:
        plugin.greet(payload)
        again = f", start {plugin.starts}" if plugin.starts > 1 else ""
        self._say(f"{plugin.label} plugin ready, pid {plugin.pid}{again}")

    def _begun(self, plugin: Plugin, task: Task) -> None:
        task.started = True
        if plugin.killed or not self._kills.now(task, plugin.unfinished):
            return
        plugin.kill()
        self._kills.done += 1
        self._tally.kills += 1
        self._say(
            f"SIGKILL to the {plugin.label} plugin, pid {plugin.pid}, at work on "
            f"{task.source.path.name}, {len(plugin.in_flight)} jobs in flight"
        )

    def _pass_on(self, plugin: Plugin, task: Task, frame: Frame) -> None:
        """The next step of an image: its pixels go back as they came, in the same slot."""
        task.digests.append(jobs.digest(frame.payload))
        size, size_class = len(frame), jobs.size_class_of(frame.flags)
        plugin.answered(frame.message_id)
        number = next(self._ids)
        try:
            self._transport.send_nowait(
                frame,
                to=plugin.peer_id,
                channel=plugin.kind,
                method=Method.ENCODE,
                flags=0,
                message_id=number,
            )
        except (PeerGoneError, WouldBlockError):
            task.begin_again()
            plugin.waiting.appendleft(task)
            return
        task.method = Method.ENCODE
        self._sent(plugin, task, number, size_class, size)

    def _finish(self, plugin: Plugin, task: Task, frame: Frame, status: Status) -> None:
        plugin.answered(frame.message_id)
        digests = (*task.digests, jobs.digest(frame.payload))
        task.outcome = Outcome(status, len(frame), digests)
        tally = self._tally.kinds[plugin.kind]
        tally.files += 1
        tally.bytes_in += task.read
        if status == Status.REFUSED:
            tally.refused += 1
            tally.bytes_out += task.read
            self._say(f"{task.source.path}: {bytes(frame).decode()}")
        else:
            tally.kept += len(frame) >= task.read
            tally.bytes_out += min(len(frame), task.read)
        self._finished += 1

    def _skip(self, task: Task, reason: str) -> None:
        self._tally.skipped.append((task.source.path, reason))
        self._say(f"{task.source.path}: {reason}")
        self._finished += 1

    # -- deaths ----------------------------------------------------------------------------------

    def _lost(self, gone: PeerGoneError) -> None:
        """A plugin is gone: sort what it had, start another in its place."""
        plugin = self._plugin_of(gone.peer_id)
        status = self._reap(plugin, gone)
        lost = plugin.take_all()
        self._check_undelivered(plugin, lost, gone.undelivered)
        for number, task in reversed(lost.items()):
            if number in gone.undelivered:
                self._tally.never_received += 1
            else:
                self._tally.may_have_run += 1
            task.losses += 1
            if task.losses > MAX_LOSSES:
                raise DemoFailed(f"{task.source.path}: {task.losses} plugins died with it")
            task.begin_again()
            plugin.waiting.appendleft(task)
        never = sum(number in gone.undelivered for number in lost)
        self._say(
            f"{plugin.label} plugin gone (status {status}): to send again {never} never "
            f"received, {len(lost) - never} that may have run"
        )
        plugin.peer_id, plugin.killed = 0, False  # that id may be another plugin's next
        if plugin.waiting:
            plugin.start(self._host)

    def _reap(self, plugin: Plugin, gone: PeerGoneError) -> int:
        """Judge how its process ended."""
        status = plugin.reap()
        if not plugin.killed:
            if status == SIGKILLED:
                self._tally.kills_from_outside += 1
            else:
                self._problem(f"the {plugin.label} plugin ended by itself, status {status}")
        if gone.clean and status == SIGKILLED:
            self._problem(f"a killed {plugin.label} plugin counts as left in good order")
        return status

    def _check_undelivered(
        self, plugin: Plugin, lost: dict[int, Task], undelivered: tuple[int, ...]
    ) -> None:
        """The hub's word on what was never received must agree with what the plugin said."""
        for number in undelivered:
            if number not in lost:
                self._problem(f"message {number}, answered or never sent, was called undelivered")
            elif lost[number].started:
                self._problem(f"message {number}, begun by its plugin, was called undelivered")

    def _problem(self, text: str) -> None:
        self._tally.problems.append(text)
        self._say(text)

    # -- the end ---------------------------------------------------------------------------------

    def _note_statistics(self) -> None:
        statistics = self._host.statistics()
        self._tally.memory_peak = max(self._tally.memory_peak, statistics.memory_bytes)
        self._tally.reclaimed = statistics.reclaimed
        self._tally.high_water = [one.high_water for one in statistics.size_classes]

    def check_idle(self) -> None:
        """All work is done and all plugins live: now every slot must be free."""
        statistics = self._host.statistics()
        for one in statistics.size_classes:
            if one.free != one.slots:
                self._problem(
                    f"{one.slots - one.free} slots of {one.slot_size} bytes are still in use: {one}"
                )
        if statistics.violations:
            self._problem(f"{statistics.violations} violations of the hub's protocol")

    def stop(self) -> None:
        """Close the transport; the plugins see that and end."""
        if self._stopped:
            return
        self._stopped = True
        self._transport.close()
        self._host.close()
        for plugin in self._plugins.values():
            status = plugin.goodbye()
            if status is None:
                self._problem(f"the {plugin.label} plugin had to be killed at the end")
            elif status == SIGKILLED:
                self._tally.kills_from_outside += 1
            elif status:
                self._problem(f"the {plugin.label} plugin ended with status {status}")

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            for plugin in self._plugins.values():
                plugin.abandon()
        self.stop()


def _read_into(file: Any, view: memoryview) -> int:
    """Fill `view` from `file`; bytes read, fewer if the file has become shorter."""
    filled = 0
    while filled < len(view):
        count = file.readinto(view[filled:])
        if not count:
            break
        filled += count
    return filled


def _labels(frame: Frame) -> str:
    return (
        f"peer {frame.peer_id}, channel {frame.channel}, method {frame.method}, "
        f"message {frame.message_id}, flags {frame.flags:#x}, {len(frame)} bytes"
    )
