"""Where the core relies on something that a one-line change could take away.

Four kinds, found by rule:

atomic     each call of an operation of atomic.h, and the instructions inside atomic.h
fence      each call of a fence there
safeguard  each call of a function in SAFEGUARDS
check      each clause of an `if`, `while`, `for` or `return` that asks about something that shared
           memory says or bounds (ASKED), and not merely for NULL, a code or a descriptor

A clause is what stands between && and ||. Its mutation drops it. A site is known by its file, its
function, its text and its ordinal among equal texts there; never by a line number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.mutants.source import Source, closing, normalised

ATOMIC = re.compile(
    r"\b(?:hub_(?:load|store|cas|fetch|exchange)_\w*?(?:8|32|64)|hub_fence(?:_after_rmw)?"
    r"|__atomic_(?!always)\w+|__asm__ __volatile__|_mm_sfence)\s*\("
)
# In atomic.h, of no consequence for what is right: a prefetch, a hint to the core.
NO_SITES = frozenset({"hub_prefetch_for_write", "hub_pause"})

# What wakes, tells, takes back, copies once, or decides whose a slot is.
SAFEGUARDS = (
    "cut",
    "discard_unsent",
    "give_all_back",
    "give_back",
    "hub_cache_flush",
    "hub_copy_once",
    "hub_link_close_peer_fd",
    "hub_link_hang_up",
    "hub_link_ring",
    "hub_pool_back_or_release",
    "hub_pool_discard",
    "hub_pool_flush",
    "hub_pool_grow",
    "hub_pool_kick",
    "hub_pool_move",
    "hub_pool_reclaim",
    "hub_pool_scan",
    "hub_pool_scan_backed",
    "hub_pool_trim",
    "hub_reclaim_all",
    "hub_reclaim_rings",
    "hub_ring_commit",
    "hub_ring_publish",
    "hub_ring_step",
    "hub_segment_back",
    "hub_segment_punch",
    "hub_service_lookout",
    "hub_service_report",
    "hub_service_violation",
    "hub_session_check_left",
    "hub_session_notify",
    "hub_session_notify_locked",
    "hub_session_ring_bell",
    "hub_transport_look_at_host",
    "hub_waiter_drain",
    "hub_waiter_notify",
    "hub_waiter_signal",
    "list_undelivered",
    "look_at_waiters",
    "look_for_leavers",
    "relay_pool",
    "save_published",
    "stop_listening",
    "tell_gone",
    "wake_all",
    "wake_everyone",
    "wake_local",
    "wake_receiver",
    "wake_sender",
)
SAFEGUARD = re.compile(r"\b(?:" + "|".join(SAFEGUARDS) + r")\s*\(")

ASKED = re.compile(
    r"\b(?:\w*(?:gen|epoch|owner|state|claims?)|capacity|limit|most|\w*(?:_MAX|_MIN|_NONE)|linked"
    r"|backed|pages|whole_pages|length|size|slot_size|cells|index|top|next|used|available|left|said"
    r"|head|tail|sequence|ref|class_count|in_service|max_slots|max_peers|slots|magic|version\w*"
    r"|header_size|total_size|\w+_offset|\w+_retired|retired|hung_up\w*|want|waiters|ready|found"
    r"|sleeping|largest|to|id|peer_id|sub_page|count|queue_count|max_bytes|spinning"
    r"|hub_ctl_\w+|hub_head_\w+|hub_state_\w+|held_by|hub_pool_(?:valid|is_mine|backed|owned\w*)"
    r"|hub_link_gone|hub_transport_check|interrupted|has_room|unread|waits|missing|alone|exclusive"
    r"|counters_sound|plausible\w*|st_ino|st_dev|st_size|named|pid|closed|link_tag|tag|text)\b"
)
NOT_A_CHECK = re.compile(
    r"\s*(?:!?\w*rc\b(?:\s*[<>=!]=?.*)?|.*\b(?:NULL|errno)\b.*|.*\b\w*fds?(?:\[\d\])?\s*[<>]=?\s*[01-]+"
    r"|!?hub_cas_\w+\(.*\)|hub_(?:alloc|free)_quick\(.*\)|!?\w+)\s*\Z",
    re.DOTALL,
)
# They look at a hub, print, or ask the system: nothing is refused there.
NOT_CHECKED = frozenset({"error.c", "inspect.c", "resource_limits.c", "spin.c", "fsck_dump.c"})

COMPARES = re.compile(r"&&|\|\||\s[=!<>]=\s|\s[<>]\s")
REFUSES = re.compile(r"\s*\{?\s*(?:return|continue|break|goto|rc\s*=|\*ret_code\s*=)\b")


@dataclass(frozen=True, slots=True, order=True)
class Key:
    file: str
    function: str
    text: str
    ordinal: int = 1


@dataclass(frozen=True, slots=True)
class Site:
    key: Key
    kind: str
    start: int
    end: int
    dropped: str = ""  # a check: what it is without that clause; "?": 0 or 1


def _clauses(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """Leaves of a condition with the operator that joins them ("" for the only one)."""

    def split(start: int, end: int, joined: str) -> Iterator[tuple[int, int, str]]:
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if start < end and text[start] == "(" and closing(text, start) == end - 1:
            inner = list(split(start + 1, end - 1, joined))
            if len(inner) > 1:
                yield from inner
                return
        for operator in ("||", "&&"):
            parts, at, depth, last = [], start, 0, start
            while at < end:
                if text[at] in "([{":
                    depth += 1
                elif text[at] in ")]}":
                    depth -= 1
                elif depth == 0 and text[at : at + 2] == operator:
                    parts.append((last, at))
                    last = at + 2
                elif depth == 0 and text[at] == "?":
                    yield start, end, joined
                    return
                at += 1
            if parts:
                for one in [*parts, (last, end)]:
                    yield from split(*one, operator)
                return
        yield start, end, joined

    yield from split(start, end, "")


def _conditions(source: Source) -> Iterator[tuple[int, int, str]]:
    """Conditions and what the statement does with a lone clause that is dropped: "0" or "1"."""
    text = source.structure
    for match in re.finditer(r"\b(if|while|for)\s*\(", text):
        end = closing(text, match.end() - 1)
        start = match.end()
        if match[1] == "for":
            inside = text[start:end].split(";")
            if len(inside) == 3 and inside[1].strip():
                begin = start + len(inside[0]) + 1
                if "&&" in inside[1]:
                    yield begin, begin + len(inside[1]), "1"
            continue
        if match[1] == "while":
            yield start, end, "?"
        else:
            yield start, end, "0" if REFUSES.match(text, end + 1) else "?"
    for match in re.finditer(r"\breturn\b([^;]*);", text):
        if "?" not in match[1] and COMPARES.search(match[1]):
            yield match.start(1), match.end(1), "1"
    for match in re.finditer(r"(?:\breturn|\s=)\s+([^;?]*?)\s\?", text):
        if COMPARES.search(match[1]):
            yield match.start(1), match.end(1), "?"


def _raw(source: Source) -> Iterator[tuple[int, int, str, str]]:
    text = source.structure
    atomics = set()
    for match in ATOMIC.finditer(text):
        start, end = match.start(), closing(text, match.end() - 1) + 1
        atomics.add((start, end))
        yield start, end, "fence" if "fence" in match[0] else "atomic", ""
    for match in SAFEGUARD.finditer(text):
        yield match.start(), closing(text, match.end() - 1) + 1, "safeguard", ""
    if source.name in NOT_CHECKED:
        return
    for start, end, alone in _conditions(source):
        for first, last, operator in _clauses(text, start, end):
            clause = text[first:last]
            if (first, last) in atomics or NOT_A_CHECK.match(clause) or not ASKED.search(clause):
                continue
            if clause.count("(") == clause.count(")"):
                yield first, last, "check", {"||": "0", "&&": "1", "": alone}[operator]


def sites(source: Source) -> list[Site]:
    """All sites of a file, in the order of the file."""
    result, seen = [], Counter()
    for start, end, kind, dropped in sorted(set(_raw(source))):
        function = source.function_at(start)
        if function is None or function.name in NO_SITES:
            continue
        text = normalised(source.plain[start:end])
        seen[function.name, text] += 1
        key = Key(source.name, function.name, text, seen[function.name, text])
        result.append(Site(key, kind, start, end, dropped))
    return result
