//! A function's parameters, as a C bundle declares them: "name: string, n: i64".

use menagerie_protocol::msgpack::{DecodeError, Reader, Token};

/// Integers beyond this are not all exact as `f64`.
pub(crate) const EXACT: u64 = 1 << 53;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Any,
    Bool,
    I64,
    U64,
    F64,
    String,
    Bytes,
    List,
    Map,
}

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "any" => Self::Any,
            "bool" => Self::Bool,
            "i64" => Self::I64,
            "u64" => Self::U64,
            "f64" => Self::F64,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "list" => Self::List,
            "map" => Self::Map,
            _ => return None,
        })
    }

    const fn expected(self) -> &'static str {
        match self {
            Self::Any => "a value",
            Self::Bool => "a bool",
            Self::I64 => "an integer of 64 bits",
            Self::U64 => "an integer that is not negative",
            Self::F64 => "a float, or an integer that a float holds exactly",
            Self::String => "a string",
            Self::Bytes => "bytes",
            Self::List => "a list",
            Self::Map => "a map",
        }
    }

    const fn takes(self, token: &Token<'_>) -> bool {
        match (self, token) {
            (Self::Any, _)
            | (Self::Bool, Token::Bool(_))
            | (Self::I64, Token::Int(_))
            | (Self::U64, Token::UInt(_))
            | (Self::F64, Token::Float(_))
            | (Self::String, Token::Str(_))
            | (Self::Bytes, Token::Bin(_))
            | (Self::List, Token::Array(_))
            | (Self::Map, Token::Map(_)) => true,
            (Self::U64, Token::Int(value)) => *value >= 0,
            (Self::F64, Token::Int(value)) => value.unsigned_abs() <= EXACT,
            _ => false,
        }
    }
}

/// Where an argument is among the bytes of all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A function's parameters.
#[derive(Debug)]
pub(crate) struct Params(Vec<(String, Kind)>);

impl Params {
    /// Parses a declaration.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        let params = text.split(',').map(|param| {
            let (name, kind) = param.split_once(':').unwrap_or((param, ""));
            match Kind::parse(kind.trim()) {
                Some(kind) if !name.trim().is_empty() => Ok((name.trim().to_owned(), kind)),
                _ => Err(format!(
                    "the parameter '{}' should be NAME: KIND, with the kind bool, i64, u64, f64, \
                     string, bytes, list, map or any",
                    param.trim()
                )),
            }
        });
        params.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    #[inline]
    pub(crate) const fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks arguments, and notes where each of them is; if they do not fit,
    /// what is wrong with which.
    #[inline(never)]
    pub(crate) fn check(&self, args: &[u8], spans: &mut Vec<Span>) -> Result<(), String> {
        spans.clear();
        let mut reader = Reader::new(args);
        let count = reader.array().map_err(|e| e.to_string())?;
        if count != self.0.len() {
            return Err(self.wrong_count(count));
        }
        for (name, kind) in &self.0 {
            let mut next = reader.clone();
            let token = next.token().map_err(|e| e.to_string())?;
            if !kind.takes(&token) {
                let (expected, found) = (kind.expected(), token.kind());
                return Err(format!("argument '{name}': expected {expected}, found {found}"));
            }
            let start = args.len() - reader.rest().len();
            if matches!(token, Token::Array(_) | Token::Map(_)) {
                reader.skip().map_err(|e| e.to_string())?;
            } else {
                reader = next;
            }
            spans.push(Span { start, end: args.len() - reader.rest().len() });
        }
        Ok(())
    }

    #[cold]
    fn wrong_count(&self, found: usize) -> String {
        let expected = self.0.len();
        let s = if expected == 1 { "" } else { "s" };
        let names: Vec<_> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        let names =
            if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        format!("expected {expected} argument{s}{names}, got {found}")
    }
}

/// Notes where each argument is.
pub(crate) fn index(args: &[u8], spans: &mut Vec<Span>) -> Result<(), DecodeError> {
    spans.clear();
    let mut reader = Reader::new(args);
    for _ in 0..reader.array()? {
        let start = args.len() - reader.rest().len();
        let value = reader.skip()?;
        spans.push(Span { start, end: start + value.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_parse_what_menagerie_h_says() {
        assert_eq!(Params::parse("").unwrap().0, []);
        let params = Params::parse("name: string, n:i64").unwrap();
        assert_eq!(params.0, [("name".to_owned(), Kind::String), ("n".to_owned(), Kind::I64)]);
        for bad in ["name", "name:", ": i64", "n: int", "n: i64,", ","] {
            assert!(Params::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn params_name_the_argument_that_is_wrong() {
        let check =
            |params: &str, args: &[u8]| Params::parse(params).unwrap().check(args, &mut Vec::new());
        assert_eq!(check("a: i64, b: u64", &[0x92, 1, 2]), Ok(()));
        assert_eq!(check("a: f64", &[0x91, 1]), Ok(()));
        assert_eq!(check("", &[0x91, 1]).unwrap_err(), "expected 0 arguments, got 1");
        assert_eq!(
            check("a: i64, b: u64", &[0x91, 1]).unwrap_err(),
            "expected 2 arguments (a, b), got 1"
        );
        let negative = check("a: i64, b: u64", &[0x92, 1, 0xff]).unwrap_err();
        assert_eq!(
            negative,
            "argument 'b': expected an integer that is not negative, found integer"
        );
        assert!(check("a: string", &[0x91, 0xc0]).unwrap_err().ends_with("found null"));
        assert!(check("a: any", &[0x91]).is_err());
    }
}
