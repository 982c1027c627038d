use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::common::{PATIENCE, Response, Running, exchange, read_response, until};

#[test]
fn g_a_request_that_is_too_large_is_413() {
    let running = Running::start("[status]\nmax_request = \"2KiB\"");
    let body = format!("{{\"contract\":\"{}\"}}", "a".repeat(3000));
    let response = running.post("/v1/call", &body);
    assert_eq!((response.status, &response.json()["title"]), (413, &"payload too large".into()));
    // And when it does not say so beforehand.
    let mut stream = running.connect();
    let head = "POST /v1/call HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
        transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    drop(stream.write_all(format!("bb8\r\n{}\r\n0\r\n\r\n", "a".repeat(3000)).as_bytes()));
    assert_eq!(read_response(stream).status, 413);
}

/// A result within the limit of payloads may take several times its bytes as JSON.
#[test]
fn c2_an_answer_that_is_too_large_as_json_is_413() {
    let settings = "max_payload = \"128KiB\"\n[status]\nmax_request = \"2MiB\"";
    let running = Running::start(settings);
    let echo = |count: usize| {
        let list = format!("[{}]", vec!["true"; count].join(","));
        let body = format!(r#"{{"contract":"probe@1","function":"echo","args":[{list}]}}"#);
        (list, running.post("/v1/call", &body))
    };
    let (list, response) = echo(100_000);
    assert_eq!((response.status, response.body.len()), (200, list.len()));
    assert!(response.body == list);
    let (list, response) = echo(125_000);
    assert_eq!(response.status, 413, "{response:?}");
    let error = &response.json()["error"]["PayloadTooLarge"];
    assert_eq!((&error["size"], &error["limit"]), (&list.len().into(), &(512 << 10).into()));
    assert!(response.json()["detail"].as_str().unwrap().contains("as JSON"), "{response:?}");
    // One that is too large as a value is told as before.
    let (_, response) = echo(140_000);
    assert_eq!(response.status, 413, "{response:?}");
    assert_eq!(response.json()["error"]["PayloadTooLarge"]["limit"], 128 << 10);
}

#[test]
fn g_slow_clients_are_let_go() {
    let running = Running::start("[status]\nrequest_timeout = \"300ms\"");
    // A head that never ends: the connection is closed.
    let mut stream = running.connect();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost:").unwrap();
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
    // A body that never comes.
    let mut stream = running.connect();
    let head =
        "POST /v1/call HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_response(stream).status, 408);
}

#[test]
fn g_there_are_only_so_many_connections() {
    let running = Running::start("[status]\nmax_connections = 2\nrequest_timeout = \"1h\"");
    let idle: Vec<UnixStream> = (0..2).map(|_| running.connect()).collect();
    let refused = read_response(running.connect());
    assert_eq!((refused.status, &refused.json()["status"]), (503, &503.into()));
    drop(idle);
    super::common::until(|| {
        let mut stream = running.connect();
        drop(stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"));
        read_response(stream).status == 200
    });
}

/// Connects as another user: the kernel tells the peer the credentials of the
/// thread that connects.
fn connect_as(uid: u32, socket: &Path) -> UnixStream {
    let socket = socket.to_owned();
    let thread = std::thread::spawn(move || {
        // SAFETY: the system call takes numbers only; it changes this thread's
        // credentials alone (setresuid(2), "C library/kernel differences"), and
        // the thread ends with this function.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
        assert_eq!(changed, 0);
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    });
    thread.join().unwrap()
}

#[test]
fn g_users_have_the_rights_that_the_configuration_gives() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let running = Running::with(dir, "[status]\nread_only = [4001]\nadmin = [4002]");
    let ask = |uid, method, path| {
        exchange(connect_as(uid, &running.socket()), method, path, &[], b"").status
    };
    let reload = "/v1/bundles/greeter-lua/reload";
    assert_eq!((ask(4001, "GET", "/v1/status"), ask(4001, "POST", reload)), (200, 403));
    assert_eq!((ask(4002, "GET", "/v1/status"), ask(4002, "POST", reload)), (200, 200));
    assert_eq!((ask(4003, "GET", "/v1/status"), ask(4003, "POST", reload)), (403, 403));
    let logs = running.text(&["logs", "--level", "warn"]);
    for told in ["user 4001", "user 4003", "POST /v1/bundles/greeter-lua/reload", "GET /v1/status"]
    {
        assert!(logs.contains(told), "{logs}");
    }
    assert_eq!(logs.matches("refused on the status socket").count(), 3, "{logs}");
}

/// The status service by TCP.
struct Tcp<'r> {
    running: &'r Running,
    address: String,
}

impl Tcp<'_> {
    fn ask(&self, method: &str, path: &str, token: Option<&str>) -> Response {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> =
            bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        exchange(stream, method, path, &headers, b"")
    }

    fn token(&self, file: &str) -> String {
        let path = self.running.dir.path().join(file);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }
}

