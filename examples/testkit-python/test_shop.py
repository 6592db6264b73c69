from shop import Orders

import taskseal
from taskseal.testing import start_softhsm


def test_an_order_opens_with_the_certificate(softhsm, signer):
    sealed = Orders(signer).order("tea", 3)
    opener = taskseal.Opener(taskseal.CertStore([softhsm.certificate]))
    assert opener.open(sealed).json()[0] == ["tea", 3]


def test_two_shops_have_two_tokens(signer):
    with start_softhsm(label="other", common_name="other") as other:
        assert other.signer().certificate.id != signer.certificate.id


def test_a_task_is_sealed_in_the_broker(sealed_app):
    @sealed_app.task(name="order")
    def order(article, count):
        return f"{count} of {article}"

    order.delay("tea", 3)
    with sealed_app.connection_for_read() as connection:
        message = sealed_app.amqp.queues["celery"](connection.channel()).get()
    assert message.payload[0] == ["tea", 3]
