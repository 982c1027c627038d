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
