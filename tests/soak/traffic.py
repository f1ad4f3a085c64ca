"""The host's side of the traffic: receives, checks, passes on, holds, sends.

Either all peers share one transport, and one thread receives from all, or each has its own, with a
thread each; one more thread sends to all. A failure in any of them is told through `on_failure`.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import shmhub
from tests.soak.ledger import PATIENCE, Kind, Ledger, Wrong
from tests.soak.messages import BATCH, Identity, Method, some_size, some_sizes_of_many

_WAIT = 0.05
# How a send ends to one that is gone; the receiver is told, too, and closes the ledger. (The shared
# transport forgets it, the own one is closed.)
_GONE = (shmhub.PeerGoneError, shmhub.PeerStateError, shmhub.HubClosedError)
_MOST_HELD = 6
_HELD_BYTES = 20 << 20


class Life:
    """One life as the host sees it: its ledger and how to reach it."""

    def __init__(self, ledger: Ledger, info: shmhub.PeerInfo, transport: Any) -> None:
        self.ledger = ledger
        self.info = info
        self.transport = transport  # its own; None: the one that all share
        self.gone = threading.Event()


class _Held:
    """Frames that the host keeps for a while, longer than their senders may live."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._frames: list[tuple[shmhub.Frame, Identity]] = []

    def keep(self, frame: shmhub.Frame, identity: Identity) -> None:
        self._frames.append((frame, identity))
        while len(self._frames) > _MOST_HELD or self._bytes() > _HELD_BYTES:
            self.let_one_go()

    def _bytes(self) -> int:
        return sum(len(frame) for frame, _ in self._frames)

    def let_one_go(self) -> None:
        frame, identity = self._frames.pop(self._rng.randrange(len(self._frames)))
        identity.check(frame.payload)
        frame.release()

    def let_all_go(self) -> None:
        while self._frames:
            self.let_one_go()


