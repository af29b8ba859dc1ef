//! The `release` file in every Java home, which says without starting a JVM what `java -version` would: lines of
//! `KEY="value"` as `os-release(5)` has them, made by the JDK's own build and by vendors.

use std::{collections::BTreeMap, path::Path};

/// What it says, by key.
pub(super) struct Release(BTreeMap<String, String>);

impl Release {
    pub(super) fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.trim().split_once('='));
        let unquoted = |value: &str| value.trim().trim_matches('"').trim().to_owned();
        Self(
            lines
                .map(|(key, value)| (key.trim().to_owned(), unquoted(value)))
                .collect(),
        )
    }

    /// `17.0.15`, `1.8.0_402`.
    pub(super) fn version(&self) -> Option<&str> {
        self.get("JAVA_VERSION")
    }

    /// Who made it, with the product's name where that is another one: `Debian`, `Eclipse Adoptium (Temurin)`.
    pub(super) fn vendor(&self) -> String {
        let maker = self.get("IMPLEMENTOR").unwrap_or("unknown");
        let product = self.get("IMPLEMENTOR_VERSION").map(product);
        match product {
            Some(product) if is_news(product, maker) => format!("{maker} ({product})"),
            _ => maker.to_owned(),
        }
    }

    /// Which virtual machine: `HotSpot`, `OpenJ9`, `GraalVM`. What older builds do not say is read from the library that
    /// they have.
    pub(super) fn vm(&self, home: &Path) -> &'static str {
        let variant = self.get("JVM_VARIANT").unwrap_or_default();
        let has_j9 = || {
            [
                "lib/default",
                "lib/compressedrefs",
                "lib/j9vm",
                "jre/lib/amd64/j9vm",
            ]
            .iter()
            .any(|folder| home.join(folder).join("libjvm.so").exists())
        };
        if self.get("GRAALVM_VERSION").is_some() {
            "GraalVM"
        } else if variant.eq_ignore_ascii_case("openj9") || (variant.is_empty() && has_j9()) {
            "OpenJ9"
        } else {
            "HotSpot"
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// `Temurin-25.0.3+9` and `Zulu17.44+53-CA` begin with the product's name.
fn product(version: &str) -> &str {
    let end = version
        .find(|character: char| !character.is_ascii_alphabetic())
        .unwrap_or(version.len());
    &version[..end]
}

fn is_news(product: &str, maker: &str) -> bool {
    product.len() > 2
        && !maker
            .to_ascii_lowercase()
            .contains(&product.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_file_says_who_made_which_version() {
        let release = Release::parse(
            "IMPLEMENTOR=\"Eclipse Adoptium\"\nIMPLEMENTOR_VERSION=\"Temurin-25.0.3+9\"\nJAVA_VERSION=\"25.0.3\"\nSOURCE=\"\"\n",
        );
        assert_eq!(release.version(), Some("25.0.3"));
        assert_eq!(release.vendor(), "Eclipse Adoptium (Temurin)");
        assert_eq!(release.vm(Path::new("/nowhere")), "HotSpot");
    }

    #[test]
    fn a_product_that_says_nothing_new_is_left_out() {
        let vendor = |maker: &str, product: &str| {
            Release::parse(&format!(
                "IMPLEMENTOR=\"{maker}\"\nIMPLEMENTOR_VERSION=\"{product}\""
            ))
            .vendor()
        };
        assert_eq!(
            vendor("Amazon.com Inc.", "Corretto-17.0.8.8.1"),
            "Amazon.com Inc. (Corretto)"
        );
        assert_eq!(
            vendor("Azul Systems, Inc.", "Zulu17.44+53-CA"),
            "Azul Systems, Inc. (Zulu)"
        );
        assert_eq!(vendor("Microsoft", "Microsoft-8035246"), "Microsoft");
        assert_eq!(
            vendor("Red Hat, Inc.", "(Red_Hat-17.0.9.0.9-1)"),
            "Red Hat, Inc."
        );
        assert_eq!(Release::parse("").vendor(), "unknown");
    }

    #[test]
    fn other_machines_are_told_apart() {
        let vm = |text| Release::parse(text).vm(Path::new("/nowhere"));
        assert_eq!(vm("JVM_VARIANT=\"Openj9\""), "OpenJ9");
        assert_eq!(vm("GRAALVM_VERSION=\"23.0\""), "GraalVM");
        assert_eq!(vm("JVM_VARIANT=\"Hotspot\""), "HotSpot");
    }

    #[test]
    fn lines_that_are_no_assignments_are_left_out() {
        let release = Release::parse("#comment\r\n\r\nJAVA_VERSION=\"17\"\r\n===\n");
        assert_eq!(release.version(), Some("17"));
    }
}
