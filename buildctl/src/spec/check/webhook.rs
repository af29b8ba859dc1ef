//! Where events are posted to. Whether the service may go there is its own matter; here it is only a URL.

use super::Wrong;
use crate::api::JobConfig;

pub(super) fn webhook(config: &JobConfig, wrong: &mut Wrong) {
    let url = config.webhook_url.trim();
    if !url.is_empty() && !is_http(url) {
        wrong.say("webhook_url: it is no http:// or https:// URL");
    }
    for (name, value) in &config.webhook_headers {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            wrong.say(format!(
                "webhook_headers: `{}` is no name of a header",
                name.escape_debug()
            ));
        }
        let text = |c: char| c == '\t' || !c.is_control();
        if !value.chars().all(text) {
            // The value is a secret.
            wrong.say(format!(
                "webhook_headers: the value of `{}` is no line of text",
                name.escape_debug()
            ));
        }
    }
}

fn is_http(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}
