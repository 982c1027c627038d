//! Errors as `bridge/bridge/Errors.cs` writes and reads them.

use menagerie_protocol::GuestError;
use menagerie_protocol::msgpack::{DecodeError, MAX_DEPTH, Reader, Token, Writer};

/// Reads `[type, message, stack, code, help, url, [inner, …]]`.
pub(crate) fn read(bytes: &[u8]) -> GuestError {
    read_from(&mut Reader::new(bytes))
}

/// Reads one error and leaves the reader behind it.
pub(crate) fn read_from(reader: &mut Reader<'_>) -> GuestError {
    nested(reader, 0).unwrap_or_else(|error| {
        GuestError::new("MenagerieError", format!("the bridge's error cannot be read: {error}"))
    })
}

fn nested(reader: &mut Reader<'_>, depth: usize) -> Result<GuestError, DecodeError> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::TooDeep);
    }
    reader.array()?;
    let type_name = text(reader)?.unwrap_or_default();
    let message = text(reader)?.unwrap_or_default();
    let stack = text(reader)?.unwrap_or_default();
    let code = text(reader)?;
    let help = text(reader)?;
    let url = text(reader)?;
    let inner =
        (0..reader.array()?).map(|_| nested(reader, depth + 1)).collect::<Result<_, _>>()?;
    Ok(GuestError { type_name, message, stack, code, help, url, inner })
}

/// Writes what [`read`] reads.
pub(crate) fn write(writer: &mut Writer<'_>, error: &GuestError) {
    let GuestError { type_name, message, stack, code, help, url, inner } = error;
    writer.array(7);
    for text in [type_name, message, stack] {
        writer.str(text);
    }
    for text in [code, help, url] {
        match text {
            Some(text) => writer.str(text),
            None => writer.nil(),
        }
    }
    writer.array(inner.len());
    for cause in inner {
        write(writer, cause);
    }
}

/// A string or null.
pub(crate) fn text(reader: &mut Reader<'_>) -> Result<Option<String>, DecodeError> {
    match reader.token()? {
        Token::Str(text) => Ok(Some(text.to_owned())),
        Token::Nil => Ok(None),
        _ => Err(DecodeError::Unexpected { expected: "string" }),
    }
}
