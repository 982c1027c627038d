use super::*;

fn unloaded(number: usize) -> EventKind {
    EventKind::BundleUnloaded { bundle: format!("bundle-{number}") }
}

/// What has come so far: nobody waits for more.
async fn received(events: &mut Events, count: usize) -> Vec<Event> {
    let mut all = Vec::new();
    for _ in 0..count {
        match events.next().await {
            Some(NextEvent::Event(event)) => all.push(event),
            other => panic!("{other:?} instead of an event"),
        }
    }
    all
}

#[tokio::test]
async fn s10_what_is_emitted_is_streamed_kept_and_logged_in_one_order() {
    let bus = EventBus::new(&Config::default());
    let mut streams = [bus.subscribe(), bus.subscribe()];
    let kinds: Vec<EventKind> = WorkerState::ALL
        .into_iter()
        .map(|state| EventKind::WorkerState {
            worker: "lua".to_owned(),
            state,
            incarnation: 1,
            pid: None,
        })
        .chain([unloaded(1)])
        .collect();
    for kind in &kinds {
        bus.emit(kind.clone());
    }

    let kept: Vec<Event> =
        bus.history.after(0, kinds.len()).items.iter().map(|kept| kept.event.clone()).collect();
    let ids: Vec<u64> = kept.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..).take(kinds.len()).collect::<Vec<u64>>());
    assert_eq!(kept.iter().map(|event| event.kind.clone()).collect::<Vec<_>>(), kinds);
    for stream in &mut streams {
        assert_eq!(received(stream, kinds.len()).await, kept);
    }
    let lines = bus.logs.0.after(0, kinds.len()).items;
    let lines: Vec<String> = lines.iter().map(|line| line.message.clone()).collect();
    assert_eq!(lines, kinds.iter().map(ToString::to_string).collect::<Vec<_>>());

    // Nobody is told of an end before it has come.
    drop(bus);
    assert_eq!(streams[0].next().await, None);
}

#[tokio::test]
async fn s10_a_slow_receiver_holds_up_nobody_and_is_told_what_it_missed() {
    let bus = EventBus::new(&Config::default());
    let mut slow = bus.subscribe();
    for number in 0..BACKLOG + 5 {
        bus.emit(unloaded(number));
    }
    assert_eq!(slow.next().await, Some(NextEvent::Missed(5)));
    let rest = received(&mut slow, BACKLOG).await;
    assert_eq!((rest[0].id, rest[0].kind.clone()), (6, unloaded(5)));
}

#[test]
fn s10_an_event_is_found_by_its_worker_and_its_bundle() {
    let bus = EventBus::new(&Config::default());
    let kind = EventKind::BundleLoaded {
        bundle: "greeter".to_owned(),
        worker: "lua".to_owned(),
        generation: 1,
    };
    bus.emit(kind.clone());
    let kept = &bus.history.after(0, 1).items[0];
    assert_eq!((kept.worker.as_deref(), kept.bundle.as_deref()), (Some("lua"), Some("greeter")));
    // What programs read is the event again.
    let read: Event = serde_json::from_str(&kept.json).unwrap();
    assert_eq!((&read, &read.kind), (&kept.event, &kind));
}

/// One of each kind: each is followed by the next, so that one without an arm does not
/// compile.
fn one_of_each() -> impl Iterator<Item = EventKind> {
    let first = EventKind::WorkerState {
        worker: "lua".to_owned(),
        state: WorkerState::Ready,
        incarnation: 1,
        pid: Some(4),
    };
    std::iter::successors(Some(first), |kind| {
        let (worker, loader) = ("lua".to_owned(), "lua".to_owned());
        let (bundle, reason) = ("greeter".to_owned(), "it was so".to_owned());
        Some(match kind {
            EventKind::WorkerState { .. } => EventKind::WorkerCrashed(Box::new(crash())),
            EventKind::WorkerCrashed(_) => EventKind::WorkerUnresponsive { worker, missed: 3 },
            EventKind::WorkerUnresponsive { .. } => EventKind::StartFailed { worker, reason },
            EventKind::StartFailed { .. } => {
                EventKind::BundleLoaded { bundle, worker, generation: 1 }
            }
            EventKind::BundleLoaded { .. } => EventKind::BundleReloaded { bundle, generation: 2 },
            EventKind::BundleReloaded { .. } => {
                EventKind::BundleFailed { bundle, step: "load".to_owned(), reason }
            }
            EventKind::BundleFailed { .. } => EventKind::BundleUnverified { bundle, reason },
            EventKind::BundleUnverified { .. } => {
                EventKind::BundleNotGranted { bundle, wants: vec!["network".to_owned()] }
            }
            EventKind::BundleNotGranted { .. } => {
                EventKind::BundleQuarantined { bundle, crashes: 3 }
            }
            EventKind::BundleQuarantined { .. } => {
                EventKind::BundleIsolated { bundle, from: worker, to: "lua/greeter".to_owned() }
            }
            EventKind::BundleIsolated { .. } => EventKind::StandbyReady { loader, pid: 5 },
            EventKind::StandbyReady { .. } => {
                EventKind::StandbyDied { loader, pid: None, cause: reason }
            }
            EventKind::StandbyDied { .. } => EventKind::WorkerRecycled { worker, reason },
            EventKind::WorkerRecycled { .. } => {
                EventKind::WorkerReplaced { worker, from: 4, to: 5 }
            }
            EventKind::WorkerReplaced { .. } => EventKind::BundleUnloaded { bundle },
            EventKind::BundleUnloaded { .. } => {
                EventKind::DeadlineExceeded { bundle, function: "greet".to_owned() }
            }
            EventKind::DeadlineExceeded { .. } => EventKind::PeerRefused { pid: Some(6), reason },
            EventKind::PeerRefused { .. } => return None,
        })
    })
}

