//! Values as a configuration spells them: durations, sizes, modes, networks, origins and lists of these. Each says what
//! is wrong with a text, and what to write instead. Which key wants which is `file`'s.

use std::{fmt, marker::PhantomData, net::IpAddr, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use runyard_common::http::server::Listen;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

use super::Endpoint;
use crate::{
    driver::CgroupParent,
    duration::{DurationError, GoDuration},
    quote::go_quote,
    size,
};

/// Parts a reason from its way out in the text of an error: serde carries errors as one text. No keyboard types it.
const SEPARATOR: char = '\u{1f}';

/// Why a value is refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    reason: String,
    way_out: &'static str,
}

impl Refusal {
    pub(super) fn new(reason: impl Into<String>, way_out: &'static str) -> Self {
        Self {
            reason: reason.into(),
            way_out,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SEPARATOR}{}", self.reason, self.way_out)
    }
}

/// Takes the text of an error apart: what is wrong, and the way out if a [`Refusal`] gave one.
pub(super) fn way_out(message: &str) -> (&str, Option<&str>) {
    message
        .split_once(SEPARATOR)
        .map_or((message, None), |(reason, way_out)| (reason, Some(way_out)))
}

/// A value that is written as one text.
pub(super) trait Spelled: Sized {
    /// What to call it where something else than a text or number is found.
    const WANTED: &'static str;

    /// Reads it.
    fn parse(text: &str) -> Result<Self, Refusal>;
}

/// Reads a [`Spelled`] value out of a text or a number.
struct Text<T>(PhantomData<T>);

impl<T: Spelled> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WANTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

/// `any` takes the value of a number, which JSON files may hold; `str` its spelling in YAML (`0600`, `off`).
macro_rules! spelled {
    ($($method:ident: $($type:ty),+;)*) => {
        $($(impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.$method(Text::<Self>(PhantomData))
            }
        })+)*
    };
}

spelled! {
    deserialize_any: Delay, Span, Size, Endpoint;
    deserialize_str: Mode, Network, WebOrigin, Cgroups;
}

// === Durations ===

const DURATION: &str = "a duration such as 500ms, 5s or 1m30s";
const WRITE_DURATION: &str =
    "write a number with a unit (ns, us, ms, s, m, h), such as 500ms, 5s or 1m30s";

/// A duration of a retry policy: as Go reads it, empty or negative ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Delay(pub(super) GoDuration);

impl Spelled for Delay {
    const WANTED: &'static str = DURATION;

    fn parse(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        text.parse().map(Self).map_err(refused_duration)
    }
}

/// A duration that is not negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl Spelled for Span {
    const WANTED: &'static str = DURATION;

    fn parse(text: &str) -> Result<Self, Refusal> {
        let duration: GoDuration = text.trim().parse().map_err(refused_duration)?;
        if duration < GoDuration::ZERO {
            return Err(Refusal::new(
                format!("duration {} is negative", go_quote(text)),
                WRITE_DURATION,
            ));
        }
        Ok(Self(duration.as_std()))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&GoDuration::from_std(self.0))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a function for map_err")]
fn refused_duration(error: DurationError) -> Refusal {
    Refusal::new(error.to_string(), WRITE_DURATION)
}

