//! Reads the few fields that a benchmark needs out of a server message, by searching instead of parsing. That is sound
//! because a quote inside a JSON string is always escaped: `"seq":` with bare quotes can only be a key.

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    Output,
    Started,
    Exited,
    Subscribed,
    Tasks,
    Error,
    Other,
}

/// What follows `{"type":"` in the messages that a benchmark looks at.
const NAMES: [(&[u8], Kind); 6] = [
    (b"output\"", Kind::Output),
    (b"started\"", Kind::Started),
    (b"exited\"", Kind::Exited),
    (b"subscribed\"", Kind::Subscribed),
    (b"tasks\"", Kind::Tasks),
    (b"error\"", Kind::Error),
];

/// One message of the server: a JSON object as bytes.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Event<'a>(&'a [u8]);

impl<'a> Event<'a> {
    /// Wraps a message's bytes, without a line feed at the end.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The whole message.
    pub(in super::super) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The message's type.
    #[inline]
    pub(in super::super) fn kind(self) -> Kind {
        // The type comes first in all messages of the protocol as both daemons write it.
        let name = match self.0.strip_prefix(br#"{"type":""#) {
            Some(rest) => rest,
            None => self.after(br#""type":""#).unwrap_or_default(),
        };
        NAMES
            .iter()
            .find(|(text, _)| name.starts_with(text))
            .map_or(Kind::Other, |(_, kind)| *kind)
    }

    /// The sequence number of an output line.
    #[inline]
    pub(in super::super) fn seq(self) -> Option<u64> {
        const KEY: &[u8] = br#""seq":"#;
        // The number is the last field; looking from the end avoids walking over a long line.
        let body = self.0.strip_suffix(b"}")?;
        let digits = body
            .iter()
            .rev()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (head, tail) = body.split_at(body.len() - digits);
        if head.ends_with(KEY) {
            number(tail)
        } else {
            number(self.after(KEY)?)
        }
    }

    /// The number that an output line begins with.
    pub(in super::super) fn leading_number(self) -> Option<u64> {
        number(self.after(br#""data":""#)?)
    }

    /// The task that the message is about.
    pub(in super::super) fn task_id(self) -> Option<&'a str> {
        self.text(br#""task_id":""#)
    }

    /// The text of an error, up to the first escaped character.
    pub(in super::super) fn error_text(self) -> &'a str {
        self.text(br#""message":""#).unwrap_or("no text")
    }

    /// How many task rows the message holds.
    pub(in super::super) fn task_rows(self) -> usize {
        let key = br#""task_id":""#;
        self.0
            .windows(key.len())
            .filter(|window| window == key)
            .count()
    }

    fn text(self, key: &[u8]) -> Option<&'a str> {
        let rest = self.after(key)?;
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    fn after(self, key: &[u8]) -> Option<&'a [u8]> {
        let at = self.0.windows(key.len()).position(|window| window == key)?;
        Some(&self.0[at + key.len()..])
    }
}

/// The decimal number at the start of `bytes`; `None` without a digit or beyond 64 bits.
#[inline]
fn number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if digits == 0 {
        return None;
    }
    bytes[..digits].iter().try_fold(0_u64, |sum, byte| {
        sum.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event<'_> {
        Event::new(text.as_bytes())
    }

    const OUTPUT: &str = r#"{"type":"output","task_id":"d","pid":17874,"stream":"stdout","data":"12ab","ts":"2026-11-21T03:26:25.92Z","seq":401}"#;

    #[test]
    fn an_output_line_gives_its_fields() {
        let event = event(OUTPUT);
        assert_eq!(event.kind(), Kind::Output);
        assert_eq!(event.seq(), Some(401));
        assert_eq!(event.task_id(), Some("d"));
        assert_eq!(event.leading_number(), Some(12));
    }

    #[test]
    fn keys_inside_the_data_are_not_taken_for_keys() {
        let event = event(r#"{"type":"output","data":",\"seq\":7,\"type\":\"exited\"","seq":3}"#);
        assert_eq!((event.kind(), event.seq()), (Kind::Output, Some(3)));
    }

    #[test]
    fn other_key_orders_are_read_too() {
        let event = event(r#"{"seq":12,"data":"x","type":"output","extra":{"n":5}}"#);
        assert_eq!((event.kind(), event.seq()), (Kind::Output, Some(12)));
    }

    #[test]
    fn a_message_without_a_number_has_none() {
        assert_eq!(event(r#"{"type":"exited","exit_code":0}"#).seq(), None);
        assert_eq!(event(r#"{"type":"output","seq":"x"}"#).seq(), None);
        assert_eq!(
            event(r#"{"type":"output","seq":99999999999999999999}"#).seq(),
            None
        );
        assert_eq!(event("").seq(), None);
    }

    #[test]
    fn types_that_begin_alike_are_told_apart() {
        assert_eq!(
            event(r#"{"type":"errored","task_id":"a"}"#).kind(),
            Kind::Other
        );
        assert_eq!(
            event(r#"{"type":"error","message":"no"}"#).kind(),
            Kind::Error
        );
        assert_eq!(event(r#"{"type":"unsubscribed"}"#).kind(), Kind::Other);
    }

    #[test]
    fn rows_of_a_list_are_counted() {
        let list = r#"{"type":"tasks","id":"1","tasks":[{"task_id":"a"},{"task_id":"b"}]}"#;
        assert_eq!(event(list).task_rows(), 2);
    }

    #[test]
    fn error_texts_stop_at_the_first_escape() {
        assert_eq!(
            event(r#"{"type":"error","id":"1","message":"task not found"}"#).error_text(),
            "task not found"
        );
        assert_eq!(
            event(r#"{"type":"error","message":"unknown action: \"x\""}"#).error_text(),
            "unknown action: "
        );
    }
}
