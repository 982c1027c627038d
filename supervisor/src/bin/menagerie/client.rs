//! HTTP over the status socket.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Nobody listens.
    #[error("no supervisor is running at {}; start one with: menagerie run", .0.display())]
    NoSupervisor(PathBuf),
    /// The supervisor's own answer.
    #[error("{}", problem_text(.0))]
    Problem(Value),
    /// An argument that is not as it should be.
    #[error("{0}")]
    Usage(String),
    /// The operation failed here.
    #[error("{0}")]
    Failed(String),
    /// The connection broke.
    #[error("the supervisor at {} does not answer: {reason}", .socket.display())]
    Broken { socket: PathBuf, reason: String },
}

impl CommandError {
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NoSupervisor(_) => 3,
            _ => 1,
        }
    }
}

fn problem_text(problem: &Value) -> String {
    problem["detail"].as_str().or(problem["title"].as_str()).unwrap_or("it failed").to_owned()
}

/// A supervisor at a socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    fn broken(&self, reason: &impl ToString) -> CommandError {
        CommandError::Broken { socket: self.socket.clone(), reason: reason.to_string() }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Response<Incoming>, CommandError> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    CommandError::NoSupervisor(self.socket.clone())
                }
                _ => self.broken(&error),
            })?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|e| self.broken(&e))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "menagerie")
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(body.unwrap_or_default()))
            .map_err(|e| self.broken(&e))?;
        let response = sender.send_request(request).await.map_err(|e| self.broken(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = self.body(response).await?;
        let problem = serde_json::from_slice(&bytes).unwrap_or_else(
            |_| serde_json::json!({ "detail": format!("the supervisor answered {status}") }),
        );
        Err(CommandError::Problem(problem))
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, CommandError> {
        let collected = response.into_body().collect().await.map_err(|e| self.broken(&e))?;
        Ok(collected.to_bytes())
    }

    /// Sends a request, and returns the answer's text.
    pub(crate) async fn text(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<String, CommandError> {
        let response = self.send(method, path, body).await?;
        let bytes = self.body(response).await?;
        String::from_utf8(bytes.to_vec()).map_err(|e| self.broken(&e))
    }

    /// Follows server-sent events; `line` is given each event's data, and says
    /// whether to go on.
    pub(crate) async fn follow(
        &self,
        path: &str,
        mut line: impl FnMut(&str) -> bool,
    ) -> Result<(), CommandError> {
        let mut body = self.send(Method::GET, path, None).await?.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.broken(&e))?;
            let Some(data) = frame.data_ref() else { continue };
            pending.extend_from_slice(data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = pending.drain(..=end).collect();
                let text = String::from_utf8_lossy(&text);
                if let Some(data) = text.strip_prefix("data:")
                    && !line(data.trim())
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// A path segment with everything that is no plain letter escaped.
pub(crate) fn escape(segment: &str) -> String {
    let mut out = String::new();
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_escapes_names() {
        assert_eq!(escape("greeter-py"), "greeter-py");
        assert_eq!(escape("a b/ž"), "a%20b%2F%C5%BE");
    }
}
