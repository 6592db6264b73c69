"""A flood of bad messages does not flood the log, and nothing is missing from the counts."""

import logging
import subprocess
import sys
from textwrap import dedent

from support.log import refusals_in
from support.servers import wait_for
from support.transports import sealing_of
from taskseal.celery.quiet import Quiet
from taskseal.errors import OpenError

FLOOD = 20_000


def test_a_flood_of_bad_messages_is_a_few_lines_and_no_reason_or_signer_is_missing(alice, caplog):
    sealing = sealing_of(alice, [alice])
    sealing.quiet = Quiet(logging.getLogger("taskseal.celery"), seconds=2)
    for number in range(FLOOD):
        if number in (100, 7_000, 15_000):
            error = OpenError("the signature does not verify", reason="bad-signature", signer='"carol 7"')
        else:
            error = OpenError("it is no message", reason="malformed")
        sealing.refuse(error, "message from the queue 'celery'")
    assert sealing.refusals == {"malformed": FLOOD - 3, "bad-signature": 3}
    # Said although nothing comes any more.
    wait_for(lambda: refusals_in(text(caplog)) == FLOOD, 20)
    log = text(caplog)
    assert (refusals_in(log, "malformed"), refusals_in(log, "bad-signature")) == (FLOOD - 3, 3)
    assert '"carol 7": ' in log
    assert log.count("\n") < 40, log


def text(caplog):
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return "\n".join(lines)


PROGRAM = dedent(
    """
    import logging, os
    from taskseal.celery.quiet import Quiet

    quiet = Quiet(logging.getLogger("taskseal.celery"), seconds=3600)
    for number in range(5000):
        quiet.log(logging.WARNING, "refused malformed", None, "refused: here: reason=malformed")
    """
)


def run(program):
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return out.stderr


def test_a_program_without_logging_set_up_says_little_and_all_of_it_at_its_end():
    said = run(PROGRAM)
    assert said.count("\n") == 2 and refusals_in(said) == 5000, said


def test_a_forked_child_says_what_it_counts_by_a_thread_of_its_own():
    said = run(
        PROGRAM.replace("3600", "1")
        + dedent(
            """
            import time
            child = os.fork()
            if child == 0:
                quiet.log(logging.WARNING, "refused token", None, "refused: here: reason=token")
                for number in range(10):
                    quiet.log(logging.WARNING, "refused token", None, "refused: here: reason=token")
                time.sleep(3)
                os._exit(0)
            os.waitpid(child, 0)
            """
        )
    )
    assert refusals_in(said, "token") == 11, said


def test_what_on_refused_raises_is_a_line_and_a_count(alice, caplog):
    def raises(reason, where):
        raise RuntimeError("broken")

    sealing = sealing_of(alice, [alice])
    sealing.on_refused = raises
    for _ in range(500):
        sealing.refuse(OpenError("bad", reason="token"), "message from the queue 'celery'")
    assert sealing.refusals == {"token": 500}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1 and errors[0].exc_info
