//! Cutting JSON.

use std::{collections::HashMap, ops::Range};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    super::{
        NotUnderstood,
        json::{Layout, PointRef},
    },
    span,
};
use crate::topology::PointId;

/// A list in the body with one element per point.
#[derive(Clone, Debug)]
pub(super) struct List {
    /// From the beginning of its first element to the end of its last.
    inside: Range<usize>,
    elements: Vec<Range<usize>>,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow, default)]
    points: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    batch: Option<Columns<'a>>,
}

/// The columnar form of an upsert: ids, vectors and payloads side by side.
#[derive(Deserialize)]
struct Columns<'a> {
    #[serde(borrow)]
    ids: Vec<&'a RawValue>,
    #[serde(borrow)]
    vectors: &'a RawValue,
    #[serde(borrow, default)]
    payloads: Option<Vec<&'a RawValue>>,
}

/// The ids, and every list that has an element per point, in the order of the body.
pub(super) fn cut(layout: Layout, body: &[u8]) -> Result<(Vec<PointId>, Vec<List>), NotUnderstood> {
    match layout {
        Layout::Points | Layout::Selector | Layout::VectorSelector => {}
        Layout::Nothing
        | Layout::Key
        | Layout::Retrieve
        | Layout::Searches
        | Layout::Operations
        | Layout::Location => {
            return Err(NotUnderstood);
        }
    }
    let document: Document<'_> = serde_json::from_slice(body).map_err(|_| NotUnderstood)?;
    match (document.points, document.batch) {
        (Some(points), None) => {
            let ids = match layout {
                Layout::Points => structs(&points)?,
                _ => points.iter().map(|id| Ok(parse::<PointRef>(id)?.0)).collect::<Result<_, _>>()?,
            };
            Ok((ids, vec![List::of(body, &points)]))
        }
        (None, Some(columns)) if layout == Layout::Points => {
            let ids: Vec<PointRef> = columns.ids.iter().map(|id| parse(id)).collect::<Result<_, _>>()?;
            let mut lists = vectors(body, columns.vectors)?;
            lists.push(List::of(body, &columns.ids));
            if let Some(payloads) = columns.payloads {
                lists.push(List::of(body, &payloads));
            }
            if lists.iter().any(|list| list.elements.len() != ids.len()) {
                return Err(NotUnderstood);
            }
            lists.sort_by_key(|list| list.inside.start);
            Ok((ids.into_iter().map(|id| id.0).collect(), lists))
        }
        _ => Err(NotUnderstood),
    }
}

/// The ids of points, which must be alike.
fn structs(points: &[&RawValue]) -> Result<Vec<PointId>, NotUnderstood> {
    let points: Vec<Point<'_>> = points.iter().map(|point| parse(point)).collect::<Result<_, _>>()?;
    points.iter().map(|point| point.payload).try_for_each(check_payload)?;
    check_shapes(&points.iter().map(|point| point.vector).collect::<Vec<_>>())?;
    Ok(points.into_iter().map(|point| point.id.0).collect())
}

/// `vectors` of the columnar form: one list, or one list for each named vector.
fn vectors(body: &[u8], vectors: &RawValue) -> Result<Vec<List>, NotUnderstood> {
    let column = |list: &RawValue| {
        let elements: Vec<&RawValue> = parse(list)?;
        check_shapes(&elements.iter().copied().map(Some).collect::<Vec<_>>())?;
        Ok(List::of(body, &elements))
    };
    if vectors.get().starts_with('[') {
        return Ok(vec![column(vectors)?]);
    }
    let named: HashMap<String, &RawValue> = parse(vectors)?;
    named.into_values().map(column).collect()
}

/// What must be alike in the points of a request that is dealt out.
#[derive(Deserialize)]
struct Point<'a> {
    id: PointRef,
    #[serde(borrow, default)]
    vector: Option<&'a RawValue>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

fn check_payload(payload: Option<&RawValue>) -> Result<(), NotUnderstood> {
    let is_object = |payload: &RawValue| payload.get().starts_with('{');
    if payload.is_none_or(is_object) { Ok(()) } else { Err(NotUnderstood) }
}

/// Qdrant refuses a request as a whole for one point with a vector that does not fit. In parts, the
/// other parts would be taken. Points whose vectors have the same shape are all right or all wrong.
fn check_shapes(vectors: &[Option<&RawValue>]) -> Result<(), NotUnderstood> {
    let dense = |vector: &Option<&RawValue>| dense_length(vector.map_or("", RawValue::get));
    if let Some(length @ Some(_)) = vectors.first().map(dense)
        && vectors.iter().all(|vector| dense(vector) == length)
    {
        return Ok(());
    }
    let shape = |vector: Option<&'_ RawValue>| shape(vector.map_or("", RawValue::get)).collect::<Vec<u8>>();
    let Some(first) = vectors.first().map(|&vector| shape(vector)) else { return Ok(()) };
    let is_alike = |vector: &&RawValue| self::shape(vector.get()).eq(first.iter().copied());
    let alike = vectors.iter().all(|vector| vector.as_ref().map_or(first.is_empty(), is_alike));
    if alike { Ok(()) } else { Err(NotUnderstood) }
}

/// The length of a vector that is a plain list of numbers.
fn dense_length(vector: &str) -> Option<usize> {
    let inside = vector.strip_prefix('[')?.strip_suffix(']')?;
    let (mut commas, mut is_other) = (0, false);
    for byte in inside.bytes() {
        commas += usize::from(byte == b',');
        // Of the letters, only the exponent's is part of a number; `true` and `null` have others.
        is_other |= matches!(byte, b'[' | b'{' | b'"' | b'a'..=b'd' | b'f'..=b'z');
    }
    (!is_other && !inside.trim_ascii().is_empty()).then_some(commas + 1)
}

/// The text of a vector without its numbers and white space.
fn shape(vector: &str) -> impl Iterator<Item = u8> {
    vector.bytes().filter(|byte| {
        !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E' | b' ' | b'\n' | b'\r' | b'\t')
    })
}

/// The body with only those elements of each list that `keeps` names.
pub(super) fn part(body: &[u8], lists: &[List], keeps: impl Fn(usize) -> bool) -> Bytes {
    let mut part = BytesMut::with_capacity(body.len());
    let mut copied = 0;
    for list in lists {
        part.extend_from_slice(&body[copied..list.inside.start]);
        let kept = list.elements.iter().enumerate().filter(|&(i, _)| keeps(i));
        for (n, (_, element)) in kept.enumerate() {
            if n > 0 {
                part.extend_from_slice(b",");
            }
            part.extend_from_slice(&body[element.clone()]);
        }
        copied = list.inside.end;
    }
    part.extend_from_slice(&body[copied..]);
    part.freeze()
}

impl List {
    fn of(body: &[u8], elements: &[&RawValue]) -> Self {
        let elements: Vec<Range<usize>> =
            elements.iter().map(|element| span(body, element.get().as_bytes())).collect();
        let start = elements.first().map_or(0, |first| first.start);
        let end = elements.last().map_or(0, |last| last.end);
        Self { inside: start..end, elements }
    }
}

fn parse<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Result<T, NotUnderstood> {
    serde_json::from_str(value.get()).map_err(|_| NotUnderstood)
}
