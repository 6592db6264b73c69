"""Decompression with a limit, in the place of kombu's, which has none."""

import bz2
import lzma
import sys
import zlib
from functools import partial
from importlib.util import find_spec

from celery.exceptions import SecurityError
from kombu import compression

from ..errors import OpenError

#: The longest body that is accepted, in bytes, when it is decompressed.
MAX_BODY_LEN = 64 * 1024 * 1024

#: What xz and zstd may take for their windows: those of their highest ordinary levels.
_MAX_WINDOW = 128 * 1024 * 1024

#: What decompresses, by the names that kombu has for the methods. Each has `decompress(data, max_length)`, `eof` and
#: `unused_data`.
_DECOMPRESSORS = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": partial(lzma.LZMADecompressor, memlimit=_MAX_WINDOW),
}


class _Zstandard:
    """The decompressor of the package `zstandard`, which kombu uses before 5.7, in the form of the others.

    That package keeps no limit where it can tell where a frame ends: the end is looked for here.
    """

    _PIECE = 1024 * 1024
    _RLE, _RESERVED = 1, 3

    def decompress(self, data, max_length):
        import zstandard

        end = self._end(zstandard, data)
        self.unused_data = data[end:]
        made = bytearray()
        with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(data[:end]) as reader:
            while len(made) < max_length:
                piece = reader.read(min(self._PIECE, max_length - len(made)))
                if not piece:
                    break
                made += piece
        # A frame that is cut off has no end, and `_end` raised.
        self.eof = True
        return bytes(made)

    def _end(self, zstandard, data):
        """Where the first frame ends: RFC 8878, 3.1.1. Raises for one that is not whole."""
        at, last = zstandard.frame_header_size(data), False
        while not last:
            header = int.from_bytes(data[at : at + 3], "little")
            last, kind, size = header & 1, header >> 1 & 3, header >> 3
            if kind == self._RESERVED:
                raise ValueError("a block of no known type")
            at += 3 + (1 if kind == self._RLE else size)
            if at > len(data):
                raise EOFError
        at += 4 if zstandard.get_frame_parameters(data).has_checksum else 0
        if at > len(data):
            raise EOFError
        return at


try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError:
    if find_spec("zstandard"):
        _DECOMPRESSORS["application/zstd"] = _Zstandard
else:
    _DECOMPRESSORS["application/zstd"] = zstd.ZstdDecompressor


def decompress(body, method, max_len):
    """Decompresses a body by one of kombu's methods, and makes no more of it than `max_len` bytes.

    Raises `OpenError`: ``too-large``, or ``not-a-message`` for a damaged body and for a method that is not known to keep a
    limit.
    """
    try:
        _, content_type = compression.get_encoder(method)
        make = _DECOMPRESSORS[content_type]
    except (LookupError, TypeError):
        text = f"a body that is compressed with {str(method)[:40]!r} is not accepted"
        raise OpenError(text, reason="not-a-message") from None
    try:
        decompressor = make()
        made = decompressor.decompress(body, max_len + 1)
    except Exception as error:
        raise OpenError(f"the compressed body is damaged: {type(error).__name__}", reason="not-a-message") from None
    if len(made) > max_len:
        raise OpenError(f"the decompressed body is longer than {max_len} bytes", reason="too-large")
    if not decompressor.eof or decompressor.unused_data:
        raise OpenError("the compressed body is not whole, or something follows it", reason="not-a-message")
    return made


def limit(max_len):
    """Makes kombu decompress with this limit, and not at all by methods that keep none, in the whole process."""
    max_len = checked(max_len)
    for method in compression.encoders():
        encoder, _ = compression.get_encoder(method)
        compression.register(encoder, partial(_decode, method=method, max_len=max_len), method)


def checked(max_len):
    """A limit that is one: decompressors take numbers below one for none."""
    if max_len < 1:
        raise ValueError(f"a limit of {max_len} bytes for bodies makes no sense")
    return max_len


def _decode(body, method, max_len):
    try:
        return decompress(body, method, max_len)
    except OpenError as error:
        raise SecurityError(f"Refusing a compressed body: {error}") from None
