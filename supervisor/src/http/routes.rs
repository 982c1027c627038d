//! The endpoints.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use super::results::{NoJson, to_json};
use super::serve::{self, Limits};
use super::stream::{self, Choice, choice};
use super::values::{ARGUMENT, Arguments, check_integers};
use super::{Gate, Peer, Right, metrics, page};
use crate::Supervisor;
use crate::blocking::blocking;
use crate::logs::cut;
use crate::worker::gate::{self, Verdict};
use menagerie_protocol::message::LogLevel;
use menagerie_protocol::{Failure, LoaderError, RuntimeError};

/// An answer to a call has so many times the bytes of the largest payload at most: room
/// for any list of numbers. JSON may take more still, for nulls, booleans and control
/// characters, of which a bundle can return millions in no time.
const JSON_FACTOR: u64 = 4;

/// What the service is described by: `docs/openapi.json`, which a test holds
/// against [`endpoints`].
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// The header that says what the caller may do: `read`, or `act` as well.
const RIGHT: HeaderName = HeaderName::from_static("menagerie-right");

/// Every method and path.
pub(super) fn endpoints() -> Vec<(&'static str, &'static str, MethodRouter<Supervisor>)> {
    vec![
        ("GET", "/v1/status", get(status)),
        ("GET", "/v1/workers", get(workers)),
        ("POST", "/v1/workers/{loader}/restart", post(restart)),
        ("GET", "/v1/bundles", get(bundles)),
        ("POST", "/v1/bundles", post(load)),
        ("DELETE", "/v1/bundles/{name}", delete(unload)),
        ("POST", "/v1/bundles/{name}/reload", post(reload)),
        ("GET", "/v1/crashes", get(crashes)),
        ("GET", "/v1/events", get(stream::events)),
        ("GET", "/v1/logs", get(stream::logs)),
        ("POST", "/v1/call", post(call)),
        ("GET", "/v1/openapi.json", get(openapi)),
        ("GET", "/metrics", get(metrics::metrics)),
        ("GET", "/", get(page::html)),
        ("GET", "/ui/app.js", get(page::program)),
        ("GET", "/ui/style.css", get(page::style)),
    ]
}

pub(super) fn router(supervisor: Supervisor, gate: Gate, limits: Limits) -> Router {
    let refusals = gate::Gate::new(&gate::REFUSALS);
    let guard = Arc::new(Guard { gate, refusals, supervisor: supervisor.clone() });
    endpoints()
        .into_iter()
        .fold(Router::new(), |router, (_, path, handler)| router.route(path, handler))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not found", "no such endpoint"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method not allowed",
                "see the methods of this endpoint",
            )
        })
        // The body was read, and measured, by `take_body`.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(limits, serve::take_body))
        .layer(middleware::from_fn_with_state(guard, check))
        .with_state(supervisor)
}

/// What the check of rights needs.
struct Guard {
    gate: Gate,
    /// How many refusals are logged.
    refusals: gate::Gate,
    supervisor: Supervisor,
}

/// Lets the owner, root and whom the configuration names pass; by TCP, whoever
/// has a token.
async fn check(
    State(guard): State<Arc<Guard>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let right = match peer {
        Peer::User { uid, .. } => guard.gate.access.right(uid),
        Peer::Tcp if page::is_public(request.uri().path()) => Right::Read,
        Peer::Tcp => guard.gate.tokens.right(request.headers()),
    };
    if right >= serve::needed(request.method()) {
        let mut response = next.run(request).await;
        // The page offers no button to who may not act.
        let may = HeaderValue::from_static(if right == Right::Act { "act" } else { "read" });
        response.headers_mut().insert(RIGHT, may);
        return response;
    }
    let who = match peer {
        Peer::User { uid: Some(uid), .. } => format!("user {uid}"),
        Peer::User { uid: None, .. } => "an unknown user".to_owned(),
        Peer::Tcp if right == Right::None => "a client without a token".to_owned(),
        Peer::Tcp => "the bearer of the token for reading".to_owned(),
    };
    guard.log_refusal(&who, peer, &request);
    if matches!(peer, Peer::Tcp) && right == Right::None {
        let detail = "show the token: Authorization: Bearer <token>";
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        return ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response();
    }
    let detail = format!("{who} may not do this here");
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).into_response()
}

/// Of the method and of the path of a request that is refused, so many bytes are logged.
const LOGGED: (usize, usize) = (20, 200);

impl Guard {
    /// Each refusal is logged, unless there are too many: whoever may do nothing here may
    /// not drive out of the log what others have said either.
    fn log_refusal(&self, who: &str, peer: Peer, request: &Request) {
        let method = cut(request.method().as_str(), LOGGED.0);
        let path = cut(request.uri().path(), LOGGED.1);
        let process = match peer {
            Peer::User { pid: Some(pid), .. } => format!(" (process {pid})"),
            _ => String::new(),
        };
        let text = format!("refused on the status socket: {who}{process}: {method} {path}");
        let Verdict { passes, dropped } = self.refusals.judge(text.len(), Instant::now());
        if let Some(count) = dropped {
            tracing::warn!(count, "refused on the status socket, and not logged one by one");
            self.log(&format!("refused on the status socket: {count} more, not logged one by one"));
        }
        if passes {
            tracing::warn!(?peer, method, path, "refused on the status socket");
            self.log(&text);
        }
    }

