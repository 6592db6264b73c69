//! Text that somebody else may have written.

use taskseal::error::is_hidden;

/// Text that somebody else may have written, with its control characters escaped: no forged lines, no terminal
/// sequences.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        if is_hidden(char) {
            safe.extend(char.escape_default());
        } else {
            safe.push(char);
        }
    }
    safe
}
