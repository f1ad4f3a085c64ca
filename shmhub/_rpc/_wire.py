"""What the messages of RPC are called; pure data, compared with docs/rpc-protocol.md by a test.

A message is a hub message: its channel says the kind, `method` the number of the method, `flags`
what is below, `message_id` the call, `deadline` the call's. The payload holds the arguments, the
value or the error, encoded (see `_payload`).
"""

from __future__ import annotations

from typing import Final

__all__ = ["KINDS", "VERSION"]

VERSION: Final = 1

# ---- kinds (channels) --------------------------------------------------------------------------
HELLO: Final = 0xFF01  # peer: who it is and which methods it has
WELCOME: Final = 0xFF02  # host: the answer, and which callbacks there are; again when they change
BYE: Final = 0xFF03  # host: finish what runs, then leave
PING: Final = 0xFF04
PONG: Final = 0xFF05
CALL: Final = 0xFF10
NOTIFY: Final = 0xFF11  # a call that nobody answers
RESULT: Final = 0xFF12
ERROR: Final = 0xFF13
CANCEL: Final = 0xFF14
ITEM: Final = 0xFF18  # one item of a stream
END: Final = 0xFF19  # it ended well
CREDIT: Final = 0xFF1A  # so many items more may be sent
PART: Final = 0xFF20  # a piece of the payload of a message that is still to come

KINDS: Final[dict[int, tuple[str, str]]] = {
    HELLO: ("HELLO", "peer"),
    WELCOME: ("WELCOME", "host"),
    BYE: ("BYE", "host"),
    PING: ("PING", "both"),
    PONG: ("PONG", "both"),
    CALL: ("CALL", "caller"),
    NOTIFY: ("NOTIFY", "caller"),
    RESULT: ("RESULT", "callee"),
    ERROR: ("ERROR", "callee"),
    CANCEL: ("CANCEL", "caller"),
    ITEM: ("ITEM", "both"),
    END: ("END", "both"),
    CREDIT: ("CREDIT", "both"),
    PART: ("PART", "both"),
}

# ---- flags: the low 8 bits. The upper 24 name the tree of calls that a call belongs to, and in
# ITEM, END, CREDIT and their PARTs which stream of the call it is: 0 the answer, 1... the arguments
KWARGS: Final = 0x01  # the last of the arguments is the dict of those given by name
BESIDE: Final = 0x02  # large buffers lie beside the encoded value
CODED: Final = 0x04  # encoded by the codec of the link; else plain data
PARTS: Final = 0x08  # the payload began in PART messages
STREAM: Final = 0x10  # CALL: the answer is to be a stream. END: the stream ended by an error
UNSTARTED: Final = 0x20  # CANCEL: only if it has not started
UPLOADS: Final = 0x40  # CALL: the first argument says which of the others are streams
FIRST: Final = 0x80  # PART: the first of its message
TREE_SHIFT: Final = 8
TREE_MASK: Final = 0xFFFFFF

# ---- message ids -------------------------------------------------------------------------------
# Bit 63: who makes the call (0 the host, 1 the peer); bit 62: a message from the caller about a
# call, other than CALL itself, so that the list of what a dead peer never received names calls
# only; 22 bits: the life of the link; 40 bits that count.
FROM_PEER: Final = 1 << 63
ABOUT: Final = 1 << 62
LIFE_SHIFT: Final = 40
LIFE_MASK: Final = (1 << 22) - 1
COUNT_MASK: Final = (1 << 40) - 1

# ---- what a CREDIT says, in `method` -----------------------------------------------------------
STOP: Final = 0  # the reader wants no more
OPEN: Final = 0xFFFF  # the stream among the arguments may begin

# ---- why a call was answered by ERROR ----------------------------------------------------------
RAISED: Final = "raised"  # the method raised an exception
EXIT: Final = "exit"  # SystemExit
INTERRUPT: Final = "interrupt"  # KeyboardInterrupt
MEMORY: Final = "memory"  # MemoryError
RECURSION: Final = "recursion"  # RecursionError
ARGUMENTS: Final = "arguments"  # they do not fit the signature
MISSING: Final = "missing"  # there is no such method
DECODE: Final = "decode"  # the arguments could not be decoded: not started
ENCODE: Final = "encode"  # the result could not be encoded: it has run
DEADLINE: Final = "deadline"  # it had passed before the call was started
CANCELLED: Final = "cancelled"  # before it was started, or while it ran, as asked
WITHDRAWN: Final = "withdrawn"  # before it was started, as asked
STOPPING: Final = "stopping"  # the callee starts no more calls
BUSY: Final = "busy"  # more calls wait over there than may

NOT_STARTED: Final = frozenset({DECODE, MISSING, DEADLINE, WITHDRAWN, STOPPING, BUSY})

# ---- states of a call, at the caller -----------------------------------------------------------
STATES: Final[tuple[tuple[str, str, str], ...]] = (
    ("new", "sent", "CALL was sent"),
    ("new", "done", "no room or slot until the deadline, or the link is lost: not started"),
    ("sent", "done", "RESULT, ERROR, END"),
    ("sent", "done", "the link is lost: not started if the message was never received"),
    ("sent", "abandoned", "cancelled or timed out here: CANCEL was sent"),
    ("abandoned", "over", "RESULT, ERROR, END: dropped, its slots freed; or the link is lost"),
)
