//! Events and log entries as server-sent events, and what readers choose by.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{self, Sse};
use futures_util::stream;
use menagerie_protocol::message::LogLevel;
use serde::Deserialize;
use tokio::sync::watch;

use super::problem::Problem;
use super::serve::Closing;
use crate::Supervisor;
use crate::events::{EventBus, KeptEvent};
use crate::history::History;
use crate::logs::LogEntry;
use crate::status::CrashReport;

/// How often a reader who has had nothing gets a comment: silence is then a supervisor
/// that hangs, and a reader who has gone is noticed.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Items that are taken out of a history at a time.
const BATCH: usize = 256;

/// What a reader wants to see.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Choice {
    worker: Option<String>,
    bundle: Option<String>,
    /// This level and what is graver.
    level: Option<LogLevel>,
    /// In milliseconds since the Unix epoch: what was kept since then, too.
    since: Option<u64>,
    /// The last so many that were kept, too.
    tail: Option<usize>,
    /// `false`: what is kept, and then an end.
    follow: Option<bool>,
}

/// What a choice looks at.
pub(super) trait Chosen: Send + Sync + 'static {
    fn id(&self) -> u64;
    fn time_ms(&self) -> u64;
    fn level(&self) -> LogLevel;
    fn is_of_worker(&self, worker: &str) -> bool;
    fn is_of_bundle(&self, bundle: &str) -> bool;
    fn json(&self) -> String;
}

impl Chosen for KeptEvent {
    fn id(&self) -> u64 {
        self.event.id
    }
    fn time_ms(&self) -> u64 {
        self.event.time_ms
    }
    fn level(&self) -> LogLevel {
        self.event.kind.level()
    }
    fn is_of_worker(&self, worker: &str) -> bool {
        self.worker.as_deref() == Some(worker)
    }
    fn is_of_bundle(&self, bundle: &str) -> bool {
        self.bundle.as_deref() == Some(bundle)
            || matches!(&self.event.kind,
                crate::EventKind::WorkerCrashed(report) if ran(report, bundle))
    }
    fn json(&self) -> String {
        self.json.clone()
    }
}

impl Chosen for LogEntry {
    fn id(&self) -> u64 {
        self.id
    }
    fn time_ms(&self) -> u64 {
        self.time_ms
    }
    fn level(&self) -> LogLevel {
        self.level
    }
    fn is_of_worker(&self, worker: &str) -> bool {
        self.worker.as_deref() == Some(worker)
    }
    fn is_of_bundle(&self, bundle: &str) -> bool {
        self.bundle.as_deref() == Some(bundle)
    }
    fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn ran(report: &CrashReport, bundle: &str) -> bool {
    report.suspect.as_deref() == Some(bundle)
        || report.running.iter().any(|call| call.bundle == bundle)
}

impl Choice {
    fn takes<T: Chosen>(&self, item: &T) -> bool {
        self.worker.as_deref().is_none_or(|worker| item.is_of_worker(worker))
            && self.bundle.as_deref().is_none_or(|bundle| item.is_of_bundle(bundle))
            && self.level.is_none_or(|level| item.level() >= level)
            && self.since.is_none_or(|since| item.time_ms() >= since)
    }

