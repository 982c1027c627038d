//! An HTTP server whose handlers are plugins, loaded anew when their files
//! change: edit one while it runs, and ask again.
//!
//!     cargo run --example http_server                 # on 127.0.0.1:8080
//!     curl http://127.0.0.1:8080/hello-lua/Ada
//!     cargo run --example http_server -- --demo       # asks, edits, asks, ends
//!
//! Each folder of `examples/handlers` is a bundle with the contract `handler@1`:
//! `get(path)` returns a text. `/NAME/PATH` goes to the bundle NAME.

#![allow(clippy::print_stdout, reason = "an example")]

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::get;
use menagerie_supervisor::{Failure, Supervisor};

/// Hands a request to its plugin. A plugin that fails, hangs or crashes is an
/// error of this request and of no other.
async fn handle(
    State(supervisor): State<Supervisor>,
    UrlPath((name, path)): UrlPath<(String, String)>,
) -> Result<String, (StatusCode, String)> {
    let answer = async {
        let handler = supervisor.contract(&format!("{name}/handler@1"))?;
        handler.with_timeout(Duration::from_secs(2)).call("get", (path,)).await
    };
    answer.await.map_err(|failure: Failure| {
        let status = match &failure {
            Failure::NoSuchContract { .. } => StatusCode::NOT_FOUND,
            Failure::DeadlineExceeded { .. } => StatusCode::GATEWAY_TIMEOUT,
            Failure::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, failure.to_string())
    })
}

/// Reloads bundles whose code has changed. A version that does not load leaves
/// the old one serving.
async fn live_reload(supervisor: Supervisor, folder: PathBuf) {
    let mut seen: HashMap<PathBuf, SystemTime> = HashMap::new();
    loop {
        for bundle in supervisor.status().bundles {
            let Ok(files) = std::fs::read_dir(folder.join(&bundle.name)) else { continue };
            let changed =
                files.filter_map(|file| file.ok()?.metadata().ok()?.modified().ok()).max();
            let Some(changed) = changed else { continue };
            let before = seen.insert(folder.join(&bundle.name), changed);
            if before.is_some_and(|before| before < changed) {
                match supervisor.reload(&bundle.name).await {
                    Ok(status) => println!("{} is generation {}", bundle.name, status.generation),
                    Err(error) => println!("{} stays as it was: {error}", bundle.name),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let demo = std::env::args().any(|argument| argument == "--demo");
    let mut folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/handlers");
    if demo {
        // It edits: a copy.
        let copy = std::env::temp_dir().join(format!("menagerie-http-{}", std::process::id()));
        copy_folder(&folder, &copy)?;
        folder = copy;
    }
    let supervisor = Supervisor::builder().start()?;
    for (path, outcome) in supervisor.load_all(&[folder.clone()]).await {
        match outcome {
            Ok(bundle) => println!("{} is there", bundle.name),
            Err(error) => println!("{}: {error}", path.display()),
        }
    }
    tokio::spawn(live_reload(supervisor.clone(), folder.clone()));
    let router = Router::new().route("/{name}/{*path}", get(handle)).with_state(supervisor.clone());
    let address = if demo { "127.0.0.1:0" } else { "127.0.0.1:8080" };
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("http://{address}/");
    let serve = tokio::spawn(async move { axum::serve(listener, router).await });
    if demo {
        let outcome = show(&address.to_string(), &folder).await;
        std::fs::remove_dir_all(&folder)?;
        outcome?;
    } else {
        serve.await??;
    }
    supervisor.shutdown().await;
    Ok(())
}

/// Asks every handler, changes one, and asks until the change is there.
async fn show(address: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    for name in ["hello-lua", "time-py", "count-js", "nobody"] {
        println!("GET /{name}/Ada: {}", ask(address, &format!("/{name}/Ada")).await?);
    }
    let file = folder.join("hello-lua/main.lua");
    let code = std::fs::read_to_string(&file)?;
    std::fs::write(&file, code.replace("Hello", "Good day"))?;
    loop {
        let answer = ask(address, "/hello-lua/Ada").await?;
        if answer.contains("Good day") {
            println!("after the change: {answer}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ask(address: &str, path: &str) -> Result<String, Box<dyn Error>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
