"""The pytest plugin of the package: tokens side by side, a signer and an application that seals."""

import pytest

import taskseal
from taskseal.testing import sealed_app, signer, softhsm, start_softhsm  # noqa: F401


def opened(sealed, *certificates):
    """What an opener that trusts these certificates hands out."""
    return taskseal.Opener(taskseal.CertStore(certificates)).open(sealed)


def test_the_signer_signs_for_the_certificate(softhsm, signer):  # noqa: F811
    assert signer.is_token
    sealed = taskseal.Sealer(signer).seal({"a": 1})
    assert opened(sealed, softhsm.certificate).json() == {"a": 1}


def test_two_tokens_in_one_process_have_two_keys(softhsm):  # noqa: F811
    with start_softhsm(common_name="other") as other:
        sealed = taskseal.Sealer(other.signer()).seal("x")
        assert opened(sealed, other.certificate).json() == "x"
        with pytest.raises(taskseal.errors.OpenError):
            opened(sealed, softhsm.certificate)


def test_nothing_is_left_of_a_token():
    with start_softhsm() as made:
        assert made.module.is_file()
    assert not made.directory.exists()


def test_what_the_application_publishes_is_sealed_and_comes_out(sealed_app):  # noqa: F811
    @sealed_app.task(name="add")
    def add(a, b):
        return a + b

    add.delay(2, 3)
    with sealed_app.connection_for_read() as connection:
        queue = sealed_app.amqp.queues["celery"](connection.channel())
        # What lies in the broker.
        (raw,) = queue.channel.queues["celery"].queue
        assert "x-taskseal" in str(raw) and "'task': 'add'" not in str(raw)
        message = queue.get()
    assert message.payload[0] == [2, 3]