fn crash() -> CrashReport {
    let report = serde_json::json!({
        "worker": "lua", "time_ms": 1_760_000_000_000_u64, "pid": 4, "incarnation": 1,
        "cause": "signal 6 (SIGABRT)", "signal": 6, "exit_code": null, "reason": null,
        "running": [{ "bundle": "greeter", "contract": "greeter@1", "function": "greet",
            "age_ms": 3 }],
        "stderr": ["the last line"], "uptime_ms": 9,
    });
    serde_json::from_value(report).unwrap()
}

/// The keys of an object in the order of the text, as often as they stand there.
fn keys_as_written(json: &str) -> Vec<String> {
    struct Keys;
    impl<'de> serde::de::Visitor<'de> for Keys {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Vec<String>, A::Error> {
            let mut keys = Vec::new();
            while let Some((key, serde::de::IgnoredAny)) = map.next_entry()? {
                keys.push(key);
            }
            Ok(keys)
        }
    }
    serde::Deserializer::deserialize_map(&mut serde_json::Deserializer::from_str(json), Keys)
        .unwrap()
}

#[test]
fn s10_an_event_of_any_kind_is_read_as_it_was_written() {
    let bus = EventBus::new(&Config::default());
    for kind in one_of_each() {
        bus.emit(kind);
    }
    let kept = bus.history.after(0, usize::MAX).items;
    assert_eq!(kept.len(), one_of_each().count());
    for KeptEvent { event, json, .. } in kept.iter().map(|kept| &**kept) {
        let mut keys = keys_as_written(json);
        keys.sort_unstable();
        let written = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), written, "a key stands there twice: {json}");
        assert!(keys.contains(&"time_ms".to_owned()), "{json}");
        assert_eq!(&serde_json::from_str::<Event>(json).unwrap(), event, "{json}");
        let value = serde_json::to_value(event).unwrap();
        assert_eq!(&serde_json::from_value::<Event>(value).unwrap(), event, "{json}");
    }
}

#[test]
fn s10_what_is_no_event_is_refused() {
    for (wrong, told) in [
        (r#"{"id":1,"event":"bundle_unloaded","bundle":"a"}"#, "missing field `time_ms`"),
        (r#"{"id":1,"time_ms":2,"event":"worker_crashed","worker":"lua"}"#, "missing field `"),
        (r#"{"id":1,"time_ms":2,"event":"of_later","bundle":"a"}"#, "unknown variant `of_later`"),
    ] {
        let error = serde_json::from_str::<Event>(wrong).unwrap_err().to_string();
        assert!(error.contains(told), "{wrong}: {error}");
    }
}

/// However many may be kept: a few that are very long take their place.
#[test]
fn s10_the_events_that_are_kept_are_bounded_in_bytes() {
    let bus = EventBus::new(&Config::default());
    for number in 0..20 {
        bus.emit(EventKind::BundleFailed {
            bundle: number.to_string(),
            step: "load".to_owned(),
            reason: "x".repeat(1 << 20),
        });
    }
    let kept = bus.history.after(0, usize::MAX);
    assert_eq!(kept.items.len() as u64 + kept.missed, 20);
    let bytes: usize = kept.items.iter().map(|kept| kept.json.len()).sum();
    assert!(bytes as u64 <= KEPT_BYTES, "{bytes}");
    assert_eq!(kept.items.last().unwrap().bundle.as_deref(), Some("19"));
}
