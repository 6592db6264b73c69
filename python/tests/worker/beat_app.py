"""The application of `sealed_app` with a schedule."""

from sealed_app import app, run

app.conf.beat_schedule = {"often": {"task": run.name, "schedule": 0.5, "args": ["beat"]}}
