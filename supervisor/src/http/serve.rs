//! Connections: how many, whose, and for how long they may be slow.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::patience::Patience;
use super::problem::Problem;
use super::quiet::{Quiet, Socket};
use super::{Access, Peer, Right};
use crate::lane::lock;
use crate::worker::gate::{Gate, REFUSALS, Verdict};

/// What a request's head may have, in bytes.
const MAX_HEAD: usize = 32 << 10;
/// How long to wait when the system refuses a connection, for lack of
/// descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Clients of a crowd that are told so at a time; the others are just let go: each
/// of them has a descriptor meanwhile.
const MAX_TOLD: usize = 16;

/// The limits of a status service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_request: u64,
    pub(super) max_connections: u32,
    pub(super) request_timeout: Duration,
    pub(super) answer_timeout: Duration,
}

/// The connections that there are, by user.
#[derive(Debug, Default)]
struct Open(Mutex<HashMap<Option<u32>, u32>>);

/// A connection that is counted; dropped, it is not any more.
struct Counted {
    open: Arc<Open>,
    uid: Option<u32>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = lock(&self.open.0);
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

impl Open {
    /// Counts a connection, unless there are too many. Users other than the
    /// owner and root share one half, so that they cannot lock these out.
    fn enter(self: &Arc<Self>, peer: Peer, max: u32) -> Option<Counted> {
        let uid = peer.uid();
        let mut open = lock(&self.0);
        let all: u32 = open.values().sum();
        let others: u32 =
            open.iter().filter(|(uid, _)| !Access::is_own(**uid)).map(|(_, count)| count).sum();
        if all >= max || (!Access::is_own(uid) && others >= max / 2) {
            return None;
        }
        *open.entry(uid).or_default() += 1;
        Some(Counted { open: Arc::clone(self), uid })
    }
}

/// Whether the service takes no more requests, as the answers of requests see it.
#[derive(Clone, Debug)]
pub(super) struct Closing(pub(super) watch::Receiver<bool>);

/// A descriptor that is kept for a connection in a process that has no others left: so
/// that one can look at it, and see why.
#[derive(Clone, Debug)]
struct Spare {
    listener: Arc<UnixListener>,
    kept: Arc<Mutex<Option<OwnedFd>>>,
}

impl Spare {
    /// Keeps one again, if it was lent and can be had: another one for the listener.
    fn refill(&self) {
        let mut kept = lock(&self.kept);
        if kept.is_none() {
            *kept = self.listener.as_fd().try_clone_to_owned().ok();
        }
    }

    /// Gives it up; whether there was one.
    fn lend(&self) -> bool {
        lock(&self.kept).take().is_some()
    }
}

/// Serves connections until it is dropped, and them with it.
pub(super) struct Server {
    router: Router,
    limits: Limits,
    open: Arc<Open>,
    connections: JoinSet<()>,
    /// Room for those that are told that there is none.
    told: Arc<Semaphore>,
    /// How many that are one too many are logged.
    refusals: Gate,
    /// The same for those that the system refuses.
    failures: Gate,
    closing: watch::Receiver<bool>,
    spare: Spare,
}

impl Server {
    pub(super) fn new(
        router: Router,
        limits: Limits,
        closing: &watch::Sender<bool>,
        unix: UnixListener,
    ) -> Self {
        let closing = closing.subscribe();
        Self {
            router: router.layer(Extension(Closing(closing.clone()))),
            limits,
            open: Arc::default(),
            connections: JoinSet::new(),
            told: Arc::new(Semaphore::new(MAX_TOLD)),
            refusals: Gate::new(&REFUSALS),
            failures: Gate::new(&REFUSALS),
            closing,
            spare: Spare { listener: Arc::new(unix), kept: Arc::default() },
        }
    }

