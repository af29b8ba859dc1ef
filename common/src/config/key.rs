//! Names of configuration values: dotted keys such as `task_pool.limit`, and patterns over them.

use std::fmt;

/// The way from the root to a value: map keys and list positions, in the order they are entered.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Vec<String>);

impl Key {
    /// Splits a dotted key as code writes it; it cannot name a segment that holds a dot itself.
    pub(super) fn parse(dotted: &str) -> Self {
        Self(dotted.split('.').map(str::to_owned).collect())
    }

    /// This key with one more segment.
    pub(super) fn join(&self, segment: impl fmt::Display) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment.to_string());
        Self(segments)
    }

    pub(super) fn segments(&self) -> &[String] {
        &self.0
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            if segment.is_empty()
                || segment.contains(|c: char| c == '.' || c == '"' || c.is_whitespace())
            {
                write!(f, "{segment:?}")?;
            } else {
                f.write_str(segment)?;
            }
        }
        Ok(())
    }
}

/// The values that must not be shown, as dotted patterns in which `*` stands for any one segment.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets(Vec<Key>);

impl Secrets {
    pub(super) fn add(&mut self, patterns: &[&str]) {
        self.0
            .extend(patterns.iter().map(|pattern| Key::parse(pattern)));
    }

    /// Whether a value must not be shown: a pattern names it, or something that contains it.
    ///
    /// `file` and `env` right below a secret are where a [`crate::secret::SecretSource`] says the
    /// secret is; that is no secret itself.
    pub(super) fn cover(&self, key: &Key) -> bool {
        self.0.iter().any(|pattern| {
            let (pattern, segments) = (pattern.segments(), key.segments());
            let within = pattern.len() <= segments.len()
                && pattern
                    .iter()
                    .zip(segments)
                    .all(|(wanted, segment)| wanted == "*" || wanted == segment);
            let below = segments.get(pattern.len()..).unwrap_or_default();
            within && !matches!(below, [source] if source == "file" || source == "env")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_with_dots_are_quoted() {
        let key = Key::parse("actions")
            .join("build v1.2")
            .join(0)
            .join("type");
        assert_eq!(key.to_string(), r#"actions."build v1.2".0.type"#);
    }

    #[test]
    fn a_pattern_covers_what_it_names_and_what_lies_below() {
        let mut secrets = Secrets::default();
        secrets.add(&["auth.token", "users.*.password"]);
        let covered = |dotted| secrets.cover(&Key::parse(dotted));
        assert!(covered("auth.token"));
        assert!(covered("auth.token.value"));
        assert!(covered("users.0.password"));
        assert!(!covered("auth"));
        assert!(!covered("auth.user"));
        assert!(!covered("users.password"));
    }

    #[test]
    fn where_a_secret_is_kept_is_no_secret() {
        let mut secrets = Secrets::default();
        secrets.add(&["token"]);
        assert!(!secrets.cover(&Key::parse("token.file")));
        assert!(!secrets.cover(&Key::parse("token.env")));
    }
}
