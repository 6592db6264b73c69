//! What failures cost, as the tables of docs/performance.md, section "Recovery". Nothing is promised here, so the tests are
//! run by `./scripts/bench recovery` alone.
#![cfg(all(feature = "pkcs11", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::fault::Fault;
use support::remote::Server;
use support::softhsm;
use taskseal::pkcs11::{Pkcs11Key, Rv};
use taskseal::signer::failover::Preference;
use taskseal::{FailoverSigner, Signer, SigningKey};

const SECOND: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(3);

/// What eight threads saw.
struct Seen {
    signed: Vec<Instant>,
    failed: Vec<Instant>,
}

impl Seen {
    /// Signatures per second.
    fn rate(&self, from: Instant, to: Instant) -> f64 {
        let signed = self.signed.iter().filter(|at| **at >= from && **at < to);
        signed.count() as f64 / (to - from).as_secs_f64()
    }

    fn failures(&self, from: Instant, to: Instant) -> usize {
        let failed = self.failed.iter().filter(|at| **at >= from && **at < to);
        failed.count()
    }

    /// The longest time without a signature after that moment.
    fn gap(&self, from: Instant) -> Duration {
        let mut signed: Vec<_> = self.signed.iter().filter(|at| **at > from).collect();
        signed.sort();
        let gaps = signed.windows(2).map(|pair| *pair[1] - *pair[0]);
        gaps.max().unwrap()
    }
}

/// Lets eight threads sign while `meanwhile` runs.
fn load<T>(sign: impl Fn() -> bool + Sync, meanwhile: impl FnOnce() -> T) -> (Seen, T) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let work = || {
            let mut seen = (Vec::new(), Vec::new());
            while !ended.load(Ordering::SeqCst) {
                if sign() {
                    seen.0.push(Instant::now());
                } else {
                    seen.1.push(Instant::now());
                    sleep(Duration::from_millis(10));
                }
            }
            seen
        };
        let threads = [(); 8].map(|()| scope.spawn(work));
        let outcome = meanwhile();
        ended.store(true, Ordering::SeqCst);
        let seen = threads.map(|thread| thread.join().unwrap());
        let (signed, failed): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
        let seen = Seen {
            signed: signed.concat(),
            failed: failed.concat(),
        };
        (seen, outcome)
    })
}

#[test]
#[ignore = "prints numbers"]
fn what_eight_threads_lose_with_their_server() {
    softhsm::test(|hsm| {
        hsm.token_with_key();
        let mut server = Server::start(hsm, "lab");
        eprintln!(
            "| p11-kit server, 8 threads | before, signatures/s | away, s | longest time without a signature, s | failed calls | after, signatures/s | new starts | calls that hang |"
        );
        eprintln!("|---|---|---|---|---|---|---|---|");
        let mut row = |name: &str, fail: fn(&mut Server), back: fn(&mut Server), away: Duration| {
            let builder = server.builder().object_label("k").deadline(DEADLINE);
            let key = builder.open_key().unwrap();
            let reloads = key.statistics().reloads;
            let (seen, [start, lost, back, settled, end]) = load(
                || key.sign_message(b"m").is_ok(),
                || {
                    let start = Instant::now();
                    sleep(3 * SECOND);
                    let lost = Instant::now();
                    fail(&mut server);
                    sleep(away);
                    back(&mut server);
                    let back = Instant::now();
                    sleep(7 * SECOND);
                    let settled = Instant::now();
                    sleep(3 * SECOND);
                    [start, lost, back, settled, Instant::now()]
                },
            );
            let statistics = key.statistics();
            eprintln!(
                "| {name} | {:.0} | {:.1} | {:.2} | {} | {:.0} | {} | {} |",
                seen.rate(start, lost),
                (back - lost).as_secs_f64(),
                seen.gap(lost).as_secs_f64(),
                seen.failures(lost, end),
                seen.rate(settled, end),
                statistics.reloads - reloads,
                statistics.stuck_calls,
            );
            key.close().unwrap();
        };
        let nothing: fn(&mut Server) = |_| {};
        row(
            "connection killed",
            |server| server.kill_connections(),
            nothing,
            Duration::ZERO,
        );
        let half = SECOND / 2;
        row("server killed", Server::kill, Server::restart, half);
        row("server killed", Server::kill, Server::restart, 4 * SECOND);
        row(
            "server frozen",
            |server| server.freeze(),
            |server| server.thaw(),
            4 * SECOND,
        );
    });
}

