//! Following logs and events: what is broken off is taken up again where it was,
//! also when the supervisor has been started anew meanwhile.

use std::time::Duration;

use http_body_util::BodyExt;

use crate::client::{Client, CommandError, seconds_seen};
use crate::render;
use crate::sse::{Message, Parser};

/// How long to wait before looking for the supervisor again: doubled each time,
/// up to the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// For how many seconds a follower may hear nothing. The service says at least every
/// five that it is there (`http/stream.rs`), and once did so every fifteen.
const SILENCE: u32 = 20;

/// Why a stream was not read on.
enum Ended {
    /// Nobody reads what we write.
    Unread,
    /// The supervisor has said all, or has gone.
    Over,
}

/// How a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// What is kept is said at once; then it ends.
    Once,
    /// Something is said whenever it happens.
    Follow,
    /// As that, and it was read before, from a supervisor that had gone.
    Back,
}

/// What has been read by now.
#[derive(Debug, Default)]
struct Place {
    /// The last id: `<life of the supervisor>.<number>`.
    last: Option<String>,
}

/// What a message makes of the place.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// An item to show.
    Item(String),
    /// Something to tell people.
    Notice(String),
}

impl Place {
    fn take(&mut self, message: Message) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(id) = message.id {
            let life = |id: &str| id.split('.').next().map(str::to_owned);
            if self.last.as_deref().is_some_and(|last| life(last) != life(&id)) {
                let text = "the supervisor was started anew: what it has said since then follows";
                steps.push(Step::Notice(text.to_owned()));
            }
            self.last = Some(id);
        }
        match (message.event.as_deref(), message.data) {
            (None, Some(data)) => steps.push(Step::Item(data)),
            (Some("missed"), Some(count)) => {
                steps.push(Step::Notice(format!("{count} were dropped before they were read")));
            }
            // Kinds of later versions.
            _ => {}
        }
        steps
    }
}

async fn read(
    client: &Client,
    path: &str,
    place: &mut Place,
    mode: Mode,
    line: &mut impl FnMut(&str) -> bool,
) -> Result<Ended, CommandError> {
    let mut body = client.stream(path, place.last.as_deref()).await?;
    if mode == Mode::Back {
        render::note("menagerie: a supervisor answers again; going on after what was shown");
    }
    let mut parser = Parser::default();
    let mut told = false;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = seconds_seen(SILENCE), if !told => {
                let hangs = client.hangs(SILENCE);
                if mode == Mode::Once {
                    return Err(hangs);
                }
                render::note(&format!("menagerie: {hangs}"));
                told = true;
                continue;
            }
        };
        let Some(frame) = frame else { break };
        if std::mem::take(&mut told) {
            let socket = client.socket().display();
            render::note(&format!("menagerie: the supervisor at {socket} is heard again"));
        }
        // Broken off in the middle is as good as an end: what comes next is
        // asked for by the last id.
        let Ok(frame) = frame else { break };
        let Some(data) = frame.data_ref() else { continue };
        for step in parser.push(data).into_iter().flat_map(|message| place.take(message)) {
            match step {
                Step::Notice(text) => render::note(&format!("menagerie: {text}")),
                Step::Item(data) if !line(&data) => return Ok(Ended::Unread),
                Step::Item(_) => {}
            }
        }
    }
    Ok(Ended::Over)
}

/// Shows what is kept, and ends.
pub(crate) async fn once(
    client: &Client,
    path: &str,
    mut line: impl FnMut(&str) -> bool,
) -> Result<(), CommandError> {
    read(client, path, &mut Place::default(), Mode::Once, &mut line).await.map(drop)
}

/// Shows what comes until nobody reads it; waits for the supervisor when it has
/// gone. Only the first time it has to be there.
pub(crate) async fn follow(
    client: &Client,
    path: &str,
    mut line: impl FnMut(&str) -> bool,
) -> Result<(), CommandError> {
    let mut place = Place::default();
    let (mut back, mut pause) = (false, PAUSES[0]);
    loop {
        let mode = if back { Mode::Back } else { Mode::Follow };
        match read(client, path, &mut place, mode, &mut line).await {
            Ok(Ended::Unread) => return Ok(()),
            Ok(Ended::Over) => {
                let socket = client.socket().display();
                render::note(&format!(
                    "menagerie: the supervisor at {socket} has gone; waiting until one is there"
                ));
                (back, pause) = (true, PAUSES[0]);
            }
            Err(error) if back && error.may_pass() => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, data: Option<&str>) -> Message {
        Message { id: Some(id.to_owned()), event: None, data: data.map(str::to_owned) }
    }

    #[test]
    fn g_a_follower_says_when_another_supervisor_answers() {
        let mut place = Place::default();
        assert_eq!(place.take(message("a.3", None)), []);
        assert_eq!(place.take(message("a.4", Some("x"))), [Step::Item("x".into())]);
        let steps = place.take(message("b.1", Some("y")));
        assert!(
            matches!(&steps[..], [Step::Notice(text), Step::Item(_)] if text.contains("anew")),
            "{steps:?}"
        );
        assert_eq!(place.last.as_deref(), Some("b.1"));
    }

    #[test]
    fn g_a_follower_says_what_it_missed() {
        let missed = Message { id: None, event: Some("missed".into()), data: Some("4".into()) };
        let steps = Place::default().take(missed);
        assert!(matches!(&steps[..], [Step::Notice(text)] if text.starts_with("4 ")), "{steps:?}");
        let unknown = Message { id: None, event: Some("later".into()), data: Some("4".into()) };
        assert_eq!(Place::default().take(unknown), []);
    }
}