// === Sizes and modes ===

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl Size {
    /// The size in memory; what no memory can hold is capped.
    pub(super) fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl From<usize> for Size {
    fn from(bytes: usize) -> Self {
        Self(bytes as u64)
    }
}

impl Spelled for Size {
    const WANTED: &'static str = "a size such as 4096, 64KiB or 1.5GiB";

    fn parse(text: &str) -> Result<Self, Refusal> {
        let refused = |reason| {
            Refusal::new(
                reason,
                "the suffixes are KiB, MiB, GiB and TiB, powers of 1024",
            )
        };
        size::parse(text).map(Self).map_err(refused)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let unit = units
            .into_iter()
            .find(|(_, shift)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((name, shift)) => {
                serializer.collect_str(&format_args!("{}{name}", self.0 >> shift))
            }
            None => serializer.serialize_u64(self.0),
        }
    }
}

/// Permissions of a file, in octal however they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode(pub(super) u32);

impl Spelled for Mode {
    const WANTED: &'static str = "octal permissions such as \"0660\"";

    fn parse(text: &str) -> Result<Self, Refusal> {
        let digits = text.trim();
        let digits = digits.strip_prefix("0o").unwrap_or(digits);
        let octal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let mode = octal
            .then(|| u32::from_str_radix(digits, 8).ok())
            .flatten()
            .filter(|mode| *mode <= 0o777);
        mode.map(Self).ok_or_else(|| {
            let reason = format!("{} is no octal number from 0 to 0777", go_quote(text));
            Refusal::new(
                reason,
                "write 0600 for the owner alone, 0660 for the group too, 0666 for everybody",
            )
        })
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

// === Addresses and origins ===

impl Spelled for Endpoint {
    const WANTED: &'static str = "an address such as 127.0.0.1:8080, :8080, unix:/path or stdio";

    fn parse(text: &str) -> Result<Self, Refusal> {
        if text.trim().eq_ignore_ascii_case("stdio") {
            return Ok(Self::Stdio);
        }
        let refused = |error: <Listen as std::str::FromStr>::Err| {
            Refusal::new(
                error.to_string(),
                "or write stdio, or several addresses as a list",
            )
        };
        text.parse().map(Self::Socket).map_err(refused)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Stdio => serializer.serialize_str("stdio"),
            Self::Socket(listen) => listen.serialize(serializer),
        }
    }
}

/// A network, or an address as the network that holds just it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network(pub(super) IpNet);

impl Spelled for Network {
    const WANTED: &'static str = "a network such as 10.0.0.0/8 or an address such as 192.0.2.7";

    fn parse(text: &str) -> Result<Self, Refusal> {
        let network = text
            .parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network.map(|network| Self(canonical(network.trunc()))).ok_or_else(|| {
            let reason = format!("invalid CIDR or IP {}: invalid CIDR address: {text}", go_quote(text));
            let way_out = "write networks such as 10.0.0.0/8 or addresses such as 192.0.2.7; an empty list trusts \
                           loopback and the networks of this machine's interfaces";
            Refusal::new(reason, way_out)
        })
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// The IPv4 network that an IPv4-mapped IPv6 one stands for: peers are compared by their IPv4 address.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else {
        return network;
    };
    let mapped = v6
        .addr()
        .to_ipv4_mapped()
        .zip(v6.prefix_len().checked_sub(96));
    mapped
        .and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .map_or(network, IpNet::V4)
}

/// The origin of a web page, or `*` for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct WebOrigin(pub(super) String);

impl WebOrigin {
    pub(super) fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

impl Spelled for WebOrigin {
    const WANTED: &'static str = "an origin such as https://example.org";

    fn parse(text: &str) -> Result<Self, Refusal> {
        let origin = text.trim().trim_end_matches('/');
        let (scheme, host) = origin.split_once("://").unwrap_or_default();
        let fits = !scheme.is_empty()
            && !host.is_empty()
            && !host.contains(|c: char| c == '/' || c.is_whitespace());
        if fits || matches!(origin, "*" | "null") {
            return Ok(Self(origin.to_owned()));
        }
        let reason = format!("{} is no origin of a web page", go_quote(text));
        Err(Refusal::new(
            reason,
            "write scheme://host[:port], such as https://example.org, or \"*\" for every page",
        ))
    }
}

// === cgroups ===

/// Where cgroups of tasks are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cgroups(pub(super) CgroupParent);

impl Spelled for Cgroups {
    const WANTED: &'static str = "auto, off, or the path of a cgroup";

    fn parse(text: &str) -> Result<Self, Refusal> {
        let parent = match text {
            "" | "auto" => CgroupParent::Auto,
            // YAML's other words for `off` come spelled as they were written.
            "off" | "Off" | "OFF" | "no" | "false" => CgroupParent::Off,
            path if path.starts_with('/') => CgroupParent::Path(path.into()),
            other => {
                let reason = format!(
                    "{} is neither auto, off nor an absolute path",
                    go_quote(other)
                );
                return Err(Refusal::new(
                    reason,
                    "write a path such as /sys/fs/cgroup/overseer",
                ));
            }
        };
        Ok(Self(parent))
    }
}

impl Serialize for Cgroups {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            CgroupParent::Auto => serializer.serialize_str("auto"),
            CgroupParent::Off => serializer.serialize_str("off"),
            CgroupParent::Path(path) => path.serialize(serializer),
        }
    }
}

// === Lists ===

/// A list, or a text with commas in it. An empty text is an empty list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl Spelled for String {
    const WANTED: &'static str = "a text";

    fn parse(text: &str) -> Result<Self, Refusal> {
        Ok(text.to_owned())
    }
}

impl<'de, T: Spelled + Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Items(PhantomData))
    }
}

struct Items<T>(PhantomData<T>);

