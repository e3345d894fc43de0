//! The keys that a type has at a place, for errors that suggest them.

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// The names of the fields of the struct at this path in `T`, aliases included; empty where there
/// is no struct.
pub(super) fn fields_at<T: de::DeserializeOwned>(path: &[String]) -> Vec<&'static str> {
    match T::deserialize(Probe(path)) {
        Err(Found(fields)) => fields.to_vec(),
        Ok(_) => Vec::new(),
    }
}

/// Follows a path in a type, and fails with the fields of the struct at its end.
struct Probe<'a>(&'a [String]);

/// The fields of a struct; none for any other error.
#[derive(Debug)]
struct Found(&'static [&'static str]);

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Found {}

impl de::Error for Found {
    fn custom<T: std::fmt::Display>(_message: T) -> Found {
        Found(&[])
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Found;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Found> {
        Err(Found(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Found> {
        if self.0.is_empty() { Err(Found(fields)) } else { visitor.visit_map(self) }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        if self.0.is_empty() { Err(Found(&[])) } else { visitor.visit_map(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        if self.0.is_empty() { Err(Found(&[])) } else { visitor.visit_seq(self) }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Found> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Probe<'_> {
    type Error = Found;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Found> {
        let key: de::value::StrDeserializer<'_, Found> =
            de::value::StrDeserializer::new(self.0.first().ok_or(Found(&[]))?);
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Found> {
        seed.deserialize(Probe(&self.0[1..]))
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = Found;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Found> {
        seed.deserialize(Probe(&self.0[1..])).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Whole {
        name: String,
        inner: Option<Vec<Inner>>,
        named: BTreeMap<String, Inner>,
    }

    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Inner {
        #[serde(alias = "harbour")]
        port: u16,
        deep: Deep,
    }

    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Deep(BTreeMap<String, bool>);

    #[test]
    fn the_fields_at_a_place_are_found() {
        for (path, wanted) in [
            (&[][..], &["name", "inner", "named"][..]),
            (&["inner", "3"], &["harbour", "port", "deep"]),
            (&["named", "any"], &["harbour", "port", "deep"]),
            (&["named"], &[]),
            (&["named", "any", "deep"], &[]),
            (&["name", "x"], &[]),
            (&["missing", "x"], &[]),
        ] {
            let path: Vec<String> = path.iter().map(|key| (*key).to_owned()).collect();
            let mut found = fields_at::<Whole>(&path);
            let mut wanted = wanted.to_vec();
            found.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(found, wanted, "{path:?}");
        }
    }
}
