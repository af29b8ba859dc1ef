//! Spellings that clap does not know: sticky-overseer's flags, which are Go's long flags with one dash.

use std::ffi::OsString;

/// Flags of sticky-overseer, without dashes.
const LONG_FLAGS: [&str; 4] = ["config", "list-handlers", "version", "help"];

/// The arguments with `-config FILE`, `-config=FILE`, `-list-handlers`, `-version` and `-help` written with two dashes.
/// What follows `--` is left alone.
pub(super) fn conventional(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut verbatim = false;
    let rewrite = |arg: OsString| {
        verbatim |= arg == "--";
        if !verbatim && is_long_flag(&arg) {
            let mut flag = OsString::from("-");
            flag.push(arg);
            return flag;
        }
        arg
    };
    args.into_iter().map(rewrite).collect()
}

fn is_long_flag(arg: &OsString) -> bool {
    let Some(flag) = arg.to_str().and_then(|arg| arg.strip_prefix('-')) else {
        return false;
    };
    let name = flag.split('=').next().unwrap_or_default();
    LONG_FLAGS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> String {
        let words = conventional(line.split(' ').map(OsString::from));
        words
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn the_flags_of_the_original_work_with_one_dash() {
        assert_eq!(
            rewritten("o serve -config f.yaml"),
            "o serve --config f.yaml"
        );
        assert_eq!(
            rewritten("o serve -config=f.yaml"),
            "o serve --config=f.yaml"
        );
        assert_eq!(rewritten("o -version"), "o --version");
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for line in [
            "o list -o json",
            "o serve --config x -c y",
            "o run a -- -version",
            "o start a k=-help",
        ] {
            assert_eq!(rewritten(line), line);
        }
    }
}
