//! What the demo prints while it goes: numbered steps, with what came out of each.

use std::io::{self, Write as _};

use crate::args::Global;
use crate::output::{self, style};

/// Columns that the demo's lines keep to.
const WIDTH: usize = 100;
const INDENT: &str = "    ";
/// Columns of the names of facts; as many as the longest has.
const NAMES: usize = 13;

/// Prints to stdout, or nothing at all with `--json`.
pub(super) struct Show {
    silent: bool,
    steps: usize,
}

impl Show {
    pub(super) fn new(global: Global) -> Self {
        Self {
            silent: global.json,
            steps: 0,
        }
    }

    pub(super) fn title(&self, title: &str, what: &str) -> io::Result<()> {
        let (bold, dim) = (style::BOLD, style::DIM);
        self.line(&format!("{bold}{title}{bold:#}  {dim}{what}{dim:#}"))
    }

    /// Starts the next step.
    pub(super) fn step(&mut self, what: &str) -> io::Result<()> {
        self.steps += 1;
        let (number, bold) = (style::NUMBER, style::BOLD);
        self.line("")?;
        self.line(&format!(
            "{number}{:>2}{number:#}  {bold}{what}{bold:#}",
            self.steps
        ))
    }

    /// Names and values, under the step.
    pub(super) fn facts(&self, facts: &[(&str, String)]) -> io::Result<()> {
        if self.silent {
            return Ok(());
        }
        output::indented_facts(&mut anstream::stdout().lock(), INDENT, NAMES, facts)
    }

    /// Something that went as promised.
    pub(super) fn good(&self, word: &str, what: &str) -> io::Result<()> {
        let good = style::GOOD;
        self.line(&format!("{INDENT}{good}{word:NAMES$}{good:#}  {what}"))
    }

    /// A message that was refused: what was wrong with it, the reason in one word, and the text of the error.
    pub(super) fn refused(&self, what: &str, reason: &str, error: &str) -> io::Result<()> {
        let (good, bold, dim) = (style::GOOD, style::WARNING, style::DIM);
        self.line(&format!(
            "{INDENT}{good}{:NAMES$}{good:#}  {what}",
            "refused"
        ))?;
        let column = " ".repeat(INDENT.len() + NAMES + 2);
        let mut first = format!("{bold}{reason}{bold:#}: ");
        for line in wrapped(error, reason.len() + 2) {
            self.line(&format!("{column}{first}{dim}{line}{dim:#}"))?;
            first.clear();
        }
        Ok(())
    }

    /// Plain text.
    pub(super) fn line(&self, text: &str) -> io::Result<()> {
        if self.silent {
            return Ok(());
        }
        writeln!(anstream::stdout().lock(), "{text}")
    }
}

/// Breaks a text into lines at its blanks, the first line shorter by so many columns.
fn wrapped(text: &str, first: usize) -> Vec<String> {
    let width = WIDTH - INDENT.len() - NAMES - 2;
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = first;
    for word in text.split(' ') {
        let len = word.chars().count();
        if !line.is_empty() && used + 1 + len > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        if !line.is_empty() {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += len;
    }
    lines.push(line);
    lines
}
