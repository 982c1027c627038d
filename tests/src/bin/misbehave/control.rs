//! Faults on the control channel, after an honest hello.

use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use menagerie_protocol::control::{Connection, ControlError, Inbox};
use menagerie_protocol::message::{
    LaneId, LoadRequest, LogLevel, LogRecord, ToSupervisor, ToWorker,
};
use menagerie_protocol::{ContractInterface, GuestError, LoaderError, codec};

use crate::greeting::{self, Greeting, framed};
use crate::honest;

/// A control channel whose hello was accepted.
pub(crate) struct Control {
    stream: UnixStream,
    connection: Arc<Connection>,
    inbox: Inbox,
}

impl Control {
    pub(crate) fn open() -> Self {
        let mut stream = greeting::connect();
        let said = stream.write_all(&Greeting::honest().frame());
        let (Ok(()), Ok(twin)) = (said, stream.try_clone()) else { std::process::exit(98) };
        let connection = Arc::new(Connection::new(twin.into()));
        let mut control = Self { stream, connection, inbox: Inbox::default() };
        let welcome = control.receive();
        assert_eq!(welcome, ToWorker::Welcome);
        control
    }

    /// Sends these bytes, whatever they are.
    fn raw(&self, bytes: &[u8]) {
        drop((&self.stream).write_all(bytes));
    }

    pub(crate) fn tell(&self, message: &ToSupervisor) {
        drop(self.connection.send(message));
    }

    /// The next message. An honest end of the supervisor is ours as well.
    fn receive(&mut self) -> ToWorker {
        match self.connection.receive(&mut self.inbox) {
            Ok(message) => message,
            Err(_) => std::process::exit(0),
        }
    }

    fn descriptor(&mut self) -> OwnedFd {
        match self.inbox.descriptor() {
            Ok(descriptor) => descriptor,
            Err(_) => std::process::exit(96),
        }
    }

    /// Waits for the first load, and answers heartbeats meanwhile.
    pub(crate) fn load_request(&mut self) -> (LoadRequest, [OwnedFd; 4]) {
        loop {
            match self.receive() {
                ToWorker::Load(request) => {
                    return (*request, [(); 4].map(|()| self.descriptor()));
                }
                ToWorker::Ping { nonce } => self.tell(&ToSupervisor::Pong { nonce }),
                _ => {}
            }
        }
    }

    pub(crate) fn loaded(&self, lane: LaneId) {
        self.loaded_with(lane, |_| {});
    }

    /// The same, of contracts that are not quite honest.
    fn loaded_with(&self, lane: LaneId, change: impl FnOnce(&mut Vec<ContractInterface>)) {
        let mut contracts = honest::contracts();
        change(&mut contracts);
        self.tell(&ToSupervisor::Loaded { lane, contracts });
    }

    /// Goes on honestly in the background: heartbeats are answered, unless
    /// `mute`. Segments for results are handed to `on_segment`.
    pub(crate) fn attend(
        mut self,
        mute: bool,
        mut on_segment: impl FnMut(u32, u64, OwnedFd) + Send + 'static,
    ) -> Speaker {
        let speaker = Speaker(Arc::clone(&self.connection));
        std::thread::spawn(move || {
            loop {
                match self.receive() {
                    ToWorker::Ping { nonce } if !mute => self.tell(&ToSupervisor::Pong { nonce }),
                    ToWorker::Segment { segment, len, writable, .. } => {
                        let descriptor = self.descriptor();
                        if writable {
                            on_segment(segment, len, descriptor);
                        }
                    }
                    ToWorker::Shutdown => std::process::exit(0),
                    _ => {}
                }
            }
        });
        speaker
    }
}

/// Once honest; then says hello, and ends at once of what it is to load first: with 42 if
/// that came with all of its descriptors, with 44 if it did not come before
/// the hello was read, as it may not, else with 43.
pub(crate) fn ends_of_first_load() -> ! {
    if crate::incarnation() == 1 {
        honest::serve();
    }
    let mut stream = greeting::connect();
    let greeting = Greeting { features: &["first-load"], ..Greeting::honest() };
    drop(stream.write_all(&greeting.frame()));
    let number = crate::variable("MENAGERIE_FIRST_LOAD").parse().unwrap_or(-1);
    // SAFETY: it was opened for this process, which looks at it here only.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    let mut inbox = Inbox::default();
    let first = Connection::new(socket).receive(&mut inbox);
    let expected = match first {
        Ok(ToWorker::Load(request)) if request.lane == 1 => 4,
        Ok(ToWorker::LoadCopy(request)) if request.lane == 1 => 5,
        Err(ControlError::Closed) => std::process::exit(44),
        _ => std::process::exit(43),
    };
    let came = std::iter::from_fn(|| inbox.descriptor().ok()).count();
    std::process::exit(if came == expected { 42 } else { 43 })
}

