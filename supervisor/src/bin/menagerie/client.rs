//! HTTP over the status socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use menagerie_supervisor::{BindError, is_trusted};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::MissedTickBehavior;

/// For how many seconds a supervisor may say nothing where there is something to
/// say at once.
const PATIENCE: u32 = 15;

/// Ends after so many seconds that this program has seen: on a machine that stands
/// still meanwhile nobody is late.
pub(crate) async fn seconds_seen(count: u32) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..=count {
        seconds.tick().await;
    }
}

/// Ends after [`PATIENCE`].
async fn out_of_patience() {
    seconds_seen(PATIENCE).await;
}

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

impl CommandError {
    /// Whether it may be another time: nobody is there yet, or there is a crowd.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::NoSupervisor(_) | Self::Broken { .. } => true,
            Self::Problem(problem) => problem["status"] == 503,
            Self::Usage(_) | Self::Failed(_) => false,
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

    /// Sends a request; the answer's head. A supervisor that hangs is told from one
    /// that works.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        last_event_id: Option<&str>,
    ) -> Result<Response<Incoming>, CommandError> {
        let looks = method == Method::GET;
        let response = tokio::select! {
            response = self.exchange(method, path, body, last_event_id) => response?,
            silent = self.silent(looks) => return Err(silent),
        };
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

    /// Ends when the supervisor hangs. What only looks is answered at once; what acts
    /// may take long, and meanwhile it answers somebody else.
    async fn silent(&self, looks: bool) -> CommandError {
        loop {
            out_of_patience().await;
            if looks {
                break;
            }
            tokio::select! {
                _ = self.exchange(Method::HEAD, "/v1/openapi.json", None, None) => {}
                () = out_of_patience() => break,
            }
        }
        self.hangs(PATIENCE)
    }

    /// It has said nothing for so many seconds, where it should have.
    pub(crate) fn hangs(&self, seconds: u32) -> CommandError {
        self.broken(&format!("it has said nothing for {seconds} s; is it stopped, or overloaded?"))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        last_event_id: Option<&str>,
    ) -> Result<Response<Incoming>, CommandError> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    CommandError::NoSupervisor(self.socket.clone())
                }
                io::ErrorKind::InvalidInput => {
                    let too_long = BindError::TooLong { path: self.socket.clone() };
                    CommandError::Usage(too_long.to_string())
                }
                _ => self.broken(&error),
            })?;
        let listener = stream.peer_cred().map_err(|e| self.broken(&e))?.uid();
        if !is_trusted(&self.socket, listener) {
            let socket = self.socket.display();
            let text = format!("{socket} is user {listener}'s, and should be this user's");
            return Err(CommandError::Failed(format!("{text}: it is left alone")));
        }
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|e| self.broken(&e))?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "menagerie")
            .header("content-type", "application/json");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let request = request
            .body(Full::<Bytes>::from(body.unwrap_or_default()))
            .map_err(|e| self.broken(&e))?;
        sender.send_request(request).await.map_err(|e| self.broken(&e))
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, CommandError> {
        match whole(response.into_body(), out_of_patience).await {
            Some(body) => body.map_err(|error| self.broken(&error)),
            None => Err(self.hangs(PATIENCE)),
        }
    }

    /// Sends a request, and returns the answer's text.
    pub(crate) async fn text(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<String, CommandError> {
        let response = self.send(method, path, body, None).await?;
        let bytes = self.body(response).await?;
        String::from_utf8(bytes.to_vec()).map_err(|e| self.broken(&e))
    }

    /// Opens a stream of server-sent events, after the one with the id `last`.
    pub(crate) async fn stream(
        &self,
        path: &str,
        last: Option<&str>,
    ) -> Result<Incoming, CommandError> {
        Ok(self.send(Method::GET, path, None, last).await?.into_body())
    }

    /// Where the supervisor is looked for.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

/// All of a body, unless no more of it comes for as long as a `silence` takes. It may take
/// long altogether, where it is large.
async fn whole<B: Body<Data = Bytes> + Unpin, S: Future<Output = ()>>(
    mut body: B,
    silence: impl Fn() -> S,
) -> Option<Result<Bytes, B::Error>> {
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = silence() => return None,
        };
        match frame {
            None => return Some(Ok(bytes.into())),
            Some(Err(error)) => return Some(Err(error)),
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
        }
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
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A body of so many bytes, each of which is waited for.
    struct Slow {
        left: u8,
        waits: bool,
    }

    impl Body for Slow {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            self.waits = !self.waits;
            if self.waits {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let left = self.left.checked_sub(1);
            self.left = left.unwrap_or_default();
            Poll::Ready(left.map(|_| Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    /// Ends when it has been looked at so many times.
    async fn looks(mut count: u8) {
        std::future::poll_fn(|_| {
            count = count.saturating_sub(1);
            if count == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn g_an_answer_may_take_long_if_it_goes_on() {
        let body = |left| Slow { left, waits: false };
        // Each of the 100 is looked for twice.
        let all = whole(body(100), || looks(3)).await.unwrap().unwrap();
        assert_eq!(all.len(), 100);
        assert!(whole(body(100), || looks(1)).await.is_none());
    }

    #[test]
    fn client_escapes_names() {
        assert_eq!(escape("greeter-py"), "greeter-py");
        assert_eq!(escape("a b/ž"), "a%20b%2F%C5%BE");
    }
}
