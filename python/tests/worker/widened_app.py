"""The application of `signed_app` with a setting that was widened after it was made."""

from signed_app import app

app.conf.accept_content = ["auth", "json"]