    /// Serves the socket, and a TCP listener if there is one; until it is told that the
    /// service closes, and all requests that it has are answered.
    pub(super) async fn run(mut self, tcp: Option<TcpListener>) {
        let (unix, mut closing) = (Arc::clone(&self.spare.listener), self.closing.clone());
        // Whether who comes next has the spare descriptor.
        let mut lent = false;
        loop {
            // Those that have ended are forgotten.
            while self.connections.try_join_next().is_some() {}
            if !std::mem::take(&mut lent) {
                self.spare.refill();
            }
            let accept_tcp = async {
                match &tcp {
                    Some(tcp) => tcp.accept().await,
                    None => std::future::pending().await,
                }
            };
            let accepted = tokio::select! {
                unix = unix.accept() => unix.map(|(stream, _)| {
                    let peer = Peer::of(&stream);
                    self.connect(stream, peer);
                }),
                tcp = accept_tcp => tcp.map(|(stream, _)| self.connect(stream, Peer::Tcp)),
                () = closes(&mut closing) => break,
            };
            if let Err(error) = accepted {
                lent = self.makes_room(&error);
                if !lent {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        while self.connections.join_next().await.is_some() {}
    }

    /// The system refuses a connection; whether it will take one now.
    fn makes_room(&self, error: &std::io::Error) -> bool {
        let Verdict { passes, dropped } = self.failures.judge(0, Instant::now());
        if passes || dropped.is_some() {
            let more = dropped.unwrap_or(0);
            tracing::warn!(more, "the status service cannot accept a connection: {error}");
        }
        let lacks_descriptors = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        lacks_descriptors && self.spare.lend()
    }

    fn connect(&mut self, stream: impl Socket + Send + 'static, peer: Peer) {
        let mut stream = Quiet(stream);
        let Some(counted) = self.open.enter(peer, self.limits.max_connections) else {
            let Verdict { passes, dropped } = self.refusals.judge(0, Instant::now());
            if passes || dropped.is_some() {
                let more = dropped.unwrap_or(0);
                tracing::warn!(?peer, more, "too many connections to the status service");
            }
            let Ok(room) = Arc::clone(&self.told).try_acquire_owned() else { return };
            let spare = self.spare.clone();
            self.connections.spawn(async move {
                // A client expects no answer before it has asked.
                let mut request = [0; 4096];
                let asked = stream.read(&mut request);
                drop(tokio::time::timeout(ACCEPT_PAUSE, asked).await);
                // Best effort, and no longer than a kernel buffer takes.
                let refusal = stream.write_all(TOO_MANY.as_bytes());
                drop(tokio::time::timeout(ACCEPT_PAUSE, refusal).await);
                drop((stream, room));
                spare.refill();
            });
            return;
        };
        let stream = Patience::new(stream, self.limits.answer_timeout);
        let service = TowerToHyperService::new(self.router.clone().layer(Extension(peer)));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.request_timeout)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let (spare, mut closing) = (self.spare.clone(), self.closing.clone());
        self.connections.spawn(async move {
            let _counted = counted;
            let ended = {
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    ended = &mut connection => ended,
                    () = closes(&mut closing) => {
                        // What was asked is answered, and nothing more.
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            };
            if let Err(error) = ended {
                tracing::debug!(?peer, "a connection of the status service ended: {error}");
            }
            // The descriptor that it had is free.
            spare.refill();
        });
    }
}

/// Waits until the service takes no more requests; for ever if it just goes.
async fn closes(closing: &mut watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {
        std::future::pending().await
    }
}

const TOO_MANY: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\nconnection: close\r\nretry-after: 1\r\n\
    content-length: 118\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"not available\",\"status\":503,\
    \"detail\":\"there are too many connections\",\"error\":null}    ";

/// Reads a request's body, within the limits of size and time.
pub(super) async fn take_body(
    State(limits): State<Limits>,
    request: Request,
    next: Next,
) -> Response {
    // What only looks has no body.
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return next.run(request).await;
    }
    let too_large = || {
        let detail = format!("a request may have {} bytes", limits.max_request);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload too large", detail).into_response()
    };
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|len| len > limits.max_request) {
        return too_large();
    }
    let (parts, body) = request.into_parts();
    let most = usize::try_from(limits.max_request).unwrap_or(usize::MAX);
    let collected = Limited::new(body, most).collect();
    match tokio::time::timeout(limits.request_timeout, collected).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body.to_bytes()))).await,
        Ok(Err(error)) if error.is::<LengthLimitError>() => too_large(),
        Ok(Err(error)) => Problem::bad_request(error.to_string()).into_response(),
        Err(_) => {
            let detail = format!("the body did not come within {:?}", limits.request_timeout);
            Problem::new(StatusCode::REQUEST_TIMEOUT, "timed out", detail).into_response()
        }
    }
}

/// What a request needs: GET looks, everything else acts.
pub(super) fn needed(method: &Method) -> Right {
    if *method == Method::GET || *method == Method::HEAD { Right::Read } else { Right::Act }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_other_users_have_half_of_the_connections() {
        let open = Arc::new(Open::default());
        let own = Peer::User { uid: Some(nix::unistd::geteuid().as_raw()), pid: None };
        let other = |uid| Peer::User { uid: Some(uid), pid: None };
        let first = open.enter(other(4001), 4).unwrap();
        let _second = open.enter(other(4002), 4).unwrap();
        assert!(open.enter(other(4003), 4).is_none());
        let _third = open.enter(own, 4).unwrap();
        let _fourth = open.enter(own, 4).unwrap();
        assert!(open.enter(own, 4).is_none());
        drop(first);
        let _fifth = open.enter(own, 4).unwrap();
        assert!(lock(&open.0).values().sum::<u32>() == 4);
    }

    #[test]
    fn g_the_refusal_is_as_long_as_it_says() {
        let (head, body) = TOO_MANY.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
