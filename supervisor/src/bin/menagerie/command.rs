//! What each command does.

use std::path::PathBuf;

use hyper::Method;
use menagerie_supervisor::{Config, SignedBundle, default_socket, doctor};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::args::{Args, Command};
use crate::client::{Client, CommandError, escape};
use crate::query::Query;
use crate::{bench, check, follow, generate, new, render, run, sign, top};

pub(crate) fn execute(args: Args) -> Result<(), CommandError> {
    let failed = |error: &dyn std::error::Error| CommandError::Failed(error.to_string());
    // These measure threads and runtimes, and bring their own.
    let args = match args.command {
        Command::Bench { quick, only, out, bundles, worker_dir } => {
            let json = args.json;
            let options = bench::Options { quick, only, out, bundles, worker_dir, json };
            return bench::run(&options);
        }
        Command::BenchPeer { memory } => {
            return bench::peer::main(&memory).map_err(|error| failed(&error));
        }
        Command::BenchIdle { dirs, worker_dir } => {
            return bench::idle_main(&dirs, worker_dir).map_err(|error| failed(&error));
        }
        command => Args { command, ..args },
    };
    let threads = if matches!(args.command, Command::Run { .. }) { 2 } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    runtime.block_on(dispatch(args))
}

async fn dispatch(args: Args) -> Result<(), CommandError> {
    let Args { command, socket, json, verbose } = args;
    let looked_for = socket.clone().or_else(socket_of_environment).unwrap_or_else(default_socket);
    let client = Client::new(&looked_for);
    match command {
        Command::Run { config, bundles, watch, worker_dir, isolation, standby, replicas, log } => {
            let request = run::Request {
                config,
                socket,
                bundles,
                watch,
                worker_dir,
                isolation,
                standby,
                replicas,
                log,
                json,
            };
            run::run(request).await
        }
        Command::Status => show(&client, "/v1/status", json, render::status).await,
        Command::Workers => {
            show(&client, "/v1/workers", json, |list: &Vec<_>| render::workers(list)).await
        }
        Command::Bundles => {
            show(&client, "/v1/bundles", json, |list: &Vec<_>| render::bundles(list)).await
        }
        Command::Crashes { about } => {
            let path = Query::about(&about).path("/v1/crashes");
            show(&client, &path, json, |list: &Vec<_>| render::crashes(list)).await
        }
        Command::Events { about, level, no_follow } => {
            let query = Query::about(&about).level(level);
            let query = if no_follow { query.and("follow", "false") } else { query };
            let line = |data: &str| item(data, json, render::event);
            let path = query.path("/v1/events");
            if no_follow {
                follow::once(&client, &path, line).await
            } else {
                follow::follow(&client, &path, line).await
            }
        }
        Command::Logs { about, level, follow: go_on, tail } => {
            let query = Query::about(&about).level(level);
            let query = match (tail, go_on) {
                (Some(tail), _) => query.and("tail", &tail.to_string()),
                // What is remembered, and then what comes.
                (None, true) if about.since.is_none() => query.and("since", "0"),
                _ => query,
            };
            let query = if go_on { query } else { query.and("follow", "false") };
            let line = |data: &str| item(data, json, render::log_entry);
            let path = query.path("/v1/logs");
            if go_on {
                follow::follow(&client, &path, line).await
            } else {
                follow::once(&client, &path, line).await
            }
        }
        Command::Call { contract, function, arguments, timeout } => {
            let body = call_body(&contract, &function, &arguments, timeout)?;
            let call = client.text(Method::POST, "/v1/call", Some(body));
            match render::patiently("waiting for the answer", call).await {
                Ok(text) => {
                    render::line(&text);
                    Ok(())
                }
                Err(error) => {
                    if verbose && let CommandError::Problem(problem) = &error {
                        stack(problem);
                    }
                    Err(error)
                }
            }
        }
        Command::Load { dir } => {
            let dir = std::path::absolute(&dir)
                .map_err(|error| CommandError::Failed(format!("{}: {error}", dir.display())))?;
            let path = dir.to_str().ok_or_else(|| {
                let text = "the path is no UTF-8, and JSON can have no other; rename it";
                CommandError::Usage(format!("{}: {text}", dir.display()))
            })?;
            let body = json!({ "path": path }).to_string();
            let what = format!("loading {}", dir.display());
            let answer = client.text(Method::POST, "/v1/bundles", Some(body));
            done(&render::patiently(&what, answer).await?, json, |answer| {
                format!("loaded {} (generation {})", text(&answer["name"]), answer["generation"])
            })
        }
        Command::Reload { name } => {
            let path = format!("/v1/bundles/{}/reload", escape(&name));
            let answer = client.text(Method::POST, &path, None);
            done(&render::patiently("reloading", answer).await?, json, |answer| {
                format!("reloaded {} (generation {})", text(&answer["name"]), answer["generation"])
            })
        }
        Command::Unload { name, cascade } => {
            let path = format!("/v1/bundles/{}?cascade={cascade}", escape(&name));
            let answer = client.text(Method::DELETE, &path, None);
            done(&render::patiently("unloading", answer).await?, json, |answer| {
                let names = answer["unloaded"].as_array().cloned().unwrap_or_default();
                let names: Vec<String> = names.iter().map(text).collect();
                format!("unloaded {}", names.join(", "))
            })
        }
        Command::Restart { loader, rolling } => {
            let path = format!("/v1/workers/{}/restart?rolling={rolling}", escape(&loader));
            let answer = client.text(Method::POST, &path, None);
            done(&render::patiently("restarting", answer).await?, json, |answer| {
                format!("restarted {} (process {})", text(&answer["name"]), answer["pid"])
            })
        }
        Command::Bench { .. } | Command::BenchPeer { .. } | Command::BenchIdle { .. } => {
            unreachable!("they have been executed without this runtime")
        }
        Command::New { language, dir, no_build } => {
            let make = tokio::task::spawn_blocking(move || new::new(language, &dir, !no_build));
            let made = render::patiently("compiling", make)
                .await
                .map_err(|error| CommandError::Failed(error.to_string()))??;
            if json {
                render::json(&made);
            } else {
                render::made(&made);
            }
            Ok(())
        }
        Command::Keygen { out } => {
            let made = sign::keygen(out)?;
            if json {
                render::json(&made);
            } else {
                render::note(&format!("the key is in {}; this verifies it:", made.file.display()));
                render::line(&made.key.to_string());
            }
            Ok(())
        }
        Command::Sign { dir, key } => {
            let signing = tokio::task::spawn_blocking(move || sign::sign(&dir, &key));
            let signed = render::patiently("signing", signing)
                .await
                .map_err(|error| CommandError::Failed(error.to_string()))??;
            if json {
                render::json(&signed);
            } else {
                let SignedBundle { name, files, key, .. } = &signed;
                let key = key.short_id();
                render::line(&format!("signed {name}: {files} files, key {key}"));
            }
            Ok(())
        }
        Command::Check { dir, with, config, worker_dir } => {
            let request = check::Request { dir, with, config, worker_dir };
            let findings = render::patiently("checking", check::check(request)).await?;
            if json {
                render::json(&findings);
            } else {
                render::findings(&findings);
            }
            if findings.is_sound() {
                Ok(())
            } else {
                let what = findings.dir.display();
                Err(CommandError::Failed(format!("{what}: the bundle is not as it should be")))
            }
        }
        Command::Top { every, once } if json => top::lines(&client, every, once).await,
        Command::Top { every, once } => top::top(&client, every, once).await,
        Command::Completions { shell } => {
            render::line(generate::completions(shell).trim_end());
            Ok(())
        }
        Command::Man { dir } => generate::man(&dir),
        Command::Doctor { worker_dir } => {
            let mut config = Config::default();
            config.worker_dir = worker_dir;
            let examine = tokio::task::spawn_blocking(move || doctor::examine(&config));
            let report = render::patiently("looking", examine)
                .await
                .map_err(|error| CommandError::Failed(error.to_string()))?;
            if json {
                render::json(&report);
            } else {
                render::report(&report);
            }
            if report.is_usable() {
                Ok(())
            } else {
                Err(CommandError::Failed("no bundle can be run on this machine yet".to_owned()))
            }
        }
    }
}

