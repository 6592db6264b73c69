"""Stock Celery's `auth` serializer and Python's Fernet, timed in its own process. One JSON request a line on stdin, one answer a line.

    celery_worker.py DIRECTORY      with worker.key and worker.pem in it
"""

import json
import sys
from itertools import repeat
from pathlib import Path
from time import perf_counter_ns

import celery
import cryptography
import kombu
from celery.security.certificate import Certificate, FSCertStore
from celery.security.key import PrivateKey
from celery.security.serialization import SecureSerializer
from cryptography.fernet import Fernet


def main(directory):
    serializer = SecureSerializer(
        key=PrivateKey((directory / "worker.key").read_text()),
        cert=Certificate((directory / "worker.pem").read_text()),
        cert_store=FSCertStore(str(directory / "worker.pem")),
        digest="sha256",
        serializer="json",
    )
    values, messages, secrets = {}, {}, {}

    def timed(call, argument, times):
        start = perf_counter_ns()
        for _ in repeat(None, times):
            call(argument)
        return {"ns": perf_counter_ns() - start}

    def versions(_request):
        python = ".".join(map(str, sys.version_info[:3]))
        return {
            "versions": f"Python {python}, celery {celery.__version__}, kombu {kombu.__version__}, "
            f"cryptography {cryptography.__version__}"
        }

    def keep_value(request):
        values[request["name"]] = request["value"]
        return {"message": serializer.serialize(request["value"])}

    def keep_message(request):
        messages[request["name"]] = request["message"]
        return {"value": serializer.deserialize(request["message"])}

    def keep_secret(request):
        fernet, data = Fernet(request["key"]), request["data"].encode()
        token = fernet.encrypt(data)
        secrets[request["name"]] = (fernet, data, token)
        return {"token": token.decode()}

    def fernet_encrypt(request):
        fernet, data, _ = secrets[request["name"]]
        return timed(fernet.encrypt, data, request["times"])

    def fernet_decrypt(request):
        fernet, _, token = secrets[request["name"]]
        return timed(fernet.decrypt, token, request["times"])

    actions = {
        "versions": versions,
        "value": keep_value,
        "message": keep_message,
        "secret": keep_secret,
        "fernet_encrypt": fernet_encrypt,
        "fernet_decrypt": fernet_decrypt,
        "serialize": lambda r: timed(serializer.serialize, values[r["name"]], r["times"]),
        "deserialize": lambda r: timed(serializer.deserialize, messages[r["name"]], r["times"]),
    }
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(actions[request["do"]](request)), flush=True)


main(Path(sys.argv[1]))
