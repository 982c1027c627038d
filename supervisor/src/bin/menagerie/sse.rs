//! Server-sent events, as the status service sends them.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Where a reader goes on who comes back after this one.
    pub(crate) id: Option<String>,
    /// Its kind; none for an item.
    pub(crate) event: Option<String>,
    /// None in an event that only says where the reader is.
    pub(crate) data: Option<String>,
}

/// Puts events together from the pieces in which they arrive.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    message: Message,
}

impl Parser {
    /// The events that these bytes complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut complete = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                let message = std::mem::take(&mut self.message);
                if message != Message::default() {
                    complete.push(message);
                }
                continue;
            }
            // A line with nothing before its colon is a comment.
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "id" => self.message.id = Some(value),
                "event" => self.message.event = Some(value),
                "data" => match &mut self.message.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(&value);
                    }
                    data @ None => *data = Some(value),
                },
                _ => {}
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b": ready\n\nid: 1f.7\n\nid:1f.8\r\ndata: {\"a\":\ndata: 1}\n\n\
        event: missed\ndata: 4\n\nretry: 3\nid: 1f.9\ndata: la";

    #[test]
    fn sse_is_put_together_from_pieces_of_any_size() {
        for size in 1..STREAM.len() {
            let mut parser = Parser::default();
            let seen: Vec<Message> =
                STREAM.chunks(size).flat_map(|piece| parser.push(piece)).collect();
            let message = |id: Option<&str>, event: Option<&str>, data: Option<&str>| Message {
                id: id.map(str::to_owned),
                event: event.map(str::to_owned),
                data: data.map(str::to_owned),
            };
            let expected = [
                message(Some("1f.7"), None, None),
                message(Some("1f.8"), None, Some("{\"a\":\n1}")),
                message(None, Some("missed"), Some("4")),
            ];
            assert_eq!(seen, expected, "pieces of {size}");
        }
    }
}
