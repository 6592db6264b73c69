"""Python's Fernet, the package kombu-fernet-serializers, and the plain scheme of one token in place of the JSON, at the
other end of a pipe: one request on each line of standard input, one answer on each line of standard output,
`{"ok": ...}` or `{"error": "Type: text"}`.

Bytes travel as base64.
"""
import base64
import json
import os
import sys

from cryptography.fernet import Fernet, MultiFernet


def bytes_of(text):
    return base64.b64decode(text, validate=True)


def text_of(data):
    return base64.b64encode(data).decode()


def multi(keys):
    return MultiFernet([Fernet(key) for key in keys])


def encrypt(key, data, at):
    return Fernet(key).encrypt_at_time(bytes_of(data), at).decode()


def decrypt(keys, token, ttl=None):
    return text_of(multi(keys).decrypt(token.encode(), ttl))


def rotate(keys, token):
    rotated = multi(keys).rotate(token.encode())
    return {"token": rotated.decode(), "at": Fernet(keys[0]).extract_timestamp(rotated)}


def use_keys(key, previous=None):
    """Before anything of kombu: the package reads the variables when it is imported."""
    os.environ["KOMBU_FERNET_KEY"] = key
    if previous is not None:
        os.environ["KOMBU_FERNET_KEY_PREVIOUS"] = previous
    import kombu

    return kombu.__version__


def dumps(serializer, value):
    from kombu.serialization import dumps

    content_type, content_encoding, payload = dumps(value, serializer=serializer)
    return {"content_type": content_type, "content_encoding": content_encoding, "payload": text_of(payload)}


def loads(content_type, content_encoding, payload):
    from kombu.serialization import loads

    return loads(bytes_of(payload), content_type, content_encoding, accept=[content_type])


def plain_seal(key, message):
    """The plain scheme: what kombu's Redis transport would store, as one token."""
    from kombu.utils.json import dumps

    return Fernet(key).encrypt(dumps(message).encode()).decode()


def plain_open(key, token):
    from kombu.utils.json import loads

    return loads(Fernet(key).decrypt(token.encode()).decode())


def application(url, serializer, security):
    """An application that sends and stores with this serializer. `security` is the directory of a key and certificates, for
    `auth`."""
    from celery import Celery

    app = Celery("publisher", broker=url, backend=url)
    app.conf.update(
        task_serializer=serializer,
        result_serializer=serializer,
        accept_content=[serializer],
        result_accept_content=[serializer],
    )
    if serializer == "auth":
        app.conf.update(
            security_key=os.path.join(security, "worker.key"),
            security_certificate=os.path.join(security, "trusted", "worker.pem"),
            security_cert_store=os.path.join(security, "trusted", "*.pem"),
            security_digest="sha256",
        )
        app.setup_security()
    return app


def publish(url, serializer, security, task):
    """Sends a task as an application does."""
    app = application(url, serializer, security)
    app.send_task(serializer=serializer, args=tuple(task.pop("args")), **task)


class Declined(Exception):
    """What the task raises."""


def finish(url, serializer, security, results):
    """Stores the failure and then the success of a task, as a worker does."""
    backend = application(url, serializer, security).backend
    task_id = results["task_id"]
    # The worker passes the traceback as text.
    backend.store_result(task_id, Declined(results["exception"]), "FAILURE", traceback=results["traceback"])
    backend.store_result(task_id, results["result"], "SUCCESS")
    # A success that is there already would stay.
    backend.forget(task_id)


OPERATIONS = {
    function.__name__: function
    for function in (encrypt, decrypt, rotate, use_keys, dumps, loads, plain_seal, plain_open, publish, finish)
}

for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"ok": OPERATIONS[request.pop("op")](**request)}
    except Exception as error:  # whatever it is, the test wants to know
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
