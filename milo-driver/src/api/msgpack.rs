//! Options as they arrive: a map in msgpack, as cty writes it. The shape is read here; what an option means is not.
//!
//! Every option of the schema is there, nil if it was not given; whole numbers come as integers and others as floats,
//! whatever the schema calls them; options of another version of the schema may come too, and are left alone.

use std::collections::BTreeMap;

use rmpv::Value;

/// Why options cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OptionsError {
    /// These bytes are no msgpack.
    #[error("the options cannot be read: {0}")]
    Encoding(String),
    /// This is msgpack, but no map.
    #[error("the options are {0}, not a block")]
    NoBlock(String),
    /// One option is of another type.
    #[error("option `{option}` is {got}, but should be {expected}")]
    Type {
        /// Its name.
        option: String,
        /// What it is.
        got: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// A block of options.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    values: BTreeMap<String, Value>,
}

impl Options {
    /// Reads the bytes of a block. None at all, and nil, are an empty block.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, OptionsError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let value = rmpv::decode::read_value(&mut bytes)
            .map_err(|error| OptionsError::Encoding(error.to_string()))?;
        match value {
            Value::Nil => Ok(Self::default()),
            Value::Map(members) => Ok(Self::of(members)),
            other => Err(OptionsError::NoBlock(other.to_string())),
        }
    }

    fn of(members: Vec<(Value, Value)>) -> Self {
        let values = members
            .into_iter()
            .filter(|(_, value)| !value.is_nil())
            .filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value)))
            .collect();
        Self { values }
    }

    /// Whether an option was given.
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A string; an empty one is none.
    pub fn text(&self, name: &str) -> Result<Option<String>, OptionsError> {
        let text = self.read(name, "a string", |value| value.as_str().map(str::to_owned))?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// A string that may be empty.
    pub fn any_text(&self, name: &str) -> Result<Option<String>, OptionsError> {
        self.read(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// `true` or `false`.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, OptionsError> {
        self.read(name, "true or false", Value::as_bool)
    }

    /// A number.
    pub fn number(&self, name: &str) -> Result<Option<f64>, OptionsError> {
        self.read(name, "a number", Value::as_f64)
    }

    /// A whole number, also one that arrives as a float.
    pub fn whole(&self, name: &str) -> Result<Option<i64>, OptionsError> {
        self.read(name, "a whole number", |value| match value {
            Value::F64(_) | Value::F32(_) => value.as_f64().and_then(exactly),
            _ => value.as_i64(),
        })
    }

    /// A list of strings; an absent one is empty.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, OptionsError> {
        let list = self.read(name, "a list of strings", |value| {
            let texts = value
                .as_array()?
                .iter()
                .map(|one| Some(one.as_str()?.to_owned()));
            texts.collect::<Option<Vec<_>>>()
        })?;
        Ok(list.unwrap_or_default())
    }

    /// A map of strings, also one that arrives as a list of maps; an absent one is empty.
    pub fn map(&self, name: &str) -> Result<BTreeMap<String, String>, OptionsError> {
        let map = self.read(name, "a block of strings", |value| match value {
            Value::Array(maps) => {
                let maps: Option<Vec<_>> = maps.iter().map(strings).collect();
                Some(maps?.into_iter().flatten().collect())
            }
            one => strings(one),
        })?;
        Ok(map.unwrap_or_default())
    }

    /// One block; an absent one is empty.
    pub fn block(&self, name: &str) -> Result<Self, OptionsError> {
        let block = self.read(name, "a block", |value| {
            Some(Self::of(value.as_map()?.clone()))
        })?;
        Ok(block.unwrap_or_default())
    }

    /// Blocks of one name; absent ones are none.
    pub fn blocks(&self, name: &str) -> Result<Vec<Self>, OptionsError> {
        let blocks = self.read(name, "a list of blocks", |value| {
            let blocks = value.as_array()?.iter();
            blocks
                .map(|one| Some(Self::of(one.as_map()?.clone())))
                .collect::<Option<Vec<_>>>()
        })?;
        Ok(blocks.unwrap_or_default())
    }

    fn read<T>(
        &self,
        name: &str,
        expected: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, OptionsError> {
        let Some(value) = self.values.get(name) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| OptionsError::Type {
            option: name.to_owned(),
            got: value.to_string(),
            expected,
        })
    }
}

fn strings(value: &Value) -> Option<BTreeMap<String, String>> {
    let members = value.as_map()?.iter().filter(|(_, value)| !value.is_nil());
    members
        .map(|(key, value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned())))
        .collect()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "checked to be whole and in range"
)]
fn exactly(number: f64) -> Option<i64> {
    let fits = number.fract() == 0.0 && number.abs() < 9e18;
    fits.then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(members: Vec<(&str, Value)>) -> Options {
        let map = members
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect();
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &Value::Map(map)).unwrap();
        Options::decode(&bytes).unwrap()
    }

    #[test]
    fn nil_is_not_given() {
        let options = options(vec![("a", Value::Nil), ("b", "x".into())]);
        assert_eq!(options.text("a"), Ok(None));
        assert_eq!(options.texts("a"), Ok(Vec::new()));
        assert_eq!(options.blocks("a"), Ok(Vec::new()));
        assert_eq!(options.text("b"), Ok(Some("x".to_owned())));
        assert_eq!(Options::decode(&[]), Ok(Options::default()));
        assert_eq!(Options::decode(&[0xc0]), Ok(Options::default()));
    }

    #[test]
    fn a_number_may_be_whole_or_not() {
        let options = options(vec![
            ("i", 75.into()),
            ("n", (-3).into()),
            ("f", 72.5.into()),
            ("w", 8.0.into()),
        ]);
        assert_eq!(options.number("i"), Ok(Some(75.0)));
        assert_eq!(options.number("f"), Ok(Some(72.5)));
        assert_eq!(options.whole("n"), Ok(Some(-3)));
        assert_eq!(options.whole("w"), Ok(Some(8)));
        let error = options.whole("f").unwrap_err();
        assert_eq!(
            error.to_string(),
            "option `f` is 72.5, but should be a whole number"
        );
    }

    #[test]
    fn a_map_may_come_in_a_list() {
        let map = |key: &str, value: &str| Value::Map(vec![(key.into(), value.into())]);
        let options = options(vec![
            ("one", map("nofile", "1024")),
            ("list", Value::Array(vec![map("a", "1"), map("b", "2")])),
        ]);
        assert_eq!(options.map("one").unwrap()["nofile"], "1024");
        assert_eq!(options.map("list").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_block_is_refused() {
        assert!(matches!(
            Options::decode(&[0x07]),
            Err(OptionsError::NoBlock(_))
        ));
        assert!(matches!(
            Options::decode(&[0xd9]),
            Err(OptionsError::Encoding(_))
        ));
    }
}