class Traffic:
    """All that moves between the host and whoever lives."""

    def __init__(
        self,
        host: shmhub.HubHost,
        totals: Counter[str],
        seed: str,
        on_failure: Callable[[BaseException], None],
        *,
        shared: bool,
    ) -> None:
        self.totals = totals
        self._host = host
        self._seed = seed
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._sending = threading.Lock()  # before any ledger's lock
        self._lives: dict[tuple[int, int], Life] = {}  # by peer id and epoch
        self._stopping = threading.Event()
        self._resting = threading.Event()
        self._threads: list[threading.Thread] = []
        self._threads_started = 0
        self._shared: shmhub.HubHostTransport | None = None
        self._spare: shmhub.PeerInfo | None = None
        if shared:
            self._shared = shmhub.HubHostTransport(host, on_peer_gone=self._shared_gone)
            self.allocator: Any = self._shared  # for the driver's own slots
            self._start(self._receive_shared, self._shared)
        else:
            self._spare = host.add_peer("nobody")
            self.allocator = self._own_transport(self._spare)
        self._start(self._send)

    def _own_transport(self, info: shmhub.PeerInfo) -> shmhub.HubHostPeerTransport:
        return shmhub.HubHostPeerTransport(self._host, info.peer_id, info.doorbell)

    # ---- lives ---------------------------------------------------------------------------

    def reserve(self, name: str) -> shmhub.PeerInfo:
        """A place for a new life.

        The shared transport sends to ids, and an id that is free may be one whose end it has not
        told us of yet: nobody sends until it has, or the next life would get what was meant for
        the one before.
        """
        with self._sending:
            info = self._host.add_peer(name)
            for life in self.living():
                if self._shared is None or life.info.peer_id != info.peer_id:
                    continue
                if not life.gone.wait(PATIENCE):
                    raise Wrong(f"id {info.peer_id} was given out again, but its end never told")
        return info

    def welcome(self, ledger: Ledger, info: shmhub.PeerInfo) -> Life:
        """From here on messages go to that life and are expected of it."""
        transport = None if self._shared is not None else self._own_transport(info)
        life = Life(ledger, info, transport)
        with self._lock:
            self._lives[life.info.peer_id, life.info.epoch] = life
        if transport is not None:
            self._start(self._receive_own, life)
        return life

    def living(self) -> list[Life]:
        with self._lock:
            return list(self._lives.values())

    def _bury(self, life: Life, gone: shmhub.PeerGoneError) -> None:
        with self._lock:
            del self._lives[life.info.peer_id, life.info.epoch]
        try:
            life.ledger.close(gone)
        finally:
            life.gone.set()

    def _shared_gone(self, gone: shmhub.PeerGoneError) -> None:
        assert gone.peer_id is not None and gone.epoch is not None
        with self._lock:
            life = self._lives[gone.peer_id, gone.epoch]
        self._bury(life, gone)

    # ---- receiving -----------------------------------------------------------------------

    def _receive_shared(self, rng: random.Random, transport: Any) -> None:
        def find(frame: shmhub.Frame) -> Life:
            with self._lock:
                return self._find_shared(frame)

        held = _Held(rng)
        while not self._stopping.is_set():
            try:
                self._receive_once(transport, find, held, rng)
            except shmhub.ProtocolViolation:
                self._count_violation(any(life.ledger.lies for life in self.living()))
        held.let_all_go()

    def _find_shared(self, frame: shmhub.Frame) -> Life:
        """Whose is it? An id has one life at a time here: see `reserve`."""
        for life in self._lives.values():
            if life.info.peer_id == frame.peer_id:
                return life
        raise Wrong(f"a message of peer {frame.peer_id}, which is nobody: {frame!r}")

    def _receive_own(self, rng: random.Random, life: Life) -> None:
        held = _Held(rng)
        try:
            while True:
                try:
                    self._receive_once(life.transport, lambda _: life, held, rng)
                except shmhub.ProtocolViolation:
                    self._count_violation(life.ledger.lies)
        except shmhub.PeerGoneError as gone:
            self._bury(life, gone)
        finally:
            held.let_all_go()
            life.transport.close()

    def _receive_once(
        self, transport: Any, find: Callable[[shmhub.Frame], Life], held: _Held, rng: random.Random
    ) -> None:
        if self._resting.is_set():
            held.let_all_go()
        try:
            if rng.random() < 0.5:
                frames = transport.recv_many(BATCH, timeout=_WAIT)
            else:
                frames = [transport.recv(timeout=_WAIT)]
        except shmhub.HubTimeoutError:
            return
        for frame in frames:
            self._take(frame, find(frame), held, rng)

    def _take(self, frame: shmhub.Frame, life: Life, held: _Held, rng: random.Random) -> None:
        ledger = life.ledger
        # Looked at after the receive: a message taken while this is not set was sent before.
        if ledger.lies:
            self._count("lies received")
            frame.release()
            return
        identity = ledger.identify(frame)
        identity.check(frame.payload)
        ledger.count_received()
        self._count("messages up")
        self._count("bytes up", len(frame))
        if frame.method == Method.FORWARD and not identity.down and self._pass_on(frame, rng):
            return
        if rng.random() < 0.05 and not self._resting.is_set():
            held.keep(frame, identity)
        else:
            frame.release()

    def _pass_on(self, frame: shmhub.Frame, rng: random.Random) -> bool:
        """The slot itself goes on to somebody else; False: it was not possible just now."""
        others = [life for life in self.living() if life.ledger.kind is Kind.PYTHON]
        if not others:
            return False
        # A receiver waits but briefly to send: whoever holds this may be waiting for it.
        if not self._sending.acquire(timeout=_WAIT):
            return False
        try:
            return self._pass_on_to(rng.choice(others), frame)
        finally:
            self._sending.release()

    def _pass_on_to(self, target: Life, frame: shmhub.Frame) -> bool:
        with target.ledger.lock:
            if target.ledger.closed:
                return False
            try:
                sent = self._send_to(target, frame)
            except (shmhub.RingFullError, shmhub.SlotsExhaustedError, *_GONE):
                self._count("not passed on")
                return False
            except shmhub.ProtocolViolation:
                self._count_violation(target.ledger.lies)
                return False
            target.ledger.count_sent(sent, own=False)
        self._count("messages passed on")
        return True

    # ---- sending -------------------------------------------------------------------------

    def _way_to(self, life: Life) -> tuple[Any, int | None]:
        """The transport and its `to`."""
        if self._shared is not None:
            return self._shared, life.info.peer_id
        return life.transport, None

    def _send_to(self, life: Life, payload: Any, **labels: Any) -> int:
        transport, to = self._way_to(life)
        return int(transport.send_nowait(payload, to=to, **labels))

    def _send(self, rng: random.Random) -> None:
        while not self._stopping.is_set():
            lives = self.living()
            if self._resting.is_set() or not lives:
                self._stopping.wait(_WAIT)
                continue
            life = rng.choice(lives)
            with self._sending, life.ledger.lock:
                if life.ledger.closed:
                    continue
                try:
                    self._send_something(life, rng)
                except (shmhub.RingFullError, shmhub.HubTimeoutError):
                    self._count("ring full")
                except shmhub.SlotsExhaustedError:
                    self._count("exhausted")
                except _GONE:
                    self._count("sent to the dead")
                except shmhub.ProtocolViolation:
                    self._count_violation(life.ledger.lies)

    def _send_something(self, life: Life, rng: random.Random) -> None:
        how = rng.randrange(10)
        if how == 0 and life.ledger.kind is not Kind.ECHO:
            self._send_many(life, rng)
            return
        identity = life.ledger.next_down()
        payload: Any = identity.payload(some_size(rng))
        length = len(payload)
        if how < 5:
            payload = self._filled_slot(life, payload)
        sent = self._send_to(life, payload, message_id=identity.message_id)
        life.ledger.count_sent(sent, own=True)
        self._count("messages down")
        self._count("bytes down", length)

    def _filled_slot(self, life: Life, payload: bytes) -> shmhub.Slot:
        transport, _ = self._way_to(life)
        slot: shmhub.Slot = transport.alloc(len(payload), timeout=_WAIT)
        slot.write(payload)
        return slot

    def _send_many(self, life: Life, rng: random.Random) -> None:
        sizes = some_sizes_of_many(rng)
        payloads = [life.ledger.next_down(i).payload(size) for i, size in enumerate(sizes)]
        transport, to = self._way_to(life)
        ids: list[int | None] = []
        try:
            ids += transport.send_many(payloads, to=to, method=Method.MANY, timeout=_WAIT)
        except shmhub.ShmhubError as error:
            # How many went it tells, but not under which ids.
            ids += [None] * error.sent  # type: ignore[attr-defined]
            raise
        finally:
            for one, size in zip(ids, sizes, strict=False):
                life.ledger.count_sent(one, own=True)
                self._count("bytes down", size)
            self._count("messages down", len(ids))

    # ---- rest and end --------------------------------------------------------------------

    def rest(self) -> None:
        """From here on nothing is sent and nothing held."""
        self._resting.set()

    def close(self) -> None:
        """All lives must be over, or be ended first."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self.allocator.close()
        if self._spare is not None:
            self._host.remove_peer(self._spare.peer_id)

    def progress(self) -> int:
        return self.totals["messages up"] + self.totals["messages down"]

    def _count_violation(self, of_a_liar: bool) -> None:
        """For an except clause: whom nobody has lied about raises what is being handled."""
        if not of_a_liar:
            raise
        self._count("violations met")

    def _count(self, what: str, amount: int = 1) -> None:
        with self._lock:
            self.totals[what] += amount

    def _start(self, body: Callable[..., None], *arguments: Any) -> None:
        self._threads_started += 1
        rng = random.Random(f"{self._seed}/{self._threads_started}")

        def guarded() -> None:
            try:
                body(rng, *arguments)
            except BaseException as error:
                self._on_failure(error)

        thread = threading.Thread(target=guarded, name=body.__name__, daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()
