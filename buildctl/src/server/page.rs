//! The built-in page: one file in the binary, served with a policy that lets it run what is in it and talk to this service
//! only. It holds nothing of anybody's, so everybody may have it; what it shows it asks for with the token of whoever looks.

use std::sync::LazyLock;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("page/index.html");

static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |element: &str| {
        let digest = Sha256::digest(inside(element).as_bytes());
        format!("'sha256-{}'", BASE64_STANDARD.encode(digest))
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
});

/// What the only element of this name holds.
fn inside(element: &str) -> &'static str {
    let held = PAGE
        .split_once(&format!("<{element}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{element}>")));
    held.map_or("", |(inside, _)| inside)
}

pub(super) async fn show() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        assert!(inside("script").len() > 1000 && inside("style").len() > 100);
        for (text, count) in [("<script", 1), ("<style", 1), (" src=", 0), ("<link", 1)] {
            assert_eq!(PAGE.matches(text).count(), count, "{text}");
        }
        assert!(PAGE.contains("<link rel=\"icon\" href=\"data:"));
        for forbidden in [
            "http://",
            "https://",
            "innerHTML",
            "style=\"",
            "onclick=",
            "eval(",
        ] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
    }
}
