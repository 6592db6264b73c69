"""The serializer ``fernet_msgpack``, which needs msgpack."""

from . import fernet_decode, fernet_encode

MIMETYPE = "application/x-fernet-msgpack"


def _module():
    try:
        import msgpack
    except ImportError as error:
        from kombu.exceptions import SerializerNotInstalled

        raise SerializerNotInstalled("No decoder installed for msgpack. Please install the msgpack library") from error
    return msgpack


def _dumps(data):
    return _module().packb(data, use_bin_type=True)


def _loads(packed):
    return _module().unpackb(packed, raw=False)


register_args = (fernet_encode(_dumps), fernet_decode(_loads), MIMETYPE, "utf-8")