/// Who may do nothing here may not drive out what others have logged, either.
#[test]
fn g_refusals_leave_the_logs_alone() {
    let running = Running::start("log_bytes = \"64KiB\"\n[status]\ntcp = \"127.0.0.1:0\"");
    let address = running.said.split_once("http://").unwrap().1.split_once('/').unwrap().0;
    let tcp = Tcp { running: &running, address: address.to_owned() };
    assert_eq!(tcp.ask("GET", "/first", None).status, 401);
    let long = format!("/{}", "x".repeat(15 << 10));
    for _ in 0..300 {
        assert_eq!(tcp.ask("GET", &long, None).status, 401);
    }
    let logs = running.lines(&["logs", "--json"]);
    let said: Vec<&str> = logs.iter().map(|entry| entry["message"].as_str().unwrap()).collect();
    assert!(said.iter().any(|line| line.ends_with("GET /first")), "{said:?}");
    assert!(said.iter().any(|line| line.contains("not logged one by one")), "{said:?}");
    assert!(said.len() < 150 && said.iter().all(|line| line.len() < 400), "{said:?}");
}

/// Who asks for much and reads nothing of it does not keep its place.
#[test]
fn g_clients_that_read_nothing_lock_nobody_out() {
    let running = Running::start("[status]\nmax_connections = 5\nanswer_timeout = \"100ms\"");
    let mut events = running.following(&["events", "--json", "--since", "1h"]);
    events.wait_for("bundle_loaded");
    // More than the kernel keeps for a socket.
    let large = format!("\"{}\"", "x".repeat(4 << 20));
    let body = format!(r#"{{"contract":"probe@1","function":"echo","args":[{large}]}}"#);
    let clients: Vec<UnixStream> = (0..4).map(|_| running.connect()).collect();
    for mut client in &clients {
        let head = format!("POST /v1/call HTTP/1.1\r\nhost: a\r\ncontent-length: {}", body.len());
        write!(client, "{head}\r\n\r\n{body}").unwrap();
    }
    until(|| running.menagerie(&["status"]).status.success());
    for mut client in clients {
        let let_go = || {
            let mut states = [PollFd::new(client.as_fd(), PollFlags::empty())];
            poll(&mut states, PollTimeout::ZERO).unwrap();
            states[0].revents().unwrap().contains(PollFlags::POLLHUP)
        };
        until(let_go);
        let mut answer = Vec::new();
        drop(client.read_to_end(&mut answer));
        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.len() < large.len());
    }
    // Who follows, and reads, has been there all the time.
    assert!(running.menagerie(&["reload", "greeter-lua"]).status.success());
    events.wait_for("bundle_reloaded");
    assert_eq!(events.times("has gone"), 0, "{}", events.said);
}

#[test]
fn g_by_tcp_a_token_is_needed() {
    let running = Running::start("[status]\ntcp = \"127.0.0.1:0\"");
    let address = running.said.split_once("http://").unwrap().1.split_once('/').unwrap().0;
    let tcp = Tcp { running: &running, address: address.to_owned() };
    let (admin, read) = (tcp.token("s.sock.token"), tcp.token("s.sock.token.read"));
    let reload = "/v1/bundles/greeter-lua/reload";
    for wrong in [None, Some(""), Some("nonsense")] {
        let response = tcp.ask("GET", "/v1/status", wrong);
        assert_eq!(response.status, 401);
        assert!(response.head.contains("www-authenticate: bearer"), "{response:?}");
        assert_eq!(tcp.ask("POST", reload, wrong).status, 401);
    }
    for (token, right) in [(&read, "read"), (&admin, "act")] {
        let response = tcp.ask("GET", "/metrics", Some(token));
        assert_eq!(response.status, 200);
        assert!(response.head.contains(&format!("menagerie-right: {right}")), "{response:?}");
    }
    assert_eq!(tcp.ask("POST", reload, Some(&read)).status, 403);
    assert_eq!(tcp.ask("POST", reload, Some(&admin)).status, 200);
    // The page holds no secret, and nothing from elsewhere.
    for (path, kind) in
        [("/", "text/html"), ("/ui/app.js", "text/javascript"), ("/ui/style.css", "text/css")]
    {
        let response = tcp.ask("GET", path, None);
        assert_eq!(response.status, 200);
        assert!(response.head.contains(&format!("content-type: {kind}")), "{response:?}");
        assert!(response.head.contains("content-security-policy: default-src 'none'"));
        assert!(!response.body.contains("http://") || path == "/ui/app.js", "{path}");
    }
    let logs = running.text(&["logs"]);
    assert!(logs.contains("a client without a token"), "{logs}");
    assert!(logs.contains("the bearer of the token for reading"), "{logs}");
}
