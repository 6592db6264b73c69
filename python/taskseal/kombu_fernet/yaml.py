"""The serializer ``fernet_yaml``, which needs PyYAML."""

from . import fernet_decode, fernet_encode

MIMETYPE = "application/x-fernet-yaml"


def _module():
    try:
        import yaml
    except ImportError as error:
        from kombu.exceptions import SerializerNotInstalled

        raise SerializerNotInstalled("No decoder installed for YAML. Install the PyYAML library") from error
    return yaml


def _dumps(data):
    return _module().safe_dump(data)


def _loads(text):
    return _module().safe_load(text)


register_args = (fernet_encode(_dumps), fernet_decode(_loads), MIMETYPE, "utf-8")
