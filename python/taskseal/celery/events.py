"""Events of applications that sign them."""

from celery.events.receiver import EventReceiver


class SignedEventReceiver(EventReceiver):
    """Takes signed events alone. Celery's own takes plain JSON as well, whatever the application sends."""

    def __init__(self, *args, accept=None, **kwargs):
        super().__init__(*args, accept=["auth"] if accept is None else accept, **kwargs)
