//! The numbers of a key on a token through the facade `metrics`.
#![cfg(all(feature = "pkcs11", feature = "metrics"))]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use support::fault::Fault;
use support::softhsm;
use taskseal::SigningKey;
use taskseal::pkcs11::Rv;

#[derive(Default, Clone)]
struct Counts(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Counts {
    fn place(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        let name = [key.name(), &labels.join(",")].join(" ");
        self.0.lock().unwrap().entry(name).or_default().clone()
    }

    fn of(&self, name: &str) -> u64 {
        let counts = self.0.lock().unwrap();
        counts
            .get(name)
            .map_or(0, |count| count.load(Ordering::SeqCst))
    }
}

/// Counts how often something was recorded.
struct Times(Arc<AtomicU64>);

impl HistogramFn for Times {
    fn record(&self, value: f64) {
        assert!(value > 0.0 && value < 10.0, "{value} seconds");
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.place(key))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Times(self.place(key))))
    }
}

#[test]
fn signatures_failures_retries_and_new_starts_are_counted() {
    softhsm::test(|hsm| {
        let counts = Counts::default();
        metrics::set_global_recorder(counts.clone()).unwrap();
        let token = hsm.token_with_key();
        let (builder, faults) = token.faulty();
        let key = builder.open_key().unwrap();
        key.sign_message(b"m").unwrap();
        faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
        key.sign_message(b"m").unwrap();
        faults.script("C_Sign", [Fault::Rv(Rv::DATA_LEN_RANGE)]);
        key.sign_message(b"m").unwrap_err();
        for (name, count) in [
            ("taskseal_pkcs11_signatures_total ", 2),
            ("taskseal_pkcs11_failures_total permanent", 1),
            ("taskseal_pkcs11_failures_total session-lost", 0),
            ("taskseal_pkcs11_retries_total ", 3),
            ("taskseal_pkcs11_token_seconds ", 2),
        ] {
            assert_eq!(counts.of(name), count, "{name}: {:?}", counts.0);
        }
        // Two guards stand one behind the other here, and both count.
        assert_eq!(counts.of("taskseal_pkcs11_reloads_total "), 2);
    });
}
