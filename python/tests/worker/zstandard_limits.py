"""The package `zstandard` under a limit: what is whole and short enough comes out, everything else is refused."""

import random

import zstandard

from taskseal.celery import compression
from taskseal.errors import OpenError

LIMIT = 500_000
noise = random.Random(1)


def reason(body, limit=LIMIT):
    try:
        compression.decompress(body, "zstd", limit)
    except OpenError as error:
        return error.reason
    return None


def main():
    assert compression._DECOMPRESSORS["application/zstd"] is compression._Zstandard
    bodies = [b"", b"x", b"x" * LIMIT, noise.randbytes(LIMIT), noise.randbytes(200_000) + b"y" * 300_000]
    ways = [zstandard.ZstdCompressor(level=9), zstandard.ZstdCompressor(write_checksum=True),
            zstandard.ZstdCompressor(write_content_size=False)]  # fmt: skip
    for body in bodies:
        for way in ways:
            packed = way.compress(body)
            assert compression.decompress(packed, "zstd", LIMIT) == body
            for damaged in (packed[:-1], packed[:5], b"", packed + b"\0", packed + packed, b"zstd" + packed):
                assert reason(damaged) == "not-a-message", (len(body), damaged[:20])
            if body:
                assert reason(packed, len(body) - 1) == "too-large"
    # Half a gigabyte in a few kilobytes, with and without saying so.
    for way in ways:
        compressor = way.compressobj()
        bomb = b"".join([compressor.compress(b"\0" * (1 << 24)) for _ in range(32)] + [compressor.flush()])
        assert reason(bomb) == "too-large"
    # A window that is larger than all that is accepted.
    far = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=31)).compressobj()
    assert reason(far.compress(b"x" * 10) + far.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) + far.flush()) == "not-a-message"


main()
