"""The folder that is built: what is in it, made from what, and writing to it.

The record of the last build lies in it as ``.site.json``: for each source the key it was built
under (a hash of all that its outputs depend on), the outputs with size and hash, and the facts that
others need. A key says nothing about time or about how it was built, so the record is the same for
every mode, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from examples.site.places import RECORD

__all__ = ["Built", "Output", "OutputRefused"]

_VERSION: Final = 1


class OutputRefused(Exception):
    """The folder is not ours to write to; the message says why."""


@dataclass
class Built:
    """What one source became."""

    key: str
    outputs: dict[str, tuple[int, str]] = field(default_factory=dict)  # place: size, hash
    facts: dict[str, Any] = field(default_factory=dict)


class Output:
    """The folder at ``root``, made if need be. Safe from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._written: set[str] = set()
        self._old = self._read_record()
        self._new: dict[str, Built] = {}
        self._open = False  # whether the record says that a build is at work

    def fresh(self, source: str, key: str) -> Built | None:
        """What ``source`` became in the last build, if ``key`` and all outputs are still so."""
        built = self._old.get(source)
        if built is None or built.key != key:
            return None
        for place, (size, content) in built.outputs.items():
            path = self.root / place
            try:
                if path.stat().st_size != size:
                    return None
                if self._interrupted and hashlib.sha256(path.read_bytes()).hexdigest() != content:
                    return None
            except OSError:
                return None
        self._keep(source, built)
        return built

    def write(
        self, source: str, key: str, outputs: Mapping[str, bytes], facts: Mapping[str, Any]
    ) -> Built:
        """Writes what ``source`` became; each file is whole or not there at all."""
        self._begin_writing()
        sizes: dict[str, tuple[int, str]] = {}
        for place, data in outputs.items():
            path = self.root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{threading.get_ident()}.part")
            try:
                part.write_bytes(data)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
            sizes[place] = (len(data), hashlib.sha256(data).hexdigest())
            with self._lock:
                self._written.add(place)
        # As it will be read next time: keys are made of facts, and a tuple is no list.
        built = Built(key, sizes, json.loads(json.dumps(facts)))
        self._keep(source, built)
        return built

    @property
    def written(self) -> list[str]:
        """The places written in this build, in order."""
        return sorted(self._written)

    def places(self) -> set[str]:
        """All that this build put or left there."""
        with self._lock:
            return {place for built in self._new.values() for place in built.outputs}

    def finish(self) -> list[str]:
        """Removes what no source becomes any more, and writes the record; what was removed."""
        kept = self.places()
        stale = {place for built in self._old.values() for place in built.outputs} - kept
        for place in stale:
            path = self.root / place
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()
        self._write_record(self._new, complete=True)
        return sorted(stale)

    def _begin_writing(self) -> None:
        """Before the first change: an interrupted build must not pass for what it set out from."""
        with self._lock:
            if not self._open:
                self._write_record(self._old, complete=False)
                self._open = True

    def _keep(self, source: str, built: Built) -> None:
        with self._lock:
            self._new[source] = built

    def _read_record(self) -> dict[str, Built]:
        self._interrupted = False
        try:
            raw = json.loads((self.root / RECORD).read_text("utf-8"))
            if raw["version"] == _VERSION:
                self._interrupted = not raw["complete"]
                return {name: _built(entry) for name, entry in raw["sources"].items()}
        except FileNotFoundError:
            if self.root.is_dir() and any(self.root.iterdir()):
                raise OutputRefused(
                    f"{self.root} holds files and no record of a build ({RECORD}): "
                    "name a folder that is new or empty"
                ) from None
            self.root.mkdir(parents=True, exist_ok=True)
        except NotADirectoryError:
            raise OutputRefused(f"{self.root} is not a folder: name one for the site") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # an older version's, or damaged: everything is built anew
        return {}

    def _write_record(self, sources: Mapping[str, Built], *, complete: bool) -> None:
        entries = {
            name: {"key": one.key, "outputs": one.outputs, "facts": one.facts}
            for name, one in sorted(sources.items())
        }
        raw = {"version": _VERSION, "complete": complete, "sources": entries}
        part = self.root / f"{RECORD}.part"
        part.write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
        os.replace(part, self.root / RECORD)


def _built(entry: Mapping[str, Any]) -> Built:
    outputs = {place: (int(size), str(sha)) for place, (size, sha) in entry["outputs"].items()}
    for place in outputs:
        # What is removed is what the record names: it must not lead anywhere else.
        if place.startswith("/") or ".." in place.split("/"):
            raise ValueError(place)
    return Built(str(entry["key"]), outputs, dict(entry["facts"]))
