//! What a reader chooses by, as a request's query.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::args::{About, Level};
use crate::client::escape;

/// Pairs of names and values.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    pub(crate) fn about(about: &About) -> Self {
        let mut query = Self::default();
        for (name, value) in [("worker", &about.worker), ("bundle", &about.bundle)] {
            if let Some(value) = value {
                query = query.and(name, value);
            }
        }
        match about.since {
            Some(ago) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let since = now.saturating_sub(ago).as_millis();
                query.and("since", &since.to_string())
            }
            None => query,
        }
    }

    pub(crate) fn level(self, level: Option<Level>) -> Self {
        match level {
            Some(level) => self.and("level", &format!("{level:?}").to_lowercase()),
            None => self,
        }
    }

    pub(crate) fn and(mut self, name: &'static str, value: &str) -> Self {
        self.0.push((name, value.to_owned()));
        self
    }

    pub(crate) fn path(&self, path: &str) -> String {
        let pairs: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
        if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_holds_what_was_chosen() {
        assert_eq!(Query::default().path("/v1/logs"), "/v1/logs");
        let about = About { bundle: Some("a b".into()), ..About::default() };
        let query = Query::about(&about).level(Some(Level::Warn)).and("tail", "3");
        assert_eq!(query.path("/v1/logs"), "/v1/logs?bundle=a%20b&level=warn&tail=3");
    }
}
