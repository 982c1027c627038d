//! How many arguments a function takes, by its source text.

/// What a function accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arity {
    /// The least number of arguments: `Function.prototype.length`.
    pub(crate) least: usize,
    /// The greatest; `None` where the text gives no certain answer.
    pub(crate) most: Option<usize>,
    /// The parameters as they are written, for messages; may be empty.
    pub(crate) parameters: Vec<String>,
}

impl Arity {
    /// The arity of the function with this `length` and source text. A function
    /// with a rest parameter or that uses `arguments` takes any number beyond
    /// the least; so does one whose text is not understood.
    pub(crate) fn of(length: usize, source: &str) -> Self {
        let any = Self { least: length, most: None, parameters: Vec::new() };
        let Some(parameters) = parameters(source) else { return any };
        let written = parameters.len();
        // What the engine counts and what is read here must agree.
        if length > written {
            return any;
        }
        let open = parameters.iter().any(|p| p.starts_with("...")) || mentions_arguments(source);
        Self { least: length, most: (!open).then_some(written), parameters }
    }

    /// What is wrong with `given` arguments, if anything.
    pub(crate) fn problem(&self, function: &str, given: usize) -> Option<String> {
        let signature = || format!("{function}({})", self.parameters.join(", "));
        if given < self.least {
            let missing = match self.parameters.get(given) {
                Some(name) => format!("the argument '{name}' is missing"),
                None => "an argument is missing".to_owned(),
            };
            return Some(format!(
                "{}: {missing}: expected {}, got {given}",
                signature(),
                expected(self.least, self.most)
            ));
        }
        let most = self.most?;
        (given > most).then(|| {
            format!("{}: expected {}, got {given}", signature(), expected(self.least, self.most))
        })
    }
}

fn expected(least: usize, most: Option<usize>) -> String {
    let noun = |n: usize| if n == 1 { "argument" } else { "arguments" };
    match most {
        Some(most) if most == least => format!("{least} {}", noun(least)),
        Some(most) => format!("{least} to {most} arguments"),
        None => format!("at least {least} {}", noun(least)),
    }
}

/// `arguments` as a word, anywhere: in a comment it does no harm to be lenient.
fn mentions_arguments(source: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    source.match_indices("arguments").any(|(at, word)| {
        !source[..at].ends_with(is_word) && !source[at + word.len()..].starts_with(is_word)
    })
}

/// The parameters' texts, or `None` where the text is not understood: a
/// native or bound function, a class, a regular expression among the defaults.
fn parameters(source: &str) -> Option<Vec<String>> {
    let source = source.trim_start();
    if source.contains("[native code]") || source.starts_with("class") {
        return None;
    }
    let mut scanner = Scanner { rest: source };
    // Up to the parenthesis stand `async`, `function`, `*` and a name, which
    // may be computed; an arrow function's one parameter may have none.
    loop {
        scanner.skip_blank()?;
        let c = scanner.peek()?;
        match c {
            '(' => break,
            '[' | '"' | '\'' => scanner.skip_element()?,
            '=' => return arrow_parameter(source),
            '{' => return None,
            _ => scanner.bump(),
        }
    }
    scanner.bump();
    let mut parameters = Vec::new();
    let mut current = String::new();
    loop {
        scanner.skip_blank_into(&mut current)?;
        match scanner.peek()? {
            ')' => break,
            ',' => {
                scanner.bump();
                parameters.push(std::mem::take(&mut current).trim().to_owned());
            }
            // A slash that begins no comment: a division or a regular
            // expression, which only a parser could tell apart.
            '/' => return None,
            _ => {
                let before = scanner.rest;
                scanner.skip_element()?;
                current.push_str(&before[..before.len() - scanner.rest.len()]);
            }
        }
    }
    let last = current.trim();
    if !last.is_empty() {
        parameters.push(last.to_owned());
    }
    Some(parameters)
}

/// `x => …` and `async x => …`.
fn arrow_parameter(source: &str) -> Option<Vec<String>> {
    let (head, _) = source.split_once("=>")?;
    let head = head.trim();
    let name = head.strip_prefix("async ").map_or(head, str::trim);
    let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_$".contains(c));
    plain.then(|| vec![name.to_owned()])
}

