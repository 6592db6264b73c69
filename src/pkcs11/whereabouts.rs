//! [`Whereabouts`]: in which instance of a module a worker's thread is, for whoever waits for it.
//!
//! A call that hangs in an instance which was left alone does not come back, or with an answer that is worth nothing. Its
//! caller need not wait for the deadline to know that.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where one thread is. Written by that thread, read by another.
#[derive(Debug, Clone, Default)]
pub(crate) struct Whereabouts(Arc<AtomicU64>);

thread_local! {
    /// Of this thread, if it is a worker's.
    static OWN: RefCell<Option<Whereabouts>> = const { RefCell::new(None) };
}

impl Whereabouts {
    /// From now on this is where the calling thread is.
    pub(crate) fn follow(&self) {
        OWN.with(|own| *own.borrow_mut() = Some(self.clone()));
    }

    /// The number of the instance in which the thread makes a call or waits for somebody who does.
    pub(crate) fn instance(&self) -> Option<u64> {
        self.0.load(Ordering::SeqCst).checked_sub(1)
    }
}

/// A thread is in an instance until this is dropped.
pub(crate) struct Stay {
    /// One that it was in before, as when it logs in while it keeps others from doing so.
    before: u64,
}

impl Stay {
    /// The calling thread is in the instance of that number.
    pub(crate) fn begin(instance: u64) -> Self {
        Self {
            before: swap(instance + 1),
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        swap(self.before);
    }
}

fn swap(place: u64) -> u64 {
    // Where a thread ends nobody waits for it any more.
    let swapped = OWN.try_with(|own| match &*own.borrow() {
        Some(Whereabouts(own)) => own.swap(place, Ordering::SeqCst),
        None => 0,
    });
    swapped.unwrap_or(0)
}
