//! What goes to the terminal: styles, facts, tables, times, JSON, log events.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, SystemTime};

use anstyle::Style;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use taskseal::error::is_hidden;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use unicode_width::UnicodeWidthStr as _;

use crate::args::Global;
pub(crate) use crate::escape::escaped;

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
    let text = &crate::unshown::without_secrets(text);
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
    let mut text = Vec::new();
    write_json(&mut text, CompactFormatter, value)?;
    text.push(b'\n');
    out.write_all(&text)
}

/// A JSON object for people and programs, over several lines.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut text = Vec::new();
    write_json(&mut text, PrettyFormatter::new(), value)?;
    text.push(b'\n');
    io::stdout().lock().write_all(&text)
}

fn write_json(
    out: &mut Vec<u8>,
    formatter: impl Formatter,
    value: &impl Serialize,
) -> io::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(
        out,
        Escaping(formatter),
    ))?;
    Ok(())
}

/// Writes JSON with all characters escaped that nobody sees: whoever reads it on a terminal sees what is there.
struct Escaping<F>(F);

/// What is done as the other formatter does it.
macro_rules! as_before {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        fn $name<W: ?Sized + Write>(&mut self, out: &mut W, $($argument: $type),*) -> io::Result<()> {
            self.0.$name(out, $($argument),*)
        }
    )*};
}

impl<F: Formatter> Formatter for Escaping<F> {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut units = [0; 2];
        for char in fragment.chars() {
            if is_hidden(char) {
                for unit in char.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}")?;
                }
            } else {
                write!(out, "{char}")?;
            }
        }
        Ok(())
    }

    as_before! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        begin_object_value();
        end_object_value();
    }
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
            .with_target("taskseal::refusals", LevelFilter::ERROR)
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
        .with_writer(|| Visible(io::stderr()));
    // Fails only if there is one already.
    let _ = tracing::subscriber::set_global_default(
        tracing_subscriber::registry().with(targets).with(layer),
    );
}

/// Writes lines with all characters escaped that nobody sees. The formatter's own colours stay; it escapes others itself.
struct Visible<W>(W);

impl<W: Write> Write for Visible<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut safe = String::with_capacity(line.len());
        for char in String::from_utf8_lossy(line).chars() {
            if is_hidden(char) && !matches!(char, '\n' | '\u{1b}') {
                safe.extend(char.escape_default());
            } else {
                safe.push(char);
            }
        }
        self.0.write_all(safe.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether stdout is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::{Visible, days_between, escaped, json_line, shortened, time, write_json};
    use serde_json::ser::PrettyFormatter;
    use std::io::Write as _;
    use std::time::{Duration, SystemTime};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn lines_of_the_log_show_what_is_in_them() {
        let mut line = Vec::new();
        let text = "\u{1b}[2mfile\u{1b}[0m=a\rb\u{9b}2J\u{202e}ä\n";
        Visible(&mut line).write_all(text.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "\u{1b}[2mfile\u{1b}[0m=a\\rb\\u{9b}2J\\u{202e}ä\n"
        );
    }

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
    fn nothing_that_a_terminal_obeys_gets_through_json() {
        let odd = "a\u{1b}[2J\u{7f}\u{9b}\u{200b}\u{202e}\u{2028}\u{feff}\u{e0041}\"\\ä😀";
        let mut lines = Vec::new();
        for formatted in [0, 1] {
            let mut line = Vec::new();
            let value = serde_json::json!({ odd: [odd, { "b": odd }] });
            if formatted == 0 {
                json_line(&mut line, &value).unwrap();
            } else {
                write_json(&mut line, PrettyFormatter::new(), &value).unwrap();
            }
            assert_eq!(
                serde_json::from_slice::<serde_json::Value>(&line).unwrap(),
                value
            );
            lines.push(String::from_utf8(line).unwrap());
        }
        let text = lines.concat();
        assert!(
            text.chars()
                .all(|char| char == '\n' || !taskseal::error::is_hidden(char)),
            "{text}"
        );
        assert!(text.contains("\\u202e") && text.contains("\\udb40\\udc41") && text.contains('ä'));
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