    fn log(&self, text: &str) {
        let logs = &self.supervisor.core().events.logs;
        logs.push(LogLevel::Warn, None, None, "supervisor", text);
    }
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn status(State(supervisor): State<Supervisor>) -> impl IntoResponse {
    Json(supervisor.status())
}

async fn workers(State(supervisor): State<Supervisor>) -> impl IntoResponse {
    Json(supervisor.status().workers)
}

async fn bundles(State(supervisor): State<Supervisor>) -> impl IntoResponse {
    Json(supervisor.status().bundles)
}

async fn crashes(
    State(supervisor): State<Supervisor>,
    query: stream::Asked,
) -> Result<impl IntoResponse, Problem> {
    let wanted: Choice = choice(query)?;
    let mut crashes = supervisor.crashes();
    crashes.retain(|crash| wanted.takes_crash(crash));
    Ok(Json(crashes))
}

/// A name in a path, or what is wrong with it.
type Name = Result<Path<String>, PathRejection>;

fn name(path: Name) -> Result<String, Problem> {
    path.map(|Path(name)| name).map_err(|error| Problem::bad_request(error.body_text()))
}

/// A mistyped `rolling` must not become a restart with a pause.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestartQuery {
    #[serde(default)]
    rolling: bool,
}

async fn restart(
    State(supervisor): State<Supervisor>,
    loader: Name,
    query: Result<Query<RestartQuery>, QueryRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let loader = name(loader)?;
    Ok(Json(if query.rolling {
        supervisor.restart_rolling(&loader).await?
    } else {
        supervisor.restart(&loader).await?
    }))
}

/// The body of `POST /v1/bundles`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadBody {
    path: PathBuf,
}

async fn load(
    State(supervisor): State<Supervisor>,
    body: Bytes,
) -> Result<impl IntoResponse, Problem> {
    let LoadBody { path } = parse(&body)?;
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Problem::bad_request("path: no file's name has a NUL byte in it"));
    }
    if !path.is_absolute() {
        let problem = "path: expected an absolute path: the supervisor has a folder of its own";
        return Err(Problem::bad_request(problem));
    }
    Ok((StatusCode::CREATED, Json(supervisor.load(path).await?)))
}

async fn reload(
    State(supervisor): State<Supervisor>,
    bundle: Name,
) -> Result<impl IntoResponse, Problem> {
    Ok(Json(supervisor.reload(&name(bundle)?).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnloadQuery {
    #[serde(default)]
    cascade: bool,
}

async fn unload(
    State(supervisor): State<Supervisor>,
    bundle: Name,
    query: Result<Query<UnloadQuery>, QueryRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let bundle = name(bundle)?;
    let unloaded = if query.cascade {
        supervisor.unload_cascade(&bundle).await?
    } else {
        supervisor.unload(&bundle).await?;
        vec![bundle]
    };
    Ok(Json(serde_json::json!({ "unloaded": unloaded })))
}

/// The body of `POST /v1/call`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallBody {
    contract: String,
    function: String,
    #[serde(default)]
    args: Arguments,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// What is read or written on the runtime's own thread, in bytes; more takes long.
const AT_ONCE: usize = 64 << 10;

/// Does what takes long for many bytes where it holds up nobody.
async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if bytes <= AT_ONCE {
        return work();
    }
    let done = blocking(work).await;
    done.unwrap_or_else(|error| Err(RuntimeError::from(LoaderError::no_thread(&error)).into()))
}

async fn call(
    State(supervisor): State<Supervisor>,
    body: Bytes,
) -> Result<impl IntoResponse, Problem> {
    let (asked, args) = aside(body.len(), move || read_call(&body)).await?;
    let mut contract = supervisor.contract(&asked.contract)?;
    if let Some(timeout) = asked.timeout_ms {
        contract = contract.with_timeout(Duration::from_millis(timeout));
    }
    let value = contract.call_raw(&asked.function, &args).await?;
    let limit = supervisor.config().max_payload.saturating_mul(JSON_FACTOR);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let body = aside(value.len(), move || {
        to_json(&value, limit).map_err(|error| match error {
            NoJson::NoValue(error) => {
                let message = format!("the result does not fit JSON: {error}");
                Failure::BadValue { message }.into()
            }
            NoJson::TooLarge(size) => Problem::answer_too_large(size, limit as u64),
        })
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], body.await?))
}

/// What a call asks for, and its arguments as MessagePack.
fn read_call(body: &Bytes) -> Result<(CallBody, Vec<u8>), Problem> {
    let mut asked: CallBody = serde_json::from_slice(body).map_err(|error| {
        let (text, at) = (error.to_string(), (error.line(), error.column()));
        // Who writes arguments need not have written the body that they stand in.
        match text.strip_suffix(&format!(" at line {} column {}", at.0, at.1)) {
            Some(text) if text.starts_with(ARGUMENT) => Problem::bad_request(text),
            _ => not_as_expected(&error),
        }
    })?;
    check_integers(body).map_err(Problem::bad_request)?;
    let Arguments(args) = std::mem::take(&mut asked.args);
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &rmpv::Value::Array(args))
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    Ok((asked, bytes))
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| not_as_expected(&error))
}

fn not_as_expected(error: &serde_json::Error) -> Problem {
    Problem::bad_request(format!("the body is not as expected: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn g_openapi_has_every_endpoint_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let documented: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, operations)| {
                let methods = operations.as_object().unwrap().keys();
                methods.map(|method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let served: BTreeSet<(String, String)> = endpoints()
            .into_iter()
            .map(|(method, path, _)| (method.to_owned(), path.to_owned()))
            .collect();
        assert_eq!(documented, served);
    }
}
