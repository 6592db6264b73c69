"""Limits are what the documentation says of them."""

import json
import time
import tracemalloc

import pytest
from support.transports import sealing_of

from taskseal.celery.sealing import CONTENT_TYPE
from taskseal.celery.transport.stored import Frame
from taskseal.errors import OpenError

MIB = 2**20


def test_a_result_that_may_have_no_age_is_refused_when_it_is_older_than_the_skew(alice):
    payload = ("result", "celery-task-meta-1", b"{}")
    for max_age, taken in ((None, True), (0, False)):
        sealing = sealing_of(alice, [alice], result_max_age=max_age, clock_skew=0.0)
        sealed = sealing.sealer.seal_payload(*payload)
        time.sleep(1.2)
        if taken:
            assert sealing.results.open_payload(sealed, *payload[:2]).payload == b"{}"
        else:
            with pytest.raises(OpenError) as refused:
                sealing.results.open_payload(sealed, *payload[:2])
            assert refused.value.reason == "too-old"


def test_a_frame_beyond_the_limit_is_not_parsed_and_one_within_costs_about_three_times_its_size():
    size = 8 * MIB
    message = {"body": "x" * size, "content-type": CONTENT_TYPE, "headers": {}, "properties": {}}
    raw = json.dumps(message).encode()
    del message
    tracemalloc.start()
    try:
        with pytest.raises(OpenError) as refused:
            Frame.read(raw, MIB)
        assert refused.value.reason == "too-large"
        assert tracemalloc.get_traced_memory()[1] < MIB
        tracemalloc.reset_peak()
        assert len(Frame.read(raw, None).sealed) == size
        # Beside the frame as it came.
        assert tracemalloc.get_traced_memory()[1] < 2.2 * size
    finally:
        tracemalloc.stop()
