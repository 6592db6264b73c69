"""What Celery's native delayed delivery makes of a routing key, and back.

With quorum queues in RabbitMQ, Celery publishes a task with a countdown to an exchange of its own, with the seconds as 28 bits
before the routing key. The broker moves the message from queue to queue until they are over, and then to every exchange behind
it, by the rest of the key. That is what is sealed, so that is where the message was sent to.

The bits say nothing about the destination, and nobody believes them: whoever can write to the broker can deliver earlier or
later, and the worker looks at the time in the message. The rest of the key is signed.
"""

import re

#: The exchange that delayed messages are published to, with the prefix that kombu may put before it.
EXCHANGE = re.compile(r"(?:.+_)?celery_delayed_27")

#: A routing key behind the bits of a delay.
KEY = re.compile(r"(?:[01]\.){28}(.+)", re.DOTALL)


def undelayed(exchange, routing_key):
    """The routing key that a delayed message has when its delay is over; None for a message without a delay."""
    found = KEY.fullmatch(routing_key) if EXCHANGE.fullmatch(exchange) else None
    return found and found[1]
