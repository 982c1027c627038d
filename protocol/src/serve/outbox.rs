//! Messages to the supervisor that are longer than one may be: whoever waits for them
//! must not wait in vain.

use crate::codec::{CodecError, MAX_MESSAGE};
use crate::control::{Connection, ControlError};
use crate::error::{GuestError, LoaderError, MAX_TEXT, short_text};
use crate::message::{LogLevel, LogRecord, ToSupervisor};

/// Sends a message; one that is too long with less in it.
pub(super) fn send(connection: &Connection, message: ToSupervisor) {
    // If the socket is gone the main thread learns it too, and ends us.
    if let Err(ControlError::Codec(CodecError::TooLarge(size))) = connection.send(&message) {
        drop(connection.send(&shortened(message, size)));
    }
}

/// The same message with short texts and without causes. If it has none that could be
/// long, that it was not sent, as a log record.
fn shortened(message: ToSupervisor, size: usize) -> ToSupervisor {
    match message {
        ToSupervisor::LoadFailed { lane, error } => {
            let error = match error {
                LoaderError::InitFailed { bundle, step, error } => {
                    LoaderError::init(bundle, short_text(&step), error.short(MAX_TEXT))
                }
                other => {
                    let error = GuestError::new("LoaderError", short_text(&other.to_string()));
                    LoaderError::init(String::new(), "load", error)
                }
            };
            ToSupervisor::LoadFailed { lane, error }
        }
        ToSupervisor::Finished { lane, state: Err(error) } => {
            ToSupervisor::Finished { lane, state: Err(error.short(MAX_TEXT)) }
        }
        ToSupervisor::Resumed { lane, outcome: Err(error) } => {
            ToSupervisor::Resumed { lane, outcome: Err(error.short(MAX_TEXT)) }
        }
        ToSupervisor::Log(record) => ToSupervisor::Log(LogRecord {
            bundle: record.bundle,
            level: record.level,
            target: short_text(&record.target),
            message: short_text(&record.message),
        }),
        _ => ToSupervisor::Log(LogRecord {
            bundle: None,
            level: LogLevel::Error,
            target: "menagerie".to_owned(),
            message: format!(
                "a message of {size} bytes was not sent: the limit is {MAX_MESSAGE} bytes"
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::control::Inbox;
    use crate::error::MAX_TEXT;

    fn received(message: ToSupervisor) -> ToSupervisor {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ours, theirs) = (Connection::new(ours.into()), Connection::new(theirs.into()));
        let sending = std::thread::spawn(move || send(&ours, message));
        let received = theirs.receive(&mut Inbox::default()).unwrap();
        sending.join().unwrap();
        received
    }

    fn huge() -> GuestError {
        let cause = GuestError::new("ValueError", "the cause");
        let mut error = GuestError::new("KeyError", "é".repeat(MAX_MESSAGE)).with_stack("here");
        error.inner.push(cause);
        error
    }

    fn is_short(error: &GuestError) {
        assert_eq!((&*error.type_name, &*error.stack), ("KeyError", "here"));
        assert!(error.message.starts_with("éé") && error.message.ends_with("é […]"));
        assert!(error.message.len() < MAX_TEXT + 10);
    }

    #[test]
    fn errors_that_are_too_long_arrive_shortened() {
        let error = LoaderError::init("bundle", "run on_load", huge());
        match received(ToSupervisor::LoadFailed { lane: 7, error }) {
            ToSupervisor::LoadFailed {
                lane: 7,
                error: LoaderError::InitFailed { bundle, step, error },
            } => {
                assert_eq!((&*bundle, &*step), ("bundle", "run on_load"));
                is_short(&error);
            }
            other => panic!("{other:?}"),
        }
        match received(ToSupervisor::Finished { lane: 7, state: Err(huge()) }) {
            ToSupervisor::Finished { lane: 7, state: Err(error) } => is_short(&error),
            other => panic!("{other:?}"),
        }
        match received(ToSupervisor::Resumed { lane: 7, outcome: Err(huge()) }) {
            ToSupervisor::Resumed { lane: 7, outcome: Err(error) } => is_short(&error),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_messages_that_are_too_long_are_told_of() {
        let error = LoaderError::BadFunctionName {
            bundle: "bundle".to_owned(),
            contract: "t@1".to_owned(),
            function: "A".repeat(MAX_MESSAGE),
        };
        match received(ToSupervisor::LoadFailed { lane: 7, error }) {
            ToSupervisor::LoadFailed { lane: 7, error: LoaderError::InitFailed { error, .. } } => {
                assert!(error.message.starts_with("bundle 'bundle': 't@1' exports 'AA"));
            }
            other => panic!("{other:?}"),
        }
        let record = LogRecord {
            bundle: Some("bundle".to_owned()),
            level: LogLevel::Warn,
            target: "log".to_owned(),
            message: "a".repeat(MAX_MESSAGE),
        };
        match received(ToSupervisor::Log(record.clone())) {
            ToSupervisor::Log(sent) => {
                assert_eq!((sent.bundle, sent.level), (record.bundle, record.level));
                assert!(sent.message.starts_with("aaa") && sent.message.len() < MAX_TEXT + 10);
            }
            other => panic!("{other:?}"),
        }
        let state = Ok(Some(vec![0; MAX_MESSAGE]));
        match received(ToSupervisor::Finished { lane: 7, state }) {
            ToSupervisor::Log(record) => assert!(record.message.contains("was not sent")),
            other => panic!("{other:?}"),
        }
    }
}
