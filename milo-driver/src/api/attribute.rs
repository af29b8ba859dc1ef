//! A fingerprint in an agent's words.

use crate::{
    fingerprint::{Fingerprint, HEALTHY, Value},
    proto::{
        drivers::{FingerprintResponse, fingerprint_response::HealthState},
        structs::{Attribute, attribute},
    },
};

/// The message that says it.
pub fn fingerprint(fingerprint: &Fingerprint) -> FingerprintResponse {
    let attributes = fingerprint.attributes.iter();
    let (health, description) = match &fingerprint.unhealthy {
        None => (HealthState::Healthy, HEALTHY),
        Some(reason) => (HealthState::Unhealthy, reason.as_str()),
    };
    FingerprintResponse {
        attributes: attributes
            .map(|(name, value)| (name.clone(), attribute(value)))
            .collect(),
        health: health.into(),
        health_description: description.to_owned(),
        err: String::new(),
    }
}

fn attribute(value: &Value) -> Attribute {
    let value = match value {
        Value::Text(text) => attribute::Value::StringVal(text.clone()),
        Value::Whole(number) => attribute::Value::IntVal(*number),
        Value::Flag(flag) => attribute::Value::BoolVal(*flag),
    };
    Attribute {
        value: Some(value),
        unit: String::new(),
    }
}
