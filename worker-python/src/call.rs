//! One call: arguments in, the guest's function, an answer out.

use menagerie_protocol::msgpack::Reader;
use menagerie_protocol::{Args, Failure, Reply};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::function::Function;
use crate::guest_error;
use crate::lane::Lane;
use crate::shared_bytes;
use crate::tasks::Pending;
use crate::thread::SameThread;
use crate::value::{Decoder, EncodeError, Part, encode_apart};

/// Why the body did not run.
type Refused = String;

/// Runs a call, or for an `async` function begins it. `out` is a buffer that
/// is used again and again.
pub(crate) fn run(
    py: Python<'_>,
    lane: &Lane,
    function: &Function,
    args: Args<'_>,
    reply: Reply,
    out: &mut Vec<u8>,
) {
    let call = reply.call_id();
    lane.interrupt.forget_unless(|other| other == call || lane.tasks.waits(other));
    let mut reader = Reader::new(args.bytes);
    let count = match reader.array().map_err(|error| error.to_string()) {
        Ok(count) => count,
        Err(message) => return reply.fail(Failure::BadArguments { message }),
    };
    let mut decoder = Decoder::new(py, reader, args.segment);
    let result = match invoke(py, lane, call, function, count, &mut decoder) {
        Ok(result) => result,
        Err(message) => return reply.fail(Failure::BadArguments { message }),
    };
    let views = decoder.into_views();
    match result {
        Ok(value) if is_awaitable(&value) => {
            let views = views.into_iter().map(Bound::unbind).collect();
            if let Err((error, pending)) = lane.tasks.start(&value, Pending { reply, views }) {
                finish_pending(py, lane, pending, Err(error));
            }
        }
        result => {
            answer(py, lane, reply, result, out);
            shared_bytes::release(py, &views);
        }
    }
}

/// Checks the arguments, turns them into Python's values and calls. The small
/// counts stand apart because they need no tuple.
fn invoke<'py>(
    py: Python<'py>,
    lane: &Lane,
    call: u64,
    function: &Function,
    count: usize,
    decoder: &mut Decoder<'_, 'py>,
) -> Result<PyResult<Bound<'py, PyAny>>, Refused> {
    function.check_count(count)?;
    let mut next = |index| argument(py, function, index, decoder);
    let callable = function.callable.bind(py);
    let guarded = |code: &dyn Fn() -> PyResult<Bound<'py, PyAny>>| {
        lane.run(py, call, |stop| stop.map_or_else(code, Err))
    };
    Ok(match count {
        0 => guarded(&|| callable.call0()),
        1 => {
            let first = next(0)?;
            guarded(&|| callable.call1((&first,)))
        }
        2 => {
            let (first, second) = (next(0)?, next(1)?);
            guarded(&|| callable.call1((&first, &second)))
        }
        3 => {
            let (first, second, third) = (next(0)?, next(1)?, next(2)?);
            guarded(&|| callable.call1((&first, &second, &third)))
        }
        _ => {
            let all = (0..count).map(next).collect::<Result<Vec<_>, _>>()?;
            let all = PyTuple::new(py, all).map_err(|error| error.to_string())?;
            guarded(&|| callable.call1(&all))
        }
    })
}

fn argument<'py>(
    py: Python<'py>,
    function: &Function,
    index: usize,
    decoder: &mut Decoder<'_, 'py>,
) -> Result<Bound<'py, PyAny>, Refused> {
    let token = decoder.token()?;
    function.check_kind(index, &token)?;
    decoder.value(token, 0).map_err(|error| {
        let problem = error.value(py);
        format!("{}(): argument {}: {problem}", function.name, index + 1)
    })
}

/// Whether the result is still to be waited for.
pub(crate) fn is_awaitable(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: `value` is alive and the interpreter lock is held, by its type.
    unsafe { ffi::PyCoro_CheckExact(value.as_ptr()) != 0 }
}

/// Answers an `async` call that has ended.
pub(crate) fn finish_pending(
    py: Python<'_>,
    lane: &Lane,
    pending: Pending,
    result: PyResult<Bound<'_, PyAny>>,
) {
    let Pending { reply, views } = pending;
    answer(py, lane, reply, result, &mut Vec::new());
    let views: Vec<_> = views.into_iter().map(|view| view.into_bound(py)).collect();
    shared_bytes::release(py, &views);
}

fn answer(
    py: Python<'_>,
    lane: &Lane,
    reply: Reply,
    result: PyResult<Bound<'_, PyAny>>,
    out: &mut Vec<u8>,
) {
    out.clear();
    let sent = result
        .map_err(EncodeError::from)
        .and_then(|value| encode_apart(&value, lane.host.max_payload(), out));
    match sent {
        Ok(apart) if apart.is_empty() => reply.ok(out),
        Ok(apart) if apart.iter().all(|(_, bytes)| bytes.is_immutable()) => {
            // Copying takes a while, and others may run Python meanwhile.
            let parts = SameThread((reply, in_order(out, &apart)));
            py.detach(move || {
                let (reply, parts) = parts.into_inner();
                reply.ok_parts(&parts);
            });
        }
        Ok(apart) => reply.ok_parts(&in_order(out, &apart)),
        Err(error) => {
            let raised = |error| guest_error::failure(py, lane, reply.call_id(), &error);
            let failure = error.into_failure().unwrap_or_else(raised);
            reply.fail(failure);
        }
    }
}

/// A value of which some bytes are not in `out`.
fn in_order<'a>(out: &'a [u8], apart: &'a [Part<'_>]) -> Vec<&'a [u8]> {
    let mut parts = Vec::with_capacity(2 * apart.len() + 1);
    let mut from = 0;
    for (at, bytes) in apart {
        parts.extend([&out[from..*at], bytes.as_bytes()]);
        from = *at;
    }
    // Not if it is empty: bytes that end the value are known as those of an argument by
    // being the last part.
    if from < out.len() {
        parts.push(&out[from..]);
    }
    parts
}
