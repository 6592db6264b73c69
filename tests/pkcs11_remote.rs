//! A token in another process, which is killed.
#![cfg(all(feature = "pkcs11", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::remote::Server;
use support::softhsm;
use taskseal::SigningKey;

#[test]
fn probe() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        token.generate(2048, "k");
        let mut server = Server::start(hsm, "lab");
        let key = server
            .builder()
            .object_label("k")
            .deadline(Duration::from_secs(3))
            .open_key()
            .unwrap();
        let ended = AtomicBool::new(false);
        let signed = AtomicUsize::new(0);
        let last = std::sync::Mutex::new(String::new());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while !ended.load(Ordering::SeqCst) {
                        match key.sign_message(b"m") {
                            Ok(_) => {
                                signed.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(e) => {
                                *last.lock().unwrap() = e.to_string();
                                std::thread::sleep(Duration::from_millis(10));
                            }
                        }
                    }
                });
            }
            for round in 0..6 {
                std::thread::sleep(Duration::from_millis(500));
                if round % 2 == 0 {
                    server.kill();
                    std::thread::sleep(Duration::from_millis(200));
                    server.restart();
                } else {
                    server.kill_connections();
                }
                let start = Instant::now();
                let before = signed.load(Ordering::SeqCst);
                while signed.load(Ordering::SeqCst) < before + 50
                    && start.elapsed() < Duration::from_secs(15)
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                let s = key.statistics();
                eprintln!(
                    "measured: round {round}: {:?}, {} stuck, {} reloads, signed {}, {} last {}",
                    start.elapsed(),
                    s.stuck_calls,
                    s.reloads,
                    signed.load(Ordering::SeqCst) - before,
                    key.health(),
                    last.lock().unwrap()
                );
                if start.elapsed() > Duration::from_secs(14) && std::env::var_os("STOP").is_some() {
                    eprintln!("pid {}", std::process::id());
                    std::thread::sleep(Duration::from_secs(100));
                }
            }
            ended.store(true, Ordering::SeqCst);
        });
    });
}
