"""What a compressed message may become: a few bytes can ask for all memory."""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any

from kombu import compression as kombu_compression
from kombu.message import Message

compression: Any = kombu_compression  # untyped

MOST_BYTES = 64 * 1024 * 1024

Decoder = Callable[[bytes], bytes]


def _bounded(decompressor: Callable[[], Any], *, many: bool) -> Decoder:
    """Decompress one stream, or as many as stand behind one another; what follows them is ignored, as kombu does."""

    def decompress(body: bytes) -> bytes:
        found: list[bytes] = []
        size = 0
        while True:
            one = decompressor()
            try:
                part = one.decompress(body, MOST_BYTES - size + 1)
            except (OSError, lzma.LZMAError):
                if found:
                    return b"".join(found)
                raise
            size += len(part)
            if size > MOST_BYTES or not one.eof:
                raise ValueError(f"it isn't whole, or larger than {MOST_BYTES:,} bytes once it is decompressed")
            found.append(part)
            body = one.unused_data
            if not (many and body):
                return b"".join(found)

    return decompress


_BOUNDED: dict[Any, Decoder] = {
    zlib.decompress: _bounded(zlib.decompressobj, many=False),
    bz2.decompress: _bounded(bz2.BZ2Decompressor, many=True),
    lzma.decompress: _bounded(lzma.LZMADecompressor, many=True),
}
"""By what kombu registers. Whatever else somebody registered under a name is theirs."""


def bounded_decoder(name: Any) -> Decoder | None:
    """The bounded form of what kombu would use for this name; None where that isn't kombu's own."""
    try:
        return _BOUNDED.get(compression.get_decoder(name))
    except (KeyError, TypeError):
        return None


def bound_decompression() -> None:
    """Bound each message of this process, whatever its queue. For a process that reads nothing but our messages."""
    decoders = {
        "application/x-gzip": (zlib.compress, zlib.decompress, ["gzip", "zlib"]),
        "application/x-bz2": (bz2.compress, bz2.decompress, ["bzip2", "bzip"]),
        "application/x-lzma": (lzma.compress, lzma.decompress, ["lzma", "xz"]),
    }
    for name, (encode, decode, aliases) in decoders.items():
        compression.register(encode, _BOUNDED[decode], name, aliases)


class BoundedMessage(Message):
    """kombu's message, of a queue in which nothing large belongs.

    It stands between a transport's own class of messages and kombu's: there the body is known, and still compressed.
    """

    is_bounded = True

    def __init__(self, body: Any = None, *, headers: Any = None, **options: Any) -> None:
        init: Any = super().__init__
        decode = bounded_decoder(headers.get("compression")) if headers and self.is_bounded else None
        if decode is None:
            init(body, headers=headers, **options)
            return
        try:
            body = decode(body)
        except Exception:  # noqa: BLE001 -- kept for the one who reads it, as kombu does
            self.errors = [sys.exc_info()]
        init(body, headers={**headers, "compression": None}, **options)
        self.headers = headers
