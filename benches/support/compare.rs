//! Comparing two things where the machine has other things to do: short slices of the one and of the other in turn, and the
//! median of the ratios of neighbours. A burst of load hits neighbours alike, and what hits one alone is no median.

use std::fmt;
use std::time::{Duration, Instant};

/// Runs something so many times and says how long that took.
pub type Timed<'a> = Box<dyn FnMut(u32) -> Duration + 'a>;

/// Times `call` from outside.
pub fn timed<'a, T>(mut call: impl FnMut() -> T + 'a) -> Timed<'a> {
    Box::new(move |times| {
        let started = Instant::now();
        for _ in 0..times {
            std::hint::black_box(call());
        }
        started.elapsed()
    })
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// About how long a slice takes.
    pub slice: Duration,
    /// How many pairs of slices.
    pub rounds: usize,
}

impl Effort {
    /// 101 pairs of 20 ms, or as many as `TASKSEAL_BENCH_ROUNDS` says.
    pub fn usual() -> Self {
        Self {
            slice: Duration::from_millis(20),
            rounds: Self::rounds(101),
        }
    }

    /// For what takes long by itself.
    pub fn few() -> Self {
        Self {
            rounds: Self::rounds(31),
            ..Self::usual()
        }
    }

    fn rounds(usual: usize) -> usize {
        std::env::var("TASKSEAL_BENCH_ROUNDS")
            .ok()
            .and_then(|rounds| rounds.parse().ok())
            .unwrap_or(usual)
            .max(3)
    }
}

/// What a comparison found.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub name: String,
    /// What `theirs` is.
    pub against: String,
    /// Time of one operation, the median of the slices.
    pub ours: Duration,
    pub theirs: Duration,
    /// Speed of ours in units of theirs: above 1 is faster.
    pub ratio: f64,
    /// Between these lies half of the rounds.
    pub quartiles: (f64, f64),
    /// The ratio that is wanted, if one is.
    pub target: Option<f64>,
}

impl Outcome {
    pub fn met(&self) -> Option<bool> {
        // As precise as it is printed.
        self.target
            .map(|target| (self.ratio * 1000.0).round() / 1000.0 >= target)
    }

    /// The row of a Markdown table.
    pub fn row(&self) -> String {
        let target = self
            .target
            .map_or("—".to_owned(), |target| format!("≥ {target}"));
        let met = match self.met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "—",
        };
        format!(
            "| {} | {} | {} | {} | {} | {} – {} | {target} | {met} |",
            self.name,
            time(self.ours),
            self.against,
            time(self.theirs),
            number(self.ratio),
            number(self.quartiles.0),
            number(self.quartiles.1)
        )
    }

    /// The head of the table that the rows belong to.
    pub const HEAD: &str = "| case | taskseal | against | time | ratio | middle half | target | met |\n\
                            |---|---:|---|---:|---:|---:|---:|---|";
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.met(), self.target) {
            (Some(true), Some(target)) => format!("met (>= {target})"),
            (_, Some(target)) => format!("MISSED (>= {target})"),
            _ => String::new(),
        };
        write!(
            f,
            "{:<58} {:>10} {:>10}  x {:<6} [{} .. {}]  {verdict}",
            format!("{} / {}", self.name, self.against),
            time(self.ours),
            time(self.theirs),
            number(self.ratio),
            number(self.quartiles.0),
            number(self.quartiles.1)
        )
    }
}

/// Runs `ours` and `theirs` in turn.
pub fn compare(
    effort: Effort,
    name: &str,
    mut ours: Timed<'_>,
    against: &str,
    mut theirs: Timed<'_>,
    target: Option<f64>,
) -> Outcome {
    let times = (
        calibrate(effort.slice, &mut ours),
        calibrate(effort.slice, &mut theirs),
    );
    let mut rounds = Vec::with_capacity(effort.rounds);
    for round in 0..effort.rounds {
        // Who goes first changes, so that going second is no advantage.
        let (mine, other);
        if round % 2 == 0 {
            mine = ours(times.0);
            other = theirs(times.1);
        } else {
            other = theirs(times.1);
            mine = ours(times.0);
        }
        rounds.push((
            mine.as_secs_f64() / f64::from(times.0),
            other.as_secs_f64() / f64::from(times.1),
        ));
    }
    let sorted = |value: fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(value).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let ratios = sorted(|(mine, other)| other / mine);
    let at = |all: &[f64], part: f64| all[((all.len() - 1) as f64 * part).round() as usize];
    let outcome = Outcome {
        name: name.to_owned(),
        against: against.to_owned(),
        ours: Duration::from_secs_f64(at(&sorted(|round| round.0), 0.5)),
        theirs: Duration::from_secs_f64(at(&sorted(|round| round.1), 0.5)),
        ratio: at(&ratios, 0.5),
        quartiles: (at(&ratios, 0.25), at(&ratios, 0.75)),
        target,
    };
    println!("{outcome}");
    outcome
}

/// How many times fill a slice. Warms up on the way.
fn calibrate(slice: Duration, run: &mut Timed<'_>) -> u32 {
    let mut times = 1_u32;
    loop {
        let took = run(times);
        if took >= slice / 4 || times > 1 << 24 {
            let per_call = took.as_secs_f64() / f64::from(times);
            return ((slice.as_secs_f64() / per_call).round() as u32).max(1);
        }
        times *= 4;
    }
}

fn time(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        _ if micros < 1.0 => format!("{:.0} ns", micros * 1e3),
        _ if micros < 100.0 => format!("{micros:.1} µs"),
        _ if micros < 10_000.0 => format!("{micros:.0} µs"),
        _ => format!("{:.1} ms", micros / 1e3),
    }
}

fn number(value: f64) -> String {
    if value < 1.5 {
        format!("{value:.3}")
    } else {
        format!("{value:.2}")
    }
}