#[test]
#[ignore = "prints numbers"]
fn what_a_failover_signer_makes_with_one_of_two_dead() {
    softhsm::test(|hsm| {
        hsm.token_with_key();
        let other = hsm.token("other");
        let mut server = Server::start(hsm, "lab");
        let remote = server.builder().object_label("k").deadline(2 * SECOND);
        let certificate = softhsm::certificate(&remote.open_key().unwrap(), "CN=remote");
        let remote = Arc::new(remote.open_signer(certificate).unwrap());
        let members: Vec<Arc<dyn Signer>> = vec![remote, Arc::new(other.signer(2048, "k"))];
        eprintln!(
            "| failover, 8 threads | both alive, signatures/s | one killed, the first 3 s | one dead, the next 3 s | back, after 10 s | failed calls |"
        );
        eprintln!("|---|---|---|---|---|---|");
        for preference in [Preference::PreferFirst, Preference::RoundRobin] {
            let signer = FailoverSigner::new(members.clone(), preference).unwrap();
            let (seen, at) = load(
                || signer.sign(b"m").is_ok(),
                || {
                    let mut at = vec![Instant::now()];
                    let mut wait = |time| {
                        sleep(time);
                        at.push(Instant::now());
                    };
                    wait(3 * SECOND);
                    server.kill();
                    wait(3 * SECOND);
                    wait(3 * SECOND);
                    server.restart();
                    wait(10 * SECOND);
                    wait(3 * SECOND);
                    at
                },
            );
            let rate = |from: usize| seen.rate(at[from], at[from + 1]);
            eprintln!(
                "| {preference:?} | {:.0} | {:.0} | {:.0} | {:.0} | {} |",
                rate(0),
                rate(1),
                rate(2),
                rate(4),
                seen.failed.len()
            );
        }
    });
}

#[test]
#[ignore = "prints numbers"]
fn what_one_signature_costs_that_meets_a_failure() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let (builder, faults) = token.faulty();
        let builder = builder.object_label("k").reload_interval(Duration::ZERO);
        let key = builder.open_key().unwrap();
        eprintln!("| SoftHSM, one thread | median, ms | longest of 20, ms |");
        eprintln!("|---|---|---|");
        let timed = |key: &Pkcs11Key, before: &dyn Fn()| {
            let mut times: Vec<_> = (0..20)
                .map(|_| {
                    before();
                    let start = Instant::now();
                    let _ = key.sign_message(b"m");
                    start.elapsed().as_secs_f64() * 1000.0
                })
                .collect();
            times.sort_by(f64::total_cmp);
            (times[10], times[19])
        };
        let row = |name: &str, before: &dyn Fn()| {
            let (median, longest) = timed(&key, before);
            eprintln!("| {name} | {median:.1} | {longest:.1} |");
        };
        let script = |faults: &support::fault::Faults, count: usize, rv| {
            faults.script("C_Sign", vec![Fault::Rv(rv); count]);
        };
        row("no failure", &|| {});
        row("session lost", &|| script(&faults, 1, Rv::DEVICE_ERROR));
        row("login lost unnoticed", &|| {
            script(&faults, 2, Rv::USER_NOT_LOGGED_IN);
        });
        row("module to be started anew", &|| {
            faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
        });
        faults.labels_hidden.store(true, Ordering::SeqCst);
        script(&faults, 1, Rv::KEY_HANDLE_INVALID);
        row("key destroyed, said at once", &|| {});
    });
}
