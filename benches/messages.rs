//! Absolute times, by criterion: what one call costs on this machine today. For ratios see `ratios.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{KIB, MIB, body, certificate, opener, sealer};
use taskseal::pss::Scheme;
use taskseal::{CertStore as _, Certificate, Format, MemoryCertStore};

const SIZES: [(&str, usize); 4] = [
    ("200 B", 200),
    ("10 KiB", 10 * KIB),
    ("100 KiB", 100 * KIB),
    ("64 MiB", 64 * MIB),
];

fn seal(c: &mut Criterion) {
    let sealer = sealer(Scheme::default());
    let mut group = c.benchmark_group("seal in software");
    for (name, size) in SIZES {
        let message = body(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| sealer.seal_bytes(&message).unwrap());
        });
    }
}

fn open(c: &mut Criterion) {
    let (sealer, opener) = (sealer(Scheme::default()), opener());
    let mut group = c.benchmark_group("open");
    for (name, size) in SIZES {
        let sealed = sealer.seal_bytes(&body(size)).unwrap();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| opener.open(sealed.as_bytes()).unwrap().body().len());
        });
    }
    group.finish();

    let mut group = c.benchmark_group("unpack 100 KiB");
    for format in Format::ALL {
        let sealed = sealer
            .clone()
            .with_format(format)
            .seal_bytes(&body(100 * KIB))
            .unwrap();
        group.bench_function(BenchmarkId::from_parameter(format), |bencher| {
            bencher.iter(|| {
                let unpacked = format.unpack(sealed.as_bytes(), |_| Some(256)).unwrap();
                unpacked.body().len()
            });
        });
    }
}

fn certificates(c: &mut Criterion) {
    let der = certificate().der().to_vec();
    c.bench_function("read a certificate", |bencher| {
        bencher.iter(|| Certificate::from_der(&der).unwrap());
    });
    let store = MemoryCertStore::new();
    store.add(certificate()).unwrap();
    let id = certificate().id().to_owned();
    c.bench_function("look a signer up", |bencher| {
        bencher.iter(|| store.get(&id).unwrap());
    });
}

criterion_group!(benches, seal, open, certificates);
criterion_main!(benches);
