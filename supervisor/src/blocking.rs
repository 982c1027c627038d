//! Work that blocks: files are read, hashed and copied on threads of their own. The
//! runtime's own way (`spawn_blocking`) panics where the system has no thread to give,
//! and a task that panics looks after nothing any more.

use std::io;
use std::path::PathBuf;
use std::thread::Builder;

use tokio::sync::oneshot;

use crate::remove::remove;

/// Does it, and returns what came of it.
///
/// # Errors
///
/// The system has no thread to give, which may pass; or it has panicked.
///
/// # Cancel safety
///
/// What has begun goes on to its end.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    done_by(thread(), work).await
}

/// Does it some time, and nobody waits for it.
///
/// # Errors
///
/// The system has no thread to give.
pub(crate) fn in_background(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread().spawn(work).map(drop)
}

/// Drops what takes its time to go. Without a thread, here.
pub(crate) fn drop_in_background(value: impl Send + 'static) {
    drop(in_background(move || drop(value)));
}

/// A folder that goes, with all that is in it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn thread() -> Builder {
    Builder::new().name("menagerie-work".to_owned())
}

async fn done_by<T: Send + 'static>(
    thread: Builder,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, outcome) = oneshot::channel();
    thread.spawn(move || drop(done.send(work())))?;
    outcome.await.map_err(|_| io::Error::other("it has panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than there can be.
    fn none() -> Builder {
        Builder::new().stack_size(usize::MAX / 4)
    }

    #[tokio::test]
    async fn s3_where_no_thread_can_be_had_nobody_panics() {
        assert!(done_by(none(), || ()).await.is_err());
        assert_eq!(blocking(|| 7).await.unwrap(), 7);
    }
}
