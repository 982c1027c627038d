//! Errors whose texts are cut: what a guest says of a failure is kept, told and shown in
//! several places, and has no bound of its own.

use crate::error::{GuestError, LoaderError, MAX_TEXT, cut_text, short_text};

/// What is left of an error's texts together, its causes' included, in bytes.
const MAX_TEXTS: usize = 64 << 10;

impl GuestError {
    /// The same with no text of more than 16 KiB, and 64 KiB in all: of causes beyond
    /// that nothing is left.
    #[must_use]
    pub fn shortened(self) -> Self {
        short(self, &mut { MAX_TEXTS })
    }
}

impl LoaderError {
    /// As [`GuestError::shortened`]. A long one that is no [`InitFailed`](Self::InitFailed)
    /// becomes one, of this bundle.
    #[must_use]
    pub fn shortened(self, bundle: &str) -> Self {
        match self {
            Self::InitFailed { bundle, step, error } => {
                Self::init(short_text(&bundle), short_text(&step), error.shortened())
            }
            other => {
                let text = other.to_string();
                if text.len() <= MAX_TEXT {
                    return other;
                }
                Self::init(bundle, "load", GuestError::new("LoaderError", short_text(&text)))
            }
        }
    }
}

fn short(error: GuestError, left: &mut usize) -> GuestError {
    let mut cut = |text: String| {
        let text = cut_text(text, MAX_TEXT.min(*left));
        *left = left.saturating_sub(text.len());
        text
    };
    let GuestError { type_name, message, stack, code, help, url, mut inner } = error;
    let (type_name, message, stack) = (cut(type_name), cut(message), cut(stack));
    let (code, help, url) = (code.map(&mut cut), help.map(&mut cut), url.map(cut));
    inner = inner.into_iter().map_while(|cause| (*left > 0).then(|| short(cause, left))).collect();
    GuestError { type_name, message, stack, code, help, url, inner }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(error: &GuestError) -> usize {
        let own = error.type_name.len() + error.message.len() + error.stack.len();
        own + error.inner.iter().map(size).sum::<usize>()
    }

    #[test]
    fn errors_are_short_with_all_their_causes() {
        let plain = GuestError::new("KeyError", "short").with_stack("here");
        assert_eq!(plain.clone().shortened(), plain);
        let long = GuestError::new("KeyError", "é".repeat(MAX_TEXT)).with_stack("here");
        let mut error = long.clone();
        error.inner = vec![long; 100];
        let error = error.shortened();
        assert!(error.message.ends_with("é […]"));
        assert_eq!((&*error.stack, &*error.inner[0].stack), ("here", "here"));
        assert!((2..100).contains(&error.inner.len()), "{}", error.inner.len());
        assert!(size(&error) < MAX_TEXTS + 100, "{}", size(&error));
    }

    #[test]
    fn errors_of_loaders_are_short_whatever_they_are() {
        let of = |function: String| LoaderError::BadFunctionName {
            bundle: "b".to_owned(),
            contract: "t@1".to_owned(),
            function,
        };
        assert_eq!(of("A".to_owned()).shortened("b"), of("A".to_owned()));
        let LoaderError::InitFailed { bundle, error, .. } = of("A".repeat(MAX_TEXT)).shortened("b")
        else {
            panic!("it is as long as before")
        };
        assert_eq!(bundle, "b");
        assert!(error.message.contains("'t@1' exports 'AA"), "{error}");
        let long = GuestError::new("Error", "a".repeat(MAX_TEXT + 1));
        let error = LoaderError::init("b", "run on_load", long).shortened("b").to_string();
        assert!(error.len() < MAX_TEXT + 100, "{}", error.len());
    }
}
