//! Cutting JSON.
//!
//! A part that is taken while another is refused would leave half of a write that Qdrant refuses as a whole. So a body
//! is cut only if all of it is JSON, and its points are alike.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::super::{
    NotUnderstood,
    json::{self, Layout, Scan, once},
};
use crate::topology::PointId;

mod strict;
mod vector;

use self::{strict::check, vector::Shape};

/// A list in the body with one element per point.
#[derive(Clone, Debug)]
pub(super) struct List {
    /// From the beginning of its first element to the end of its last.
    inside: Range<usize>,
    elements: Vec<Range<usize>>,
}

type Result<T> = std::result::Result<T, NotUnderstood>;

/// The ids, and every list that has an element per point, in the order of the body.
pub(super) fn cut(layout: Layout, body: &[u8]) -> Result<(Vec<PointId>, Vec<List>)> {
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
    std::str::from_utf8(body).map_err(|_| NotUnderstood)?;
    let (mut points, mut columns) = (None, None);
    let mut scan = Scan::new(body);
    scan.object(|scan| match scan.any_key()? {
        b"points" | b"batch" if scan.null() => Ok(()),
        b"points" if layout == Layout::Points => once(&mut points, || structs(scan)),
        b"points" => once(&mut points, || ids(scan)),
        b"batch" if layout == Layout::Points => once(&mut columns, || self::columns(scan)),
        _ => check(scan.value()?),
    })?;
    scan.end()?;
    match (points, columns) {
        (Some((ids, list)), None) => Ok((ids, vec![list])),
        (None, Some(columns)) => Ok(columns),
        _ => Err(NotUnderstood),
    }
}

/// A list of ids.
fn ids(scan: &mut Scan<'_>) -> Result<(Vec<PointId>, List)> {
    let mut ids = Vec::new();
    let list = List::take(scan, |id| {
        ids.push(json::id(&mut Scan::new(id))?);
        Ok(())
    })?;
    Ok((ids, list))
}

/// A list of points, which must be alike.
fn structs(scan: &mut Scan<'_>) -> Result<(Vec<PointId>, List)> {
    let (mut ids, mut alike) = (Vec::new(), Alike::default());
    let list = List::take(scan, |point| {
        let (mut id, mut vector, mut payload) = (None, None, None);
        let mut scan = Scan::new(point);
        scan.object(|scan| match scan.any_key()? {
            b"id" => once(&mut id, || json::id(scan)),
            b"vector" => once(&mut vector, || Shape::of(scan.value()?)),
            b"payload" => once(&mut payload, || check_payload(scan.value()?)),
            _ => check(scan.value()?),
        })?;
        scan.end()?;
        ids.push(id.ok_or(NotUnderstood)?);
        alike.add(vector.unwrap_or(Shape::NOTHING))
    })?;
    Ok((ids, list))
}

/// The columnar form of an upsert: ids, vectors and payloads side by side.
fn columns(scan: &mut Scan<'_>) -> Result<(Vec<PointId>, Vec<List>)> {
    let (mut ids, mut vectors, mut payloads) = (None, None, None);
    scan.object(|scan| match scan.any_key()? {
        b"ids" => once(&mut ids, || self::ids(scan)),
        b"vectors" => once(&mut vectors, || self::vectors(scan)),
        b"payloads" if scan.null() => Ok(()),
        b"payloads" => once(&mut payloads, || List::take(scan, check_payload)),
        _ => check(scan.value()?),
    })?;
    let (Some((ids, list)), Some(mut lists)) = (ids, vectors) else { return Err(NotUnderstood) };
    lists.push(list);
    lists.extend(payloads);
    if lists.iter().any(|list| list.elements.len() != ids.len()) {
        return Err(NotUnderstood);
    }
    lists.sort_by_key(|list| list.inside.start);
    Ok((ids, lists))
}

/// `vectors` of the columnar form: one list, or one list for each named vector.
fn vectors(scan: &mut Scan<'_>) -> Result<Vec<List>> {
    let column = |scan: &mut Scan<'_>| {
        let mut alike = Alike::default();
        List::take(scan, |vector| alike.add(Shape::of(vector)?))
    };
    if scan.peek() == Some(b'[') {
        return Ok(vec![column(scan)?]);
    }
    let mut columns = Vec::new();
    scan.object(|scan| {
        scan.any_key()?;
        columns.push(column(scan)?);
        Ok(())
    })?;
    Ok(columns)
}

/// Qdrant refuses a request as a whole for one point with a vector that does not fit. In parts, the
/// other parts would be taken. Points whose vectors have the same shape are all right or all wrong.
#[derive(Debug, Default)]
struct Alike(Option<Shape>);

impl Alike {
    fn add(&mut self, shape: Shape) -> Result<()> {
        match &self.0 {
            Some(first) if *first != shape => return Err(NotUnderstood),
            Some(_) => {}
            None => self.0 = Some(shape),
        }
        Ok(())
    }
}

fn check_payload(payload: &[u8]) -> Result<()> {
    if payload == b"null" || payload.starts_with(b"{") { check(payload) } else { Err(NotUnderstood) }
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
    /// Takes a list, and has `look` look at each of its elements.
    fn take<'a>(scan: &mut Scan<'a>, mut look: impl FnMut(&'a [u8]) -> Result<()>) -> Result<Self> {
        let mut elements = Vec::new();
        scan.array(|scan| {
            let element = scan.value()?;
            look(element)?;
            elements.push(scan.before(element));
            Ok(())
        })?;
        let start = elements.first().map_or(0, |first: &Range<usize>| first.start);
        let end = elements.last().map_or(0, |last| last.end);
        Ok(Self { inside: start..end, elements })
    }
}
