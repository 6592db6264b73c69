//! What goes to the terminal: styles, facts, tables, times, JSON, log events.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, SystemTime};

use anstyle::Style;
use serde::Serialize;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use unicode_width::UnicodeWidthStr as _;

use crate::args::Global;

/// The styles in use. Streams of `anstream` drop them where they are not wanted.
pub(crate) mod style {
    use anstyle::{AnsiColor, Style};

    pub(crate) const PLAIN: Style = Style::new();
    #[cfg(feature = "pkcs11")]
    pub(crate) const BOLD: Style = Style::new().bold();
    #[cfg(feature = "pkcs11")]
    pub(crate) const NUMBER: Style = AnsiColor::Cyan.on_default().bold();
    pub(crate) const DIM: Style = Style::new().dimmed();
    pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
    pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
    pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
}

/// A warning on stderr.
pub(crate) fn warn(global: Global, text: &str) {
    #[derive(Serialize)]
    struct Warning<'a> {
        warning: &'a str,
    }
    let mut err = anstream::stderr().lock();
    let yellow = style::WARNING;
    // A warning that nobody can read stops nothing.
    let _ = if global.json {
        json_line(&mut err, &Warning { warning: text })
    } else {
        writeln!(
            err,
            "taskseal: {yellow}warning:{yellow:#} {}",
            escaped(text)
        )
    };
}

/// One JSON object on one line.
pub(crate) fn json_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string(value)?)
}

/// A JSON object for people and programs, over several lines.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    writeln!(
        io::stdout().lock(),
        "{}",
        serde_json::to_string_pretty(value)?
    )
}

/// Names and values in two columns. A value of several lines keeps its column.
pub(crate) fn facts(out: &mut impl Write, facts: &[(&str, String)]) -> io::Result<()> {
    let names = facts.iter().map(|(name, _)| name.width());
    indented_facts(out, "", names.max().unwrap_or(0), facts)
}

/// The same, with the width of the first column given, and something in front of each line.
pub(crate) fn indented_facts(
    out: &mut impl Write,
    indent: &str,
    width: usize,
    facts: &[(&str, String)],
) -> io::Result<()> {
    let dim = style::DIM;
    for (name, value) in facts {
        for (at, line) in value.split('\n').enumerate() {
            let name = if at == 0 { name } else { "" };
            writeln!(out, "{indent}{dim}{name:width$}{dim:#}  {line}")?;
        }
    }
    Ok(())
}

/// A cell of a [`Table`]: text and its style.
pub(crate) type Cell = (String, Style);

/// Aligned columns under a header.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|name| ((*name).to_owned(), style::DIM));
        Self {
            rows: vec![header.collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|(text, _)| text.width()).max().unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((text, style), width) in row.iter().zip(&widths) {
                // Spaces go in front of the next cell, so that no line ends in them.
                let gap = " ".repeat(width - text.width() + 2);
                let _ = write!(line, "{style}{text}{style:#}{gap}");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Text that somebody else may have written, with its control characters escaped: no forged lines, no terminal
/// sequences.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        if is_unsafe(char) {
            safe.extend(char.escape_default());
        } else {
            safe.push(char);
        }
    }
    safe
}

/// Control characters, and those that turn the direction of the text around them.
fn is_unsafe(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first characters of a text that is too long for a line.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A time in UTC (RFC 3339), to the second.
pub(crate) fn time(at: SystemTime) -> String {
    taskseal::certificate::rfc3339(at)
}

/// Whole days from `now` to `at`, rounded towards zero; negative when it is over.
pub(crate) fn days_between(now: SystemTime, at: SystemTime) -> i64 {
    const DAY: u64 = 24 * 60 * 60;
    let days = |time: Duration| i64::try_from(time.as_secs() / DAY).unwrap_or(i64::MAX);
    match at.duration_since(now) {
        Ok(left) => days(left),
        Err(over) => -days(over.duration()),
    }
}

/// Events of the library on stderr: warnings by default, more with `-v`. What a command says anyway as its own error is
/// left out, and with `--json` stderr stays JSON.
pub(crate) fn start_logging(global: Global) {
    let level = match (global.verbose, global.json) {
        (0, true) => return,
        (0, false) => LevelFilter::WARN,
        (1, _) => LevelFilter::INFO,
        (2, _) => LevelFilter::DEBUG,
        (_, _) => LevelFilter::TRACE,
    };
    let mut targets = Targets::new().with_target("taskseal", level);
    if global.verbose == 0 {
        targets = targets
            .with_target("taskseal::open", LevelFilter::ERROR)
            .with_target("taskseal::pkcs11::session", LevelFilter::ERROR);
    }
    let ansi = !matches!(
        anstream::AutoStream::choice(&io::stderr()),
        anstream::ColorChoice::Never
    );
    let layer = tracing_subscriber::fmt::layer()
        .compact()
        .without_time()
        .with_ansi(ansi)
        .with_writer(io::stderr);
    // Fails only if there is one already.
    let _ = tracing::subscriber::set_global_default(
        tracing_subscriber::registry().with(targets).with(layer),
    );
}

/// Whether stdout is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::{days_between, escaped, shortened, time};
    use std::time::{Duration, SystemTime};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn times_out_of_range_do_not_panic() {
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(time(epoch + DAY), "1970-01-02T00:00:00Z");
        assert_eq!(time(epoch - DAY), "1969-12-31T00:00:00Z");
        assert!(!time(epoch + 3_000_000 * DAY).is_empty());
    }

    #[test]
    fn days_are_rounded_towards_zero() {
        let now = SystemTime::UNIX_EPOCH + 100 * DAY;
        let hour = Duration::from_secs(3600);
        for (at, days) in [
            (now + DAY + hour, 1),
            (now + hour, 0),
            (now - hour, 0),
            (now - DAY - hour, -1),
        ] {
            assert_eq!(days_between(now, at), days);
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(
            escaped("a\u{1b}[2J\r\nb\u{202e}ä"),
            "a\\u{1b}[2J\\r\\nb\\u{202e}ä"
        );
        assert_eq!(shortened("äöü", 2), "äö…");
        assert_eq!(shortened("äö", 2), "äö");
    }
}
