//! The endpoints.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use super::values::{AsJson, FromJson, oversized_integer};
use super::{Access, Peer, Right};
use crate::{NextEvent, Supervisor};

pub(super) fn router(supervisor: Supervisor, access: Access) -> Router {
    // A payload in base64 takes four thirds of its size, and some for the rest.
    let payload = usize::try_from(supervisor.config().max_payload).unwrap_or(usize::MAX / 2);
    let limit = payload / 3 * 4 + (64 << 10);
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/workers", get(workers))
        .route("/v1/workers/{loader}/restart", post(restart))
        .route("/v1/bundles", get(bundles).post(load))
        .route("/v1/bundles/{name}", delete(unload))
        .route("/v1/bundles/{name}/reload", post(reload))
        .route("/v1/crashes", get(crashes))
        .route("/v1/events", get(events))
        .route("/v1/call", post(call))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not found", "no such endpoint"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method not allowed",
                "see the methods of this endpoint",
            )
        })
        .layer(DefaultBodyLimit::max(limit))
        .layer(middleware::from_fn_with_state(Arc::new(access), check))
        .with_state(supervisor)
}

/// Lets the owner, root and whom the configuration names pass.
async fn check(
    State(access): State<Arc<Access>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let needed = if request.method() == Method::GET { Right::Read } else { Right::Act };
    if access.right(peer.uid) >= needed {
        return next.run(request).await;
    }
    let (uid, pid) = (peer.uid, peer.pid);
    tracing::warn!(uid, pid, path = %request.uri().path(), "refused on the status socket");
    let detail =
        format!("user {} may not do this here", uid.map_or_else(String::new, |u| u.to_string()));
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).into_response()
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

async fn crashes(State(supervisor): State<Supervisor>) -> impl IntoResponse {
    Json(supervisor.crashes())
}

#[derive(Deserialize)]
struct RestartQuery {
    #[serde(default)]
    rolling: bool,
}

async fn restart(
    State(supervisor): State<Supervisor>,
    Path(loader): Path<String>,
    Query(query): Query<RestartQuery>,
) -> Result<impl IntoResponse, Problem> {
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
    if !path.is_absolute() {
        let problem = "path: expected an absolute path: the supervisor has a folder of its own";
        return Err(Problem::bad_request(problem));
    }
    Ok((StatusCode::CREATED, Json(supervisor.load(path).await?)))
}

async fn reload(
    State(supervisor): State<Supervisor>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    Ok(Json(supervisor.reload(&name).await?))
}

#[derive(Deserialize)]
struct UnloadQuery {
    #[serde(default)]
    cascade: bool,
}

async fn unload(
    State(supervisor): State<Supervisor>,
    Path(name): Path<String>,
    Query(query): Query<UnloadQuery>,
) -> Result<impl IntoResponse, Problem> {
    let unloaded = if query.cascade {
        supervisor.unload_cascade(&name).await?
    } else {
        supervisor.unload(&name).await?;
        vec![name]
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
    args: Vec<FromJson>,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

async fn call(
    State(supervisor): State<Supervisor>,
    body: Bytes,
) -> Result<impl IntoResponse, Problem> {
    let CallBody { contract, function, args, timeout_ms } = parse(&body)?;
    if let Some(integer) = oversized_integer(&body) {
        let problem = format!("{integer} fits neither a signed nor an unsigned integer of 64 bits");
        return Err(Problem::bad_request(problem));
    }
    let mut contract = supervisor.contract(&contract)?;
    if let Some(timeout) = timeout_ms {
        contract = contract.with_timeout(Duration::from_millis(timeout));
    }
    let args = rmpv::Value::Array(args.into_iter().map(|FromJson(value)| value).collect());
    let value = contract.call_value(&function, &args).await?;
    let body = serde_json::to_string(&AsJson::new(&value))
        .map_err(|error| Problem::new(StatusCode::BAD_GATEWAY, "no JSON", error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body))
}

/// Server-sent events, one for each event, with its number as id.
async fn events(State(supervisor): State<Supervisor>) -> impl IntoResponse {
    let stream = stream::unfold(supervisor.events(), |mut events| async move {
        let event = match events.next().await? {
            NextEvent::Event(event) => {
                let data = serde_json::to_string(&event).unwrap_or_default();
                sse::Event::default().id(event.id.to_string()).data(data)
            }
            NextEvent::Missed(missed) => {
                sse::Event::default().event("missed").data(missed.to_string())
            }
        };
        Some((Ok::<_, Infallible>(event), events))
    });
    Sse::new(stream).keep_alive(sse::KeepAlive::default())
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request(format!("the body is not as expected: {error}")))
}
