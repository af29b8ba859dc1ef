//! Lines as they read: without what only a terminal understands.

/// The text without what only a terminal understands.
pub(crate) fn plain(text: &str) -> String {
    let mut rest = text.chars();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut rest),
            '\t' => plain.push(c),
            // What a progress bar overwrites follows on a line of its own for those who read.
            '\r' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain.truncate(plain.trim_end().len());
    plain
}

/// Skips the rest of an escape sequence (ECMA-48): `[…m` and the like, `]…` up to its end, or one character.
fn skip_sequence(rest: &mut std::str::Chars<'_>) {
    match rest.next() {
        Some('[') => {
            rest.find(|c| matches!(c, '\u{40}'..='\u{7e}'));
        }
        Some(']' | 'P' | '_' | '^' | 'X') => {
            while let Some(c) = rest.next() {
                if c == '\u{7}' {
                    return;
                }
                if c == '\u{1b}' {
                    rest.next();
                    return;
                }
            }
        }
        // A character set, of which the name follows.
        Some(' '..='/') => {
            rest.find(|c| !matches!(c, ' '..='/'));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_titles_and_bells_are_no_text() {
        for (text, seen) in [
            ("\u{1b}[1;31merror\u{1b}[0m: no", "error: no"),
            ("\u{1b}]0;title\u{7}make", "make"),
            ("\u{1b}]8;;https://x\u{1b}\\link", "link"),
            ("\u{1b}(Bplain\u{7}", "plain"),
            ("10%\r20%\r", "10% 20%"),
            ("a\tb", "a\tb"),
            ("ends within \u{1b}[3", "ends within"),
            ("grün ✓", "grün ✓"),
        ] {
            assert_eq!(plain(text), seen);
        }
    }
}
