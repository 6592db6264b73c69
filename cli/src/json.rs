//! Making JSON readable without changing what it says.

/// A container that is longer than this is broken into lines.
const LINE: usize = 72;

/// Lays JSON out over several lines. Everything but the blanks between tokens stays as it was written: the order of the
/// keys, keys that stand twice, the digits of numbers. `None` when it is no JSON.
pub(crate) fn pretty(json: &[u8]) -> Option<String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(json).ok()?;
    let text = std::str::from_utf8(json).ok()?;
    let tokens = tokens(text);
    let broken = long_containers(&tokens);
    let mut out = String::with_capacity(text.len() * 2);
    // For each open container: whether it is broken into lines.
    let mut open: Vec<bool> = Vec::new();
    for (token, is_long) in tokens.iter().zip(broken) {
        match *token {
            "[" | "{" => {
                out.push_str(token);
                open.push(is_long);
                if is_long {
                    new_line(&mut out, &open);
                }
            }
            "]" | "}" => {
                if open.pop() == Some(true) {
                    new_line(&mut out, &open);
                }
                out.push_str(token);
            }
            "," if open.last() == Some(&true) => {
                out.push(',');
                new_line(&mut out, &open);
            }
            "," | ":" => {
                out.push_str(token);
                out.push(' ');
            }
            other => out.push_str(other),
        }
    }
    Some(out)
}

fn new_line(out: &mut String, open: &[bool]) {
    out.push('\n');
    for _ in open.iter().filter(|broken| **broken) {
        out.push_str("  ");
    }
}

/// Splits JSON that is known to be good: brackets, commas, colons, strings with their quotes, and the rest.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '[' | ']' | '{' | '}' | ',' | ':' => 1,
            '"' => string_len(rest),
            _ => rest
                .find(|char: char| "[]{},:\"".contains(char) || char.is_ascii_whitespace())
                .unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(len);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// Length of the string at the start of the text, quotes included.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// For each token: whether it opens a container that does not fit on a line.
fn long_containers(tokens: &[&str]) -> Vec<bool> {
    let mut long = vec![false; tokens.len()];
    let mut open: Vec<(usize, usize)> = Vec::new();
    let mut columns = 0;
    for (at, token) in tokens.iter().enumerate() {
        match *token {
            "[" | "{" => open.push((at, columns)),
            "]" | "}" => {
                if let Some((start, before)) = open.pop()
                    && let Some(long) = long.get_mut(start)
                {
                    *long = columns - before > LINE;
                }
            }
            _ => {}
        }
        columns += token.chars().count() + usize::from(matches!(*token, "," | ":"));
    }
    long
}

#[cfg(test)]
mod tests {
    use super::pretty;

    #[test]
    fn short_json_stays_on_its_line_and_long_json_is_broken() {
        assert_eq!(
            pretty(b" [1,2 , {\"a\" :null}] ").unwrap(),
            "[1, 2, {\"a\": null}]"
        );
        let long = format!("[[1,2],{{}},\"{}\"]", "x".repeat(80));
        let lines = format!("[\n  [1, 2],\n  {{}},\n  \"{}\"\n]", "x".repeat(80));
        assert_eq!(pretty(long.as_bytes()).unwrap(), lines);
    }

    #[test]
    fn nothing_but_blanks_is_changed() {
        let json =
            r#"{"b":1e999,"a":"\"[,:","a":123456789012345678901234567890,"c":["\\",true,-0.0]}"#;
        let shown = pretty(json.as_bytes()).unwrap();
        assert!(shown.contains('\n'));
        assert_eq!(shown.replace(['\n', ' '], ""), json);
    }

    #[test]
    fn what_is_no_json_is_left_alone() {
        for bad in [&b""[..], b"[1,", b"{\"a\"}", b"\xff", b"[1] x"] {
            assert_eq!(pretty(bad), None);
        }
        assert_eq!(pretty("[".repeat(100_000).as_bytes()), None);
    }
}
