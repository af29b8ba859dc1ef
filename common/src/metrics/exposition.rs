//! The text format itself: help, type and samples, with escaping.

use std::fmt::{self, Write};

use super::{Histogram, Snapshot};

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text of metrics, being written.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    text: String,
}

/// The samples of one metric, being written.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

/// A sample's number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A whole number.
    Whole(i128),
    /// A decimal one.
    Decimal(f64),
}

impl Exposition {
    /// An empty text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a number that only grows; its name should end in `_total`.
    pub fn counter<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, help, "counter")
    }

    /// Begins a number that goes up and down.
    pub fn gauge<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, help, "gauge")
    }

    /// Begins a spread over buckets.
    pub fn histogram<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, help, "histogram")
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.text
    }

    fn family<'a>(&'a mut self, name: &'a str, help: &str, kind: &str) -> Family<'a> {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.text.extend([
            "# HELP ",
            name,
            " ",
            &help,
            "\n# TYPE ",
            name,
            " ",
            kind,
            "\n",
        ]);
        Family {
            text: &mut self.text,
            name,
        }
    }
}

impl Family<'_> {
    /// Writes one sample, and returns for the next.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Number>) -> &mut Self {
        self.line("", labels.iter().copied(), value.into());
        self
    }

    /// Writes the samples of one histogram, and returns for the next.
    pub fn observed(&mut self, labels: &[(&str, &str)], histogram: &Histogram) -> &mut Self {
        let Snapshot {
            buckets,
            sum,
            count,
        } = histogram.snapshot();
        for (bound, count) in buckets {
            let bound = Number::Decimal(bound).to_string();
            self.line(
                "_bucket",
                labels.iter().copied().chain([("le", bound.as_str())]),
                count.into(),
            );
        }
        self.line("_sum", labels.iter().copied(), sum.into());
        self.line("_count", labels.iter().copied(), count.into());
        self
    }

    fn line<'l>(
        &mut self,
        suffix: &str,
        labels: impl Iterator<Item = (&'l str, &'l str)>,
        value: Number,
    ) {
        self.text.extend([self.name, suffix]);
        let mut opened = false;
        for (label, value) in labels {
            self.text
                .extend([if opened { "," } else { "{" }, label, "=\""]);
            self.text.extend(value.chars().map(Escaped));
            self.text.push('"');
            opened = true;
        }
        if opened {
            self.text.push('}');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, " {value}");
    }
}

/// A character of a label's value as the format wants it.
struct Escaped(char);

impl Extend<Escaped> for String {
    fn extend<I: IntoIterator<Item = Escaped>>(&mut self, characters: I) {
        for Escaped(character) in characters {
            match character {
                '\\' => self.push_str("\\\\"),
                '"' => self.push_str("\\\""),
                '\n' => self.push_str("\\n"),
                other => self.push(other),
            }
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Decimal(value) if value.is_nan() => f.write_str("NaN"),
            Self::Decimal(value) if *value == f64::INFINITY => f.write_str("+Inf"),
            Self::Decimal(value) if *value == f64::NEG_INFINITY => f.write_str("-Inf"),
            Self::Decimal(value) => value.fmt(f),
        }
    }
}

macro_rules! whole {
    ($($kind:ty)*) => {$(
        impl From<$kind> for Number {
            fn from(value: $kind) -> Self {
                Self::Whole(value.into())
            }
        }
    )*};
}

whole!(u8 u16 u32 u64 i32 i64 bool);

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Whole(i128::try_from(value).unwrap_or(i128::MAX))
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Decimal(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_formats() {
        let mut text = Exposition::new();
        text.counter("http_requests_total", "Requests,\nanswered.")
            .sample(&[("method", "post"), ("code", "200")], 1027_u64)
            .sample(&[("method", "a\\b\"c\nd")], 3_u64);
        text.gauge("up", "Whether it is up.").sample(&[], true);
        let seconds = Histogram::new(&[0.05, 0.1]);
        seconds.observe(0.07);
        seconds.observe(1.0);
        text.histogram("seconds", "Time.")
            .observed(&[("verb", "x")], &seconds);
        assert_eq!(
            text.finish(),
            "# HELP http_requests_total Requests,\\nanswered.\n\
             # TYPE http_requests_total counter\n\
             http_requests_total{method=\"post\",code=\"200\"} 1027\n\
             http_requests_total{method=\"a\\\\b\\\"c\\nd\"} 3\n\
             # HELP up Whether it is up.\n\
             # TYPE up gauge\n\
             up 1\n\
             # HELP seconds Time.\n\
             # TYPE seconds histogram\n\
             seconds_bucket{verb=\"x\",le=\"0.05\"} 0\n\
             seconds_bucket{verb=\"x\",le=\"0.1\"} 1\n\
             seconds_bucket{verb=\"x\",le=\"+Inf\"} 2\n\
             seconds_sum{verb=\"x\"} 1.07\n\
             seconds_count{verb=\"x\"} 2\n"
        );
    }

    #[test]
    fn numbers_that_are_none_have_their_own_words() {
        let words = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY]
            .map(|value| Number::from(value).to_string());
        assert_eq!(words, ["NaN", "+Inf", "-Inf"]);
    }
}