/// Walks over source text by elements: a character, a string, or a whole pair
/// of brackets with all that stands in them.
struct Scanner<'a> {
    rest: &'a str,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn skip_blank(&mut self) -> Option<()> {
        self.skip_blank_into(&mut String::new())
    }

    /// Passes over space and comments; space becomes one space in `out`.
    fn skip_blank_into(&mut self, out: &mut String) -> Option<()> {
        loop {
            let trimmed = self.rest.trim_start();
            if trimmed.len() < self.rest.len() {
                out.push(' ');
                self.rest = trimmed;
            }
            if let Some(comment) = self.rest.strip_prefix("/*") {
                self.rest = comment.split_once("*/")?.1;
            } else if let Some(comment) = self.rest.strip_prefix("//") {
                self.rest = comment.split_once('\n')?.1;
            } else {
                return Some(());
            }
        }
    }

    fn skip_element(&mut self) -> Option<()> {
        let c = self.peek()?;
        self.bump();
        match c {
            '(' => self.skip_until(')'),
            '[' => self.skip_until(']'),
            '{' => self.skip_until('}'),
            '"' | '\'' => self.skip_string(c),
            // Templates nest code in text: not worth reading here.
            '`' => None,
            _ => Some(()),
        }
    }

    fn skip_until(&mut self, end: char) -> Option<()> {
        loop {
            self.skip_blank()?;
            match self.peek()? {
                c if c == end => {
                    self.bump();
                    return Some(());
                }
                '/' => return None,
                _ => self.skip_element()?,
            }
        }
    }

    fn skip_string(&mut self, quote: char) -> Option<()> {
        loop {
            let c = self.peek()?;
            self.bump();
            if c == quote {
                return Some(());
            }
            if c == '\\' {
                self.bump();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(length: usize, source: &str) -> (usize, Option<usize>) {
        let arity = Arity::of(length, source);
        (arity.least, arity.most)
    }

    #[test]
    fn arity_reads_every_form_of_function() {
        for source in [
            "greet(name) { return name; }",
            "async greet(name) {}",
            "*greet(name) {}",
            "async *greet(name) {}",
            "function (name) {}",
            "function greet(name) {}",
            "async function greet /* one */ (name // only\n) {}",
            "(name) => name",
            "name => name",
            "async name => name",
            "async (name) => name",
            "\"greet\"(name) {}",
            "[`gr` + (() => ')')()](name) {}",
            "['gr(eet'](name) {}",
            "greet({ a, b: [c, d] }) {}",
            "greet(name,) {}",
        ] {
            let expected = if source.contains('`') { None } else { Some(1) };
            assert_eq!(of(1, source), (1, expected), "{source}");
        }
        assert_eq!(of(0, "greet() { (a, b) => 1 }"), (0, Some(0)));
    }

    #[test]
    fn arity_counts_defaults_and_opens_for_rest_and_arguments() {
        assert_eq!(of(1, "f(a, b = g(1, 2), c = [1, 2]) {}"), (1, Some(3)));
        assert_eq!(of(1, "f(a, b = 'x,)', c = \"\\\"\") {}"), (1, Some(3)));
        assert_eq!(of(1, "f(a, ...rest) {}"), (1, None));
        assert_eq!(of(0, "function f() { return arguments.length; }"), (0, None));
        assert_eq!(of(0, "function f() { return my_arguments; }"), (0, Some(0)));
    }

    #[test]
    fn arity_is_open_where_the_text_is_unclear() {
        assert_eq!(of(2, "function () { [native code] }"), (2, None));
        assert_eq!(of(0, "f(a = /[),]/) {}"), (0, None));
        assert_eq!(of(0, "f(a = `${')'}`) {}"), (0, None));
        assert_eq!(of(0, "class A {}"), (0, None));
        assert_eq!(of(0, "f(a"), (0, None));
    }

    #[test]
    fn arity_names_what_is_missing() {
        let arity = Arity::of(2, "move(from, to) {}");
        assert_eq!(
            arity.problem("move", 1).as_deref(),
            Some("move(from, to): the argument 'to' is missing: expected 2 arguments, got 1")
        );
        assert_eq!(
            arity.problem("move", 3).as_deref(),
            Some("move(from, to): expected 2 arguments, got 3")
        );
        assert_eq!(arity.problem("move", 2), None);
    }
}