    /// Whether a crash is among what is wanted; all crashes are errors.
    pub(super) fn takes_crash(&self, report: &CrashReport) -> bool {
        self.worker.as_deref().is_none_or(|worker| report.worker == worker)
            && self.bundle.as_deref().is_none_or(|bundle| ran(report, bundle))
            && self.since.is_none_or(|since| report.time_ms >= since)
    }
}

/// Which of the two histories is read.
type Pick<T> = fn(&EventBus) -> &History<T>;

struct Reader<T> {
    bus: Arc<EventBus>,
    pick: Pick<T>,
    choice: Choice,
    changed: watch::Receiver<u64>,
    /// Whether the service ends.
    closing: watch::Receiver<bool>,
    cursor: u64,
    /// Whether it goes on after an earlier connection.
    resumes: bool,
    ready: VecDeque<sse::Event>,
}

impl<T: Chosen> Reader<T> {
    /// `last` is the id of the last item that the reader has had, in an earlier
    /// connection: `<life>.<id>`.
    fn new(
        bus: &Arc<EventBus>,
        pick: Pick<T>,
        choice: Choice,
        last: Option<&str>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let history = pick(bus);
        let mut reader = Self {
            bus: Arc::clone(bus),
            pick,
            changed: history.subscribe(),
            closing,
            cursor: history.newest(),
            resumes: last.is_some(),
            ready: VecDeque::new(),
            choice,
        };
        let wants_kept = reader.choice.since.is_some() || reader.choice.follow == Some(false);
        if let Some(last) = last {
            let life = format!("{:x}", bus.life);
            let same = last.split_once('.').filter(|(of, _)| *of == life);
            // After a restart of the supervisor everything is new.
            reader.cursor = same.and_then(|(_, id)| id.parse().ok()).unwrap_or(0);
        } else if let Some(tail) = reader.choice.tail {
            reader.cursor = 0;
            reader.fill(usize::MAX);
            let surplus = reader.ready.len().saturating_sub(tail);
            reader.ready.drain(..surplus);
        } else if wants_kept {
            reader.cursor = 0;
        }
        if reader.choice.follow != Some(false) && last.is_none() {
            // Where it is, before there is anything to see: who is cut off early
            // misses nothing, and sees nothing that it has not asked for.
            reader.ready.push_front(sse::Event::default().id(reader.id(reader.cursor)));
        }
        reader
    }

    /// An item's id, good beyond this connection.
    fn id(&self, number: u64) -> String {
        format!("{:x}.{number}", self.bus.life)
    }

    fn fill(&mut self, most: usize) -> bool {
        // What had gone before the first is not missed by who comes now.
        let first = self.cursor == 0 && !self.resumes;
        let batch = (self.pick)(&self.bus).after(self.cursor, most);
        if batch.missed > 0 && !first {
            let missed = sse::Event::default().event("missed").data(batch.missed.to_string());
            self.ready.push_back(missed);
        }
        self.cursor = batch.cursor;
        for item in batch.items.iter().filter(|item| self.choice.takes(&***item)) {
            let id = self.id(item.id());
            self.ready.push_back(sse::Event::default().id(id).data(item.json()));
        }
        !batch.items.is_empty()
    }

    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            self.changed.mark_unchanged();
            if self.fill(BATCH) {
                continue;
            }
            if self.choice.follow == Some(false) || *self.closing.borrow() {
                return None;
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                // And what came meanwhile; without a service nobody says so.
                Ok(()) = self.closing.changed() => {}
            }
        }
    }
}

fn respond<T: Chosen>(
    supervisor: &Supervisor,
    pick: Pick<T>,
    choice: Choice,
    headers: &HeaderMap,
    Closing(closing): Closing,
) -> impl IntoResponse + use<T> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let reader = Reader::new(&supervisor.core().events, pick, choice, last, closing);
    let stream = stream::unfold(reader, |mut reader| async move {
        reader.next().await.map(|event| (Ok::<_, Infallible>(event), reader))
    });
    Sse::new(stream).keep_alive(sse::KeepAlive::new().interval(SIGN_OF_LIFE))
}

/// The query of a request, as it was asked.
pub(super) type Asked = Result<Query<Choice>, axum::extract::rejection::QueryRejection>;

pub(super) fn choice(query: Asked) -> Result<Choice, Problem> {
    query.map(|Query(choice)| choice).map_err(|error| Problem::bad_request(error.body_text()))
}

pub(super) async fn events(
    State(supervisor): State<Supervisor>,
    query: Asked,
    headers: HeaderMap,
    Extension(closing): Extension<Closing>,
) -> Result<impl IntoResponse, Problem> {
    Ok(respond(&supervisor, |bus| &bus.history, choice(query)?, &headers, closing))
}

