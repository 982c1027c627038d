//! Commands that show what a supervisor says.

use std::time::Duration;

use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Client, CommandError};
use crate::query::Query;
use crate::{follow, render};

/// Fetches something, and shows it to people or as it is.
pub(super) async fn show<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    as_json: bool,
    render: impl FnOnce(&T),
) -> Result<(), CommandError> {
    let text = client.text(Method::GET, path, None).await?;
    let unreadable = |error: serde_json::Error| {
        CommandError::Failed(format!("the supervisor's answer cannot be read: {error}"))
    };
    if as_json {
        render::json(&serde_json::from_str::<Value>(&text).map_err(unreadable)?);
    } else {
        render(&serde_json::from_str(&text).map_err(unreadable)?);
    }
    Ok(())
}

/// Shows an event or a log entry to people or as it is; false if nobody reads it any
/// more. A supervisor of another version may say what we do not know.
fn item<T: DeserializeOwned>(data: &str, as_json: bool, render: impl Fn(&T) -> bool) -> bool {
    if !as_json {
        match serde_json::from_str(data) {
            Ok(item) => return render(&item),
            Err(error) => {
                render::note(&format!("menagerie: shown as it came: it cannot be read: {error}"));
            }
        }
    }
    if as_json { render::verbatim(data) } else { render::line(data) }
}

pub(super) async fn events(
    client: &Client,
    query: Query,
    no_follow: bool,
    json: bool,
) -> Result<(), CommandError> {
    let query = if no_follow { query.and("follow", "false") } else { query };
    let line = |data: &str| item(data, json, render::event);
    let path = query.path("/v1/events");
    if no_follow {
        follow::once(client, &path, line).await
    } else {
        follow::follow(client, &path, line).await
    }
}

pub(super) async fn logs(
    client: &Client,
    query: Query,
    (go_on, tail, since): (bool, Option<usize>, Option<Duration>),
    json: bool,
) -> Result<(), CommandError> {
    let query = match (tail, go_on) {
        (Some(tail), _) => query.and("tail", &tail.to_string()),
        // What is remembered, and then what comes.
        (None, true) if since.is_none() => query.and("since", "0"),
        _ => query,
    };
    let query = if go_on { query } else { query.and("follow", "false") };
    let line = |data: &str| item(data, json, render::log_entry);
    let path = query.path("/v1/logs");
    if go_on {
        follow::follow(client, &path, line).await
    } else {
        follow::once(client, &path, line).await
    }
}
