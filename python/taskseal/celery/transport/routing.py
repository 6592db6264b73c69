"""Which queues an exchange leads to, by the rows of a table that anybody may have written."""

from ..sealing import logger, topic_matches

#: The longest row that is looked at, in characters: names have at most 255 in AMQP, and kombu's patterns twice that.
MAX_ROW_LEN = 2048

#: To how many queues one message goes at most.
MAX_QUEUES = 1000


def rows_of(table, seldom, where):
    """The rows of a table that are some: a routing key, a pattern that nobody reads, and the name of a queue."""
    rows = []
    for row in table:
        if (
            isinstance(row, (list, tuple))
            and len(row) == 3
            and all(isinstance(part, str) for part in row)
            and sum(map(len, row)) <= MAX_ROW_LEN
            and encodable(row[2])
        ):
            rows.append(tuple(row))
        elif seldom.due(("row", where)):
            logger.error("a row of the bindings of %r is none, and is left out: %.200r", where, row)
    return rows


def encodable(text):
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def queues_of(table, type, exchange, routing_key, seldom):
    """The queues that a message with this routing key goes to, each once."""
    words = routing_key.split(".") if routing_key else [""]
    queues = list(dict.fromkeys(queue for key, _, queue in table if leads(type, key, routing_key or "", words)))
    if len(queues) > MAX_QUEUES:
        if seldom.due(("queues", exchange)):
            logger.error("the exchange %r leads to %d queues; a message goes to %d", exchange, len(queues), MAX_QUEUES)
        del queues[MAX_QUEUES:]
    return queues


def leads(type, bound, routing_key, words):
    if type == "fanout":
        return True
    if type == "topic":
        return topic_matches(bound.split("."), words)
    return bound == routing_key
