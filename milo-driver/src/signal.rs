//! Signals by their names, in the ways in which people, Nomad jobs and `kill` write them. What a signal leads to is not
//! decided here.

use std::fmt::Write as _;

/// Names without `SIG`, and their numbers. The first name of a number is the one that [`name`] gives.
const NAMES: [(&str, i32); 34] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// The highest signal that Linux has.
const LAST: i32 = 64;

/// A text that names no signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown signal `{0}` (use a name such as SIGTERM, SIGINT, SIGHUP or SIGRTMIN+3, or a number from 1 to 64)"
)]
pub struct SignalError(pub String);

/// The number of a signal: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
pub fn parse(name: &str) -> Result<i32, SignalError> {
    let asked = name.trim().to_ascii_uppercase();
    let bare = asked.strip_prefix("SIG").unwrap_or(&asked);
    number(&asked)
        .or_else(|| named(bare))
        .or_else(|| real_time(bare))
        .filter(|number| (1..=LAST).contains(number))
        .ok_or_else(|| SignalError(name.to_owned()))
}

/// The name of a signal as [`parse`] reads it: `SIGTERM`, `SIGRTMIN+3`; the number itself where it has no name.
pub fn name(number: i32) -> String {
    let mut text = String::from("SIG");
    if let Some((name, _)) = NAMES.iter().find(|(_, known)| *known == number) {
        text.push_str(name);
        return text;
    }
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    // Writing to a string cannot fail.
    let _ = match number {
        _ if number == first => write!(text, "RTMIN"),
        _ if number == last => write!(text, "RTMAX"),
        _ if (first..=last).contains(&number) => write!(text, "RTMIN+{}", number - first),
        _ => return number.to_string(),
    };
    text
}

/// Digits only: `i32::from_str` would also take `+9`.
fn number(text: &str) -> Option<i32> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok()).flatten()
}

fn named(bare: &str) -> Option<i32> {
    let (_, number) = NAMES.iter().find(|(name, _)| *name == bare)?;
    Some(*number)
}

/// Signals that have no names of their own. The C library keeps the first few of the kernel's for itself, so the
/// beginning is asked for, as `kill` does.
fn real_time(bare: &str) -> Option<i32> {
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let found = match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
        (Some(""), _) => first,
        (_, Some("")) => last,
        (Some(rest), _) => first.checked_add(number(rest.strip_prefix('+')?)?)?,
        (_, Some(rest)) => last.checked_sub(number(rest.strip_prefix('-')?)?)?,
        (None, None) => return None,
    };
    (first..=last).contains(&found).then_some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_signal_is_known_by_name_short_name_and_number_in_any_case() {
        for text in ["SIGTERM", "TERM", "sigterm", "Term", "15", " SIGTERM "] {
            assert_eq!(parse(text), Ok(libc::SIGTERM), "{text}");
        }
    }

    #[test]
    fn real_time_signals_count_from_both_ends() {
        assert_eq!(parse("SIGRTMIN"), Ok(libc::SIGRTMIN()));
        assert_eq!(parse("rtmin+3"), Ok(libc::SIGRTMIN() + 3));
        assert_eq!(parse("SIGRTMAX-2"), Ok(libc::SIGRTMAX() - 2));
        assert_eq!(name(libc::SIGRTMIN() + 3), "SIGRTMIN+3");
    }

    #[test]
    fn what_is_no_signal_is_refused_with_its_text() {
        for text in [
            "",
            "SIG",
            "0",
            "65",
            "-9",
            "+9",
            "SIGSIGTERM",
            "SIG15",
            "RTMIN+99",
            "RTMIN-1",
            "RTMAX+1",
            "99999999999",
            "KILLALL",
        ] {
            assert_eq!(parse(text), Err(SignalError(text.to_owned())), "{text}");
        }
        assert!(parse("HUPP").unwrap_err().to_string().contains("`HUPP`"));
    }

    #[test]
    fn every_number_survives_its_name() {
        for number in 1..=LAST {
            assert_eq!(parse(&name(number)), Ok(number), "{}", name(number));
        }
    }

    #[test]
    fn aliases_have_one_name_to_be_shown() {
        assert_eq!(name(libc::SIGABRT), "SIGABRT");
        assert_eq!(name(libc::SIGCHLD), "SIGCHLD");
        assert_eq!(name(libc::SIGIO), "SIGIO");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "\\PC*") {
            if let Ok(number) = parse(&text) {
                prop_assert!((1..=LAST).contains(&number));
            }
        }
    }
}
