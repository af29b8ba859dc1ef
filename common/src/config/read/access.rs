//! What lies below a place: the items of a list, the entries of a map, the content of a variant.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::super::error::UnknownKey;
use super::super::key::Key;
use super::super::node::{Entry, Kind, Node};
use super::super::suggest;
use super::Reader;
use super::error::Fault;

/// The items of a list.
pub(super) struct Items<'a> {
    reader: Reader<'a>,
    rest: std::slice::Iter<'a, Node>,
    index: usize,
}

impl<'a> Items<'a> {
    pub(super) fn new(reader: Reader<'a>, items: &'a [Node]) -> Self {
        Self {
            reader,
            rest: items.iter(),
            index: 0,
        }
    }
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.rest.next() else {
            return Ok(None);
        };
        let index = self.index;
        self.index += 1;
        self.reader.below(&index.to_string(), node, seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The entries of a map, or of a struct with known fields.
pub(super) struct Entries<'a> {
    reader: Reader<'a>,
    rest: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
    fields: Option<&'static [&'static str]>,
}

impl<'a> Entries<'a> {
    /// The entries of a map, or of a struct if its `fields` are given.
    pub(super) fn new(
        reader: Reader<'a>,
        entries: &'a [Entry],
        fields: Option<&'static [&'static str]>,
    ) -> Self {
        Self {
            reader,
            rest: entries.iter(),
            current: None,
            fields,
        }
    }

    /// Whether a struct does not know the key at all; a map knows every key.
    fn is_unknown(&self, entry: &Entry) -> bool {
        self.fields
            .is_some_and(|fields| !fields.contains(&entry.name.as_str()))
    }

    fn note_unknown(&self, entry: &Entry) {
        let fields = self.fields.unwrap_or_default();
        self.reader
            .unknown
            .borrow_mut()
            .push(unknown_key(self.reader.key, entry, fields));
    }
}

fn unknown_key(above: &Key, entry: &Entry, fields: &[&str]) -> UnknownKey {
    UnknownKey {
        key: above.join(&entry.name).to_string(),
        origin: entry.origin.clone(),
        suggestion: suggest::nearest(&entry.name, fields.iter().copied()).map(str::to_owned),
        known: fields.iter().map(|field| (*field).to_owned()).collect(),
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        while let Some(entry) = self.rest.next() {
            if self.is_unknown(entry) {
                self.note_unknown(entry);
            } else if self.fields.is_none() || entry.node.kind != Kind::Null {
                self.current = Some(entry);
                let name = Node::new(Kind::Text(entry.name.clone()), entry.origin.clone());
                return self.reader.below(&entry.name, &name, seed).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let entry = self
            .current
            .take()
            .ok_or_else(|| Fault::custom("a value was asked for before its key"))?;
        self.reader.below(&entry.name, &entry.node, seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// An enum's variant with its content: a map of one entry.
pub(super) struct Variant<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) entry: &'a Entry,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name: StrDeserializer<'_, Fault> = self.entry.name.as_str().into_deserializer();
        seed.deserialize(name).map(|variant| (variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.entry.node.kind {
            Kind::Null => Ok(()),
            _ => Err(Fault::custom(format_args!(
                "`{}` takes no content",
                self.entry.name
            ))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        self.reader.below(&self.entry.name, &self.entry.node, seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.newtype_variant_seed(Content {
            visitor,
            fields: None,
        })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.newtype_variant_seed(Content {
            visitor,
            fields: Some(fields),
        })
    }
}

/// The content of a tuple or struct variant, as a seed so that faults in it get their place.
struct Content<V> {
    visitor: V,
    fields: Option<&'static [&'static str]>,
}

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Content<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        match self.fields {
            Some(fields) => deserializer.deserialize_struct("", fields, self.visitor),
            None => deserializer.deserialize_seq(self.visitor),
        }
    }
}
