//! What a plugin's own error has to say beside its message: stack, code, help, causes.

use serde_json::Value;

/// What the error behind a failed call or load tells; nothing if it is no plugin's.
pub(crate) fn of_error(error: &Value) -> Option<String> {
    let of_load = &error["Loader"]["InitFailed"]["error"];
    let mut text = String::new();
    tell(error.get("Guest").unwrap_or(of_load), &mut text);
    Some(text).filter(|text| !text.is_empty())
}

/// Tells an error's stack, what else it has for people, and its causes; not what the text
/// has already, as a stack of Python's tells those of its causes too.
fn tell(error: &Value, text: &mut String) {
    if !is_told(error, text) {
        line(text, stack(error));
    }
    for name in ["code", "help", "url"] {
        if let Some(value) = error[name].as_str() {
            line(text, &format!("{name}: {value}"));
        }
    }
    for cause in error["inner"].as_array().into_iter().flatten() {
        let part = |name: &str| cause[name].as_str().unwrap_or_default();
        let (begin, is_told) = (text.len(), is_told(cause, text));
        line(text, &format!("caused by {}: {}", part("type_name"), part("message")));
        let head = text.len();
        tell(cause, text);
        if is_told && text.len() == head {
            text.truncate(begin);
        }
    }
}

fn stack(error: &Value) -> &str {
    error["stack"].as_str().unwrap_or_default().trim_end()
}

/// Whether the text has the error's own stack. Another error may have the same message.
fn is_told(error: &Value, text: &str) -> bool {
    let stack = stack(error);
    !stack.is_empty() && text.contains(stack)
}

fn line(text: &mut String, more: &str) {
    if !more.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(more);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(error: &Value) -> String {
        of_error(&json!({ "Guest": error })).unwrap_or_default()
    }

    #[test]
    fn c3_causes_are_told_once() {
        let error = json!({
            "stack": "at outer\n", "inner": [
                { "type_name": "E", "message": "one", "stack": "at one", "inner": [
                    { "type_name": "F", "message": "deep", "stack": "", "inner": [] }] },
                { "type_name": "E", "message": "two" }]
        });
        let expected = "at outer\ncaused by E: one\nat one\ncaused by F: deep\ncaused by E: two";
        assert_eq!(told(&error), expected);
        let python = json!({
            "stack": "E: one\n\nThe above exception was the direct cause", "inner": [
                { "type_name": "E", "message": "one", "stack": "E: one" }]
        });
        assert_eq!(told(&python), python["stack"].as_str().unwrap());
        assert_eq!(told(&json!(null)), "");
    }

    /// A caller may fail with the very words of its callee, whose stack is another.
    #[test]
    fn c3_a_callee_with_the_same_message_is_told() {
        let error = json!({
            "stack": "E: one\n  at caller", "inner": [
                { "type_name": "E", "message": "one", "stack": "E: one\n  at callee" },
                { "type_name": "E", "message": "one", "stack": "" }]
        });
        let expected = "E: one\n  at caller\ncaused by E: one\nE: one\n  at callee\n\
                        caused by E: one";
        assert_eq!(told(&error), expected);
    }

    #[test]
    fn c3_code_help_and_url_are_told() {
        let error = json!({
            "stack": "at one, at two", "code": "E1", "help": "do this", "url": "https://a.example",
            "inner": [{ "type_name": "E", "message": "two", "stack": "at two", "code": "E2" }]
        });
        let expected = "at one, at two\ncode: E1\nhelp: do this\nurl: https://a.example\n\
                        caused by E: two\ncode: E2";
        assert_eq!(told(&error), expected);
        let load = json!({ "Loader": { "InitFailed": { "error": { "stack": "at three" } } } });
        assert_eq!(of_error(&load).unwrap(), "at three");
        assert_eq!(of_error(&json!({ "WorkerCrashed": {} })), None);
    }
}
