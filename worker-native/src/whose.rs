//! Whose code is where, for a handler of signals: it waits for nobody who changes
//! this, and nothing of it is ever freed.

use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use menagerie_protocol::serve::LastWords;

/// An entry of the list of places. It is used again when its library has gone, so
/// that there are as many as there were libraries at once.
#[derive(Debug)]
struct Entry {
    start: AtomicUsize,
    /// 0: nobody has it.
    end: AtomicUsize,
    words: AtomicPtr<LastWords>,
    next: Option<&'static Self>,
}

static FIRST: AtomicPtr<Entry> = AtomicPtr::new(null_mut());
/// Held by who changes the list.
static CHANGES: Mutex<()> = Mutex::new(());

fn first() -> Option<&'static Entry> {
    // SAFETY: null, or of a leaked box that was whole when it became the first.
    unsafe { FIRST.load(Ordering::Acquire).as_ref() }
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    std::iter::successors(first(), |entry| entry.next)
}

/// That a bundle's library is mapped somewhere; until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(&'static Entry);

impl Place {
    pub(crate) fn of(Range { start, end }: Range<usize>, words: &'static LastWords) -> Self {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let free = entries().find(|entry| entry.end.load(Ordering::Relaxed) == 0);
        let entry = free.unwrap_or_else(|| {
            let entry: &'static Entry = Box::leak(Box::new(Entry {
                start: AtomicUsize::new(0),
                end: AtomicUsize::new(0),
                words: AtomicPtr::new(null_mut()),
                next: first(),
            }));
            FIRST.store(std::ptr::from_ref(entry).cast_mut(), Ordering::Release);
            entry
        });
        entry.words.store(std::ptr::from_ref(words).cast_mut(), Ordering::Relaxed);
        entry.start.store(start, Ordering::Relaxed);
        entry.end.store(end, Ordering::Release);
        Self(entry)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.end.store(0, Ordering::Release);
    }
}

/// The last words of the bundle whose library this is an address in.
pub(crate) fn last_words(address: usize) -> Option<&'static LastWords> {
    entries().find_map(|entry| {
        let end = entry.end.load(Ordering::Acquire);
        let start = entry.start.load(Ordering::Relaxed);
        let words = entry.words.load(Ordering::Relaxed);
        // SAFETY: null, or of a reference that lasts for ever.
        let words = unsafe { words.as_ref() }?;
        (start..end).contains(&address).then_some(words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_an_address_is_of_the_library_that_is_mapped_there() {
        let [one, two] = ["one", "two"].map(LastWords::of);
        let is = |address, words: Option<&'static LastWords>| {
            last_words(address).map(std::ptr::from_ref) == words.map(std::ptr::from_ref)
        };
        let first = Place::of(0x1000..0x3000, one);
        let second = Place::of(0x5000..0x6000, two);
        assert!(is(0x1000, Some(one)) && is(0x1900, Some(one)) && is(0x2fff, Some(one)));
        assert!(is(0x3000, None) && is(0xfff, None) && is(0x5000, Some(two)));
        drop(first);
        assert!(is(0x1000, None) && is(0x5000, Some(two)));
        let _again = Place::of(0x1000..0x2000, two);
        assert!(is(0x1000, Some(two)));
        assert_eq!(entries().count(), 2);
        drop(second);
        assert!(is(0x5000, None));
    }
}
