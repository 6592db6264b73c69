//! The command line of whole messages.

use std::time::Duration;

use clap::Args;
use taskseal::MessageOpener;

/// Sealing a whole message.
#[derive(Debug, Args)]
#[command(next_help_heading = "Whole messages")]
pub(crate) struct SealMessageOptions {
    #[command(flatten)]
    pub(crate) scope: ScopeOptions,
    #[command(flatten)]
    pub(crate) destination: DestinationOptions,
}

/// Opening a whole message.
#[derive(Debug, Args)]
#[command(next_help_heading = "Whole messages")]
pub(crate) struct OpenMessageOptions {
    #[command(flatten)]
    pub(crate) scope: ScopeOptions,
    #[command(flatten)]
    pub(crate) destination: DestinationOptions,
    /// How old a message may be [default: 86400]
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u64>,
}

impl OpenMessageOptions {
    pub(crate) fn max_age(&self) -> Duration {
        let seconds = self.max_age.map(Duration::from_secs);
        seconds.unwrap_or(MessageOpener::MAX_AGE)
    }

    /// Whether something is set that a whole message alone has.
    pub(crate) fn is_used(&self) -> bool {
        self.destination.is_used() || self.max_age.is_some()
    }
}

/// Whether it is a whole message at all, and how it is hidden.
#[derive(Debug, Args)]
pub(crate) struct ScopeOptions {
    /// A whole message (kombu's JSON with body, headers and properties), and not the body of a task
    #[arg(long, conflicts_with = "format")]
    message: bool,
    /// Fernet key of a message that is signed and then encrypted: a file, env:NAME, or the URI of two keys in a token;
    /// repeatable, the first one encrypts
    #[arg(long, value_name = "FILE|env:NAME|URI", conflicts_with = "format")]
    pub(crate) encrypt_key: Vec<crate::args::source::FernetSource>,
}

impl ScopeOptions {
    pub(crate) fn is_message(&self) -> bool {
        self.message || !self.encrypt_key.is_empty()
    }
}

/// Where a message goes, or where it has to have gone.
#[derive(Debug, Args)]
pub(crate) struct DestinationOptions {
    /// Domain that the message belongs to (Celery's setting sealing_domain); without it: none
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) domain: String,
    /// Exchange that the message is sent to; empty for the default exchange
    #[arg(long, value_name = "NAME")]
    exchange: Option<String>,
    /// Routing key of the message
    #[arg(long, value_name = "KEY")]
    routing_key: Option<String>,
    /// Queue that the message is put in
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
}

impl DestinationOptions {
    /// Whether something is set that a whole message alone has.
    pub(crate) fn is_used(&self) -> bool {
        self.any_is_set() || !self.domain.is_empty()
    }

    pub(crate) fn any_is_set(&self) -> bool {
        self.exchange.is_some() || self.routing_key.is_some() || self.queue.is_some()
    }

    pub(crate) fn destination(&self) -> taskseal::Destination {
        let mut destination = taskseal::Destination::any();
        if let Some(exchange) = &self.exchange {
            destination = destination.with_exchange(exchange);
        }
        if let Some(routing_key) = &self.routing_key {
            destination = destination.with_routing_key(routing_key);
        }
        if let Some(queue) = &self.queue {
            destination = destination.with_queue(queue);
        }
        destination
    }
}
