//! `#[serde(with = "crate::time::local_option")]`: like [`super::local`], for a timestamp that may be missing.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Timestamp;

/// Writes [`Timestamp::local`], or `null`.
pub fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(Timestamp::local).serialize(serializer)
}

/// Reads RFC 3339 in any zone, or `null`. Add `#[serde(default)]` for a field that may be absent.
pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    Option::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        #[serde(default, skip_serializing_if = "Option::is_none", with = "super")]
        at: Option<Timestamp>,
    }

    #[test]
    fn a_missing_timestamp_stays_missing() {
        assert_eq!(serde_json::to_string(&Row { at: None }).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<Row>("{}").unwrap(), Row { at: None });
        assert_eq!(
            serde_json::from_str::<Row>(r#"{"at":null}"#).unwrap(),
            Row { at: None }
        );
    }

    #[test]
    fn a_present_one_takes_the_local_form_and_comes_back() {
        let row = Row {
            at: Some(Timestamp::now()),
        };
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), row);
    }
}
