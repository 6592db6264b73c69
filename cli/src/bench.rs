//! `taskseal bench`, and the measuring that `doctor` does too.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use taskseal::pss::Scheme;
use taskseal::{SignError, SigningKey};

use crate::args::Global;
use crate::args::token::BenchArgs;
use crate::failure::Failure;
use crate::keys;
use crate::output;

/// What is signed.
const MESSAGE: [u8; 200] = [b'.'; 200];

/// What a measurement found.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Speed {
    pub(crate) threads: u64,
    pub(crate) seconds: f64,
    pub(crate) signatures: u64,
    pub(crate) per_second: f64,
    /// The mean time of one signature as its caller sees it, in milliseconds.
    pub(crate) milliseconds_each: f64,
}

pub(crate) fn run(args: &BenchArgs, global: Global) -> Result<(), Failure> {
    let key = keys::builder(&args.key.uri, args.key.module.as_deref())
        .scheme(Scheme::new(args.digest, args.salt))
        .max_sessions(usize::try_from(args.threads).unwrap_or(usize::MAX))
        .open_key()?;
    let bar = progress(args.seconds, global);
    let speed = measure(
        &key,
        args.threads,
        Duration::from_secs(args.seconds),
        |left, count| {
            bar.set_position(args.seconds.saturating_sub(left.as_secs()));
            bar.set_message(format!("{count} signatures"));
        },
    )?;
    bar.finish_and_clear();
    if global.json {
        return Ok(output::json(&speed)?);
    }
    let facts = [
        ("token", output::escaped(&key.token().to_string())),
        (
            "scheme",
            format!("{}, by {}", key.scheme(), key.signature_path().as_str()),
        ),
        ("threads", speed.threads.to_string()),
        (
            "signatures",
            format!("{} in {:.1} s", speed.signatures, speed.seconds),
        ),
        ("per second", format!("{:.1}", speed.per_second)),
        ("time of one", format!("{:.2} ms", speed.milliseconds_each)),
    ];
    Ok(output::facts(&mut anstream::stdout().lock(), &facts)?)
}

/// Signs with so many threads for so long. Every signature is verified by the library before it comes back. Tells the
/// time left and the count so far ten times a second.
pub(crate) fn measure(
    key: &dyn SigningKey,
    threads: u64,
    time: Duration,
    tell: impl Fn(Duration, u64),
) -> Result<Speed, SignError> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        let sign = || {
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = key.sign_message(&MESSAGE) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(sign)).collect();
        while let Some(left) = time
            .checked_sub(start.elapsed())
            .filter(|_| !stop.load(Ordering::Relaxed))
        {
            tell(left, count.load(Ordering::Relaxed));
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        stop.store(true, Ordering::Relaxed);
        // A thread that panicked has printed so, and has counted nothing more.
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let signatures = count.load(Ordering::Relaxed);
    let (done, workers) = (to_float(signatures), to_float(threads));
    Ok(Speed {
        threads,
        seconds,
        signatures,
        per_second: done / seconds,
        milliseconds_each: seconds * 1000.0 * workers / done.max(1.0),
    })
}

fn progress(seconds: u64, global: Global) -> ProgressBar {
    if global.json {
        return ProgressBar::hidden();
    }
    // Draws on stderr, and only on a terminal.
    let bar = ProgressBar::new(seconds);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} s  {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Counts far below 2^52, so nothing is lost.
#[allow(clippy::cast_precision_loss)]
fn to_float(count: u64) -> f64 {
    count as f64
}
