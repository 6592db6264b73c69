//! Many signatures from eight threads while everything goes wrong by chance.
//!
//! `TASKSEAL_SOAK_SIGNATURES` says how many (5,000 unless set; `scripts/soak` asks for 100,000), `TASKSEAL_SOAK_SEED` which
//! faults. The seed is printed.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::fault::{Chance, Fault, OTHER_KEY};
use support::softhsm;
use taskseal::SigningKey;
use taskseal::pkcs11::Rv;

const THREADS: usize = 8;
const DEADLINE: Duration = Duration::from_secs(2);
/// What a call may take beyond its deadline, on a slow machine with others beside it.
const SLACK: Duration = Duration::from_millis(750);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// Of a million calls of the function, how many get the fault.
fn faults() -> Vec<(&'static str, u32, Fault)> {
    let ms = Duration::from_millis;
    vec![
        ("C_Sign", 1500, Fault::Rv(Rv::DEVICE_ERROR)),
        ("C_Sign", 1500, Fault::Rv(Rv::KEY_HANDLE_INVALID)),
        ("C_Sign", 1000, Fault::Rv(Rv::USER_NOT_LOGGED_IN)),
        ("C_Sign", 1000, Fault::Rv(Rv::HOST_MEMORY)),
        ("C_Sign", 2000, Fault::LoseSession),
        ("C_Sign", 1000, Fault::OtherKey),
        ("C_Sign", 500, Fault::Short),
        ("C_Sign", 500, Fault::Long),
        ("C_Sign", 2000, Fault::Delay(ms(30))),
        ("C_Sign", 500, Fault::Delay(ms(2600))),
        ("C_Sign", 500, Fault::Hang),
        ("C_Sign", 150, Fault::Dead(Rv::GENERAL_ERROR)),
        ("C_Sign", 80, Fault::Away(ms(400))),
        ("C_Sign", 80, Fault::ServerAway(ms(400))),
        ("C_OpenSession", 5000, Fault::Rv(Rv::DEVICE_ERROR)),
        ("C_OpenSession", 5000, Fault::Rv(Rv::SESSION_COUNT)),
        ("C_OpenSession", 2000, Fault::NoSlots(ms(200))),
        ("C_Login", 20_000, Fault::Rv(Rv::GENERAL_ERROR)),
        ("C_Login", 10_000, Fault::Delay(ms(200))),
        ("C_FindObjects", 5000, Fault::Rv(Rv::FUNCTION_FAILED)),
        ("C_FindObjects", 2000, Fault::Delay(ms(100))),
        (
            "C_GetAttributeValue",
            2000,
            Fault::Rv(Rv::OBJECT_HANDLE_INVALID),
        ),
        ("C_GetSlotList", 5000, Fault::Rv(Rv::GENERAL_ERROR)),
        ("C_GetTokenInfo", 2000, Fault::Rv(Rv::DEVICE_ERROR)),
        ("C_Finalize", 50_000, Fault::Delay(ms(200))),
        ("C_Initialize", 100_000, Fault::Rv(Rv::HOST_MEMORY)),
        ("C_Initialize", 100_000, Fault::Blind),
    ]
}

/// Threads of this process, as Linux counts them.
fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

#[test]
fn whatever_fails_calls_end_in_time_and_only_right_signatures_come_out() {
    softhsm::test(|hsm| {
        let wanted = number("TASKSEAL_SOAK_SIGNATURES").unwrap_or(5000);
        let seed = number("TASKSEAL_SOAK_SEED").unwrap_or_else(|| {
            let now = std::time::SystemTime::now();
            now.duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64
        });
        eprintln!("soak: {wanted} signatures, TASKSEAL_SOAK_SEED={seed}");
        let token = hsm.token_with_key();
        token.generate(2048, OTHER_KEY);
        let (builder, faulty) = token.faulty();
        let before = threads();
        let key = builder
            .object_label("k")
            .max_sessions(THREADS)
            .deadline(DEADLINE)
            .reload_interval(Duration::from_millis(300))
            .open_key()
            .unwrap();
        faulty.by_chance(Some(Chance::new(seed, faults())));
        // Not left to chance in a short run.
        faulty.happens(Fault::Dead(Rv::GENERAL_ERROR));

        let asked = AtomicUsize::new(0);
        let signed = AtomicUsize::new(0);
        let longest = Mutex::new(Duration::ZERO);
        let classes = Mutex::new(BTreeMap::<&str, usize>::new());
        let most_threads = AtomicUsize::new(0);
        let done = AtomicBool::new(false);
        let start = Instant::now();
        let work = || {
            while (asked.fetch_add(1, Ordering::SeqCst) as u64) < wanted {
                let message = asked.load(Ordering::SeqCst).to_string();
                let begun = Instant::now();
                let result = key.sign_message(message.as_bytes());
                let took = begun.elapsed();
                let mut longest = longest.lock().unwrap();
                *longest = (*longest).max(took);
                drop(longest);
                match result {
                    Ok(signature) => {
                        assert!(
                            key.public_key()
                                .verifies(message.as_bytes(), &signature, key.scheme()),
                            "a wrong signature was handed out"
                        );
                        signed.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => {
                        assert!(error.class().is_retryable(), "{error}");
                        *classes
                            .lock()
                            .unwrap()
                            .entry(error.class().as_str())
                            .or_default() += 1;
                        // As a caller would who was told to come back later.
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            // What hangs comes back after a while: late, or in time.
            let releaser = scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1500));
                    most_threads.fetch_max(threads().unwrap_or(0), Ordering::SeqCst);
                    faulty.release();
                }
            });
            let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
            let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            done.store(true, Ordering::SeqCst);
            releaser.join().unwrap();
            ended.into_iter().for_each(|ended| ended.unwrap());
        });
        let took = start.elapsed();
        faulty.clear();
        faulty.release();

        let (longest, classes) = (longest.into_inner().unwrap(), classes.into_inner().unwrap());
        let signed = signed.into_inner();
        let statistics = key.statistics();
        eprintln!(
            "soak: {signed} signatures and {classes:?} in {took:.1?} ({:.0}/s); longest call {longest:?}; {} retries, \
             {} new starts, {} threads at most",
            signed as f64 / took.as_secs_f64(),
            statistics.retries,
            statistics.reloads,
            most_threads.into_inner(),
        );
        assert!(longest < DEADLINE + SLACK, "a call took {longest:?}");
        assert!(
            signed as u64 * 100 >= wanted * 90,
            "only {signed} were made"
        );
        assert!(
            statistics.retries > 0 && statistics.reloads > 0,
            "nothing went wrong"
        );
        assert_eq!(statistics.signatures, signed as u64);
        assert_eq!(faulty.answers("C_Login", "CKR_PIN_INCORRECT"), 0);

        // Once nothing goes wrong any more, everything works, and nothing is left over.
        let patience = Instant::now();
        while key.statistics().stuck_calls > 0 || key.sign_message(b"m").is_err() {
            assert!(
                patience.elapsed() < Duration::from_secs(20),
                "{}",
                key.health()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(key.health().is_usable());
        assert!(faulty.open() <= THREADS, "{} sessions", faulty.open());
        key.close().unwrap();
        assert_eq!(faulty.open(), 0, "sessions are left");
        while threads() > before {
            assert!(
                patience.elapsed() < Duration::from_secs(20),
                "threads are left"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}
