"""The serializer ``fernet_json``."""

import json

from . import fernet_decode, fernet_encode

MIMETYPE = "application/x-fernet-json"

register_args = (fernet_encode(json.dumps), fernet_decode(json.loads), MIMETYPE, "utf-8")
