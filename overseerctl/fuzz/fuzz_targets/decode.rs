//! A frame from an untrusted client: `first_value` and `Fields` must read or refuse it, never panic, hang or disagree
//! with themselves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overseerctl::duration::GoDuration;
use overseerctl::json::{Fields, JsonError, Value, first_value, whole_value};
use overseerctl::quote::go_quote;
use overseerctl::time::Timestamp;

fuzz_target!(|frame: &[u8]| {
    // serde is the stricter reader: what it takes, we must take.
    if serde_json::from_slice::<serde_json::Value>(frame).is_ok() {
        assert!(whole_value(frame).is_ok());
    }
    let Ok(value) = first_value(frame) else {
        return;
    };
    let again = whole_value(value.text()).expect("a value's own text is a document");
    assert_eq!(again.text(), value.text());
    walk(value, 32);
    _ = Fields::decode(value, "overseer.IncomingMessage", message);
});

/// Asks for every kind of field that a message can have.
fn message(fields: &mut Fields<'_>) {
    for name in ["type", "id", "task_id", "action"] {
        _ = fields.string(name);
    }
    let since = fields.string("since");
    if let Ok(instant) = since.parse::<Timestamp>() {
        let text = instant.utc();
        // An offset can move the instant out of the years that have four digits.
        if text.find('-') == Some(4) {
            assert_eq!(text.parse(), Ok(instant));
        }
    }
    _ = fields.string_map("params");
    _ = (fields.bool("force"), fields.optional_bool("replace"));
    _ = (
        fields.optional_int("limit"),
        fields.int("queue_size"),
        fields.has("size"),
    );
    _ = (
        fields.string_list("features"),
        fields.int_list("codes"),
        fields.float("factor"),
    );
    _ = fields.object("pool", "overseer.PoolInfo", |pool| pool.int("limit"));
    _ = fields.optional_object("excess", "overseer.ExcessConfig", |excess| {
        (
            excess.named_string("action", "overseer.ExcessAction"),
            excess.int("grace"),
        )
    });
    _ = fields.optional_custom("retry_policy", policy);
}

fn policy(delay: &mut GoDuration, value: Value<'_>) -> Result<(), JsonError> {
    let text = Fields::decode(value, "overseer.raw", |raw| raw.string("restart_delay"))?;
    *delay = text
        .parse()
        .map_err(|error| JsonError::Meaning(format!("{error}")))?;
    assert_eq!(delay.to_string().parse(), Ok(*delay));
    Ok(())
}

/// Visits all parts of a value, down to a depth at which the cost stays linear.
fn walk(value: Value<'_>, depth: usize) {
    _ = (value.as_bool(), value.as_number());
    if let Some(text) = value.as_string() {
        let quoted = go_quote(&text);
        assert!(quoted.len() >= text.len() + 2 && !quoted.contains('\n'));
    }
    if depth > 0 {
        value
            .elements()
            .for_each(|element| walk(element, depth - 1));
        value
            .members()
            .for_each(|member| walk(member.value, depth - 1));
    }
}
