"""The processes of a soak: starts lives, kills, stops and continues them, collects what has ended.

Used by the driver's thread alone (the nursery is). A process may end only as it was made to; how it
ended otherwise, and what it wrote to its standard error, is a failure.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import shmhub
from shmhub.__main__ import main as shmhub_command
from tests.soak.board import Board, Field, State
from tests.soak.ledger import PATIENCE, Kind, Ledger, Wrong
from tests.soak.traffic import Life, Traffic
from tests.support.nursery import Nursery
from tests.support.processes import Child, ExecutedChild

_LIFE_LIMIT = 1 << 31


class Member:
    """One process and the life it plays."""

    def __init__(self, life: Life, child: Child) -> None:
        self.life = life
        self.child = child
        self.killed = False
        self.ended_at: float | None = None
        self.continue_at: float | None = None
        self.beats = -1
        self.beat_at = time.monotonic()

    @property
    def kind(self) -> Kind:
        return self.life.ledger.kind

    def __str__(self) -> str:
        state = "stopped" if self.continue_at is not None else "killed" if self.killed else "runs"
        return f"pid {self.child.pid} peer {self.life.info.peer_id} {state}: {self.life.ledger}"


def build_echo_peer(folder: Path) -> Path:
    """The C program, built against the installed library the way a user would."""
    flags = _flags()
    program = folder / "echo_peer"
    source = Path(__file__).with_name("echo_peer.c")
    subprocess.run(["cc", "-O2", "-o", str(program), str(source), *flags], check=True)
    return program


def _flags() -> list[str]:
    with tempfile.TemporaryFile("w+") as out, contextlib.redirect_stdout(out):
        status = shmhub_command(["--cflags", "--libs"])
        out.seek(0)
        if status:
            raise RuntimeError(f"shmhub --cflags --libs: {out.read()}")
        return out.read().split()


class Crew:
    """Everybody who is attached."""

    def __init__(self, host: shmhub.HubHost, nursery: Nursery, echo: Path, seed: int) -> None:
        self.totals: Counter[str] = Counter()
        self.members: list[Member] = []
        self._host = host
        self._nursery = nursery
        self._echo = echo
        self._seed = seed
        self._rng = random.Random(f"{seed}/crew")
        self._board = Board()
        self._next_life = 1

    @property
    def board(self) -> Board:
        return self._board

    # ---- beginning -----------------------------------------------------------------------

    def start(self, kind: Kind, traffic: Traffic) -> None:
        number, self._next_life = self._next_life, self._next_life + 1
        assert number < _LIFE_LIMIT
        ledger = Ledger(number, kind, self._board.take())
        info = traffic.reserve(f"{kind.value}-{number}")
        life = traffic.welcome(ledger, info)
        child = self._start_echo(life) if kind is Kind.ECHO else self._fork(life)
        info.watch(child.pidfd)
        self.members.append(Member(life, child))
        self.totals["lives"] += 1

    def _fork(self, life: Life) -> Child:
        arguments = {
            "peer_id": life.info.peer_id,
            "record": life.ledger.record.number,
            "life": life.ledger.life,
            "seed": self._rng.getrandbits(32),
        }
        target = "tests.soak.peer:run"
        if life.ledger.kind is Kind.LIAR:
            target = "tests.soak.liar:run"
            arguments["truths"] = self._rng.randrange(60)
        fds = {
            "hub": self._host.fileno(),
            "doorbell": life.info.peer_doorbell_fd,
            "board": self._board.fd,
        }
        return self._nursery.spawn(target, fds=fds, **arguments)

    def _start_echo(self, life: Life) -> Child:
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - the child's handle owns it
        command = [
            str(self._echo),
            f"--board-fd={self._board.fd}",
            f"--record={life.ledger.record.number}",
        ]
        popen = life.info.popen(command, pass_fds=[self._board.fd], stderr=stderr)
        return ExecutedChild(popen, stderr)

    # ---- what is done to them --------------------------------------------------------------

    def kill_one(self, kind: Kind | None = None) -> None:
        """Whoever it hits, stopped or not, attached or not yet."""
        candidates = [one for one in self.members if not one.killed and kind in (None, one.kind)]
        if candidates:
            self._kill(self._rng.choice(candidates))

    def _kill(self, member: Member) -> None:
        member.child.kill()
        member.killed = True
        self.totals["kills"] += 1

    def stop_one(self, seconds: float) -> None:
        candidates = [one for one in self.members if not one.killed and one.continue_at is None]
        if candidates:
            member = self._rng.choice(candidates)
            member.child.signal(signal.SIGSTOP)
            member.continue_at = time.monotonic() + seconds
            self.totals["stops"] += 1

    def continue_those_due(self, *, all_of_them: bool = False) -> None:
        now = time.monotonic()
        for member in self.members:
            if member.continue_at is not None and (all_of_them or member.continue_at <= now):
                member.child.cont()
                member.continue_at = None
                member.beat_at = now

    def kill_all(self, kind: Kind) -> None:
        """And waits until each is collected."""
        for member in self.members:
            if member.kind is kind and not member.killed:
                self._kill(member)
        self.wait_until_gone(kind)

    def wait_until_gone(self, kind: Kind | None = None) -> None:
        while any(kind in (None, member.kind) for member in self.members):
            self.collect()
            time.sleep(0.005)  # a pidfd tells of the process, nothing of the host having been told

    # ---- the end of them -------------------------------------------------------------------

    def collect(self) -> list[Kind]:
        """Takes those away whose process has ended and whose end the host was told."""
        ended = []
        for member in list(self.members):
            if not member.child.has_ended():
                self._look_for_progress(member)
                continue
            if member.ended_at is None:
                member.ended_at = time.monotonic()
            if member.life.gone.is_set():
                self._bury(member)
                ended.append(member.kind)
            elif time.monotonic() > member.ended_at + PATIENCE:
                raise Wrong(f"the host was not told for {PATIENCE:g} s of the end of {member}")
        return ended

    def _look_for_progress(self, member: Member) -> None:
        beats = member.life.ledger.record[Field.BEATS]
        if beats != member.beats or member.continue_at is not None:
            member.beats, member.beat_at = beats, time.monotonic()
        elif time.monotonic() > member.beat_at + PATIENCE and member.kind is not Kind.LIAR:
            raise Wrong(f"no progress for {PATIENCE:g} s in {member}")

    def _bury(self, member: Member) -> None:
        status = member.child.wait()
        record = member.life.ledger.record
        expected = -signal.SIGKILL if member.killed else 0
        left = record[Field.STATE] == State.LEFT
        # It may have left just before the signal came; a liar may fall over its own lies.
        if status != expected and not (left and status == 0) and member.kind is not Kind.LIAR:
            raise Wrong(f"ended with {status}: {member}\n{member.child.read_stderr()}")
        if left:
            self.totals["orderly leaves"] += 1
        for name, field in (
            ("exhausted", Field.EXHAUSTED),
            ("timeouts", Field.TIMED_OUT),
            ("held and checked again", Field.RECHECKED),
            ("scribbles", Field.SCRIBBLES),
            ("messages checked by peers", Field.RECEIVED),
        ):
            self.totals[name] += record[field]
        if member.kind is Kind.LIAR:
            self.totals["liars"] += 1
        self._board.give_back(record)
        member.child.close()
        self.members.remove(member)

    def end_all(self) -> None:
        """Kills whoever is left, without asking further: after a failure."""
        for member in self.members:
            member.child.close()
        self.members.clear()

    def close(self) -> None:
        self.end_all()
        self._board.close()

    def stacks(self) -> str:
        """What every Python peer is doing: they print it when asked with SIGUSR1."""
        for member in self.members:
            if member.kind is not Kind.ECHO:
                member.child.cont()
                member.child.signal(signal.SIGUSR1)
        time.sleep(0.5)  # nothing tells when they have printed
        return "\n".join(f"--- {one}\n{one.child.read_stderr()}" for one in self.members)
