//! Faults until the hello, as raw bytes.

use std::io::{IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::{hold, variable};

/// The fields of a hello that a fault may change.
pub(crate) struct Greeting {
    pub(crate) magic: u32,
    pub(crate) version: (u8, u8),
    pub(crate) token: String,
    pub(crate) loader: &'static str,
    pub(crate) features: &'static [&'static str],
}

impl Greeting {
    pub(crate) fn honest() -> Self {
        Self {
            magic: u32::from_be_bytes(*b"MNGR"),
            version: (1, 0),
            token: variable("MENAGERIE_TOKEN"),
            loader: "native",
            features: &[],
        }
    }

    /// The whole frame, in bincode's standard configuration: integers below 251
    /// are one byte; 252 announces four.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut body = vec![0, 252];
        body.extend(self.magic.to_le_bytes());
        body.extend([self.version.0, self.version.1]);
        text(&mut body, &self.token);
        text(&mut body, self.loader);
        // Language Rust; can reload.
        body.extend([0, 1]);
        text(&mut body, "misbehaving 1.0");
        body.push(self.features.len().to_le_bytes()[0]);
        for feature in self.features {
            text(&mut body, feature);
        }
        framed(&body)
    }

    pub(crate) fn say(&self) {
        say(&self.frame());
    }
}

fn text(body: &mut Vec<u8>, text: &str) {
    assert!(text.len() < 251);
    body.push(text.len().to_le_bytes()[0]);
    body.extend(text.as_bytes());
}

/// A body with its length before it.
pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    frame.extend(body);
    frame
}

pub(crate) fn connect() -> UnixStream {
    match UnixStream::connect(variable("MENAGERIE_CONTROL_SOCKET")) {
        Ok(stream) => stream,
        Err(_) => std::process::exit(98),
    }
}

/// Connects, says this, and keeps the socket open.
pub(crate) fn say(bytes: &[u8]) {
    let mut stream = connect();
    // The other side may have hung up already; that is its right.
    drop(stream.write_all(bytes));
    hold(stream);
}

/// A message of 16 MiB is announced, and with each of its first bytes come
/// this many descriptors, for as long as somebody takes them.
pub(crate) fn say_with_descriptors(each: usize) {
    let mut stream = connect();
    drop(stream.write_all(&(16_u32 << 20).to_le_bytes()));
    flood_with_descriptors(&stream, each);
    hold(stream);
}

/// Sends single bytes with descriptors beside them until nobody takes them.
pub(crate) fn flood_with_descriptors(stream: &UnixStream, each: usize) {
    let descriptors = vec![stream.as_raw_fd(); each];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let byte = [IoSlice::new(&[0])];
    for _ in 0..2000 {
        let sent = sendmsg::<()>(stream.as_raw_fd(), &byte, &rights, MsgFlags::MSG_NOSIGNAL, None);
        if sent.is_err() {
            return;
        }
    }
}

/// Another process says hello with the token that this one was given.
#[allow(clippy::disallowed_methods, reason = "it is no worker that is started here")]
pub(crate) fn by_proxy() {
    let this = std::env::current_exe();
    let child =
        this.and_then(|this| std::process::Command::new(this).env("MISBEHAVE_TIMES", "0").spawn());
    hold(child);
}

/// More silent peers than the control socket will wait for, and then a hello.
pub(crate) fn crowd() {
    hold((0..100).map(|_| connect()).collect::<Vec<_>>());
    Greeting::honest().say();
}

/// Says why, at length, and exits.
#[allow(clippy::print_stderr, reason = "the supervisor reads it")]
pub(crate) fn complain_and_die() {
    for line in 0..500 {
        eprintln!("complaint {line}");
    }
    std::process::exit(3);
}
