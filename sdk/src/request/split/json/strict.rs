//! Checks JSON as strictly as whoever reads it.
//!
//! What serde_json skips may be what it would refuse to read: a number out of range, half of a surrogate pair, a text
//! that nests too deep.

use std::fmt;

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::super::super::NotUnderstood;

/// serde_json reads 127 levels; a payload lies three deep, and a margin does no harm.
const MAX_DEPTH: u8 = 100;

/// Whether all of `value` is JSON that can be read.
pub(super) fn check(value: &[u8]) -> Result<(), NotUnderstood> {
    let mut deserializer = serde_json::Deserializer::from_slice(value);
    let checked = Levels(MAX_DEPTH).deserialize(&mut deserializer);
    checked.and_then(|()| deserializer.end()).map_err(|_| NotUnderstood)
}

/// A value of so many levels at the most, read and dropped.
#[derive(Clone, Copy)]
struct Levels(u8);

impl Levels {
    fn below<E: de::Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Levels {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Levels {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let below = self.below()?;
        while list.next_element_seed(below)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let below = self.below()?;
        while map.next_key_seed(below)?.is_some() {
            map.next_value_seed(below)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_passes_and_nothing_else() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for json in
            [r#"{"a":[1,-2,0.5e3,true,null,"\ud83d\ude00"],"b":{}}"#, " 7 ", &nested(usize::from(MAX_DEPTH))]
        {
            assert_eq!(check(json.as_bytes()), Ok(()), "{json}");
        }
        for json in [
            "",
            "nil",
            "[1,]",
            r#"{"a":1e999}"#,
            r#"{"a":"\ud800"}"#,
            "{\"a\":\"\n\"}",
            "1 2",
            r#"{"\ud800":1}"#,
            &nested(usize::from(MAX_DEPTH) + 1),
        ] {
            assert_eq!(check(json.as_bytes()), Err(NotUnderstood), "{json}");
        }
    }
}
