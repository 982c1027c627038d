//! Assemblies that lie beside a bundle's own. C# has no simple way to tell where
//! a path really leads, so it asks here.

use std::io;
use std::path::Path;

use menagerie_protocol::loader::{contained, read_file};

use crate::abi::{ANSWER_FAILURE, ANSWER_NOTHING, ANSWER_VALUE, Answer, Bytes};

/// Reads a file of a bundle: the answer is what is in it, that there is none, or
/// a text that says why it is not read.
pub(crate) extern "C" fn read(
    folder: *const u8,
    folder_len: i64,
    file: *const u8,
    file_len: i64,
    answer: *mut Answer,
) {
    // SAFETY: C# has the array fixed until this function returns.
    let folder: &[u8] = unsafe { Bytes::new(folder, folder_len).get() };
    // SAFETY: as above.
    let file: &[u8] = unsafe { Bytes::new(file, file_len).get() };
    let (kind, data) = match read_sibling(folder, file) {
        Ok(Some(bytes)) => (ANSWER_VALUE, bytes),
        Ok(None) => (ANSWER_NOTHING, Vec::new()),
        Err(error) => (ANSWER_FAILURE, error.to_string().into_bytes()),
    };
    // SAFETY: C# passes the address of an Answer on its stack.
    unsafe { answer.write(Answer::of(kind, data)) };
}

fn read_sibling(folder: &[u8], file: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(io::Error::other);
    let file = match contained(Path::new(text(folder)?), Path::new(text(file)?)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        outcome => outcome?,
    };
    // A pipe or a folder of that name is no assembly that somebody meant.
    if !file.is_file() {
        return Ok(None);
    }
    read_file(&file).map(Some)
}