impl<'de, T: Spelled + Deserialize<'de>> Visitor<'de> for Items<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list, or {}", T::WANTED)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(List(list))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<List<T>, E> {
        let words = text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        words
            .map(T::parse)
            .collect::<Result<_, _>>()
            .map(List)
            .map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<List<T>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<List<T>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<List<T>, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal<T: Spelled + fmt::Debug>(text: &str) -> String {
        T::parse(text).unwrap_err().reason
    }

    fn network(text: &str) -> String {
        Network::parse(text).unwrap().0.to_string()
    }

    #[test]
    fn delays_are_those_of_go() {
        assert_eq!(
            Delay::parse("1m30s"),
            Ok(Delay(GoDuration::from_std(Duration::from_secs(90))))
        );
        assert_eq!(Delay::parse("-1s").unwrap().0.to_string(), "-1s");
        assert_eq!(
            (Delay::parse(""), Delay::parse("0")),
            (Ok(Delay::default()), Ok(Delay::default()))
        );
        assert_eq!(
            refusal::<Delay>("5"),
            "time: missing unit in duration \"5\""
        );
        assert_eq!(
            refusal::<Delay>("5d"),
            "time: unknown unit \"d\" in duration \"5d\""
        );
    }

    #[test]
    fn spans_are_not_negative() {
        assert_eq!(Span::parse(" 250ms "), Ok(Span(Duration::from_millis(250))));
        assert_eq!(Span::parse("0"), Ok(Span(Duration::ZERO)));
        assert_eq!(refusal::<Span>("-1s"), "duration \"-1s\" is negative");
        assert_eq!(refusal::<Span>(""), "time: invalid duration \"\"");
    }

    #[test]
    fn modes_are_octal_however_they_are_written() {
        for text in ["0660", "660", "0o660"] {
            assert_eq!(Mode::parse(text), Ok(Mode(0o660)), "{text}");
        }
        for text in ["0888", "1777", "rw", "+600", "", "-1"] {
            assert!(
                refusal::<Mode>(text).contains("is no octal number"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_address_is_a_network_of_one() {
        assert_eq!(
            [network("192.0.2.7"), network("::1")],
            ["192.0.2.7/32", "::1/128"]
        );
        assert_eq!(network("10.1.2.3/8"), "10.0.0.0/8");
        assert_eq!(
            [network("::ffff:10.0.0.0/104"), network("::ffff:10.0.0.1")],
            ["10.0.0.0/8", "10.0.0.1/32"]
        );
        assert_eq!(
            refusal::<Network>("x"),
            "invalid CIDR or IP \"x\": invalid CIDR address: x"
        );
        assert_eq!(
            refusal::<Network>("10.0.0.0/33"),
            "invalid CIDR or IP \"10.0.0.0/33\": invalid CIDR address: 10.0.0.0/33"
        );
    }

    #[test]
    fn origins_have_a_scheme_and_a_host() {
        assert_eq!(
            WebOrigin::parse("https://example.org:8443/").unwrap().0,
            "https://example.org:8443"
        );
        assert!(WebOrigin::parse("*").unwrap().is_any());
        for text in [
            "example.org",
            "https://",
            "://x",
            "https://a/b",
            "https://a b",
        ] {
            assert!(
                refusal::<WebOrigin>(text).contains("is no origin"),
                "{text}"
            );
        }
    }

    #[test]
    fn endpoints_are_sockets_or_standard_streams() {
        assert_eq!(Endpoint::parse("StdIO"), Ok(Endpoint::Stdio));
        assert_eq!(Endpoint::parse("8080"), Endpoint::parse(":8080"));
        assert_eq!(
            Endpoint::parse("./x"),
            Ok(Endpoint::Socket(Listen::Unix { path: "./x".into() }))
        );
        assert!(refusal::<Endpoint>("here").starts_with("`here` is no address to listen on"));
    }

    #[test]
    fn a_cgroup_is_auto_off_or_absolute() {
        assert_eq!(Cgroups::parse("off").unwrap().0, CgroupParent::Off);
        assert_eq!(
            Cgroups::parse("/sys/fs/cgroup/x").unwrap().0,
            CgroupParent::Path("/sys/fs/cgroup/x".into())
        );
        assert_eq!(
            refusal::<Cgroups>("x"),
            "\"x\" is neither auto, off nor an absolute path"
        );
    }

    #[test]
    fn a_refusal_is_taken_apart_into_reason_and_way_out() {
        let text = Span::parse("5").unwrap_err().to_string();
        assert_eq!(
            way_out(&text),
            ("time: missing unit in duration \"5\"", Some(WRITE_DURATION))
        );
        assert_eq!(way_out("expected a list"), ("expected a list", None));
    }

    proptest! {
        #[test]
        fn what_is_shown_of_a_size_reads_back(bytes: u64, shift in 0..64u32) {
            let size = Size(bytes >> shift);
            let shown = match serde_json::to_value(size).unwrap() {
                serde_json::Value::String(text) => text,
                number => number.to_string(),
            };
            prop_assert_eq!(Size::parse(&shown), Ok(size));
        }

        #[test]
        fn what_is_shown_of_a_mode_reads_back(mode in 0..=0o777u32) {
            let shown = serde_json::to_value(Mode(mode)).unwrap();
            prop_assert_eq!(Mode::parse(shown.as_str().unwrap()), Ok(Mode(mode)));
        }
    }
}
