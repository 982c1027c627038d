//! Who is measured, one module each: the caller's side and the server's.

pub(crate) mod iceoryx;
pub(crate) mod ipc;
pub(crate) mod multiprocessing;
pub(crate) mod ours;
pub(crate) mod rpc;
pub(crate) mod spin;
pub(crate) mod stream;

use std::time::Instant;

use crate::Outcome;

/// What is called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What<'a> {
    Null,
    Echo(&'a [u8]),
}

/// One that calls a function in another process.
pub(crate) trait Peer {
    /// Calls the function that does nothing.
    fn null(&mut self) -> Outcome<()>;

    /// Has bytes returned; says how many came back.
    fn echo(&mut self, data: &[u8]) -> Outcome<usize>;

    /// Whether it carries bytes at all.
    fn echoes(&self) -> bool {
        true
    }

    /// Before and after its turn.
    fn awake(&mut self, _awake: bool) -> Outcome<()> {
        Ok(())
    }

    /// Nanoseconds for a call, in each batch of calls.
    fn times(&mut self, what: What<'_>, batches: u32, batch: u32) -> Outcome<Vec<f64>> {
        timed(self, what, batches, batch)
    }
}

/// Times calls, in batches.
fn timed<P: Peer + ?Sized>(
    peer: &mut P,
    what: What<'_>,
    batches: u32,
    batch: u32,
) -> Outcome<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..batches {
        let started = Instant::now();
        for _ in 0..batch {
            match what {
                What::Null => peer.null()?,
                What::Echo(data) => {
                    if peer.echo(data)? != data.len() {
                        return Err("an echo has another length".into());
                    }
                }
            }
        }
        times.push(started.elapsed().as_secs_f64() * 1e9 / f64::from(batch));
    }
    Ok(times)
}
