//! The name that a mistyped one was probably meant to be.

/// The known name nearest to `wrong`, if one is near enough to be a typing error: a third of its
/// letters, at least one.
pub(super) fn nearest<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).max(1);
    let near = known
        .into_iter()
        .map(|name| (distance(&fold(wrong), &fold(name)), name));
    near.filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Letter case and the choice between `-` and `_` are no typing errors worth counting.
fn fold(name: &str) -> Vec<char> {
    name.chars()
        .flat_map(char::to_lowercase)
        .map(|letter| if letter == '-' { '_' } else { letter })
        .collect()
}

/// How many letters must be added, removed, replaced or swapped with their neighbour (optimal
/// string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_word() {
        let known = ["listen", "log_file", "retry"];
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("Listen", known), Some("listen"));
        assert_eq!(nearest("log-file", known), Some("log_file"));
        assert_eq!(nearest("rerty", known), Some("retry"));
    }

    #[test]
    fn another_word_finds_nothing() {
        assert_eq!(nearest("colour", ["listen", "db"]), None);
        assert_eq!(nearest("db", ["id", "ok"]), None);
    }

    #[test]
    fn the_distance_counts_single_edits() {
        let count = |a: &str, b: &str| distance(&fold(a), &fold(b));
        assert_eq!(
            [
                count("", "abc"),
                count("abc", "abc"),
                count("abcd", "acbd"),
                count("kitten", "sitting")
            ],
            [3, 0, 1, 3]
        );
    }
}