pub(super) async fn logs(
    State(supervisor): State<Supervisor>,
    query: Asked,
    headers: HeaderMap,
    Extension(closing): Extension<Closing>,
) -> Result<impl IntoResponse, Problem> {
    Ok(respond(&supervisor, |bus| &bus.logs.0, choice(query)?, &headers, closing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, EventKind};

    fn bus() -> Arc<EventBus> {
        let config = Config { event_history: 5, ..Config::default() };
        Arc::new(EventBus::new(&config))
    }

    /// A service that nobody ends.
    fn open() -> watch::Receiver<bool> {
        watch::Sender::new(false).subscribe()
    }

    fn unload(bus: &EventBus, bundle: &str) {
        bus.emit(EventKind::BundleUnloaded { bundle: bundle.to_owned() });
    }

    async fn all(bus: &Arc<EventBus>, choice: Choice, last: Option<&str>) -> String {
        let choice = Choice { follow: Some(false), ..choice };
        let mut reader = Reader::new(bus, |bus| &bus.history, choice, last, open());
        let mut seen = String::new();
        while let Some(event) = reader.next().await {
            seen.push_str(&format!("{event:?}"));
        }
        seen
    }

    fn count(seen: &str) -> usize {
        seen.matches("time_ms").count()
    }

    #[tokio::test]
    async fn g_readers_resume_after_the_last_id() {
        let bus = bus();
        for name in ["a", "b", "c"] {
            unload(&bus, name);
        }
        let last = format!("{:x}.2", bus.life);
        let seen = all(&bus, Choice::default(), Some(&last)).await;
        assert!(count(&seen) == 1 && seen.contains(".3"), "{seen}");
        // The ids of another life say nothing.
        for other in ["1.2", "nonsense", ""] {
            assert_eq!(count(&all(&bus, Choice::default(), Some(other)).await), 3);
        }
    }

    #[tokio::test]
    async fn g_readers_learn_what_they_missed() {
        let bus = bus();
        for _ in 0..10 {
            unload(&bus, "a");
        }
        let last = format!("{:x}.1", bus.life);
        let seen = all(&bus, Choice::default(), Some(&last)).await;
        assert!(count(&seen) == 5 && seen.contains("missed") && seen.contains('4'), "{seen}");
        assert_eq!(count(&all(&bus, Choice::default(), None).await), 5);
        // Who was there before the first event has missed the first, too.
        let last = format!("{:x}.0", bus.life);
        assert!(all(&bus, Choice::default(), Some(&last)).await.contains("missed"));
    }

    #[tokio::test]
    async fn g_readers_choose() {
        let bus = bus();
        unload(&bus, "a");
        bus.emit(EventKind::StartFailed { worker: "lua".into(), reason: "none".into() });
        let choose = |choice| all(&bus, choice, None);
        let of = |bundle: Option<&str>, worker: Option<&str>| Choice {
            bundle: bundle.map(str::to_owned),
            worker: worker.map(str::to_owned),
            ..Choice::default()
        };
        assert_eq!(count(&choose(of(Some("a"), None)).await), 1);
        assert_eq!(count(&choose(of(None, Some("lua"))).await), 1);
        assert_eq!(count(&choose(of(Some("a"), Some("lua"))).await), 0);
        let grave = Choice { level: Some(LogLevel::Warn), ..Choice::default() };
        assert_eq!(count(&choose(grave).await), 1);
        let later = Choice { since: Some(u64::MAX), ..Choice::default() };
        assert_eq!(count(&choose(later).await), 0);
        let last = Choice { tail: Some(1), ..Choice::default() };
        assert_eq!(count(&choose(last).await), 1);
    }

    #[tokio::test]
    async fn g_followers_wait_for_the_next() {
        let bus = bus();
        unload(&bus, "before");
        let mut reader = Reader::new(&bus, |bus| &bus.history, Choice::default(), None, open());
        // First where it is: who resumes from there has what came since.
        let place = format!("{:?}", reader.next().await.unwrap());
        assert!(
            place.contains(&format!("{:x}.1", bus.life)) && !place.contains("before"),
            "{place}"
        );
        let (seen, ()) = tokio::join!(reader.next(), async { unload(&bus, "after") });
        assert!(format!("{:?}", seen.unwrap()).contains("after"));
    }
}
