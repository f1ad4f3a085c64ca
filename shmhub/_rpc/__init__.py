"""RPC on the transports: calls, answers, errors, streams and cancels in both directions.

Knows nothing of processes, restarts and replicas (`shmhub.plugin` does), and the layers below know
nothing of calls. docs/rpc-protocol.md says what the messages mean.
"""

from shmhub._rpc._call import Call
from shmhub._rpc._codec import Codec, PickleCodec, PlainCodec, get_codec
from shmhub._rpc._current import CurrentCall, current_call
from shmhub._rpc._engine import Engine
from shmhub._rpc._failure import CallLost
from shmhub._rpc._link import Link
from shmhub._rpc._method import Method
from shmhub._rpc._peer_engine import PeerEngine
from shmhub._rpc._server import Server
from shmhub._rpc._stream import Stream, StreamClosed
from shmhub._rpc._uploads import carries_stream

__all__ = [
    "Call",
    "CallLost",
    "Codec",
    "CurrentCall",
    "Engine",
    "Link",
    "Method",
    "PeerEngine",
    "PickleCodec",
    "PlainCodec",
    "Server",
    "Stream",
    "StreamClosed",
    "carries_stream",
    "current_call",
    "get_codec",
]