/// Where the environment says that the socket is.
pub(crate) fn socket_of_environment() -> Option<PathBuf> {
    std::env::var_os("MENAGERIE_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Fetches something, and shows it to people or as it is.
async fn show<T: DeserializeOwned>(
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
    render::line(data)
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

fn call_body(
    contract: &str,
    function: &str,
    arguments: &[String],
    timeout: Option<std::time::Duration>,
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
        .map(|time| time.as_nanos().div_ceil(1_000_000))
        .map(|ms| format!(",\"timeout_ms\":{ms}"))
        .unwrap_or_default();
    Ok(format!(
        "{{\"contract\":{},\"function\":{},\"args\":[{}]{timeout}}}",
        json!(contract),
        json!(function),
        arguments.join(",")
    ))
}

/// Shows a plugin's stack.
fn stack(problem: &Value) {
    let text = told(&problem["error"]["Guest"]);
    if !text.is_empty() {
        render::note(&text);
    }
}

/// An error's stack and its causes, but for those that the stack tells, too, as
/// Python's does.
fn told(error: &Value) -> String {
    let mut text = error["stack"].as_str().unwrap_or_default().trim_end().to_owned();
    for cause in error["inner"].as_array().into_iter().flatten() {
        let part = |name: &str| cause[name].as_str().unwrap_or_default();
        let head = format!("{}: {}", part("type_name"), part("message"));
        if text.contains(&head) {
            continue;
        }
        let below = told(cause);
        let gap = if below.is_empty() { "" } else { "\n" };
        let begin = if text.is_empty() { "" } else { "\n" };
        text = format!("{text}{begin}caused by {head}{gap}{below}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    #[test]
    fn causes_are_told_once() {
        let error = json!({
            "stack": "at outer\n", "inner": [
                { "type_name": "E", "message": "one", "stack": "at one", "inner": [
                    { "type_name": "F", "message": "deep", "stack": "", "inner": [] }] },
                { "type_name": "E", "message": "two" }]
        });
        let expected = "at outer\ncaused by E: one\nat one\ncaused by F: deep\ncaused by E: two";
        assert_eq!(told(&error), expected);
        let python = json!({
            "stack": "E: one\n\nThe above exception was the direct cause", "inner": [
                { "type_name": "E", "message": "one", "stack": "E: one" }]
        });
        assert_eq!(told(&python), python["stack"].as_str().unwrap_or_default());
        assert_eq!(told(&json!(null)), "");
    }
}
