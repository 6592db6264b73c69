"""The settings of `setup_sealing`: their names, what each may be, and that nothing which looks like one is passed over.

A setting that is passed over means its default: messages that are not encrypted, for instance.
"""

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches

from celery.app import utils as celery_utils
from celery.exceptions import ImproperlyConfigured

#: The settings beyond Celery's own, and the options of `Sealing` that they become.
SETTINGS = {
    "sealing_max_age": "max_age",
    "sealing_result_max_age": "result_max_age",
    "sealing_clock_skew": "clock_skew",
    "sealing_broadcast_skew": "broadcast_skew",
    "sealing_max_message_len": "max_len",
    "sealing_max_body_len": "max_body_len",
    "sealing_refused": "refused",
    "sealing_dead_letter_queue": "dead_letter_queue",
    "sealing_dead_letter_max": "dead_letter_max",
    "sealing_domain": "domain",
    "sealing_replay_capacity": "replay_capacity",
    "sealing_bindings": "bindings",
    "sealing_on_refused": "on_refused",
    "sealing_dangerous_ignore_critical": "dangerous_ignore_critical",
}

#: All of them: these are read for themselves.
KNOWN = {*SETTINGS, "sealing_replay", "sealing_reload_interval", "sealing_reload_grace", "sealing_salt",
         "sealing_encryption_keys"}  # fmt: skip

#: Celery's own that are used here.
SECURITY = {"security_key", "security_key_password", "security_certificate", "security_cert_store", "security_digest"}


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_len(value):
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value):
    return is_len(value) and value > 0


def is_text(value):
    return isinstance(value, str)


def is_list_of_texts(value):
    # A text is a sequence of texts as well, each of one character.
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


def is_bindings(value):
    return isinstance(value, Mapping) and all(
        isinstance(queue, str)
        and isinstance(pairs, (list, tuple, set, frozenset))
        and all(is_list_of_texts(pair) and len(pair) == 2 for pair in pairs)
        for queue, pairs in value.items()
    )


def is_memory(value):
    return isinstance(value, str) or all(callable(getattr(value, name, None)) for name in ("contains", "remember"))


#: What each may be, in words.
KINDS = {
    "sealing_max_age": (is_number, "a number of seconds"),
    "sealing_result_max_age": (is_number, "a number of seconds"),
    "sealing_clock_skew": (is_number, "a number of seconds"),
    "sealing_broadcast_skew": (is_number, "a number of seconds"),
    "sealing_reload_interval": (is_number, "a number of seconds"),
    "sealing_reload_grace": (is_number, "a number of seconds"),
    "sealing_max_message_len": (is_len, "a number of bytes"),
    "sealing_max_body_len": (is_len, "a number of bytes"),
    "sealing_refused": (is_text, "a text"),
    "sealing_dead_letter_queue": (is_text, "a text"),
    "sealing_dead_letter_max": (is_count, "a number of messages"),
    "sealing_replay_capacity": (is_count, "a number of messages"),
    "sealing_domain": (is_text, "a text"),
    "sealing_salt": (is_text, "a text"),
    "sealing_encryption_keys": (is_list_of_texts, "a list of texts, also for one key"),
    "sealing_bindings": (is_bindings, "a dict from queues to lists of pairs of texts, an exchange and a routing key"),
    "sealing_replay": (is_memory, "a URL, or an object with the methods contains and remember"),
    "sealing_on_refused": (callable, "a callable"),
    "sealing_dangerous_ignore_critical": (is_list_of_texts, "a list of OIDs"),
}


def check(app):
    """Raises `ImproperlyConfigured` for a setting that would be passed over or taken for something else."""
    # What was given to the application is read by the first access.
    app.conf.get("sealing_salt")
    conf = app.conf
    prefix = getattr(conf, "prefix", None) or ""
    for name in conf:
        if isinstance(name, str):
            check_name(name, prefix)
    for name in KNOWN:
        check_kind(name, conf.get(name))


def check_name(name, prefix=""):
    """`prefix` is the namespace of `config_from_object`: with it Celery also reads names in capitals, if it is in capitals."""
    known = KNOWN | SECURITY
    read = known | {(prefix + one).upper() if prefix.isupper() else (prefix + one).lower() for one in known}
    # Celery's names of old, which it takes for its own settings alone.
    read |= {f"CELERY_{one}".upper() for one in SECURITY}
    if name in read:
        return
    plain = name.lower()
    for start in (prefix.lower(), "celery_", "taskseal_"):
        plain = plain.removeprefix(start)
    word, _, rest = plain.partition("_")
    meant = None
    if word == "sealing" or plain in known:
        meant = get_close_matches(plain, known, 1, 0.0)
    elif word in ("seal", "sealed") or get_close_matches(word, ["sealing"], 1, 0.75):
        # Misspelt, if the rest is one of ours. `scaling_factor` is somebody else's.
        rests = {one.partition("_")[2]: one for one in KNOWN}
        meant = [rests[one] for one in get_close_matches(rest, rests, 1, 0.85)]
    elif word == "security":
        meant = get_close_matches(plain, SECURITY, 1, 0.85)
    meant = meant or in_other_words(name)
    if meant:
        wanted = (prefix + meant[0]).upper() if prefix.isupper() else prefix + meant[0]
        raise ImproperlyConfigured(
            f"there is no setting {name!r}; {wanted!r} is meant, perhaps? The settings are {', '.join(sorted(KNOWN))}"
        )


def in_other_words(name):
    """The setting that is meant, if a word of ours stands anywhere in a name before what one of our settings is called."""
    letters = re.sub(r"[\W_]+", "", name.lower())
    rests = {one.partition("_")[2].replace("_", ""): one for one in KNOWN}
    for word in ("taskseal", "sealing", "sealed"):
        _, found, rest = letters.rpartition(word)
        if found:
            return [rests[one] for one in get_close_matches(rest, rests, 1, 0.85)]
    return []


def check_kind(name, value):
    """What a value is, is said; it may be a secret itself."""
    kind, wanted = KINDS.get(name, (None, None))
    if value is not None and kind is not None and not kind(value):
        raise ImproperlyConfigured(f"{name} is {wanted}, and not {described(value)}")


def described(value):
    """The type of a value, and those of its members, where it has some: never the value."""
    text = f"of type {type(value).__name__}"
    if isinstance(value, list | tuple | set) and value:
        text += " with members of type " + " and ".join(sorted({type(member).__name__ for member in value}))
    return text


def hide():
    """Has Celery mask the URL of the replay memory, which may hold a password, in `celery report` and `inspect conf`.

    Celery masks settings by their names, under every spelling of them.
    """
    if "SEALING_REPLAY" not in celery_utils.HIDDEN_SETTINGS.pattern:
        pattern = f"{celery_utils.HIDDEN_SETTINGS.pattern}|SEALING_REPLAY"
        celery_utils.HIDDEN_SETTINGS = re.compile(pattern, celery_utils.HIDDEN_SETTINGS.flags)
