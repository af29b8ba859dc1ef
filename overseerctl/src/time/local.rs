//! `#[serde(with = "crate::time::local")]`: a [`Timestamp`] written in this machine's zone, read in any.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Timestamp;

/// Writes [`Timestamp::local`].
pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    at.local().serialize(serializer)
}

/// Reads RFC 3339 in any zone.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    Timestamp::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        #[serde(with = "super")]
        at: Timestamp,
    }

    #[test]
    fn a_field_takes_the_local_form_and_comes_back() {
        let row = Row {
            at: Timestamp::now(),
        };
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(text, format!(r#"{{"at":"{}"}}"#, row.at.local()));
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), row);
    }
}
