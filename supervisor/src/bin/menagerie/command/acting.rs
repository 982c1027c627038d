//! Commands that have a supervisor do something.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Client, CommandError, escape};
use crate::{render, told};

pub(super) async fn call(client: &Client, body: String, verbose: bool) -> Result<(), CommandError> {
    let call = client.text(Method::POST, "/v1/call", Some(body));
    let answer = render::patiently("waiting for the answer", call).await;
    render::line(&explained(answer, verbose)?);
    Ok(())
}

pub(super) async fn load(
    client: &Client,
    dir: &Path,
    json: bool,
    verbose: bool,
) -> Result<(), CommandError> {
    let dir = std::path::absolute(dir)
        .map_err(|error| CommandError::Failed(format!("{}: {error}", dir.display())))?;
    let path = dir.to_str().ok_or_else(|| {
        let text = "the path is no UTF-8, and JSON can have no other; rename it";
        CommandError::Usage(format!("{}: {text}", dir.display()))
    })?;
    let body = json!({ "path": path }).to_string();
    let what = format!("loading {}", dir.display());
    let answer = client.text(Method::POST, "/v1/bundles", Some(body));
    let answer = explained(render::patiently(&what, answer).await, verbose)?;
    done(&answer, json, |answer| {
        format!("loaded {} (generation {})", text(&answer["name"]), answer["generation"])
    })
}

pub(super) async fn reload(
    client: &Client,
    name: &str,
    json: bool,
    verbose: bool,
) -> Result<(), CommandError> {
    let path = format!("/v1/bundles/{}/reload", escape(name));
    let answer = client.text(Method::POST, &path, None);
    let answer = explained(render::patiently("reloading", answer).await, verbose)?;
    done(&answer, json, |answer| {
        format!("reloaded {} (generation {})", text(&answer["name"]), answer["generation"])
    })
}

pub(super) async fn unload(
    client: &Client,
    name: &str,
    cascade: bool,
    json: bool,
) -> Result<(), CommandError> {
    let path = format!("/v1/bundles/{}?cascade={cascade}", escape(name));
    let answer = client.text(Method::DELETE, &path, None);
    done(&render::patiently("unloading", answer).await?, json, |answer| {
        let names = answer["unloaded"].as_array().cloned().unwrap_or_default();
        let names: Vec<String> = names.iter().map(text).collect();
        format!("unloaded {}", names.join(", "))
    })
}

pub(super) async fn restart(
    client: &Client,
    loader: &str,
    rolling: bool,
    json: bool,
) -> Result<(), CommandError> {
    let path = format!("/v1/workers/{}/restart?rolling={rolling}", escape(loader));
    let answer = client.text(Method::POST, &path, None);
    done(&render::patiently("restarting", answer).await?, json, |answer| {
        // A loader may have several workers; the answer is the last one's.
        match text(&answer["name"]) {
            name if name == loader => format!("restarted {name} (process {})", answer["pid"]),
            _ => format!("restarted all workers of {loader}"),
        }
    })
}

/// Says that an operation is done.
fn done(
    answer: &str,
    as_json: bool,
    say: impl FnOnce(&Value) -> String,
) -> Result<(), CommandError> {
    let value: Value = serde_json::from_str(answer)
        .map_err(|error| CommandError::Failed(format!("the answer cannot be read: {error}")))?;
    if as_json {
        render::json(&value);
    } else {
        render::line(&say(&value));
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What asks for a call.
pub(super) fn call_body(
    contract: &str,
    function: &str,
    arguments: &[String],
    timeout: Option<Duration>,
) -> Result<String, CommandError> {
    for argument in arguments {
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(argument) {
            let hint = "a string needs quotes of its own, for example '\"Ada\"'";
            let shown = argument.trim();
            let message = format!("the argument {shown} is no JSON ({error}); {hint}");
            return Err(CommandError::Usage(message));
        }
    }
    // The arguments go in as they were written: nothing is lost on numbers.
    let timeout = timeout
        // Up: what is less than one must not become 0, which is no limit at all.
        .map(|time| u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
        .map(|ms| format!(",\"timeout_ms\":{ms}"))
        .unwrap_or_default();
    Ok(format!(
        "{{\"contract\":{},\"function\":{},\"args\":[{}]{timeout}}}",
        json!(contract),
        json!(function),
        arguments.join(",")
    ))
}

/// With `verbose`, shows what a plugin's own error tells beside its message.
fn explained<T>(outcome: Result<T, CommandError>, verbose: bool) -> Result<T, CommandError> {
    if let Err(CommandError::Problem(problem)) = &outcome
        && verbose
        && let Some(text) = told::of_error(&problem["error"])
    {
        // All of it is the plugin's, the first line too.
        render::note(&format!("    {text}"));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_a_timeout_below_a_millisecond_is_one_and_none_at_all_is_zero() {
        let body = |timeout: Option<Duration>| {
            let body = call_body("greeter@1", "greet", &["1".to_owned()], timeout).unwrap();
            serde_json::from_str::<Value>(&body).unwrap()["timeout_ms"].clone()
        };
        assert_eq!(body(None), Value::Null);
        for (nanos, ms) in [(0, 0), (1, 1), (500_000, 1), (1_000_000, 1), (1_000_001, 2)] {
            assert_eq!(body(Some(Duration::from_nanos(nanos))), json!(ms), "{nanos} ns");
        }
    }
}
