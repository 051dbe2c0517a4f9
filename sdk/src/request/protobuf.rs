//! Walks the fields of a protobuf message without decoding them.

use super::NotUnderstood;

/// One field: its number and its value.
pub(super) type Field<'a> = (u32, Value<'a>);

/// A value on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// An integer, boolean or enum.
    Varint(u64),
    /// Bytes, text, a sub-message or packed numbers.
    Bytes(&'a [u8]),
    /// Eight bytes of fixed width, little-endian.
    Fixed64([u8; 8]),
    /// Four bytes of fixed width, which no field that matters has.
    Fixed32,
}

/// The fields of a message, in their order on the wire. The first malformed one ends the walk.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

// === impl Value ===

impl<'a> Value<'a> {
    /// The bytes of a length-delimited value.
    pub(super) fn bytes(self) -> Result<&'a [u8], NotUnderstood> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed64(_) | Self::Fixed32 => Err(NotUnderstood),
        }
    }

    /// The fields of a sub-message.
    pub(super) fn message(self) -> Result<Fields<'a>, NotUnderstood> {
        self.bytes().map(Fields)
    }

    /// Text, which must be UTF-8.
    pub(super) fn text(self) -> Result<&'a str, NotUnderstood> {
        std::str::from_utf8(self.bytes()?).map_err(|_| NotUnderstood)
    }

    /// An integer.
    pub(super) fn varint(self) -> Result<u64, NotUnderstood> {
        match self {
            Self::Varint(number) => Ok(number),
            Self::Bytes(_) | Self::Fixed64(_) | Self::Fixed32 => Err(NotUnderstood),
        }
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// The fields of `message`.
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The last field of this number; protobuf lets later values replace earlier ones.
    pub(super) fn last(self, number: u32) -> Result<Option<Value<'a>>, NotUnderstood> {
        let mut last = None;
        for field in self {
            let (found, value) = field?;
            if found == number {
                last = Some(value);
            }
        }
        Ok(last)
    }

    /// The next field, with all its bytes on the wire.
    pub(super) fn next_raw(&mut self) -> Option<(Result<Field<'a>, NotUnderstood>, &'a [u8])> {
        let before = self.0;
        let field = self.next()?;
        Some((field, &before[..before.len() - self.0.len()]))
    }

    // A call for each field would take as long as the walk itself.
    #[inline(always)]
    fn field(&mut self) -> Option<Field<'a>> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|&number| number != 0)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                let (eight, rest) = self.0.split_first_chunk()?;
                self.0 = rest;
                Value::Fixed64(*eight)
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed32)?,
            _ => return None,
        };
        Some((number, value))
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        // Nearly all of them, and nearly all lengths of vectors.
        let (number, rest) = match self.0 {
            [byte @ ..0x80, rest @ ..] => (u64::from(*byte), rest),
            [low, high @ ..0x80, rest @ ..] => (u64::from(low & 0x7f) | u64::from(*high) << 7, rest),
            _ => return self.long_varint(),
        };
        self.0 = rest;
        Some(number)
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for (i, &byte) in self.0.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                // The tenth byte holds the one bit that is left.
                let fits = i < 9 || byte <= 1;
                self.0 = &self.0[i + 1..];
                return fits.then_some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, NotUnderstood>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or(NotUnderstood);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(message: &[u8]) -> Result<Vec<Field<'_>>, NotUnderstood> {
        Fields::of(message).collect()
    }

    #[test]
    fn fields_of_every_kind() {
        let message =
            [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8];
        let expected = [
            (1, Value::Varint(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Fixed32),
            (4, Value::Fixed64([1, 2, 3, 4, 5, 6, 7, 8])),
        ];
        assert_eq!(walk(&message), Ok(expected.to_vec()));
        let max = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(walk(&max), Ok(vec![(1, Value::Varint(u64::MAX))]));
    }

    #[test]
    fn malformed_messages_end_the_walk() {
        for message in [
            &[0x08][..],                                                      // no value
            &[0x12, 0x05, b'h', b'i'],                                        // shorter than its length
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], // a length that lies
            &[0x00, 0x01],                                                    // field number zero
            &[0x0b],                                                          // a group
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], // beyond 64 bits
            &[0x80; 11],                                                      // a varint without an end
            &[0x1d, 1, 2],                                                    // half a fixed32
        ] {
            assert_eq!(walk(message), Err(NotUnderstood), "{message:?}");
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        let dice = crate::dice::Dice::seeded(11);
        for _ in 0..20_000 {
            let message: Vec<u8> = (0..dice.throw() % 24).map(|_| dice.throw() as u8).collect();
            let _ = walk(&message);
        }
    }
}
