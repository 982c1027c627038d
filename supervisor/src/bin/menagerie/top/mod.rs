//! `menagerie top`: a live view of workers and bundles.

mod model;
mod view;

use std::io::IsTerminal;
use std::pin::Pin;
use std::time::{Duration, Instant};

use hyper::Method;
use menagerie_supervisor::Status;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use crate::client::{Client, CommandError};
use crate::ending::Ending;
use crate::render;
use model::Model;

/// Nobody sees more pictures than that, and `--every 0s` is no interval.
const SHORTEST: Duration = Duration::from_millis(50);

/// The size of a picture where there is no terminal.
const PICTURE: (u16, u16) = (120, 40);

pub(crate) async fn top(client: &Client, every: Duration, once: bool) -> Result<(), CommandError> {
    let mut model = Model::default();
    if once {
        look(client, &mut model).await?;
        // Rates take two looks.
        tokio::time::sleep(every).await;
        look(client, &mut model).await?;
        render::verbatim(&picture(&model)?);
        return Ok(());
    }
    if !std::io::stdout().is_terminal() {
        let text = "top needs a terminal; for one picture of it: menagerie top --once";
        return Err(CommandError::Usage(text.to_owned()));
    }
    // Who has no supervisor is told in the usual way.
    look(client, &mut model).await?;
    let failed = |error: std::io::Error| CommandError::Failed(error.to_string());
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let outcome = live(&mut terminal, client, &mut model, every).await.map_err(failed);
    ratatui::restore();
    outcome
}

/// For programs: what it would show, as the service has it, in a line for each look.
pub(crate) async fn lines(
    client: &Client,
    every: Duration,
    once: bool,
) -> Result<(), CommandError> {
    loop {
        let status = client.text(Method::GET, "/v1/status", None).await?;
        if !render::verbatim(&status) || once {
            return Ok(());
        }
        tokio::time::sleep(every.max(SHORTEST)).await;
    }
}

async fn look(client: &Client, model: &mut Model) -> Result<(), CommandError> {
    model.update(status(client).await?, Instant::now());
    Ok(())
}

async fn status(client: &Client) -> Result<Status, CommandError> {
    let text = client.text(Method::GET, "/v1/status", None).await?;
    serde_json::from_str(&text)
        .map_err(|error| CommandError::Failed(format!("the status cannot be read: {error}")))
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    Scroll(isize),
    Pause,
    Nothing,
}

fn wish(key: KeyEvent) -> Wish {
    if key.kind == KeyEventKind::Release {
        return Wish::Nothing;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
        KeyCode::Down | KeyCode::Char('j') => Wish::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Wish::Scroll(-1),
        KeyCode::PageDown => Wish::Scroll(10),
        KeyCode::PageUp => Wish::Scroll(-10),
        KeyCode::Char(' ') => Wish::Pause,
        _ => Wish::Nothing,
    }
}

async fn live(
    terminal: &mut ratatui::DefaultTerminal,
    client: &Client,
    model: &mut Model,
    every: Duration,
) -> std::io::Result<()> {
    let (sender, mut events) = mpsc::unbounded_channel();
    // Reading keys blocks; the thread ends with the process.
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                break;
            }
        }
    });
    let mut ticks = tokio::time::interval(every.max(SHORTEST));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // They end it like a key: the terminal has to be given back.
    let mut ending = Ending::new()?;
    let mut paused = false;
    // The answer that is waited for; keys count meanwhile: who has a supervisor that
    // hangs wants to leave.
    let mut looking = std::pin::pin!(None);
    loop {
        terminal.draw(|frame| view::draw(frame, model))?;
        tokio::select! {
            event = events.recv() => match event {
                None => return Ok(()),
                Some(Event::Key(key)) => match wish(key) {
                    Wish::Quit => return Ok(()),
                    Wish::Scroll(rows) => model.scroll_by(rows),
                    Wish::Pause => paused = !paused,
                    Wish::Nothing => {}
                },
                // A new size: drawn again.
                Some(_) => {}
            },
            _ = ending.name() => return Ok(()),
            _ = ticks.tick(), if !paused && looking.is_none() => looking.set(Some(status(client))),
            found = answer(looking.as_mut()) => {
                looking.set(None);
                match found {
                    Ok(status) => model.update(status, Instant::now()),
                    Err(error) => model.fail(error.to_string()),
                }
            }
        }
    }
}

/// The end of what may be under way; never, for `None`.
async fn answer<T>(step: Pin<&mut Option<impl Future<Output = T>>>) -> T {
    match step.as_pin_mut() {
        Some(step) => step.await,
        None => std::future::pending().await,
    }
}

/// The view as text.
fn picture(model: &Model) -> Result<String, CommandError> {
    let (width, height) = match render::width() {
        Some(width) => (width, PICTURE.1),
        None => PICTURE,
    };
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| view::draw(frame, model));
    Ok(text(terminal.backend().buffer()))
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let lines = buffer.content.chunks(width).map(|row| {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
