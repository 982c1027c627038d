//! What others have written: plugins, workers, whoever answers at the socket. A terminal
//! would obey it: clear the screen, set the title, write the clipboard; and a line break in
//! it could begin a line that looks like one of ours.

use std::borrow::Cow;
use std::fmt::Write;

/// What a line is continued with: no line of ours begins so.
const CONTINUED: &str = "\n    ";

/// A text for people to read: lines after the first are indented, and other control
/// characters but tabs stand there as JSON has them, `\u001b`, so that JSON stays what it is.
pub(crate) fn readable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut readable = String::with_capacity(text.len());
    for c in text.trim_end_matches(['\r', '\n']).replace("\r\n", "\n").chars() {
        match c {
            '\n' => readable.push_str(CONTINUED),
            // Writing to a string does not fail.
            c if is_obeyed(c) => drop(write!(readable, "\\u{:04x}", u32::from(c))),
            c => readable.push(c),
        }
    }
    Cow::Owned(readable)
}

/// A record of a log, whose line breaks are others' but for the last: what follows one is
/// indented. Whoever has written the record has seen to what else a terminal would obey.
pub(crate) fn record(text: &str) -> String {
    let text = text.trim_end_matches('\n').replace('\n', CONTINUED);
    text.replace('\r', "\\r") + "\n"
}

/// Whether a terminal does something other than to show it.
fn is_obeyed(c: char) -> bool {
    c.is_control() && c != '\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_what_a_terminal_would_obey_is_shown() {
        for (text, shown) in [
            ("plain, ä\tand 語", "plain, ä\tand 語"),
            ("\x1b[2J\x1b]52;c;eA==\x07", "\\u001b[2J\\u001b]52;c;eA==\\u0007"),
            ("\u{9b}2J\x7f\r\x08", "\\u009b2J\\u007f\\u000d\\u0008"),
            ("one\ntwo\r\n\nthree\n\n", "one\n    two\n    \n    three"),
        ] {
            assert_eq!(readable(text), shown);
        }
    }

    #[test]
    fn g_json_stays_the_same_value() {
        let text = "{\"a\":\"\u{9b}\u{7f}\"}";
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&readable(text)), value(text));
        assert!(!readable(text).contains(char::is_control));
    }
}
