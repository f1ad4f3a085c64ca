"""Values to bytes and back: what a codec is, and the two that come with shmhub.

A codec turns a value into bytes and, beside them, buffers that travel without being copied into
those bytes. `None, bool, int, float, str, bytes, bytearray, memoryview, list, tuple, dict` (exactly
these types) are *plain data*; the link encodes small plain data itself, whatever the codec.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from shmhub._errors import CodecError
from shmhub._native import core

__all__ = ["Codec", "PickleCodec", "PlainCodec", "get_codec"]

# Bytes from here on are worth a buffer of their own.
LARGE = 256


@runtime_checkable
class Codec(Protocol):
    """How values that are not plain data travel; the same on both sides of a link.

    Attributes:
        name: both sides compare it in the handshake.
        takes_plain: small plain data may go the short way, past this codec.

    Safe from several threads: one codec serves all calls of a link.
    """

    @property
    def name(self) -> str: ...
    @property
    def takes_plain(self) -> bool: ...

    def encode(self, value: Any, buffers: list[Any]) -> bytes:
        """Bytes that stand for the value.

        Args:
            value: a result, an item, or the tuple of a call's arguments.
            buffers: to append C-contiguous buffers to, which travel as they are.

        Raises:
            CodecError: what cannot be encoded; any other exception counts as that.
        """
        ...

    def decode(self, data: bytes, buffers: Sequence[memoryview]) -> Any:
        """The value again.

        Args:
            data: what `encode` gave.
            buffers: views of what it appended, read-only; they stay valid while they are used.
        """


class PlainCodec:
    """Plain data only: nothing that a peer sends can run code here."""

    name = "plain"
    takes_plain = True

    def encode(self, value: Any, buffers: list[Any]) -> bytes:
        try:
            encoded = core.plain_encode(value, buffers, -1, False)
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            raise CodecError(f"encoding {_short(value)} with codec 'plain': {error}") from error
        assert encoded is not None  # without a limit it raises
        return encoded

    def decode(self, data: bytes, buffers: Sequence[memoryview]) -> Any:
        raise CodecError(
            "a message is not plain data, which is all that this link takes: the other side must "
            "use codec='plain', too"
        )


def _bytes(view: Any) -> bytes:
    return bytes(view)


def _view(view: Any, format: str, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(view).cast("B")
    to: Any = format  # whatever memoryview said on the other side
    return flat if (format, len(shape)) == ("B", 1) else flat.cast(to, shape)


class _Buffered:
    """Stands for large bytes among the arguments: pickle would copy them into its own."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _bytes, (pickle.PickleBuffer(self.data),)


def _wrap(value: Any) -> Any:
    return _Buffered(value) if type(value) is bytes and len(value) >= LARGE else value


class _Pickler(pickle.Pickler):
    """Knows memoryviews, which pickle refuses."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is memoryview:
            flat = value if value.c_contiguous else memoryview(value.tobytes())
            return _view, (pickle.PickleBuffer(flat), value.format, value.shape)
        return NotImplemented


def make_array(shape: tuple[int, ...], dtype: str, buffer: Any) -> Any:
    """An array over a buffer that came; what `core.plain_decode` calls.

    Raises:
        ValueError: they do not fit each other, or there is no numpy here.
    """
    try:
        import numpy
    except ImportError as error:
        raise ValueError(f"a numpy array came, and numpy is not installed here: {error}") from None
    try:
        # Not numpy.ndarray(..., buffer), which does not keep the buffer exported: nothing would
        # tell that an array still shows the slot.
        return numpy.frombuffer(buffer, dtype).reshape(shape)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"an array of shape {shape} and type {dtype!r}: {error}") from None


class PickleCodec:
    """Anything that pickle can take, with buffers (protocol 5) beside.

    Unpickling runs code of the sender's choice: only between processes that trust each other.
    """

    name = "pickle"
    takes_plain = True

    def encode(self, value: Any, buffers: list[Any]) -> bytes:
        if type(value) is tuple:
            value = tuple([_wrap(one) for one in value])
            if value and type(value[-1]) is dict:
                value = (*value[:-1], {key: _wrap(one) for key, one in value[-1].items()})
        else:
            value = _wrap(value)
        before = len(buffers)

        def beside(buffer: pickle.PickleBuffer) -> bool:
            try:
                buffers.append(buffer.raw())
            except BufferError:  # not contiguous: pickle copies it
                return True
            return False

        file = io.BytesIO()
        try:
            _Pickler(file, 5, buffer_callback=beside).dump(value)
        except Exception as error:
            del buffers[before:]
            raise CodecError(
                f"encoding {_short(value)} with pickle: {type(error).__name__}: {error}; send "
                "something that can be pickled"
            ) from error
        return file.getvalue()

    def decode(self, data: bytes, buffers: Sequence[memoryview]) -> Any:
        try:
            return pickle.loads(data, buffers=buffers)
        except Exception as error:
            raise CodecError(
                f"decoding {len(data)} bytes with pickle: {type(error).__name__}: {error}; is what "
                "it refers to installed on this side, too?"
            ) from error


_CODECS: dict[str, Codec] = {"pickle": PickleCodec(), "plain": PlainCodec()}


def get_codec(codec: str | Codec) -> Codec:
    """The codec of that name, or the codec itself.

    Raises:
        ValueError: there is none of that name.
        TypeError: that is no codec.
    """
    if isinstance(codec, str):
        try:
            return _CODECS[codec]
        except KeyError:
            raise ValueError(
                f"codec={codec!r}: there is 'pickle', 'plain', or an object with name, "
                "takes_plain, encode and decode"
            ) from None
    if not isinstance(codec, Codec):
        raise TypeError(f"codec={codec!r} lacks one of name, takes_plain, encode, decode")
    return codec


def _short(value: Any) -> str:
    """What is being sent, for people: never its content, which may be large or secret."""
    if isinstance(value, tuple):
        names = [type(one.data if isinstance(one, _Buffered) else one).__name__ for one in value]
        return f"({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
    return f"a {type(value).__name__}"
