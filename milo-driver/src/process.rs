//! What the kernel tells of a process by its pid, where whether it lives and which one it is matter. What a process uses is
//! [`stats`](crate::stats)'s, and what holds one is [`shim::init`](crate::shim::init)'s.

use std::{fs, io};

/// What is needed of `/proc/<pid>/stat` (proc(5)).
pub(crate) struct Stat {
    /// Its name, of at most 15 bytes.
    pub(crate) name: String,
    /// Whether it has ended and only waits to be collected.
    pub(crate) is_over: bool,
    /// In clock ticks since boot: with the pid, an identity.
    pub(crate) start_time: u64,
    /// Its wait status once it has ended, where whoever reads may know it.
    pub(crate) exit_code: Option<i32>,
}

impl Stat {
    /// Reads it; a process that is gone is an error.
    pub(crate) fn read(pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The name in field 2 is in parentheses and may hold any character; field 3 is the first after the last of them.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after.split_ascii_whitespace().collect();
        Some(Self {
            name: before.split_once('(')?.1.to_owned(),
            is_over: matches!(*fields.first()?, "Z" | "X"),
            start_time: fields.get(22 - 3)?.parse().ok()?,
            exit_code: fields.get(52 - 3).and_then(|code| code.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_no_field() {
        let fields = (4..=52).map(|field| field.to_string()).collect::<Vec<_>>();
        let stat = Stat::parse(&format!("7 (a) Z 1) S {}", fields.join(" "))).unwrap();
        assert!(!stat.is_over);
        assert_eq!(stat.name, "a) Z 1");
        assert_eq!(stat.start_time, 22);
        assert_eq!(stat.exit_code, Some(52));
    }
}
