//! Cutting protobuf.

use std::ops::Range;

use super::super::{
    NotUnderstood,
    grpc::{Location, point_id},
    protobuf::{Fields, Value},
};
use crate::{dice::mix, topology::PointId};

/// The payload of a `PointStruct`. A `PointVectors` has no such field.
const PAYLOAD: u32 = 3;

/// Values within values of a payload. Qdrant's decoder refuses more than about thirty.
const MAX_LEVELS: usize = 16;

/// Where the points lie in a message.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    location: Location,
    /// All fields but the points.
    rest: Vec<Range<usize>>,
    /// Per point, its whole field: in the message itself, or in the list of ids within the selector.
    points: Vec<Range<usize>>,
}

/// The ids of the points at `location`, and where everything lies.
pub(super) fn cut(message: &[u8], location: Location) -> Result<(Vec<PointId>, Cut), NotUnderstood> {
    let mut cut = Cut { location, rest: Vec::new(), points: Vec::new() };
    let mut ids = Vec::new();
    let (Location::Structs { field: number, .. } | Location::Selector(number)) = location;
    let mut shape = None;
    let mut fields = Fields::of(message);
    while let Some((field, raw)) = fields.next_raw() {
        let (found, value) = field?;
        if found != number {
            cut.rest.push(span(message, raw));
            continue;
        }
        match location {
            Location::Structs { vectors, .. } => {
                // One walk finds both, and the last of each counts.
                let (mut id, mut of_this) = (None, None);
                for field in value.message()? {
                    match field? {
                        (1, value) => id = Some(value),
                        (number, value) if number == vectors => of_this = Some(value),
                        (PAYLOAD, entry) => check_entry(entry, MAX_LEVELS)?,
                        _ => return Err(NotUnderstood),
                    }
                }
                ids.push(point_id(id.ok_or(NotUnderstood)?)?);
                cut.points.push(span(message, raw));
                let of_this = of_this.map(self::shape).transpose()?;
                if *shape.get_or_insert(of_this) != of_this {
                    return Err(NotUnderstood);
                }
            }
            Location::Selector(_) => {
                // A repeated selector would have to be merged, a filter cannot be dealt out.
                if !ids.is_empty() {
                    return Err(NotUnderstood);
                }
                for field in value.message()? {
                    let (1, list) = field? else { return Err(NotUnderstood) };
                    let mut list = list.message()?;
                    while let Some((field, raw)) = list.next_raw() {
                        let (1, id) = field? else { return Err(NotUnderstood) };
                        ids.push(point_id(id)?);
                        cut.points.push(span(message, raw));
                    }
                }
            }
        }
    }
    Ok((ids, cut))
}

/// What the names and lengths of all dense vectors of a point come to. Two points of one shape are
/// either both right for a collection or both wrong.
///
/// Sparse and multi-vectors, and what a model is to turn into vectors, have no shape of this kind.
fn shape(vectors: Value<'_>) -> Result<u64, NotUnderstood> {
    let mut shape: u64 = 0;
    for field in vectors.message()? {
        shape = match field? {
            // Vector
            (1, vector) => shape.wrapping_add(mix(dense_bytes(vector)?)),
            // NamedVectors { map<string, Vector> vectors = 1 }, in any order
            (2, named) => {
                let mut sum = shape;
                for entry in named.message()? {
                    let (1, entry) = entry? else { return Err(NotUnderstood) };
                    let entry = entry.message()?;
                    let name = entry.clone().last(1)?.map_or(Ok(&[][..]), Value::bytes)?;
                    let bytes = dense_bytes(entry.last(2)?.ok_or(NotUnderstood)?)?;
                    let name = name.iter().fold(0, |hash, &byte| mix(hash ^ u64::from(byte)));
                    sum = sum.wrapping_add(mix(name ^ mix(bytes)));
                }
                sum
            }
            _ => return Err(NotUnderstood),
        };
    }
    Ok(shape)
}

/// `Vector { data = 1 | dense = 101: DenseVector { data = 1 } }`, packed floats
fn dense_bytes(vector: Value<'_>) -> Result<u64, NotUnderstood> {
    let mut bytes = 0;
    for field in vector.message()? {
        bytes += match field? {
            (1, data) => data.bytes()?.len() as u64,
            (101, dense) => dense.message()?.last(1)?.map_or(Ok(&[][..]), Value::bytes)?.len() as u64,
            _ => return Err(NotUnderstood),
        };
    }
    Ok(bytes)
}

/// Looks through an entry of `map<string, Value>`. A payload that Qdrant refuses in one point must not be taken in the others.
fn check_entry(entry: Value<'_>, levels: usize) -> Result<(), NotUnderstood> {
    for field in entry.message()? {
        match field? {
            (1, key) => drop(key.text()?),
            (2, value) => check_value(value, levels)?,
            _ => return Err(NotUnderstood),
        }
    }
    Ok(())
}

/// `Value { null = 1 | double = 2 | integer = 3 | string = 4 | bool = 5 | struct = 6: Struct { map<string, Value> fields = 1 } |
/// list = 7: ListValue { repeated Value values = 1 } }`. A double that JSON has no number for is refused.
fn check_value(value: Value<'_>, levels: usize) -> Result<(), NotUnderstood> {
    let inside = levels.checked_sub(1).ok_or(NotUnderstood)?;
    for field in value.message()? {
        match field? {
            (1 | 3 | 5, Value::Varint(_)) => {}
            (2, Value::Fixed64(double)) if f64::from_le_bytes(double).is_finite() => {}
            (4, text) => drop(text.text()?),
            (6, fields) => each(fields, |entry| check_entry(entry, inside))?,
            (7, list) => each(list, |value| check_value(value, inside))?,
            _ => return Err(NotUnderstood),
        }
    }
    Ok(())
}

/// Has `check` look at each element of a message that has nothing but those, as field 1.
fn each(
    message: Value<'_>,
    check: impl Fn(Value<'_>) -> Result<(), NotUnderstood>,
) -> Result<(), NotUnderstood> {
    message.message()?.try_for_each(|field| match field? {
        (1, element) => check(element),
        _ => Err(NotUnderstood),
    })
}

/// Appends the message with only those points that `keeps` names.
pub(super) fn write_part(part: &mut Vec<u8>, cut: &Cut, message: &[u8], keeps: impl Fn(usize) -> bool) {
    cut.rest.iter().for_each(|field| part.extend_from_slice(&message[field.clone()]));
    let kept =
        || cut.points.iter().enumerate().filter(|&(i, _)| keeps(i)).map(|(_, point)| &message[point.clone()]);
    match cut.location {
        Location::Structs { .. } => kept().for_each(|point| part.extend_from_slice(point)),
        Location::Selector(number) => {
            let list: usize = kept().map(<[u8]>::len).sum();
            let selector = 1 + varint_length(list) + list;
            write_key(part, number, selector);
            write_key(part, 1, list);
            kept().for_each(|id| part.extend_from_slice(id));
        }
    }
}

/// The key of a length-delimited field, and its length.
fn write_key(out: &mut Vec<u8>, number: u32, length: usize) {
    write_varint(out, (number as usize) << 3 | 2);
    write_varint(out, length);
}

fn write_varint(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint_length(mut number: usize) -> usize {
    let mut length = 1;
    while number >= 0x80 {
        number >>= 7;
        length += 1;
    }
    length
}

/// Where `inner` lies in `outer`, of which it must be a part.
fn span(outer: &[u8], inner: &[u8]) -> Range<usize> {
    let start = inner.as_ptr() as usize - outer.as_ptr() as usize;
    start..start + inner.len()
}
