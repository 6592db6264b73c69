"""The serializer ``fernet_pickle``: whoever has the key can run code in the process that reads. Prefer ``fernet_json``."""

import pickle

from . import fernet_decode, fernet_encode

MIMETYPE = "application/x-fernet-python-serialize"


def _dumps(data):
    return pickle.dumps(data, protocol=4)


register_args = (fernet_encode(_dumps), fernet_decode(pickle.loads), MIMETYPE, "utf-8")
