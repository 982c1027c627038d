//! What to log, as in `RUST_LOG`.

use tracing::level_filters::LevelFilter;

/// The levels, by name.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Whether a filter says what it was meant to say: directives with a comma between them,
/// each a level, or `target=level`. A mistyped level alone would be taken for the name of
/// a target, and nothing else be logged.
///
/// # Errors
///
/// What is wrong, in words.
///
/// ```
/// use menagerie_supervisor::check_log;
///
/// assert!(check_log("warn,hyper=info").is_ok());
/// assert_eq!(check_log("inf").unwrap_err(), "'inf' is no level; did you mean 'info'?");
/// ```
pub fn check_log(filter: &str) -> Result<(), String> {
    for directive in filter.split(',').filter(|directive| !directive.is_empty()) {
        // A span and its fields may stand between them.
        let (span, rest) = match directive.rsplit_once(']') {
            Some((_, rest)) => (true, rest),
            None => (false, directive),
        };
        if !span && directive.trim() != directive {
            return Err(format!("'{directive}' has a blank beside it; leave it out"));
        }
        let level = match rest.split_once('=') {
            Some((_, level)) => level,
            // A target alone; with what makes it one it is meant.
            None if span || rest.contains("::") => continue,
            None if rest.contains('[') => return Err(format!("'{rest}' lacks a ']'")),
            None => rest,
        };
        if level.parse::<LevelFilter>().is_err() {
            return Err(no_level(level));
        }
    }
    Ok(())
}

fn no_level(word: &str) -> String {
    let like = |level: &&str| strsim::jaro_winkler(&word.to_lowercase(), level);
    let near = LEVELS.iter().max_by(|a, b| like(a).total_cmp(&like(b)));
    match near.filter(|level| like(level) > 0.8) {
        Some(level) => format!("'{word}' is no level; did you mean '{level}'?"),
        None => {
            let levels = "there are error, warn, info, debug, trace and off";
            format!("'{word}' is no level; {levels}, and those of one module: hyper=debug")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_a_log_filter_names_levels() {
        for good in [
            "",
            "info",
            "WARN",
            "off",
            "3",
            "info,",
            "warn,menagerie_supervisor=debug",
            "menagerie_supervisor::events",
            "hyper=",
            "[span]",
            "[span{a=1}]=debug",
            "hyper[span{a=\"x y\"}]=trace,info",
        ] {
            assert_eq!(check_log(good), Ok(()), "{good}");
        }
        for (wrong, told) in [
            ("inf", "'inf' is no level; did you mean 'info'?"),
            ("Warning", "'Warning' is no level; did you mean 'warn'?"),
            ("loud", "'loud' is no level; there are error, warn, info, debug, trace and off"),
            ("info,hyper", "'hyper' is no level; there are"),
            ("6", "'6' is no level"),
            ("a=b=c", "'b=c' is no level"),
            ("nonsense=[", "'[' is no level"),
            ("hyper[span", "'hyper[span' lacks a ']'"),
            ("[span]=loud", "'loud' is no level"),
            ("warn, info", "' info' has a blank beside it"),
        ] {
            let error = check_log(wrong).unwrap_err();
            assert!(error.starts_with(told), "{wrong}: {error}");
        }
    }
}
