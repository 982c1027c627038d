//! An HTTP server whose handlers are plugins in five languages, loaded anew when
//! their files change: edit one while it runs, and ask again.
//!
//!     make build
//!     cargo run --example http_server -- --socket /tmp/http.sock
//!     curl http://127.0.0.1:8080/hello-lua/Ada
//!     menagerie --socket /tmp/http.sock top
//!
//! Each folder of `examples/handlers` is a bundle with the contract `handler@1`:
//! `get(path)` returns a text. `/NAME/PATH` goes to the bundle NAME. After a
//! change of the handler in C or in C#, `scripts/build-native-bundles` or
//! `scripts/setup-dotnet` compiles it, also while it serves.

#![allow(clippy::print_stdout, reason = "an example")]

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::get;
use menagerie_supervisor::{
    EventKind, Events, Failure, NextEvent, StatusConfig, StatusSocket, Supervisor, WatchSettings,
};

/// How long a handler may take. A worker that has just died is started again
/// within it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Hands a request to its plugin. A plugin that fails, hangs or crashes is an
/// error of this request and of no other.
async fn handle(
    State(supervisor): State<Supervisor>,
    UrlPath((name, path)): UrlPath<(String, String)>,
) -> Result<String, (StatusCode, String)> {
    let answer = async {
        let handler = supervisor.contract(&format!("{name}/handler@1"))?;
        handler.with_timeout(PATIENCE).call("get", (path,)).await
    };
    answer.await.map_err(|failure: Failure| {
        let status = match &failure {
            Failure::NoSuchContract { .. } => StatusCode::NOT_FOUND,
            Failure::DeadlineExceeded { .. } => StatusCode::GATEWAY_TIMEOUT,
            Failure::WorkerCrashed { .. } => StatusCode::BAD_GATEWAY,
            Failure::Quarantined { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{failure}\n"))
    })
}

/// Says what becomes of the handlers. A version that does not load leaves the
/// old one serving.
async fn tell(mut events: Events) {
    while let Some(next) = events.next().await {
        let NextEvent::Event(event) = next else { continue };
        match &event.kind {
            EventKind::BundleReloaded { .. }
            | EventKind::BundleFailed { .. }
            | EventKind::WorkerCrashed(_) => println!("{}", event.kind),
            _ => {}
        }
    }
}

/// What the command line says.
struct Options {
    handlers: PathBuf,
    listen: SocketAddr,
    socket: Option<PathBuf>,
}

impl Options {
    fn read() -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            handlers: Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/handlers"),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            socket: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or("an option has a value")?;
            match name.as_str() {
                "--handlers" => options.handlers = value.into(),
                "--listen" => options.listen = value.parse()?,
                "--socket" => options.socket = Some(value.into()),
                _ => return Err("--handlers DIR, --listen ADDRESS, --socket PATH".into()),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read()?;
    let supervisor = Supervisor::builder().start()?;
    tokio::spawn(tell(supervisor.events()));
    // With it, all of the program `menagerie` works on this server.
    let _status = match options.socket {
        Some(socket) => {
            let mut service = StatusConfig::default();
            service.socket = Some(socket);
            Some(StatusSocket::serve(supervisor.clone(), &service)?)
        }
        None => None,
    };
    let handlers = [options.handlers];
    // Before anything is loaded: what changes from here on is seen.
    let _watch = supervisor.watch(&handlers, WatchSettings::default());
    for (path, outcome) in supervisor.load_all(&handlers).await {
        match outcome {
            Ok(bundle) => println!("{} is there, in {}", bundle.name, bundle.loader),
            Err(error) => println!("{}: {error}", path.display()),
        }
    }
    let router = Router::new().route("/{name}/{*path}", get(handle)).with_state(supervisor.clone());
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    println!("http://{}/", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, router) => served?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    supervisor.shutdown().await;
    Ok(())
}
