//! The threads that see lanes off. A lane's own cannot: it has to have ended.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// What is left to do for a lane.
pub(super) type Farewell = Box<dyn FnOnce() + Send>;

/// As many threads as have been busy at once: the destructors of one bundle, however
/// long they take, keep no other's lane from its end. The first lane that ends starts
/// the first of them.
#[derive(Debug, Default)]
pub(super) struct Reapers(OnceLock<Queue>);

#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<Farewell>,
    receiver: Arc<Mutex<mpsc::Receiver<Farewell>>>,
    /// How many threads there are, less the farewells that are not over.
    spare: Arc<AtomicIsize>,
    /// Whether there is a thread.
    any: AtomicBool,
}

impl Reapers {
    /// Leaves a farewell to one of them. If there is none, and the system has no thread to
    /// spare, this waits until it has: a farewell has time, and a shortage of threads is
    /// nobody's here.
    pub(super) fn leave(&self, farewell: Farewell) {
        let queue = self.0.get_or_init(Queue::new);
        if queue.spare.fetch_sub(1, Ordering::Relaxed) <= 0 {
            queue.grow(|| queue.start());
        }
        drop(queue.sender.send(farewell));
    }
}

/// Between two attempts to start the first thread.
const PAUSE: Duration = Duration::from_millis(10);

impl Queue {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        Self { sender, receiver, spare: Arc::default(), any: AtomicBool::new(false) }
    }

    /// Starts one more thread.
    fn grow(&self, start: impl Fn() -> io::Result<()>) {
        while start().is_err() {
            // It waits for one that is busy.
            if self.any.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(PAUSE);
        }
        self.spare.fetch_add(1, Ordering::Relaxed);
        self.any.store(true, Ordering::Relaxed);
    }

    fn start(&self) -> io::Result<()> {
        let (receiver, spare) = (Arc::clone(&self.receiver), Arc::clone(&self.spare));
        // Until the sender is gone, and the lanes with it.
        let reap = move || {
            while let Some(farewell) = next(&receiver) {
                farewell();
                spare.fetch_add(1, Ordering::Relaxed);
            }
        };
        thread::Builder::new().name("lane-reaper".to_owned()).spawn(reap).map(drop)
    }
}

fn next(receiver: &Mutex<mpsc::Receiver<Farewell>>) -> Option<Farewell> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn s5_a_farewell_waits_where_there_is_no_thread_to_spare() {
        let queue = Queue::new();
        let left = Cell::new(3);
        let short = || match left.get() {
            0 => Ok(()),
            n => {
                left.set(n - 1);
                Err(io::ErrorKind::WouldBlock.into())
            }
        };
        queue.grow(short);
        assert_eq!((left.get(), queue.spare.load(Ordering::Relaxed)), (0, 1));
        // There is one now: the next ones wait for it.
        left.set(3);
        queue.grow(short);
        assert_eq!((left.get(), queue.spare.load(Ordering::Relaxed)), (2, 1));
    }

    #[test]
    fn c6_a_farewell_that_takes_long_keeps_no_other_waiting() {
        let reapers = Reapers::default();
        let (end, ended) = mpsc::channel::<()>();
        let (done, over) = mpsc::channel();
        let said = done.clone();
        reapers.leave(Box::new(move || {
            assert!(ended.recv().is_err());
            said.send(0).unwrap();
        }));
        for n in 1..=100 {
            let done = done.clone();
            reapers.leave(Box::new(move || done.send(n).unwrap()));
            assert_eq!(over.recv(), Ok(n));
        }
        drop(end);
        assert_eq!(over.recv(), Ok(0));
    }
}
