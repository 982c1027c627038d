//! What an exported function takes, and the check before its body runs.

use menagerie_protocol::msgpack::Token;
use pyo3::prelude::*;

use crate::interpreter;

/// Kinds of values that a parameter takes, as bits; those of `signatures.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kinds(u8);

impl Kinds {
    const NAMES: [&'static str; 8] =
        ["None", "bool", "int", "float", "str", "bytes", "list", "dict"];
    const ANY: Self = Self(u8::MAX);

    const fn of(token: &Token<'_>) -> Self {
        Self(match token {
            Token::Nil => 1,
            Token::Bool(_) => 2,
            Token::Int(_) | Token::UInt(_) => 4,
            Token::Float(_) => 8,
            Token::Str(_) => 16,
            Token::Bin(_) => 32,
            Token::Array(_) => 64,
            Token::Map(_) => 128,
        })
    }

    /// As a message names them: `int or None`.
    fn told(self) -> String {
        let mut names: Vec<_> = Self::NAMES
            .iter()
            .enumerate()
            .filter(|(bit, name)| {
                // Whoever takes a float takes an int as well; no need to say so.
                let implied = **name == "int" && self.0 & 8 != 0;
                self.0 & (1 << bit) != 0 && !implied
            })
            .map(|(_, name)| *name)
            .collect();
        if names.first() == Some(&"None") {
            names.rotate_left(1);
        }
        names.join(" or ")
    }
}

#[derive(Debug)]
struct Parameter {
    name: String,
    kinds: Kinds,
}

/// An exported function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) callable: Py<PyAny>,
    least: usize,
    /// `None` where a `*args` takes any number.
    most: Option<usize>,
    /// A `*args` is the last.
    parameters: Vec<Parameter>,
    /// Whether no parameter has an annotation that says anything.
    untyped: bool,
}

impl Function {
    /// Looks at the signature.
    pub(crate) fn new(py: Python<'_>, name: String, callable: Py<PyAny>) -> PyResult<Self> {
        type Told = (usize, isize, Vec<(String, u8)>);
        let (least, most, parameters): Told = interpreter::internal(py, "signatures")?
            .call_method1("describe", (&callable,))?
            .extract()?;
        let parameters: Vec<_> = parameters
            .into_iter()
            .map(|(name, kinds)| Parameter { name, kinds: Kinds(kinds) })
            .collect();
        let untyped = parameters.iter().all(|parameter| parameter.kinds == Kinds::ANY);
        Ok(Self { name, callable, least, most: usize::try_from(most).ok(), parameters, untyped })
    }

    /// Whether `count` arguments may be given.
    pub(crate) fn check_count(&self, count: usize) -> Result<(), String> {
        if count >= self.least && self.most.is_none_or(|most| count <= most) {
            return Ok(());
        }
        let least = self.least;
        let (takes, last) = match self.most {
            Some(most) if most == least => (least.to_string(), least),
            Some(most) => (format!("{least} to {most}"), most),
            None => (format!("at least {least}"), least),
        };
        let plural = if last == 1 { "" } else { "s" };
        Err(format!("{}() takes {takes} argument{plural}, {count} given", self.name))
    }

    /// Whether the argument at `index` may be of the token's kind.
    pub(crate) fn check_kind(&self, index: usize, token: &Token<'_>) -> Result<(), String> {
        if self.untyped {
            return Ok(());
        }
        let Some(parameter) = self.parameters.get(index).or(self.parameters.last()) else {
            return Ok(());
        };
        let found = Kinds::of(token);
        if parameter.kinds.0 & found.0 != 0 {
            return Ok(());
        }
        let (expected, found) = (parameter.kinds.told(), found.told());
        let (number, name) = (index + 1, &parameter.name);
        Err(format!(
            "{}(): argument {number}, '{name}', is {found}; expected {expected}",
            self.name
        ))
    }
}
