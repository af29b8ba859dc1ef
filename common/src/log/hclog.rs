//! Log lines as `HashiCorp`'s go-hclog writes them, which go-plugin hosts (Nomad among them) parse
//! back into their own log.
//!
//! One JSON object a line: `@level`, `@message`, `@module`, `@timestamp`, then the fields flat
//! beside them.

use std::fmt;
use std::io::Write;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Writes every event as one hclog line to what `make` gives. Fields of enclosing spans come along;
/// an inner one wins.
pub struct HclogLayer<W> {
    make: W,
}

impl<W: for<'w> MakeWriter<'w>> HclogLayer<W> {
    /// A layer that writes to what `make` gives, stderr in a plugin.
    pub fn new(make: W) -> Self {
        Self { make }
    }
}

/// The fields of a span, kept with it for the events inside.
struct SpanFields(Map<String, Value>);

impl<S, W> Layer<S> for HclogLayer<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields.0));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = context.span(id)
            && let Some(SpanFields(known)) = span.extensions_mut().get_mut()
        {
            known.extend(fields.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            if let Some(SpanFields(known)) = span.extensions().get() {
                fields.0.extend(known.clone());
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let mut text = line(
            *metadata.level(),
            metadata.target(),
            fields.0,
            jiff::Timestamp::now(),
        )
        .to_string();
        text.push('\n');
        // A log that cannot be written has nobody to tell.
        let _ = self
            .make
            .make_writer_for(metadata)
            .write_all(text.as_bytes());
    }
}

/// One log line. hclog's keys come first; a field of the same name as one of them would replace it
/// and is renamed.
fn line(level: Level, target: &str, mut fields: Map<String, Value>, now: jiff::Timestamp) -> Value {
    let message = fields.shift_remove("message").unwrap_or_default();
    let mut line = Map::new();
    line.insert("@level".to_owned(), level_name(level).into());
    line.insert(
        "@message".to_owned(),
        message.as_str().unwrap_or_default().into(),
    );
    line.insert("@module".to_owned(), target.replace("::", ".").into());
    line.insert("@timestamp".to_owned(), format!("{now:.6}").into());
    for (key, value) in fields {
        let key = if line.contains_key(&key) {
            format!("_{key}")
        } else {
            key
        };
        line.insert(key, value);
    }
    line.into()
}

/// hclog's word for a level, in the lower case that its JSON carries.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.put(field, text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `log` writes, with the timestamp checked and taken out.
    fn logged(log: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::registry().with(HclogLayer::new(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let line = |line: &str| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            let time = value
                .as_object_mut()
                .unwrap()
                .shift_remove("@timestamp")
                .unwrap();
            let time = time.as_str().unwrap();
            assert!(
                time.parse::<jiff::Timestamp>().is_ok()
                    && time.len() == "2026-11-21T08:00:00.000000Z".len(),
                "{time}"
            );
            value
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn an_event_is_one_line_with_its_fields_flat() {
        let lines = logged(
            || tracing::warn!(target: "milo_driver::task", pid = 7, up = true, name = %"web", "gone"),
        );
        let expected = json!({
            "@level": "warn", "@message": "gone", "@module": "milo_driver.task", "pid": 7, "up": true, "name": "web",
        });
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn fields_of_spans_come_along_and_the_inner_one_wins() {
        let lines = logged(|| {
            let outer = tracing::info_span!("outer", id = 1, alloc = "a").entered();
            let inner =
                tracing::info_span!("inner", id = 2, late = tracing::field::Empty).entered();
            inner.record("late", "yes");
            tracing::info!("x");
            drop((inner, outer));
        });
        assert_eq!(lines[0]["id"], 2);
        assert_eq!(
            (&lines[0]["alloc"], &lines[0]["late"]),
            (&json!("a"), &json!("yes"))
        );
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let cause = std::io::Error::other("disk full");
        let error = anyhow::Error::from(cause).context("cannot save");
        let lines = logged(|| tracing::error!(error = &*error as &dyn std::error::Error, "oh"));
        assert_eq!(lines[0]["error"], "cannot save: disk full");
    }

    #[test]
    fn keys_come_in_hclogs_order_and_none_is_taken_over() {
        let fields = Map::from_iter([
            ("message".to_owned(), json!("m")),
            ("@level".to_owned(), json!("x")),
        ]);
        let text = line(
            Level::DEBUG,
            "a::b",
            fields,
            "2026-11-21T08:00:00.5Z".parse().unwrap(),
        )
        .to_string();
        assert_eq!(
            text,
            r#"{"@level":"debug","@message":"m","@module":"a.b","@timestamp":"2026-11-21T08:00:00.500000Z","_@level":"x"}"#
        );
    }
}
