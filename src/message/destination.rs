//! [`Destination`]: where a message goes.

use super::bound::{BoundError, Context};

/// Where a message goes: exchange, routing key, and the queue that it is put in. What is not set is not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Destination {
    exchange: Option<String>,
    queue: Option<String>,
    routing_key: Option<String>,
}

impl Destination {
    /// No part set. As an expectation it lets every message through, wherever it was sent: set what is known.
    #[must_use]
    pub const fn any() -> Self {
        Self {
            exchange: None,
            queue: None,
            routing_key: None,
        }
    }

    /// Sets the exchange; the default exchange is the empty text. At most 4096 bytes, as all parts.
    #[must_use]
    pub fn with_exchange(mut self, exchange: &str) -> Self {
        self.exchange = Some(exchange.to_owned());
        self
    }

    /// Sets the queue.
    #[must_use]
    pub fn with_queue(mut self, queue: &str) -> Self {
        self.queue = Some(queue.to_owned());
        self
    }

    /// Sets the routing key.
    #[must_use]
    pub fn with_routing_key(mut self, routing_key: &str) -> Self {
        self.routing_key = Some(routing_key.to_owned());
        self
    }

    /// The exchange, if it is set.
    #[must_use]
    pub fn exchange(&self) -> Option<&str> {
        self.exchange.as_deref()
    }

    /// The queue, if it is set.
    #[must_use]
    pub fn queue(&self) -> Option<&str> {
        self.queue.as_deref()
    }

    /// The routing key, if it is set.
    #[must_use]
    pub fn routing_key(&self) -> Option<&str> {
        self.routing_key.as_deref()
    }

    /// Whether every part of `self` that is set is there in `found`, and the same.
    #[must_use]
    pub fn allows(&self, found: &Self) -> bool {
        let allows = |wanted: Option<&str>, found| wanted.is_none() || wanted == found;
        allows(self.exchange(), found.exchange())
            && allows(self.queue(), found.queue())
            && allows(self.routing_key(), found.routing_key())
    }

    /// The parts that are set, their names ascending.
    pub(super) fn context(&self) -> Context {
        [
            (EXCHANGE, &self.exchange),
            (QUEUE, &self.queue),
            (ROUTING_KEY, &self.routing_key),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
        .collect()
    }

    pub(super) fn from_context(context: Context) -> Result<Self, BoundError> {
        let mut destination = Self::any();
        for (name, value) in context {
            let part = match &*name {
                EXCHANGE => &mut destination.exchange,
                QUEUE => &mut destination.queue,
                ROUTING_KEY => &mut destination.routing_key,
                _ => return Err(BoundError::Malformed),
            };
            *part = Some(value);
        }
        Ok(destination)
    }
}

const EXCHANGE: &str = "exchange";
const QUEUE: &str = "queue";
const ROUTING_KEY: &str = "routing-key";
