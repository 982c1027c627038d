//! Why something was left out, in words that may be published: without the
//! folders of the machine. `menagerie doctor` has those.

use menagerie_supervisor::RuntimeError;

/// Says why a bundle could not be loaded.
pub(super) fn reason(error: &RuntimeError) -> String {
    match error {
        RuntimeError::WorkerNotFound { program, .. } => {
            format!("there is no {program}; menagerie doctor says where it was looked for")
        }
        error => without_folders(&error.to_string()),
    }
}

/// The text with only the last part of each absolute path.
fn without_folders(text: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || "/._-+~@".contains(c);
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('/') {
        let before = rest[..start].chars().next_back();
        let len = rest[start..].find(|c| !is_part(c)).unwrap_or(rest.len() - start);
        let path = &rest[start..start + len];
        out.push_str(&rest[..start]);
        // A path that stands alone, and no part of `a/b` or of an address.
        if before.is_none_or(|c| !is_part(c) && c != ':') {
            out.push_str(path.trim_end_matches('/').rsplit('/').next().unwrap_or_default());
        } else {
            out.push_str(path);
        }
        rest = &rest[start + len..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_out_tells_of_no_folder() {
        let looked_in = vec!["/opt/secret".to_owned(), "/usr/bin".to_owned()];
        let error = RuntimeError::WorkerNotFound { program: "worker-x".to_owned(), looked_in };
        let reason = reason(&error);
        assert!(reason.contains("worker-x") && !reason.contains('/'), "{reason}");
        for (text, told) in [
            ("'/tmp/a-1/main.py': no such file", "'main.py': no such file"),
            ("in /tmp/a/b.lua:3: syntax error near /", "in b.lua:3: syntax error near "),
            ("greeter/greeter@1, and/or http://a/b", "greeter/greeter@1, and/or http://a/b"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(without_folders(text), told);
        }
    }
}
