//! The last of what was said, in a bounded ring, for readers that come later,
//! read slowly, or come back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::lane::lock;

/// Items with ids that count up from 1; the oldest go when there are too many
/// of them, or too many bytes.
#[derive(Debug)]
pub(crate) struct History<T> {
    ring: Mutex<Ring<T>>,
    /// The newest id. A reader waits for it to change and then looks: a slow
    /// one holds up nobody, and costs no memory.
    newest: watch::Sender<u64>,
    max_items: usize,
    max_bytes: u64,
}

#[derive(Debug)]
struct Ring<T> {
    items: VecDeque<Item<T>>,
    bytes: u64,
    next: u64,
}

#[derive(Debug)]
struct Item<T> {
    value: Arc<T>,
    bytes: u64,
}

/// Some items in a row.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    /// How many items before these were gone already.
    pub(crate) missed: u64,
    pub(crate) items: Vec<Arc<T>>,
    /// Where to go on.
    pub(crate) cursor: u64,
}

impl<T> History<T> {
    pub(crate) fn new(max_items: usize, max_bytes: u64) -> Self {
        Self {
            ring: Mutex::new(Ring { items: VecDeque::new(), bytes: 0, next: 1 }),
            newest: watch::Sender::new(0),
            max_items,
            max_bytes,
        }
    }

    /// Keeps what `make` makes of its id, with about so many bytes. `and` is
    /// run before anybody else can push: what it does has the ids' order.
    pub(crate) fn push(&self, make: impl FnOnce(u64) -> (T, u64), and: impl FnOnce(&T)) {
        let mut ring = lock(&self.ring);
        let id = ring.next;
        ring.next += 1;
        let (value, bytes) = make(id);
        and(&value);
        ring.items.push_back(Item { value: Arc::new(value), bytes });
        ring.bytes += bytes;
        while ring.items.len() > self.max_items
            || (ring.bytes > self.max_bytes && ring.items.len() > 1)
        {
            let Some(oldest) = ring.items.pop_front() else { break };
            ring.bytes -= oldest.bytes;
        }
        drop(ring);
        self.newest.send_replace(id);
    }

    /// The items after `cursor`, oldest first, `most` at most.
    pub(crate) fn after(&self, cursor: u64, most: usize) -> Batch<T> {
        let ring = lock(&self.ring);
        let len = u64::try_from(ring.items.len()).unwrap_or(u64::MAX);
        let oldest = ring.next - len;
        let from = (cursor.saturating_add(1)).clamp(oldest, ring.next);
        let missed = oldest.saturating_sub(cursor.saturating_add(1));
        let skip = usize::try_from(from - oldest).unwrap_or(usize::MAX);
        let items: Vec<_> =
            ring.items.iter().skip(skip).take(most).map(|item| Arc::clone(&item.value)).collect();
        let cursor = from + u64::try_from(items.len()).unwrap_or(0) - 1;
        Batch { missed, items, cursor }
    }

    /// The newest id, 0 before the first.
    pub(crate) fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Learns of every new item.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(history: &History<u64>, bytes: u64) {
        history.push(|id| (id, bytes), |_| {});
    }

    fn ids(batch: &Batch<u64>) -> Vec<u64> {
        batch.items.iter().map(|item| **item).collect()
    }

    #[test]
    fn g_history_is_bounded_by_count() {
        let history = History::new(3, 1000);
        assert_eq!((history.newest(), ids(&history.after(0, 9))), (0, vec![]));
        for _ in 0..5 {
            push(&history, 1);
        }
        let all = history.after(0, 9);
        assert_eq!((ids(&all), all.missed, all.cursor), (vec![3, 4, 5], 2, 5));
        let part = history.after(3, 1);
        assert_eq!((ids(&part), part.missed, part.cursor), (vec![4], 0, 4));
        let none = history.after(5, 9);
        assert_eq!((ids(&none), none.missed, none.cursor), (vec![], 0, 5));
        // Of another life, where more had happened.
        assert_eq!(history.after(u64::MAX, 9).cursor, 5);
    }

    #[test]
    fn g_history_is_bounded_by_bytes_but_keeps_the_newest() {
        let history = History::new(100, 10);
        for _ in 0..5 {
            push(&history, 4);
        }
        assert_eq!(ids(&history.after(0, 9)), [4, 5]);
        push(&history, 1000);
        assert_eq!(ids(&history.after(0, 9)), [6]);
    }

    #[tokio::test]
    async fn g_history_wakes_its_readers() {
        let history = Arc::new(History::new(3, 10));
        let mut changed = history.subscribe();
        push(&history, 1);
        changed.changed().await.unwrap();
        assert_eq!(*changed.borrow_and_update(), 1);
    }
}
