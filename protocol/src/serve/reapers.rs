//! The threads that see lanes off. A lane's own cannot: it has to have ended.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;

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
    /// Leaves a farewell to one of them.
    ///
    /// # Panics
    ///
    /// There is none of them, and the system has no thread to spare.
    pub(super) fn leave(&self, farewell: Farewell) {
        let queue = self.0.get_or_init(|| {
            let (sender, receiver) = mpsc::channel();
            let receiver = Arc::new(Mutex::new(receiver));
            Queue { sender, receiver, spare: Arc::default(), any: AtomicBool::new(false) }
        });
        if queue.spare.fetch_sub(1, Ordering::Relaxed) <= 0 {
            match queue.start() {
                Ok(()) => {
                    queue.spare.fetch_add(1, Ordering::Relaxed);
                    queue.any.store(true, Ordering::Relaxed);
                }
                // It waits for one that is busy.
                Err(_) if queue.any.load(Ordering::Relaxed) => {}
                Err(error) => panic!("cannot start a thread: {error}"),
            }
        }
        drop(queue.sender.send(farewell));
    }
}

impl Queue {
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
    use super::*;

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