/// What still speaks when the channel is attended to.
pub(crate) struct Speaker(Arc<Connection>);

impl Speaker {
    pub(crate) fn tell(&self, message: &ToSupervisor) -> bool {
        self.0.send(message).is_ok()
    }
}

pub(crate) fn second_hello(control: Control) -> Control {
    control.raw(&Greeting::honest().frame());
    control
}

/// Says something that is no message.
pub(crate) fn say(control: Control, what: &str) -> Control {
    match what {
        "half" => control.raw(&[100, 0, 0, 0, 8]),
        "huge" => control.raw(&[0xff; 4]),
        "garbage" => control.raw(&framed(&[0xee; 1000])),
        "unknown" => control.raw(&framed(&[99])),
        // A pong and two bytes more.
        "trailing" => control.raw(&framed(&[8, 1, 0, 0])),
        _ => std::process::exit(97),
    }
    control
}

/// Answers the first load in a way of its own.
pub(crate) fn on_load(mut control: Control, how: &str) -> Control {
    let (LoadRequest { lane, manifest, .. }, _) = control.load_request();
    match how {
        "silence" => {}
        "garbage" => control.raw(&framed(&[1, 0xfd, 0xff])),
        "another-lane" => control.loaded(lane + 1),
        "another-answer" => control.tell(&ToSupervisor::Unloaded { lane }),
        "odd-contracts" => control.loaded_with(lane, |contracts| {
            for contract in contracts {
                contract.contract = "!@#".to_owned();
            }
        }),
        "strange-contract" => control.loaded_with(lane, |contracts| {
            let contract = "strange@1".to_owned();
            contracts.push(ContractInterface { contract, functions: Vec::new() });
        }),
        "contract-twice" => {
            control.loaded_with(lane, |contracts| contracts.extend(honest::contracts()));
        }
        "odd-function" => control.loaded_with(lane, |contracts| {
            contracts[0].functions.push("Not a name".to_owned());
        }),
        "functions" => control.loaded_with(lane, |contracts| {
            contracts[0].functions.extend((0..1_000_000).map(|n| format!("f{n}")));
        }),
        "deep-error" => {
            let error = LoaderError::init(manifest.name, "compile", GuestError::default());
            let shallow = ToSupervisor::LoadFailed { lane, error };
            control.raw(&framed(&nested(&codec::encode(&shallow).unwrap_or_default())));
        }
        _ => std::process::exit(97),
    }
    control
}

/// An encoded message that ends with an empty `GuestError`, with a million
/// errors inside it.
pub(crate) fn nested(shallow: &[u8]) -> Vec<u8> {
    let Some((_, head)) = shallow.split_last() else { return Vec::new() };
    let mut bytes = head.to_vec();
    for _ in 0..1_000_000 {
        // One error inside; it has no type, message, stack, code, help or url.
        bytes.extend([1, 0, 0, 0, 0, 0, 0]);
    }
    bytes.push(0);
    bytes
}

/// Loads honestly, and misbehaves then.
pub(crate) fn once_loaded(mut control: Control, how: &str) {
    let (LoadRequest { lane, manifest, .. }, _fds) = control.load_request();
    control.loaded(lane);
    if how == "descriptors" {
        control.raw(&(16_u32 << 20).to_le_bytes());
        return greeting::flood_with_descriptors(&control.stream, 4);
    }
    let speaker = control.attend(matches!(how, "mute" | "pong"), |_, _, _| {});
    let record = |len| {
        ToSupervisor::Log(LogRecord {
            bundle: Some(manifest.name.repeat(len / 100)),
            level: LogLevel::Info,
            target: "log".to_owned(),
            message: "x".repeat(len),
        })
    };
    match how {
        "mute" => {}
        "pong" => {
            speaker.tell(&ToSupervisor::Pong { nonce: u64::MAX });
        }
        "logs" => while speaker.tell(&record(100)) {},
        "long-logs" => while speaker.tell(&record(15 << 20)) {},
        "answers" => {
            let state = Ok(Some(vec![0; 1 << 20]));
            // Bounded, for the sake of the machine that this runs on.
            for _ in 0..256 {
                speaker.tell(&ToSupervisor::Finished { lane, state: state.clone() });
            }
        }
        "want-much" => {
            speaker.tell(&ToSupervisor::WantSegment { lane, len: u64::MAX });
        }
        "want-many" => while speaker.tell(&ToSupervisor::WantSegment { lane, len: 4096 }) {},
        _ => std::process::exit(97),
    }
}

/// Loads honestly, and reads nothing any more.
pub(crate) fn deaf(mut control: Control) {
    let (LoadRequest { lane, .. }, fds) = control.load_request();
    control.loaded(lane);
    crate::hold((control, fds));
}
