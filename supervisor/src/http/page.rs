//! The page for people: three plain files inside the program. They hold no
//! secret, so that a browser may fetch them before it has the token.

use axum::http::header;
use axum::response::IntoResponse;

const HTML: &str = include_str!("ui/index.html");
const PROGRAM: &str = include_str!("ui/app.js");
const STYLE: &str = include_str!("ui/style.css");

/// Nothing from elsewhere, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether a path may be had without a token.
pub(super) fn is_public(path: &str) -> bool {
    path == "/" || path.starts_with("/ui/")
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, text)
}

pub(super) async fn html() -> impl IntoResponse {
    file("text/html; charset=utf-8", HTML)
}

pub(super) async fn program() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", PROGRAM)
}

pub(super) async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", STYLE)
}
